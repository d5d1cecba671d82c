//! Connections to the other super-nodes. The protocol is described at [`super`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codec;
use crate::metrics::{Metrics, ResultLabel};
use crate::node::frame::{FRAME_BYTES_MAX, Frame, Hello, PROTOCOL_MIN};
use crate::node::ports::{AddressBook, Network};
use crate::types::{Index, NodeId, Version};

use super::lanes::{LaneName, Lanes};
use super::throttle::Throttle;
use super::tls::Tls;
use super::wire::Greeting;
use super::{accept, dial};

/// A peer that leaves the book is answered for so long over the connections that stand; if it comes again, it is a guest.
const FAREWELL: Duration = Duration::from_secs(5);
/// The first version of the peer protocol in which a hello offers a range.
pub(super) const RANGES_SINCE: u16 = 3;
/// Most nodes whose directories a greeting tells of: so many fit into one.
const BOUND_TOLD_MAX: usize = 24;
/// Most nodes that are heard although they are not in the book; more are refused.
pub const GUESTS_MAX: usize = 64;

/// What the network needs to know.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// This node.
    pub id: NodeId,
    /// The configured name of the cluster; other clusters are refused.
    pub cluster: String,
    /// The other super-nodes to begin with. This node may be among them and is left out.
    pub book: AddressBook,
    /// Where the others reach this node (`host:port`), empty if nobody knows; told to the peers.
    pub address: String,
    /// Where clients find this node; told to the peers.
    pub url: String,
    /// The incarnation of this node's data directory; told to the peers.
    pub incarnation: String,
    /// The newest version of the peer protocol that it speaks.
    pub protocol_max: u16,
    /// Certificates, if connections are encrypted.
    pub tls: Option<Tls>,
}

/// What the network tells the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// A frame came in.
    Frame {
        /// The peer, as its hello named it.
        from: NodeId,
        /// What it says.
        frame: Frame,
    },
    /// Frames sent to `node` from now on go out.
    Connected {
        /// The peer.
        node: NodeId,
        /// Where clients find it, as its hello said.
        url: String,
        /// The incarnation of its data directory, as its hello said.
        incarnation: String,
    },
    /// The process of `node` is dead: a connection broke and a new one was refused. Once per death.
    Gone {
        /// The peer.
        node: NodeId,
    },
    /// The connection to `node` broke; frames sent to it are dropped until it is back.
    Lost {
        /// The peer.
        node: NodeId,
    },
}

/// The way to the other super-nodes. Cheap to clone; ends with the token that [`start`] was given.
#[derive(Clone)]
pub struct PeerNetwork {
    shared: Arc<Shared>,
}

/// What all tasks of one network share.
pub(super) struct Shared {
    pub(super) id: NodeId,
    pub(super) cluster: String,
    url: String,
    incarnation: String,
    pub(super) protocol_max: u16,
    pub(super) tls: Option<Tls>,
    pub(super) inbox: mpsc::Sender<PeerEvent>,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) counts: Counts,
    /// For connections of strangers.
    pub(super) refusals: Throttle,
    runtime: Handle,
    local: SocketAddr,
    address: String,
    identity: RwLock<Option<String>>,
    /// The data directories that nodes are bound to.
    bindings: RwLock<Bindings>,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
}

/// The data directories that nodes are bound to, as of a position of the log.
#[derive(Debug, Clone, Default)]
struct Bindings {
    as_of: Index,
    incarnations: BTreeMap<NodeId, String>,
}

/// Where a peer may be found.
#[derive(Debug)]
struct Places {
    /// Where the book has it; for a guest, where it said to be.
    listed: String,
    /// Where it said to be, if that is not where the book has it: it has moved, and the book does not know yet.
    said: Option<String>,
}

/// One other super-node. Whoever is not in the book is a *guest*: a node that joins hears the members before it knows
/// them, one that was away hears members that are newer than what it knows, and one that was removed is told so.
/// A guest is answered as long as its own connection stands, and then forgotten.
pub(super) struct Peer {
    pub(super) id: NodeId,
    places: Mutex<Places>,
    guest: AtomicBool,
    pub(super) lanes: Lanes,
    /// Asks the dialler to look at once whether the peer still listens.
    pub(super) nudge: Notify,
    /// A connection has stood since the peer was last reported gone.
    pub(super) was_there: AtomicBool,
    pub(super) stop: CancellationToken,
    pub(super) refusals: Throttle,
    /// Ends the current incoming connection.
    incoming: Mutex<Option<CancellationToken>>,
    /// The data directory of the process that answered at the peer's own address.
    incarnation: Mutex<Option<String>>,
    /// That of the process that dialled last.
    visitor: Mutex<Option<String>>,
    /// Offers of a range of versions in a row that were met with silence.
    unanswered: AtomicU32,
    /// It has answered an offer before.
    knows_offers: AtomicBool,
    /// The last hello was refused.
    pub(super) refused: AtomicBool,
    /// The version spoken on the outgoing connection; 0 before the first.
    pub(super) protocol: AtomicU16,
    /// Why the last attempt to connect failed; `None` once it has succeeded.
    pub(super) trouble: Mutex<Option<String>>,
}

