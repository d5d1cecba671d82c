//! The leader: orders the log, feeds its peers, decides what is committed, proves that it still leads.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::types::{Index, Micros, NodeId};

use super::candidate::Candidate;
use super::core::{Core, Node};
use super::follower::Follower;
use super::lease::Lease;
use super::log::entry_bytes;
use super::membership::Farewell;
use super::message::{
    Base, Configuration, Effect, ElectionReason, Entry, Event, Payload, Refusal, RequestId, StepDown,
};
use super::progress::Progress;
use super::reads::Reads;
use super::state::State;
use super::thrift::Thrift;
use super::transfer::Transfer;
use super::wire::{Body, Message, Position};

/// Leads its term.
#[derive(Debug)]
pub(super) struct Leader {
    pub peers: BTreeMap<NodeId, Progress>,
    pub reads: Reads,
    /// The newest round of heartbeats; see [`Body::Heartbeat`].
    pub round: u64,
    /// Its own first entry. Until it is committed the commit index may lag behind what earlier leaders committed, so
    /// reads wait (hazard 19).
    pub first: Index,
    uncommitted_bytes: usize,
    pub lease: Lease,
    pub thrift: Box<Thrift>,
    pub transfer: Option<Transfer>,
    /// Not before this time does it try again to be rid of a leadership that it does not want.
    pub next_hand_over: Micros,
    /// Peers that are no members, and are being told.
    pub farewells: BTreeMap<NodeId, Farewell>,
}

impl Node<Candidate> {
    /// Won (Raft paper, section 5.2). The first thing it does is to append an entry of its own term, which commits
    /// all before it (section 5.4.2).
    pub fn become_leader(mut self, reason: ElectionReason, votes: BTreeSet<NodeId>) -> Node<Leader> {
        let core = &mut self.core;
        let (now, last) = (core.now, core.log.last().index);
        core.outbox.event(Event::BecameLeader {
            term: core.term(),
            reason,
            votes,
            previous: core.last_leader.clone(),
            leaderless: now.since(core.last_word),
        });
        core.leader_contact = None;
        core.last_leader = Some(core.id().clone());
        core.announced = Some((core.term(), core.id().clone()));
        let mut peers = core.log.configuration().all_nodes();
        peers.remove(core.id());
        let role = Leader {
            peers: peers.into_iter().map(|id| (id, Progress::new(last.next(), now))).collect(),
            reads: Reads::default(),
            round: 0,
            first: last.next(),
            uncommitted_bytes: core.log.range(core.commit.next(), last).map(entry_bytes).sum(),
            lease: Lease::default(),
            thrift: Box::default(),
            transfer: None,
            next_hand_over: Micros(0),
            farewells: BTreeMap::new(),
        };
        let mut node = Node { core: self.core, role };
        node.append(Payload::Noop);
        node
    }
}

impl Node<Leader> {
    pub fn append(&mut self, payload: Payload) -> Index {
        let index = self.core.log.last().index.next();
        let entry = Entry { term: self.core.term(), index, payload };
        self.role.uncommitted_bytes += entry_bytes(&entry);
        self.core.log.append(entry);
        index
    }

    /// Refuses what comes while leadership is being handed over.
    fn refuse_while_handing_over(&mut self, request: RequestId) -> bool {
        let Some(transfer) = &self.role.transfer else { return false };
        let refusal = Refusal::Transferring { to: transfer.to.clone() };
        self.core.outbox.push(Effect::Refused { request, refusal });
        true
    }

    pub fn propose(&mut self, request: RequestId, command: Bytes) {
        if self.refuse_while_handing_over(request) {
            return;
        }
        // One proposal is always let in, however large: otherwise it could never be.
        let full = self.role.uncommitted_bytes.saturating_add(command.len());
        if self.role.uncommitted_bytes > 0 && full > self.core.config.uncommitted_bytes_max {
            self.core.outbox.push(Effect::Refused { request, refusal: Refusal::Overloaded });
            return;
        }
        let index = self.append(Payload::Command(command));
        let term = self.core.term();
        self.core.outbox.push(Effect::Proposed { request, index, term });
    }

    pub fn read(&mut self, request: RequestId, lease: bool) {
        if self.refuse_while_handing_over(request) {
            return;
        }
        if lease && self.lease_until().is_some() {
            let index = self.core.commit;
            self.core.outbox.push(Effect::ReadReady { request, index });
            return;
        }
        if !self.role.reads.arrive(request, self.core.config.reads_pending_max) {
            self.core.outbox.push(Effect::Refused { request, refusal: Refusal::Overloaded });
        }
    }

