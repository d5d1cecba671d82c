//! The replicated machine, fed by a test instead of a log.

use std::sync::Arc;

use super_node::ledger::apply::apply;
use super_node::ledger::command::{Answer, Command, Envelope, ObserverHealth, Report, Request, Row};
use super_node::ledger::policy::Policy;
use super_node::ledger::query;
use super_node::ledger::records::MemberKind;
use super_node::node::ports::StateStore;
use super_node::types::{Index, IntervalId, MemberId, NodeId, Term, UnixMillis};

/// A machine on a node's state.
pub struct Machine {
    state: Arc<dyn StateStore>,
    index: Index,
    /// Log time that passed without a command, milliseconds.
    idle_ms: i64,
    term: Term,
    interval: IntervalId,
    members: Vec<MemberId>,
    nodes: Vec<NodeId>,
}

impl Machine {
    /// Before the first command.
    pub fn new(state: Arc<dyn StateStore>) -> Machine {
        Machine {
            state,
            index: Index(0),
            idle_ms: 0,
            term: Term(1),
            interval: IntervalId(1),
            members: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Applies a command as the next log entry.
    pub fn apply(&mut self, command: Command) {
        self.index = self.index.next();
        let busy_ms = i64::try_from(self.index.0).expect("small") * 1_000;
        let at = UnixMillis(1_700_000_000_000 + busy_ms + self.idle_ms);
        let request = Request::new(command);
        let leader = self.nodes.first().cloned().unwrap_or_else(|| "n1".parse().expect("a name"));
        let envelope = Envelope { at, term: self.term, leader, request };
        let (index, term) = (self.index, self.term);
        let applied = self.state.update(&mut |space| {
            let outcome = apply(space, index, term, &envelope)?;
            let rejected = matches!(outcome.applied.answer, Answer::Rejected(_));
            assert!(!rejected, "{:?}: {:?}", envelope.request.command, outcome.applied.answer);
            Ok(())
        });
        applied.expect("memory does not fail");
    }

    /// The first command, and the agents.
    pub fn form(&mut self, nodes: &[&str], agents: &[&str]) {
        self.nodes = nodes.iter().map(|name| name.parse().expect("a name")).collect();
        let addresses = self.nodes.iter().map(|node| (node.clone(), format!("{node}:7401"))).collect();
        self.apply(Command::Genesis {
            cluster: "test".to_string(),
            identity: "00112233445566778899aabbccddeeff".to_string(),
            policy: Policy::default(),
            nodes: addresses,
        });
        self.members = self.nodes.iter().map(MemberId::from).collect();
        for agent in agents {
            let member: MemberId = agent.parse().expect("a name");
            let address = format!("{agent}:7403");
            self.apply(Command::MemberJoin { member: member.clone(), kind: MemberKind::Agent, address });
            self.members.push(member);
        }
        self.members.sort();
    }

    /// Nothing happens for a while.
    pub fn idle(&mut self, ms: i64) {
        self.idle_ms += ms;
    }

    /// A new term begins.
    pub fn elect(&mut self) {
        self.elect_after("timeout", 7);
    }

    /// A new term begins, for this reason and after so long without a leader.
    pub fn elect_after(&mut self, reason: &str, leaderless_ms: u64) {
        self.term = self.term.next();
        let votes = self.nodes.iter().cloned().collect();
        let (term, previous) = (self.term, self.nodes.last().cloned());
        self.apply(Command::Election { term, previous, reason: reason.to_string(), votes, leaderless_ms });
    }

    /// Cuts, reports and settles the open interval; the last member missed `missed` of 12 pings.
    pub fn interval(&mut self, missed: u32) {
        let last = self.members.last().cloned();
        self.interval_seen(&[], &[], &|_, member| if last.as_ref() == Some(member) { missed } else { 0 });
    }

    /// Cuts, reports and settles the open interval. The `absent` report nothing, the `unwell` say that they did not see
    /// all of it; each observer saw a member miss so many of 12 pings.
    pub fn interval_seen(
        &mut self,
        absent: &[&str],
        unwell: &[&str],
        missed: &dyn Fn(&NodeId, &MemberId) -> u32,
    ) {
        let interval = self.interval;
        self.apply(Command::Cut { interval });
        let mut present = self.nodes.clone();
        present.retain(|node| !absent.contains(&node.as_str()));
        for observer in present {
            let own = MemberId::from(&observer);
            let seen = self.members.iter().filter(|member| **member != own);
            let rows = seen
                .map(|member| {
                    let missed = missed(&observer, member);
                    let us = if missed == 12 { 0 } else { 900 };
                    Row {
                        member: member.clone(),
                        sent: 12,
                        answered: 12 - missed,
                        late: 0,
                        missed,
                        bad: 0,
                        unsolicited: 0,
                        min_us: us,
                        p50_us: us,
                        p90_us: us,
                        max_us: us,
                        version: Some(super_node::types::Version::current()),
                    }
                })
                .collect();
            let whole_interval = !unwell.contains(&observer.as_str());
            let health = ObserverHealth { whole_interval, longest_stall_ms: 0, score: 0 };
            self.apply(Command::Report(Report { interval, observer, part: 0, parts: 1, health, rows }));
        }
        self.apply(Command::Settle { interval });
        self.interval = interval.next();
    }

    /// Movements so far.
    pub fn records(&self) -> u64 {
        let view = self.state.view().expect("memory does not fail");
        query::totals(&*view).expect("readable").records
    }
}
