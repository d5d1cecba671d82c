//! Changes of the configuration: what they make of it, and how a leader carries them out (Raft paper, section 6).
//!
//! A change of the voters is two entries. The first is *joint*: elections and commitment need a majority of the old
//! voters and one of the new. Once it is committed, whoever leads appends the second, which is the new configuration
//! alone. Each is in force from its append, on everybody who holds it, and out of force if it is truncated. A change that
//! does not touch the voters is one entry.
//!
//! One change is under way at a time: a new one waits until the last configuration entry is committed and not joint. And
//! a leader changes nothing before it has committed an entry of its own term: it could overlook a change
//! of its predecessor that is committed already, and two changes that do not know of each other need not share a majority
//! (Ongaro's correction of 2015, hazard 26).
//!
//! A change that touches the voters is begun only while a majority of the old and of the new voters answers: it could not be
//! completed otherwise, and a joint configuration cannot be taken back.
//!
//! *Those who left* are told: the leader keeps sending to a node that is no longer a member until that node holds the
//! configuration that leaves it out and has heard that it is committed, or for [`FAREWELL_TIMEOUTS`]. A node that missed
//! all that asks for votes sooner or later; nobody grants any (everybody hears the leader, and its log is too old), but the
//! leader then takes the trouble once more. Whatever term such a node claims, the leader does not believe it.

use std::collections::BTreeSet;

use crate::types::{Index, Micros, NodeId};

use super::config::{ADDRESS_BYTES_MAX, NODES_MAX, VOTERS_MAX};
use super::core::Node;
use super::leader::Leader;
use super::message::{Change, ChangeError, Configuration, Effect, Event, Payload, Refusal, RequestId};
use super::progress::Progress;

/// For so many longest election timeouts a leader tries to tell a node that it is no member.
pub const FAREWELL_TIMEOUTS: u32 = 20;
/// Most nodes that are no members and are being told so.
const FAREWELLS_MAX: usize = 16;

/// A node that is no member and is being told so.
#[derive(Debug)]
pub(super) struct Farewell {
    /// The configuration that leaves it out stands here.
    configuration: Index,
    /// When the trouble ends.
    until: Micros,
    /// The round that tells it that this is committed.
    told: Option<u64>,
}

impl Configuration {
    /// The configuration that a change of this one begins with. It is joint if the voters change.
    ///
    /// # Errors
    /// What makes the change impossible; this configuration must not be joint.
    pub fn changed(&self, change: &Change) -> Result<Configuration, ChangeError> {
        let mut next = self.clone();
        match change {
            Change::AddLearner { node, address, promote, replaces } => {
                self.check_new(node, address, *promote, replaces.as_ref())?;
                next.learners.insert(node.clone());
                next.addresses.insert(node.clone(), address.clone());
                if *promote {
                    next.joining.insert(node.clone(), replaces.clone());
                }
            }
            Change::Promote { node } => {
                if !self.contains(node) {
                    return Err(ChangeError::NotMember);
                }
                if !next.learners.remove(node) {
                    return Err(ChangeError::NotLearner);
                }
                next.voters.insert(node.clone());
                // Whoever was to be replaced may have left in the meantime.
                if let Some(replaced) = next.joining.remove(node).flatten() {
                    next.voters.remove(&replaced);
                }
                if next.voters.len() > VOTERS_MAX {
                    return Err(ChangeError::TooManyVoters);
                }
            }
            Change::Demote { node } => {
                self.check_voter_leaves(node)?;
                next.voters.remove(node);
                next.learners.insert(node.clone());
            }
            Change::Remove { node } => {
                if !next.learners.remove(node) {
                    self.check_voter_leaves(node)?;
                    next.voters.remove(node);
                }
                next.joining.remove(node);
            }
            Change::Readdress { node, address } => {
                if !self.contains(node) {
                    return Err(ChangeError::NotMember);
                }
                check_address(address)?;
                if next.addresses.insert(node.clone(), address.clone()).as_ref() == Some(address) {
                    return Err(ChangeError::SameAddress);
                }
            }
            Change::Replace { voter, learner } => {
                if !self.contains(voter) || !self.contains(learner) {
                    return Err(ChangeError::NotMember);
                }
                if !next.voters.remove(voter) {
                    return Err(ChangeError::NotVoter);
                }
                if !next.learners.remove(learner) {
                    return Err(ChangeError::NotLearner);
                }
                // What was planned for the learner has come true in another way.
                next.joining.remove(learner);
                next.voters.insert(learner.clone());
            }
        }
        if next.voters != self.voters {
            next.outgoing = Some(self.voters.clone());
        }
        next.tidy();
        Ok(next)
    }