    /// When the quorum of contacts lapses; never for a node that decides alone.
    fn quorum_lapses(&self) -> Micros {
        if !self.core.config.check_quorum {
            return Micros(u64::MAX);
        }
        let contact = |id: &NodeId| match self.role.peers.get(id) {
            Some(peer) => peer.contact.0,
            None if id == self.core.id() => u64::MAX,
            None => 0,
        };
        Micros(self.core.log.configuration().quorum_value(contact)).after(self.core.config.election_max)
    }

    pub fn heartbeat_due(&self, peer: &Progress) -> Micros {
        peer.heartbeat_due(&self.core.config)
    }

    pub fn deadline(&self) -> Micros {
        let heartbeats = self.role.peers.values().map(|peer| self.heartbeat_due(peer));
        let others =
            [self.quorum_lapses(), self.disk_is_stuck_at(), self.transfer_deadline(), self.next_repetition()];
        heartbeats.chain(others).fold(Micros(u64::MAX), Micros::min)
    }

    /// When it must make way for somebody whose disk works. A node that decides alone has nobody to make way for.
    fn disk_is_stuck_at(&self) -> Micros {
        if self.core.log.configuration().is_sole_voter(self.core.id()) {
            return Micros(u64::MAX);
        }
        self.core.disk.stuck_at()
    }

    /// Whether a peer was heard within the shortest election timeout.
    pub fn in_contact(&self, node: &NodeId) -> bool {
        let recent = |peer: &Progress| self.core.now.since(peer.contact) < self.core.config.election_min;
        self.role.peers.get(node).is_some_and(|peer| peer.heard && recent(peer))
    }

    /// Whether leadership is being handed to `node`.
    pub fn hands_over_to(&self, node: &NodeId) -> bool {
        self.role.transfer.as_ref().is_some_and(|transfer| transfer.to == *node)
    }

    /// Due heartbeats leave with the batch; here it only looks whether anybody still listens (Raft dissertation,
    /// section 6.2), and whether its own disk does.
    pub fn tick(mut self) -> State {
        let now = self.core.now;
        if now >= self.quorum_lapses() {
            return State::Follower(self.step_down(StepDown::QuorumLost));
        }
        if now >= self.disk_is_stuck_at() {
            return State::Follower(self.step_down(StepDown::DiskStuck));
        }
        self.give_up_transfer();
        State::Leader(self)
    }

    /// Stops leading. What is committed stays committed (hazard 15); proposals are in the log and may still come to
    /// be; reads have not happened.
    pub fn step_down(mut self, reason: StepDown) -> Node<Follower> {
        let core = &mut self.core;
        for request in self.role.reads.abandon() {
            core.outbox.push(Effect::Refused { request, refusal: Refusal::NotLeader { leader: None } });
        }
        core.outbox.event(Event::SteppedDown { term: core.term(), reason });
        core.last_word = core.now;
        let role = Follower::new(core);
        Node { core: self.core, role }
    }

    pub fn handle(mut self, from: &NodeId, message: Message) -> State {
        let (now, last) = (self.core.now, self.core.log.last().index);
        match message.body {
            // Nobody else leads this term.
            Body::AppendRequest { .. } | Body::Heartbeat { .. } => self.core.dropped += 1,
            Body::PreVoteRequest { attempt, last } => {
                self.core.handle_pre_vote_request(from, message.term, attempt, last, false);
            }
            Body::VoteRequest { last, .. } => {
                self.core.handle_request_vote(from, last);
            }
            Body::AppendAccepted { matched: index, round }
            | Body::AppendRejected { previous: index, round, .. }
            | Body::HeartbeatResponse { round, verified: index, .. }
                if index > last || round > self.role.round =>
            {
                // It answers what was never said.
                self.core.dropped += 1;
            }
            Body::AppendAccepted { matched, round } => {
                if let Some(peer) = self.role.peers.get_mut(from) {
                    self.role.thrift.acknowledged(peer, matched, round, now);
                    peer.heard(now, round);
                    if peer.accepted(matched) {
                        return self.maybe_commit();
                    }
                }
            }
            Body::AppendRejected { previous, hint, round } => {
                self.handle_append_rejected(from, previous, hint, round);
            }
            Body::HeartbeatResponse { round, verified, matched, fit, leases } => {
                if let Some(peer) = self.role.peers.get_mut(from) {
                    peer.heard(now, round);
                    (peer.fit, peer.leases) = (fit, leases);
                    let news = matched > peer.matched && peer.accepted(matched);
                    peer.heartbeat_answered(round, verified);
                    if news {
                        return self.maybe_commit();
                    }
                }
            }
            Body::PreVoteResponse { .. }
            | Body::VoteResponse { .. }
            | Body::TimeoutNow { .. }
            | Body::NewerTerm => {}
        }
        State::Leader(self)
    }

