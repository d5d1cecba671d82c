//! The steps of a node, one function per kind of input.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec;
use crate::health::{self, Level, Target};
use crate::ledger::apply::Happening;
use crate::ledger::command::{Envelope, Request};
use crate::ledger::records::MemberKind;
use crate::raft::{self, ElectionReason, Refusal};
use crate::types::{Index, IntervalId, NodeId, Term, Version};

use super::applier::{AppliedBatch, Intake};
use super::core::Node;
use super::duties::Won;
use super::facts::Facts;
use super::frame::{Frame, SnapshotChunk};
use super::handle::Failure;
use super::io::{Effect, Notice};
use super::moment::Moment;
use super::report;
use super::requests::{CHANGE_FOR, Finished, Origin, Outcome, PARKED_FOR, Started, Want, fail};
use super::snapshot::{NOTHING_MORE, Next, Received, Taken};

impl Node {
    pub(super) fn handle_frame(&mut self, moment: Moment, from: NodeId, frame: Frame) {
        let known = self.knows(&from);
        if known {
            self.peer_contact.insert(from.clone(), moment.now);
        }
        match frame {
            Frame::Raft(message) => {
                if !known {
                    self.heard_stranger(moment, &from);
                }
                self.step_raft(moment, raft::Input::Message { from, message });
            }
            Frame::Ping { seq } => {
                let frame = Frame::Pong { seq, version: Version::current() };
                self.effects.push(Effect::Send { to: from, frame });
            }
            // Its leader may be newer than what a node knows that was away.
            Frame::Snapshot(chunk) if known || self.raft.leader() == Some(&from) => {
                self.handle_snapshot_part(from, chunk);
            }
            _ if !known => self.heard_stranger(moment, &from),
            Frame::Snapshot(_) => {}
            Frame::NotMember { as_of } => self.told_not_member(as_of),
            // The driver keeps traces.
            Frame::Followed { .. } => {}
            Frame::WantState { base } => self.wanted_state(moment, &from, base),
            Frame::HearsNoLeader { as_of } => self.tell_bindings(from, as_of),
            Frame::Bound { as_of, incarnations } => self.told_bindings(as_of, incarnations),
            Frame::Pong { seq, version } => {
                let member = (&from).into();
                self.step_health(moment, health::Input::Answered { member, seq, version });
            }
            Frame::AskHelp { id, member } => {
                self.step_health(moment, health::Input::HelpAsked { from, id, member });
            }
            Frame::Word { id, alive } => self.step_health(moment, health::Input::Word { from, id, alive }),
            Frame::Forward { life, id, request } => {
                self.take_once(moment, from, (life, id), Want::Write(request));
            }
            Frame::Change { life, id, change } => {
                self.take_once(moment, from, (life, id), Want::Change(change));
            }
            Frame::Transfer { life, id, to } => {
                self.take_once(moment, from, (life, id), Want::Transfer(to));
            }
            Frame::ReadIndex { id } => self.take_forwarded(moment, from, id, Want::Read { lease: false }),
            Frame::ReadLease { id } => self.take_forwarded(moment, from, id, Want::Read { lease: true }),
            Frame::ForwardAnswer { id, result } => {
                self.forward_answered(moment, &from, id, Outcome::Write(result));
            }
            Frame::ReadIndexAnswer { id, result } => {
                self.forward_answered(moment, &from, id, Outcome::Read(result));
            }
            Frame::ChangeAnswer { id, result } => {
                self.forward_answered(moment, &from, id, Outcome::Change(result));
            }
            Frame::TransferAnswer { id, result } => {
                self.forward_answered(moment, &from, id, Outcome::Transfer(result));
            }
            Frame::SnapshotAck { transfer, next } => {
                if let Some(next) = self.outgoing.acknowledged(&from, transfer, next, moment.now) {
                    self.snapshot_next(moment, next);
                }
            }
        }
    }