    /// What a joint configuration leads to; `None` if this one is not joint.
    pub fn settled(&self) -> Option<Configuration> {
        self.outgoing.as_ref()?;
        let mut next = self.clone();
        next.outgoing = None;
        next.tidy();
        Some(next)
    }

    /// Forgets plans for those who left, and their addresses.
    fn tidy(&mut self) {
        let (voters, nodes) = (self.voters.clone(), self.all_nodes());
        self.addresses.retain(|node, _| nodes.contains(node));
        for replaced in self.joining.values_mut() {
            replaced.take_if(|replaced| !voters.contains(replaced));
        }
    }

    fn check_new(
        &self,
        node: &NodeId,
        address: &str,
        promote: bool,
        replaces: Option<&NodeId>,
    ) -> Result<(), ChangeError> {
        check_address(address)?;
        if self.contains(node) {
            return Err(ChangeError::AlreadyMember);
        }
        if self.all_nodes().len() >= NODES_MAX {
            return Err(ChangeError::TooManyNodes);
        }
        let Some(replaced) = replaces else { return Ok(()) };
        if !promote {
            return Err(ChangeError::ReplacesWithoutPromotion);
        }
        if !self.voters.contains(replaced) {
            return Err(ChangeError::NotVoter);
        }
        if self.joining.values().any(|other| other.as_ref() == Some(replaced)) {
            return Err(ChangeError::AlreadyReplaced);
        }
        Ok(())
    }

    fn check_voter_leaves(&self, node: &NodeId) -> Result<(), ChangeError> {
        if !self.contains(node) {
            return Err(ChangeError::NotMember);
        }
        if !self.voters.contains(node) {
            return Err(ChangeError::NotVoter);
        }
        if self.voters.len() == 1 {
            return Err(ChangeError::LastVoter);
        }
        Ok(())
    }
}

fn check_address(address: &str) -> Result<(), ChangeError> {
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
        return Err(ChangeError::BadAddress);
    }
    Ok(())
}

impl Node<Leader> {
    pub fn change(&mut self, request: RequestId, change: &Change) {
        let refusal = match self.prepare(change) {
            Ok(next) => {
                let index = self.append_configuration(next);
                let term = self.core.term();
                return self.core.outbox.push(Effect::Proposed { request, index, term });
            }
            Err(refusal) => refusal,
        };
        self.core.outbox.push(Effect::Refused { request, refusal });
    }

    /// The configuration that the change begins with, if it may begin now.
    fn prepare(&self, change: &Change) -> Result<Configuration, Refusal> {
        let core = &self.core;
        if let Some(transfer) = &self.role.transfer {
            return Err(Refusal::Transferring { to: transfer.to.clone() });
        }
        if core.commit < self.role.first {
            return Err(Refusal::NoCommitInTerm);
        }
        let present = core.log.configuration();
        if present.outgoing.is_some() || core.log.configuration_index() > core.commit {
            return Err(Refusal::ChangePending);
        }
        let next = present.changed(change).map_err(Refusal::InvalidChange)?;
        if let Change::Promote { node } | Change::Replace { learner: node, .. } = change
            && !self.has_caught_up(node)
        {
            return Err(Refusal::InvalidChange(ChangeError::NotCaughtUp));
        }
        if next.outgoing.is_some() && !self.answers(&next) {
            return Err(Refusal::InvalidChange(ChangeError::QuorumOutOfReach));
        }
        Ok(next)
    }

