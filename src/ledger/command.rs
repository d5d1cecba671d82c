//! What can be asked of the replicated machine, and what it answers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::types::{
    AgentKey, Amount, Index, IntervalId, MemberId, NodeId, SessionId, Term, UnixMillis, Version,
};

use super::claims::Receipt;
use super::policy::Policy;
use super::records::{Checkpoint, MemberKind};
use super::recoveries::RecoveryAct;
use super::webhooks::HookCursor;

/// Longest key of the shared dictionary, in bytes.
pub const KV_KEY_BYTES_MAX: usize = 512;
/// Longest value of the shared dictionary, in bytes of JSON text.
pub const KV_VALUE_BYTES_MAX: usize = 1 << 20;
/// Most operations in one [`Command::KvBatch`].
pub const KV_BATCH_MAX: usize = 1_000;
/// Longest incarnation of a data directory, in bytes.
pub const INCARNATION_BYTES_MAX: usize = 64;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Most rows in one [`Command::Report`]; a larger report goes in several parts.
pub const REPORT_ROWS_MAX: usize = 2_000;
/// Most parts of one report.
pub const REPORT_PARTS_MAX: u32 = 1_024;

/// A command as its author made it, before a leader accepts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What keeps a repeated request from being executed again.
    pub once: Once,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// A command that is executed as often as it is sent.
    pub fn new(command: Command) -> Request {
        Request { once: Once::Unguarded, command }
    }

    /// A command under an idempotency key.
    pub fn keyed(key: impl Into<String>, command: Command) -> Request {
        Request { once: Once::Key(key.into()), command }
    }

    /// Whether sending it again does no harm.
    pub fn is_repeatable(&self) -> bool {
        self.once != Once::Unguarded
    }
}

/// What keeps a repeated request from being executed again. Variants may only be appended.
///
/// The first two are written as an absent and a present text are: logs from before there were sessions hold just that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Once {
    /// Nothing: each delivery is executed.
    Unguarded,
    /// An idempotency key: a retry with the same key and the same command returns the first answer, for as long as it is
    /// remembered. After that it is executed again, or refused if the key says since when it can have been used: see
    /// [`super::idempotency`].
    Key(String),
    /// A place in a session: executed at most once, whatever happens. Once the answer is forgotten, a retry is refused.
    Session(InSession),
}

/// The place of a request in a client's session (Raft dissertation, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSession {
    /// The session.
    pub session: SessionId,
    /// The request's number in it, from 1. Requests may be sent and executed in any order.
    pub sequence: u64,
    /// The lowest number whose answer the client still waits for, at most [`InSession::sequence`]. What is below is
    /// forgotten: its answers are dropped, and whatever of it still arrives is refused.
    pub lowest_unanswered: u64,
}

/// A command as it stands in the log: stamped by the leader that accepted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The leader's wall clock. The machine never lets its time go back: it uses the largest seen.
    pub at: UnixMillis,
    /// The leader's term when it *decided*. A decision ([`Command::Cut`], [`Command::Report`], [`Command::Settle`]) whose
    /// term is not that of its log entry is stale and rejected.
    pub term: Term,
    /// The leader.
    pub leader: NodeId,
    /// What was asked.
    pub request: Request,
}

