//! The ports of a node: what the shell must provide, for real (`storage`, `network`) or simulated (`sim`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ledger::keyspace::{Keyspace, KeyspaceError, Reader};
use crate::raft::{Persist, Recovered};
use crate::types::{AgentKey, Index, MemberId, NodeId};

use super::frame::Frame;
use super::spool::{MemorySpool, Row, Spool};

/// The disk failed or holds something it should not. All but [`StorageError::Full`] end the process.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, as a verb: `write`, `sync`, ….
        action: &'static str,
        /// The file.
        path: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// Acknowledged data cannot be read back (exit code 9).
    #[error("{path} is damaged at byte {offset}: {why}")]
    Damaged {
        /// The file.
        path: String,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// There is no room. What was there is untouched, and what was to be written waits in memory; see
    /// [`LogStore::append`].
    #[error("no room for {path}: make room on that disk; what is waiting is then written")]
    Full {
        /// The file that could not grow.
        path: String,
    },
    /// The directory belongs to somebody else, or to a newer version; the text holds the remedy (exit code 2).
    #[error("{0}")]
    Refused(String),
}

/// The durable Raft log. Lives on the disk thread.
pub trait LogStore: Send + 'static {
    /// Writes batches in order and syncs once. When it returns, all of them are durable. An error is final: the
    /// caller stops and never retries (a failed sync may have dropped the pages: safety rule 3).
    ///
    /// Except [`StorageError::Full`]: the batches are taken, and nothing of them was written. The caller calls again later,
    /// with further batches or none; when that succeeds, all are durable.
    fn append(&mut self, batches: &[Persist]) -> Result<(), StorageError>;

    /// Bytes on disk.
    fn bytes(&self) -> u64;

    /// Bytes that the disk still has room for; `None` if that cannot be told.
    fn room(&self) -> Option<u64>;
}

impl LogStore for Box<dyn LogStore> {
    fn append(&mut self, batches: &[Persist]) -> Result<(), StorageError> {
        (**self).append(batches)
    }

    fn bytes(&self) -> u64 {
        (**self).bytes()
    }

    fn room(&self) -> Option<u64> {
        (**self).room()
    }
}

/// What opening a log gives.
pub struct OpenedLog<L> {
    /// The log, ready to append.
    pub log: L,
    /// What it holds.
    pub recovered: Recovered,
    /// Lines for the operator, such as a torn tail that was cut.
    pub notes: Vec<String>,
}

/// Rows that are to replace a state. An error among them ends that.
pub type NewRows<'r> = dyn Iterator<Item = Result<Row, KeyspaceError>> + 'r;

/// The applied state.
pub trait StateStore: Send + Sync + 'static {
    /// A consistent view that later updates do not change.
    fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError>;

    /// Runs `work` in one transaction: all of it becomes visible, or nothing if it fails. Not durable before
    /// [`StateStore::flush`]; after a crash the store holds some earlier whole transaction.
    fn update(
        &self,
        work: &mut dyn FnMut(&mut dyn Keyspace) -> Result<(), KeyspaceError>,
    ) -> Result<(), KeyspaceError>;

    /// Makes everything durable.
    fn flush(&self) -> Result<(), KeyspaceError>;

    /// Replaces everything by `rows`, durably, all or nothing: after an error among them nothing has changed.
    fn replace(&self, rows: &mut NewRows<'_>) -> Result<(), KeyspaceError>;

    /// Where the rows of a snapshot that is arriving wait.
    fn spool(&self) -> Box<dyn Spool> {
        Box::new(MemorySpool::default())
    }

    /// Bytes on disk.
    fn bytes(&self) -> u64;

    /// Bytes that the disk still has room for; `None` if that cannot be told.
    fn room(&self) -> Option<u64>;
}

/// Who belongs to the cluster, as this node knows it now, and where to reach them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressBook {
    /// What the cluster was founded with; `None` before this node has heard of it. Tells two clusters of one name apart.
    pub identity: Option<String>,
    /// The other super-nodes of the configuration in force, and their peer addresses (`host:port`).
    pub nodes: BTreeMap<NodeId, String>,
    /// The data directories that super-nodes are bound to. Whoever comes in the name of one with another directory has
    /// lost its votes and its log, and must not be heard.
    pub incarnations: BTreeMap<NodeId, String>,
    /// As of which position of the log they are bound to those. What is bound is a function of the log, so of two that
    /// disagree the one that knows more of it is right.
    pub as_of: Index,
}

/// The way to the other super-nodes. Never blocks: a full queue drops the frame, as a network may.
pub trait Network: Send + Sync + 'static {
    /// Sends a frame: it may be lost, come late, or arrive twice. But what is sent to one process never arrives at the
    /// next one of that node: connections end with the process at either end.
    fn send(&self, to: &NodeId, frame: Frame);

    /// From now on these are the super-nodes. Connections to new ones are made, those that left are let go: they may
    /// still be heard and answered as long as they keep their own connection up, so that they learn that they left.
    fn set_book(&self, book: &AddressBook);
}

/// A ping to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPing {
    /// The agent.
    pub member: MemberId,
    /// Its address: `host:port`.
    pub address: Arc<str>,
    /// Its key.
    pub key: AgentKey,
    /// The ping's number.
    pub seq: u64,
}

/// The way to the agents. Never blocks.
pub trait Pinger: Send + Sync + 'static {
    /// Sends pings. An answer that the agent's key authenticates comes back through the inbox.
    fn ping(&self, pings: &[AgentPing]);
}