    /// What must not be done twice: a second copy of the frame is dropped.
    fn take_once(&mut self, moment: Moment, node: NodeId, (life, id): (u64, u64), want: Want) {
        if self.heard.first_time(&node, life, id) {
            self.take_forwarded(moment, node, id, want);
        }
    }

    /// Another node asks what its clients asked it.
    fn take_forwarded(&mut self, moment: Moment, node: NodeId, id: u64, want: Want) {
        let patience = if matches!(want, Want::Change(_)) { CHANGE_FOR } else { PARKED_FOR };
        let request = self.requests.begin(Origin::Peer { node, id }, want, moment.now, patience);
        self.route(moment, request, false);
    }

    /// Sends a request where it belongs: to the core, to the leader, or back.
    pub(super) fn route(&mut self, moment: Moment, mut request: Started, forward: bool) {
        request.forward = forward;
        if self.requests.len() >= self.settings.bounds.requests_max {
            return self.finish(fail(request, Failure::Overloaded));
        }
        if self.membership.is_removed() {
            return self.finish(fail(request, Failure::Removed));
        }
        if let Some(term) = self.raft.leads() {
            // A cluster that is not founded yet can do nothing for anybody; it will be in a moment.
            let founding = self.facts.genesis.is_none() && request.origin != Origin::Duty;
            if founding && !matches!(request.want, Want::Read { .. }) {
                if let Some(finished) = self.requests.park(request, Failure::NoLeader, moment.now) {
                    self.finish(finished);
                }
                return;
            }
            if self.disk_full && matches!(request.want, Want::Write(_)) {
                let node = self.settings.id.clone();
                return self.finish(fail(request, Failure::DiskFull { node }));
            }
            let id = request.id;
            let input = match request.want {
                Want::Write(write) => {
                    let (command, write) = self.stamp(moment, term, write);
                    request.want = Want::Write(write);
                    raft::Input::Propose { request: id, command }
                }
                Want::Read { lease } => raft::Input::Read { request: id, lease },
                Want::Change(ref change) => raft::Input::Change { request: id, change: change.clone() },
                Want::Transfer(ref to) => raft::Input::Transfer { request: id, to: to.clone() },
            };
            self.requests.to_core(request);
            return self.step_raft(moment, input);
        }
        if !forward {
            let leader = self.raft.leader().cloned();
            return self.finish(fail(request, Failure::NotLeader { leader }));
        }
        match self.raft.leader().cloned() {
            Some(leader) => {
                let want = request.want.clone();
                request.after.get_or_insert(self.raft.commit_heard());
                let id = self.requests.to_peer(request, leader.clone());
                let life = self.requests.life();
                let frame = match want {
                    Want::Write(request) => Frame::Forward { life, id, request },
                    Want::Read { lease: false } => Frame::ReadIndex { id },
                    Want::Read { lease: true } => Frame::ReadLease { id },
                    Want::Change(change) => Frame::Change { life, id, change },
                    Want::Transfer(to) => Frame::Transfer { life, id, to },
                };
                self.effects.push(Effect::Send { to: leader, frame });
            }
            None => {
                if let Some(finished) = self.requests.park(request, Failure::NoLeader, moment.now) {
                    self.finish(finished);
                }
            }
        }
    }

    /// The bytes of a request as it goes into the log, and the request.
    fn stamp(&self, moment: Moment, term: Term, request: Request) -> (Bytes, Request) {
        let envelope = Envelope { at: moment.wall, term, leader: self.settings.id.clone(), request };
        (Bytes::from(codec::encode(&envelope)), envelope.request)
    }

    fn forward_answered(&mut self, moment: Moment, from: &NodeId, id: u64, outcome: Outcome) {
        match self.requests.forward_answered(from, id, outcome, self.applied.index) {
            Ok(finished) => finished.into_iter().for_each(|finished| self.finish(finished)),
            // It has not happened. The next leader may be known already, or it waits for one: but not by asking the
            // same node again and again.
            Err(request) => {
                if self.raft.leader() == Some(from) {
                    if let Some(finished) = self.requests.park(*request, Failure::NoLeader, moment.now) {
                        self.finish(finished);
                    }
                } else {
                    self.route(moment, *request, true);
                }
            }
        }
    }

