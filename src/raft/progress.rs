//! What a leader knows of one peer's log, and how it feeds it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::{Index, Micros};

use super::config::Config;
use super::thrift::Awaited;

/// Up to so many bytes in flight, one heartbeat answer that lacks them is proof enough that they were lost. Heartbeats
/// may overtake more than that on the way; then two answers in a row without progress are asked for.
const SURELY_DELIVERED_BYTES_MAX: usize = 64 << 10;

/// How a peer is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flow {
    /// Looking for the place where the logs agree: one append at a time. `unanswered` holds the bytes of the one that
    /// is under way.
    Probe { unanswered: Option<usize> },
    /// The logs agree before `next`: appends are sent without waiting, up to the window. Each in flight is listed by
    /// its last index and its bytes.
    Replicate { in_flight: VecDeque<(Index, usize)>, bytes: usize },
    /// The peer needs entries that are compacted: nothing is sent until the shell reports the end of the transfer.
    /// The log is kept from `pinned` on meanwhile, or the peer would need the next snapshot right away (hazard 35).
    Snapshot { pinned: Index },
}

/// A heartbeat whose answer will tell whether everything sent before it arrived.
#[derive(Debug, Clone, Copy)]
struct Check {
    round: u64,
    next: Index,
}

/// What the leader knows of one peer. Invariant: `matched < next`. `matched` goes back only when the
/// peer turns out to have lost what it acknowledged.
#[derive(Debug)]
pub(super) struct Progress {
    /// The peer's log equals ours, durably, up to here, as far as it has told. Counts for commitment.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// How it is fed.
    pub flow: Flow,
    /// When it was last heard; at first, when the leadership began.
    pub contact: Micros,
    /// Whether it was heard at all in this leadership.
    pub heard: bool,
    /// When something was last sent to it; `None` before anything was.
    pub sent_at: Option<Micros>,
    /// When a heartbeat was last sent to it, or when this leadership of it began.
    asked_at: Micros,
    /// The newest round it has echoed.
    pub round: u64,
    /// Whether it is a good choice for a leader, by its own last word.
    pub fit: bool,
    /// Whether it honours leases, by its own last word.
    pub leases: bool,
    /// Since when its log has been close to the end of ours, without interruption.
    pub caught_up_since: Option<Micros>,
    /// The end of our log at some time, and that time: how far behind the peer is in time.
    goal: (Index, Micros),
    check: Option<Check>,
    /// Of a thrifty leader: the append that it waits for. See `thrift`.
    pub awaited: Option<Awaited>,
    /// Before this place the logs agreed, durably or not, when appends began to be sent without waiting.
    pub agreed: Index,
    /// Whether the last of these that it acknowledged could not hold all that it lacked: the rest follows at once.
    pub behind: bool,
    /// How many such appends in a row were not answered in time.
    pub missed: u32,
    /// The place at which the last check found it short of what had been sent.
    stalled: Option<Index>,
}

impl Progress {
    /// A peer of which nothing is known but the hope that its log ends before `next`.
    pub fn new(next: Index, now: Micros) -> Self {
        Progress {
            matched: Index(0),
            next,
            flow: Flow::Probe { unanswered: None },
            contact: now,
            heard: false,
            sent_at: None,
            asked_at: now,
            round: 0,
            fit: false,
            leases: false,
            caught_up_since: None,
            goal: (Index(next.0 - 1), now),
            check: None,
            awaited: None,
            agreed: Index(0),
            behind: false,
            missed: 0,
            stalled: None,
        }
    }

    /// Anything at all was heard from it.
    pub fn heard(&mut self, now: Micros, round: u64) {
        self.contact = now;
        self.heard = true;
        self.missed = 0;
        self.round = self.round.max(round);
    }

    /// Looks whether the peer keeps up with our log, which ends at `last`: what it has not acknowledged is younger than
    /// `patience` (Raft dissertation, section 4.2.1: rounds of catching up). Under load nobody ever holds the very last
    /// entries. To lack only a few is not enough: a peer whose disk hangs may lack those for ever, while it answers.
    pub fn follow_up(&mut self, last: Index, now: Micros, patience: Duration) {
        let (goal, since) = self.goal;
        let reached = self.matched >= goal;
        if reached {
            self.goal = (last, now);
        }
        let silent = !self.heard || now.since(self.contact) >= patience;
        if silent || !(reached || now.since(since) < patience) {
            self.caught_up_since = None;
        } else if reached {
            self.caught_up_since.get_or_insert(now);
        }
    }

    /// Whether an append may leave now, `last` being the end of our log.
    pub fn may_send(&self, last: Index, config: &Config) -> bool {
        match &self.flow {
            Flow::Probe { unanswered } => unanswered.is_none(),
            Flow::Replicate { in_flight, .. } => {
                self.next <= last && in_flight.len() < config.append_messages_max
            }
            Flow::Snapshot { .. } => false,
        }
    }

    /// An append of `bytes` that ends at `last` left.
    pub fn sent_append(&mut self, last: Index, size: usize, now: Micros) {
        self.sent_at = Some(now);
        match &mut self.flow {
            Flow::Probe { unanswered } => *unanswered = Some(size),
            Flow::Replicate { in_flight, bytes } => {
                in_flight.push_back((last, size));
                *bytes += size;
                self.next = last.next();
            }
            Flow::Snapshot { .. } => unreachable!("may_send forbids appends beside a snapshot"),
        }
    }

