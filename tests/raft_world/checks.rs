//! What must never happen, checked where it would.

use std::time::Duration;

use super_node::raft::{Body, Configuration, Entry, Message, Payload, Role};
use super_node::types::{Index, NodeId, Term};

use super::{World, name, number};

impl World {
    /// What a message says must be true of the sender's disk, not only of its memory.
    pub(super) fn check_message(&mut self, from: usize, to: usize, message: &Message) {
        let disk = &self.machines[from].disk;
        assert!(message.term <= disk.hard_state.term, "a term was revealed before it was durable");
        assert!(message.is_well_formed(), "{message:?}");
        match &message.body {
            Body::AppendAccepted { matched, .. } | Body::HeartbeatResponse { matched, .. } => {
                assert!(*matched <= disk.last(), "acknowledged {matched}, durable {}", disk.last());
            }
            Body::VoteResponse { granted: true } => {
                let vote = self.votes.entry((from, message.term)).or_insert_with(|| name(to));
                assert_eq!(*vote, name(to), "two votes in one term");
                assert_eq!(disk.hard_state.vote, Some(name(to)), "a vote that is not on disk");
            }
            _ => {}
        }
    }

    pub(super) fn became_leader(&mut self, node: usize, term: Term) {
        self.seen.elections += 1;
        let first = *self.leaders.entry(term).or_insert(node);
        assert_eq!(first, node, "two leaders in term {term}");
        let log = &self.machines[node].log;
        for (index, entry) in self.book.range(log.base.index.next()..) {
            // A candidate may win late, when a newer term has a leader and commits.
            if self.committed_in[index] >= term {
                continue;
            }
            assert_eq!(log.entry(*index), Some(entry), "the leader of {term} lacks a committed entry");
        }
    }

    fn is_on_disk(&self, id: &NodeId, entry: &Entry) -> bool {
        let disk = &self.machines[number(id)].disk;
        entry.index <= disk.base.index || disk.entry(entry.index) == Some(entry)
    }

    /// By the definition of a majority, in each half.
    fn is_on_a_quorum(&self, configuration: &Configuration, entry: &Entry) -> bool {
        std::iter::once(&configuration.voters)
            .chain(&configuration.outgoing)
            .all(|half| 2 * half.iter().filter(|id| self.is_on_disk(id, entry)).count() > half.len())
    }

    /// Whatever a node takes for committed: enters the book once, must be on a quorum of disks then, and never differs.
    pub(super) fn check_commit(&mut self, node: usize) {
        let machine = &self.machines[node];
        let Some(raft) = &machine.raft else { return };
        let (commit, term) = (raft.commit(), raft.term());
        assert!(commit >= machine.commit, "the commit index went back");
        if commit == machine.commit {
            return;
        }
        let in_force = raft.configuration().clone();
        let mut news = Vec::new();
        for index in (machine.commit.0 + 1..=commit.0).map(Index) {
            let Some(entry) = machine.log.entry(index).cloned() else {
                assert!(index <= machine.log.base.index, "committed beyond the log");
                continue;
            };
            match self.book.get(&index) {
                Some(known) => assert_eq!(*known, entry, "a committed entry changed"),
                None => news.push(entry),
            }
        }
        // What is committed together with a joint configuration needed both majorities, also if the leader has left it by
        // now.
        let joint = news.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Configuration(joint) if joint.outgoing.is_some() => Some((entry.index, joint.clone())),
            _ => None,
        });
        for entry in news {
            let needed = match &joint {
                Some((index, joint)) if entry.index <= *index => joint,
                _ => &in_force,
            };
            assert!(
                self.is_on_a_quorum(needed, &entry),
                "n{node} takes {} for committed, up to {commit}, without a quorum of {needed:?}",
                entry.index
            );
            self.seen.changes += u64::from(matches!(entry.payload, Payload::Configuration(_)));
            self.committed_in.insert(entry.index, term);
            self.book.insert(entry.index, entry);
            self.seen.committed += 1;
        }
        self.machines[node].commit = commit;
    }

    pub(super) fn check_log_matching(&self) {
        for (position, left) in self.machines.iter().enumerate() {
            for right in &self.machines[position + 1..] {
                let (left, right) = (&left.log, &right.log);
                let from = left.base.index.max(right.base.index).next();
                let to = left.last().min(right.last());
                let pair = |index: u64| (left.entry(Index(index)), right.entry(Index(index)));
                let equal = |index: &u64| left.term_at(Index(*index)) == right.term_at(Index(*index));
                let agree = (from.0..=to.0).rev().find(equal).unwrap_or(0);
                for index in from.0..=agree {
                    assert_eq!(pair(index).0, pair(index).1, "logs differ before a place where they agree");
                }
            }
        }
    }

    /// After the last fault the cluster must serve again, and finish what it began.
    pub fn heal(&mut self) {
        self.faults = false;
        self.cut.clear();
        self.run_for(Duration::from_secs(5));
        let before = self.book.len();
        self.run_for(Duration::from_secs(1));
        let seed = self.seed;
        assert!(self.book.len() > before, "seed {seed}: nothing is committed after the faults ended");
        let states: Vec<_> =
            self.machines.iter().map(|machine| machine.raft.as_ref().expect("all run").status()).collect();
        let leaders: Vec<_> = states.iter().filter(|status| status.role == Role::Leader).collect();
        assert_eq!(leaders.len(), 1, "seed {seed}: one leader");
        let leader = leaders[0];
        assert_eq!(leader.configuration.outgoing, None, "seed {seed}: a change is not finished");
        assert!(
            leader.configuration.joining.is_empty(),
            "seed {seed}: a learner is not promoted: {leader:?}"
        );
        for id in leader.configuration.all_nodes() {
            let status = &states[number(&id)];
            assert!(
                status.applied.0 + 400 > leader.commit.0,
                "seed {seed}: {id} does not catch up: {status:?}"
            );
            assert_eq!(status.term, leader.term, "seed {seed}: one term");
        }
    }
}
