//! A log that cannot be read: the node gives it up and comes back as a new one of its name.
//!
//! What it promised stood in that log: its vote, and the entries that it acknowledged. Nobody may count on them any more, and
//! it may vote on nothing until the cluster has taken that into account. So it does by itself what an operator would:
//!
//! 1. It looks for a leader among the others. Without one it stops: a leader has a majority, and only a majority without this
//!    node can know everything that this node confirmed (or will find out that it does not, and elect nobody).
//! 2. It asks to be removed. That is a change of the configuration: a majority of the voters, this one not among them,
//!    confirms the whole log up to it. From then on no majority counts on what is lost, however old its configuration.
//! 3. Log and state are set aside, and the directory gets another incarnation. From here on this is an empty node.
//! 4. It joins as any new node does: a learner with a snapshot from the leader, which votes once it has caught up.
//!
//! The way back is written down before step 2, so that a crash anywhere only repeats steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::client::{Call, Client};
use crate::config::Settings;
use crate::ledger::query;
use crate::network::introduce::{self, Introduction};
use crate::network::tls::Tls;
use crate::node::applier;
use crate::node::ports::{StateStore as _, StorageError};
use crate::node::status::{NodeStatus, RoleName};
use crate::storage::directory::{DataDirectory, Rejoin};
use crate::types::NodeId;

use super::{ServerError, join};

