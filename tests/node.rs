//! Whole nodes, stepped by hand: what passes between two of them and what reaches the one who asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super_node::health;
use super_node::ledger::command::{Answer, Applied, Command, Request};
use super_node::ledger::keyspace::{Keyspace, KeyspaceError, Reader};
use super_node::ledger::policy::Policy;
use super_node::node::applier::{Applier, Intake, SNAPSHOT_PART_BYTES, rows_checksum};
use super_node::node::core::{Bounds, Node, Settings};
use super_node::node::driver::{self, Inlet, NodeError, Parts};
use super_node::node::frame::{Frame, SnapshotChunk};
use super_node::node::handle::{Changed, Failure, Transferred};
use super_node::node::io::{Effect, Input, Notice};
use super_node::node::moment::Moment;
use super_node::node::ports::{
    AddressBook, AgentPing, LogStore, Network, NewRows, OpenedLog, Pinger, StateStore, StorageError,
};
use super_node::node::requests::{
    Finished, Origin, Outcome, PARKED_FOR, PARKED_MAX, Requests, Started, WATCHED_FOR, Want,
};
use super_node::node::snapshot::WantPart;
use super_node::raft::{
    self, Body, Change, Configuration, Entry, Message, Payload, Persist, Position, Recovered,
};
use super_node::storage::MemoryState;
use super_node::types::{Index, Micros, NodeId, Term, UnixMillis};
use tokio_util::sync::CancellationToken;

fn id(name: &str) -> NodeId {
    name.parse().expect("a name")
}

fn settings(name: &str) -> Settings {
    let peers: BTreeMap<NodeId, String> =
        ["n1", "n2", "n3"].into_iter().map(|name| (id(name), format!("test:{name}"))).collect();
    Settings {
        id: id(name),
        cluster: "test".to_string(),
        raft: raft::Config { id: id(name), ..raft::Config::default() },
        health: health::Config::new((&id(name)).into()),
        retention: None,
        genesis: Command::Genesis {
            cluster: "test".to_string(),
            identity: "0".repeat(32),
            policy: Policy::default(),
            nodes: peers.clone().into_iter().collect(),
        },
        peers,
        keep_entries: 16,
        keep_bytes: 1 << 20,
        bounds: Bounds::default(),
        snapshot_rate: 0,
        in_memory: false,
        replace_dead_after: None,
        address: format!("test:{name}"),
        url: String::new(),
        incarnation: String::new(),
        protocol_max: super_node::node::frame::PROTOCOL,
    }
}

/// A node with its applier, and the time it lives in.
struct Bench {
    node: Node,
    applier: Applier,
    now: Micros,
    entropy: u64,
}

impl Bench {
    fn start(name: &str, entropy: u64) -> Bench {
        let applier = Applier::new(Arc::new(MemoryState::new())).expect("an empty state");
        let moment = Moment { now: Micros(1_000_000), wall: UnixMillis(0), entropy };
        let facts = applier.facts().expect("facts");
        let node = Node::new(settings(name), Recovered::default(), applier.standing(), facts, moment);
        Bench { node: node.expect("an empty log"), applier, now: moment.now, entropy }
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        self.now = Micros(self.now.0 + 1_000);
        let moment = Moment { now: self.now, wall: UnixMillis(0), entropy: self.entropy };
        self.node.step(moment, input);
        self.node.take_effects(moment)
    }

    fn hears(&mut self, from: &str, frame: Frame) -> Vec<Effect> {
        self.step(Input::Frame { from: id(from), frame })
    }

    /// `leader` leads `term`; what this node must write for that is durable at once.
    fn follow(&mut self, leader: &str, term: u64) {
        let body = Body::Heartbeat { commit: Index(0), round: 1 };
        let effects = self.hears(leader, Frame::Raft(Message { term: Term(term), body }));
        for effect in effects {
            if let Effect::Persist(persist) = effect {
                self.step(Input::Persisted { seq: persist.seq });
            }
        }
        assert_eq!(self.node.raft_status().leader, Some(id(leader)));
    }
}