    pub(super) fn finish(&mut self, finished: Finished) {
        let Finished { origin, outcome } = finished;
        match origin {
            Origin::Duty => {}
            Origin::Ask(ask) => self.effects.push(Effect::Reply { ask, outcome }),
            Origin::Peer { node, id } => {
                let frame = match outcome {
                    Outcome::Write(result) => Frame::ForwardAnswer { id, result },
                    Outcome::Read(result) => Frame::ReadIndexAnswer { id, result },
                    Outcome::Change(result) => Frame::ChangeAnswer { id, result },
                    Outcome::Transfer(result) => Frame::TransferAnswer { id, result },
                };
                self.effects.push(Effect::Send { to: node, frame });
            }
        }
    }

    pub(super) fn step_raft(&mut self, moment: Moment, input: raft::Input) {
        self.raft.step(moment.now, moment.entropy, input);
    }

    /// Carries out what the core wants. Refused requests go another way, which may put new work into the core.
    pub(super) fn run_raft(&mut self, moment: Moment) {
        for effect in self.raft.take_effects(moment.now) {
            match effect {
                raft::Effect::Persist(persist) => self.effects.push(Effect::Persist(persist)),
                raft::Effect::Send { to, message } => {
                    self.effects.push(Effect::Send { to, frame: Frame::Raft(message) });
                }
                raft::Effect::Apply { entries } => self.effects.push(Effect::Apply(entries)),
                raft::Effect::Proposed { request, index, term } => self.requests.placed(request, index, term),
                raft::Effect::ReadReady { request, index } => {
                    if let Some(finished) = self.requests.readable(request, index, self.applied.index) {
                        self.finish(finished);
                    }
                }
                raft::Effect::Refused { request, refusal } => self.refused(moment, request, refusal),
                raft::Effect::Transferring { request, .. } => self.requests.transferring(request),
                raft::Effect::SendSnapshot { to } => match self.needs.ask(&to, moment.now) {
                    None => self.send_snapshot(moment, &to),
                    Some(pause) => {
                        self.effects.push(Effect::Tell(Notice::FallsBehind { node: to, pause }));
                    }
                },
                raft::Effect::Event(event) => self.handle_raft_event(event),
            }
        }
    }

    pub(super) fn send_snapshot(&mut self, moment: Moment, to: &NodeId) {
        let configuration = self.raft.configuration().clone();
        let (part, replaced) = self.outgoing.begin(to, configuration, moment.entropy, moment.now);
        if let Some(transfer) = replaced {
            self.effects.push(Effect::CloseExport { transfer });
        }
        self.effects.push(Effect::Export(part));
    }

    /// The core did not take a request: it waits for what would make it be taken, or fails.
    fn refused(&mut self, moment: Moment, request: raft::RequestId, refusal: Refusal) {
        let Some(request) = self.requests.refused(request) else { return };
        let (waits, failure) = match refusal {
            Refusal::Overloaded => (false, Failure::Overloaded),
            Refusal::NotLeader { leader } => {
                let asked_here = matches!(request.origin, Origin::Ask(_) | Origin::Duty);
                let waits = asked_here && request.forward;
                (waits, if waits { Failure::NoLeader } else { Failure::NotLeader { leader } })
            }
            // Whoever leads in a moment will take it; or this node, if it leads on.
            Refusal::Transferring { .. } | Refusal::NoCommitInTerm => (true, Failure::NoLeader),
            Refusal::ChangePending => (true, Failure::ChangePending),
            Refusal::InvalidChange(error) => (false, Failure::Change(error)),
            Refusal::NoTarget => (false, Failure::NoTarget),
        };
        let finished = if waits {
            self.requests.park(request, failure, moment.now)
        } else {
            Some(fail(request, failure))
        };
        finished.into_iter().for_each(|finished| self.finish(finished));
    }

