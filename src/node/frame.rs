//! What super-nodes say to each other over a peer connection. Variants may only be appended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::command::{Applied, Request};
use crate::raft::{Base, Change, Configuration, Message};
use crate::types::{Index, MemberId, NodeId, Version};

use super::handle::{Changed, Failure, Transferred};

/// The newest version of the peer protocol. Two nodes speak the newest that both know; if there is none, they refuse each
/// other in the hello.
///
/// | version | |
/// |---|---|
/// | 2 | a hello names one version |
/// | 3 | a hello offers a range of versions, and the answer says which of them is spoken; the frames from [`Frame::HearsNoLeader`] on |
/// | 4 | [`Frame::Followed`] |
pub const PROTOCOL: u16 = 4;
/// The oldest version that is still spoken.
pub const PROTOCOL_MIN: u16 = 2;
/// Largest frame, in bytes, on a peer connection.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// The first frame in each direction of a peer connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol that follows.
    pub protocol: u16,
    /// The configured name of the cluster.
    pub cluster: String,
    /// The speaker.
    pub from: NodeId,
    /// Whom it believes to speak to.
    pub to: NodeId,
    /// The speaker's software version.
    pub version: Version,
    /// Where clients find the speaker, for redirects.
    pub url: String,
    /// The speaker's data directory: tells two processes of one name apart.
    pub incarnation: String,
    /// Where super-nodes reach the speaker (`host:port`); empty if it does not know. Whoever does not have the speaker
    /// in its configuration yet answers there.
    pub address: String,
    /// The identity that the speaker's cluster was founded with; `None` if the speaker has not heard of it yet.
    pub identity: Option<String>,
}

/// One frame after the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Consensus.
    Raft(Message),
    /// "Do you answer?"
    Ping {
        /// The pinger's number.
        seq: u64,
    },
    /// "I do."
    Pong {
        /// The ping's number.
        seq: u64,
        /// The answerer's version.
        version: Version,
    },
    /// A write for the leader. Taken once, however often it arrives; see [`super::heard`].
    Forward {
        /// The life of the sending process: a number that it drew when it began.
        life: u64,
        /// Counted up from `life` with every try of every request: never used for a second one.
        id: u64,
        /// What to do.
        request: Request,
    },
    /// The leader's answer.
    ForwardAnswer {
        /// Of the [`Frame::Forward`].
        id: u64,
        /// What came of it.
        result: Result<Applied, Failure>,
    },
    /// A linearizable read asks the leader for a read index.
    ReadIndex {
        /// Counted as in [`Frame::Forward`]: an answer to an earlier try is none to this one.
        id: u64,
    },
    /// The leader's answer.
    ReadIndexAnswer {
        /// Of the [`Frame::ReadIndex`].
        id: u64,
        /// What must have been applied before the read.
        result: Result<Index, Failure>,
    },
    /// Part of the state, for a node that is too far behind for the log.
    Snapshot(SnapshotChunk),
    /// Snapshot part received, or refused.
    SnapshotAck {
        /// Of the transfer.
        transfer: u64,
        /// The next part wanted.
        next: u32,
    },
    /// A read asks the leader for a read index, and is content with its lease. Answered by
    /// [`Frame::ReadIndexAnswer`].
    ReadLease {
        /// Chosen by the sender.
        id: u64,
    },
    /// A change of the configuration for the leader.
    Change {
        /// As in [`Frame::Forward`].
        life: u64,
        /// As in [`Frame::Forward`].
        id: u64,
        /// What changes.
        change: Change,
    },
    /// The leader's answer.
    ChangeAnswer {
        /// Of the [`Frame::Change`].
        id: u64,
        /// What came of it.
        result: Result<Changed, Failure>,
    },
    /// The leader is asked to hand over.
    Transfer {
        /// As in [`Frame::Forward`].
        life: u64,
        /// As in [`Frame::Forward`].
        id: u64,
        /// To whom; `None`: to whom it likes.
        to: Option<NodeId>,
    },
    /// The leader's answer, if it can still give one.
    TransferAnswer {
        /// Of the [`Frame::Transfer`].
        id: u64,
        /// What came of it.
        result: Result<Transferred, Failure>,
    },
    /// "You are not in the cluster's configuration": the answer to a node that speaks as if it were.
    NotMember {
        /// As of this applied position.
        as_of: Index,
    },
    /// "I hear no leader": said beside a ping. There may be one that the speaker refuses to hear, because it came back
    /// under its name with a new directory, and the speaker's state is too old to know.
    HearsNoLeader {
        /// The speaker's applied position.
        as_of: Index,
    },
    /// "These are the data directories that super-nodes are bound to": the answer of a member that hears a leader.
    Bound {
        /// As of this applied position.
        as_of: Index,
        /// At most [`crate::raft::NODES_MAX`].
        incarnations: BTreeMap<NodeId, String>,
    },
    /// "Does this member answer you?" Answered by [`Frame::Word`], whatever comes of it.
    AskHelp {
        /// The asker's number for the question.
        id: u64,
        /// The member.
        member: MemberId,
    },
    /// The answer.
    Word {
        /// Of the [`Frame::AskHelp`].
        id: u64,
        /// Whether the member answered.
        alive: bool,
    },
    /// "My log is whole and my state is gone": asks the leader for a snapshot.
    WantState {
        /// Where the log begins: an older state is of no use.
        base: Index,
    },
    /// "The write that I pass on next is followed": its place in a trace (see [`super::trail`]). No part of the [`Frame::Forward`],
    /// so that a node which does not know traces understands that as ever. May be lost.
    Followed {
        /// Of the [`Frame::Forward`] that follows.
        id: u64,
        /// The trace.
        trace: u128,
        /// The span that the receiver's part hangs below.
        parent: u64,
    },
}

impl Frame {
    /// The version of the peer protocol that a node must speak to know this frame.
    pub fn since(&self) -> u16 {
        match self {
            Frame::Raft(_)
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Forward { .. }
            | Frame::ForwardAnswer { .. }
            | Frame::ReadIndex { .. }
            | Frame::ReadIndexAnswer { .. }
            | Frame::Snapshot(_)
            | Frame::SnapshotAck { .. }
            | Frame::ReadLease { .. }
            | Frame::Change { .. }
            | Frame::ChangeAnswer { .. }
            | Frame::Transfer { .. }
            | Frame::TransferAnswer { .. }
            | Frame::NotMember { .. } => 2,
            Frame::HearsNoLeader { .. }
            | Frame::Bound { .. }
            | Frame::AskHelp { .. }
            | Frame::Word { .. }
            | Frame::WantState { .. } => 3,
            Frame::Followed { .. } => 4,
        }
    }
}

/// Part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Names the transfer; chosen by the sender, never reused.
    pub transfer: u64,
    /// What the whole snapshot covers.
    pub base: Base,
    /// The configuration as of then.
    pub configuration: Configuration,
    /// This part's number, from 0.
    pub part: u32,
    /// Whether it is the last.
    pub last: bool,
    /// CRC-32 over the rows' bytes.
    pub checksum: u32,
    /// Keys and values in order.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}