fn put(key: &str) -> Want {
    let command = Command::KvPut { key: key.to_string(), value: "1".to_string(), if_revision: None };
    Want::Write(Request::new(command))
}

fn forwarded(effects: &[Effect]) -> u64 {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Send { frame: Frame::Forward { id, .. } | Frame::ReadIndex { id }, .. } => Some(*id),
        _ => None,
    });
    found.expect("it is passed on")
}

fn replies(effects: &[Effect]) -> Vec<(u64, Outcome)> {
    let reply = |effect: &Effect| match effect {
        Effect::Reply { ask, outcome } => Some((*ask, outcome.clone())),
        _ => None,
    };
    effects.iter().filter_map(reply).collect()
}

fn done() -> Applied {
    Applied { answer: Answer::Done, index: Index(7), term: Term(2), leader: id("n2") }
}

/// The leader keeps what a dead process asked for, and answers it when it can. The successor of that process
/// must not take the answer for one to a request of its own.
#[test]
fn an_answer_to_a_request_of_an_earlier_life_reaches_nobody() {
    let mut before = Bench::start("n1", 0x1111_2222_3333_4444);
    before.follow("n2", 2);
    let old =
        forwarded(&before.step(Input::Ask { ask: 1, want: put("old"), forward: true, patience: PARKED_FOR }));
    let mut after = Bench::start("n1", 0x5555_6666_7777_8888);
    after.follow("n2", 2);
    let new =
        forwarded(&after.step(Input::Ask { ask: 1, want: put("new"), forward: true, patience: PARKED_FOR }));
    assert_eq!(replies(&after.hears("n2", Frame::ForwardAnswer { id: old, result: Ok(done()) })), []);
    let answered = after.hears("n2", Frame::ForwardAnswer { id: new, result: Ok(done()) });
    assert_eq!(replies(&answered), [(1, Outcome::Write(Ok(done())))]);
}

/// Whatever a peer answers, a write hears of a write and a read of a read, from the node that was asked.
#[test]
fn an_answer_of_the_wrong_kind_or_from_the_wrong_node_is_no_answer() {
    let mut node = Bench::start("n1", 9);
    node.follow("n2", 2);
    let asked =
        forwarded(&node.step(Input::Ask { ask: 1, want: put("a"), forward: true, patience: PARKED_FOR }));
    let read = Frame::ReadIndexAnswer { id: asked, result: Ok(Index(0)) };
    assert_eq!(replies(&node.hears("n2", read)), []);
    let write = Frame::ForwardAnswer { id: asked, result: Ok(done()) };
    assert_eq!(replies(&node.hears("n3", write.clone())), []);
    assert_eq!(replies(&node.hears("n2", write.clone())), [(1, Outcome::Write(Ok(done())))]);
    assert_eq!(replies(&node.hears("n2", write)), [], "once");
}

fn entries(from: u64, to: u64, term: u64) -> Vec<Entry> {
    let entry = |index| Entry { term: Term(term), index: Index(index), payload: Payload::Noop };
    (from..=to).map(entry).collect()
}

impl Bench {
    /// `leader` sends entries of its term; what must be written is durable at once. Gives what is to be applied.
    fn append(&mut self, leader: &str, term: u64, after: (u64, u64), upto: u64) -> Vec<Entry> {
        let previous = Position { index: Index(after.0), term: Term(after.1) };
        let entries = entries(after.0 + 1, upto, term);
        let body = Body::AppendRequest { previous, entries, commit: Index(upto), round: 1 };
        let mut effects = self.hears(leader, Frame::Raft(Message { term: Term(term), body }));
        for at in 0..effects.len() {
            if let Effect::Persist(persist) = &effects[at] {
                let seq = persist.seq;
                effects.extend(self.step(Input::Persisted { seq }));
            }
        }
        let handed_out = effects.into_iter().filter_map(|effect| match effect {
            Effect::Apply(entries) => Some(entries),
            _ => None,
        });
        handed_out.flatten().collect()
    }
}