/// How long one question to a node may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between rounds of questions.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes the directory, whose log is damaged, that of a node that may join again. `false`: `stop` came first.
///
/// # Errors
/// The damage, with the reason why this node was not taken back; nothing was set aside then.
pub(super) async fn reenter(
    directory: &mut DataDirectory,
    settings: &Settings,
    damage: StorageError,
    stop: &CancellationToken,
) -> Result<bool, ServerError> {
    let Some(patience) = settings.storage.rejoin_within else {
        return Err(stops(damage, "storage.rejoin_within is false"));
    };
    let helpers = Helpers::of(directory, settings)?;
    if helpers.addresses.is_empty() && helpers.urls.is_empty() {
        return Err(stops(damage, "no other super-node is known that could take it back"));
    }
    tracing::warn!(
        event = "log_damaged",
        "{damage}; this node votes on nothing and asks the others to take it back as a new one: {}",
        helpers.names()
    );
    let begun = Instant::now();
    loop {
        let trouble = match helpers.ask(directory, settings).await? {
            Ok(()) => break,
            Err(trouble) => trouble,
        };
        if begun.elapsed() >= patience {
            let why = format!("it was not taken back within {patience:?}: {trouble}");
            return Err(stops(damage, &why));
        }
        tracing::warn!("not taken back yet: {trouble}; trying again");
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    let aside = directory.begin_anew(&damage.to_string())?;
    tracing::warn!(
        event = "log_set_aside",
        "log and state were moved to {}; this node joins its cluster again, with an empty directory, and votes once it \
         has caught up",
        aside.display()
    );
    Ok(true)
}

/// The damage, and why it stays.
fn stops(damage: StorageError, why: &str) -> ServerError {
    let StorageError::Damaged { path, offset, why: found } = damage else { return damage.into() };
    let why = format!(
        "{found}. This node stops, and nothing was set aside: {why}. If a majority of the super-nodes has lost its log, only a \
         backup or the last survivor helps: super-node snapshot restore, super-node recover --force-new-cluster"
    );
    StorageError::Damaged { path, offset, why }.into()
}

/// Who could take this node back, as far as it knows without its log.
struct Helpers {
    who: Introduction,
    /// Peer addresses.
    addresses: BTreeMap<NodeId, String>,
    /// Client URLs.
    urls: BTreeSet<String>,
    /// What an earlier attempt wrote down.
    planned: Option<Rejoin>,
}

impl Helpers {
    fn of(directory: &mut DataDirectory, settings: &Settings) -> Result<Helpers, ServerError> {
        let (mut addresses, founded) = remembered(directory);
        addresses.extend(settings.cluster.peers.clone());
        addresses.retain(|node, address| *node != settings.node.id && !address.is_empty());
        let planned = directory.identity().rejoin.clone();
        let urls = planned.iter().flat_map(|rejoin| rejoin.urls.iter().cloned());
        let tls = settings.tls.files().map(|files| Tls::load(&files)).transpose();
        let tls = tls.map_err(|error| ServerError::Security(error.to_string()))?;
        Ok(Helpers {
            who: Introduction {
                id: settings.node.id.clone(),
                cluster: settings.node.cluster.clone(),
                incarnation: directory.identity().incarnation.clone(),
                identity: founded,
                protocol_max: settings.node.peer_protocol_max,
                tls,
            },
            urls: urls.chain(settings.cluster.join.clone()).collect(),
            addresses,
            planned,
        })
    }

    fn names(&self) -> String {
        let nodes = self.addresses.iter().map(|(node, address)| format!("{node} at {address}"));
        nodes.chain(self.urls.iter().cloned()).collect::<Vec<_>>().join(", ")
    }

    /// One round of questions. `Ok(Err(_))`: why nobody helped.
    async fn ask(
        &self,
        directory: &mut DataDirectory,
        settings: &Settings,
    ) -> Result<Result<(), String>, ServerError> {
        let (mut urls, mut troubles) = (self.urls.clone(), Vec::new());
        for (node, address) in &self.addresses {
            match introduce::client_url(address, node, &self.who).await {
                Ok(url) => drop(urls.insert(url)),
                Err(why) => troubles.push(format!("{node}: {why}")),
            }
        }
        for url in &urls {
            let one = join::client(std::slice::from_ref(url), ASK_TIMEOUT, settings)?;
            match self.look(&one, url).await {
                Ok(status) => {
                    let rejoin = self.way_back(&status, url);
                    let client = join::client(&rejoin.urls, ASK_TIMEOUT, settings)?;
                    directory.plan_rejoin(rejoin)?;
                    match remove(&client, &settings.node.id).await {
                        Ok(()) => return Ok(Ok(())),
                        Err(why) => troubles.push(format!("{} does not remove it: {why}", status.id)),
                    }
                }
                Err(why) => troubles.push(why),
            }
        }
        Ok(Err(troubles.join("; ")))
    }

    /// The status of a node of this cluster that knows a leader.
    async fn look(&self, client: &Client, url: &str) -> Result<NodeStatus, String> {
        let asked = client.ask(url, &Call::get("/v1/status")).await;
        let status: NodeStatus = asked
            .and_then(crate::client::Answer::read)
            .map_err(|error| format!("{url}: {}", error.message))?;
        let foreign =
            matches!((&self.who.identity, &status.identity), (Some(ours), Some(theirs)) if ours != theirs);
        if status.cluster != self.who.cluster || foreign {
            return Err(format!("{url} belongs to another cluster"));
        }
        match &status.leader {
            Some(leader) if *leader != self.who.id => Ok(status),
            _ => Err(format!("{} knows no leader", status.id)),
        }
    }

    fn way_back(&self, status: &NodeStatus, url: &str) -> Rejoin {
        let me = status.nodes.iter().find(|node| node.id == self.who.id);
        let copy = me.map(|me| me.role == RoleName::Learner && !me.joining);
        let planned = self.planned.as_ref().is_some_and(|planned| planned.learner_only);
        let others = status.nodes.iter().filter(|node| node.id != self.who.id);
        let mut urls = vec![url.to_string()];
        urls.extend(others.filter_map(|node| node.url.clone()).filter(|other| other != url));
        Rejoin { urls, learner_only: copy.unwrap_or(planned) }
    }
}

/// What the state, which may be whole, says of the other super-nodes: their peer addresses, and what the cluster was founded
/// with.
fn remembered(directory: &mut DataDirectory) -> (BTreeMap<NodeId, String>, Option<String>) {
    if !directory.identity().state_made {
        return Default::default();
    }
    let Ok(state) = directory.open_state() else { return Default::default() };
    let Ok(view) = state.view() else { return Default::default() };
    let configuration = applier::standing(view.as_ref()).ok().and_then(|standing| standing.configuration);
    let genesis = query::genesis(view.as_ref()).ok().flatten();
    (configuration.unwrap_or_default().addresses, genesis.map(|genesis| genesis.identity))
}

/// Asks for this node's removal. Whoever is no member any more has it behind it.
async fn remove(client: &Client, id: &NodeId) -> Result<(), String> {
    match client.remove_member(id.as_str()).await {
        Ok(_removed) => Ok(()),
        Err(error) if error.code == "not_found" => Ok(()),
        Err(error) => Err(error.message),
    }
}