    /// A node whose log is whole may have lost its state. As a voter it could not lead; and it would get no state any more if
    /// it took the place of the only one that has it.
    fn has_caught_up(&self, node: &NodeId) -> bool {
        let ready = |peer: &Progress| peer.fit && peer.caught_up_since.is_some();
        self.in_contact(node) && self.role.peers.get(node).is_some_and(ready)
    }

    /// Whether a quorum of this configuration is heard now.
    fn answers(&self, configuration: &Configuration) -> bool {
        let heard = |id: &NodeId| u64::from(id == self.core.id() || self.in_contact(id));
        configuration.quorum_value(heard) == 1
    }

    fn append_configuration(&mut self, configuration: Configuration) -> Index {
        let index = self.append(Payload::Configuration(configuration));
        self.role.lease.void();
        self.follow_configuration();
        index
    }

    /// Brings the table of peers in line with the configuration in force. Those who are no members any more are kept for
    /// a while, to be told.
    fn follow_configuration(&mut self) {
        let Node { core, role } = self;
        let last = core.log.last().index;
        let nodes = core.log.configuration().all_nodes();
        for node in nodes.iter().filter(|node| *node != core.id()) {
            // Whoever comes back is somebody new, perhaps with an empty disk: what it once held counts no more.
            if role.farewells.remove(node).is_some() {
                role.peers.remove(node);
            }
            role.peers.entry(node.clone()).or_insert_with(|| Progress::new(last.next(), core.now));
        }
        let gone: BTreeSet<NodeId> = role.peers.keys().filter(|id| !nodes.contains(id)).cloned().collect();
        for node in gone {
            self.bid_farewell(&node);
        }
    }

    /// Tells a node that is no member so.
    fn bid_farewell(&mut self, node: &NodeId) {
        let Node { core, role } = self;
        let configuration = core.log.configuration_index();
        let until = core.now.after(core.config.election_max * FAREWELL_TIMEOUTS);
        let farewell = Farewell { configuration, until, told: None };
        role.farewells.entry(node.clone()).or_insert(farewell);
        let next = core.log.last().index.next();
        role.peers.entry(node.clone()).or_insert_with(|| Progress::new(next, core.now));
    }

    /// A node that is no member asks for votes: it does not know.
    pub fn hear_stranger(&mut self, node: &NodeId) {
        let member = self.core.log.configuration().contains(node);
        if !member && self.core.commit >= self.role.first && self.role.farewells.len() < FAREWELLS_MAX {
            self.bid_farewell(node);
        }
    }

    /// Nothing more is said to a node that is no member.
    pub fn forget_stranger(&mut self, node: &NodeId) {
        if self.role.farewells.remove(node).is_some() {
            self.role.peers.remove(node);
        }
    }

    /// Says the last word to those who hold the configuration that leaves them out, and ends what is over.
    pub fn advance_farewells(&mut self) {
        let Node { core, role } = self;
        let mut over = Vec::new();
        for (node, farewell) in &mut role.farewells {
            let Some(peer) = role.peers.get_mut(node) else { continue };
            let holds = peer.matched >= farewell.configuration && core.commit >= farewell.configuration;
            if holds && farewell.told.is_none() {
                farewell.told = Some(role.round + 1);
                peer.sent_at = None;
            }
            let knows = farewell.told.is_some_and(|round| peer.round >= round);
            if knows || core.now >= farewell.until {
                over.push(node.clone());
            }
        }
        for node in over {
            self.forget_stranger(&node);
        }
    }

    /// Leaves a joint configuration that is committed, whoever began the change.
    pub fn settle_configuration(&mut self) {
        let core = &self.core;
        let committed = core.commit >= self.role.first && core.log.configuration_index() <= core.commit;
        if !committed || self.role.transfer.is_some() {
            return;
        }
        if let Some(next) = core.log.configuration().settled() {
            self.append_configuration(next);
        }
    }

