//! The arithmetic of majorities, joint ones included (Raft paper, section 6). Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::NodeId;

use super::config::{ADDRESS_BYTES_MAX, NODES_MAX, VOTERS_MAX};
use super::message::Configuration;

/// Where a vote stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteResult {
    /// Every needed majority has granted.
    Won,
    /// Some needed majority can no longer be reached.
    Lost,
    /// Still open.
    Pending,
}

impl Configuration {
    /// Whether `node` votes, in either half of a joint configuration.
    pub fn is_voter(&self, node: &NodeId) -> bool {
        self.voters.contains(node) || self.outgoing.as_ref().is_some_and(|voters| voters.contains(node))
    }

    /// Whether `node` takes part at all.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(node)
    }

    /// Whether nobody is known: a new node that waits for a cluster to find it.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.learners.is_empty()
    }

    /// Whether `node` alone decides.
    pub fn is_sole_voter(&self, node: &NodeId) -> bool {
        let alone = |voters: &BTreeSet<NodeId>| voters.len() == 1 && voters.contains(node);
        alone(&self.voters) && self.outgoing.as_ref().is_none_or(alone)
    }

    /// All voters, each once, in order.
    pub fn all_voters(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(self.outgoing.iter().flatten()).cloned().collect()
    }

    /// All nodes, each once, in order.
    pub fn all_nodes(&self) -> BTreeSet<NodeId> {
        let mut nodes = self.all_voters();
        nodes.extend(self.learners.iter().cloned());
        nodes
    }

    /// Whether a log may hold this configuration: somebody votes, in both halves; no voter of the configuration to come
    /// is a learner; plans and addresses are those of its nodes; everything is bounded.
    pub fn is_well_formed(&self) -> bool {
        let nodes = self.all_nodes();
        let outgoing = self.outgoing.as_ref();
        !self.voters.is_empty()
            && outgoing.is_none_or(|voters| !voters.is_empty())
            && self.learners.is_disjoint(&self.voters)
            && self.joining.keys().all(|node| self.learners.contains(node))
            && self
                .addresses
                .iter()
                .all(|(node, address)| nodes.contains(node) && address.len() <= ADDRESS_BYTES_MAX)
            && nodes.len() <= NODES_MAX + VOTERS_MAX
    }

    /// The largest value that a quorum has reached: of each half's majority, and then the smaller. 0 without voters.
    ///
    /// With match indexes it is the commit index; with echoed rounds the confirmed round; with times of contact the
    /// moment since when a quorum has answered.
    pub fn quorum_value(&self, value: impl Fn(&NodeId) -> u64) -> u64 {
        let incoming = majority_value(&self.voters, &value);
        match &self.outgoing {
            None => incoming,
            Some(outgoing) => incoming.min(majority_value(outgoing, &value)),
        }
    }

    /// Where a vote stands: a node that is absent from `votes` has not answered. Answers of others than voters do not
    /// count. Nobody wins without voters.
    pub fn vote_result(&self, votes: &BTreeMap<NodeId, bool>) -> VoteResult {
        let incoming = majority_vote(&self.voters, votes);
        let outgoing = self.outgoing.as_ref().map_or(incoming, |voters| majority_vote(voters, votes));
        match (incoming, outgoing) {
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }
}

/// The smallest number of voters that is more than half.
fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

fn majority_value(voters: &BTreeSet<NodeId>, value: impl Fn(&NodeId) -> u64) -> u64 {
    let mut values: Vec<u64> = voters.iter().map(value).collect();
    values.sort_unstable_by(|left, right| right.cmp(left));
    values.get(majority(voters.len()) - 1).copied().unwrap_or(0)
}

fn majority_vote(voters: &BTreeSet<NodeId>, votes: &BTreeMap<NodeId, bool>) -> VoteResult {
    let granted = voters.iter().filter(|voter| votes.get(voter) == Some(&true)).count();
    let refused = voters.iter().filter(|voter| votes.get(voter) == Some(&false)).count();
    if granted >= majority(voters.len()) {
        VoteResult::Won
    } else if voters.len() - refused < majority(voters.len()) {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: u8) -> NodeId {
        format!("n{number}").parse().expect("a valid name")
    }

    fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
        proptest::collection::btree_set((1_u8..10).prop_map(node), 1..8)
    }

    fn configuration() -> impl Strategy<Value = Configuration> {
        (nodes(), proptest::option::of(nodes())).prop_map(|(voters, outgoing)| Configuration {
            voters,
            outgoing,
            ..Configuration::default()
        })
    }

    /// The oracle: by the definition of a majority, over every value in question.
    fn reached(voters: &BTreeSet<NodeId>, values: &BTreeMap<NodeId, u64>, floor: u64) -> bool {
        2 * voters.iter().filter(|id| values.get(id).copied().unwrap_or(0) >= floor).count() > voters.len()
    }

    proptest! {
        #[test]
        fn quorum_value_is_the_largest_that_every_majority_reached(
            configuration in configuration(),
            values in proptest::collection::btree_map((1_u8..10).prop_map(node), 0_u64..6, 0..10),
        ) {
            let halves: Vec<_> = std::iter::once(&configuration.voters).chain(&configuration.outgoing).collect();
            let expected = (0..6).rev().find(|floor| halves.iter().all(|half| reached(half, &values, *floor)));
            let found = configuration.quorum_value(|id| values.get(id).copied().unwrap_or(0));
            prop_assert_eq!(Some(found), expected);
        }

        #[test]
        fn vote_results_follow_every_possible_completion(
            configuration in configuration(),
            votes in proptest::collection::btree_map((1_u8..10).prop_map(node), any::<bool>(), 0..10),
        ) {
            let wins = |open_answers: bool| {
                std::iter::once(&configuration.voters).chain(&configuration.outgoing).all(|half| {
                    let yes = half.iter().filter(|id| votes.get(id).copied().unwrap_or(open_answers)).count();
                    2 * yes > half.len()
                })
            };
            let expected = match (wins(false), wins(true)) {
                (true, _) => VoteResult::Won,
                (false, false) => VoteResult::Lost,
                (false, true) => VoteResult::Pending,
            };
            prop_assert_eq!(configuration.vote_result(&votes), expected);
        }

        #[test]
        fn any_two_quorums_of_one_configuration_meet(
            configuration in configuration(),
            left in proptest::collection::btree_set((1_u8..10).prop_map(node), 4..10),
            right in proptest::collection::btree_set((1_u8..10).prop_map(node), 4..10),
        ) {
            let won = |yes: &BTreeSet<NodeId>| {
                let votes = yes.iter().map(|id| (id.clone(), true)).collect();
                configuration.vote_result(&votes) == VoteResult::Won
            };
            let meet = left.intersection(&right).any(|id| configuration.is_voter(id));
            prop_assert!(meet || !(won(&left) && won(&right)));
        }
    }

    #[test]
    fn nobody_wins_without_voters_and_learners_do_not_count() {
        let mut configuration = Configuration::default();
        let votes = BTreeMap::from([(node(1), true), (node(2), true)]);
        assert_eq!(configuration.vote_result(&votes), VoteResult::Lost);
        assert_eq!(configuration.quorum_value(|_| 9), 0);
        configuration.voters = BTreeSet::from([node(3)]);
        configuration.learners = BTreeSet::from([node(1), node(2)]);
        assert_eq!(configuration.vote_result(&votes), VoteResult::Pending);
        assert!(!configuration.is_voter(&node(1)) && configuration.contains(&node(1)));
    }
}
