//! Whole nodes, stepped by hand: what passes between two of them and what reaches the one who asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super_node::health;
use super_node::ledger::command::{Answer, Applied, Command, Request};
use super_node::ledger::policy::Policy;
use super_node::node::applier::Applier;
use super_node::node::core::{Node, Settings};
use super_node::node::frame::Frame;
use super_node::node::io::{Effect, Input};
use super_node::node::moment::Moment;
use super_node::node::requests::{Outcome, PARKED_FOR, Want};
use super_node::raft::{self, Body, Message, Recovered};
use super_node::storage::MemoryState;
use super_node::types::{Index, Micros, NodeId, Term, UnixMillis};

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
        genesis: Command::Genesis {
            cluster: "test".to_string(),
            identity: "0".repeat(32),
            policy: Policy::default(),
            nodes: peers.clone().into_iter().collect(),
        },
        peers,
        keep_entries: 16,
        url: String::new(),
    }
}

/// A node, and the time it lives in.
struct Bench {
    node: Node,
    now: Micros,
    entropy: u64,
}

impl Bench {
    fn start(name: &str, entropy: u64) -> Bench {
        let applier = Applier::new(Arc::new(MemoryState::new())).expect("an empty state");
        let moment = Moment { now: Micros(1_000_000), wall: UnixMillis(0), entropy };
        let facts = applier.facts().expect("facts");
        let node = Node::new(settings(name), Recovered::default(), applier.standing(), facts, moment);
        Bench { node: node.expect("an empty log"), now: moment.now, entropy }
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
    Want::Write(Request { idempotency_key: None, command })
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
