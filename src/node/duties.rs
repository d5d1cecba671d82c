//! What a node owes the cluster without being asked: the leader founds it, records its election, keeps the ledger's
//! super-nodes in step with the voters, binds each to its data directory, cuts and settles intervals, has old ones forgotten; every super-node says which version it runs and reports what it saw.
//!
//! All duties are level-triggered: each looks at the applied state and proposes what is missing. A proposal that
//! is lost, doubled or late does no harm, because the replicated machine applies each decision once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::command::{Command, Report};
use crate::ledger::records::MemberKind;
use crate::ledger::retention::TRIM_INTERVALS_MAX;
use crate::raft::Configuration;
use crate::types::{IntervalId, MemberId, Micros, NodeId, Term, UnixMillis, Version};

use super::facts::Facts;
use super::fleet::Fleet;

/// How long the leader waits past the majority of reports for the others (at most half an interval).
pub const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// How many newer cut intervals make one void that still lacks a majority of reports.
pub const VOID_AFTER: u64 = 3;
/// How long a proposal of a duty is given before it is made again.
const RETRY: Duration = Duration::from_millis(500);
/// The same for a super-node's joining or leaving, which the ledger may refuse as long as somebody else has its name.
const ENROL_RETRY: Duration = Duration::from_secs(5);

/// Most parts of its report that a node proposes before the first of them is in the ledger. A large fleet's report has hundreds;
/// all at once they would stand before every client's write, on the disks and on the wire.
const REPORT_PARTS_AT_ONCE: usize = 2;

/// Facts of an election that this node won.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Won {
    /// The term.
    pub term: Term,
    /// The leader before.
    pub previous: Option<NodeId>,
    /// Which detector fired.
    pub reason: &'static str,
    /// Who voted.
    pub votes: BTreeSet<NodeId>,
    /// For how long nobody led.
    pub leaderless: Duration,
}

/// See the module's head.
#[derive(Debug)]
pub struct Duties {
    /// Founds the cluster.
    genesis: Command,
    /// `None`: history is kept for ever.
    retention: Option<Retention>,
    won: Option<Won>,
    open: Option<(IntervalId, Micros)>,
    majority_since: BTreeMap<IntervalId, Micros>,
    reports: BTreeMap<(IntervalId, u32), Report>,
    /// Super-nodes that must join or leave the ledger, so that it has exactly the voters.
    enrolment: BTreeMap<MemberId, Command>,
    /// The data directories that super-nodes introduced themselves with.
    met: BTreeMap<NodeId, String>,
    /// Those of them that vote.
    voters: BTreeSet<NodeId>,
    /// This node, and whether the log has another version of it than it runs.
    unstated: Option<NodeId>,
    /// When a duty may be proposed again, by its name.
    not_before: BTreeMap<Duty, Micros>,
}

/// Names a duty, for pacing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    Genesis,
    Election,
    Cut,
    Settle,
    Report(IntervalId, u32),
    Enrol(MemberId),
    Bind(NodeId),
    Version,
    Trim,
}

/// For how long this node, while it leads, has the cluster keep its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many settled intervals.
    pub intervals: u64,
    /// Whether they are projected into MongoDB: then nothing is forgotten before it is there.
    pub projected: bool,
}

impl Duties {
    /// `genesis` is proposed by the first leader of a cluster that has none.
    pub fn new(genesis: Command, retention: Option<Retention>) -> Duties {
        Duties {
            genesis,
            retention,
            won: None,
            open: None,
            majority_since: BTreeMap::new(),
            reports: BTreeMap::new(),
            enrolment: BTreeMap::new(),
            met: BTreeMap::new(),
            voters: BTreeSet::new(),
            unstated: None,
            not_before: BTreeMap::new(),
        }
    }

    /// This node won an election.
    pub fn won(&mut self, won: Won) {
        self.won = Some(won);
        self.not_before.clear();
    }

    /// This node leads no more.
    pub fn lost(&mut self) {
        self.won = None;
        self.not_before.clear();
    }

    /// What this node saw of an interval, in parts.
    pub fn report(&mut self, parts: Vec<Report>) {
        for report in parts {
            self.reports.insert((report.interval, report.part), report);
        }
    }

