//! What the consensus core exchanges with the world: log entries, inputs, effects, events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{Index, NodeId, Term};

use super::wire::Message;

/// Who votes and who only listens. It is *joint* (Raft paper, section 6) while `outgoing` is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The nodes whose majority decides.
    pub voters: BTreeSet<NodeId>,
    /// While a change is under way: the old voters, whose majority is needed too. `None` outside a change.
    pub outgoing: Option<BTreeSet<NodeId>>,
    /// Nodes that receive the log and do not vote. A voter that becomes one is listed from the beginning of the change,
    /// while its vote still counts among the `outgoing`.
    pub learners: BTreeSet<NodeId>,
    /// Learners that become voters by themselves once they have caught up and stayed so. The value is the voter that
    /// leaves in the same change, if any: replacing a node is one change.
    pub joining: BTreeMap<NodeId, Option<NodeId>>,
    /// Where each node is reached by its peers. Opaque to the core; a node without an address is known to the shell.
    pub addresses: BTreeMap<NodeId, String>,
}

/// A change of the [`Configuration`]. Whatever touches the voters goes through joint consensus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A new node receives the log, without a vote.
    AddLearner {
        /// The node, which must not be a member yet.
        node: NodeId,
        /// Where its peers reach it.
        address: String,
        /// Whether it becomes a voter by itself once it has caught up and stayed so.
        promote: bool,
        /// The voter that leaves in the very change that promotes it. Only together with `promote`.
        replaces: Option<NodeId>,
    },
    /// A learner that has caught up becomes a voter, now. If it was to replace a voter, it does.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// A voter becomes a learner.
    Demote {
        /// The voter.
        node: NodeId,
    },
    /// A voter or learner leaves.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// A node is reached elsewhere.
    Readdress {
        /// The node.
        node: NodeId,
        /// Where its peers reach it from now on.
        address: String,
    },
    /// A learner that has caught up takes the place of a voter, in one change.
    Replace {
        /// The voter, which leaves.
        voter: NodeId,
        /// The learner.
        learner: NodeId,
    },
}

/// Why a [`Change`] cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ChangeError {
    /// It is a voter or learner already.
    #[error("the node is a member already")]
    AlreadyMember,
    /// It is neither voter nor learner.
    #[error("the node is not a member")]
    NotMember,
    /// Only a learner can be promoted.
    #[error("the node is not a learner")]
    NotLearner,
    /// Only a voter can be demoted or replaced.
    #[error("the node is not a voter")]
    NotVoter,
    /// Nobody would be left to decide.
    #[error("the node is the last voter")]
    LastVoter,
    /// Its log is not close enough to the leader's, or it was not heard of late.
    #[error("the node has not caught up")]
    NotCaughtUp,
    /// More than [`super::VOTERS_MAX`] voters.
    #[error("there are as many voters as there may be")]
    TooManyVoters,
    /// More than [`super::NODES_MAX`] nodes.
    #[error("there are as many nodes as there may be")]
    TooManyNodes,
    /// Who only listens takes nobody's place.
    #[error("a learner that is not to be promoted cannot replace a voter")]
    ReplacesWithoutPromotion,
    /// That voter is being replaced already.
    #[error("the voter is being replaced already")]
    AlreadyReplaced,
    /// An address is 1 to [`super::ADDRESS_BYTES_MAX`] bytes.
    #[error("the address is empty or too long")]
    BadAddress,
    /// The node has that address already.
    #[error("the node has that address already")]
    SameAddress,
    /// The voters after the change (or the old ones) do not answer now: the change could not be completed.
    #[error("a majority of the voters after the change does not answer")]
    QuorumOutOfReach,
}

/// One position of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: Term,
    /// Its position.
    pub index: Index,
    /// What it says.
    pub payload: Payload,
}

/// What a log entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A new leader's first entry, which lets it commit what it inherited (Raft paper, section 8).
    Noop,
    /// Opaque bytes for the replicated machine.
    Command(Bytes),
    /// A change of the configuration; in force from its append.
    Configuration(Configuration),
}

/// What must survive a crash besides the entries (Raft paper, figure 2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The newest term this node has seen.
    pub term: Term,
    /// For whom it voted in that term.
    pub vote: Option<NodeId>,
}

/// The log begins after this position: everything up to it lives in the applied state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The last forgotten position; 0 when nothing was forgotten.
    pub index: Index,
    /// The term of the entry at that position.
    pub term: Term,
}

/// What the log store found when it opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last durable term and vote.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: Base,
    /// All durable entries after `base`, contiguous.
    pub entries: Vec<Entry>,
}