/// A snapshot takes long to install. Meanwhile its sender dies, and a leader whose log still begins early enough feeds
/// the node: its entries are handed out while the installation is under way.
#[test]
fn entries_may_overtake_the_installation_of_a_snapshot() {
    let mut source = Bench::start("n3", 3);
    source.follow("n2", 2);
    let entries = source.append("n2", 2, (0, 0), 9);
    source.applier.apply(&entries).expect("applied");
    let want = WantPart {
        to: id("n1"),
        transfer: 5,
        part: 0,
        after: None,
        bytes: SNAPSHOT_PART_BYTES,
        configuration: source.node.raft_status().configuration,
    };
    let chunk = source.applier.export(&want).expect("exported").expect("a part");
    assert!(chunk.last);

    let mut node = Bench::start("n1", 1);
    node.follow("n2", 2);
    let effects = node.hears("n2", Frame::Snapshot(chunk));
    let install = effects.into_iter().find_map(|effect| match effect {
        Effect::Install(received) => Some(received),
        _ => None,
    });
    let mut received = install.expect("it is whole");
    // The same entries, and more, from the log of the next leader.
    let mut handed_out = node.append("n2", 2, (0, 0), 9);
    handed_out.extend(node.append("n3", 3, (9, 2), 12));
    assert_eq!(handed_out.len(), 12);
    // The worker takes its jobs in order: first the snapshot, then the entries.
    let intake = node.applier.install(&mut received).expect("installed");
    assert!(matches!(intake, Intake::Replaced(_)));
    let batch = node.applier.apply(&handed_out).expect("applied").expect("more than the snapshot");
    node.step(Input::Installed { snapshot: received, intake });
    assert_eq!(node.node.applied_index(), Index(9));
    node.step(Input::Applied(Box::new(batch)));
    assert_eq!(node.node.applied_index(), Index(12));
    assert_eq!(node.node.raft_status().last, Index(12), "nothing is lost");
}

/// Each part is kept beside the state and acknowledged when it is; the state changes with the last one.
#[test]
fn a_snapshot_is_kept_part_by_part_and_replaces_the_state_with_the_last() {
    let mut source = Bench::start("n3", 3);
    source.follow("n2", 2);
    let applied = source.append("n2", 2, (0, 0), 9);
    source.applier.apply(&applied).expect("applied");
    let configuration = source.node.raft_status().configuration;
    let want = WantPart {
        to: id("n1"),
        transfer: 5,
        part: 0,
        after: None,
        configuration,
        bytes: SNAPSHOT_PART_BYTES,
    };
    let whole = source.applier.export(&want).expect("exported").expect("a part");
    let rows = vec![(b"zz".to_vec(), b"1".to_vec())];
    let second = SnapshotChunk { part: 1, checksum: rows_checksum(&rows), rows, ..whole.clone() };
    let first = SnapshotChunk { last: false, ..whole };

    let mut node = Bench::start("n1", 1);
    node.follow("n2", 2);
    let received = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Install(received) => Some(received),
            _ => None,
        })
    };
    let acknowledged = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send { frame: Frame::SnapshotAck { transfer: 5, next }, .. } => Some(*next),
            _ => None,
        })
    };
    let mut part = received(node.hears("n2", Frame::Snapshot(first.clone()))).expect("to be kept");
    assert!(received(node.hears("n2", Frame::Snapshot(second.clone()))).is_none(), "one after the other");
    let intake = node.applier.install(&mut part).expect("kept");
    assert!(matches!(intake, Intake::Kept));
    assert_eq!(acknowledged(&node.step(Input::Installed { snapshot: part, intake })), Some(1));
    assert_eq!(acknowledged(&node.hears("n2", Frame::Snapshot(first))), Some(1), "again, if that was lost");
    assert_eq!(node.applier.standing().applied.index, Index(0));

    let mut part = received(node.hears("n2", Frame::Snapshot(second))).expect("to be installed");
    let intake = node.applier.install(&mut part).expect("installed");
    assert!(matches!(intake, Intake::Replaced(_)));
    assert_eq!(acknowledged(&node.step(Input::Installed { snapshot: part, intake })), Some(2));
    assert_eq!(node.applier.standing().applied.index, Index(9));
    assert_eq!(node.node.applied_index(), Index(9));
}