impl Peer {
    /// Whether the next hello should name the oldest version instead of offering a range: who does not know offers
    /// cannot say so, and falls silent. So does a process that dies meanwhile. One that has answered an offer before
    /// was, most likely, replaced by an older program only if it stays silent for long.
    pub(super) fn wants_plain_hello(&self) -> bool {
        const PATIENCE: (u32, u32) = (3, 8);
        let known = self.knows_offers.load(Ordering::Acquire);
        let patience = if known { PATIENCE.1 } else { PATIENCE.0 };
        let plain = self.unanswered.load(Ordering::Acquire) >= patience;
        if plain {
            self.unanswered.store(0, Ordering::Release);
        }
        plain
    }

    /// What became of an offer.
    pub(super) fn offered(&self, answered: bool) {
        if answered {
            self.knows_offers.store(true, Ordering::Release);
            self.unanswered.store(0, Ordering::Release);
        } else {
            self.unanswered.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn lock_places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to dial in the attempt of this number: where the book has it, and in every second attempt where it said
    /// to be.
    pub(super) fn place(&self, attempt: u64) -> String {
        let places = self.lock_places();
        match &places.said {
            Some(said) if attempt % 2 == 1 => said.clone(),
            _ => places.listed.clone(),
        }
    }

    /// A connection from the peer was let in, and it says where it is. As long as it is reached, that is where it is.
    pub(super) fn introduced(&self, address: &str) {
        if self.lanes.is_open() {
            return;
        }
        let mut places = self.lock_places();
        let elsewhere = !address.is_empty() && places.listed != address;
        if elsewhere && places.said.as_deref() != Some(address) {
            places.said = Some(address.to_string());
            drop(places);
            self.nudge.notify_one();
        } else if !elsewhere {
            places.said = None;
        }
    }

    /// The book says where it is.
    fn is_listed_at(&self, address: &str) {
        self.guest.store(false, Ordering::Release);
        let mut places = self.lock_places();
        if places.listed != address {
            places.listed = address.to_string();
            places.said = None;
            drop(places);
            self.nudge.notify_one();
        }
    }

    fn lock_incoming(&self) -> MutexGuard<'_, Option<CancellationToken>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a new incoming connection: ends the one before, and returns what ends the new one.
    pub(super) fn admit(&self) -> CancellationToken {
        let token = self.stop.child_token();
        let mut incoming = self.lock_incoming();
        if let Some(before) = incoming.replace(token.clone()) {
            before.cancel();
        }
        self.was_there.store(true, Ordering::Release);
        token
    }

    /// The process at the peer's own address has this data directory.
    pub(super) fn found_at_its_address(&self, incarnation: String) {
        *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner) = Some(incarnation);
    }

    /// The process that dials has this data directory.
    pub(super) fn is_visited_by(&self, incarnation: String) {
        *self.visitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(incarnation);
    }

    /// Whether a process was met in the peer's name that has another data directory.
    fn is_another_than(&self, incarnation: &str) -> bool {
        [&self.incarnation, &self.visitor].into_iter().any(|met| {
            let met = met.lock().unwrap_or_else(PoisonError::into_inner);
            met.as_deref().is_some_and(|met| met != incarnation)
        })
    }

    /// Whether somebody with this data directory may speak for the peer. While the process at the peer's own address
    /// is there, no other may: two processes of one name would both vote.
    pub(super) fn may_be(&self, incarnation: &str) -> bool {
        let known = self.incarnation.lock().unwrap_or_else(PoisonError::into_inner);
        !self.lanes.is_open() || known.as_deref().is_none_or(|known| known == incarnation)
    }

    /// An attempt to connect failed, or (`None`) succeeded.
    pub(super) fn tried(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// The incoming connection that `ended` belongs to is over.
    fn dismiss(&self, ended: &CancellationToken) {
        let mut incoming = self.lock_incoming();
        // Cancelled under the lock: then a newer one has taken its place.
        if !ended.is_cancelled() {
            *incoming = None;
        }
    }

    /// Whether the peer was there and is not any more, as far as a refused connection can tell; once per death. As
    /// long as a connection from the peer stands, it is its address that is wrong, or the end is just coming in.
    pub(super) fn has_gone(&self) -> bool {
        self.lock_incoming().is_none() && self.was_there.swap(false, Ordering::AcqRel)
    }
}

/// Counters, looked up once.
pub(super) struct Counts {
    pub(super) sent: Counter,
    pub(super) received: Counter,
    pub(super) dropped: Counter,
    pub(super) dialled: Counter,
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
    pub(super) malformed: Counter,
    pub(super) slow: Counter,
    pub(super) too_many: Counter,
    pub(super) lost: Counter,
}

impl Counts {
    fn new(metrics: &Metrics) -> Counts {
        let label = |result: &str| ResultLabel { result: result.to_string() };
        let frames = |result| metrics.peer_frames.get_or_create(&label(result)).clone();
        let connections = |result| metrics.peer_connections.get_or_create(&label(result)).clone();
        Counts {
            sent: frames("sent"),
            received: frames("received"),
            dropped: frames("dropped"),
            dialled: connections("dialled"),
            accepted: connections("accepted"),
            refused: connections("refused"),
            malformed: connections("malformed"),
            slow: connections("slow"),
            too_many: connections("too_many"),
            lost: connections("lost"),
        }
    }
}

impl Shared {
    pub(super) fn peer(&self, id: &NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Waits until the node takes the event. A node that no longer listens is about to end.
    pub(super) async fn tell(&self, event: PeerEvent) {
        if self.inbox.send(event).await.is_err() {
            self.shutdown.cancelled().await;
        }
    }

    pub(super) fn hello(&self, to: &NodeId, protocol: u16) -> Hello {
        Hello {
            protocol,
            cluster: self.cluster.clone(),
            from: self.id.clone(),
            to: to.clone(),
            version: Version::current(),
            url: self.url.clone(),
            incarnation: self.incarnation.clone(),
            address: self.address.clone(),
            identity: self.identity.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Whether it offers a range of versions. A node that is held to the oldest behaves as if it knew no ranges.
    pub(super) fn knows_ranges(&self) -> bool {
        self.protocol_max >= RANGES_SINCE
    }

    /// The newest version that this node and one that speaks `oldest` to `newest` have in common, or what to do.
    pub(super) fn common_protocol(&self, oldest: u16, newest: u16) -> Result<u16, String> {
        let common = newest.min(self.protocol_max);
        if common >= oldest.max(PROTOCOL_MIN) {
            return Ok(common);
        }
        let range = |oldest: u16, newest: u16| {
            if oldest == newest { oldest.to_string() } else { format!("{oldest} to {newest}") }
        };
        let theirs = range(oldest, newest);
        let remedy = if oldest > self.protocol_max { "upgrade this one" } else { "upgrade the other one" };
        Err(format!(
            "{} speaks peer protocol {}, not {theirs}: run the same version of super-node on both, or {remedy}",
            self.id,
            range(PROTOCOL_MIN, self.protocol_max)
        ))
    }

    /// What this node knows of the data directories that nodes are bound to, if anything, as a greeting.
    pub(super) fn bound(&self) -> Option<Greeting> {
        let bindings = self.bindings.read().unwrap_or_else(PoisonError::into_inner);
        let Bindings { as_of, incarnations } = bindings.clone();
        // A node that is not bound itself has nothing to say for itself.
        let own = incarnations.get(&self.id).is_some_and(|own| *own == self.incarnation);
        (own && incarnations.len() <= BOUND_TOLD_MAX).then_some(Greeting::Bound { as_of, incarnations })
    }

    /// A peer tells which data directories nodes are bound to. Believed if it knows more of the log: what is bound is a
    /// function of it, and who has lost its directory has lost this knowledge, too.
    pub(super) fn told_bindings(&self, as_of: Index, incarnations: BTreeMap<NodeId, String>) {
        let mut bindings = self.bindings.write().unwrap_or_else(PoisonError::into_inner);
        if as_of > bindings.as_of && incarnations.len() <= BOUND_TOLD_MAX {
            *bindings = Bindings { as_of, incarnations };
        }
    }

    /// Whether the speaker of a hello may talk to this node; otherwise what is wrong and what to do. The version of the
    /// protocol is another matter: [`Shared::common_protocol`].
    pub(super) fn check(&self, hello: &Hello) -> Result<(), String> {
        let (id, cluster) = (&self.id, &self.cluster);
        if hello.cluster != *cluster {
            return Err(format!(
                "{id} belongs to cluster {cluster:?}, not {:?}: check node.cluster and cluster.peers on both",
                hello.cluster
            ));
        }
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(ours), Some(theirs)) = (identity.as_deref(), hello.identity.as_deref())
            && ours != theirs
        {
            return Err(format!(
                "{id} and {} belong to two clusters that are both called {cluster:?}, founded as {ours} and {theirs}: \
                 give one of them another node.cluster, or correct the address",
                hello.from
            ));
        }
        let bindings = self.bindings.read().unwrap_or_else(PoisonError::into_inner);
        if bindings.incarnations.get(&hello.from).is_some_and(|known| *known != hello.incarnation) {
            return Err(format!(
                "the cluster knows {from} by another data directory: its votes and its log are not here, so it must not \
                 vote. Start it with the directory that it had; or run `super-node member remove {from}`, and start it \
                 with an empty directory and --join",
                from = hello.from
            ));
        }
        if hello.to != *id {
            return Err(format!(
                "{id} listens here, not {}: correct the address of {} in cluster.peers",
                hello.to, hello.to
            ));
        }
        if hello.from == *id {
            return Err(format!(
                "{id} got a connection from a node of its own name: give each node its own node.id"
            ));
        }
        Ok(())
    }

    /// Whoever introduced itself by this hello, as a peer; `None` if there are too many guests already. Must be
    /// called for hellos that [`Shared::check`] has let through.
    pub(super) fn peer_or_guest(self: &Arc<Self>, hello: &Hello) -> Option<Arc<Peer>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&hello.from) {
            return Some(peer.clone());
        }
        let guests = peers.values().filter(|peer| peer.guest.load(Ordering::Acquire)).count();
        if guests >= GUESTS_MAX {
            return None;
        }
        tracing::debug!(peer = %hello.from, address = %hello.address, "heard a node that this one does not have in its configuration");
        Some(self.add(&mut peers, hello.from.clone(), hello.address.clone(), true))
    }

    /// The incoming connection that `ended` belongs to is over; a guest goes with it.
    pub(super) fn parted(&self, peer: &Arc<Peer>, ended: &CancellationToken) {
        peer.dismiss(ended);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let known = peers.get(&peer.id).is_some_and(|known| Arc::ptr_eq(known, peer));
        if known && peer.guest.load(Ordering::Acquire) && peer.lock_incoming().is_none() {
            peers.remove(&peer.id);
            peer.stop.cancel();
        }
    }

    fn set_book(self: &Arc<Self>, book: &AddressBook) {
        self.identity.write().unwrap_or_else(PoisonError::into_inner).clone_from(&book.identity);
        let incarnations = {
            let mut bindings = self.bindings.write().unwrap_or_else(PoisonError::into_inner);
            // A peer may have told of more than the node knows yet.
            if book.as_of >= bindings.as_of {
                *bindings = Bindings { as_of: book.as_of, incarnations: book.incarnations.clone() };
            }
            bindings.incarnations.clone()
        };
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|id, peer| {
            let impostor = incarnations.get(id).is_some_and(|known| peer.is_another_than(known));
            if impostor {
                peer.stop.cancel();
            }
            !impostor
        });
        for (id, address) in book.nodes.iter().filter(|(id, _)| **id != self.id) {
            match peers.get(id) {
                Some(peer) => peer.is_listed_at(address),
                None => drop(self.add(&mut peers, id.clone(), address.clone(), false)),
            }
        }
        peers.retain(|id, peer| {
            if book.nodes.contains_key(id) {
                return true;
            }
            let leaves = !peer.guest.swap(true, Ordering::AcqRel);
            let stays = peer.lock_incoming().is_some();
            if !stays {
                peer.stop.cancel();
            } else if leaves {
                self.tasks.spawn_on(self.clone().let_go(peer.clone()), &self.runtime);
            }
            stays
        });
    }

    /// Ends the connections of a peer that left the book. Without that, two nodes that have both left each other's would
    /// be each other's guests for ever.
    async fn let_go(self: Arc<Self>, peer: Arc<Peer>) {
        tokio::select! {
            () = peer.stop.cancelled() => return,
            () = tokio::time::sleep(FAREWELL) => {}
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let known = peers.get(&peer.id).is_some_and(|known| Arc::ptr_eq(known, &peer));
        if known && peer.guest.load(Ordering::Acquire) {
            peers.remove(&peer.id);
            peer.stop.cancel();
        }
    }

    fn add(
        self: &Arc<Self>,
        peers: &mut BTreeMap<NodeId, Arc<Peer>>,
        id: NodeId,
        address: String,
        guest: bool,
    ) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            id: id.clone(),
            places: Mutex::new(Places { listed: address, said: None }),
            guest: AtomicBool::new(guest),
            lanes: Lanes::default(),
            nudge: Notify::new(),
            was_there: AtomicBool::new(false),
            stop: self.shutdown.child_token(),
            refusals: Throttle::default(),
            incoming: Mutex::new(None),
            incarnation: Mutex::new(None),
            visitor: Mutex::new(None),
            unanswered: AtomicU32::new(0),
            knows_offers: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            protocol: AtomicU16::new(0),
            trouble: Mutex::new(None),
        });
        peers.insert(id, peer.clone());
        self.tasks.spawn_on(dial::keep_connected(self.clone(), peer.clone()), &self.runtime);
        peer
    }
}