    /// When it gets a heartbeat: if nothing else is said to it for so long. Whoever has not said that it is a good choice for a
    /// leader is asked anyway: only an answer to a heartbeat tells, and under steady load there would never be one, so a
    /// learner would never be promoted. A thrifty leader does without.
    pub fn heartbeat_due(&self, config: &Config) -> Micros {
        let quiet = self.sent_at.map_or(Micros(0), |last| last.after(config.heartbeat));
        let unasked = self.asked_at.after(config.heartbeat);
        if self.fit || config.thrift.is_some() { quiet } else { quiet.min(unasked) }
    }

    /// A heartbeat of `round` left.
    pub fn sent_heartbeat(&mut self, round: u64, now: Micros) {
        (self.sent_at, self.asked_at) = (Some(now), now);
        if self.check.is_none() {
            self.check = Some(Check { round, next: self.next });
        }
    }

    /// The peer acknowledged everything up to `matched`. Returns whether that was news.
    pub fn accepted(&mut self, matched: Index) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        self.stalled = None;
        match &mut self.flow {
            Flow::Replicate { in_flight, bytes } => {
                while let Some((_, size)) = in_flight.pop_front_if(|(last, _)| *last <= matched) {
                    *bytes -= size;
                }
                self.next = self.next.max(self.matched.next());
            }
            // An answer to the probe, or to something sent before it that went just as far.
            Flow::Probe { .. } if matched.next() >= self.next => self.replicate_from(matched.next()),
            Flow::Probe { .. } => self.next = self.next.max(self.matched.next()),
            // Not before the transfer has ended: its end is what clears this flow. But a peer that got the entries
            // from elsewhere needs no snapshot.
            Flow::Snapshot { pinned } if matched >= *pinned => self.replicate_from(matched.next()),
            Flow::Snapshot { .. } => self.next = self.next.max(self.matched.next()),
        }
        news
    }

    fn replicate_from(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.agreed = self.next;
        self.flow = Flow::Replicate { in_flight: VecDeque::new(), bytes: 0 };
        self.check = None;
        self.stalled = None;
    }

    /// Goes back to asking, from `next` on or from what is acknowledged.
    pub fn probe_from(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.flow = Flow::Probe { unanswered: None };
        self.check = None;
        self.stalled = None;
    }

    /// Whether a rejection of an append after `previous` is about what we last asked, and not an old story.
    pub fn rejection_is_current(&self, previous: Index) -> bool {
        match &self.flow {
            Flow::Probe { .. } => previous.next() == self.next,
            Flow::Replicate { .. } => previous > self.matched && previous < self.next,
            Flow::Snapshot { .. } => false,
        }
    }

    /// The peer refuses to follow after a place that it once acknowledged: its disk lost the end of the log (a torn
    /// tail is cut, and nobody can tell whether it had been acknowledged). It is fed from where it stands. To count less
    /// than it has is always safe; what is committed stays committed.
    pub fn forget_acknowledged(&mut self) {
        self.matched = Index(0);
    }

    /// The answer to a heartbeat: the peer's log equals ours up to `verified`, durable or not.
    pub fn heartbeat_answered(&mut self, round: u64, verified: Index) {
        let Some(check) = self.check.take_if(|check| round >= check.round) else { return };
        let unsure = match &self.flow {
            Flow::Snapshot { .. } => return,
            Flow::Probe { .. } if verified.next() >= self.next => {
                return self.replicate_from(verified.next());
            }
            Flow::Probe { unanswered: None } => return,
            Flow::Probe { unanswered: Some(bytes) } => *bytes,
            Flow::Replicate { .. } if verified.next() >= check.next => {
                self.stalled = None;
                return;
            }
            Flow::Replicate { bytes, .. } => *bytes,
        };
        if unsure <= SURELY_DELIVERED_BYTES_MAX || self.stalled == Some(verified) {
            let probing = matches!(self.flow, Flow::Probe { .. });
            self.probe_from(if probing { self.next } else { verified.next() });
        } else {
            self.stalled = Some(verified);
        }
    }

    /// The peer needs a snapshot; the log is kept from `pinned` on until it has one.
    pub fn need_snapshot(&mut self, pinned: Index) {
        self.flow = Flow::Snapshot { pinned };
        self.check = None;
        self.stalled = None;
    }

    /// From where on the log must be kept for it, while a snapshot is on its way.
    pub fn pinned(&self) -> Option<Index> {
        match self.flow {
            Flow::Snapshot { pinned } => Some(pinned),
            Flow::Probe { .. } | Flow::Replicate { .. } => None,
        }
    }

    /// The transfer of a snapshot that covers `index` has ended; `None`: it failed.
    pub fn snapshot_ended(&mut self, index: Option<Index>) {
        if !matches!(self.flow, Flow::Snapshot { .. }) {
            return;
        }
        match index {
            Some(index) => self.probe_from(index.next()),
            // The next heartbeat that it answers tries again: no sooner, or a dead peer would keep us busy.
            None => self.flow = Flow::Probe { unanswered: Some(0) },
        }
    }
}
