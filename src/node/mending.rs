//! A node whose applied state was lost while its log is whole: it fetches the state from the leader.
//!
//! The log holds its term, its vote and every entry that it acknowledged since the log's base, so it goes on voting and
//! acknowledging: nobody counts on anything that it does not have. What it cannot do is apply, lead or serve. A log
//! that was never compacted needs nobody: it is applied from its beginning.

use std::time::Duration;

use crate::raft::Recovered;
use crate::types::{Index, Micros, NodeId};

use super::applier::Standing;
use super::core::Node;
use super::frame::Frame;
use super::io::Effect;
use super::moment::Moment;

/// How long a node waits before it asks again for the state. A leader that is sending it already takes no notice.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Whether a state that stands like this cannot be brought up by the log: it is a new one (not even the first
/// configuration is recorded), and the log has forgotten its beginning.
pub fn state_is_lost(recovered: &Recovered, standing: &Standing) -> bool {
    standing.configuration.is_none() && recovered.base.index > Index(0)
}

impl Node {
    /// Whether this node waits for a state.
    pub fn lacks_state(&self) -> bool {
        self.ask_for_state_at.is_some()
    }

    /// Asks whoever leads for the state, if it is due.
    pub(super) fn ask_for_state(&mut self, moment: Moment) {
        if self.installing || self.ask_for_state_at.is_none_or(|at| at > moment.now) {
            return;
        }
        let Some(to) = self.raft.leader().cloned() else { return };
        self.ask_for_state_at = Some(moment.now.after(ASK_EVERY));
        let frame = Frame::WantState { base: self.raft.base().index };
        self.effects.push(Effect::Send { to, frame });
    }

    /// When [`Node::ask_for_state`] is due. Without a leader it waits for one.
    pub(super) fn state_deadline(&self) -> Option<Micros> {
        self.ask_for_state_at.filter(|_| !self.installing && self.raft.leader().is_some())
    }

    /// A member whose state is gone wants this one's.
    pub(super) fn wanted_state(&mut self, moment: Moment, from: &NodeId, base: Index) {
        let can_help = self.leading().is_some() && self.applied.index >= base;
        // It may have lost a later state than the one that is still being sent to it.
        if can_help && !self.outgoing.is_of_use_to(from, base) {
            self.send_snapshot(moment, from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::raft::{
        Base, Body, Config, Configuration, Effect, Entry, HardState, Input, Message, Payload, Persist,
        Position, Raft, Recovered,
    };
    use crate::types::{Index, Micros, NodeId, Term};

    fn node(name: &str) -> NodeId {
        name.parse().expect("a valid name")
    }

    fn entry(index: u64, term: u64, payload: Payload) -> Entry {
        Entry { term: Term(term), index: Index(index), payload }
    }

    /// Carries the effects of a batch out on a disk that is quick; gives all others.
    fn turn(raft: &mut Raft, now: Micros) -> Vec<Effect> {
        let mut all = Vec::new();
        loop {
            let effects = raft.take_effects(now);
            if effects.is_empty() {
                return all;
            }
            for effect in effects {
                match effect {
                    Effect::Persist(Persist { seq, .. }) => raft.step(now, 7, Input::Persisted { seq }),
                    Effect::Event(_) => {}
                    other => all.push(other),
                }
            }
        }
    }

    fn said(effects: &[Effect]) -> Vec<&Body> {
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send { message, .. } => Some(&message.body),
                _ => None,
            })
            .collect()
    }

    /// Voter n1 has a log from 11 on (term 3) that names the voters, and no state. n2 stands in term 4 and leads.
    #[test]
    fn a_core_without_its_state_votes_and_acknowledges_and_neither_stands_nor_applies() {
        let voters = ["n1", "n2", "n3"].map(node);
        let configuration = Configuration { voters: voters.into(), ..Configuration::default() };
        let recovered = Recovered {
            hard_state: HardState { term: Term(3), vote: None },
            base: Base { index: Index(10), term: Term(2) },
            entries: vec![entry(11, 3, Payload::Configuration(configuration.clone()))],
        };
        let config = Config { id: node("n1"), ..Config::default() };
        let mut now = Micros(1_000_000);
        let mut raft = Raft::without_state(config, recovered, now, 1).expect("a sound log");
        for second in 1..20 {
            now = now.after(Duration::from_secs(1));
            raft.step(now, second, Input::Tick);
            assert_eq!(turn(&mut raft, now), [], "it never stands");
        }
        let from_n2 = |body| Input::Message { from: node("n2"), message: Message { term: Term(4), body } };
        let last = Position { index: Index(11), term: Term(3) };
        raft.step(now, 1, from_n2(Body::VoteRequest { last, transfer: false }));
        let effects = turn(&mut raft, now);
        assert!(matches!(said(&effects)[..], [Body::VoteResponse { granted: true }]), "{effects:?}");
        let entries = vec![entry(12, 4, Payload::Noop)];
        raft.step(
            now,
            1,
            from_n2(Body::AppendRequest { previous: last, entries, commit: Index(12), round: 1 }),
        );
        let effects = turn(&mut raft, now);
        assert!(
            matches!(said(&effects)[..], [Body::AppendAccepted { matched: Index(12), .. }]),
            "{effects:?}"
        );
        assert_eq!(effects.len(), 1, "committed, and not applied: {effects:?}");
        raft.step(now, 1, from_n2(Body::TimeoutNow { round: 1 }));
        assert_eq!(turn(&mut raft, now), [], "nor does it stand when it is asked to");
        let base = Base { index: Index(11), term: Term(3) };
        raft.step(now, 1, Input::SnapshotInstalled { base, configuration });
        let effects = turn(&mut raft, now);
        let applied: Vec<Index> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Apply { entries } => Some(entries.iter().map(|entry| entry.index)),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(applied, [Index(12)], "what the snapshot does not cover comes from its own log");
        now = now.after(Duration::from_secs(5));
        raft.step(now, 1, Input::Tick);
        assert!(!said(&turn(&mut raft, now)).is_empty(), "now it asks for votes");
    }
}