/// Listens, and dials all peers, until `shutdown`. Must be called within a tokio runtime; everything runs on it.
/// A full `inbox` holds up reading from the connections, and so, in the end, the peers' sending.
pub fn start(
    listener: TcpListener,
    settings: PeerSettings,
    inbox: mpsc::Sender<PeerEvent>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> std::io::Result<PeerNetwork> {
    let shared = Arc::new(Shared {
        local: listener.local_addr()?,
        id: settings.id,
        cluster: settings.cluster,
        url: settings.url,
        incarnation: settings.incarnation,
        protocol_max: settings.protocol_max,
        tls: settings.tls,
        inbox,
        shutdown,
        tasks: TaskTracker::new(),
        counts: Counts::new(&metrics),
        refusals: Throttle::default(),
        runtime: Handle::current(),
        address: settings.address,
        identity: RwLock::default(),
        bindings: RwLock::default(),
        peers: RwLock::default(),
    });
    let network = PeerNetwork { shared: shared.clone() };
    network.set_book(&settings.book);
    shared.tasks.spawn(accept::accept(shared.clone(), listener));
    Ok(network)
}

/// How a node is connected with another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other.
    pub node: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// Whether this node's connection to it stands.
    pub outgoing: bool,
    /// Whether its connection to this node stands.
    pub incoming: bool,
    /// The version of the protocol that is spoken on the outgoing connection; `None` before there was one.
    pub protocol: Option<u16>,
    /// Why the last attempt to connect failed, in words.
    pub trouble: Option<String>,
}

