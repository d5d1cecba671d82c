//! What goes into a node and what comes out of it.

use std::time::Duration;

use crate::health::{self, Level};
use crate::ledger::apply::Happening;
use crate::raft::{self, Entry, Persist, Seq};
use crate::types::{AgentKey, Index, MemberId, NodeId, Version};

use super::applier::{AppliedBatch, Intake};
use super::frame::{Frame, SnapshotChunk};
use super::ports::AddressBook;
use super::requests::{AskId, Outcome, Want};
use super::snapshot::{Received, WantPart};
use super::status::{ProjectionStatus, WebhookStatus};

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A frame from a super-node.
    Frame {
        /// The authenticated sender.
        from: NodeId,
        /// What it says.
        frame: Frame,
    },
    /// A super-node's connection was reset and a new one refused: its process is gone.
    PeerGone {
        /// The super-node.
        node: NodeId,
    },
    /// A super-node introduced itself.
    PeerMet {
        /// The super-node.
        node: NodeId,
        /// Where its clients find it.
        url: String,
        /// The incarnation of its data directory.
        incarnation: String,
    },
    /// An agent answered a ping.
    AgentPong {
        /// The agent.
        member: MemberId,
        /// The ping's number.
        seq: u64,
        /// The version it states.
        version: Version,
    },
    /// Somebody above wants something.
    Ask {
        /// Names the answer.
        ask: AskId,
        /// What is wanted.
        want: Want,
        /// Whether to pass it on when another node leads.
        forward: bool,
        /// How long it may wait for a leader to be known.
        patience: Duration,
    },
    /// The projector's state, for the status.
    Projection(ProjectionStatus),
    /// How a webhook of this node fares, for the status.
    Webhook(WebhookStatus),
    /// The log is durable up to this batch.
    Persisted {
        /// See [`Persist::seq`].
        seq: Seq,
    },
    /// Entries were applied.
    Applied(Box<AppliedBatch>),
    /// The applied state is durable up to here.
    Flushed {
        /// The applied index at the flush.
        index: Index,
    },
    /// A wanted part of a snapshot was exported; `None` if the transfer is no longer known.
    Exported {
        /// The receiver.
        to: NodeId,
        /// The transfer.
        transfer: u64,
        /// The part.
        chunk: Option<Box<SnapshotChunk>>,
    },
    /// What became of a part of a received snapshot.
    Installed {
        /// The part, without its rows.
        snapshot: Box<Received>,
        /// Kept, refused, or, of the last one: the new state.
        intake: Intake,
    },
    /// This process did not run for so long.
    Stalled(Duration),
    /// A ping to an agent could not be sent.
    PingNotSent,
    /// The disk has no room for further entries (`full`), or has it again.
    DiskRoom {
        /// Whether it has none.
        full: bool,
    },
}

/// What the shell must do, in order of the list; `Persist` may go to another thread, and nothing waits for it.
#[derive(Debug)]
pub enum Effect {
    /// Write and sync, then [`Input::Persisted`].
    Persist(Persist),
    /// Send now; may be lost.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to say.
        frame: Frame,
    },
    /// Ping an agent now.
    Ping {
        /// The agent.
        member: MemberId,
        /// Its address.
        address: std::sync::Arc<str>,
        /// Its key.
        key: AgentKey,
        /// The ping's number.
        seq: u64,
    },
    /// Apply, then [`Input::Applied`].
    Apply(Vec<Entry>),
    /// Begin a snapshot transfer (part 0) or export a part, then [`Input::Exported`].
    Export(WantPart),
    /// Forget a transfer's view.
    CloseExport {
        /// The transfer.
        transfer: u64,
    },
    /// Keep a part of a received snapshot, or replace the state if it is the last, then [`Input::Installed`].
    Install(Box<Received>),
    /// Answer an ask.
    Reply {
        /// Names the ask.
        ask: AskId,
        /// The answer.
        outcome: Outcome,
    },
    /// Tell the operator.
    Tell(Notice),
    /// These are the super-nodes from now on.
    SetBook(AddressBook),
}

/// Something to tell the operator: an event, a log line, a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Consensus.
    Raft(raft::Event),
    /// The replicated machine.
    Ledger(Happening),
    /// The detector changed its mind about a member.
    Level {
        /// The member.
        member: MemberId,
        /// Before.
        from: Level,
        /// Now.
        to: Level,
        /// Consecutive misses.
        misses: u32,
    },
    /// A ping's outcome.
    Pinged(health::Outcome),
    /// A snapshot transfer ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// Whether it has everything.
        complete: bool,
    },
    /// A received snapshot replaced the state.
    SnapshotInstalled {
        /// From whom.
        from: NodeId,
        /// What it covers.
        index: Index,
    },
    /// How long a write took from the ask to its application, on the leader.
    Committed(Duration),
    /// The process did not run for so long.
    Stalled(Duration),
    /// This node was removed from the cluster.
    Removed,
    /// This leader has a voter replaced that was silent for too long (`done: false`), or that has happened.
    Replaced {
        /// Who, by whom, and why.
        replacement: super::autopilot::Replacement,
        /// Whether it has happened.
        done: bool,
    },
    /// The disk has no room for further entries, and writes are refused (`full`); or it has it again.
    DiskRoom {
        /// Whether it has none.
        full: bool,
    },
    /// A follower needs snapshots again and again, and waits for the next.
    FallsBehind {
        /// The follower.
        node: NodeId,
        /// How long it waits.
        pause: Duration,
    },
    /// The applied state is gone, and is being fetched from the leader.
    StateLost {
        /// Where the log begins: what came before is only in the state.
        base: Index,
    },
    /// The applied state is there again.
    StateMended {
        /// Whose state it is.
        from: NodeId,
        /// Up to where.
        index: Index,
    },
}