/// Three nodes that hear each other. Every frame arrives as often as `copies` says, the last copy late.
struct Trio {
    nodes: Vec<Bench>,
    copies: usize,
    /// What will be heard, by whom, from whom.
    late: Vec<(usize, usize, Frame)>,
    replies: Vec<(u64, Outcome)>,
}

impl Trio {
    fn start(copies: usize) -> Trio {
        let nodes = ["n1", "n2", "n3"].into_iter().zip([11, 22, 33]);
        let nodes = nodes.map(|(name, entropy)| Bench::start(name, entropy)).collect();
        Trio { nodes, copies, late: Vec::new(), replies: Vec::new() }
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut effects = self.nodes[at].step(input);
        while let Some(effect) = (!effects.is_empty()).then(|| effects.remove(0)) {
            match effect {
                Effect::Persist(Persist { seq, .. }) => {
                    effects.extend(self.nodes[at].step(Input::Persisted { seq }));
                }
                Effect::Apply(entries) => {
                    let batch = self.nodes[at].applier.apply(&entries).expect("applied").expect("new");
                    effects.extend(self.nodes[at].step(Input::Applied(Box::new(batch))));
                }
                Effect::Send { to, frame } => {
                    let to = ["n1", "n2", "n3"].iter().position(|name| *name == to.as_str()).expect("known");
                    (0..self.copies).for_each(|_| self.late.push((to, at, frame.clone())));
                }
                Effect::Reply { ask, outcome } => self.replies.push((ask, outcome)),
                _ => {}
            }
        }
    }

    /// One round of frames and 10 ms for everybody.
    fn round(&mut self) {
        for (to, from, frame) in std::mem::take(&mut self.late) {
            let from = id(["n1", "n2", "n3"][from]);
            self.step(to, Input::Frame { from, frame });
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].now = Micros(self.nodes[at].now.0 + 10_000);
            self.nodes[at].entropy = self.nodes[at].entropy.wrapping_mul(6_364_136_223_846_793_005) + 1;
            self.step(at, Input::Tick);
        }
    }

    fn rounds_until(&mut self, done: impl Fn(&Trio) -> bool) {
        for _ in 0..1_000 {
            if done(self) {
                return;
            }
            self.round();
        }
        panic!("it did not come to that in ten seconds");
    }
}

/// A write that carries no key has nothing but the receiver's memory to keep a second copy of its frame from being done.
#[test]
fn a_forwarded_write_that_arrives_three_times_is_done_once() {
    let mut trio = Trio::start(3);
    trio.rounds_until(|trio| {
        trio.nodes.iter().all(|node| node.applier.facts().is_ok_and(|f| f.genesis.is_some()))
    });
    let leader = trio.nodes.iter().position(|node| node.node.leading().is_some()).expect("a leader");
    for (ask, follower) in (1..=10).zip([leader + 1, leader + 2].into_iter().cycle()) {
        let ask = Input::Ask { ask, want: put("k"), forward: true, patience: PARKED_FOR };
        trio.step(follower % 3, ask);
        trio.round();
    }
    trio.rounds_until(|trio| trio.replies.len() == 10);
    (0..20).for_each(|_| trio.round());
    let revisions: Vec<u64> = trio
        .replies
        .iter()
        .map(|(_, outcome)| match outcome {
            Outcome::Write(Ok(Applied { answer: Answer::Kv { revision }, .. })) => *revision,
            other => panic!("not written: {other:?}"),
        })
        .collect();
    assert_eq!(revisions, (1..=10).collect::<Vec<u64>>());
}

