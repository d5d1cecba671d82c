//! Entering a running cluster: `start --join URL`.
//!
//! Before anything is made on disk, the cluster is looked at through its HTTP interface: whether it speaks the same
//! protocol, which cluster it is, whether somebody has this node's name. Then the node starts without a configuration,
//! asks to be added under its own peer address, and waits to be dialled. It is a learner until it has caught up, and
//! becomes a voter by itself.
//!
//! *A name is not taken over.* A node that voted and lost its directory must not vote again on an empty one (it could
//! vote twice in a term, or deny an entry that it had acknowledged). So a name that is a voter's is refused; so is a
//! learner's whose log the leader has seen, or who was added under another address. The remedy is to remove the old node
//! first: then the name is free.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::{Call, Client, ClientError, NewSuperNode, Options, Outcome};
use crate::config::{Settings, token_in};
use crate::node::frame::PROTOCOL_MIN;
use crate::node::handle::Handle;
use crate::node::status::{NodeStatus, PeerStatus, RoleName};
use crate::types::Index;

use super::ServerError;

/// How long one question to the cluster may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A directory that belongs to a cluster is compared with the cluster at the URL only if that answers within this time.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause between attempts, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often progress is told while it changes.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What this node's directory says about its past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// There was no directory.
    None,
    /// It was started before, and never heard from a cluster.
    Unused,
}

/// A cluster that this node may enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invitation {
    /// Its configured name.
    pub cluster: String,
    /// Where its nodes take requests.
    pub endpoints: Vec<String>,
    /// Whether this node must still ask to be added.
    pub must_ask: bool,
    /// Whether it asks to follow only, and never votes by itself.
    pub learner_only: bool,
}

/// The node may not enter; nothing was changed.
fn refused(code: u8, message: impl Into<String>, hint: impl Into<String>) -> ServerError {
    ServerError::Join { code, message: message.into(), hint: hint.into() }
}

pub(super) fn client(
    endpoints: &[String],
    timeout: Duration,
    settings: &Settings,
) -> Result<Client, ServerError> {
    let token = settings.auth.token_file.as_deref().map(token_in).transpose();
    let token = token.map_err(|message| {
        refused(2, message, "--token-file names a file that holds one token of the cluster")
    })?;
    let ca = settings.tls.ca.clone();
    let options = Options { endpoints: endpoints.to_vec(), timeout, token, ca, ..Options::default() };
    Client::new(options).map_err(|error| refused(1, error.message, "see the message"))
}

async fn status_at(client: &Client, url: &str) -> Result<NodeStatus, ClientError> {
    client.ask(url, &Call::get("/v1/status")).await?.read()
}