    /// A part of this node's report is in the ledger: the next ones may go.
    pub fn reported(&mut self, interval: IntervalId, part: u32) {
        self.reports.remove(&(interval, part));
        self.not_before.remove(&Duty::Report(interval, part));
    }

    /// A super-node introduced itself.
    pub fn met(&mut self, node: NodeId, incarnation: String) {
        if !incarnation.is_empty() {
            self.met.insert(node, incarnation);
        }
    }

    /// A super-node is in the configuration no more.
    pub fn forget(&mut self, node: &NodeId) {
        self.met.remove(node);
    }

    /// Compares the committed configuration with the members of the ledger. A super-node is a member
    /// of the fleet as long as it votes: a learner that is not up yet, or a reading copy that is down, must not count
    /// among the observers whose majority an interval needs. While a change is under way nothing moves.
    pub fn follow(&mut self, committed: &Configuration, fleet: &Fleet) {
        self.enrolment.clear();
        self.voters.clear();
        if committed.outgoing.is_some() || committed.voters.is_empty() {
            return;
        }
        for voter in &committed.voters {
            let Some(address) = committed.addresses.get(voter) else { continue };
            let id = MemberId::from(voter);
            let found = fleet.get(&id);
            // An agent of that name is in its way; the operator has to choose.
            let settled =
                found.is_some_and(|member| member.kind == MemberKind::Agent || *member.address == **address);
            if found.is_some_and(|member| member.kind == MemberKind::Node) {
                self.voters.insert(voter.clone());
            }
            if !settled {
                let join = Command::MemberJoin {
                    member: id.clone(),
                    kind: MemberKind::Node,
                    address: address.clone(),
                };
                self.enrolment.insert(id, join);
            }
        }
        let votes = |node: &MemberId| committed.voters.iter().any(|voter| voter.as_str() == node.as_str());
        for member in fleet.nodes().filter(|node| !votes(node)) {
            self.enrolment.insert(member.clone(), Command::MemberLeave { member: member.clone() });
        }
        self.not_before
            .retain(|duty, _| !matches!(duty, Duty::Enrol(id) if !self.enrolment.contains_key(id)));
    }

    /// Takes the applied state in.
    pub fn observe(&mut self, facts: &Facts, me: &NodeId, now: Micros, wall: UnixMillis) {
        let Some(interval) = facts.interval else { return };
        if self.open.is_none_or(|(id, _)| id != interval.open) {
            // A node that starts in mid-interval (or comes back) takes the leader's stamp for when it began; the
            // clamp keeps a clock that is wrong from shortening or stretching it beyond one interval.
            let length = facts.policy.interval_ms.saturating_mul(1_000);
            let age_ms = u64::try_from(wall.0.saturating_sub(interval.opened_at.0)).unwrap_or(0);
            let age = if self.open.is_none() { age_ms.saturating_mul(1_000).min(length) } else { 0 };
            self.open = Some((interval.open, Micros(now.0.saturating_sub(age))));
            self.not_before.remove(&Duty::Cut);
        }
        let stated = facts.versions.get(me) == Some(&Version::current());
        self.unstated = (self.voters.contains(me) && !stated).then(|| me.clone());
        self.majority_since.retain(|id, _| *id >= interval.next_settle);
        for waiting in &facts.waiting {
            if waiting.has_majority() {
                self.majority_since.entry(waiting.id).or_insert(now);
            }
        }
        let waits_for_me = |id: IntervalId| {
            id >= interval.open || facts.waiting.iter().any(|w| w.id == id && !w.reported.contains(me))
        };
        self.reports.retain(|(id, _), _| waits_for_me(*id));
        self.not_before.retain(|duty, _| !matches!(duty, Duty::Report(id, _) if !waits_for_me(*id)));
    }

    /// What is due. `leading`: the term that this node leads, once its state holds everything committed before.
    /// Reports, and the word which version this node runs, go to whoever leads; the others only from the leader.
    pub fn due(&mut self, facts: &Facts, leading: Option<Term>, now: Micros) -> Vec<Command> {
        let mut commands = Vec::new();
        if let Some(term) = leading {
            self.due_from_leader(facts, term, now, &mut commands);
        }
        if let Some(node) = self.unstated.clone()
            && self.may_again_after(Duty::Version, now, ENROL_RETRY)
        {
            commands.push(Command::NodeVersion { node, version: Version::current() });
        }
        if let Some(interval) = facts.interval {
            for key in self.next_parts(interval.open, now) {
                if self.may(Duty::Report(key.0, key.1), now) {
                    commands.extend(self.reports.get(&key).cloned().map(Command::Report));
                }
            }
        }
        commands
    }