/// A refused try is over: what its sender hears of it later is no answer to the next one, and its late copy is not done.
#[test]
fn each_try_has_its_own_number() {
    let mut node = Bench::start("n1", 9);
    node.follow("n2", 2);
    let first =
        forwarded(&node.step(Input::Ask { ask: 1, want: put("a"), forward: true, patience: PARKED_FOR }));
    let refused = Frame::ForwardAnswer { id: first, result: Err(Failure::NotLeader { leader: None }) };
    assert_eq!(replies(&node.hears("n2", refused.clone())), [], "it waits for a leader");
    let body = Body::Heartbeat { commit: Index(0), round: 1 };
    let effects = node.hears("n2", Frame::Raft(Message { term: Term(3), body }));
    let second = forwarded(&effects);
    assert_ne!(first, second);
    assert_eq!(replies(&node.hears("n2", refused)), [], "the same word again says nothing of the second try");
    let answered = node.hears("n2", Frame::ForwardAnswer { id: second, result: Ok(done()) });
    assert_eq!(replies(&answered), [(1, Outcome::Write(Ok(done())))]);
}

/// A node refuses what it cannot do, and does not do it later either when another copy comes.
#[test]
fn a_late_copy_of_a_refused_try_is_not_taken_up() {
    let mut node = Bench::start("n1", 9);
    node.follow("n2", 2);
    let Want::Write(request) = put("a") else { unreachable!("a write") };
    let frame = Frame::Forward { life: 5, id: 6, request };
    let sent = |effects: &[Effect]| {
        effects
            .iter()
            .filter(|e| matches!(e, Effect::Send { frame: Frame::ForwardAnswer { .. }, .. }))
            .count()
    };
    assert_eq!(sent(&node.hears("n3", frame.clone())), 1, "it does not lead");
    assert_eq!(sent(&node.hears("n3", frame)), 0);
}

/// Everything that a real node runs on, except what is given.
fn parts<L: LogStore>(log: L, state: Arc<dyn StateStore>) -> Parts<L, Input, Input> {
    struct Nowhere;
    impl Network for Nowhere {
        fn send(&self, _to: &NodeId, _frame: Frame) {}
        fn set_book(&self, _book: &AddressBook) {}
    }
    impl Pinger for Nowhere {
        fn ping(&self, _pings: &[AgentPing]) {}
    }
    fn inlet() -> Inlet<Input> {
        Inlet { receiver: tokio::sync::mpsc::channel(1).1, translate: Some }
    }
    let mut settings = settings("n1");
    settings.peers.retain(|node, _| node.as_str() == "n1");
    Parts {
        settings,
        log: OpenedLog { log, recovered: Recovered::default(), notes: Vec::new() },
        state,
        network: Arc::new(Nowhere),
        pinger: Arc::new(Nowhere),
        peers: inlet(),
        agents: inlet(),
        metrics: Arc::default(),
        reserve: 0,
        stories: None,
        stop: CancellationToken::new(),
    }
}

struct TestLog {
    panics: bool,
}

impl LogStore for TestLog {
    fn append(&mut self, _batches: &[Persist]) -> Result<(), StorageError> {
        assert!(!self.panics, "planted");
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn room(&self) -> Option<u64> {
        None
    }
}

/// Its updates panic, as a broken invariant of the ledger would; all but the first, which founds the node.
struct PanickingState(MemoryState, AtomicBool);

impl StateStore for PanickingState {
    fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        self.0.view()
    }

    fn update(
        &self,
        work: &mut dyn FnMut(&mut dyn Keyspace) -> Result<(), KeyspaceError>,
    ) -> Result<(), KeyspaceError> {
        assert!(!self.1.swap(true, Ordering::Relaxed), "planted");
        self.0.update(work)
    }

    fn flush(&self) -> Result<(), KeyspaceError> {
        self.0.flush()
    }