/// What can be asked. Variants may only be appended (the position is the wire format).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster: its identity, the initial policy, its first super-nodes. Applies once.
    Genesis {
        /// The configured name of the cluster.
        cluster: String,
        /// A random identity, 32 hexadecimal digits.
        identity: String,
        /// The policy of the first intervals.
        policy: Policy,
        /// The super-nodes and their peer addresses.
        nodes: Vec<(NodeId, String)>,
    },
    /// Sets a key of the shared dictionary.
    KvPut {
        /// 1 to [`KV_KEY_BYTES_MAX`] bytes.
        key: String,
        /// JSON text, at most [`KV_VALUE_BYTES_MAX`] bytes.
        value: String,
        /// Only if the key has this revision (0: only if absent).
        if_revision: Option<u64>,
    },
    /// Removes a key of the shared dictionary.
    KvDelete {
        /// The key.
        key: String,
        /// Only if the key has this revision.
        if_revision: Option<u64>,
    },
    /// Up to [`KV_BATCH_MAX`] puts and deletes, all or nothing.
    KvBatch {
        /// In order.
        operations: Vec<KvOperation>,
    },
    /// The replicated addition.
    Add {
        /// The first summand.
        a: i64,
        /// The second summand.
        b: i64,
    },
    /// A member joins the fleet, or comes back with another address.
    MemberJoin {
        /// Its name.
        member: MemberId,
        /// What it is.
        kind: MemberKind,
        /// Where it answers pings: `host:port`.
        address: String,
    },
    /// A member leaves the fleet; its account stays.
    MemberLeave {
        /// Its name.
        member: MemberId,
    },
    /// Ends the open interval and opens the next.
    Cut {
        /// Must be the open interval.
        interval: IntervalId,
    },
    /// What one super-node saw during a cut interval.
    Report(Report),
    /// Judges and pays a cut interval.
    Settle {
        /// Must be the next to settle.
        interval: IntervalId,
    },
    /// A won election, recorded by the winner.
    Election {
        /// The term it won.
        term: Term,
        /// The leader before, if known.
        previous: Option<NodeId>,
        /// Which detector fired; see `raft::ElectionReason`.
        reason: String,
        /// Who voted for it.
        votes: BTreeSet<NodeId>,
        /// For how long nobody led, in milliseconds.
        leaderless_ms: u64,
    },
    /// MongoDB holds everything up to here.
    Projected(Checkpoint),
    /// Opens a client session; its name is the position of this command in the log.
    SessionOpen,
    /// Keeps an idle session from expiring.
    SessionKeepAlive {
        /// Which.
        session: SessionId,
    },
    /// Ends a session: its answers are dropped, and whatever still arrives in it is refused.
    SessionClose {
        /// Which.
        session: SessionId,
    },
    /// A super-node was seen with this data directory. The first one counts, until the node leaves: whoever comes in
    /// its name with another has lost its votes and its log (safety rule 6).
    NodeSeen {
        /// The super-node.
        node: NodeId,
        /// The incarnation of its directory, 1 to [`INCARNATION_BYTES_MAX`] printable bytes.
        incarnation: String,
    },
    /// A super-node says which version it runs. Members' versions are compared with the lowest of these.
    NodeVersion {
        /// The super-node, about itself.
        node: NodeId,
        /// What it runs.
        version: Version,
    },
    /// A member announces maintenance: in those intervals it loses nothing, and earns nothing.
    Maintain {
        /// Who.
        member: MemberId,
        /// The first interval; `None`: the one after the open one. None that has begun.
        from: Option<IntervalId>,
        /// How many, see [`super::maintenance::INTERVALS_MAX`].
        intervals: u64,
    },
    /// Part of a balance is paid out.
    Claim {
        /// Whose.
        member: MemberId,
        /// The claim's number: one more than that of the member's last claim, or that one again.
        seq: u64,
        /// How much, more than nothing.
        amount: Amount,
    },
    /// An operator moves a balance.
    Adjust {
        /// Whose.
        member: MemberId,
        /// By how much, not nothing.
        delta: Amount,
        /// Why.
        reason: String,
        /// Who does it.
        operator: String,
    },
    /// The next revision of the policy.
    SetPolicy {
        /// Its numbers; its revision is one more than the newest.
        policy: Policy,
        /// The most that all rewards of one interval may come to; 0: no limit.
        budget: Amount,
        /// The first interval that it judges; `None`: as soon as it may, see [`super::policy::ACTIVATION_AHEAD`].
        activate_at: Option<IntervalId>,
    },
    /// An agent wants to be a member, with this key; see [`super::agents`].
    AgentEnrol {
        /// Under which name.
        member: MemberId,
        /// Where it answers pings: `host:port`.
        address: String,
        /// Authenticates its datagrams.
        key: AgentKey,
        /// Whether it may come in at once. Otherwise it waits, unless it was expected.
        approved: bool,
    },
    /// An operator lets in an agent that waits.
    AgentApprove {
        /// Its name.
        member: MemberId,
        /// What [`super::agents::fingerprint`] must say of its key, if the operator looked.
        fingerprint: Option<String>,
    },
    /// An operator sends away an agent that waits. It may come again.
    AgentRefuse {
        /// Its name.
        member: MemberId,
    },
    /// An operator made a cluster of what was left of one. Written into a log from outside, never proposed.
    Recovered(RecoveryAct),
    /// Settled intervals up to this one are forgotten, a few at a time; see [`super::retention`].
    Trim {
        /// The last interval.
        through: IntervalId,
        /// Whether the leader projects into MongoDB: then nothing is forgotten that is not there.
        projected: bool,
    },
    /// A webhook has been told of everything up to here, or, the first time, is to be told of what comes after. See
    /// [`super::webhooks`]: proposed only once every voter has stated a version that knows this command.
    Notified {
        /// The hook's configured name.
        hook: String,
        /// How far it is.
        cursor: HookCursor,
    },
}

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvOperation {
    /// See [`Command::KvPut`].
    Put {
        /// The key.
        key: String,
        /// JSON text.
        value: String,
    },
    /// See [`Command::KvDelete`]; an absent key is no error here.
    Delete {
        /// The key.
        key: String,
    },
}

