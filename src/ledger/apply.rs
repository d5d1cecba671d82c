//! One log entry, applied: the dispatch, the fence, the log time.

use serde::Serialize;

use crate::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis, Version};

use super::command::{Answer, Applied, Command, Envelope, Rejection};
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError};
use super::limits::Limits;
use super::once::{self, Admission};
use super::policy::Policy;
use super::records::{Checkpoint, Election, MemberKind, Movement, MovementKind, Verdict};
use super::recoveries::{self, Recovery};
use super::{
    agents, claims, elections, genesis, intervals, kv, maintenance, members, projection, retention, rules,
    sessions, settle, table, webhooks,
};

/// What came of a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For whoever asked.
    pub applied: Applied,
    /// For whoever watches. Empty when the command was a retry, and when it was rejected, unless the rejection itself moved
    /// money (a claim beyond the balance).
    pub happenings: Vec<Happening>,
}

/// What the log made happen, in order. Derived from the log alone, so every node sees the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Happening {
    /// The cluster began.
    GenesisDone {
        /// Its configured name.
        cluster: String,
        /// Its random identity.
        identity: String,
        /// The initial policy.
        policy: Policy,
    },
    /// A key of the dictionary was written or removed.
    KvChanged {
        /// The key.
        key: String,
        /// The dictionary's revision.
        revision: u64,
        /// Whether it was removed.
        deleted: bool,
    },
    /// A member joined, or came back.
    MemberJoined {
        /// Who.
        member: MemberId,
        /// What it is.
        kind: MemberKind,
        /// Where it answers.
        address: String,
    },
    /// A member has another address.
    MemberMoved {
        /// Who.
        member: MemberId,
        /// Where it answers now.
        address: String,
    },
    /// A member left.
    MemberLeft {
        /// Who.
        member: MemberId,
    },
    /// An interval is over; observers freeze their counters now.
    IntervalCut {
        /// Which.
        interval: IntervalId,
        /// The policy that will judge it.
        policy: Policy,
        /// Log time of its opening.
        opened_at: UnixMillis,
        /// Log time of its cut.
        cut_at: UnixMillis,
        /// Who is expected to report.
        observers: Vec<NodeId>,
    },
    /// All parts of an observer's report are in.
    ReportAccepted {
        /// On which interval.
        interval: IntervalId,
        /// Whose.
        observer: NodeId,
    },
    /// An interval was judged and paid.
    IntervalSettled {
        /// Which.
        interval: IntervalId,
        /// What became of it.
        verdict: Verdict,
        /// Why; empty when settled as usual.
        reason: String,
        /// Members judged.
        members: u64,
        /// Sum of rewards.
        rewarded: Amount,
        /// Sum of penalties, positive.
        penalised: Amount,
    },
    /// A member is not paid for a while.
    MemberSuspended {
        /// Who.
        member: MemberId,
        /// For how many settled intervals.
        intervals: u32,
    },
    /// A member's cooldown is over; it must prove itself.
    MemberProbation {
        /// Who.
        member: MemberId,
    },
    /// A member is paid again.
    MemberReinstated {
        /// Who.
        member: MemberId,
    },
    /// An interval's rewards and penalties are on record: of a large fleet far too many to be told of one by one.
    Paid {
        /// Which interval.
        interval: IntervalId,
        /// How many rewards.
        rewards: u64,
        /// How many penalties.
        penalties: u64,
    },
    /// Money moved outside of any interval's settlement.
    Movement {
        /// Why.
        kind: MovementKind,
        /// Whose account.
        member: MemberId,
        /// Signed.
        amount: Amount,
        /// Ledger sequence.
        seq: u64,
    },
    /// Money did not move because the amount, the balance or a sum would not fit into 64 bits.
    MovementRefused {
        /// Why it should have.
        kind: MovementKind,
        /// Whose account.
        member: MemberId,
        /// Signed.
        amount: Amount,
    },
    /// A won election is on record.
    ElectionRecorded(Election),
    /// The projection has come further.
    Projected(Checkpoint),
    /// A super-node is bound to its data directory.
    NodeSeen {
        /// The super-node.
        node: NodeId,
        /// The incarnation of its directory.
        incarnation: String,
    },
    /// An operator made a cluster of what was left of one.
    ClusterRecovered(Recovery),
    /// A super-node has said which version it runs.
    VersionStated {
        /// The super-node.
        node: NodeId,
        /// What it runs.
        version: Version,
    },
    /// A report came and does not count, because its author is not to be believed.
    ObserverSetAside {
        /// On which interval.
        interval: IntervalId,
        /// Whose.
        observer: NodeId,
        /// Why, see [`super::observers`].
        why: String,
    },
    /// One part of an observer's report is in.
    ReportPartAccepted {
        /// On which interval.
        interval: IntervalId,
        /// Whose.
        observer: NodeId,
        /// Which part.
        part: u32,
    },
    /// Most members have been dark for so many intervals that strikes are given again from the next one on.
    MostMembersDark {
        /// The last of them.
        interval: IntervalId,
        /// How many in a row.
        intervals: u64,
    },
    /// A member has announced maintenance.
    MaintenanceAnnounced {
        /// Who.
        member: MemberId,
        /// The first interval.
        from: IntervalId,
        /// The last interval.
        to: IntervalId,
    },
    /// A member was penalised for claiming more than its balance.
    OverClaimed {
        /// Who.
        member: MemberId,
        /// What it claimed.
        amount: Amount,
        /// What it held.
        balance: Amount,
        /// What that cost it.
        penalty: Amount,
    },
    /// A revision of the policy is on record.
    PolicySet {
        /// Its number.
        revision: u64,
        /// The first interval that it judges.
        activate_at: IntervalId,
    },
    /// A revision of the policy is in force.
    PolicyActivated {
        /// Its number.
        revision: u64,
        /// The first interval that it judges, which is open now.
        interval: IntervalId,
    },
    /// An agent was let in, or has another key.
    AgentAdmitted {
        /// Who.
        member: MemberId,
        /// Of its key.
        fingerprint: String,
    },
    /// An agent waits for an operator.
    AgentWaits {
        /// Under which name.
        member: MemberId,
        /// Where it answers.
        address: String,
        /// Of its key.
        fingerprint: String,
    },
    /// Old history was forgotten.
    HistoryTrimmed {
        /// The last interval that was.
        through: IntervalId,
        /// The last movement that was.
        records: u64,
    },
}