    fn handle_raft_event(&mut self, event: raft::Event) {
        match &event {
            raft::Event::TransferAborted { to } => {
                self.unpark = true;
                for finished in self.requests.transfer_aborted(to) {
                    self.finish(finished);
                }
            }
            raft::Event::BecameLeader { term, reason, votes, previous, leaderless } => self.duties.won(Won {
                term: *term,
                previous: previous.clone(),
                reason: reason.as_str(),
                votes: votes.clone(),
                leaderless: *leaderless,
            }),
            raft::Event::SteppedDown { .. } => {
                self.duties.lost();
                self.needs.clear();
                for transfer in self.outgoing.abandon() {
                    self.effects.push(Effect::CloseExport { transfer });
                }
            }
            _ => {}
        }
        self.effects.push(Effect::Tell(Notice::Raft(event)));
    }

    /// Notices a new leader (or none) and moves waiting requests; true if any moved.
    pub(super) fn notice_leader(&mut self, moment: Moment) -> bool {
        let term = self.raft.term();
        let leader = self.raft.leader().cloned().map(|leader| (term, leader));
        let mut again = Vec::new();
        if leader != self.known_leader {
            let (finished, orphans) =
                self.requests.leader_changed(leader.as_ref().map(|(_, leader)| leader), term, moment.now);
            finished.into_iter().for_each(|finished| self.finish(finished));
            // It may have been completed before its leader was lost.
            let committed = [(self.applied.index, self.membership.committed.clone())];
            for finished in self.requests.changes_completed(&committed) {
                self.finish(finished);
            }
            again.extend(orphans);
            if leader.is_some() {
                again.extend(self.requests.unpark());
            }
            self.known_leader = leader;
        }
        let moved = !again.is_empty();
        for request in again {
            let forward = request.forward;
            self.route(moment, request, forward);
        }
        moved
    }

    pub(super) fn peer_silent(&mut self, moment: Moment, node: NodeId, reason: ElectionReason) {
        self.step_raft(moment, raft::Input::PeerSilent { node, reason });
    }

    pub(super) fn step_health(&mut self, moment: Moment, input: health::Input) {
        for effect in self.health.step(moment.now, input) {
            match effect {
                health::Effect::Ping { member, target, seq } => match target {
                    Target::Node(to) => {
                        self.ask_about_leader(&to);
                        self.effects.push(Effect::Send { to, frame: Frame::Ping { seq } });
                    }
                    Target::Agent { address, key } => {
                        self.effects.push(Effect::Ping { member, address, key, seq });
                    }
                },
                health::Effect::Judged { outcome, .. } => {
                    self.effects.push(Effect::Tell(Notice::Pinged(outcome)));
                }
                health::Effect::Edge { member, from, to, misses } => {
                    let leader = self.raft.leader().cloned();
                    // The ping task's part of leader replacement: whoever is silent, if it leads, an election starts.
                    if to != Level::Up
                        && let Some(leader) = leader
                        && leader.as_str() == member.as_str()
                    {
                        self.peer_silent(moment, leader, ElectionReason::PingsSilent);
                    }
                    self.effects.push(Effect::Tell(Notice::Level { member, from, to, misses }));
                }
                health::Effect::AskHelp { helper, id, member } => {
                    self.effects.push(Effect::Send { to: helper, frame: Frame::AskHelp { id, member } });
                }
                health::Effect::Word { to, id, alive } => {
                    self.effects.push(Effect::Send { to, frame: Frame::Word { id, alive } });
                }
                // What was seen before the first interval concerns no interval.
                health::Effect::Report(frozen) if frozen.interval.0 == 0 => {}
                health::Effect::Report(frozen) => {
                    self.duties.report(report::parts(&self.settings.id, frozen));
                }
            }
        }
    }

