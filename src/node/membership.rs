//! Who belongs to the cluster, as this node sees it: the address book that the network follows, requests to change the
//! configuration, what strangers are told, and what a node does that was removed.
//!
//! *Strangers.* A node that is not in the configuration in force may still speak with a right: a member that is newer
//! than what this node knows. So consensus hears everybody of the cluster, and decides by itself whom it believes. All
//! other requests are taken from members only.
//!
//! *Removed.* A node learns in one of two ways that it was removed: its own log says so and no leader feeds it any more;
//! or a member, whose state is at least as new as its whole log, tells it ([`super::frame::Frame::NotMember`]). Either
//! way it goes idle: it pings nobody, takes no requests, and lets its connections go. A leader that adds it again
//! dials it, and wakes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::health;
use crate::raft::{Change, Configuration, NODES_MAX};
use crate::types::{Index, Micros, NodeId};

use super::core::Node;
use super::frame::Frame;
use super::io::{Effect, Notice};
use super::moment::Moment;
use super::ports::AddressBook;
use super::requests::{Origin, Want};

/// A node whose log says that it is no member waits so long for a leader that feeds it before it believes that.
const REMOVED_AFTER: Duration = Duration::from_secs(3);
/// A removed node keeps its connections so long, for the answers that it still owes.
const FAREWELL: Duration = Duration::from_secs(5);
/// A stranger is told at most this often that it is one.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// Most strangers whose last telling is remembered.
const STRANGERS_MAX: usize = 64;
/// How long a node waits before it asks again that its address be changed.
const READDRESS_EVERY: Duration = Duration::from_secs(5);
/// Most strangers of whom something is remembered for the status.
pub(super) const ACQUAINTANCES_MAX: usize = 256;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Membership {
    /// The configuration as of the applied position.
    pub committed: Configuration,
    /// What the network was told last, and the configuration that it was made of.
    book: AddressBook,
    seen: Option<Configuration>,
    /// Counts what the status should show at once.
    pub changes: u64,
    /// When which stranger was told last.
    told: BTreeMap<NodeId, Micros>,
    /// The directories that super-nodes are bound to, as a member told that is further than this node.
    bindings: Option<(Index, BTreeMap<NodeId, String>)>,
    /// A member has said that this node is none; forgotten when a leader feeds it.
    word: bool,
    /// Since when this node is removed.
    removed_since: Option<Micros>,
    /// Since when its log says so.
    excluded_since: Option<Micros>,
    readdress_at: Micros,
    /// When something here becomes due.
    due: Option<Micros>,
}

impl Membership {
    pub(super) fn new(committed: Configuration) -> Membership {
        Membership {
            committed,
            book: AddressBook::default(),
            seen: None,
            changes: 0,
            told: BTreeMap::new(),
            bindings: None,
            word: false,
            removed_since: None,
            excluded_since: None,
            readdress_at: Micros(0),
            due: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        self.due
    }

    /// Whether this node was removed from the cluster.
    pub(super) fn is_removed(&self) -> bool {
        self.removed_since.is_some()
    }
}

impl Node {
    /// Whether `node` is in the configuration in force. A node that has none yet takes everybody for a member.
    pub(super) fn knows(&self, node: &NodeId) -> bool {
        let configuration = self.raft.configuration();
        configuration.voters.is_empty() || configuration.contains(node)
    }

    /// A stranger speaks as if it were a member. If the committed configuration is clear about that, it is told.
    pub(super) fn heard_stranger(&mut self, moment: Moment, from: &NodeId) {
        let committed = &self.membership.committed;
        let clear = committed.contains(&self.settings.id) && !committed.contains(from);
        if !clear || self.applied.index == Index(0) {
            return;
        }
        let told = &mut self.membership.told;
        if told.get(from).is_some_and(|at| moment.now.since(*at) < TOLD_EVERY) {
            return;
        }
        if told.len() >= STRANGERS_MAX {
            told.clear();
        }
        told.insert(from.clone(), moment.now);
        let frame = Frame::NotMember { as_of: self.applied.index };
        self.effects.push(Effect::Send { to: from.clone(), frame });
    }

    /// A member says that this node is none. Its word counts if it knows all that this node's log holds: then the
    /// removal came after it.
    pub(super) fn told_not_member(&mut self, as_of: Index) {
        let raft = self.raft.status();
        let believes = raft.configuration.contains(&self.settings.id);
        if believes && raft.leader.is_none() && as_of >= raft.last {
            self.membership.word = true;
        }
    }

    /// This node hears no leader. There may be one whose connections it refuses: its state is too old to know the directory
    /// that the leader is bound to now, and only the leader could bring it up to date. Voters would go on asking for
    /// votes in vain, and learners wait for ever.
    pub(super) fn ask_about_leader(&mut self, member: &NodeId) {
        if self.raft.leader().is_none() {
            let frame = Frame::HearsNoLeader { as_of: self.applied.index };
            self.effects.push(Effect::Send { to: member.clone(), frame });
        }
    }

    /// The asker hears no leader; this node hears one, and knows more.
    pub(super) fn tell_bindings(&mut self, asker: NodeId, as_of: Index) {
        let (leader, index) = (self.raft.leader(), self.applied.index);
        if leader.is_some_and(|leader| *leader != asker) && index > as_of {
            let frame = Frame::Bound { as_of: index, incarnations: self.facts.incarnations.clone() };
            self.effects.push(Effect::Send { to: asker, frame });
        }
    }

