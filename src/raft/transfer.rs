//! Handing leadership over (Raft dissertation, section 3.10): on request, and by itself when this node would rather not
//! lead, or had better not.
//!
//! The leader takes no more proposals, lets the target catch up, and asks it to stand at once. The target asks nobody
//! whether it would be elected; its vote requests say that the leader itself sent them, so that those who
//! hear the leader grant them all the same. If the target does not take over within the longest election
//! timeout, the leader goes on.

use crate::types::{Micros, NodeId};

use super::candidate::Candidate;
use super::core::Node;
use super::follower::Follower;
use super::leader::Leader;
use super::message::{Effect, ElectionReason, Event, Refusal, RequestId};
use super::state::State;
use super::wire::Body;

/// After a transfer that failed, a leader that would rather not lead waits for so many longest election timeouts
/// before it tries again.
const RETRY_TIMEOUTS: u32 = 10;

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub to: NodeId,
    /// When it is given up.
    deadline: Micros,
    /// When the target was last asked to stand; it is asked again every heartbeat interval, since messages get lost.
    asked_at: Option<Micros>,
}

impl Node<Leader> {
    /// Whether `node` could take over: a voter of the configuration to come, and heard of late.
    fn may_take_over(&self, node: &NodeId) -> bool {
        self.core.log.configuration().voters.contains(node) && self.in_contact(node)
    }

    /// The best successor: of those who are fit, the one with the longest log; between equals the greatest name.
    fn successor(&self) -> Option<NodeId> {
        let fit = self.role.peers.iter().filter(|(id, peer)| peer.fit && self.may_take_over(id));
        fit.max_by_key(|(id, peer)| (peer.matched, *id)).map(|(id, _)| id.clone())
    }

    pub fn transfer(&mut self, request: RequestId, to: Option<NodeId>) {
        let refusal = match (&self.role.transfer, to) {
            (Some(transfer), _) => Refusal::Transferring { to: transfer.to.clone() },
            (None, Some(to)) if self.may_take_over(&to) => return self.start_transfer(Some(request), to),
            (None, Some(_)) => Refusal::NoTarget,
            (None, None) => match self.successor() {
                Some(to) => return self.start_transfer(Some(request), to),
                None => Refusal::NoTarget,
            },
        };
        self.core.outbox.push(Effect::Refused { request, refusal });
    }

    /// The lease ends before anybody is told to take over (hazard 21).
    fn start_transfer(&mut self, request: Option<RequestId>, to: NodeId) {
        let core = &mut self.core;
        self.role.lease.void();
        let deadline = core.now.after(core.config.election_max);
        self.role.transfer = Some(Transfer { to: to.clone(), deadline, asked_at: None });
        if let Some(request) = request {
            core.outbox.push(Effect::Transferring { request, to: to.clone() });
        }
        core.outbox.event(Event::TransferStarted { to });
    }

    /// When the transfer needs attention.
    pub fn transfer_deadline(&self) -> Micros {
        self.role.transfer.as_ref().map_or(Micros(u64::MAX), |transfer| transfer.deadline)
    }

    /// Gives a transfer up that takes too long.
    pub fn give_up_transfer(&mut self) {
        let now = self.core.now;
        let Some(transfer) = self.role.transfer.take_if(|transfer| transfer.deadline <= now) else { return };
        self.role.lease.void();
        self.role.next_hand_over = now.after(self.core.config.election_max * RETRY_TIMEOUTS);
        self.core.outbox.event(Event::TransferAborted { to: transfer.to });
        self.settle_configuration();
    }

    /// A leader that prefers not to lead, or whose disk is too slow, hands over as soon as somebody fit can take over.
    /// Those who prefer not to lead call themselves unfit, so that among such leadership stays where it is.
    pub fn consider_handing_over(&mut self) {
        let core = &self.core;
        let degraded = core.disk.degraded() || core.disk_full;
        if !(degraded || core.config.reluctant)
            || self.role.transfer.is_some()
            || core.now < self.role.next_hand_over
            || core.commit < self.role.first
        {
            return;
        }
        let Some(to) = self.successor() else { return };
        // Preference alone is no reason to keep everybody waiting.
        let ready = self.role.peers.get(&to).is_some_and(|peer| peer.caught_up_since.is_some());
        if degraded || ready {
            self.start_transfer(None, to);
        }
    }

    /// Asks the target to stand, once it holds all that this log holds.
    pub fn advance_transfer(&mut self) {
        let (now, last) = (self.core.now, self.core.log.last().index);
        let heartbeat = self.core.config.heartbeat;
        let Some(transfer) = &mut self.role.transfer else { return };
        let caught_up = self.role.peers.get(&transfer.to).is_some_and(|peer| peer.matched >= last);
        if !caught_up || transfer.asked_at.is_some_and(|asked_at| now < asked_at.after(heartbeat)) {
            return;
        }
        transfer.asked_at = Some(now);
        let to = transfer.to.clone();
        self.ask_to_stand(&to);
    }

    fn ask_to_stand(&mut self, to: &NodeId) {
        let round = self.role.round;
        self.role.lease.suspect(to, round);
        self.core.send(to, Body::TimeoutNow { round });
    }

    /// What a leader that is no voter any more does before it leaves: the voter with the longest log takes over, so that
    /// nobody has to wait for a timeout (paper, section 6). Everything appended so far goes out first.
    pub fn bequeath(&mut self) {
        self.send_entries();
        let heirs = self.role.peers.iter().filter(|(id, _)| self.may_take_over(id));
        let heir = heirs.max_by_key(|(id, peer)| (peer.matched, peer.fit, *id)).map(|(id, _)| id.clone());
        if let Some(heir) = heir {
            self.ask_to_stand(&heir);
        }
    }
}

impl Node<Follower> {
    /// The leader asks this node to stand. It does, at once and without asking first, unless the word is an old one (it
    /// has heard a newer round since), is not the leader's, or this node does not know yet that it may vote (hazard
    /// 31): then nothing happens.
    pub fn timeout_now(self, from: &NodeId, round: u64) -> State {
        let core = &self.core;
        let leads = core.announced.as_ref().is_some_and(|(term, node)| *term == core.term() && node == from);
        if leads && round >= self.core.round && core.is_voter() && core.is_able_to_lead() {
            State::Candidate(Candidate::start(self.core, ElectionReason::Transfer, true))
        } else {
            State::Follower(self)
        }
    }
}