impl Happening {
    /// A movement, as a happening.
    pub(super) fn moved(movement: &Movement) -> Happening {
        Happening::Movement {
            kind: movement.kind,
            member: movement.member.clone(),
            amount: movement.amount,
            seq: movement.seq,
        }
    }
}

/// The log entry that is being applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub index: Index,
    pub term: Term,
    /// Log time, not the leader's clock.
    pub at: UnixMillis,
    pub leader: &'a NodeId,
    pub limits: Limits,
}

/// Why a command ended early. A rejection comes before the first write; a failure ends the node.
#[derive(Debug)]
pub(super) enum Stop {
    Rejected(Rejection),
    Failed(KeyspaceError),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Rejected(rejection)
    }
}

impl From<KeyspaceError> for Stop {
    fn from(error: KeyspaceError) -> Self {
        Stop::Failed(error)
    }
}

/// What a command's function returns.
pub(super) type Step = Result<Answer, Stop>;

/// Applies one log entry of term `term` at `index`. An error means that the store failed or holds something that it
/// should not: the transaction must be dropped and the node must stop. Everything else, a rejection included, is
/// an outcome.
pub fn apply(
    space: &mut dyn Keyspace,
    index: Index,
    term: Term,
    envelope: &Envelope,
) -> Result<Outcome, KeyspaceError> {
    apply_within(space, index, term, envelope, Limits::REAL)
}

/// As [`apply`], with other limits than those of every real cluster.
pub fn apply_within(
    space: &mut dyn Keyspace,
    index: Index,
    term: Term,
    envelope: &Envelope,
    limits: Limits,
) -> Result<Outcome, KeyspaceError> {
    let at = advance_clock(space, envelope.at)?;
    let entry = Entry { index, term, at, leader: &envelope.leader, limits };
    let answered = |answer: Answer, happenings: Vec<Happening>| Outcome {
        applied: Applied { answer, index, term, leader: envelope.leader.clone() },
        happenings,
    };
    let request = &envelope.request;
    let slot = match once::admit(space, request, index, at, limits) {
        Ok(Admission::Execute(slot)) => slot,
        Ok(Admission::Repeat(applied)) => return Ok(Outcome { applied, happenings: Vec::new() }),
        Err(Stop::Rejected(rejection)) => return Ok(answered(Answer::Rejected(rejection), Vec::new())),
        Err(Stop::Failed(error)) => return Err(error),
    };
    let mut happenings = Vec::new();
    let step = fence(&entry, envelope)
        .map_err(Stop::from)
        .and_then(|()| dispatch(space, &entry, &request.command, &mut happenings));
    let outcome = match step {
        Ok(answer) => answered(answer, happenings),
        Err(Stop::Rejected(rejection)) => answered(Answer::Rejected(rejection), Vec::new()),
        Err(Stop::Failed(error)) => return Err(error),
    };
    slot.remember(space, &outcome.applied, at)?;
    Ok(outcome)
}