/// Number of a [`Persist`] batch, contiguous from 1 within one run of the process.
pub type Seq = u64;

/// One batch for the disk, written and synced as a unit and in order of `seq`. The parts take effect in the order
/// of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persist {
    /// Answer with [`Input::Persisted`] once this batch and all before it are synced.
    pub seq: Seq,
    /// New term and vote.
    pub hard_state: Option<HardState>,
    /// Forget everything up to here. Entries after it are kept if the log's entry at that index has that term;
    /// otherwise all are dropped (a snapshot replaced them).
    pub base: Option<Base>,
    /// Entries to append; one whose index already exists first removes that entry and all after it.
    pub entries: Vec<Entry>,
}

/// Why a node believes that the leader is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElectionReason {
    /// The cluster has never had a leader that this node knows of.
    Startup,
    /// Nothing was heard for a randomised election timeout.
    Timeout,
    /// The leader's connection was reset and a new one refused: its process is gone.
    ConnectionLost,
    /// The ping task found the leader silent.
    PingsSilent,
    /// The leader asked this node to take over.
    Transfer,
}

impl ElectionReason {
    /// The name in documents, metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            ElectionReason::Startup => "startup",
            ElectionReason::Timeout => "timeout",
            ElectionReason::ConnectionLost => "connection_lost",
            ElectionReason::PingsSilent => "pings_silent",
            ElectionReason::Transfer => "transfer",
        }
    }
}

/// Names one proposal or read of the shell, which chooses the numbers and never reuses one.
pub type RequestId = u64;

/// What happens to the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time has passed; due whenever [`super::Raft::deadline`] is reached, harmless at any other time.
    Tick,
    /// A peer's message. What is malformed is dropped and counted, and so are answers of nodes outside the configuration.
    Message {
        /// The authenticated sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A command to replicate. Answered by [`Effect::Proposed`] or [`Effect::Refused`] in the same batch.
    Propose {
        /// Names the answer.
        request: RequestId,
        /// Opaque bytes.
        command: Bytes,
    },
    /// A linearizable read (Raft dissertation, section 6.4). Answered by [`Effect::ReadReady`] or [`Effect::Refused`].
    Read {
        /// Names the answer.
        request: RequestId,
        /// Whether the leader's lease is proof enough (section 6.4.1), where one is configured and holds; otherwise
        /// the read is confirmed like any other.
        lease: bool,
    },
    /// A change of the configuration. Answered in the same batch by [`Effect::Proposed`], with the place of its first
    /// configuration entry, or by [`Effect::Refused`]. One is under way at a time.
    Change {
        /// Names the answer.
        request: RequestId,
        /// What changes.
        change: Change,
    },
    /// Hand leadership over (Raft dissertation, section 3.10). Answered in the same batch by [`Effect::Transferring`] or
    /// [`Effect::Refused`]; how it ends is told by [`StepDown::Transferred`] or [`Event::TransferAborted`].
    Transfer {
        /// Names the answer.
        request: RequestId,
        /// To whom, a voter; `None`: to the most caught-up one that is fit to lead.
        to: Option<NodeId>,
    },
    /// The batch `seq` and all before it are durable.
    Persisted {
        /// See [`Persist::seq`].
        seq: Seq,
    },
    /// This process stood still for so long, as after SIGSTOP. Comes before anything else that waited meanwhile.
    Stalled {
        /// How long.
        span: Duration,
    },
    /// The disk has no room for further entries (`full`), or has it again.
    DiskRoom {
        /// Whether it has none.
        full: bool,
    },
    /// A detector outside found `node` dead. Only matters when it leads.
    PeerSilent {
        /// The silent node.
        node: NodeId,
        /// Which detector fired.
        reason: ElectionReason,
    },
    /// The applied state is durable up to `index`: the log up to there may be forgotten.
    Compact {
        /// At most the applied index.
        index: Index,
    },
    /// The node received a whole snapshot and its state is durably replaced by it.
    SnapshotInstalled {
        /// Last index and term that the snapshot covers.
        base: Base,
        /// The configuration as of then.
        configuration: Configuration,
    },
    /// A snapshot transfer that [`Effect::SendSnapshot`] began has ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// What it covered; `None` when the transfer failed.
        index: Option<Index>,
    },
}