    /// Goes back to the last place where the logs can agree: not after the follower's hint, nor of a higher term. Each
    /// rejection skips at least a term on one of the two sides.
    fn handle_append_rejected(&mut self, from: &NodeId, previous: Index, hint: Position, round: u64) {
        let Some(peer) = self.role.peers.get_mut(from) else { return };
        let newest = round >= peer.round;
        peer.awaited = None;
        peer.heard(self.core.now, round);
        if !peer.rejection_is_current(previous) {
            return;
        }
        if newest && hint.index < peer.matched {
            peer.forget_acknowledged();
        }
        // No such place in the log: it lies before the base, where only a snapshot reaches.
        let agree =
            self.core.log.last_not_after(hint.index, hint.term).map_or(hint.index, |place| place.index);
        peer.probe_from(agree.next().min(previous));
    }

    /// Commits what a majority holds durably, if it is of this term; what came before it is committed along (Raft
    /// paper, section 5.4.2, hazard 8). The leader's own log counts as far as its own disk confirmed it (hazard 16).
    pub fn maybe_commit(mut self) -> State {
        let core = &mut self.core;
        let own = core.log.durable().0;
        let matched = |id: &NodeId| match self.role.peers.get(id) {
            Some(peer) => peer.matched.0,
            None if *id == core.config.id => own,
            None => 0,
        };
        let index = Index(core.log.configuration().quorum_value(matched));
        if index <= core.commit || core.log.term_at(index) != Some(core.term()) {
            return State::Leader(self);
        }
        let bytes: usize = core.log.range(core.commit.next(), index).map(entry_bytes).sum();
        self.role.uncommitted_bytes -= bytes;
        core.advance_commit(index);
        if core.log.configuration_index() <= core.commit && !core.is_voter() {
            self.bequeath();
            return State::Follower(self.step_down(StepDown::Removed));
        }
        self.settle_configuration();
        State::Leader(self)
    }

    /// Keeps what a peer needs after the snapshot that is on its way to it, as long as the peer answers (hazard 35).
    pub fn compact(&mut self, index: Index) {
        let core = &mut self.core;
        let answers = |peer: &Progress| core.now.since(peer.contact) < core.config.election_max;
        let pins = self.role.peers.values().filter(|peer| answers(peer)).filter_map(Progress::pinned);
        let index = pins.fold(index, Index::min);
        core.compact(index);
    }

    /// A transfer to this node ended after it was elected. It tells nothing that the leader lacks.
    pub fn snapshot_installed(&mut self, base: Base, configuration: Configuration) {
        let core = &mut self.core;
        assert!(
            core.log.term_at(base.index) == Some(base.term),
            "a leader's log lacks what a snapshot holds"
        );
        core.install_snapshot(base, configuration);
        let uncommitted = core.log.range(core.commit.next(), core.log.last().index);
        self.role.uncommitted_bytes = uncommitted.map(entry_bytes).sum();
    }

    pub fn snapshot_ended(&mut self, to: &NodeId, index: Option<Index>) {
        // A transfer of an earlier leadership may cover what this one does not know of; the next probe tells.
        let index = index.map(|index| index.min(self.core.log.last().index));
        if let Some(peer) = self.role.peers.get_mut(to) {
            peer.snapshot_ended(index);
        }
    }

    /// Says everything that this batch gave rise to: to each peer its entries, coalesced; then heartbeats, where reads
    /// wait for a round or nothing else was said for a while.
    pub fn flush(&mut self) {
        let Node { core, role } = self;
        let last = core.log.last().index;
        for peer in role.peers.values_mut() {
            peer.follow_up(last, core.now, core.config.election_min);
        }
        self.promote_learners();
        self.consider_handing_over();
        self.advance_farewells();
        let round_begun = self.send_entries();
        self.advance_transfer();
        let reads_start = self.role.reads.wants_round() && self.core.commit >= self.role.first;
        self.send_heartbeats(reads_start, round_begun);
        self.renew_lease();
        let Node { core, role } = self;
        if reads_start {
            role.reads.start(role.round, core.commit);
        }
        let echoed = |id: &NodeId| match role.peers.get(id) {
            Some(peer) => peer.round,
            None if *id == core.config.id => role.round,
            None => 0,
        };
        let confirmed = core.log.configuration().quorum_value(echoed);
        for (request, index) in role.reads.confirm(confirmed) {
            core.outbox.push(Effect::ReadReady { request, index });
        }
    }