impl PeerNetwork {
    /// How this node is connected with the others, by their names.
    pub fn links(&self) -> Vec<Link> {
        let peers = self.shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        let link = |peer: &Arc<Peer>| Link {
            node: peer.id.clone(),
            address: peer.place(0),
            outgoing: peer.lanes.is_open(),
            incoming: peer.lock_incoming().is_some(),
            protocol: Some(peer.protocol.load(Ordering::Acquire)).filter(|protocol| *protocol > 0),
            trouble: peer.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        peers.values().map(link).collect()
    }

    /// Where this node listens.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local
    }

    /// Returns when, after the shutdown, every task has ended and every socket is closed.
    pub async fn stopped(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Network for PeerNetwork {
    fn send(&self, to: &NodeId, frame: Frame) {
        let counts = &self.shared.counts;
        // Looking first saves the work of encoding for a peer that is not there.
        let Some(peer) = self.shared.peer(to).filter(|peer| peer.lanes.is_open()) else {
            counts.dropped.inc();
            return;
        };
        // A peer that does not know a frame would take the connection for broken.
        if frame.since() > peer.protocol.load(Ordering::Acquire) {
            counts.dropped.inc();
            return;
        }
        let lane = LaneName::of(&frame);
        let bytes = codec::encode(&frame);
        if bytes.len() > FRAME_BYTES_MAX {
            tracing::error!(peer = %to, bytes = bytes.len(), "a frame beyond {FRAME_BYTES_MAX} bytes was not sent");
            counts.dropped.inc();
        } else if !peer.lanes.push(lane, bytes) {
            counts.dropped.inc();
        }
    }

    fn set_book(&self, book: &AddressBook) {
        self.shared.set_book(book);
    }
}