/// What the shell must do. Within one batch (one [`super::Raft::take_effects`]) effects stand in the order in which
/// they must be *started*; nothing needs to wait for anything else, because the core holds back every message
/// that depends on a write until that write is reported by [`Input::Persisted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write and sync; at most one per batch.
    Persist(Persist),
    /// Send now. Loss, duplication and reordering are harmless.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Committed *and* locally durable entries, in order, each exactly once per run.
    Apply {
        /// Contiguous with the previous batch.
        entries: Vec<Entry>,
    },
    /// The proposal sits in the log at this position. If another term's entry is applied there, it is lost; until
    /// something is applied there, its outcome is unknown.
    Proposed {
        /// Names the proposal.
        request: RequestId,
        /// Its position.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// The read may be served once `index` has been applied.
    ReadReady {
        /// Names the read.
        request: RequestId,
        /// What must have been applied.
        index: Index,
    },
    /// The leader hands over to `to`, and takes no proposals until that succeeds or is given up.
    Transferring {
        /// Names the request.
        request: RequestId,
        /// Who is to lead.
        to: NodeId,
    },
    /// The proposal, read, change or transfer was not accepted and has not happened.
    Refused {
        /// Names it.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// `to` lacks entries that the log has forgotten: send it the state.
    SendSnapshot {
        /// The receiver.
        to: NodeId,
    },
    /// Something an operator may want to know.
    Event(Event),
}

/// Why a proposal, read, change or transfer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another node leads, or none.
    #[error("not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// The log's uncommitted part is at its bound.
    #[error("too many uncommitted entries")]
    Overloaded,
    /// The leader is handing over; whoever leads in a moment will take the request.
    #[error("leadership is being handed to {to}")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// Another change of the configuration is under way.
    #[error("another change of the configuration is under way")]
    ChangePending,
    /// The leader has not committed an entry of its own term yet, and must not change the configuration before.
    #[error("the leader has not committed anything in its term yet")]
    NoCommitInTerm,
    /// The change makes no sense in the present configuration.
    #[error("{0}")]
    InvalidChange(ChangeError),
    /// Nobody can take over: the named node is no voter, is this one, or is not heard; or no voter is fit.
    #[error("nobody can take over")]
    NoTarget,
}

/// Something an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// This node asks for votes.
    ElectionStarted {
        /// The term it stands in (for a pre-vote: would stand in).
        term: Term,
        /// Whether this is the harmless question that comes first.
        pre_vote: bool,
        /// What made it.
        reason: ElectionReason,
    },
    /// This node answered a vote request.
    VoteCast {
        /// The term of the request.
        term: Term,
        /// Who asked.
        candidate: NodeId,
        /// The answer.
        granted: bool,
        /// Whether it was a pre-vote.
        pre_vote: bool,
    },
    /// This node won.
    BecameLeader {
        /// The term it leads.
        term: Term,
        /// What made it stand.
        reason: ElectionReason,
        /// Who voted for it, itself included.
        votes: BTreeSet<NodeId>,
        /// The leader it last heard of, if any.
        previous: Option<NodeId>,
        /// From the last word of the previous leader (or from start) to the victory.
        leaderless: Duration,
    },
    /// This node stood for election, and did not win: another was heard to lead, a newer term was seen, or too few voted for
    /// it in time.
    ElectionLost {
        /// The term it stood in.
        term: Term,
        /// What had made it stand.
        reason: ElectionReason,
    },
    /// This node follows a leader it did not follow before.
    FollowsLeader {
        /// The term.
        term: Term,
        /// The leader.
        leader: NodeId,
    },
    /// This node stopped leading.
    SteppedDown {
        /// The term that it led.
        term: Term,
        /// In words.
        reason: StepDown,
    },
    /// This leader hands over.
    TransferStarted {
        /// To whom.
        to: NodeId,
    },
    /// The transfer did not succeed in time; this leader goes on.
    TransferAborted {
        /// To whom it was to be.
        to: NodeId,
    },
    /// A write to this node's disk takes suspiciously long.
    DiskDegraded {
        /// How long the oldest has been pending.
        pending: Duration,
    },
    /// This node's disk keeps up again.
    DiskRecovered,
    /// A configuration that is not joint was committed.
    ConfigurationChanged {
        /// Where it stands in the log.
        index: Index,
        /// What it says.
        configuration: Configuration,
    },
    /// This leader makes a voter of a learner that has caught up.
    LearnerPromoted {
        /// The learner.
        node: NodeId,
        /// The voter that leaves in the same change.
        replaces: Option<NodeId>,
    },
}

/// Why a leader stopped leading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepDown {
    /// A message carried a newer term.
    HigherTerm,
    /// No quorum answered within the election timeout.
    QuorumLost,
    /// It is no longer a voter.
    Removed,
    /// Its disk has confirmed nothing for the longest election timeout.
    DiskStuck,
    /// It handed over, and its successor stands.
    Transferred,
}