    fn replace(&self, rows: &mut NewRows<'_>) -> Result<(), KeyspaceError> {
        self.0.replace(rows)
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn room(&self) -> Option<u64> {
        None
    }
}

/// A node whose worker died would lead on, and answer nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_when_one_of_its_threads_panics() {
    let disk = driver::start(parts(TestLog { panics: true }, Arc::new(MemoryState::new())));
    let ended = disk.expect("started").ended.await.expect("no panic of the task");
    assert!(matches!(ended, Err(NodeError::Thread("disk"))), "{ended:?}");
    let state = Arc::new(PanickingState(MemoryState::new(), AtomicBool::new(false)));
    let apply = driver::start(parts(TestLog { panics: false }, state)).expect("started");
    let ended = apply.ended.await.expect("no panic of the task");
    assert!(matches!(ended, Err(NodeError::Thread("apply"))), "{ended:?}");
}

/// The requests of one node, without the node.
struct Asked {
    requests: Requests,
    now: Micros,
}

impl Asked {
    fn new() -> Asked {
        Asked { requests: Requests::new(7, PARKED_MAX), now: Micros(1_000_000) }
    }

    fn begin(&mut self, ask: u64, want: Want) -> Started {
        self.requests.begin(Origin::Ask(ask), want, self.now, PARKED_FOR)
    }

    /// Applies configurations, each at its position and in term 2.
    fn apply(&mut self, configurations: &[(u64, &Configuration)]) -> Vec<(Origin, Outcome)> {
        let answers = configurations.iter().map(|(index, _)| (Index(*index), (Term(2), None))).collect();
        let list: Vec<(Index, Configuration)> =
            configurations.iter().map(|(index, found)| (Index(*index), (*found).clone())).collect();
        let upto = list.last().expect("some").0;
        let (finished, _) = self.requests.applied(upto, &answers, &list, self.now);
        finished.into_iter().map(|finished| (finished.origin, finished.outcome)).collect()
    }
}

fn configuration(voters: &[&str]) -> Configuration {
    Configuration { voters: voters.iter().map(|name| id(name)).collect(), ..Configuration::default() }
}

fn remove(name: &str) -> Change {
    Change::Remove { node: id(name) }
}

fn changed(index: u64, configuration: &Configuration) -> Outcome {
    Outcome::Change(Ok(Changed { index: Index(index), configuration: configuration.clone() }))
}

/// A change is complete with the final configuration, not with the joint one that begins it.
#[test]
fn a_change_is_answered_when_its_final_configuration_is_applied() {
    let before = configuration(&["n1", "n2", "n3"]);
    let joint = before.changed(&remove("n3")).expect("possible");
    let last = joint.settled().expect("it was joint");
    let mut asked = Asked::new();
    let request = asked.begin(1, Want::Change(remove("n3")));
    let number = request.id;
    asked.requests.to_core(request);
    asked.requests.placed(number, Index(5), Term(2));
    assert_eq!(asked.apply(&[(5, &joint)]), []);
    assert_eq!(asked.apply(&[(6, &last)]), [(Origin::Ask(1), changed(6, &last))]);
    // Both in one batch.
    let request = asked.begin(2, Want::Change(remove("n3")));
    let number = request.id;
    asked.requests.to_core(request);
    asked.requests.placed(number, Index(7), Term(2));
    assert_eq!(asked.apply(&[(7, &joint), (8, &last)]), [(Origin::Ask(2), changed(8, &last))]);
    assert!(asked.requests.is_empty());
}

/// A leader that removes itself is lost before its answer arrives; the log tells what came of it.
#[test]
fn a_change_whose_leader_was_lost_is_found_in_the_log() {
    let last = configuration(&["n1", "n3"]);
    let mut asked = Asked::new();
    for (ask, name) in [(1, "n2"), (2, "n3")] {
        let request = asked.begin(ask, Want::Change(remove(name)));
        asked.requests.to_peer(request, id("n2"));
    }
    let (finished, again) = asked.requests.leader_changed(None, Term(2), asked.now);
    assert!(finished.is_empty() && again.is_empty(), "{finished:?} {again:?}");
    assert_eq!(asked.apply(&[(9, &last)]), [(Origin::Ask(1), changed(9, &last))]);
    // The other was not done; nobody can say that it will not be.
    asked.now = asked.now.after(WATCHED_FOR);
    assert_eq!(asked.requests.deadline(), Some(asked.now));
    let lost = asked.requests.expire(asked.now);
    assert!(
        matches!(
            &lost[..],
            [Finished { origin: Origin::Ask(2), outcome: Outcome::Change(Err(Failure::Unknown(_))) }]
        ),
        "{lost:?}"
    );
    assert!(asked.requests.is_empty());
}

