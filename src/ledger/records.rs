//! The records of the replicated machine. Their fields are the interface: the same names in HTTP, in tables and
//! in MongoDB (where `seq`, `id`, `term` or the member's name is `_id`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::Hash;
use crate::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis};

/// Why money moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MovementKind {
    /// Earned in an interval.
    Reward,
    /// Lost in an interval.
    Penalty,
    /// Paid out.
    Claim,
    /// For claiming more than the balance.
    ClaimPenalty,
    /// By an operator, with a reason.
    Adjustment,
}

impl MovementKind {
    /// The name in documents and hashes.
    pub fn as_str(self) -> &'static str {
        match self {
            MovementKind::Reward => "reward",
            MovementKind::Penalty => "penalty",
            MovementKind::Claim => "claim",
            MovementKind::ClaimPenalty => "claim_penalty",
            MovementKind::Adjustment => "adjustment",
        }
    }
}

/// One movement of money; never changed. Collection `rewards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Movement {
    /// Ledger sequence, contiguous from 1.
    pub seq: u64,
    /// Whose account.
    pub member: MemberId,
    /// Why.
    pub kind: MovementKind,
    /// Signed, micro-points.
    pub amount: Amount,
    /// The balance after it.
    pub balance: Amount,
    /// The interval that caused it, if one did.
    pub interval: Option<IntervalId>,
    /// In words.
    pub reason: String,
    /// The log entry that made it.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Log time.
    pub at: UnixMillis,
    /// Hash of the movement `seq - 1`; zero for the first.
    pub prev_hash: Hash,
    /// SHA-256 over [`super::chain::movement_bytes`].
    pub hash: Hash,
}

/// What became of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Judged and paid.
    Settled,
    /// Too little evidence: nobody is paid, penalised or struck.
    Void,
    /// All observers agree that most members are dark: paid, not penalised, and not struck unless it goes on for long.
    Correlated,
}

impl Verdict {
    /// The name in documents and hashes.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Settled => "settled",
            Verdict::Void => "void",
            Verdict::Correlated => "correlated",
        }
    }
}

/// Whether an observer's report counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    /// The super-node.
    pub id: NodeId,
    /// Whether its report counted.
    pub used: bool,
    /// Why not (`absent`, `incomplete`, `cold`, `stalled`, `unhealthy`, `alone`); empty when used.
    pub why: String,
}

/// One settled interval; never changed. Collection `intervals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Contiguous from 1.
    pub id: IntervalId,
    /// Log time of its opening.
    pub opened_at: UnixMillis,
    /// Log time of its cut.
    pub cut_at: UnixMillis,
    /// Log time of its settlement.
    pub settled_at: UnixMillis,
    /// The leader that settled it.
    pub leader: NodeId,
    /// The term of the settling entry.
    pub term: Term,
    /// The settling entry.
    pub index: Index,
    /// Revision of the policy.
    pub policy: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in words; empty when settled as usual.
    pub reason: String,
    /// Every super-node that should have reported, ordered by id.
    pub observers: Vec<Observer>,
    /// Members judged.
    pub members: u64,
    /// Sum of rewards.
    pub rewarded: Amount,
    /// Sum of penalties, positive.
    pub penalised: Amount,
    /// The last ledger sequence when it was settled: ties the two chains together.
    pub last_seq: u64,
    /// Hash over the observations, see [`super::chain::evidence_hash`].
    pub evidence_hash: Hash,
    /// Hash of interval `id - 1`; zero for the first.
    pub prev_hash: Hash,
    /// SHA-256 over [`super::chain::interval_bytes`].
    pub hash: Hash,
}

/// What one observer counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Pings with a known outcome.
    pub sent: u32,
    /// Answered.
    pub answered: u32,
    /// Missed.
    pub missed: u32,
    /// 90th percentile of its round trips, microseconds.
    pub p90_us: u32,
}