    /// Sends each peer what its window has room for, or what a thrifty leader does not put off. Who is no member gets no
    /// snapshot: what that would tell is not worth it. Returns whether a new round began with it.
    pub fn send_entries(&mut self) -> bool {
        let chosen = self.choose_receivers();
        let round_begins = chosen.as_ref().is_some_and(|chosen| !chosen.is_empty());
        if round_begins {
            self.begin_round();
        }
        let Node { core, role } = self;
        let mut lost = Vec::new();
        for (id, peer) in &mut role.peers {
            let fed = match &chosen {
                None => send_appends(core, id, peer, role.round),
                Some(chosen) => !chosen.contains(id) || send_unacknowledged(core, id, peer, role.round),
            };
            if fed {
                continue;
            }
            if role.farewells.contains_key(id) {
                lost.push(id.clone());
            } else {
                peer.need_snapshot(core.applied);
                core.outbox.push(Effect::SendSnapshot { to: id.clone() });
            }
        }
        lost.iter().for_each(|id| self.forget_stranger(id));
        round_begins
    }

    /// What is said from now on belongs to a new round, and proves that this node led at this moment.
    fn begin_round(&mut self) {
        self.role.round += 1;
        if self.core.config.thrift.is_some() {
            self.role.thrift.began(self.role.round, self.core.now);
        }
        if let Some(span) = self.core.config.lease_span() {
            self.role.lease.begin(self.role.round, self.core.now, span);
        }
    }

    /// Sends a heartbeat to whom one is due; and, when reads wait for a round, to every peer, or to whom a thrifty leader
    /// asks. `round_begun`: this batch has already begun one.
    fn send_heartbeats(&mut self, reads_start: bool, round_begun: bool) {
        let now = self.core.now;
        let asked = self.choose_witnesses(reads_start, round_begun);
        let asks = |id: &NodeId| asked.as_ref().map_or(reads_start, |asked| asked.contains(id));
        let due: BTreeSet<NodeId> = self
            .role
            .peers
            .iter()
            .filter(|(id, peer)| asks(id) || self.heartbeat_due(peer) <= now)
            .map(|(id, _)| id.clone())
            .collect();
        if due.is_empty() && (!reads_start || round_begun) {
            return;
        }
        if !round_begun {
            self.begin_round();
        }
        let (round, commit) = (self.role.round, self.core.commit);
        for id in due {
            self.core.send(&id, Body::Heartbeat { commit, round });
            if let Some(peer) = self.role.peers.get_mut(&id) {
                peer.sent_heartbeat(round, now);
            }
        }
    }
}

/// Sends one peer what its window has room for; false if what it needs is compacted.
fn send_appends(core: &mut Core, id: &NodeId, peer: &mut Progress, round: u64) -> bool {
    let last = core.log.last().index;
    while peer.may_send(last, &core.config) {
        let index = Index(peer.next.0 - 1);
        let Some(term) = core.log.term_at(index) else { return false };
        let (entries, bytes) = core.log.entries_from(peer.next, core.config.append_bytes_max);
        let end = entries.last().map_or(index, |entry| entry.index);
        let previous = Position { index, term };
        core.send(id, Body::AppendRequest { previous, entries, commit: core.commit, round });
        peer.sent_append(end, bytes, core.now);
    }
    true
}

/// Sends one peer everything that it has not acknowledged, as far as an append holds it: whatever was lost on the way, this
/// fits. False if what it needs is compacted.
fn send_unacknowledged(core: &mut Core, id: &NodeId, peer: &mut Progress, round: u64) -> bool {
    peer.rewind();
    let index = Index(peer.next.0 - 1);
    let Some(term) = core.log.term_at(index) else { return false };
    let (entries, bytes) = core.log.entries_from(peer.next, core.config.append_bytes_max);
    let end = entries.last().map_or(index, |entry| entry.index);
    let previous = Position { index, term };
    core.send(id, Body::AppendRequest { previous, entries, commit: core.commit, round });
    peer.sent_append(end, bytes, core.now);
    peer.await_acknowledgement(end, core.log.last().index, core.now);
    true
}