/// Whoever asked for another leader, here or through this node, hears who it is; or that it stays.
#[test]
fn a_transfer_is_answered_by_the_next_leader_or_by_its_end() {
    let mut asked = Asked::new();
    let passed_on = asked.begin(1, Want::Transfer(None));
    asked.requests.to_peer(passed_on, id("n2"));
    let own = asked.begin(2, Want::Transfer(Some(id("n3"))));
    let number = own.id;
    asked.requests.to_core(own);
    asked.requests.transferring(number);
    // Nobody leads for a moment: that is how it begins.
    let (finished, again) = asked.requests.leader_changed(None, Term(3), asked.now);
    assert!(finished.is_empty() && again.is_empty(), "{finished:?} {again:?}");
    let (finished, _) = asked.requests.leader_changed(Some(&id("n3")), Term(3), asked.now);
    let moved = Outcome::Transfer(Ok(Transferred { leader: id("n3"), term: Term(3) }));
    let mut origins: Vec<_> = finished.iter().map(|finished| (&finished.origin, &finished.outcome)).collect();
    origins.sort_by_key(|(origin, _)| **origin == Origin::Ask(2));
    assert_eq!(origins, [(&Origin::Ask(1), &moved), (&Origin::Ask(2), &moved)]);
    let own = asked.begin(3, Want::Transfer(Some(id("n2"))));
    let number = own.id;
    asked.requests.to_core(own);
    asked.requests.transferring(number);
    let finished = asked.requests.transfer_aborted(&id("n2"));
    let aborted = Outcome::Transfer(Err(Failure::TransferAborted { to: id("n2") }));
    assert_eq!(finished, [Finished { origin: Origin::Ask(3), outcome: aborted }]);
    assert!(asked.requests.is_empty());
}

impl Bench {
    /// Applies entries as the worker does.
    fn apply(&mut self, entries: &[Entry]) -> Vec<Effect> {
        let batch = self.applier.apply(entries).expect("applied").expect("news");
        self.step(Input::Applied(Box::new(batch)))
    }
}

