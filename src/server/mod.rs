//! Puts one real node together: directory, listeners, network, driver, projector, HTTP; and takes it apart again.

mod drain;
mod join;
mod lost;
mod opened;
mod reenter;
mod scrub;
mod state;
mod webhooks;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiParts, ApiState, Guard, Surroundings};
use crate::config::Settings;
use crate::database::feed::{Feed, LedgerFeed};
use crate::database::mongo::MongoSettings;
use crate::database::{shell, verify};
use crate::health;
use crate::ledger::command::Command;
use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::query;
use crate::metrics::Metrics;
use crate::network::introduce::Introduction;
use crate::network::peers::{self, PeerEvent, PeerNetwork, PeerSettings};
use crate::network::tls::{self, Tls};
use crate::network::udp::{AgentEvent, UdpPinger};
use crate::node::applier;
use crate::node::core;
use crate::node::driver::{self, Inlet, NodeError, Parts};
use crate::node::duties::Retention;
use crate::node::handle::Handle;
use crate::node::io::Input;
use crate::node::ports::{AddressBook, StateStore, StorageError};
use crate::node::status::ProjectionStatus;
use crate::raft;
use crate::storage::directory::{DataDirectory, condemn_state};
use crate::traces;

pub use join::{CatchUp, Watcher};

use opened::Opened;

/// Frames from peers that wait for the node; then the connections wait.
const PEER_INBOX_MAX: usize = 4_096;
/// Answers of agents that wait for the node; then they are lost, as datagrams may be.
const AGENT_INBOX_MAX: usize = 65_536;
/// How long the parts may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A node could not be started, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener was refused.
    #[error("cannot listen on {address} ({what}): {why}")]
    Listen {
        /// What was to listen there, as its flag.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not, and what to do.
        why: String,
    },
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The applied state.
    #[error(transparent)]
    State(#[from] KeyspaceError),
    /// The node itself.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Something of the operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// The cluster that was to be joined does not take this node. Nothing was changed.
    #[error("{message}; {hint}")]
    Join {
        /// The exit code: 2 for another version, 5 for a name that is taken or another cluster, 1 otherwise.
        code: u8,
        /// What is in the way.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Certificates or tokens cannot be used.
    #[error("{0}")]
    Security(String),
    /// A part ended that should not.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl ServerError {
    /// Exit code of the interface: 2 for what the operator must set differently, 9 for damage, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServerError::Join { code, .. } => *code,
            ServerError::Listen { .. }
            | ServerError::Security(_)
            | ServerError::Storage(StorageError::Refused(_)) => 2,
            ServerError::State(KeyspaceError::Damaged { .. })
            | ServerError::Storage(StorageError::Damaged { .. })
            | ServerError::Node(NodeError::Log(StorageError::Damaged { .. }) | NodeError::Recovery(_))
            | ServerError::Node(NodeError::State(KeyspaceError::Damaged { .. })) => 9,
            _ => 1,
        }
    }
}