/// Looks at the cluster at one of `urls` after the other until somebody there knows its leader. `None`: `stop` came first.
pub(super) async fn look(
    urls: &[String],
    settings: &Settings,
    address: &str,
    past: Past,
    stop: &CancellationToken,
) -> Result<Option<Invitation>, ServerError> {
    let client = client(urls, ASK_TIMEOUT, settings)?;
    let mut pause = PAUSE.0;
    let mut doors = urls.iter().cycle();
    loop {
        let url = doors.next().map_or("", String::as_str);
        let waits_for = match leader_status(&client, url).await {
            Ok(Some(status)) => return judge(&status, settings, address, past, url).map(Some),
            Ok(None) => "it knows no leader yet".to_string(),
            // Asking again would not help.
            Err(error) if matches!(error.code.as_str(), "unauthorized" | "forbidden") => {
                let hint = "give --token-file with an admin's token of that cluster";
                return Err(refused(7, format!("{url}: {}", error.message), hint));
            }
            Err(error) => error.tried.first().map_or(error.message, |tried| tried.what.clone()),
        };
        tracing::warn!("cannot join through {url}: {waits_for}; trying again");
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

/// The status of the leader, who knows best, or of the node at `url` if only that can be asked; `None` while nobody is
/// known to lead.
async fn leader_status(client: &Client, url: &str) -> Result<Option<NodeStatus>, ClientError> {
    let near = status_at(client, url).await?;
    let Some(leader) = near.leader.clone() else { return Ok(near.removed.then_some(near)) };
    let leader_url = near.nodes.iter().find(|node| node.id == leader).and_then(|node| node.url.clone());
    if leader != near.id
        && let Some(leader_url) = leader_url
        && let Ok(status) = status_at(client, &leader_url).await
        && status.leader.as_ref() == Some(&status.id)
    {
        return Ok(Some(status));
    }
    Ok(Some(near))
}

fn judge(
    status: &NodeStatus,
    settings: &Settings,
    address: &str,
    past: Past,
    url: &str,
) -> Result<Invitation, ServerError> {
    let me = &settings.node.id;
    let (oldest, newest) = (status.peer_protocol, status.peer_protocol_max.max(status.peer_protocol));
    let own = PROTOCOL_MIN..=settings.node.peer_protocol_max;
    if newest < *own.start() || oldest > *own.end() {
        let message = format!(
            "{url} runs super-node {} (peer protocol {oldest} to {newest}), this is {} (peer protocol {} to {})",
            status.version,
            env!("CARGO_PKG_VERSION"),
            own.start(),
            own.end(),
        );
        return Err(refused(2, message, "run versions on both that have a protocol in common"));
    }
    if status.removed {
        let message = format!("{} was itself removed from its cluster", status.id);
        return Err(refused(5, message, "join through a node that is still in it"));
    }
    let any = Settings::default().node.cluster;
    if status.cluster != settings.node.cluster && settings.node.cluster != any {
        let message =
            format!("{url} belongs to cluster '{}', not to '{}'", status.cluster, settings.node.cluster);
        return Err(refused(5, message, "correct --join or node.cluster"));
    }
    let namesake = status.nodes.iter().find(|node| node.id == *me);
    if let Some(namesake) = namesake {
        let vain = namesake_refusal(namesake, address, past);
        if let Some(why) = vain {
            let hint = format!(
                "choose another --id; or, if that node is gone for good, run `super-node member remove {me}` first"
            );
            return Err(refused(
                5,
                format!("{me} is a super-node of cluster '{}' already: {why}", status.cluster),
                hint,
            ));
        }
    }
    let mut endpoints = vec![url.to_string()];
    let known = status.nodes.iter().filter(|node| node.id != *me).filter_map(|node| node.url.clone());
    endpoints.extend(known.chain([status.url.clone()]));
    endpoints.dedup();
    Ok(Invitation {
        cluster: status.cluster.clone(),
        endpoints,
        must_ask: namesake.is_none(),
        learner_only: false,
    })
}

/// Why this node cannot be the one of its name that the cluster knows; `None` if it can: it was added and has not
/// been heard of yet.
fn namesake_refusal(namesake: &PeerStatus, address: &str, past: Past) -> Option<String> {
    let votes = matches!(namesake.role, RoleName::Leader | RoleName::Follower | RoleName::Candidate);
    if votes {
        return Some(format!("it votes, at {}, and its log is not here", namesake.address));
    }
    if namesake.address != address {
        return Some(format!("it was added at {}, and this node is at {address}", namesake.address));
    }
    let heard = namesake.matched.is_some_and(|matched| matched > Index(0));
    (heard && past == Past::None).then(|| "it had begun to follow, and its log is not here".to_string())
}

/// A directory that belongs to a cluster just starts, wherever `--join` points. If that is obviously another cluster, it is
/// a mistake, though, and is told.
pub(super) async fn compare(
    url: &str,
    identity: Option<&str>,
    settings: &Settings,
) -> Result<(), ServerError> {
    let cluster = &settings.node.cluster;
    let client = client(&[url.to_string()], COMPARE_TIMEOUT, settings)?;
    let Ok(status) = status_at(&client, url).await else { return Ok(()) };
    let other_name = status.cluster != *cluster;
    let other_founding =
        identity.is_some() && status.identity.is_some() && status.identity.as_deref() != identity;
    if other_name || other_founding {
        let message = format!(
            "the data directory belongs to a cluster '{cluster}' ({}), and {url} to another: '{}' ({})",
            identity.unwrap_or("not founded yet"),
            status.cluster,
            status.identity.as_deref().unwrap_or("not founded yet"),
        );
        return Err(refused(5, message, "correct --join, or use another --data-dir"));
    }
    Ok(())
}

/// Asks to be added, until it is so or is refused for good. `None`: `stop` came first.
pub(super) async fn ask(
    invitation: &Invitation,
    settings: &Settings,
    address: &str,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    let id = &settings.node.id;
    if !invitation.must_ask {
        tracing::info!("{id} was added to cluster {} before and waits to be found", invitation.cluster);
        return Ok(());
    }
    let client = client(&invitation.endpoints, ASK_TIMEOUT, settings)?;
    let node = NewSuperNode {
        id: id.to_string(),
        address: address.to_string(),
        replaces: settings.cluster.replaces.as_ref().map(ToString::to_string),
        learner_only: invitation.learner_only,
    };
    let mut pause = PAUSE.0;
    loop {
        tracing::info!("{id} asks cluster {} to be added at {address}", invitation.cluster);
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            asked = client.add_super_node(&node) => asked,
        };
        let error = match asked {
            Ok(_added) => return Ok(()),
            Err(error) => error,
        };
        let final_word = error.outcome == Some(Outcome::NotApplied) && !error.retryable;
        if final_word {
            let code = match error.code.as_str() {
                "bad_request" => 2,
                "unauthorized" | "forbidden" => 7,
                _ => 5,
            };
            let hint = error.hint.unwrap_or_else(|| "see the message".to_string());
            return Err(refused(code, format!("the cluster does not take {id}: {}", error.message), hint));
        }
        tracing::warn!("{id} is not added yet: {}; trying again", error.message);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

/// Tells how the node comes along, until it votes (or follows for good as a learner): in the log, and to who watches.
pub(super) async fn tell_progress(handle: Handle, mut watcher: Option<Watcher>, stop: CancellationToken) {
    let mut seen: watch::Receiver<NodeStatus> = handle.status;
    let mut told = String::new();
    loop {
        let progress = progress(&seen.borrow_and_update().clone());
        let (line, done) = match progress {
            CatchUp::Waiting => ("waits to be found by the leader".to_string(), false),
            CatchUp::State { bytes } => (format!("is a learner and fetches the state: {bytes} bytes"), false),
            CatchUp::Entries { applied, commit } => {
                (format!("is a learner and has {applied} of {commit} entries"), false)
            }
            CatchUp::Stable => ("has caught up and is about to vote".to_string(), false),
            CatchUp::Follows => ("has caught up and follows as a learner".to_string(), true),
            CatchUp::Votes => ("votes now".to_string(), true),
        };
        if let Some(watcher) = &mut watcher {
            watcher(progress);
        }
        // Whoever watches sees numbers move, and needs no line for each.
        let moves = matches!(progress, CatchUp::State { .. } | CatchUp::Entries { .. });
        if line != told && !(moves && watcher.is_some()) {
            tracing::info!(event = "join", "this node {line}");
            told = line;
        }
        if done {
            return;
        }
        let pause = async {
            tokio::time::sleep(PROGRESS_EVERY / 4).await;
            // A status that is not renewed any more belongs to a node that stops.
            seen.changed().await.is_err()
        };
        tokio::select! {
            () = stop.cancelled() => return,
            ended = pause => if ended { return },
        }
    }
}

/// How far a node is that joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// The leader has not spoken to it yet.
    Waiting,
    /// It is too far behind for the log, and fetches the state.
    State {
        /// So much is here. How much there is, nobody knows before the end.
        bytes: u64,
    },
    /// It follows the log.
    Entries {
        /// It has this entry.
        applied: u64,
        /// The cluster has this one.
        commit: u64,
    },
    /// It has caught up, and is made a voter once it has kept up for a while.
    Stable,
    /// It has caught up, and stays a learner.
    Follows,
    /// It votes.
    Votes,
}

/// Is told how a node that joins comes along.
pub type Watcher = Box<dyn FnMut(CatchUp) + Send>;

fn progress(status: &NodeStatus) -> CatchUp {
    let (applied, commit) = (status.applied.0, status.commit.0);
    if !status.voters.is_empty() && status.role != RoleName::Learner {
        return CatchUp::Votes;
    }
    if let Some(receiving) = &status.receiving {
        return CatchUp::State { bytes: receiving.bytes };
    }
    if commit == 0 {
        return CatchUp::Waiting;
    }
    let me = status.nodes.iter().find(|node| node.id == status.id);
    let added = status.learners.contains(&status.id);
    match me {
        Some(me) if added && applied >= commit && me.joining => CatchUp::Stable,
        Some(_) if added && applied >= commit => CatchUp::Follows,
        _ => CatchUp::Entries { applied, commit },
    }
}

/// Where super-nodes reach this node: under the name that it was given, otherwise where it listens, otherwise (it listens
/// on all addresses) where it would reach the cluster from. Empty if none of that is known.
pub(super) async fn own_address(settings: &Settings, bound: std::net::SocketAddr) -> String {
    if let Some(listed) = settings.cluster.peers.get(&settings.node.id) {
        return listed.clone();
    }
    if let Some(host) = &settings.listen.advertise {
        let port = bound.port();
        return if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    }
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let Some(url) = settings.cluster.join.as_deref().and_then(|url| url.parse().ok()) else {
        return String::new();
    };
    match crate::agent::own_address_towards(&url, bound.ip()).await {
        Ok(ip) => std::net::SocketAddr::new(ip, bound.port()).to_string(),
        Err(error) => {
            tracing::warn!(
                "cannot tell under which address others reach this node: {error}; set listen.advertise"
            );
            String::new()
        }
    }
}

/// Joins in the background of a running node; an error ends the node.
pub(super) async fn enter(
    invitation: Invitation,
    settings: Arc<Settings>,
    address: String,
    handle: Handle,
    watcher: Option<Watcher>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    ask(&invitation, &settings, &address, &stop).await?;
    tell_progress(handle, watcher, stop).await;
    Ok(())
}