/// Evidence and result of one member in one interval; never changed. Collection `observations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The interval.
    pub interval: IntervalId,
    /// The member.
    pub member: MemberId,
    /// Sums over the observers that counted.
    pub sent: u64,
    /// See `sent`.
    pub answered: u64,
    /// See `sent`.
    pub missed: u64,
    /// The upper median of the observers' availabilities, parts per million.
    pub availability_ppm: u32,
    /// Lower median of the observers' medians, microseconds.
    pub p50_us: u32,
    /// Lower median of the observers' 90th percentiles.
    pub p90_us: u32,
    /// Largest maximum.
    pub max_us: u32,
    /// The score, parts per million.
    pub score_ppm: u32,
    /// Earned.
    pub reward: Amount,
    /// Lost, positive.
    pub penalty: Amount,
    /// Strikes after the interval.
    pub strikes: u32,
    /// Status after the interval.
    pub status: MemberStatus,
    /// What each observer that counted saw.
    pub by: BTreeMap<NodeId, Counts>,
    /// Whether the member had announced maintenance: nothing earned, nothing lost, nobody struck.
    pub excused: bool,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// Takes part in consensus.
    Node,
    /// Answers pings.
    Agent,
}

impl MemberKind {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberKind::Node => "node",
            MemberKind::Agent => "agent",
        }
    }
}

/// Standing of a member in the ledger. (Whether it answers *now* is the detector's business, not the ledger's.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberStatus {
    /// Judged and paid.
    Active,
    /// Not paid until its cooldown is over.
    Suspended,
    /// Back from suspension: judged, not yet paid.
    Probation,
    /// No longer a member; the account stays.
    Left,
}

impl MemberStatus {
    /// The name in documents and hashes.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberStatus::Active => "active",
            MemberStatus::Suspended => "suspended",
            MemberStatus::Probation => "probation",
            MemberStatus::Left => "left",
        }
    }
}

/// A member as it stands now. Collection `members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub id: MemberId,
    /// What it is.
    pub kind: MemberKind,
    /// Where it answers pings.
    pub address: String,
    /// Its standing.
    pub status: MemberStatus,
    /// Its balance.
    pub balance: Amount,
    /// Its strikes.
    pub strikes: u32,
    /// How often it was suspended; doubles the cooldown.
    pub suspensions: u32,
    /// Settled intervals of cooldown left while suspended; good intervals still to go while on probation.
    pub remaining: u32,
    /// Log time of its (last) joining.
    pub joined_at: UnixMillis,
    /// The last ledger sequence that touched it; 0 for none.
    pub as_of: u64,
    /// The last log entry that changed this record: a view of an older one never replaces a newer one.
    pub index: Index,
}

/// A won election. Collection `elections`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// The term.
    pub term: Term,
    /// Who won it.
    pub leader: NodeId,
    /// Who led before, if known.
    pub previous: Option<NodeId>,
    /// Which detector fired: `startup`, `timeout`, `connection_lost`, `pings_silent`, `transfer`.
    pub reason: String,
    /// Who voted for the winner.
    pub votes: BTreeSet<NodeId>,
    /// For how long nobody led, milliseconds.
    pub leaderless_ms: u64,
    /// Log time.
    pub at: UnixMillis,
    /// The log entry that recorded it.
    pub index: Index,
}

/// One key of the shared dictionary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// The key.
    pub key: String,
    /// JSON text.
    pub value: String,
    /// The dictionary's revision when it was last written.
    pub revision: u64,
}

/// Who this cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The configured name.
    pub cluster: String,
    /// 32 random hexadecimal digits: two clusters of one name are still different.
    pub identity: String,
    /// Log time of its first command.
    pub at: UnixMillis,
}

/// How far a projection has come: everything up to here is in MongoDB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Last projected ledger sequence.
    pub rewards: u64,
    /// Last projected interval, with its observations.
    pub intervals: IntervalId,
    /// Term of the last projected election.
    pub elections: Term,
    /// Log index of the last projected change of a member.
    pub members: Index,
}

impl Checkpoint {
    /// Whether this is nowhere behind another.
    pub fn covers(&self, other: &Checkpoint) -> bool {
        self.rewards >= other.rewards
            && self.intervals >= other.intervals
            && self.elections >= other.elections
            && self.members >= other.members
    }
}

/// The interval counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalState {
    /// The interval that is being observed.
    pub open: IntervalId,
    /// The next to be settled; equal to `open` when all cut ones are.
    pub next_settle: IntervalId,
    /// Log time of the opening of `open`.
    pub opened_at: UnixMillis,
}

/// The ledger's sums. Conservation: sum of balances + claimed = minted - burned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Movements so far.
    pub records: u64,
    /// Hash of the last one.
    pub head_hash: Hash,
    /// Settled intervals' last hash.
    pub interval_hash: Hash,
    /// Ever paid into accounts.
    pub minted: Amount,
    /// Ever taken from accounts by penalties.
    pub burned: Amount,
    /// Ever claimed.
    pub claimed: Amount,
}