/// Runs a node until `asked` is cancelled, or until it has to stop. `watcher`: who is told how it catches up, if it joins.
pub async fn run(
    mut settings: Settings,
    watcher: Option<Watcher>,
    asked: CancellationToken,
) -> Result<(), ServerError> {
    let tls = settings.tls.files().map(|files| Tls::load(&files)).transpose();
    let tls = tls.map_err(|error| ServerError::Security(error.to_string()))?;
    let guard = settings.auth.tokens.as_deref().map_or_else(|| Ok(Guard::default()), Guard::read);
    let guard = guard.map_err(|error| ServerError::Security(error.to_string()))?;
    let hooks = webhooks::clients(&settings)?;
    let client_listener = listen("--listen", settings.listen.client).await?;
    let peer_listener = listen("--peer-listen", settings.listen.peer).await?;
    let bound = |listener: &TcpListener| {
        listener
            .local_addr()
            .map_err(|source| ServerError::System { what: "ask for the address of a listener", source })
    };
    // The system may have chosen the ports.
    settings.listen.client = bound(&client_listener)?;
    settings.listen.peer = bound(&peer_listener)?;
    let address = join::own_address(&settings, settings.listen.peer).await;
    tracing::info!(
        event = "node_start",
        "node {} of cluster {} starts: super-node {}, process {}",
        settings.node.id,
        settings.node.cluster,
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    let Some(opened) = opened::open(&mut settings, &address, &asked).await? else { return Ok(()) };
    // Between the wish and the end of the parts a leader hands over.
    let stop = CancellationToken::new();
    let Opened { directory, incarnation, log, state, invitation, rejoin: _ } = opened;
    let metrics = Arc::new(Metrics::new());
    let node_settings = node_settings(&settings, address.clone(), incarnation.clone());
    let ends = tracing_ends(&settings, &metrics)?;
    let inquiry = inquiry(&settings, &node_settings, &incarnation, tls.as_ref())?;
    let (peer_inbox, peers) = mpsc::channel(PEER_INBOX_MAX);
    let peer_settings = PeerSettings {
        id: settings.node.id.clone(),
        cluster: settings.node.cluster.clone(),
        book: first_book(&node_settings, &*state)?,
        address: address.clone(),
        url: settings.client_url(),
        incarnation,
        protocol_max: settings.node.peer_protocol_max,
        tls: tls.clone(),
    };
    let network =
        peers::start(peer_listener, peer_settings, peer_inbox, Arc::clone(&metrics), stop.child_token())
            .map_err(|source| ServerError::System { what: "start the peer network", source })?;
    let (agent_inbox, agents) = mpsc::channel(AGENT_INBOX_MAX);
    let agents_address = settings.listen.agents;
    let pinger =
        UdpPinger::start(agents_address, &settings.node.cluster, agent_inbox, &metrics, stop.child_token())
            .map_err(|error| refused("--agents-listen", agents_address, error))?;
    let running = driver::start(Parts {
        settings: node_settings,
        log,
        state,
        network: Arc::new(network.clone()),
        pinger: Arc::new(pinger),
        peers: Inlet { receiver: peers, translate: from_peer },
        agents: Inlet { receiver: agents, translate: from_agent },
        metrics: Arc::clone(&metrics),
        reserve: settings.storage.reserve,
        stories: ends.as_ref().map(|ends| ends.stories.clone()),
        stop: stop.child_token(),
    })?;
    let (handle, joiner) = (running.handle.clone(), running.handle);
    let mut couriers = webhooks::start(hooks, &handle, &metrics, &stop);
    let draining = tokio::spawn(drain::hand_over(asked, handle.clone(), stop.clone()));
    let scrub = match &directory {
        Some(directory) => start_scrub(&settings, directory, &handle, &metrics, stop.child_token())?,
        None => None,
    };
    let feed: Arc<dyn Feed> = Arc::new(LedgerFeed::new(handle.clone()));
    let mongo = mongo_settings(&settings);
    let projection = mongo.clone().map(|mongo| {
        let enabled = ProjectionStatus { enabled: true, ..ProjectionStatus::default() };
        // The queue is empty at this moment, so it has room.
        let _room = handle.asks.try_send(crate::node::handle::Ask::Projection(enabled));
        let (feed, handle, metrics) = (Arc::clone(&feed), handle.clone(), Arc::clone(&metrics));
        tokio::spawn(shell::run_with_feed(mongo, feed, handle, metrics, stop.child_token()))
    });
    tracing::info!(
        "{} of cluster {} serves {} (peers {}, agents {})",
        settings.node.id,
        settings.node.cluster,
        settings.client_url(),
        settings.listen.peer,
        settings.listen.agents
    );
    let about = about(&settings, &network);
    let tracer = ends.map(|ends| {
        couriers.spawn(traces::export(ends.exporter, stop.child_token()));
        ends.tracer
    });
    let api = ApiState::from(ApiParts {
        tracer,
        guard,
        tls,
        ..api_parts(&settings, handle, feed, mongo, Arc::clone(&metrics), stop.child_token(), about)
    });
    let serving = tokio::spawn(api::serve_clients(client_listener, api));
    let mut asking = JoinSet::new();
    if joiner.status.borrow().lacks_state {
        asking.spawn(lost::inquire(inquiry, joiner.clone(), stop.child_token()));
    }
    if let Some(invitation) = invitation {
        let settings = Arc::new(settings);
        asking.spawn(join::enter(invitation, settings, address, joiner, watcher, stop.child_token()));
    }
    let result = wait(running.ended, serving, asking, &stop).await;
    stop.cancel();
    draining.abort();
    if let Some(projection) = projection {
        let _ended_or_slow = tokio::time::timeout(STOP_PATIENCE, projection).await;
    }
    let ended = async { while couriers.join_next().await.is_some() {} };
    let _ended_or_slow = tokio::time::timeout(STOP_PATIENCE, ended).await;
    let _closed_or_slow = tokio::time::timeout(STOP_PATIENCE, network.stopped()).await;
    if scrub.is_some_and(|scrub| scrub.join().is_err()) {
        tracing::error!("the scrub thread panicked");
    }
    if let (
        Err(ServerError::Node(NodeError::State(error @ KeyspaceError::Damaged { .. }))),
        Some(directory),
    ) = (&result, &directory)
    {
        // The next start does without it.
        if let Err(error) = condemn_state(directory.path(), &error.to_string()) {
            tracing::error!("the damaged state could not be marked: {error}");
        }
    }
    drop(directory);
    result
}

/// Waits for the first of the parts to end, and for the node in any case: it flushes its state. `asking`: what the node asks of
/// others before it can be of use; only an error ends the node.
async fn wait(
    mut node: tokio::task::JoinHandle<Result<(), NodeError>>,
    mut serving: tokio::task::JoinHandle<io::Result<()>>,
    mut asking: JoinSet<Result<(), ServerError>>,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    let refused = async {
        while let Some(answer) = asking.join_next().await {
            if let Ok(Err(refused)) = answer {
                return refused;
            }
        }
        std::future::pending().await
    };
    let ended = |result: Result<Result<(), NodeError>, tokio::task::JoinError>| match result {
        Ok(result) => result.map_err(ServerError::from),
        Err(_panicked) => Err(ServerError::Ended("the node")),
    };
    tokio::select! {
        refused = refused => {
            stop.cancel();
            ended(node.await)?;
            let _served = serving.await;
            Err(refused)
        }
        result = &mut node => {
            ended(result)?;
            let _served = serving.await;
            if stop.is_cancelled() { Ok(()) } else { Err(ServerError::Ended("the node")) }
        }
        served = &mut serving => {
            let asked = stop.is_cancelled();
            stop.cancel();
            ended(node.await)?;
            match served {
                Ok(Err(source)) => Err(ServerError::System { what: "serve HTTP", source }),
                Ok(Ok(())) if asked => Ok(()),
                _ => Err(ServerError::Ended("HTTP")),
            }
        }
    }
}

/// The address book to begin with; the node corrects it with its first turn. Who this cluster is and whose directories it knows
/// must be in the very first hello: a connection that was let in without stands.
fn first_book(node: &core::Settings, state: &dyn StateStore) -> Result<AddressBook, ServerError> {
    let view = state.view()?;
    Ok(AddressBook {
        identity: query::genesis(view.as_ref())?.map(|genesis| genesis.identity),
        nodes: node.peers.clone(),
        incarnations: query::incarnations(view.as_ref())?,
        as_of: applier::standing(view.as_ref())?.applied.index,
    })
}

/// What a node needs to ask whether anybody has the state that it lacks.
fn inquiry(
    settings: &Settings,
    node: &core::Settings,
    incarnation: &str,
    tls: Option<&Tls>,
) -> Result<lost::Inquiry, ServerError> {
    let others = node.peers.iter().filter(|(peer, _)| **peer != node.id);
    Ok(lost::Inquiry {
        client: join::client(&[], lost::ASK_TIMEOUT, settings)?,
        who: Introduction {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            incarnation: incarnation.to_string(),
            identity: None,
            protocol_max: node.protocol_max,
            tls: tls.cloned(),
        },
        addresses: others.map(|(peer, address)| (peer.clone(), address.clone())).collect(),
        path: settings.node.data_dir.join("state.redb").display().to_string(),
    })
}

fn refused(what: &'static str, address: SocketAddr, error: io::Error) -> ServerError {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the port is in use; stop the program that uses it, or choose another with {what}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; choose another with {what}")
        }
        _ => error.to_string(),
    };
    ServerError::Listen { what, address, why }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|error| refused(what, address, error))
}

