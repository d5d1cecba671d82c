//! Pings to agents over UDP. One socket for all of them, and no memory of what is under way.
//! What a datagram means is decided in [`super::gate`]; here are the socket and the names of hosts.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{Metrics, ResultLabel};
use crate::node::ports::{AgentPing, Pinger};
use crate::types::{IntervalId, MemberId, Micros, Version};

use super::batch::{self, BATCH_MAX, Inbox};
use super::datagram::{CLUSTER_BYTES_MAX, PING_BYTES};
use super::gate::{Gate, Judgement};
use super::throttle::Throttle;

/// Wanted size of the socket's buffers; the system may grant less. 4 MiB hold the answers of 30 000 members.
const BUFFER_BYTES: usize = 4 << 20;
/// How long a resolved name is used before it is asked for anew, in the background.
const RESOLVED_FOR: Duration = Duration::from_secs(60);
/// How long a name that could not be resolved is not asked for again.
const UNRESOLVED_FOR: Duration = Duration::from_secs(5);
/// Names under resolution at once.
const RESOLVERS_MAX: usize = 16;
/// Names remembered; beyond it all are forgotten and asked for anew.
const NAMES_MAX: usize = 200_000;

/// What an agent's datagram means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// An agent answered a ping.
    Pong {
        /// Who; proven by nonce and key.
        member: MemberId,
        /// The ping's number.
        seq: u64,
        /// What the agent runs.
        version: Version,
    },
    /// A ping did not leave this machine, for a reason that lies in this machine.
    Unsent,
}

/// Whether a datagram did not leave for a reason of this machine's own, whatever its address: no memory or no buffer for
/// it, no network. What lies in the address must not count against the observer, or one odd address would silence it.
fn is_own_fault(error: &io::Error) -> bool {
    /// "No buffer space available" on Linux, for which the standard library has no name.
    const NO_BUFFERS: i32 = 105;
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory | io::ErrorKind::NetworkDown
    ) || error.raw_os_error() == Some(NO_BUFFERS)
}

/// The way to the agents. Cheap to clone; ends with the token that [`UdpPinger::start`] was given.
#[derive(Clone)]
pub struct UdpPinger {
    shared: Arc<Shared>,
}

struct Shared {
    /// For sending, from any thread: tokio's own would refuse until its reactor has run once.
    sender: std::net::UdpSocket,
    local: SocketAddr,
    gate: Mutex<Gate>,
    began: Instant,
    interval: AtomicU64,
    names: Mutex<BTreeMap<String, Name>>,
    resolvers: Semaphore,
    runtime: Handle,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    counts: Counts,
    troubles: Throttle,
    inbox: mpsc::Sender<AgentEvent>,
}

/// A `host:port` whose host is a name.
struct Name {
    address: Option<SocketAddr>,
    /// When it is asked for again.
    until: Instant,
    resolving: bool,
    /// The last ping that came while the address was not known; sent when it is.
    waiting: Option<[u8; PING_BYTES]>,
}

struct Counts {
    sent: Counter,
    unsent: Counter,
    answered: Counter,
    limited: Counter,
    junk: Counter,
}

impl Counts {
    fn new(metrics: &Metrics) -> Counts {
        let count = |result: &str| {
            metrics.agent_datagrams.get_or_create(&ResultLabel { result: result.to_string() }).clone()
        };
        Counts {
            sent: count("sent"),
            unsent: count("unsent"),
            answered: count("answered"),
            limited: count("limited"),
            junk: count("junk"),
        }
    }
}