    pub(super) fn do_duties(&mut self, moment: Moment) {
        if self.membership.is_removed() || self.ask_for_state_at.is_some() {
            return;
        }
        self.correct_own_address(moment);
        let leading = self.leading();
        for command in self.duties.due(&self.facts, leading, moment.now) {
            let want = Want::Write(Request::new(command));
            let request = self.requests.begin(Origin::Duty, want, moment.now, PARKED_FOR);
            self.route(moment, request, true);
        }
    }

    pub(super) fn handle_applied(&mut self, moment: Moment, batch: AppliedBatch) {
        assert!(batch.upto.index > self.applied.index, "the applied index only moves forward");
        let led = self.leading().is_some();
        self.applied = batch.upto;
        // A leader that has committed in its term takes changes; one that has completed a change takes the next.
        self.unpark |= !batch.configurations.is_empty() || (!led && self.leading().is_some());
        if let Some((_, configuration)) = batch.configurations.last() {
            self.membership.committed = configuration.clone();
            self.duties.follow(&self.membership.committed, &self.members);
        }
        self.incoming.forget_up_to(self.applied.index);
        for happening in batch.happenings {
            match &happening {
                // The first interval opens here: what health counts from now on belongs to it as a whole.
                Happening::GenesisDone { .. } => {
                    self.step_health(moment, health::Input::Cut { interval: IntervalId(0) });
                }
                Happening::IntervalCut { interval, .. } => {
                    self.step_health(moment, health::Input::Cut { interval: *interval });
                }
                Happening::IntervalSettled { .. } => self.duties.settled(),
                _ => {}
            }
            self.effects.push(Effect::Tell(Notice::Ledger(happening)));
        }
        let unfounded = self.facts.genesis.is_none();
        if let Some(facts) = batch.facts {
            self.take_facts(facts, moment);
        }
        let founded = unfounded && self.facts.genesis.is_some();
        if founded {
            for request in self.requests.unpark() {
                let forward = request.forward;
                self.route(moment, request, forward);
            }
        }
        let (finished, waits) =
            self.requests.applied(self.applied.index, &batch.answers, &batch.configurations, moment.now);
        finished.into_iter().for_each(|finished| self.finish(finished));
        for wait in waits {
            self.effects.push(Effect::Tell(Notice::Committed(wait)));
        }
    }

    /// The replicated state has changed.
    pub(super) fn take_facts(&mut self, facts: Facts, moment: Moment) {
        if let Some(members) = &facts.members {
            self.members = Arc::clone(members);
            if let Some(keys) = &facts.keys {
                self.agent_keys = Arc::clone(keys);
            }
            self.duties.follow(&self.membership.committed, &self.members);
            if !self.membership.is_removed() {
                self.observe_members(moment);
            }
        }
        if facts.policy != self.facts.policy || facts.genesis != self.facts.genesis {
            let timing = health::Input::Timing {
                ping_every: std::time::Duration::from_millis(facts.policy.ping_ms),
                ping_timeout: std::time::Duration::from_millis(facts.policy.ping_timeout_ms),
            };
            self.step_health(moment, timing);
        }
        self.facts = facts;
        self.duties.observe(&self.facts, &self.settings.id, moment.now, moment.wall);
    }

    /// Everybody but this node is pinged, and who is an agent without a key: it was added and has not come yet, and nobody
    /// could prove to be it.
    pub(super) fn observe_members(&mut self, moment: Moment) {
        let me = self.settings.id.as_str();
        let others = self.members.iter().filter(|member| member.id.as_str() != me);
        let targets = others.filter_map(|member| {
            let target = match member.kind {
                MemberKind::Agent => {
                    let key = *self.agent_keys.get(&member.id)?;
                    Target::Agent { address: member.address.as_str().into(), key }
                }
                MemberKind::Node => Target::Node(member.id.as_str().parse().ok()?),
            };
            Some((member.id.clone(), target))
        });
        let targets = targets.collect();
        self.step_health(moment, health::Input::Members(targets));
    }

