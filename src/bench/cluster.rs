//! Finding the leader of the cluster under load, and waiting until a fresh one can be measured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::{Call, Client, segment};
use crate::local::{Fleet, Setup};
use crate::node::status::NodeStatus;

use super::BenchError;

/// How long a fresh cluster may take until it answers a write.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How often a node is asked whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A cluster under load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its configured name.
    pub name: String,
    /// The leader's client address, `host:port`.
    pub leader: String,
    /// Those of all nodes that say where they are, the leader's first.
    pub all: Vec<String>,
    /// The leader's term.
    pub term: u64,
}

/// The part of a URL that a connection is opened to.
pub fn host_and_port(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_string()
}

/// Asks the cluster who leads.
pub async fn find(client: &Client) -> Result<Cluster, BenchError> {
    let status: NodeStatus = client.send(Call::get("/v1/status")).await?.read()?;
    let nobody = || BenchError::Node(format!("no leader: {} knows of none", status.id));
    let leader = status.leader.as_ref().ok_or_else(nobody)?;
    let urls = status.nodes.iter().filter_map(|node| Some((&node.id, node.url.as_deref()?)));
    let (first, others): (Vec<_>, Vec<_>) = urls.partition(|(id, _)| *id == leader);
    let url = first.first().map(|(_, url)| host_and_port(url));
    let leader =
        url.ok_or_else(|| BenchError::Node(format!("{leader} leads, but has not said where it is")))?;
    let all = std::iter::once(leader.clone()).chain(others.iter().map(|(_, url)| host_and_port(url)));
    Ok(Cluster { name: status.cluster, all: all.collect(), leader, term: status.term.0 })
}

/// Starts `nodes` children of `program` in `directory`, and waits until every one follows a leader that takes writes.
pub async fn start(program: PathBuf, nodes: usize, directory: &Path) -> Result<Fleet, BenchError> {
    let failed = |source| BenchError::System { what: format!("start {nodes} super-nodes"), source };
    let setup = Setup { program, nodes, environment: Vec::new(), temporary: true };
    let mut fleet = Fleet::new(setup, directory).map_err(failed)?;
    for at in 0..nodes {
        fleet.start_node(at).map_err(failed)?;
    }
    ready(&mut fleet).await?;
    Ok(fleet)
}

/// Waits until all running nodes of a fleet follow one leader that takes writes and hold what it holds.
pub async fn ready(fleet: &mut Fleet) -> Result<(), BenchError> {
    let deadline = Instant::now() + READY_PATIENCE;
    let write = Call::new(reqwest::Method::PUT, format!("/v1/kv/{}", segment("bench-ready")?));
    let client = fleet.client()?;
    loop {
        if let Some(end) = fleet.dead_child() {
            return Err(BenchError::Node(end));
        }
        let written = client.send(write.clone().body(&serde_json::json!(true))).await;
        if written.is_ok() && agree(fleet).await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(BenchError::Node(match written {
                Ok(_) => format!("the nodes did not agree on a leader within {READY_PATIENCE:?}"),
                Err(error) => format!("the cluster took no write within {READY_PATIENCE:?}: {error}"),
            }));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether all running nodes name the same leader and term, and lack little of what is committed.
async fn agree(fleet: &Fleet) -> bool {
    /// Entries that a follower may lack and count as caught up: what is under way.
    const LAG_MAX: u64 = 5_000;
    let (mut seen, mut newest, mut oldest) = (None, 0, u64::MAX);
    for (at, node) in fleet.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
        let Ok(client) = fleet.client_at(at) else { return false };
        let answer = client.ask(&node.url, &Call::get("/v1/status")).await;
        let Ok(status) = answer.and_then(|answer| answer.read::<NodeStatus>()) else { return false };
        let view = (status.leader.clone(), status.term);
        if view.0.is_none() || seen.get_or_insert_with(|| view.clone()) != &view {
            return false;
        }
        newest = newest.max(status.applied.0);
        oldest = oldest.min(status.applied.0);
    }
    newest.saturating_sub(oldest) <= LAG_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_to_the_host_of_a_url() {
        for (url, expected) in
            [("http://127.0.0.1:7400", "127.0.0.1:7400"), ("http://n1:80/x", "n1:80"), ("n1:80", "n1:80")]
        {
            assert_eq!(host_and_port(url), expected);
        }
    }
}