    /// Believed until this node's own state is as new: what is bound is a function of the log, so the newer word holds.
    pub(super) fn told_bindings(&mut self, as_of: Index, incarnations: BTreeMap<NodeId, String>) {
        let newest = self.membership.bindings.as_ref().map_or(self.applied.index, |(index, _)| *index);
        if as_of > newest.max(self.applied.index) && incarnations.len() <= NODES_MAX {
            self.membership.bindings = Some((as_of, incarnations));
        }
    }

    /// Follows the configuration in force, after a batch: the network's book, and whether this node is still in it.
    pub(super) fn follow_configuration(&mut self, moment: Moment) {
        self.notice_removal(moment);
        let now = moment.now;
        let configuration = self.raft.configuration();
        let gone = self.membership.removed_since.is_some_and(|since| now.since(since) >= FAREWELL);
        let identity = self.facts.genesis.as_ref().map(|genesis| &genesis.identity);
        self.membership.bindings.take_if(|(as_of, _)| *as_of <= self.applied.index);
        let own = (self.applied.index, &self.facts.incarnations);
        let told = self.membership.bindings.as_ref().map(|(as_of, incarnations)| (*as_of, incarnations));
        let (as_of, incarnations) = told.unwrap_or(own);
        let incarnations = incarnations.clone();
        let known = self.membership.book.identity.as_ref() == identity
            && self.membership.book.incarnations == incarnations
            && gone == (self.membership.seen.is_none() && self.membership.is_removed());
        if known && (gone || self.membership.seen.as_ref() == Some(configuration)) {
            return;
        }
        let identity = identity.cloned();
        let members = if gone { BTreeSet::new() } else { configuration.all_nodes() };
        let seen = (!gone).then(|| configuration.clone());
        let mut nodes = BTreeMap::new();
        for node in members.into_iter().filter(|node| *node != self.settings.id) {
            let address = self.address_of(configuration, &node);
            nodes.extend(address.map(|address| (node, address.to_string())));
        }
        let book = AddressBook { identity, nodes, incarnations, as_of };
        for left in self.membership.book.nodes.keys().filter(|node| !book.nodes.contains_key(*node)) {
            self.peer_contact.remove(left);
            self.peer_urls.remove(left);
            self.duties.forget(left);
        }
        self.membership.seen = seen;
        self.membership.changes += 1;
        self.membership.book = book.clone();
        // First, so that what is said to a new node in this batch is not said to nobody.
        self.effects.insert(0, Effect::SetBook(book));
    }

    /// Where a node is reached: as this node was told when it was started, otherwise as the configuration says.
    pub(super) fn address_of<'a>(
        &'a self,
        configuration: &'a Configuration,
        node: &NodeId,
    ) -> Option<&'a str> {
        let told = self.settings.peers.get(node).or_else(|| configuration.addresses.get(node));
        told.map(String::as_str).filter(|address| !address.is_empty())
    }

    fn notice_removal(&mut self, moment: Moment) {
        let now = moment.now;
        let me = &self.settings.id;
        let was_removed = self.membership.is_removed();
        let (configuration, committed) = (self.raft.configuration(), &self.membership.committed);
        let excluded =
            !configuration.voters.is_empty() && !configuration.contains(me) && !committed.contains(me);
        if self.membership.word && self.raft.leader().is_some() {
            self.membership.word = false;
        }
        let mut due = None;
        let mut removed = self.membership.word;
        if excluded {
            // A node that joins reads of a past without it, while a leader feeds it.
            let since = *self.membership.excluded_since.get_or_insert(now);
            let fed_at = self.raft.status().leader_contact.map_or(since, |contact| contact.max(since));
            let quiet_at = fed_at.after(REMOVED_AFTER);
            removed |= now >= quiet_at;
            due = Some(quiet_at);
        } else {
            self.membership.excluded_since = None;
        }
        match (removed, self.membership.removed_since) {
            (true, None) => {
                self.membership.removed_since = Some(now);
                due = Some(now.after(FAREWELL));
                self.step_health(moment, health::Input::Members(Vec::new()));
                self.effects.push(Effect::Tell(Notice::Removed));
            }
            (true, Some(since)) => due = Some(since.after(FAREWELL)),
            (false, Some(_)) => {
                self.membership.removed_since = None;
                self.observe_members(moment);
            }
            (false, None) => {}
        }
        self.membership.changes += u64::from(was_removed != self.membership.is_removed());
        self.membership.due = due.filter(|due| *due > now);
    }

    /// This node is reached elsewhere than the configuration says: asks that it be corrected.
    pub(super) fn correct_own_address(&mut self, moment: Moment) {
        let (me, address) = (&self.settings.id, &self.settings.address);
        let configuration = self.raft.configuration();
        let wrong = configuration.contains(me)
            && configuration.outgoing.is_none()
            && configuration.addresses.get(me) != Some(address);
        let founded = self.facts.genesis.is_some();
        if address.is_empty() || !wrong || !founded || self.raft.leader().is_none() {
            return;
        }
        if moment.now < self.membership.readdress_at {
            return;
        }
        self.membership.readdress_at = moment.now.after(READDRESS_EVERY);
        let want = Want::Change(Change::Readdress { node: me.clone(), address: address.clone() });
        let request = self.requests.begin(Origin::Duty, want, moment.now, READDRESS_EVERY / 2);
        self.route(moment, request, true);
    }

    /// Something has ended that requests waited for: they are tried again. True if there were any.
    pub(super) fn retry_parked(&mut self, moment: Moment) -> bool {
        if !std::mem::take(&mut self.unpark) {
            return false;
        }
        let waited = self.requests.unpark();
        let moved = !waited.is_empty();
        for request in waited {
            let forward = request.forward;
            self.route(moment, request, forward);
        }
        moved
    }
}