/// Log time: the largest stamp seen. A leader whose clock is behind its predecessor's does not turn it back.
fn advance_clock(space: &mut dyn Keyspace, stamp: UnixMillis) -> Result<UnixMillis, KeyspaceError> {
    let seen: UnixMillis = table::read_or_default(&*space, keys::CLOCK)?;
    if stamp <= seen {
        return Ok(seen);
    }
    table::write(space, keys::CLOCK, &stamp)?;
    Ok(stamp)
}

/// A decision counts only in the term in which it was taken: a leader that was paused, deposed and woken up must not
/// cut or settle anything (safety rule 9; etcd issue 15247).
fn fence(entry: &Entry<'_>, envelope: &Envelope) -> Result<(), Rejection> {
    let is_decision =
        matches!(envelope.request.command, Command::Cut { .. } | Command::Report(_) | Command::Settle { .. });
    if is_decision && envelope.term != entry.term {
        let why = format!("decided in term {}, but the log is in term {}", envelope.term, entry.term);
        return Err(Rejection::Stale(why));
    }
    Ok(())
}

fn dispatch(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    command: &Command,
    happenings: &mut Vec<Happening>,
) -> Step {
    match command {
        Command::Genesis { cluster, identity, policy, nodes } => {
            genesis::genesis(space, entry, (cluster, identity), policy, nodes, happenings)
        }
        Command::KvPut { key, value, if_revision } => kv::put(space, key, value, *if_revision, happenings),
        Command::KvDelete { key, if_revision } => kv::delete(space, key, *if_revision, happenings),
        Command::KvBatch { operations } => kv::batch(space, operations, happenings),
        Command::Add { a, b } => kv::add(*a, *b),
        Command::MemberJoin { member, kind, address } => {
            members::join(space, entry, (member, *kind, address), happenings)
        }
        Command::MemberLeave { member } => members::leave(space, entry, member, happenings),
        Command::Cut { interval } => intervals::cut(space, entry, *interval, happenings),
        Command::Report(report) => intervals::report(space, report, happenings),
        Command::Settle { interval } => settle::settle(space, entry, *interval, happenings),
        Command::Election { term, previous, reason, votes, leaderless_ms } => {
            let about = (reason.as_str(), *leaderless_ms);
            elections::election(space, entry, *term, previous.as_ref(), about, votes, happenings)
        }
        Command::Projected(checkpoint) => projection::projected(space, entry, checkpoint, happenings),
        Command::SessionOpen => sessions::open(space, entry),
        Command::SessionKeepAlive { session } => sessions::keep_alive(space, entry, *session),
        Command::SessionClose { session } => sessions::close(space, entry, *session),
        Command::NodeSeen { node, incarnation } => members::seen(space, node, incarnation, happenings),
        Command::Recovered(act) => recoveries::recovered(space, entry, act, happenings),
        Command::NodeVersion { node, version } => members::stated_version(space, node, *version, happenings),
        Command::Maintain { member, from, intervals } => {
            maintenance::maintain(space, entry, member, (*from, *intervals), happenings)
        }
        Command::Claim { member, seq, amount } => {
            claims::claim(space, entry, member, (*seq, *amount), happenings)
        }
        Command::Adjust { member, delta, reason, operator } => {
            claims::adjust(space, entry, member, *delta, (reason, operator), happenings)
        }
        Command::SetPolicy { policy, budget, activate_at } => {
            rules::set(space, policy, *budget, *activate_at, happenings)
        }
        Command::AgentEnrol { member, address, key, approved } => {
            agents::enrol(space, entry, (member, address, key), *approved, happenings)
        }
        Command::AgentApprove { member, fingerprint } => {
            agents::approve(space, entry, (member, fingerprint.as_deref()), happenings)
        }
        Command::AgentRefuse { member } => agents::refuse(space, member),
        Command::Trim { through, projected } => retention::trim(space, *through, *projected, happenings),
        Command::Notified { hook, cursor } => webhooks::notified(space, entry, hook, cursor),
    }
}
