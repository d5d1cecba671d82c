//! Election safety (Raft paper, section 5.2): at most one leader per term, elected by a quorum, and one vote of each node
//! in each term. Leader completeness (section 5.4): whoever leads has every committed entry in its log.

use std::collections::{BTreeMap, BTreeSet};

use crate::raft::{HardState, Role, Status};
use crate::types::{NodeId, Term};

use crate::sim::host::Host;

use super::configuration::is_quorum;

/// Watches elections.
#[derive(Debug, Default)]
pub struct Watch {
    leaders: BTreeMap<Term, NodeId>,
    /// For whom each node voted.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    /// The last vote on each node's present disk.
    stored: BTreeMap<NodeId, (Term, NodeId)>,
    won: u64,
}

impl Watch {
    /// A node's disk holds a term, and a vote among it, perhaps. What never became durable was never told either.
    pub fn durable(&mut self, node: &NodeId, hard_state: &HardState) -> Result<(), String> {
        let term = hard_state.term;
        let Some(vote) = &hard_state.vote else {
            return match self.stored.get(node) {
                Some((of, known)) if *of == term => {
                    Err(format!("one vote a term: {node} forgets that it voted for {known} in term {term}"))
                }
                _ => Ok(()),
            };
        };
        self.stored.insert(node.clone(), (term, vote.clone()));
        let known = self.votes.entry((term, node.clone())).or_insert_with(|| vote.clone());
        if known == vote {
            return Ok(());
        }
        Err(format!("one vote a term: {node} votes for {vote} in term {term}, and voted for {known}"))
    }

    /// A node has lost everything. What it said stays said: it must not vote otherwise in a term in which it voted.
    pub fn forget(&mut self, node: &NodeId) {
        self.stored.remove(node);
    }

    /// After every step of a host.
    pub fn after_step(
        &mut self,
        host: &Host,
        status: &Status,
        log: &super::log::Watch,
    ) -> Result<(), String> {
        if status.role != Role::Leader {
            return Ok(());
        }
        match self.leaders.get(&status.term) {
            Some(leader) if leader == &host.id => Ok(()),
            Some(leader) => {
                Err(format!("election safety: {leader} and {} both lead term {}", host.id, status.term))
            }
            None => {
                self.leaders.insert(status.term, host.id.clone());
                log.is_complete(host, status.term)
            }
        }
    }

    /// A node says that it won, with these votes.
    pub fn won(&mut self, host: &Host, term: Term, votes: &BTreeSet<NodeId>) -> Result<(), String> {
        self.won += 1;
        let Some(alive) = &host.alive else { return Ok(()) };
        // The configuration of a candidate does not change between the last vote and the victory.
        if is_quorum(&alive.node.raft_status().configuration, &|voter| votes.contains(voter)) {
            return Ok(());
        }
        Err(format!("elected by a quorum: {} leads term {term} with the votes of {votes:?}", host.id))
    }

    /// Elections won so far.
    pub fn count(&self) -> u64 {
        self.won
    }
}