    /// Makes a voter of the first joining learner that has kept up for long enough, if the change may begin now.
    pub fn promote_learners(&mut self) {
        let core = &self.core;
        let stable = |node: &&NodeId| {
            let since = self.role.peers.get(node).and_then(|peer| peer.caught_up_since);
            since.is_some_and(|since| core.now.since(since) >= core.config.promote_after)
        };
        let mut ready = core.log.configuration().joining.keys().filter(stable);
        let next = ready.find_map(|node| {
            let change = Change::Promote { node: node.clone() };
            self.prepare(&change).ok().map(|next| (node.clone(), next))
        });
        let Some((node, next)) = next else { return };
        let replaces = core.log.configuration().joining.get(&node).cloned().flatten();
        self.core.outbox.event(Event::LearnerPromoted { node, replaces });
        self.append_configuration(next);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use crate::raft::VoteResult;

    use super::*;

    fn node(number: u8) -> NodeId {
        format!("n{number}").parse().expect("a valid name")
    }

    fn change() -> impl Strategy<Value = Change> {
        let one = || (1_u8..9).prop_map(node);
        prop_oneof![
            3 => (one(), "[a-c]{0,2}", any::<bool>(), proptest::option::weighted(0.4, one())).prop_map(
                |(node, address, promote, replaces)| Change::AddLearner { node, address, promote, replaces }
            ),
            3 => one().prop_map(|node| Change::Promote { node }),
            1 => one().prop_map(|node| Change::Demote { node }),
            2 => one().prop_map(|node| Change::Remove { node }),
            1 => (one(), "[a-c]{0,2}").prop_map(|(node, address)| Change::Readdress { node, address }),
            1 => (one(), one()).prop_map(|(voter, learner)| Change::Replace { voter, learner }),
        ]
    }

    /// The oracle: one row per node, what it is, where it is, and what it is to become.
    #[derive(Debug, Clone, PartialEq)]
    struct Row {
        votes: bool,
        address: Option<String>,
        joins: bool,
        replaces: Option<NodeId>,
    }

    type Table = BTreeMap<NodeId, Row>;

    fn change_table(table: &mut Table, change: &Change) -> bool {
        let voters = table.values().filter(|row| row.votes).count();
        let votes = |table: &Table, node: &NodeId| table.get(node).is_some_and(|row| row.votes);
        match change {
            Change::AddLearner { node, address, promote, replaces } => {
                let taken = |replaced| table.values().any(|row| row.replaces.as_ref() == Some(replaced));
                let sane = replaces
                    .as_ref()
                    .is_none_or(|replaced| *promote && votes(table, replaced) && !taken(replaced));
                if table.contains_key(node) || address.is_empty() || !sane {
                    return false;
                }
                let (address, replaces) = (Some(address.clone()), replaces.clone());
                table.insert(node.clone(), Row { votes: false, address, joins: *promote, replaces });
            }
            Change::Promote { node } => {
                let Some(row) = table.get_mut(node).filter(|row| !row.votes) else { return false };
                let replaced = row.replaces.take();
                (row.votes, row.joins) = (true, false);
                if let Some(replaced) = replaced {
                    table.remove(&replaced);
                }
            }
            Change::Demote { node } => {
                if !votes(table, node) || voters == 1 {
                    return false;
                }
                table.entry(node.clone()).and_modify(|row| row.votes = false);
            }
            Change::Remove { node } => {
                if !table.contains_key(node) || votes(table, node) && voters == 1 {
                    return false;
                }
                table.remove(node);
            }
            Change::Readdress { node, address } => {
                let Some(row) = table.get_mut(node) else { return false };
                if address.is_empty() || row.address.as_ref() == Some(address) {
                    return false;
                }
                row.address = Some(address.clone());
            }
            Change::Replace { voter, learner } => {
                let waits = table.get(learner).is_some_and(|row| !row.votes);
                if !votes(table, voter) || !waits {
                    return false;
                }
                table.remove(voter);
                table.entry(learner.clone()).and_modify(|row| {
                    (row.votes, row.joins, row.replaces) = (true, false, None);
                });
            }
        }
        // Who has left or votes no more is replaced by nobody.
        let voting: BTreeSet<NodeId> =
            table.iter().filter(|(_, row)| row.votes).map(|(id, _)| id.clone()).collect();
        for row in table.values_mut() {
            row.replaces.take_if(|replaced| !voting.contains(replaced));
        }
        true
    }

    fn table_of(configuration: &Configuration) -> Table {
        let row = |id: NodeId| {
            let row = Row {
                votes: configuration.voters.contains(&id),
                address: configuration.addresses.get(&id).cloned(),
                joins: configuration.joining.contains_key(&id),
                replaces: configuration.joining.get(&id).cloned().flatten(),
            };
            (id, row)
        };
        configuration.all_nodes().into_iter().map(row).collect()
    }

    fn majority(voters: &BTreeSet<NodeId>, yes: &BTreeSet<NodeId>) -> bool {
        2 * voters.intersection(yes).count() > voters.len()
    }

    proptest! {
        /// Entering and leaving, step by step: the result is what a plain table says; every configuration on the way is
        /// well formed; and any two quorums of neighbouring configurations share a voter.
        #[test]
        fn changes_agree_with_a_plain_table(
            first in proptest::collection::btree_set((1_u8..5).prop_map(node), 1..4),
            changes in proptest::collection::vec(change(), 0..30),
            left in proptest::collection::btree_set((1_u8..9).prop_map(node), 0..9),
            right in proptest::collection::btree_set((1_u8..9).prop_map(node), 0..9),
        ) {
            let mut configuration = Configuration { voters: first, ..Configuration::default() };
            let mut table = table_of(&configuration);
            let wins = |configuration: &Configuration, yes: &BTreeSet<NodeId>| {
                let votes = yes.iter().map(|id| (id.clone(), true)).collect();
                configuration.vote_result(&votes) == VoteResult::Won
            };
            for change in &changes {
                let mut changed = table.clone();
                let possible = change_table(&mut changed, change);
                let next = configuration.changed(change);
                prop_assert_eq!(next.is_ok(), possible, "{:?} of {:?}: {:?}", change, configuration, next);
                let Ok(next) = next else { continue };
                prop_assert!(next.is_well_formed(), "{:?}", next);
                prop_assert_eq!(next.outgoing.is_some(), next.voters != configuration.voters);
                prop_assert_eq!(
                    wins(&next, &left),
                    majority(&next.voters, &left)
                        && next.outgoing.as_ref().is_none_or(|voters| majority(voters, &left))
                );
                let both = wins(&configuration, &left) && wins(&next, &right);
                prop_assert!(!both || !left.is_disjoint(&right));
                let settled = next.settled().unwrap_or(next.clone());
                prop_assert!(settled.is_well_formed() && settled.settled().is_none(), "{:?}", settled);
                let both = wins(&next, &left) && wins(&settled, &right);
                prop_assert!(!both || !left.is_disjoint(&right));
                prop_assert_eq!(&table_of(&settled), &changed);
                (configuration, table) = (settled, changed);
            }
        }
    }

    #[test]
    fn voters_and_nodes_are_bounded() {
        let voters = (0..VOTERS_MAX as u8).map(node).collect();
        let mut configuration = Configuration { voters, ..Configuration::default() };
        for number in VOTERS_MAX..NODES_MAX {
            configuration.learners.insert(format!("n{number}").parse().expect("a valid name"));
        }
        let promote = Change::Promote { node: node(VOTERS_MAX as u8) };
        assert_eq!(configuration.changed(&promote), Err(ChangeError::TooManyVoters));
        let address = "host".to_string();
        let add = Change::AddLearner {
            node: "x".parse().expect("a name"),
            address,
            promote: false,
            replaces: None,
        };
        assert_eq!(configuration.changed(&add), Err(ChangeError::TooManyNodes));
        let address = "h".repeat(ADDRESS_BYTES_MAX + 1);
        let far = Change::Readdress { node: node(1), address };
        assert_eq!(configuration.changed(&far), Err(ChangeError::BadAddress));
    }
}
