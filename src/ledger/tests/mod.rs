//! The machine as a whole: commands in, answers and keyspace out.

mod agents;
mod fleet;
mod idempotency;
mod kv;
mod money;
mod observers;
mod policy;
mod properties;
mod queries;
mod retention;
mod sessions;
mod settlement;
mod webhooks;

use crate::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis};

use super::apply::{Happening, Outcome, apply};
use super::backwards::verify_from_newest;
use super::command::{
    Answer, Applied, Command, Envelope, ObserverHealth, Once, Rejection, Report, Request, Row,
};
use super::keyspace::MemoryKeyspace;
use super::policy::Policy;
use super::query;
use super::records::{Interval, Member, MemberKind, Observation};
use super::rehearse::{Wish, rehearse};
use super::verify::{VerifyReport, verify};

/// A cluster as its log sees it: no network, no consensus, only what is applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub space: MemoryKeyspace,
    pub index: u64,
    pub term: u64,
    pub at: i64,
}

/// An observer with nothing against itself.
pub(super) const WELL: ObserverHealth =
    ObserverHealth { whole_interval: true, longest_stall_ms: 0, score: 0 };

pub(super) fn node(name: &str) -> NodeId {
    name.parse().expect("test names are valid")
}

pub(super) fn member(name: &str) -> MemberId {
    name.parse().expect("test names are valid")
}

/// A row with the counts given and nothing else of note.
pub(crate) fn row(name: &str, sent: u32, answered: u32, p90_us: u32) -> Row {
    Row {
        member: member(name),
        sent,
        answered,
        late: 0,
        missed: sent - answered,
        bad: 0,
        unsolicited: 0,
        min_us: p90_us / 4,
        p50_us: p90_us / 2,
        p90_us,
        max_us: p90_us,
        version: None,
    }
}

impl World {
    /// Nothing has happened.
    pub fn empty() -> World {
        World { term: 1, at: 1_000, ..World::default() }
    }

    /// A cluster of `nodes` with `agents`, and the policy.
    pub fn with(nodes: &[&str], agents: &[&str], policy: Policy) -> World {
        let mut world = World::empty();
        assert_eq!(world.run(World::genesis(nodes, policy)), Answer::Done);
        for agent in agents {
            assert_eq!(world.join(agent, "host:1"), Answer::Done);
        }
        world
    }

    /// Three super-nodes, one agent, the default policy.
    pub fn standard() -> World {
        World::with(&["n1", "n2", "n3"], &["a"], Policy::default())
    }

    pub fn genesis(nodes: &[&str], policy: Policy) -> Command {
        Command::Genesis {
            cluster: "test".to_string(),
            identity: "0123456789abcdef0123456789abcdef".to_string(),
            policy,
            nodes: nodes.iter().map(|name| (node(name), format!("{name}:7401"))).collect(),
        }
    }

    pub fn envelope(&self, command: Command) -> Envelope {
        Envelope {
            at: UnixMillis(self.at),
            term: Term(self.term),
            leader: node("n1"),
            request: Request::new(command),
        }
    }

    /// Applies an envelope at the next index.
    pub fn apply(&mut self, envelope: &Envelope) -> Outcome {
        self.index += 1;
        apply(&mut self.space, Index(self.index), Term(self.term), envelope).expect("memory does not fail")
    }

    /// Applies a command one second after the last.
    pub fn outcome(&mut self, command: Command) -> Outcome {
        self.at += 1_000;
        let envelope = self.envelope(command);
        self.apply(&envelope)
    }

    pub fn run(&mut self, command: Command) -> Answer {
        self.outcome(command).applied.answer
    }

    pub fn keyed(&mut self, key: &str, command: Command) -> Outcome {
        let mut envelope = self.envelope(command);
        envelope.request.once = Once::Key(key.to_string());
        self.apply(&envelope)
    }

    pub fn join(&mut self, name: &str, address: &str) -> Answer {
        let address = address.to_string();
        self.run(Command::MemberJoin { member: member(name), kind: MemberKind::Agent, address })
    }

    pub fn leave(&mut self, name: &str) -> Answer {
        self.run(Command::MemberLeave { member: member(name) })
    }

    pub fn claim(&mut self, name: &str, seq: u64, amount: i64) -> Answer {
        self.run(Command::Claim { member: member(name), seq, amount: Amount(amount) })
    }

