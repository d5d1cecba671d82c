//! What super-nodes say to each other over a peer connection. Variants may only be appended.

use serde::{Deserialize, Serialize};

use crate::ledger::command::{Applied, Request};
use crate::raft::{Base, Configuration, Message};
use crate::types::{Index, NodeId, Version};

use super::handle::Failure;

/// Version of the peer protocol. Nodes whose versions differ refuse each other in the hello.
pub const PROTOCOL: u16 = 2;
/// Largest frame, in bytes, on a peer connection.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// The first frame in each direction of a peer connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
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