fn node_settings(settings: &Settings, address: String, incarnation: String) -> core::Settings {
    let id = settings.node.id.clone();
    let mut peers = settings.cluster.peers.clone();
    if settings.cluster.join.is_none() && peers.is_empty() {
        // A cluster of its own.
        let own = if address.is_empty() { settings.listen.peer.to_string() } else { address.clone() };
        peers.insert(id.clone(), own);
    }
    let policy = &settings.ledger;
    let identity: [u8; 16] = rand::random();
    let genesis = Command::Genesis {
        cluster: settings.node.cluster.clone(),
        identity: identity.iter().map(|byte| format!("{byte:02x}")).collect(),
        policy: policy.clone(),
        nodes: peers.iter().map(|(id, address)| (id.clone(), address.clone())).collect(),
    };
    let raft = raft::Config {
        id: id.clone(),
        election_min: settings.raft.election_min,
        election_max: settings.raft.election_max,
        heartbeat: settings.raft.heartbeat,
        pre_vote: settings.raft.pre_vote,
        check_quorum: settings.raft.check_quorum,
        lease: settings.raft.lease_span(),
        reluctant: settings.raft.reluctant,
        append_bytes_max: usize::try_from(settings.raft.max_batch_bytes).unwrap_or(usize::MAX),
        ..raft::Config::default()
    };
    let health = health::Config {
        ping_every: Duration::from_millis(policy.ping_ms),
        ping_timeout: Duration::from_millis(policy.ping_timeout_ms),
        ..health::Config::new((&id).into())
    };
    core::Settings {
        cluster: settings.node.cluster.clone(),
        peers,
        raft,
        health,
        genesis,
        retention: settings
            .storage
            .history
            .map(|intervals| Retention { intervals, projected: settings.mongodb.uri.is_some() }),
        keep_entries: settings.raft.snapshot_entries,
        keep_bytes: settings.storage.log_keep,
        bounds: core::Bounds::default(),
        snapshot_rate: settings.storage.snapshot_rate,
        url: settings.client_url(),
        address,
        incarnation,
        protocol_max: settings.node.peer_protocol_max,
        in_memory: settings.node.in_memory,
        replace_dead_after: settings.cluster.replace_dead_after,
        id,
    }
}

