//! A ledger on the real state store, which pays a fleet of agents without a cluster around it.

use std::path::Path;
use std::sync::Arc;

use super_node::bench::BenchError;
use super_node::ledger::apply::apply;
use super_node::ledger::command::{Answer, Command, Envelope, Request};
use super_node::ledger::keyspace::Keyspace;
use super_node::ledger::policy::Policy;
use super_node::ledger::query;
use super_node::ledger::records::MemberKind;
use super_node::node::ports::StateStore;
use super_node::storage::{State, StateOptions};
use super_node::types::{Amount, Index, IntervalId, Term, UnixMillis};

use crate::failed;
use crate::reports::{NODES, agent, node, reports};

/// See the module's head.
pub struct Ledger {
    pub state: Arc<State>,
    members: usize,
    index: u64,
    interval: IntervalId,
}

impl Ledger {
    /// A new ledger with so many agents.
    pub fn new(directory: &Path, members: usize) -> Result<Ledger, BenchError> {
        let state = State::open(&directory.join("state"), &StateOptions::default()).map_err(failed)?;
        let mut ledger = Ledger { state: Arc::new(state), members, index: 0, interval: IntervalId(1) };
        ledger.run(vec![Command::Genesis {
            cluster: "bench".to_string(),
            identity: "0".repeat(32),
            policy: Policy::default(),
            nodes: NODES.map(|name| (node(name), format!("{name}:7401"))).to_vec(),
        }]);
        let join = |number| Command::MemberJoin {
            member: agent(number),
            kind: MemberKind::Agent,
            address: "10.0.0.1:7500".to_string(),
        };
        ledger.run((0..members).map(join).collect());
        Ok(ledger)
    }

    /// Applies commands in one transaction, as a node applies a batch.
    fn run(&mut self, commands: Vec<Command>) {
        let mut index = self.index;
        let mut envelopes = commands.into_iter().map(|command| {
            index += 1;
            let at = UnixMillis(1_700_000_000_000 + i64::try_from(index).expect("small"));
            let request = Request::new(command);
            (Index(index), Envelope { at, term: Term(1), leader: node("n1"), request })
        });
        let all: Vec<(Index, Envelope)> = envelopes.by_ref().collect();
        let work = &mut |space: &mut dyn Keyspace| {
            for (index, envelope) in &all {
                let answer = apply(space, *index, Term(1), envelope)?.applied.answer;
                assert!(!matches!(answer, Answer::Rejected(_)), "{answer:?}");
            }
            Ok(())
        };
        self.state.update(work).expect("the disk works");
        self.index = index;
    }

    /// Judges and pays everybody once.
    pub fn settle(&mut self) {
        let interval = self.interval;
        let mut commands = vec![Command::Cut { interval }];
        for observer in NODES {
            commands.extend(reports(interval, observer, self.members));
        }
        commands.push(Command::Settle { interval });
        self.run(commands);
        self.interval = interval.next();
    }

    /// So many movements by hand, over all agents in turn.
    pub fn adjust(&mut self, movements: usize) {
        let adjust = |number: usize| Command::Adjust {
            member: agent(number % self.members),
            delta: Amount(1_000_000),
            reason: "measured".to_string(),
            operator: "bench".to_string(),
        };
        self.run((0..movements).map(adjust).collect());
    }

    /// Movements so far.
    pub fn records(&self) -> u64 {
        let view = self.state.view().expect("the disk works");
        query::totals(&*view).expect("readable").records
    }
}
