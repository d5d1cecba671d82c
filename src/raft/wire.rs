//! What consensus nodes say to each other: one variant per message, and the check that every message passes before
//! the core believes a word of it.

use serde::{Deserialize, Serialize};

use crate::types::{Index, Term};

use super::message::{Base, Entry, Payload};

/// Most entries in one [`Body::AppendRequest`]; a message with more is malformed.
pub const APPEND_ENTRIES_MAX: usize = 65_536;

/// Terms, indexes and rounds from here on are malformed, so that counting onwards from an accepted one never overflows.
pub const COUNTER_MAX: u64 = 1 << 62;

/// A place in a log: an index, and the term of the entry there. `(0, 0)` is the place before the first entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The index.
    pub index: Index,
    /// The term of the entry at that index.
    pub term: Term,
}

impl Position {
    /// Whether a log that ends here is at least as up to date as one that ends at `other` (Raft paper, section 5.4.1).
    pub fn is_up_to_date_with(self, other: Position) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }

    fn is_well_formed(self, sender: Term) -> bool {
        self.index.0 < COUNTER_MAX && self.term <= sender && (self.index.0 == 0) == (self.term.0 == 0)
    }
}

impl From<Base> for Position {
    fn from(base: Base) -> Self {
        Position { index: base.index, term: base.term }
    }
}

/// One message. The sender is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's own term, durable on its disk before the message leaves.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a [`Message`] says. Variants may only be appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// "Would you vote for me in the term after mine?" (Raft dissertation, section 9.6.) Changes nothing anywhere.
    PreVoteRequest {
        /// Names the attempt; the answer repeats it. Counted from 1 in each run of the asker.
        attempt: u64,
        /// Where the asker's log ends.
        last: Position,
    },
    /// The answer to [`Body::PreVoteRequest`]. Its term may be lower than the asker's.
    PreVoteResponse {
        /// Of the request.
        attempt: u64,
        /// Whether the answerer would vote for the asker.
        granted: bool,
    },
    /// "Vote for me in my term" (Raft paper, figure 2, RequestVote).
    VoteRequest {
        /// Where the candidate's log ends.
        last: Position,
        /// Whether the leader itself asked the candidate to stand: then loyalty to that leader is no reason to refuse
        /// (Raft dissertation, section 4.2.3).
        transfer: bool,
    },
    /// The answer to [`Body::VoteRequest`], sent once the vote is durable.
    VoteResponse {
        /// Whether the vote is the candidate's.
        granted: bool,
    },
    /// Entries for the log (Raft paper, figure 2, AppendEntries). Without entries: a probe for the place where the logs
    /// agree.
    AppendRequest {
        /// The place right before the first entry.
        previous: Position,
        /// Contiguous, may be empty.
        entries: Vec<Entry>,
        /// The leader's commit index. May lie beyond these entries.
        commit: Index,
        /// The leader's newest round of leadership checks; see [`Body::Heartbeat`].
        round: u64,
    },
    /// The follower's log equals the leader's up to an index *and is durable* up to there.
    AppendAccepted {
        /// That index.
        matched: Index,
        /// The newest round the follower has seen from this leader.
        round: u64,
    },
    /// The follower's log does not hold the place that an [`Body::AppendRequest`] builds on.
    AppendRejected {
        /// The index of that place: names the request.
        previous: Index,
        /// The last place in the follower's log, not after `previous`, whose term is not above the one the leader named:
        /// the logs cannot agree anywhere between the two.
        hint: Position,
        /// The newest round the follower has seen from this leader.
        round: u64,
    },
    /// "I still lead." Does not depend on anybody's disk.
    Heartbeat {
        /// The leader's commit index.
        commit: Index,
        /// Counted from 1 in each leadership and raised with every heartbeat that is sent: an echo of round `r` proves
        /// that the follower had not left the term when round `r` had begun.
        round: u64,
    },
    /// The answer to [`Body::Heartbeat`].
    HeartbeatResponse {
        /// The newest round the follower has seen from this leader.
        round: u64,
        /// The follower's log equals the leader's up to here, durable or not. What the leader sent beyond it was lost.
        verified: Index,
        /// As in [`Body::AppendAccepted`], which may have been lost.
        matched: Index,
        /// Whether the follower is a good choice for a leader: neither reluctant, nor with a degraded or full disk, nor
        /// without its state. Of one that has no vote: whether it may get one; then reluctance does not matter.
        fit: bool,
        /// Whether the follower honours leases: it helps nobody to power within the shortest election timeout after
        /// the leader's last word.
        leases: bool,
    },
    /// "Your term is over": the answer to any request of an older term. The news is the message's own term.
    NewerTerm,
    /// "Stand at once, you are to lead" (Raft dissertation, section 3.10), from the leader to the one it hands over to.
    TimeoutNow {
        /// The leader's newest round: whoever has heard a newer one knows that the word is old.
        round: u64,
    },
}

impl Body {
    /// Whether somebody says it of its own accord, and not in answer to what it was asked.
    pub fn is_request(&self) -> bool {
        match self {
            Body::PreVoteRequest { .. }
            | Body::VoteRequest { .. }
            | Body::AppendRequest { .. }
            | Body::Heartbeat { .. }
            | Body::TimeoutNow { .. } => true,
            Body::PreVoteResponse { .. }
            | Body::VoteResponse { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatResponse { .. }
            | Body::NewerTerm => false,
        }
    }
}

impl Message {
    /// Whether the message could have been said by a correct node. Whatever else it says, using it will not overflow,
    /// index out of bounds or build a log with a hole.
    pub fn is_well_formed(&self) -> bool {
        if self.term.0 >= COUNTER_MAX {
            return false;
        }
        match &self.body {
            Body::PreVoteRequest { last, .. } => last.is_well_formed(self.term),
            // The sender votes in its own term, so its log ends in an earlier one.
            Body::VoteRequest { last, .. } => last.is_well_formed(self.term) && last.term < self.term,
            Body::PreVoteResponse { .. } | Body::VoteResponse { .. } | Body::NewerTerm => true,
            Body::AppendRequest { previous, entries, commit, round } => {
                previous.is_well_formed(self.term)
                    && bounded(*commit, *round)
                    && self.entries_are_well_formed(*previous, entries)
            }
            Body::AppendAccepted { matched, round } => bounded(*matched, *round),
            Body::AppendRejected { previous, hint, round } => {
                // The place before the log cannot be rejected, and a hint never lies beyond what it answers.
                bounded(*previous, *round)
                    && previous.0 > 0
                    && hint.is_well_formed(self.term)
                    && hint.index <= *previous
            }
            Body::Heartbeat { commit, round } => bounded(*commit, *round),
            Body::TimeoutNow { round } => *round < COUNTER_MAX,
            Body::HeartbeatResponse { round, verified, matched, .. } => {
                bounded(*verified, *round) && matched <= verified
            }
        }
    }

    fn entries_are_well_formed(&self, previous: Position, entries: &[Entry]) -> bool {
        if entries.len() > APPEND_ENTRIES_MAX {
            return false;
        }
        let mut before = previous;
        for entry in entries {
            let contiguous = entry.index == before.index.next() && entry.term >= before.term;
            let sane = match &entry.payload {
                Payload::Noop | Payload::Command(_) => true,
                Payload::Configuration(configuration) => configuration.is_well_formed(),
            };
            if !contiguous || !sane || entry.term > self.term || entry.term.0 == 0 {
                return false;
            }
            before = Position { index: entry.index, term: entry.term };
        }
        true
    }
}

fn bounded(index: Index, round: u64) -> bool {
    index.0 < COUNTER_MAX && round < COUNTER_MAX
}
