//! The settings of the consensus core, and why it may refuse to start.

use std::time::Duration;

use crate::types::{Index, NodeId, Term};

/// Longest wait, in microseconds, between the news that the leader is silent and the pre-vote that follows: neighbours
/// get the same news at the same time and should not all stand at once.
pub const SILENT_JITTER_MICROS_MAX: u64 = 10_000;
/// [`Config::held_messages_max`], as a rule.
pub const HELD_MESSAGES_MAX: usize = 4_096;
/// [`Config::reads_pending_max`], as a rule.
pub const READS_PENDING_MAX: usize = 65_536;

/// Most voters of one configuration. More make every commit slower and nothing safer.
pub const VOTERS_MAX: usize = 15;
/// Most nodes of one configuration, learners included.
pub const NODES_MAX: usize = 256;
/// Longest peer address in a configuration, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Settings of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Shortest election timeout. A leader heard within it keeps its followers' loyalty. At least several times the
    /// round trip and the heartbeat.
    pub election_min: Duration,
    /// Longest election timeout. A leader that hears no quorum for so long steps down.
    pub election_max: Duration,
    /// A leader that has sent a peer nothing for so long sends a heartbeat.
    pub heartbeat: Duration,
    /// Whether an election begins with the harmless question (Raft dissertation, section 9.6).
    pub pre_vote: bool,
    /// Whether a leader steps down when no quorum answers, and real vote requests are ignored by whoever hears a leader
    /// (Raft dissertation, sections 6.2 and 4.2.3).
    pub check_quorum: bool,
    /// Most bytes of entries in one append. A larger single entry travels alone.
    pub append_bytes_max: usize,
    /// Most appends in flight to one peer; times `append_bytes_max` it bounds the bytes in flight.
    pub append_messages_max: usize,
    /// Proposals are refused as overloaded while uncommitted entries hold so many bytes.
    pub uncommitted_bytes_max: usize,
    /// Most messages that wait for the disk; beyond it the newest is dropped, as a network may.
    pub held_messages_max: usize,
    /// Most reads that wait for their confirmation; beyond it a read is refused as overloaded.
    pub reads_pending_max: usize,
    /// How long a leader may serve reads by itself after it *asked* a quorum that answered (Raft dissertation, section
    /// 6.4.1); cut to nine tenths of `election_min`. All nodes of a cluster must have the same `election_min`, and
    /// a node keeps the promise of an earlier run only if this is set in the next. `None`: no leases.
    pub lease: Option<Duration>,
    /// For how long a follower that has heard the leader helps nobody to power, where leases are on; at most
    /// `election_min`, and the same on all nodes of a cluster. `None`: for `election_min`. Shorter than that it lets a
    /// leader that a detector found dead be replaced long before the election timeout, at the price of shorter leases.
    pub promise: Option<Duration>,
    /// Where every message counts: entries leave at once for just enough voters to make a quorum, and for the others in
    /// the place of a heartbeat. What is not acknowledged for so long (or for longer, by the round trips that were
    /// measured) is sent again, to whoever is likeliest to answer; see `thrift`. `None`: everybody gets everything at once.
    pub thrift: Option<Duration>,
    /// Whether this node prefers not to lead: it stands later than others, and hands over when another can lead.
    pub reluctant: bool,
    /// How long a joining learner must have kept up before it becomes a voter.
    pub promote_after: Duration,
}

impl Default for Config {
    /// 300 to 600 ms elections, 50 ms heartbeats, pre-vote and check-quorum on, 64 appends of 256 KiB in flight to each
    /// peer, 64 MiB uncommitted, no leases, promotion after 500 ms. The id is `n1`.
    fn default() -> Self {
        Config {
            id: "n1".parse().expect("n1 is a valid name"),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            heartbeat: Duration::from_millis(50),
            pre_vote: true,
            check_quorum: true,
            append_bytes_max: 256 << 10,
            append_messages_max: 64,
            uncommitted_bytes_max: 64 << 20,
            held_messages_max: HELD_MESSAGES_MAX,
            reads_pending_max: READS_PENDING_MAX,
            lease: None,
            promise: None,
            thrift: None,
            reluctant: false,
            promote_after: Duration::from_millis(500),
        }
    }
}

/// What the log store found cannot be a log that this core wrote. The node must not vote or lead on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// An entry is missing.
    #[error("the log has entry {found} where {expected} should be")]
    NotContiguous {
        /// The index after the previous entry's.
        expected: Index,
        /// The index that was found.
        found: Index,
    },
    /// Terms go back.
    #[error("the log's entry {index} has term {term}, below the {before} of its predecessor")]
    TermDecreases {
        /// Where.
        index: Index,
        /// Its term.
        term: Term,
        /// The term before it.
        before: Term,
    },
    /// The term that was stored is older than the log.
    #[error("the stored term {stored} is below term {last} of the last entry")]
    TermBehindLog {
        /// The term in the hard state.
        stored: Term,
        /// The term of the last entry.
        last: Term,
    },
    /// The log has forgotten entries that the state has not applied.
    #[error("the state is applied to {applied}, but the log begins after {base}")]
    AppliedBeforeBase {
        /// The state's applied index.
        applied: Index,
        /// Where the log begins.
        base: Index,
    },
    /// The state holds more than the log: the log lost entries; or a crash hit between the installation of a snapshot
    /// and its record in the log, and the shell did not call [`super::Recovered::agree_with`].
    #[error("the state is applied to {applied}, but the log ends at {last}")]
    AppliedBeyondLog {
        /// The state's applied index.
        applied: Index,
        /// Where the log ends.
        last: Index,
    },
}