fn not_member(effects: &[Effect]) -> Vec<(NodeId, Index)> {
    let told = |effect: &Effect| match effect {
        Effect::Send { to, frame: Frame::NotMember { as_of } } => Some((to.clone(), *as_of)),
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

/// A node that is no member any more is told so by whomever it asks, now and then; what it asks is not done.
#[test]
fn a_stranger_is_told_that_it_is_one_and_members_are_not() {
    let mut node = Bench::start("n1", 3);
    node.follow("n2", 2);
    let mut id_of_ask = 0;
    let mut asks = || {
        id_of_ask += 1;
        Frame::Forward { life: 0, id: id_of_ask, request: Request::new(Command::Add { a: 1, b: 2 }) }
    };
    assert_eq!(not_member(&node.hears("n9", asks())), [], "it has applied nothing and knows nothing");
    let entries = node.append("n2", 2, (0, 0), 4);
    node.apply(&entries);
    assert_eq!(not_member(&node.hears("n9", asks())), [(id("n9"), Index(4))]);
    assert_eq!(not_member(&node.hears("n9", asks())), [], "not for every word");
    assert_eq!(not_member(&node.hears("n3", Frame::Ping { seq: 1 })), []);
    // Whoever pings is answered, member or not.
    let pong = node.hears("n9", Frame::Ping { seq: 2 });
    assert!(matches!(&pong[..], [Effect::Send { frame: Frame::Pong { seq: 2, .. }, .. }, ..]), "{pong:?}");
}

/// A leader that came back with a new directory is refused by a node whose state knows the old one. The others tell that
/// node which directories count now, and it believes who knows more.
#[test]
fn a_node_that_was_away_learns_which_directories_count() {
    let mut node = Bench::start("n1", 3);
    node.follow("n2", 2);
    let entries = node.append("n2", 2, (0, 0), 4);
    node.apply(&entries);
    let answers = |effects: &[Effect]| -> Vec<(NodeId, Index)> {
        let told = |effect: &Effect| match effect {
            Effect::Send { to, frame: Frame::Bound { as_of, .. } } => Some((to.clone(), *as_of)),
            _ => None,
        };
        effects.iter().filter_map(told).collect()
    };
    let asks = |as_of: u64| Frame::HearsNoLeader { as_of: Index(as_of) };
    assert_eq!(answers(&node.hears("n3", asks(3))), [(id("n3"), Index(4))]);
    assert_eq!(answers(&node.hears("n3", asks(4))), [], "that one knows as much");
    assert_eq!(answers(&node.hears("n2", asks(3))), [], "that one leads");
    assert_eq!(answers(&node.hears("n9", asks(3))), [], "that one is nobody");

    let bound = |as_of: u64, to: &str| Frame::Bound {
        as_of: Index(as_of),
        incarnations: BTreeMap::from([(id("n2"), to.to_string())]),
    };
    let book = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::SetBook(book) => Some(book.incarnations.clone()),
            _ => None,
        })
    };
    assert_eq!(book(&node.hears("n3", bound(4, "old"))), None, "its own state is as new");
    assert_eq!(book(&node.hears("n9", bound(9, "forged"))), None, "that one is nobody");
    let new = BTreeMap::from([(id("n2"), "new".to_string())]);
    assert_eq!(book(&node.hears("n3", bound(7, "new"))), Some(new));
    assert_eq!(book(&node.hears("n3", bound(6, "older"))), None);
    // Its own state counts again once it is as new.
    let entries = node.append("n2", 2, (4, 2), 7);
    let caught_up = node.apply(&entries);
    assert_eq!(book(&caught_up), Some(BTreeMap::new()));
}

fn removed(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Tell(Notice::Removed)))
}

/// The word of a member counts only if it knows all that this node's log holds, and nobody feeds this node.
#[test]
fn a_node_believes_that_it_was_removed_only_if_it_can_be() {
    let mut node = Bench::start("n1", 3);
    node.follow("n2", 2);
    let entries = node.append("n2", 2, (0, 0), 4);
    node.apply(&entries);
    assert!(!removed(&node.hears("n3", Frame::NotMember { as_of: Index(9) })), "a leader feeds it");
    // Its leader is gone, and it asks around.
    node.now = Micros(node.now.0 + 2_000_000);
    node.step(Input::Tick);
    assert!(!removed(&node.hears("n3", Frame::NotMember { as_of: Index(3) })), "that one is behind");
    assert!(!removed(&node.hears("n9", Frame::NotMember { as_of: Index(9) })), "that one is nobody");
    assert!(removed(&node.hears("n3", Frame::NotMember { as_of: Index(4) })));
    let refused = node.step(Input::Ask { ask: 5, want: put("a"), forward: true, patience: PARKED_FOR });
    assert_eq!(replies(&refused), [(5, Outcome::Write(Err(Failure::Removed)))]);
    // After a while it lets its connections go.
    node.now = Micros(node.now.0 + 5_000_000);
    let farewell = node.step(Input::Tick);
    let book = farewell.iter().find_map(|effect| match effect {
        Effect::SetBook(book) => Some(book.nodes.clone()),
        _ => None,
    });
    assert_eq!(book, Some(BTreeMap::new()));
    // It was added again: a leader feeds it.
    node.follow("n3", 9);
    assert!(!node.node.status(node.now).removed);
    let taken = node.step(Input::Ask { ask: 6, want: put("a"), forward: true, patience: PARKED_FOR });
    assert_eq!(replies(&taken), []);
}