    pub fn adjust(&mut self, name: &str, delta: i64) -> Answer {
        let (reason, operator) = ("a test".to_string(), "ops".to_string());
        self.run(Command::Adjust { member: member(name), delta: Amount(delta), reason, operator })
    }

    pub fn maintain(&mut self, name: &str, from: Option<u64>, intervals: u64) -> Answer {
        self.run(Command::Maintain { member: member(name), from: from.map(IntervalId), intervals })
    }

    pub fn set_policy(&mut self, policy: Policy, budget: i64, activate_at: Option<u64>) -> Answer {
        let activate_at = activate_at.map(IntervalId);
        self.run(Command::SetPolicy { policy, budget: Amount(budget), activate_at })
    }

    pub fn cut(&mut self, id: u64) -> Answer {
        self.run(Command::Cut { interval: IntervalId(id) })
    }

    pub fn report(&mut self, id: u64, observer: &str, rows: Vec<Row>) -> Answer {
        self.report_part(id, observer, (0, 1), rows)
    }

    pub fn report_part(&mut self, id: u64, observer: &str, part: (u32, u32), rows: Vec<Row>) -> Answer {
        self.run(Command::Report(Report {
            interval: IntervalId(id),
            observer: node(observer),
            part: part.0,
            parts: part.1,
            health: WELL,
            rows,
        }))
    }

    pub fn settle(&mut self, id: u64) -> Answer {
        self.run(Command::Settle { interval: IntervalId(id) })
    }

    /// Cut, the same rows from n1 to n3 (nobody about itself), settle: what happened at the settlement.
    pub fn interval(&mut self, rows: &[Row]) -> Vec<Happening> {
        let id = query::interval_state(&self.space).expect("readable").expect("genesis").open.0;
        assert_eq!(self.cut(id), Answer::Done);
        for observer in ["n1", "n2", "n3"] {
            let rows = rows.iter().filter(|row| row.member.as_str() != observer).cloned().collect();
            assert_eq!(self.report(id, observer, rows), Answer::Done);
        }
        let outcome = self.outcome(Command::Settle { interval: IntervalId(id) });
        assert_eq!(outcome.applied.answer, Answer::Done);
        outcome.happenings
    }

    pub fn member(&self, name: &str) -> Member {
        query::member(&self.space, &member(name)).expect("readable").expect("a member")
    }

    pub fn balance(&self, name: &str) -> i64 {
        let Amount(balance) = self.member(name).balance;
        balance
    }

    pub fn record(&self, id: u64) -> Interval {
        query::interval(&self.space, IntervalId(id)).expect("readable").expect("settled")
    }

    pub fn observation(&self, id: u64, name: &str) -> Observation {
        query::observation(&self.space, IntervalId(id), &member(name)).expect("readable").expect("observed")
    }

    pub fn verify(&self) -> VerifyReport {
        verify(&self.space, &mut |_, _| {})
    }

    /// Sound, whichever way one looks, and the same again from the recorded evidence.
    pub fn assert_sound(&self) {
        let report = self.verify();
        assert!(report.ok, "{:#?}", report.problems);
        let backwards = verify_from_newest(&self.space, None, &mut |_, _| {});
        assert_eq!(backwards, report);
        let first = super::retention::trimmed(&self.space).expect("readable").through.next();
        let wish = Wish { from: first, to: IntervalId(u64::MAX), revision: None };
        assert!(rehearse(&self.space, &wish).expect("readable").identical);
    }
}

/// Which rejection an answer is.
pub(super) fn rejection(answer: &Answer) -> &'static str {
    match answer {
        Answer::Rejected(Rejection::Conflict(_)) => "conflict",
        Answer::Rejected(Rejection::NotFound(_)) => "not found",
        Answer::Rejected(Rejection::BadRequest(_)) => "bad request",
        Answer::Rejected(Rejection::Stale(_)) => "stale",
        Answer::Rejected(Rejection::SessionExpired(_)) => "session expired",
        Answer::Rejected(Rejection::OutsideWindow(_)) => "outside the window",
        Answer::Rejected(Rejection::KeyExpired(_)) => "key expired",
        Answer::Rejected(Rejection::InsufficientFunds(_)) => "insufficient funds",
        Answer::Rejected(Rejection::Suspended(_)) => "suspended",
        _ => "done",
    }
}
