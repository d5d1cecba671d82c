//! How the layers above use a running node.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::command::{Applied, Request};
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::types::{Index, NodeId, Term};

use super::events::EventLog;
use super::ports::StateStore;
use super::status::{NodeStatus, ProjectionStatus};

/// A write or read did not come to an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Nobody leads, or the leader is not known. Not applied.
    #[error("no leader")]
    NoLeader,
    /// This node does not lead, and forwarding was not allowed. Not applied.
    #[error("not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// A queue is full. Not applied.
    #[error("overloaded")]
    Overloaded,
    /// The entry was replaced by another leader's. Not applied.
    #[error("superseded by a new leader")]
    Superseded,
    /// No answer in time, or the leader was lost on the way. It may have happened, or may still happen.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// No answer to a read in time.
    #[error("timeout")]
    Timeout,
    /// The node is stopping. Not applied.
    #[error("stopping")]
    Draining,
    /// The state cannot be read.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    /// Sees every write acknowledged before it began.
    Linearizable,
    /// What this node has applied.
    Stale,
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Reply<T> {
    /// To one who waits for nothing else.
    Once(oneshot::Sender<Result<T, Failure>>),
    /// To one who waits for many, under the number that it gave this one. The channel holds no more than its owner has
    /// asked for.
    Numbered {
        /// The asker's number.
        id: u64,
        /// Where it takes answers.
        to: mpsc::UnboundedSender<Numbered<T>>,
    },
}

/// An answer with the asker's number.
pub type Numbered<T> = (u64, Result<T, Failure>);

impl<T> Reply<T> {
    /// Answers; `false`: nobody waits any more.
    pub fn send(self, result: Result<T, Failure>) -> bool {
        match self {
            Reply::Once(to) => to.send(result).is_ok(),
            Reply::Numbered { id, to } => to.send((id, result)).is_ok(),
        }
    }
}

impl<T> From<oneshot::Sender<Result<T, Failure>>> for Reply<T> {
    fn from(to: oneshot::Sender<Result<T, Failure>>) -> Reply<T> {
        Reply::Once(to)
    }
}

/// What a [`Handle`] asks of the driver.
#[derive(Debug)]
pub enum Ask {
    /// Replicate and apply a command.
    Submit {
        /// What to do.
        request: Request,
        /// Whether to pass it on when another node leads.
        forward: bool,
        /// How long it may wait for a leader to be known.
        patience: Duration,
        /// Where the answer goes.
        reply: Reply<Applied>,
    },
    /// Find an index that a linearizable read must wait for, and wait until it is applied here.
    ReadBarrier {
        /// Whether to ask another node that leads.
        forward: bool,
        /// How long it may wait for a leader to be known.
        patience: Duration,
        /// Where the answer goes.
        reply: Reply<Index>,
    },
    /// The projector's state, for the status.
    Projection(ProjectionStatus),
}

/// A running node, as the layers above see it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    /// The driver's inbox; full means overloaded.
    pub asks: mpsc::Sender<Ask>,
    /// Renewed by the driver at least every 100 ms while anything changes.
    pub status: watch::Receiver<NodeStatus>,
    /// Moves with every applied batch.
    pub applied: watch::Receiver<Index>,
    /// The term this node leads; `None` while it does not.
    pub leading: watch::Receiver<Option<Term>>,
    /// The applied state.
    pub state: Arc<dyn StateStore>,
    /// What happened.
    pub events: Arc<EventLog>,
}

impl Handle {
    /// Replicates and applies a command, on whichever node leads. [`Failure::Unknown`] after `timeout`: it may have
    /// happened. Every other failure means that it has not and will not.
    pub async fn submit(
        &self,
        request: Request,
        forward: bool,
        timeout: Duration,
    ) -> Result<Applied, Failure> {
        let (reply, answer) = oneshot::channel();
        self.begin_submit(request, forward, timeout, reply.into())?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_driver_gone)) => Err(Failure::Unknown("the node stopped before the answer".to_string())),
            Err(_elapsed) => Err(Failure::Unknown(format!("no answer within {timeout:?}"))),
        }
    }

    /// Returns when [`Handle::view`] is fresh enough for a linearizable read that begins now.
    pub async fn read_barrier(&self, forward: bool, timeout: Duration) -> Result<Index, Failure> {
        let (reply, answer) = oneshot::channel();
        self.begin_read_barrier(forward, timeout, reply.into())?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_driver_gone)) => Err(Failure::Draining),
            Err(_elapsed) => Err(Failure::Timeout),
        }
    }

    /// The first half of [`Handle::submit`]: the answer will come through `reply`, and it is the caller's to take its
    /// absence after `timeout` for [`Failure::Unknown`]. An error means that nothing was asked.
    pub fn begin_submit(
        &self,
        request: Request,
        forward: bool,
        timeout: Duration,
        reply: Reply<Applied>,
    ) -> Result<(), Failure> {
        // Leaves time for the answer that nobody leads, which is a better one than silence.
        let patience = timeout.mul_f64(0.75);
        self.ask(Ask::Submit { request, forward, patience, reply })
    }

    /// The first half of [`Handle::read_barrier`], likewise.
    pub fn begin_read_barrier(
        &self,
        forward: bool,
        timeout: Duration,
        reply: Reply<Index>,
    ) -> Result<(), Failure> {
        self.ask(Ask::ReadBarrier { forward, patience: timeout.mul_f64(0.75), reply })
    }

    /// A consistent view of what this node has applied.
    pub fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        self.state.view()
    }

    fn ask(&self, ask: Ask) -> Result<(), Failure> {
        self.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Failure::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Failure::Draining,
        })
    }
}
