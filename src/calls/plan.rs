//! One call, from its first try to its verdict.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Micros;

use super::endpoints::Endpoints;

/// First pause after all endpoints were asked in vain; doubles up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Longest pause between rounds.
pub const PAUSE_MAX: Duration = Duration::from_millis(500);
/// One try is given at least this long, if the call is.
pub const TRY_MIN: Duration = Duration::from_millis(250);
/// One try is given at most this many tenths of the call's time while there are other endpoints: one that hangs must not
/// eat the time of those that would answer.
const TRY_SHARE_TENTHS: u32 = 4;

/// What keeps the tries of a write from being executed more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Nothing,
    /// An idempotency key.
    Key,
    /// A sequence of a session.
    Sequence,
}

/// What is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing: its outcome is never in doubt.
    Read,
    /// May change something.
    Write(Guard),
}

/// What a refusal says about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// This try did nothing and will do nothing. Of others it says nothing.
    ThisTryDidNothing,
    /// The replicated state refused the request; each of its tries gets, and got, this answer.
    RefusedForGood,
    /// It may have happened, or may still.
    Unknown,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The answer.
    Answer,
    /// A refusal.
    No {
        /// Whether another try may fare better.
        retryable: bool,
        /// What it says about a write.
        word: Word,
        /// Where the leader takes requests, if it was told.
        leader: Option<String>,
    },
    /// Nothing, within the try's limit or because the connection broke.
    Silence {
        /// Whether the request may have reached the node.
        sent: bool,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered.
    Done,
    /// It was refused, and asking again would not help. A write has changed nothing and will not.
    Refused,
    /// Its time is over. A write has changed nothing and will not.
    NotApplied,
    /// A write may have happened, or may still happen, but not more than once.
    Unknown,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send the request, and tell [`Plan::heard`] what came of it.
    Try {
        /// To whom.
        endpoint: String,
        /// After so long without an answer it is [`Heard::Silence`].
        limit: Duration,
    },
    /// Ask again after so long.
    Pause(Duration),
    /// That was it.
    Over(Verdict),
}

/// See the module's head. Invariant: after [`Next::Over`] it stays over, whatever is heard.
#[derive(Debug, Clone)]
pub struct Plan {
    kind: Kind,
    deadline: Micros,
    /// Longest time of one try while there are other endpoints.
    share: Duration,
    /// Whom to ask in this round, in order; `None` before the first round and after each pause.
    round: Option<VecDeque<String>>,
    /// Who was asked in this round.
    asked: Vec<String>,
    leader: Option<String>,
    pause: Duration,
    in_doubt: bool,
    verdict: Option<Verdict>,
}

impl Plan {
    /// Begins at `now`. `timeout` is for all tries together; `wait` is added to it, and to the time of each try: how long
    /// the node was asked to hold the answer back.
    pub fn new(kind: Kind, now: Micros, timeout: Duration, wait: Duration) -> Plan {
        Plan {
            kind,
            deadline: now.after(timeout.saturating_add(wait)),
            share: (timeout * TRY_SHARE_TENTHS / 10).max(TRY_MIN).saturating_add(wait),
            round: None,
            asked: Vec::new(),
            leader: None,
            pause: PAUSE_MIN,
            in_doubt: false,
            verdict: None,
        }
    }

    /// Whether a try may have happened, or may still happen, of which nothing is known.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// What to do now. `entropy` spreads the pauses of many clients.
    pub fn next(&mut self, endpoints: &Endpoints, now: Micros, entropy: u64) -> Next {
        if let Some(verdict) = self.verdict {
            return Next::Over(verdict);
        }
        let left = self.deadline.since(now);
        if left.is_zero() {
            return self.give_up();
        }
        let round = self.round.get_or_insert_with(|| {
            self.asked.clear();
            endpoints.order(self.leader.take().as_deref(), now).into()
        });
        // A leader that was named during the round is asked at once, but each endpoint only once in a round: two nodes
        // that name each other would be asked for ever.
        let asked = &self.asked;
        let named = self.leader.take_if(|leader| !asked.contains(leader));
        let endpoint = named.or_else(|| {
            std::iter::from_fn(|| round.pop_front()).find(|endpoint| !self.asked.contains(endpoint))
        });
        if let Some(endpoint) = endpoint {
            self.asked.push(endpoint.clone());
            let limit = if endpoints.len() > 1 { left.min(self.share) } else { left };
            return Next::Try { endpoint, limit };
        }
        let pause = self.pause;
        if left <= pause {
            return self.give_up();
        }
        self.round = None;
        self.pause = (pause * 2).min(PAUSE_MAX);
        // Between half of it and all of it, so that many clients of a cluster that lost its leader do not come back at
        // once.
        let parts = u32::try_from(entropy % 1_000).expect("below a thousand");
        Next::Pause(pause / 2 + pause / 2 * parts / 1_000)
    }

    /// Takes in what came of the try on `endpoint`.
    pub fn heard(&mut self, endpoints: &mut Endpoints, endpoint: &str, now: Micros, heard: &Heard) {
        match heard {
            Heard::Answer => endpoints.answered(endpoint),
            Heard::No { .. } => endpoints.spoke(endpoint),
            Heard::Silence { .. } => endpoints.silent(endpoint, now),
        }
        if self.verdict.is_some() {
            return;
        }
        match (heard, self.kind) {
            (Heard::Answer, _) => self.verdict = Some(Verdict::Done),
            (Heard::No { retryable: true, word: Word::Unknown, leader }, Kind::Write(guard)) => {
                self.leader.clone_from(leader);
                self.doubt(guard);
            }
            (Heard::No { retryable: true, leader, .. }, _) => self.leader.clone_from(leader),
            (Heard::No { retryable: false, .. }, Kind::Read) => self.verdict = Some(Verdict::Refused),
            (Heard::No { retryable: false, word, .. }, Kind::Write(_)) => {
                let open = match word {
                    Word::RefusedForGood => false,
                    Word::ThisTryDidNothing => self.in_doubt,
                    Word::Unknown => true,
                };
                self.verdict = Some(if open { Verdict::Unknown } else { Verdict::Refused });
            }
            (Heard::Silence { sent: true }, Kind::Write(guard)) => self.doubt(guard),
            (Heard::Silence { .. }, _) => {}
        }
    }

    /// A try may have happened.
    fn doubt(&mut self, guard: Guard) {
        self.in_doubt = true;
        if guard == Guard::Nothing {
            self.verdict = Some(Verdict::Unknown);
        }
    }

    fn give_up(&mut self) -> Next {
        let verdict = if self.in_doubt { Verdict::Unknown } else { Verdict::NotApplied };
        self.verdict = Some(verdict);
        Next::Over(verdict)
    }
}
