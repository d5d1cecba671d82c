//! What is known of one member: its level, its pings under way, its counters of the open interval.

use crate::types::{MemberId, Micros, Version};

use super::histogram::Histogram;
use super::suspicion::Suspicion;
use super::{Level, Row, Target};

/// Pings of one member that may wait for an answer at once. More are only possible when a ping waits for longer than
/// 64 ping periods; then new ones are left out until an old one is judged.
pub(super) const WAITING_MAX: usize = 64;
/// Judged pings that are remembered per member, so that answers that come after all can be told from noise.
pub(super) const JUDGED_MAX: usize = 4;

/// One ping: up to two tries that count, more if the process itself stood still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ping {
    /// Unique in this process; the upper 56 bits of the sequence number of each try.
    pub number: u64,
    /// Tries sent; the try's index is the lowest byte of its sequence number.
    pub tries: u8,
    /// Tries before this one were sent before a stall: an answer to them counts, its round trip does not.
    pub clear_from: u8,
    /// When the tries `clear_from` and `clear_from + 1` were sent.
    pub sent: [Micros; 2],
    /// When the last try is given up; key of the entry in the queue while waiting.
    pub due: Micros,
    pub state: PingState,
    /// A single try for the detector alone: it counts in no interval.
    pub probe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PingState {
    Waiting,
    /// Answered; so many of its tries may still bring an answer of their own, which means nothing.
    Answered {
        echoes: u8,
    },
    /// Given up; so many of its tries may still bring a late answer.
    Missed {
        echoes: u8,
    },
}

impl Ping {
    pub(super) fn new(number: u64, now: Micros, due: Micros) -> Ping {
        Ping { number, tries: 1, clear_from: 0, sent: [now; 2], due, state: PingState::Waiting, probe: false }
    }

    /// The sequence number of the last try.
    pub(super) fn seq(&self) -> u64 {
        self.number << 8 | u64::from(self.tries - 1)
    }

    /// Counts one more try, sent `now`. After a stall the tries before it no longer measure anything. `false` when
    /// the try numbers are used up, which takes 254 stalls during one ping.
    pub(super) fn try_again(&mut self, now: Micros, after_stall: bool) -> bool {
        if self.tries == u8::MAX {
            return false;
        }
        self.tries += 1;
        if after_stall {
            self.clear_from = self.tries - 1;
            self.sent = [now; 2];
        } else {
            self.sent[1] = now;
        }
        true
    }

    /// Whether the second try that counts is out.
    pub(super) fn was_retried(&self) -> bool {
        self.tries - self.clear_from >= 2
    }

    /// The round trip of an answer to `attempt`, unless a stall of our own lies in it.
    pub(super) fn round_trip(&self, attempt: u8, now: Micros) -> Option<u32> {
        let sent = self.sent.get(usize::from(attempt.checked_sub(self.clear_from)?))?;
        Some(u32::try_from(now.since(*sent).as_micros()).unwrap_or(u32::MAX))
    }
}

/// Counters of one interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub answered: u32,
    pub late: u32,
    pub missed: u32,
    pub bad: u32,
    pub unsolicited: u32,
    pub round_trips: Histogram,
}

impl Counters {
    /// The row for a report; `None` when nothing was counted.
    pub(super) fn row(&self, member: &MemberId, version: Option<Version>) -> Option<Row> {
        if *self == Counters::default() {
            return None;
        }
        let times = self.round_trips.summary();
        Some(Row {
            member: member.clone(),
            sent: self.answered.saturating_add(self.missed),
            answered: self.answered,
            late: self.late,
            missed: self.missed,
            bad: self.bad,
            unsolicited: self.unsolicited,
            min_us: times.min,
            p50_us: times.p50,
            p90_us: times.p90,
            max_us: times.max,
            version,
        })
    }
}

/// One member. About 300 bytes, and 4 bytes per distinct round trip of the interval.
#[derive(Debug)]
pub(super) struct Member {
    pub id: MemberId,
    pub target: Target,
    pub level: Level,
    pub suspicion: Suspicion,
    /// The version it stated last.
    pub version: Option<Version>,
    /// Offset of its pings within the ping period, in microseconds.
    pub phase: u64,
    /// When it is pinged next; key of its entry in the queue.
    pub next: Micros,
    /// Oldest first: all that wait, and the last few judged.
    pub pings: Vec<Ping>,
    pub counters: Counters,
}

impl Member {
    pub(super) fn waiting(&self) -> usize {
        self.pings.iter().filter(|ping| ping.state == PingState::Waiting).count()
    }

    /// Drops the oldest judged pings beyond [`JUDGED_MAX`].
    pub(super) fn forget_old(&mut self) {
        let mut judged = self.pings.len() - self.waiting();
        self.pings.retain(|ping| {
            let keep = ping.state == PingState::Waiting || judged <= JUDGED_MAX;
            judged -= usize::from(!keep);
            keep
        });
    }
}