/// What one super-node saw during a cut interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The interval.
    pub interval: IntervalId,
    /// Who saw it.
    pub observer: NodeId,
    /// This part's number, from 0.
    pub part: u32,
    /// How many parts the report has.
    pub parts: u32,
    /// How well the observer itself was.
    pub health: ObserverHealth,
    /// One row per member that it pinged, itself excluded, ordered by member.
    pub rows: Vec<Row>,
}

/// How well an observer itself was during an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverHealth {
    /// Whether it was up for the whole interval.
    pub whole_interval: bool,
    /// The longest stall of its own scheduler, in milliseconds.
    pub longest_stall_ms: u32,
    /// Its own health score; 0 is well.
    pub score: u32,
}

/// The evidence of one observer about one member in one interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The member.
    pub member: MemberId,
    /// Pings whose outcome became known during the interval.
    pub sent: u32,
    /// Answered in time (perhaps at the second try).
    pub answered: u32,
    /// Answers that came after both tries had been given up.
    pub late: u32,
    /// Both tries failed.
    pub missed: u32,
    /// Answers that were not what was asked for.
    pub bad: u32,
    /// Messages that nobody had asked for.
    pub unsolicited: u32,
    /// Shortest round trip, in microseconds; 0 when nothing was answered. So are the next three.
    pub min_us: u32,
    /// Median round trip.
    pub p50_us: u32,
    /// 90th percentile of round trips.
    pub p90_us: u32,
    /// Longest round trip.
    pub max_us: u32,
    /// The version the member stated last.
    pub version: Option<Version>,
}

/// What the machine answers to one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, nothing to tell.
    Done,
    /// A key was written or removed.
    Kv {
        /// The revision of the dictionary after it.
        revision: u64,
    },
    /// The sum.
    Sum {
        /// `a + b`.
        result: i64,
    },
    /// Not done; the state is as before, except for what the rejection itself records.
    Rejected(Rejection),
    /// A session is open.
    Session {
        /// Its name.
        session: SessionId,
        /// It ends when it was not used for so long, in milliseconds of log time.
        expires_after_ms: u64,
    },
    /// A claim was paid out, now or before.
    Claimed(Receipt),
    /// A balance was adjusted.
    Adjusted {
        /// The ledger sequence of the movement.
        record: u64,
        /// The balance after it.
        balance: Amount,
    },
    /// Maintenance is announced.
    Maintenance {
        /// The first interval.
        from: IntervalId,
        /// The last interval.
        to: IntervalId,
        /// How many more the member may announce for now.
        left: u64,
    },
    /// A revision of the policy is on record.
    PolicySet {
        /// Its number.
        revision: u64,
        /// The first interval that it judges.
        activate_at: IntervalId,
    },
    /// An agent has enrolled.
    Enrolled {
        /// Whether it waits for an operator; otherwise it is a member.
        waiting: bool,
    },
}

/// An answer together with where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The answer.
    pub answer: Answer,
    /// The position of the log entry (of the first execution, for a retry).
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// The leader that accepted it.
    pub leader: NodeId,
}

/// Why the machine did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// A precondition did not hold.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The thing does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The command itself is wrong.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The proposer no longer leads, or the decision was already taken. Harmless.
    #[error("stale: {0}")]
    Stale(String),
    /// The session is not known: it expired, was evicted or closed, or never was. This try did nothing; nobody knows any
    /// more what became of earlier ones.
    #[error("session expired: {0}")]
    SessionExpired(String),
    /// The sequence is below what the client still waits for, or too far above it. This try did nothing; what became, or
    /// may become, of other tries is not known.
    #[error("outside the window: {0}")]
    OutsideWindow(String),
    /// More was claimed than the balance holds. Nothing was paid out; a penalty may have been taken.
    #[error("insufficient funds: {0}")]
    InsufficientFunds(String),
    /// The member is suspended.
    #[error("suspended: {0}")]
    Suspended(String),
    /// The idempotency key says since when it can have been used, and of what was answered since then something is forgotten.
    /// This try did nothing; nobody knows any more what became of earlier ones.
    #[error("key expired: {0}")]
    KeyExpired(String),
}

impl Rejection {
    /// Whether it says nothing about other tries of the same request: they may have been executed, or may be. Any other
    /// rejection is remembered, and the answer to all of them.
    pub fn leaves_other_tries_open(&self) -> bool {
        matches!(self, Rejection::SessionExpired(_) | Rejection::OutsideWindow(_) | Rejection::KeyExpired(_))
    }
}