    /// The parts of reports on intervals before `open` that go next. Those that were tried least recently come first: one that
    /// finds no entrance keeps no other out.
    fn next_parts(&self, open: IntervalId, now: Micros) -> Vec<(IntervalId, u32)> {
        let tried = |(id, part): &(IntervalId, u32)| self.not_before.get(&Duty::Report(*id, *part)).copied();
        let cut = self.reports.keys().filter(|(id, _)| *id < open);
        let (under_way, mut waiting): (Vec<_>, Vec<_>) =
            cut.copied().partition(|key| tried(key).is_some_and(|until| until > now));
        waiting.sort_by_key(tried);
        waiting.truncate(REPORT_PARTS_AT_ONCE.saturating_sub(under_way.len()));
        waiting
    }

    fn due_from_leader(&mut self, facts: &Facts, term: Term, now: Micros, commands: &mut Vec<Command>) {
        let Some(interval) = facts.interval else {
            if self.may(Duty::Genesis, now) {
                commands.push(self.genesis.clone());
            }
            return;
        };
        let unrecorded = self
            .won
            .clone()
            .filter(|won| won.term == term && facts.last_election.is_none_or(|last| last < term));
        if let Some(won) = unrecorded
            && self.may(Duty::Election, now)
        {
            commands.push(Command::Election {
                term,
                previous: won.previous,
                reason: won.reason.to_string(),
                votes: won.votes,
                leaderless_ms: u64::try_from(won.leaderless.as_millis()).unwrap_or(u64::MAX),
            });
        }
        for (member, command) in self.enrolment.clone() {
            if self.may_again_after(Duty::Enrol(member), now, ENROL_RETRY) {
                commands.push(command);
            }
        }
        let unbound = |node: &&NodeId| self.voters.contains(*node) && !facts.incarnations.contains_key(*node);
        let unbound: Vec<NodeId> = self.met.keys().filter(unbound).cloned().collect();
        for node in unbound {
            if self.may_again_after(Duty::Bind(node.clone()), now, ENROL_RETRY) {
                let incarnation = self.met.get(&node).cloned().unwrap_or_default();
                commands.push(Command::NodeSeen { node, incarnation });
            }
        }
        if self.settle_due(facts, now) && self.may(Duty::Settle, now) {
            commands.push(Command::Settle { interval: interval.next_settle });
        }
        if let Some((through, projected)) = self.trim_due(facts, interval.next_settle)
            && self.may(Duty::Trim, now)
        {
            commands.push(Command::Trim { through, projected });
        }
        if self.cut_at(facts).is_some_and(|at| now >= at) && self.may(Duty::Cut, now) {
            commands.push(Command::Cut { interval: interval.open });
        }
    }

    /// What is to be forgotten next, if anything is.
    fn trim_due(&self, facts: &Facts, next_settle: IntervalId) -> Option<(IntervalId, bool)> {
        let Retention { intervals, projected } = self.retention?;
        let old = next_settle.0.saturating_sub(intervals.saturating_add(1));
        let through = if projected { old.min(facts.checkpoint.intervals.0) } else { old };
        let next = through.min(facts.trimmed.0.saturating_add(TRIM_INTERVALS_MAX));
        (next > facts.trimmed.0).then_some((IntervalId(next), projected))
    }

    fn cut_at(&self, facts: &Facts) -> Option<Micros> {
        let (_, since) = self.open?;
        Some(since.after(Duration::from_millis(facts.policy.interval_ms)))
    }

    fn settle_wait(facts: &Facts) -> Duration {
        SETTLE_WAIT.min(Duration::from_millis(facts.policy.interval_ms / 2))
    }

    fn settle_due(&self, facts: &Facts, now: Micros) -> bool {
        let (Some(interval), Some(waiting)) = (facts.interval, facts.waiting.first()) else { return false };
        let all = waiting.reported.len() == waiting.expected.len();
        let majority_waited = self
            .majority_since
            .get(&waiting.id)
            .is_some_and(|since| now >= since.after(Self::settle_wait(facts)));
        let void = !waiting.has_majority() && interval.open.0 - waiting.id.0 > VOID_AFTER;
        all || majority_waited || void
    }

