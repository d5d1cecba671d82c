//! Whether there is anybody left to have the state from.
//!
//! A node without its state waits for a leader that sends it one. If *every* voter has lost its state, nobody ever leads, and
//! waiting would hide that from the operator. So such a node asks the others, and stops when all of them have said, again and
//! again, that they lack theirs too.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::client::{Call, Client};
use crate::network::introduce::{self, Introduction};
use crate::node::handle::Handle;
use crate::node::ports::StorageError;
use crate::node::status::NodeStatus;
use crate::types::NodeId;

use super::ServerError;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one may take for its answer.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// So often in a row all must have lost their states before a node stops: by then the others have asked it, too.
const ROUNDS: u32 = 3;

/// Who asks, and whom.
pub(super) struct Inquiry {
    /// How this node introduces itself.
    pub who: Introduction,
    /// Asks the others.
    pub client: Client,
    /// Peer addresses of the others, for a node that has no configuration either.
    pub addresses: BTreeMap<NodeId, String>,
    /// The state's file, for the message.
    pub path: String,
}

/// Asks until this node has a state, or `stop` comes.
///
/// # Errors
/// Damage (exit code 9): no voter has a state.
pub(super) async fn inquire(
    inquiry: Inquiry,
    handle: Handle,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    // What each said last. One that stopped since has not found its state meanwhile.
    let mut lacks: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut rounds = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        let status = handle.status.borrow().clone();
        if !status.lacks_state {
            return Ok(());
        }
        let others = inquiry.others(&status);
        for (node, url) in &others {
            let Some(url) = inquiry.url_of(node, url.as_deref()).await else { continue };
            if let Ok(answer) = inquiry.client.ask(&url, &Call::get("/v1/status")).await
                && let Ok(theirs) = answer.read::<NodeStatus>()
                && theirs.id == *node
                && theirs.cluster == status.cluster
            {
                lacks.insert(node.clone(), theirs.lacks_state);
            }
        }
        let all = others.keys().all(|node| lacks.get(node) == Some(&true));
        rounds = if all && !others.is_empty() && status.leader.is_none() { rounds + 1 } else { 0 };
        if rounds >= ROUNDS {
            return Err(inquiry.hopeless(&status, others.keys()));
        }
    }
}

impl Inquiry {
    /// The other voters, and their client URLs as far as this node has met them.
    fn others(&self, status: &NodeStatus) -> BTreeMap<NodeId, Option<String>> {
        let voters: Vec<NodeId> = if status.voters.is_empty() {
            self.addresses.keys().cloned().collect()
        } else {
            status.voters.clone()
        };
        let url =
            |id: &NodeId| status.nodes.iter().find(|node| node.id == *id).and_then(|node| node.url.clone());
        let others = voters.into_iter().filter(|voter| *voter != status.id);
        others.map(|voter| (voter.clone(), url(&voter))).collect()
    }

    /// Whom the configuration does not name is not connected either: it is asked where its clients find it.
    async fn url_of(&self, node: &NodeId, known: Option<&str>) -> Option<String> {
        if let Some(url) = known {
            return Some(url.to_string());
        }
        introduce::client_url(self.addresses.get(node)?, node, &self.who).await.ok()
    }

    fn hopeless<'n>(&self, status: &NodeStatus, others: impl Iterator<Item = &'n NodeId>) -> ServerError {
        let others: Vec<String> = others.map(ToString::to_string).collect();
        let why = format!(
            "the applied state is lost here and on every other voter ({}), and the log begins only after entry {}: nobody \
             can lead. This node stops; log and vote are whole. Restore the same snapshot on all of them with super-node \
             snapshot restore (docs/backup.md), or put a state that was set aside (damaged-*) back if it is sound after all",
            others.join(", "),
            status.log.base_index
        );
        StorageError::Damaged { path: self.path.clone(), offset: 0, why }.into()
    }
}
