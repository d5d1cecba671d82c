//! How long one interval of a large fleet takes to settle, on the real state store.
//!
//! ```text
//! cargo bench --bench settle -- 100000 5
//! ```
//!
//! Members, and how many intervals; three super-nodes report on all of them, in parts as a node sends them. Printed are the
//! times of the reports, of the settlement (until its result is visible) and of making it durable.

#[path = "support/reports.rs"]
mod reports;

use std::time::{Duration, Instant};

use super_node::ledger::apply::apply;
use super_node::ledger::command::{Answer, Command, Envelope, Request};
use super_node::ledger::keyspace::Keyspace;
use super_node::ledger::policy::Policy;
use super_node::ledger::records::MemberKind;
use super_node::node::ports::StateStore;
use super_node::storage::{State, StateOptions};
use super_node::types::{Index, IntervalId, Term, UnixMillis};

use reports::{NODES, agent, node, reports};

struct Machine {
    state: State,
    index: u64,
}

impl Machine {
    /// Applies commands in one transaction, as a node applies a batch, and says how long that took.
    fn run(&mut self, commands: Vec<Command>) -> Duration {
        let begun = Instant::now();
        let mut index = self.index;
        let work = &mut |space: &mut dyn Keyspace| {
            for command in &commands {
                index += 1;
                let at = UnixMillis(1_700_000_000_000 + i64::try_from(index).expect("small"));
                let request = Request::new(command.clone());
                let envelope = Envelope { at, term: Term(1), leader: node("n1"), request };
                let answer = apply(space, Index(index), Term(1), &envelope)?.applied.answer;
                assert!(!matches!(answer, Answer::Rejected(_)), "{answer:?}");
            }
            Ok(())
        };
        self.state.update(work).expect("the disk works");
        self.index = index;
        begun.elapsed()
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (members, intervals) = (numbers.next().unwrap_or(100_000), numbers.next().unwrap_or(5));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let state = State::open(&directory.path().join("state"), &StateOptions::default()).expect("a new store");
    let mut machine = Machine { state, index: 0 };
    machine.run(vec![Command::Genesis {
        cluster: "settle".to_string(),
        identity: "0".repeat(32),
        policy: Policy::default(),
        nodes: NODES.map(|name| (node(name), format!("{name}:7401"))).to_vec(),
    }]);
    let join = |number| Command::MemberJoin {
        member: agent(number),
        kind: MemberKind::Agent,
        address: "10.0.0.1:7500".to_string(),
    };
    let joined = machine.run((0..members).map(join).collect());
    machine.state.flush().expect("the disk works");
    println!("{members} members joined in {} ms", joined.as_millis());
    for id in 1..=intervals as u64 {
        let interval = IntervalId(id);
        machine.run(vec![Command::Cut { interval }]);
        let reported: Duration = NODES
            .iter()
            .flat_map(|observer| reports(interval, observer, members))
            .map(|part| machine.run(vec![part]))
            .sum();
        let settled = machine.run(vec![Command::Settle { interval }]);
        let begun = Instant::now();
        machine.state.flush().expect("the disk works");
        println!(
            "interval {id}: reports {} ms, settled in {} ms, durable after {} ms more",
            reported.as_millis(),
            settled.as_millis(),
            begun.elapsed().as_millis()
        );
    }
    println!("{} MiB on disk", machine.state.bytes() >> 20);
}