/// Starts reading in the background what lies on disk, if that is wanted.
fn start_scrub(
    settings: &Settings,
    directory: &DataDirectory,
    handle: &Handle,
    metrics: &Arc<Metrics>,
    stop: CancellationToken,
) -> Result<Option<std::thread::JoinHandle<()>>, ServerError> {
    if settings.storage.scrub_rate == 0 {
        return Ok(None);
    }
    let scrub = scrub::Scrub {
        disk: directory.log_disk()?,
        salt: directory.salt(),
        state: Arc::clone(&handle.state),
        rate: settings.storage.scrub_rate,
        events: Arc::clone(&handle.events),
        metrics: Arc::clone(metrics),
        directory: directory.path().to_path_buf(),
        stop,
        read: std::cell::Cell::new(0),
        damaged: std::cell::Cell::new(false),
    };
    let thread = std::thread::Builder::new().name("scrub".to_string()).spawn(move || scrub.run());
    thread.map(Some).map_err(|source| ServerError::System { what: "start the scrub thread", source })
}

/// Where followed writes are told, if there is a collector.
fn tracing_ends(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Option<traces::Ends>, ServerError> {
    let Some(otlp) = settings.tracing.otlp.clone() else { return Ok(None) };
    let tracing = traces::TraceSettings { otlp, ratio_ppm: settings.tracing.ratio_ppm };
    let refused = |why: String| ServerError::Security(format!("tracing.otlp: {why}"));
    let builder = tls::http(None).map_err(|error| refused(error.to_string()))?;
    let builder = builder.redirect(reqwest::redirect::Policy::none()).no_proxy();
    let client = builder.build().map_err(|error| refused(error.to_string()))?;
    let node = settings.node.id.to_string();
    Ok(Some(traces::ends(&tracing, client, node, Arc::clone(metrics))))
}

fn mongo_settings(settings: &Settings) -> Option<MongoSettings> {
    let uri = settings.mongodb.uri.clone()?;
    Some(MongoSettings {
        uri,
        database: settings.mongodb.database.clone(),
        write_concern: settings.mongodb.write_concern.to_string(),
    })
}

fn api_parts(
    settings: &Settings,
    handle: Handle,
    feed: Arc<dyn Feed>,
    mongo: Option<MongoSettings>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
    about: Surroundings,
) -> ApiParts {
    let status = handle.status.clone();
    let cluster = settings.node.cluster.clone();
    let compare = mongo.map(|mongo| {
        let compare: api::Compare = Arc::new(move || {
            let (mongo, cluster, feed) = (mongo.clone(), cluster.clone(), Arc::clone(&feed));
            Box::pin(async move { verify::compare(&mongo.uri, &mongo.database, &cluster, feed).await })
        });
        compare
    });
    ApiParts {
        handle,
        metrics,
        client_url: Arc::new(move |id| {
            let status = status.borrow();
            status.nodes.iter().find(|node| &node.id == id).and_then(|node| node.url.clone())
        }),
        compare,
        http: settings.http.clone(),
        agents: settings.agents.clone(),
        newest: std::sync::atomic::AtomicU64::new(0),
        stopping,
        about,
        tracer: None,
        guard: Guard::default(),
        tls: None,
    }
}

fn about(settings: &Settings, network: &PeerNetwork) -> Surroundings {
    let network = network.clone();
    Surroundings {
        links: Arc::new(move || network.links()),
        data_dir: (!settings.node.in_memory).then(|| settings.node.data_dir.clone()),
        election_min_ms: u64::try_from(settings.raft.election_min.as_millis()).unwrap_or(u64::MAX),
    }
}

fn from_peer(event: PeerEvent) -> Option<Input> {
    match event {
        PeerEvent::Frame { from, frame } => Some(Input::Frame { from, frame }),
        PeerEvent::Gone { node } => Some(Input::PeerGone { node }),
        PeerEvent::Connected { node, url, incarnation } => Some(Input::PeerMet { node, url, incarnation }),
        // Whether frames get through is the network's business; consensus and health see what arrives.
        PeerEvent::Lost { .. } => None,
    }
}

fn from_agent(event: AgentEvent) -> Option<Input> {
    Some(match event {
        AgentEvent::Pong { member, seq, version } => Input::AgentPong { member, seq, version },
        AgentEvent::Unsent => Input::PingNotSent,
    })
}
