//! Real sockets on loopback. Waits are bounded only so that a failure ends; nothing asserts a duration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::codec;
use crate::ledger::command::{Command, Request};
use crate::metrics::{Metrics, ResultLabel};
use crate::node::frame::{FRAME_BYTES_MAX, Frame, Hello, PROTOCOL};
use crate::node::ports::{AddressBook, Network, Pinger};
use crate::types::{AgentKey, Index, MemberId, NodeId, Version};

use super::accept::STRANGERS_MAX;
use super::datagram::{Ping, Pong};
use super::lanes::LANE_BYTES_MAX;
use super::peers::{GUESTS_MAX, PeerEvent, PeerNetwork, PeerSettings, start};
use super::udp::{AgentEvent, UdpPinger};
use super::wire::{self, Greeting};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    network: PeerNetwork,
    inbox: mpsc::Receiver<PeerEvent>,
    metrics: Arc<Metrics>,
    token: CancellationToken,
}

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn book(peers: &[(&str, SocketAddr)]) -> AddressBook {
    let nodes = peers.iter().map(|(name, address)| (id(name), address.to_string())).collect();
    AddressBook { nodes, ..AddressBook::default() }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports")
}

async fn listen_again(address: SocketAddr) -> TcpListener {
    within(async {
        loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                return listener;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it happens in the end")
}

impl Node {
    fn start(name: &str, cluster: &str, listener: TcpListener, peers: &[(&str, SocketAddr)]) -> Node {
        Node::with_inbox(name, cluster, listener, peers, 100_000)
    }

    fn with_inbox(
        name: &str,
        cluster: &str,
        listener: TcpListener,
        peers: &[(&str, SocketAddr)],
        inbox: usize,
    ) -> Node {
        let said = listener.local_addr().expect("it is bound");
        Node::who_says(said, name, cluster, listener, peers, inbox)
    }

    /// One that tells the others this address.
    fn who_says(
        said: SocketAddr,
        name: &str,
        cluster: &str,
        listener: TcpListener,
        peers: &[(&str, SocketAddr)],
        inbox: usize,
    ) -> Node {
        Node::speaking(PROTOCOL, said, (name, cluster), listener, peers, inbox)
    }

    /// One that speaks no newer protocol than this.
    fn speaking(
        protocol_max: u16,
        said: SocketAddr,
        (name, cluster): (&str, &str),
        listener: TcpListener,
        peers: &[(&str, SocketAddr)],
        inbox: usize,
    ) -> Node {
        let settings = PeerSettings {
            id: id(name),
            cluster: cluster.to_string(),
            book: book(peers),
            address: said.to_string(),
            url: format!("http://{name}"),
            incarnation: format!("disk of {name}"),
            protocol_max,
            tls: None,
        };
        let (sender, inbox) = mpsc::channel(inbox);
        let (metrics, token) = (Arc::new(Metrics::new()), CancellationToken::new());
        let network = start(listener, settings, sender, metrics.clone(), token.clone()).expect("it starts");
        Node { network, inbox, metrics, token }
    }

    async fn event(&mut self) -> PeerEvent {
        within(self.inbox.recv()).await.expect("the network holds the sender")
    }

    /// Skips events until this one.
    async fn until(&mut self, wanted: PeerEvent) {
        while self.event().await != wanted {}
    }

    async fn until_connected(&mut self, names: &[&str]) {
        let mut missing: Vec<NodeId> = names.iter().map(|name| id(name)).collect();
        while !missing.is_empty() {
            if let PeerEvent::Connected { node, .. } = self.event().await {
                missing.retain(|name| *name != node);
            }
        }
    }

    fn ping(&self, to: &str, seq: u64) {
        self.network.send(&id(to), Frame::Ping { seq });
    }

    async fn stop(self) {
        self.token.cancel();
        within(self.network.stopped()).await;
    }

    fn connections(&self, result: &str) -> u64 {
        self.metrics.peer_connections.get_or_create(&ResultLabel { result: result.to_string() }).get()
    }

    fn frames(&self, result: &str) -> u64 {
        self.metrics.peer_frames.get_or_create(&ResultLabel { result: result.to_string() }).get()
    }
}

fn ping_from(name: &str, seq: u64) -> PeerEvent {
    PeerEvent::Frame { from: id(name), frame: Frame::Ping { seq } }
}

async fn two() -> (Node, Node) {
    let (one, two) = (listener().await, listener().await);
    let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let mut n1 = Node::start("n1", "c", one, &[("n2", at_two), ("n1", at_one)]);
    let mut n2 = Node::start("n2", "c", two, &[("n1", at_one)]);
    n1.until_connected(&["n2"]).await;
    n2.until_connected(&["n1"]).await;
    (n1, n2)
}

/// A connection to `node` made by hand.
async fn dial(node: &Node) -> TcpStream {
    TcpStream::connect(node.network.local_address()).await.expect("it listens")
}

fn hello(cluster: &str, from: &str, to: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        cluster: cluster.to_string(),
        from: id(from),
        to: id(to),
        version: Version::current(),
        url: String::new(),
        incarnation: format!("disk of {from}"),
        address: String::new(),
        identity: None,
    }
}

async fn greet(stream: &mut TcpStream, hello: Hello) -> Greeting {
    wire::write_greeting(stream, &Greeting::Hello(hello)).await.expect("it reads");
    wire::read_greeting(&mut wire::reader(stream, 4_096)).await.expect("it answers")
}

/// Waits for the end of a connection, whichever way it ends.
async fn wait_for_end(stream: &mut TcpStream) {
    within(async { while !matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {} }).await;
}

/// A frame of about so many bytes.
fn large(bytes: usize, id: u64) -> Frame {
    let command = Command::KvPut { key: "k".to_string(), value: "x".repeat(bytes), if_revision: None };
    Frame::Forward { life: 0, id, request: Request::new(command) }
}

#[tokio::test]
async fn frames_arrive_in_order_in_both_directions() {
    let (mut n1, mut n2) = two().await;
    for seq in 0..2_000 {
        n1.ping("n2", seq);
        n2.ping("n1", seq + 10_000);
    }
    for seq in 0..2_000 {
        assert_eq!(n2.event().await, ping_from("n1", seq));
        assert_eq!(n1.event().await, ping_from("n2", seq + 10_000));
    }
    assert_eq!((n1.frames("dropped"), n1.frames("received")), (0, 2_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_reach_each_other_and_know_who_speaks() {
    let names = ["n1", "n2", "n3"];
    let listeners = [listener().await, listener().await, listener().await];
    let peers: Vec<_> =
        names.iter().zip(&listeners).map(|(name, at)| (*name, at.local_addr().unwrap())).collect();
    let mut nodes: Vec<Node> = names
        .iter()
        .zip(listeners)
        .map(|(name, listener)| Node::start(name, "c", listener, &peers))
        .collect();
    for (node, own) in nodes.iter_mut().zip(names) {
        let others: Vec<_> = names.into_iter().filter(|name| *name != own).collect();
        node.until_connected(&others).await;
    }
    for node in &nodes {
        names.iter().for_each(|name| node.ping(name, 7));
    }
    for (node, own) in nodes.iter_mut().zip(names) {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            if let PeerEvent::Frame { from, .. } = node.event().await {
                heard.push(from.to_string());
            }
        }
        heard.sort();
        assert_eq!(heard, names.into_iter().filter(|name| *name != own).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_large_frame_passes_and_one_beyond_the_bound_is_dropped_at_the_sender() {
    let (n1, mut n2) = two().await;
    n1.network.send(&id("n2"), large(FRAME_BYTES_MAX, 0));
    assert_eq!(n1.frames("dropped"), 1);
    n1.network.send(&id("n2"), large(FRAME_BYTES_MAX - 1_000, 1));
    let frame = large(FRAME_BYTES_MAX - 1_000, 1);
    assert!(n2.event().await == PeerEvent::Frame { from: id("n1"), frame }, "it arrives whole");
}

#[tokio::test]
async fn a_dead_process_is_reported_gone_once_and_connected_when_it_is_back() {
    let (mut n1, n2) = two().await;
    let (at_one, at_two) = (n1.network.local_address(), n2.network.local_address());
    n2.stop().await;
    n1.until(PeerEvent::Lost { node: id("n2") }).await;
    assert_eq!(n1.event().await, PeerEvent::Gone { node: id("n2") });
    n1.ping("n2", 1);
    assert_eq!(n1.frames("dropped"), 1, "without a connection frames are dropped at once");
    let mut n2 = Node::start("n2", "c", listen_again(at_two).await, &[("n1", at_one)]);
    let back = PeerEvent::Connected {
        node: id("n2"),
        url: "http://n2".to_string(),
        incarnation: "disk of n2".to_string(),
    };
    assert_eq!(n1.event().await, back, "gone was said only once");
    n1.ping("n2", 2);
    n2.until(ping_from("n1", 2)).await;
}

#[tokio::test]
async fn a_process_that_dies_is_noticed_even_if_only_its_own_connection_stood() {
    // n2 has reached n1, but n1 never reached n2, because everybody has a wrong address for it.
    let (one, two, closed) = (listener().await, listener().await, listener().await);
    let (at_one, nobody) = (one.local_addr().unwrap(), closed.local_addr().unwrap());
    drop(closed);
    let mut n1 = Node::start("n1", "c", one, &[("n2", nobody)]);
    let mut n2 = Node::who_says(nobody, "n2", "c", two, &[("n1", at_one)], 100);
    n2.until_connected(&["n1"]).await;
    n2.ping("n1", 1);
    assert_eq!(n1.event().await, ping_from("n2", 1));
    // While n2 lives, however often its wrong address refuses, it is not called gone.
    for seq in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        n2.ping("n1", seq);
        assert_eq!(n1.event().await, ping_from("n2", seq));
    }
    n2.stop().await;
    assert_eq!(n1.event().await, PeerEvent::Gone { node: id("n2") });
}

#[tokio::test]
async fn a_broken_connection_of_a_living_process_is_lost_but_not_gone() {
    // A peer made by hand, which closes its connections and goes on listening.
    let (one, two) = (listener().await, listener().await);
    let mut n1 = Node::start("n1", "c", one, &[("n2", two.local_addr().unwrap())]);
    for _ in 0..3 {
        let (mut stream, _) = within(two.accept()).await.unwrap();
        wire::read_greeting(&mut wire::reader(&mut stream, 4_096)).await.unwrap();
        wire::write_greeting(&mut stream, &Greeting::Hello(hello("c", "n2", "n1"))).await.unwrap();
        assert_eq!(
            n1.event().await,
            PeerEvent::Connected {
                node: id("n2"),
                url: String::new(),
                incarnation: "disk of n2".to_string(),
            }
        );
        drop(stream);
        assert_eq!(n1.event().await, PeerEvent::Lost { node: id("n2") });
    }
}

#[tokio::test]
async fn a_peer_that_left_the_book_is_told_and_forgotten_once_it_lets_go_itself() {
    let (mut n1, mut n2) = two().await;
    let at_one = n1.network.local_address();
    n1.network.set_book(&book(&[]));
    // It does not know yet that it has left: it speaks, and is told.
    n2.ping("n1", 1);
    n1.until(ping_from("n2", 1)).await;
    n1.ping("n2", 2);
    n2.until(ping_from("n1", 2)).await;
    // It lets go: nothing reaches it any more, and nobody tries.
    n2.network.set_book(&book(&[]));
    within(async {
        loop {
            let before = n1.frames("dropped");
            n1.ping("n2", 3);
            if n1.frames("dropped") > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // And it may come back.
    n1.network.set_book(&book(&[("n2", n2.network.local_address())]));
    n2.network.set_book(&book(&[("n1", at_one)]));
    n1.until_connected(&["n2"]).await;
    n2.until_connected(&["n1"]).await;
    n1.ping("n2", 5);
    n2.until(ping_from("n1", 5)).await;
}

#[tokio::test]
async fn a_node_that_knows_nobody_hears_and_answers_whoever_dials_it() {
    let (one, two) = (listener().await, listener().await);
    let at_two = two.local_addr().unwrap();
    let mut joiner = Node::start("n2", "c", two, &[]);
    let mut leader = Node::start("n1", "c", one, &[("n2", at_two)]);
    leader.until_connected(&["n2"]).await;
    leader.ping("n2", 1);
    // The answer goes where the leader said that it is.
    joiner.until_connected(&["n1"]).await;
    joiner.ping("n1", 2);
    leader.until(ping_from("n2", 2)).await;
    // The configuration names the leader: the connection that stands goes on.
    joiner.network.set_book(&book(&[("n1", leader.network.local_address())]));
    joiner.ping("n1", 3);
    leader.until(ping_from("n2", 3)).await;
    assert_eq!(joiner.connections("dialled"), 1);
}

#[tokio::test]
async fn a_peer_that_has_moved_is_found_where_it_says_to_be() {
    let (mut n1, n2) = two().await;
    let at_one = n1.network.local_address();
    n2.stop().await;
    n1.until(PeerEvent::Gone { node: id("n2") }).await;
    // Elsewhere, and only it knows.
    let mut n2 = Node::start("n2", "c", listener().await, &[("n1", at_one)]);
    n1.until_connected(&["n2"]).await;
    n1.ping("n2", 1);
    n2.until(ping_from("n1", 1)).await;
    // The book learns of it: nothing has to be dialled anew.
    n1.network.set_book(&book(&[("n2", n2.network.local_address())]));
    n1.ping("n2", 2);
    n2.until(ping_from("n1", 2)).await;
    assert_eq!(n1.connections("lost"), 1);
}

#[tokio::test]
async fn a_node_that_lost_its_directory_is_not_heard_and_one_that_is_heard_is_cut_off() {
    let (mut n1, mut n2) = two().await;
    let at_two = n2.network.local_address();
    let bound = |to: &str| {
        let mut book = book(&[("n2", at_two)]);
        book.incarnations.insert(id("n2"), to.to_string());
        book
    };
    n1.network.set_book(&bound("disk of n2"));
    n1.ping("n2", 1);
    n2.until(ping_from("n1", 1)).await;
    let mut stream = dial(&n1).await;
    let wiped = Hello { incarnation: "empty".to_string(), ..hello("c", "n2", "n1") };
    let answer = greet(&mut stream, wiped).await;
    assert!(
        matches!(&answer, Greeting::Refused { reason } if reason.contains("by another data directory")),
        "{answer:?}"
    );
    // It was heard before anybody knew better.
    n1.network.set_book(&bound("the true disk of n2"));
    n2.until(PeerEvent::Lost { node: id("n1") }).await;
    let refused = n1.connections("refused");
    within(async {
        while n1.connections("refused") < refused + 2 || n2.connections("refused") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let before = n1.frames("dropped");
    n1.ping("n2", 2);
    assert_eq!(n1.frames("dropped"), before + 1);
    // It was removed: its name is free.
    n1.network.set_book(&book(&[("n2", at_two)]));
    n1.until_connected(&["n2"]).await;
}

/// n2 lost its directory, was removed and joined anew while n1 was away: n1 knows it by the old one.
#[tokio::test]
async fn who_was_refused_tells_who_is_bound_to_what_and_is_believed_if_it_knows_more() {
    let (mut n1, mut n2) = two().await;
    let (at_one, at_two) = (n1.network.local_address(), n2.network.local_address());
    let bound = |peer: (&str, SocketAddr), as_of: u64, to: &str| {
        let mut book = book(&[peer]);
        book.incarnations = [(id("n1"), "disk of n1".to_string()), (id("n2"), to.to_string())].into();
        book.as_of = Index(as_of);
        book
    };
    n1.network.set_book(&bound(("n2", at_two), 5, "old disk of n2"));
    n2.until(PeerEvent::Lost { node: id("n1") }).await;
    // It knows less of the log than n1 does: perhaps it was bound before the other.
    n2.network.set_book(&bound(("n1", at_one), 4, "disk of n2"));
    let refused = n1.connections("refused");
    within(async {
        while n1.connections("refused") < refused + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    n2.network.set_book(&bound(("n1", at_one), 9, "disk of n2"));
    n1.until_connected(&["n2"]).await;
    // What n1 had known does not come back with its next book.
    n1.network.set_book(&bound(("n2", at_two), 6, "old disk of n2"));
    n2.ping("n1", 1);
    n1.until(ping_from("n2", 1)).await;
}

#[tokio::test]
async fn so_many_guests_and_no_more() {
    let n1 = Node::start("n1", "c", listener().await, &[]);
    let mut guests = Vec::new();
    for number in 0..GUESTS_MAX {
        let mut stream = dial(&n1).await;
        let answer = greet(&mut stream, hello("c", &format!("g{number}"), "n1")).await;
        assert!(matches!(answer, Greeting::Hello(_)), "{number}: {answer:?}");
        guests.push(stream);
    }
    let mut stream = dial(&n1).await;
    let answer = greet(&mut stream, hello("c", "one-more", "n1")).await;
    assert!(matches!(&answer, Greeting::Refused { reason } if reason.contains("too many")), "{answer:?}");
    // One leaves: there is room.
    drop(guests.pop());
    within(async {
        loop {
            let mut stream = dial(&n1).await;
            if matches!(greet(&mut stream, hello("c", "one-more", "n1")).await, Greeting::Hello(_)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_hello_of_an_older_version_is_refused_in_words() {
    let n1 = Node::start("n1", "c", listener().await, &[]);
    // As protocol 1 wrote it.
    let former = (0_u32, 1_u16, "c", "n2", "n1", Version::current(), "http://n2", "disk of n2");
    let mut stream = dial(&n1).await;
    let mut frame = BytesMut::new();
    wire::seal(&codec::encode(&former), &mut frame);
    stream.write_all(&frame).await.unwrap();
    let answer = wire::read_greeting(&mut wire::reader(&mut stream, 4_096)).await.expect("it answers");
    assert!(
        matches!(&answer, Greeting::Refused { reason } if reason.contains(&format!("speaks peer protocol 2 to {PROTOCOL}, not 1"))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn two_nodes_speak_the_newest_protocol_that_both_know() {
    let (one, two) = (listener().await, listener().await);
    let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let mut n1 = Node::start("n1", "c", one, &[("n2", at_two)]);
    // An older one: it cannot read an offer, and closes the connection without a word.
    let mut n2 = Node::speaking(2, at_two, ("n2", "c"), two, &[("n1", at_one)], 1_000);
    n1.until_connected(&["n2"]).await;
    n2.until_connected(&["n1"]).await;
    assert_eq!((n1.network.links()[0].protocol, n2.network.links()[0].protocol), (Some(2), Some(2)));
    assert!(n2.connections("malformed") >= 1, "the offer came first");
    n1.ping("n2", 1);
    n2.until(ping_from("n1", 1)).await;
    n2.ping("n1", 2);
    n1.until(ping_from("n2", 2)).await;
    // It is upgraded.
    n2.stop().await;
    n1.until(PeerEvent::Gone { node: id("n2") }).await;
    let mut n2 = Node::start("n2", "c", listen_again(at_two).await, &[("n1", at_one)]);
    n1.until_connected(&["n2"]).await;
    n2.until_connected(&["n1"]).await;
    assert_eq!(n2.network.links()[0].protocol, Some(PROTOCOL));
    n1.ping("n2", 3);
    n2.until(ping_from("n1", 3)).await;
}

#[tokio::test]
async fn an_offer_is_answered_by_the_newest_common_protocol_or_refused_in_words() {
    let n1 = Node::start("n1", "c", listener().await, &[]);
    for (oldest, newest, answered) in [
        (2, 2, Ok(2)),
        (2, 3, Ok(3)),
        (3, 3, Ok(3)),
        (1, 9, Ok(PROTOCOL)),
        (PROTOCOL + 1, 9, Err("not 5 to 9")),
        (1, 1, Err("not 1")),
    ] {
        let mut stream = dial(&n1).await;
        let hello = Hello { protocol: newest, ..hello("c", "n2", "n1") };
        wire::write_greeting(&mut stream, &Greeting::Offer { oldest, hello }).await.expect("it reads");
        let answer = wire::read_greeting(&mut wire::reader(&mut stream, 4_096)).await.expect("it answers");
        match (answered, answer) {
            (Ok(protocol), Greeting::Hello(hello)) => assert_eq!(hello.protocol, protocol),
            (Err(words), Greeting::Refused { reason }) => {
                assert!(
                    reason.contains(words) && reason.contains(&format!("peer protocol 2 to {PROTOCOL}")),
                    "{reason}"
                );
            }
            (_, other) => panic!("{oldest} to {newest}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn who_does_not_belong_is_refused_with_the_remedy_and_disturbs_nobody() {
    let (n1, mut n2) = two().await;
    let mut founded = book(&[("n2", n2.network.local_address())]);
    founded.identity = Some("red".to_string());
    n1.network.set_book(&founded);
    let cases = [
        ("wrong cluster", hello("other", "n2", "n1"), "belongs to cluster \"c\", not \"other\""),
        ("wrong target", hello("c", "n2", "n9"), "n1 listens here, not n9"),
        (
            "another cluster of the same name",
            Hello { identity: Some("blue".to_string()), ..hello("c", "n9", "n1") },
            "two clusters that are both called \"c\", founded as red and blue",
        ),
        ("own name", hello("c", "n1", "n1"), "own name"),
        ("protocol", Hello { protocol: 99, ..hello("c", "n2", "n1") }, "run the same version"),
        (
            "second process of one name",
            Hello { incarnation: "another disk".to_string(), ..hello("c", "n2", "n1") },
            "another process with the id n2",
        ),
    ];
    for (refused, (name, hello, expected)) in (1..).zip(cases) {
        let mut stream = dial(&n1).await;
        match greet(&mut stream, hello).await {
            Greeting::Refused { reason } => assert!(reason.contains(expected), "{name}: {reason}"),
            other => panic!("{name}: welcomed by {other:?}"),
        }
        wait_for_end(&mut stream).await;
        assert_eq!(n1.connections("refused"), refused, "{name}");
    }
    n1.ping("n2", 1);
    assert_eq!(n2.event().await, ping_from("n1", 1));
}

#[tokio::test]
async fn two_clusters_that_know_each_others_addresses_never_connect() {
    let (one, two) = (listener().await, listener().await);
    let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let mut n1 = Node::start("n1", "red", one, &[("n2", at_two)]);
    let mut n2 = Node::start("n2", "blue", two, &[("n1", at_one)]);
    within(async {
        while n1.connections("refused") < 3 || n2.connections("refused") < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(n1.inbox.try_recv().is_err() && n2.inbox.try_recv().is_err());
}

#[tokio::test]
async fn a_peer_that_answers_under_another_name_is_not_spoken_to() {
    let (one, two) = (listener().await, listener().await);
    let mut n1 = Node::start("n1", "c", one, &[("n2", two.local_addr().unwrap())]);
    for _ in 0..3 {
        let (mut stream, _) = within(two.accept()).await.unwrap();
        wire::read_greeting(&mut wire::reader(&mut stream, 4_096)).await.unwrap();
        wire::write_greeting(&mut stream, &Greeting::Hello(hello("c", "n3", "n1"))).await.unwrap();
        wait_for_end(&mut stream).await;
    }
    assert!(n1.inbox.try_recv().is_err(), "never connected");
}

#[tokio::test]
async fn nonsense_in_place_of_a_greeting_ends_only_that_connection() {
    let (n1, mut n2) = two().await;
    let mut flipped = BytesMut::new();
    wire::seal(&codec::encode(&Greeting::Hello(hello("c", "n2", "n1"))), &mut flipped);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let mut undecodable = BytesMut::new();
    wire::seal(b"\x01\xff\xff\xff\xff", &mut undecodable);
    let mut newer_format = BytesMut::new();
    wire::seal(b"\x09", &mut newer_format);
    let cases: [(&str, &[u8]); 6] = [
        ("http", b"GET / HTTP/1.1\r\n\r\n"),
        ("a huge length", &[0xff; 64]),
        ("beyond the bound of a greeting", &[0, 0, 0x20, 0, 1]),
        ("a flipped bit", &flipped),
        ("undecodable", &undecodable),
        ("a newer format", &newer_format),
    ];
    for (malformed, (name, bytes)) in (1..).zip(cases) {
        let mut stream = dial(&n1).await;
        stream.write_all(bytes).await.unwrap();
        wait_for_end(&mut stream).await;
        assert_eq!(n1.connections("malformed"), malformed, "{name}");
    }
    n1.ping("n2", 1);
    assert_eq!(n2.event().await, ping_from("n1", 1));
}

#[tokio::test]
async fn nonsense_after_the_greeting_ends_only_that_connection() {
    // n3 is spoken by hand; n2 is a real peer that must not notice.
    let (one, two, three) = (listener().await, listener().await, listener().await);
    let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let mut n1 = Node::start("n1", "c", one, &[("n2", at_two), ("n3", three.local_addr().unwrap())]);
    let mut n2 = Node::start("n2", "c", two, &[("n1", at_one)]);
    n2.until_connected(&["n1"]).await;
    let mut good = BytesMut::new();
    wire::seal(&codec::encode(&Frame::Ping { seq: 3 }), &mut good);
    let mut too_long = BytesMut::new();
    too_long.put_u32(FRAME_BYTES_MAX as u32 + 100);
    let mut flipped = good.clone();
    flipped[8] ^= 0x80;
    // Noise behind a length that could be true: behind any other it would be "too long" again.
    let noise: Vec<u8> = [0, 0, 4, 0]
        .into_iter()
        .chain((0..1_024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8))
        .collect();
    for (name, bytes) in [("too long", &too_long[..]), ("flipped", &flipped[..]), ("noise", &noise[..])] {
        let before = n1.connections("malformed");
        let mut stream = dial(&n1).await;
        assert!(matches!(greet(&mut stream, hello("c", "n3", "n1")).await, Greeting::Hello(_)), "{name}");
        stream.write_all(&good).await.unwrap();
        n1.until(ping_from("n3", 3)).await;
        stream.write_all(bytes).await.unwrap();
        wait_for_end(&mut stream).await;
        within(async {
            while n1.connections("malformed") == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        n2.ping("n1", 4);
        n1.until(ping_from("n2", 4)).await;
    }
    assert_eq!(n2.connections("lost"), 0, "the other connection stood all the time");
}

#[tokio::test]
async fn a_newer_connection_from_a_peer_replaces_the_one_before() {
    let (one, three) = (listener().await, listener().await);
    let mut n1 = Node::start("n1", "c", one, &[("n3", three.local_addr().unwrap())]);
    let mut older = dial(&n1).await;
    assert!(matches!(greet(&mut older, hello("c", "n3", "n1")).await, Greeting::Hello(_)));
    let mut newer = dial(&n1).await;
    assert!(matches!(greet(&mut newer, hello("c", "n3", "n1")).await, Greeting::Hello(_)));
    wait_for_end(&mut older).await;
    let mut frame = BytesMut::new();
    wire::seal(&codec::encode(&Frame::Ping { seq: 3 }), &mut frame);
    newer.write_all(&frame).await.unwrap();
    n1.until(ping_from("n3", 3)).await;
}

#[tokio::test]
async fn silent_strangers_are_closed_in_time_and_cannot_crowd_out_peers() {
    let (mut n1, n2) = two().await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS_MAX {
        strangers.push(dial(&n1).await);
    }
    // A greeting that trickles in byte by byte counts as silent.
    strangers[0].write_all(&[0]).await.unwrap();
    let mut one_too_many = dial(&n1).await;
    wait_for_end(&mut one_too_many).await;
    assert_eq!(n1.connections("too_many"), 1);
    n2.ping("n1", 8);
    n1.until(ping_from("n2", 8)).await;
    for stranger in &mut strangers {
        wait_for_end(stranger).await;
    }
    assert_eq!(n1.connections("slow"), STRANGERS_MAX as u64);
    let mut welcome = dial(&n1).await;
    assert!(matches!(greet(&mut welcome, hello("c", "n2", "n1")).await, Greeting::Hello(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_never_blocks_and_what_does_not_fit_is_dropped() {
    let (one, two) = (listener().await, listener().await);
    let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let mut n1 = Node::start("n1", "c", one, &[("n2", at_two)]);
    // n2 takes one event and then nothing, until the end.
    let mut n2 = Node::with_inbox("n2", "c", two, &[("n1", at_one)], 1);
    n1.until_connected(&["n2"]).await;
    let mut number = 0;
    while n1.frames("dropped") == 0 {
        n1.network.send(&id("n2"), large(1 << 20, number));
        number += 1;
        assert!(number < 1_000, "1 000 MiB are more than any queue holds");
    }
    let mut last = None;
    loop {
        match n2.event().await {
            PeerEvent::Frame { frame: Frame::Forward { id, .. }, .. } => {
                assert!(last < Some(id), "what arrives keeps its order");
                last = Some(id);
                // As soon as there is room, frames are taken again.
                n1.ping("n2", 1);
            }
            PeerEvent::Frame { frame: Frame::Ping { seq: 1 }, .. } => break,
            PeerEvent::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(last > Some(LANE_BYTES_MAX as u64 >> 21), "what fitted arrived: {last:?}");
}

#[tokio::test]
async fn a_frame_for_a_stranger_or_for_oneself_is_dropped() {
    let (n1, _n2) = two().await;
    n1.ping("n1", 1);
    n1.ping("n9", 1);
    assert_eq!(n1.frames("dropped"), 2);
}

// Agents.

struct Pings {
    pinger: UdpPinger,
    inbox: mpsc::Receiver<AgentEvent>,
    metrics: Metrics,
    token: CancellationToken,
}

const KEY: AgentKey = AgentKey([7; 32]);

fn member(name: &str) -> MemberId {
    name.parse().expect("a valid name")
}

async fn pings() -> Pings {
    let (sender, inbox) = mpsc::channel(100);
    let (metrics, token) = (Metrics::new(), CancellationToken::new());
    let any = "127.0.0.1:0".parse().unwrap();
    let pinger = UdpPinger::start(any, "c", sender, &metrics, token.clone()).expect("it starts");
    Pings { pinger, inbox, metrics, token }
}

impl Pings {
    fn count(&self, result: &str) -> u64 {
        self.metrics.agent_datagrams.get_or_create(&ResultLabel { result: result.to_string() }).get()
    }

    async fn event(&mut self) -> AgentEvent {
        within(self.inbox.recv()).await.expect("the pinger holds the sender")
    }
}

/// Receives a ping as an agent would and returns the true answer to it.
async fn receive(agent: &UdpSocket, name: &str) -> (Pong, SocketAddr) {
    let mut buffer = [0; 512];
    let (length, from) = within(agent.recv_from(&mut buffer)).await.unwrap();
    let ping = Ping::decode(&buffer[..length]).expect("a ping");
    assert_eq!(ping.cluster, "c");
    let version = Version { major: 3, minor: 2, patch: 1 };
    (Pong { seq: ping.seq, nonce: ping.nonce, version, member: member(name) }, from)
}

#[tokio::test]
async fn only_the_receiver_of_a_ping_can_answer_it() {
    let mut pings = pings().await;
    let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = agent.local_addr().unwrap().to_string();
    pings.pinger.ping(&member("w1"), &address, &KEY, 77);
    let (pong, from) = receive(&agent, "w1").await;
    for (name, spoofed) in [
        ("another nonce", Pong { nonce: [0; 16], ..pong.clone() }),
        ("another number", Pong { seq: 78, ..pong.clone() }),
        ("another member", Pong { member: member("w2"), ..pong.clone() }),
    ] {
        agent.send_to(&spoofed.encode(&KEY), from).await.expect(name);
    }
    agent.send_to(&pong.encode(&AgentKey([8; 32])), from).await.expect("another key");
    for junk in [&b""[..], b"SNOD", &[0xff; 1_400], b"GET / HTTP/1.1\r\n\r\n"] {
        agent.send_to(junk, from).await.unwrap();
    }
    agent.send_to(&[&pong.encode(&KEY)[..], b"x"].concat(), from).await.unwrap();
    // From another socket: where a pong comes from proves nothing and is not asked.
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    elsewhere.send_to(&pong.encode(&KEY), from).await.unwrap();
    let version = Version { major: 3, minor: 2, patch: 1 };
    assert_eq!(pings.event().await, AgentEvent::Pong { member: member("w1"), seq: 77, version });
    within(async {
        while pings.count("junk") < 9 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!([pings.count("limited"), pings.count("answered")], [0, 1]);
}

#[tokio::test]
async fn a_name_is_resolved_without_blocking_and_the_first_ping_goes_out() {
    let mut pings = pings().await;
    let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", agent.local_addr().unwrap().port());
    for seq in 1..=2 {
        pings.pinger.ping(&member("w1"), &address, &KEY, seq);
        let (pong, from) = receive(&agent, "w1").await;
        assert_eq!(pong.seq, seq);
        agent.send_to(&pong.encode(&KEY), from).await.unwrap();
        assert!(matches!(pings.event().await, AgentEvent::Pong { .. }));
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_resolved_costs_nothing_but_that_ping() {
    let pings = pings().await;
    for address in ["no port", "host.invalid:7402", ""] {
        pings.pinger.ping(&member("w1"), address, &KEY, 1);
    }
    within(async {
        while pings.count("unsent") < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(pings.count("sent"), 0);
    pings.token.cancel();
    within(pings.pinger.stopped()).await;
}

#[tokio::test]
async fn a_cluster_name_that_does_not_fit_into_a_ping_is_refused_at_start() {
    let (sender, _inbox) = mpsc::channel(1);
    let any = "127.0.0.1:0".parse().unwrap();
    let long = "x".repeat(65);
    let refused = UdpPinger::start(any, &long, sender, &Metrics::new(), CancellationToken::new());
    assert!(refused.err().is_some_and(|error| error.to_string().contains("64 bytes")));
}