    /// Whether the duty may be proposed now; if so, not again for a while.
    fn may(&mut self, duty: Duty, now: Micros) -> bool {
        self.may_again_after(duty, now, RETRY)
    }

    fn may_again_after(&mut self, duty: Duty, now: Micros, pause: Duration) -> bool {
        if self.not_before.get(&duty).is_some_and(|at| now < *at) {
            return false;
        }
        self.not_before.insert(duty, now.after(pause));
        true
    }

    /// A settlement happened: the next may be proposed at once.
    pub fn settled(&mut self) {
        self.not_before.remove(&Duty::Settle);
    }

    /// The next time after `now` at which something may become due. What is due already was given by
    /// [`Duties::due`] and is paced from then on.
    pub fn deadline(&self, facts: &Facts, leading: bool, now: Micros) -> Option<Micros> {
        let wait = Self::settle_wait(facts);
        let majority = facts.waiting.first().and_then(|waiting| self.majority_since.get(&waiting.id));
        let settle_at = majority.map(|since| since.after(wait)).filter(|_| leading);
        let cut_at = self.cut_at(facts).filter(|_| leading);
        let retries = self.not_before.values().copied();
        retries.chain(settle_at).chain(cut_at).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Frozen, ObserverHealth, Row};
    use crate::ledger::apply::apply;
    use crate::ledger::command::{Envelope, Request};
    use crate::ledger::keyspace::MemoryKeyspace;
    use crate::ledger::policy::Policy;
    use crate::node::fleet::Concerned;
    use crate::node::report::{PART_ROWS, parts};
    use crate::types::Index;

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("a valid name")
    }

    /// Of a cluster whose first interval is cut.
    fn facts(genesis: &Command) -> Facts {
        let mut space = MemoryKeyspace::default();
        for (index, command) in (1..).zip([genesis.clone(), Command::Cut { interval: IntervalId(1) }]) {
            let request = Request::new(command);
            let envelope = Envelope { at: UnixMillis(1), term: Term(1), leader: name("n1"), request };
            apply(&mut space, Index(index), Term(1), &envelope).expect("memory does not fail");
        }
        Facts::read(&space, &Concerned::All).expect("readable")
    }

    /// What a super-node saw of so many members.
    fn frozen(members: usize) -> Frozen {
        let row = |number: usize| Row {
            member: name(&format!("w{number:06}")),
            sent: 12,
            answered: 12,
            late: 0,
            missed: 0,
            bad: 0,
            unsolicited: 0,
            min_us: 1,
            p50_us: 1,
            p90_us: 1,
            max_us: 1,
            version: None,
        };
        let health = ObserverHealth { whole_interval: true, longest_stall_ms: 0, score: 0 };
        Frozen { interval: IntervalId(1), rows: (0..members).map(row).collect(), health }
    }

    #[test]
    fn a_long_report_goes_a_few_parts_at_a_time_and_none_keeps_the_others_out() {
        let genesis = Command::Genesis {
            cluster: "c".to_string(),
            identity: "0".repeat(32),
            policy: Policy::default(),
            nodes: vec![(name("n1"), "n1:1".to_string())],
        };
        let facts = facts(&genesis);
        let mut duties = Duties::new(genesis, None);
        duties.report(parts(&name("n1"), frozen(5 * PART_ROWS)));
        let due = |duties: &mut Duties, now: Micros| -> Vec<u32> {
            let reports = duties.due(&facts, None, now).into_iter().map(|command| match command {
                Command::Report(report) => report.part,
                other => panic!("{other:?}"),
            });
            reports.collect()
        };
        let now = Micros(1_000_000);
        assert_eq!(due(&mut duties, now), [0, 1]);
        assert_eq!(due(&mut duties, now), [0; 0], "they are under way");
        duties.reported(IntervalId(1), 1);
        assert_eq!(due(&mut duties, now), [2], "one is in the ledger, and makes room for the next");
        // Nothing more is heard of either: those that were never tried come before them.
        assert_eq!(due(&mut duties, now.after(RETRY)), [3, 4]);
        duties.reported(IntervalId(1), 3);
        duties.reported(IntervalId(1), 4);
        assert_eq!(due(&mut duties, now.after(RETRY)), [0, 2]);
    }
}
