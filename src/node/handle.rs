//! How the layers above use a running node.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::command::{Applied, Request};
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::raft::{Change, ChangeError, Configuration};
use crate::types::{Index, NodeId, Term};

use super::events::EventLog;
use super::ports::StateStore;
use super::status::{NodeStatus, ProjectionStatus, WebhookStatus};
use super::trail::Traced;

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
    /// The change of the configuration cannot be. Nothing changed.
    #[error("{0}")]
    Change(ChangeError),
    /// Another change of the configuration is under way, and did not end in time. Nothing changed.
    #[error("another change of the configuration is under way")]
    ChangePending,
    /// Nobody can take the leadership over. Nothing changed.
    #[error("nobody can take over")]
    NoTarget,
    /// The chosen successor did not take over in time; the leader leads on.
    #[error("{to} did not take over in time")]
    TransferAborted {
        /// The successor.
        to: NodeId,
    },
    /// This node was removed from the cluster. Not applied.
    #[error("this node was removed from the cluster")]
    Removed,
    /// The leader's disk has no room. Not applied.
    #[error("the disk of {node} is full")]
    DiskFull {
        /// The leader.
        node: NodeId,
    },
}

/// A change of the configuration is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Where its final configuration stands in the log.
    pub index: Index,
    /// That configuration.
    pub configuration: Configuration,
}

/// Leadership has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// Who leads now; almost always whom it was handed to.
    pub leader: NodeId,
    /// The new term.
    pub term: Term,
}

impl Failure {
    /// Whether another try may fare better.
    pub fn is_retryable(&self) -> bool {
        match self {
            Failure::NoLeader
            | Failure::NotLeader { .. }
            | Failure::Overloaded
            | Failure::Superseded
            | Failure::Unknown(_)
            | Failure::Timeout
            | Failure::Draining
            | Failure::Removed
            | Failure::DiskFull { .. } => true,
            Failure::Damaged(_)
            | Failure::Change(_)
            | Failure::ChangePending
            | Failure::NoTarget
            | Failure::TransferAborted { .. } => false,
        }
    }

    /// Whether a write may have happened, or may still happen.
    pub fn leaves_open(&self) -> bool {
        matches!(self, Failure::Unknown(_))
    }
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    /// Sees every write acknowledged before it began.
    Linearizable,
    /// The same, as long as clocks run at about the same rate: the leader may answer from its lease, without asking
    /// its followers. Where no lease is configured or none holds, it is asked for as [`ReadLevel::Linearizable`].
    Lease,
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
        /// Whether its way is followed, and from where it comes.
        traced: Option<Traced>,
    },
    /// Find an index that a linearizable read must wait for, and wait until it is applied here.
    ReadBarrier {
        /// Whether the leader's lease is proof enough.
        lease: bool,
        /// Whether to ask another node that leads.
        forward: bool,
        /// How long it may wait for a leader to be known.
        patience: Duration,
        /// Where the answer goes.
        reply: Reply<Index>,
    },
    /// The projector's state, for the status.
    Projection(ProjectionStatus),
    /// How a webhook fares, for the status.
    Webhook(WebhookStatus),
    /// Change the configuration.
    Change {
        /// What changes.
        change: Change,
        /// Whether to pass it on when another node leads.
        forward: bool,
        /// How long it may wait for a leader to be known, or for another change to end.
        patience: Duration,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Changed, Failure>>,
    },
    /// Hand the leadership over.
    Transfer {
        /// To whom; `None`: to whom the leader likes.
        to: Option<NodeId>,
        /// Whether to pass it on when another node leads.
        forward: bool,
        /// How long it may wait for a leader to be known.
        patience: Duration,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Transferred, Failure>>,
    },
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
        self.submit_traced(request, forward, timeout, None).await
    }

    /// The same, of a write whose way through the node may be followed.
    pub async fn submit_traced(
        &self,
        request: Request,
        forward: bool,
        timeout: Duration,
        traced: Option<Traced>,
    ) -> Result<Applied, Failure> {
        let (reply, answer) = oneshot::channel();
        let (patience, reply) = (answer_early(timeout), reply.into());
        self.ask(Ask::Submit { request, forward, patience, reply, traced })?;
        unknown_in_time(answer, timeout).await
    }

    /// Changes the configuration. Returns when the change is complete: its final configuration is applied on the
    /// leader. [`Failure::Unknown`] after `timeout`, or when the leader was lost on the way: it may complete yet, and
    /// the status shows whether it has. Every other failure means that nothing changed.
    pub async fn change(&self, change: Change, forward: bool, timeout: Duration) -> Result<Changed, Failure> {
        let (reply, answer) = oneshot::channel();
        let patience = timeout.mul_f64(0.75);
        self.ask(Ask::Change { change, forward, patience, reply })?;
        unknown_in_time(answer, timeout).await
    }

    /// Hands the leadership over, to `to` or to whom the leader likes. Returns when another node leads.
    /// [`Failure::Unknown`] after `timeout`.
    pub async fn transfer(
        &self,
        to: Option<NodeId>,
        forward: bool,
        timeout: Duration,
    ) -> Result<Transferred, Failure> {
        let (reply, answer) = oneshot::channel();
        let patience = timeout.mul_f64(0.75);
        self.ask(Ask::Transfer { to, forward, patience, reply })?;
        unknown_in_time(answer, timeout).await
    }

    /// Returns when [`Handle::view`] is fresh enough for a linearizable read that begins now. `lease`: the leader's
    /// lease is proof enough; see [`ReadLevel::Lease`].
    pub async fn read_barrier(
        &self,
        lease: bool,
        forward: bool,
        timeout: Duration,
    ) -> Result<Index, Failure> {
        let (reply, answer) = oneshot::channel();
        self.begin_read_barrier(lease, forward, timeout, reply.into())?;
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
        self.ask(Ask::Submit { request, forward, patience: answer_early(timeout), reply, traced: None })
    }

    /// The first half of [`Handle::read_barrier`], likewise.
    pub fn begin_read_barrier(
        &self,
        lease: bool,
        forward: bool,
        timeout: Duration,
        reply: Reply<Index>,
    ) -> Result<(), Failure> {
        self.ask(Ask::ReadBarrier { lease, forward, patience: timeout.mul_f64(0.75), reply })
    }

    /// A consistent view of what this node has applied. An error while its state is gone: what it would show is not old,
    /// but wrong.
    pub fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        if self.status.borrow().lacks_state {
            return Err(KeyspaceError::Damaged {
                key: "(all)".to_string(),
                why: "the state of this node is gone and is being fetched from the leader; ask another node"
                    .to_string(),
            });
        }
        self.state.view()
    }

    fn ask(&self, ask: Ask) -> Result<(), Failure> {
        self.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Failure::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Failure::Draining,
        })
    }
}

/// Leaves time for the answer that nobody leads, which is a better one than silence.
fn answer_early(timeout: Duration) -> Duration {
    timeout.mul_f64(0.75)
}

/// The answer to something that may happen even if nobody hears of it.
async fn unknown_in_time<T>(
    answer: oneshot::Receiver<Result<T, Failure>>,
    timeout: Duration,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_driver_gone)) => Err(Failure::Unknown("the node stopped before the answer".to_string())),
        Err(_elapsed) => Err(Failure::Unknown(format!("no answer within {timeout:?}"))),
    }
}