    pub(super) fn handle_flushed(&mut self, moment: Moment, index: Index) {
        let (entries_max, bytes_max) = (self.settings.keep_entries, self.settings.keep_bytes);
        if let Some(upto) = self.raft.superfluous(self.compact_asked, index, entries_max, bytes_max) {
            self.compact_asked = upto;
            self.step_raft(moment, raft::Input::Compact { index: upto });
        }
    }

    pub(super) fn snapshot_next(&mut self, moment: Moment, next: Next) {
        match next {
            Next::Part(part) => self.effects.push(Effect::Export(part)),
            Next::Over { to, transfer, base } => {
                self.effects.push(Effect::CloseExport { transfer });
                let complete = base.is_some();
                self.effects.push(Effect::Tell(Notice::SnapshotSent { to: to.clone(), complete }));
                let index = base.map(|base| base.index);
                self.step_raft(moment, raft::Input::SnapshotSent { to, index });
            }
        }
    }

    pub(super) fn handle_exported(
        &mut self,
        moment: Moment,
        to: NodeId,
        transfer: u64,
        chunk: Option<Box<SnapshotChunk>>,
    ) {
        match chunk {
            Some(chunk) => {
                self.outgoing.sent(&to, &chunk, moment.now);
                self.effects.push(Effect::Send { to, frame: Frame::Snapshot(*chunk) });
            }
            None => {
                if let Some(over) = self.outgoing.lost(&to, transfer) {
                    self.snapshot_next(moment, over);
                }
            }
        }
    }

    fn handle_snapshot_part(&mut self, from: NodeId, chunk: SnapshotChunk) {
        let transfer = chunk.transfer;
        if self.installing {
            return;
        }
        if chunk.base.index <= self.applied.index {
            let frame = Frame::SnapshotAck { transfer, next: NOTHING_MORE };
            self.effects.push(Effect::Send { to: from, frame });
            return;
        }
        // A state that lies before the log cannot be brought up by it.
        if chunk.base.index < self.raft.base().index {
            return;
        }
        match self.incoming.take(&from, chunk) {
            Taken::Ack { next } => {
                self.effects.push(Effect::Send { to: from, frame: Frame::SnapshotAck { transfer, next } });
            }
            Taken::Part(received) => {
                self.installing = true;
                self.effects.push(Effect::Install(received));
            }
            Taken::Dropped => {}
        }
    }

    pub(super) fn handle_installed(&mut self, moment: Moment, snapshot: Received, intake: Intake) {
        self.installing = false;
        let facts = match intake {
            Intake::Replaced(facts) => facts,
            Intake::Kept => {
                let frame = Frame::SnapshotAck { transfer: snapshot.transfer, next: snapshot.parts };
                return self.effects.push(Effect::Send { to: snapshot.from, frame });
            }
            Intake::Refused => return self.incoming.forget(),
        };
        self.applied = snapshot.base;
        self.membership.committed = snapshot.configuration.clone();
        self.unpark = true;
        // While the snapshot was being installed, another leader may have sent the entries that it covers, and they
        // were handed out to be applied after it. Then the log has more than the snapshot, and keeps it.
        if snapshot.base.index >= self.raft.status().applied {
            let installed = raft::Input::SnapshotInstalled {
                base: snapshot.base,
                configuration: snapshot.configuration.clone(),
            };
            self.step_raft(moment, installed);
        }
        self.take_facts(*facts, moment);
        let covered = [(snapshot.base.index, snapshot.configuration)];
        let (finished, _) =
            self.requests.applied(self.applied.index, &Default::default(), &covered, moment.now);
        finished.into_iter().for_each(|finished| self.finish(finished));
        let frame = Frame::SnapshotAck { transfer: snapshot.transfer, next: snapshot.parts };
        self.effects.push(Effect::Send { to: snapshot.from.clone(), frame });
        let (from, index) = (snapshot.from, snapshot.base.index);
        if self.ask_for_state_at.take().is_some() {
            self.effects.push(Effect::Tell(Notice::StateMended { from: from.clone(), index }));
        }
        self.effects.push(Effect::Tell(Notice::SnapshotInstalled { from, index }));
    }
}
