//! A node without consensus: the handle that the layers above use, driven by the test.

use std::sync::{Arc, Mutex, PoisonError};

use super_node::ledger::command::{Answer, Applied, Command};
use super_node::ledger::records::Checkpoint;
use super_node::node::events::EventLog;
use super_node::node::handle::{Ask, Handle};
use super_node::node::status::{
    IntervalCounts, LedgerHead, MemberCounts, NodeStatus, ProjectionStatus, RoleName,
};
use super_node::storage::MemoryState;
use super_node::types::{Index, NodeId, Term};
use tokio::sync::{mpsc, watch};

/// A scripted node.
pub struct FakeNode {
    /// What the layers above get.
    pub handle: Handle,
    /// Sets who leads.
    pub leading: watch::Sender<Option<Term>>,
    /// Moves the applied index.
    pub applied: watch::Sender<Index>,
    /// The last reported projection status.
    pub projection: watch::Receiver<ProjectionStatus>,
    /// The checkpoints that were proposed.
    pub proposed: Arc<Mutex<Vec<Checkpoint>>>,
    _status: watch::Sender<NodeStatus>,
}

fn status(id: &NodeId) -> NodeStatus {
    NodeStatus {
        cluster: "test".to_string(),
        id: id.clone(),
        role: RoleName::Leader,
        term: Term(1),
        leader: Some(id.clone()),
        commit: Index(0),
        applied: Index(0),
        voters: vec![id.clone()],
        nodes: Vec::new(),
        members: MemberCounts::default(),
        interval: IntervalCounts::default(),
        ledger: LedgerHead::default(),
        projection: ProjectionStatus::default(),
        version: "0.0.0".to_string(),
        url: String::new(),
        learners: Vec::new(),
        identity: None,
        peer_protocol: 0,
        peer_protocol_max: 0,
        log: Default::default(),
        changing: false,
        removed: false,
        transfer: None,
        disk_degraded: false,
        disk_full: false,
        lacks_state: false,
        in_memory: false,
        webhooks: Vec::new(),
        receiving: None,
    }
}

impl FakeNode {
    /// A node that does not lead yet.
    pub fn new(id: &str) -> FakeNode {
        let id: NodeId = id.parse().expect("a name");
        let (asks, mut inbox) = mpsc::channel(64);
        let (status_sender, status) = watch::channel(status(&id));
        let (applied, applied_receiver) = watch::channel(Index(0));
        let (leading, leading_receiver) = watch::channel(None);
        let (projection_sender, projection) = watch::channel(ProjectionStatus::default());
        let proposed = Arc::new(Mutex::new(Vec::new()));
        let log = proposed.clone();
        tokio::spawn(async move {
            while let Some(ask) = inbox.recv().await {
                match ask {
                    Ask::Projection(status) => {
                        let _nobody_looks = projection_sender.send(status);
                    }
                    Ask::Submit { request, reply, .. } => {
                        if let Command::Projected(checkpoint) = request.command {
                            log.lock().unwrap_or_else(PoisonError::into_inner).push(checkpoint);
                        }
                        let applied = Applied {
                            answer: Answer::Done,
                            index: Index(1),
                            term: Term(1),
                            leader: id.clone(),
                        };
                        let _gone = reply.send(Ok(applied));
                    }
                    Ask::ReadBarrier { reply, .. } => {
                        let _gone = reply.send(Ok(Index(1)));
                    }
                    // Nobody above the projector asks for these.
                    Ask::Change { .. } | Ask::Transfer { .. } | Ask::Webhook(_) => {}
                }
            }
        });
        let handle = Handle {
            asks,
            status,
            applied: applied_receiver,
            leading: leading_receiver,
            state: Arc::new(MemoryState::new()),
            events: Arc::new(EventLog::default()),
        };
        FakeNode { handle, leading, applied, projection, proposed, _status: status_sender }
    }

    /// Makes it lead in a term.
    pub fn lead(&self, term: u64) {
        self.leading.send_replace(Some(Term(term)));
    }

    /// Tells those who wait that something was applied.
    pub fn news(&self) {
        self.applied.send_modify(|index| index.0 += 1);
    }

    /// Waits for a projection status; panics with the last one after a minute.
    pub async fn projection_where(
        &self,
        what: &str,
        is: impl Fn(&ProjectionStatus) -> bool,
    ) -> ProjectionStatus {
        let mut projection = self.projection.clone();
        let wait = projection.wait_for(|status| is(status));
        let found = tokio::time::timeout(std::time::Duration::from_secs(60), wait).await;
        if let Ok(found) = found {
            return found.expect("the node lives").clone();
        }
        panic!("never: {what}; last {:?}", self.projection.borrow());
    }
}