impl UdpPinger {
    /// Binds `address` and listens for pongs until `shutdown`. Must be called within a tokio runtime. A full `inbox`
    /// leaves the pongs in the socket's buffer. Fails if the address cannot be bound or the cluster's name has more
    /// than [`CLUSTER_BYTES_MAX`] bytes.
    pub fn start(
        address: SocketAddr,
        cluster: &str,
        inbox: mpsc::Sender<AgentEvent>,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> io::Result<UdpPinger> {
        if cluster.len() > CLUSTER_BYTES_MAX {
            let text = format!("the cluster's name {cluster:?} is longer than {CLUSTER_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (sender, socket) = bind(address)?;
        let shared = Arc::new(Shared {
            local: sender.local_addr()?,
            sender,
            gate: Mutex::new(Gate::new(cluster, rand::random())),
            began: Instant::now(),
            interval: AtomicU64::new(0),
            names: Mutex::default(),
            resolvers: Semaphore::new(RESOLVERS_MAX),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            shutdown,
            counts: Counts::new(metrics),
            troubles: Throttle::default(),
            inbox,
        });
        shared.tasks.spawn(listen(shared.clone(), socket));
        Ok(UdpPinger { shared })
    }

    /// Where the socket is bound.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local
    }

    /// Names the open interval in the pings from now on. For people who read captures; nothing depends on it.
    pub fn set_interval(&self, interval: IntervalId) {
        self.shared.interval.store(interval.0, Ordering::Relaxed);
    }

    /// Returns when, after the shutdown, every task has ended.
    pub async fn stopped(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Pinger for UdpPinger {
    fn ping(&self, pings: &[AgentPing]) {
        let shared = &self.shared;
        let (interval, now) = (IntervalId(shared.interval.load(Ordering::Relaxed)), shared.now());
        let mut datagrams = Vec::with_capacity(pings.len());
        let mut gate = shared.gate();
        for AgentPing { member, address, key, seq } in pings {
            let bytes = gate.ping((member, key), *seq, interval, now);
            let known = address.parse().ok().or_else(|| shared.look_up(address, &bytes));
            datagrams.extend(known.map(|address| (address, bytes)));
        }
        drop(gate);
        shared.send(&datagrams);
    }
}

/// The socket twice: for sending from any thread and for receiving within the runtime.
pub(crate) fn bind(address: SocketAddr) -> io::Result<(std::net::UdpSocket, tokio::net::UdpSocket)> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    // The system caps these at its own limit without an error; any other refusal is no reason not to run.
    for outcome in [socket.set_recv_buffer_size(BUFFER_BYTES), socket.set_send_buffer_size(BUFFER_BYTES)] {
        if let Err(error) = outcome {
            tracing::debug!("the system keeps its own size of UDP buffers: {error}");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket: std::net::UdpSocket = socket.into();
    Ok((socket.try_clone()?, tokio::net::UdpSocket::from_std(socket)?))
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Micros {
        Micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn send(&self, datagrams: &[(SocketAddr, [u8; PING_BYTES])]) {
        let sent = batch::send(&self.sender, datagrams, |address, error| {
            self.counts.unsent.inc();
            if is_own_fault(&error) {
                // A full inbox has been told enough.
                let _told = self.inbox.try_send(AgentEvent::Unsent);
            }
            if let Some(held) = self.troubles.pass() {
                tracing::warn!(%address, from = %self.local, held,
                    "a ping could not be sent: {error}; check that listen.agents can reach this address");
            }
        });
        self.counts.sent.inc_by(sent as u64);
    }

    /// The address of a name if it is known. Otherwise it is asked for, and `bytes` go out when it is.
    fn look_up(self: &Arc<Self>, name: &str, bytes: &[u8; PING_BYTES]) -> Option<SocketAddr> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.clear();
        }
        let now = Instant::now();
        let entry = names.entry(name.to_string()).or_insert_with(|| Name {
            address: None,
            until: now,
            resolving: false,
            waiting: None,
        });
        if entry.address.is_none() {
            if now < entry.until {
                self.counts.unsent.inc();
                return None;
            }
            entry.waiting = Some(*bytes);
        }
        if now >= entry.until && !entry.resolving {
            entry.resolving = true;
            self.tasks.spawn_on(resolve(self.clone(), name.to_string()), &self.runtime);
        }
        entry.address
    }

    fn resolved(&self, name: &str, found: io::Result<SocketAddr>) {
        let waiting = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = names.get_mut(name) else { return };
            entry.resolving = false;
            match &found {
                Ok(address) => {
                    entry.address = Some(*address);
                    entry.until = Instant::now() + RESOLVED_FOR;
                }
                // An address that was good once is better than none.
                Err(_) => entry.until = Instant::now() + UNRESOLVED_FOR,
            }
            entry.waiting.take()
        };
        match (found, waiting) {
            (Ok(address), Some(bytes)) => self.send(&[(address, bytes)]),
            (Ok(_), None) => {}
            (Err(error), waiting) => {
                self.counts.unsent.inc_by(u64::from(waiting.is_some()));
                if let Some(held) = self.troubles.pass() {
                    tracing::warn!(name, held, "the address of an agent cannot be resolved: {error}");
                }
            }
        }
    }
}

async fn resolve(shared: Arc<Shared>, name: String) {
    let look_up = async {
        let _permit = shared.resolvers.acquire().await.map_err(io::Error::other)?;
        let found = tokio::net::lookup_host(&name).await?;
        let reachable = found.into_iter().find(|address| address.is_ipv4() == shared.local.is_ipv4());
        reachable.ok_or_else(|| io::Error::other("it has no address of the family of listen.agents"))
    };
    tokio::select! {
        () = shared.shutdown.cancelled() => {}
        found = look_up => shared.resolved(&name, found),
    }
}

async fn listen(shared: Arc<Shared>, socket: tokio::net::UdpSocket) {
    let (mut inbox, mut events) = (Inbox::default(), Vec::with_capacity(BATCH_MAX));
    loop {
        // It does not block; whoever sends uses the same one.
        let received = socket.async_io(Interest::READABLE, || inbox.receive(&shared.sender));
        let received = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            received = received => received,
        };
        if let Err(error) = received {
            if let Some(held) = shared.troubles.pass() {
                tracing::warn!(held, "cannot receive from agents: {error}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        shared.judge(&inbox, &mut events);
        for event in events.drain(..) {
            tokio::select! {
                biased;
                sent = shared.inbox.send(event) => if sent.is_err() { return },
                () = shared.shutdown.cancelled() => return,
            }
        }
    }
}

impl Shared {
    /// Adds what the datagrams mean.
    fn judge(&self, inbox: &Inbox, events: &mut Vec<AgentEvent>) {
        let now = self.now();
        let mut gate = self.gate();
        for (bytes, _from) in inbox.datagrams() {
            match gate.judge(bytes, now) {
                Judgement::Junk => {
                    self.counts.junk.inc();
                }
                Judgement::Limited => {
                    self.counts.limited.inc();
                }
                Judgement::Pong { member, seq, version } => {
                    self.counts.answered.inc();
                    events.push(AgentEvent::Pong { member, seq, version });
                }
            }
        }
    }
}
