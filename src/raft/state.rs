//! The role of the moment, and what an input means to it.

use std::cmp::Ordering;

use crate::types::{Micros, NodeId};

use super::candidate::{Candidate, PreCandidate};
use super::core::{Core, Node};
use super::follower::Follower;
use super::leader::Leader;
use super::message::{Effect, Input, Refusal, StepDown};
use super::wire::{Body, Message};

/// A node in one of its roles.
#[derive(Debug)]
pub(super) enum State {
    Follower(Node<Follower>),
    PreCandidate(Node<PreCandidate>),
    Candidate(Node<Candidate>),
    Leader(Node<Leader>),
}

impl State {
    pub fn core(&self) -> &Core {
        match self {
            State::Follower(node) => &node.core,
            State::PreCandidate(node) => &node.core,
            State::Candidate(node) => &node.core,
            State::Leader(node) => &node.core,
        }
    }

    pub fn core_mut(&mut self) -> &mut Core {
        match self {
            State::Follower(node) => &mut node.core,
            State::PreCandidate(node) => &mut node.core,
            State::Candidate(node) => &mut node.core,
            State::Leader(node) => &mut node.core,
        }
    }

    pub fn leader(&self) -> Option<&NodeId> {
        match self {
            State::Follower(node) => node.role.leader.as_ref(),
            State::Leader(node) => Some(node.core.id()),
            State::PreCandidate(_) | State::Candidate(_) => None,
        }
    }

    pub fn deadline(&self) -> Micros {
        let role = match self {
            State::Follower(node) => node.deadline(),
            State::PreCandidate(node) => node.deadline(),
            State::Candidate(node) => node.deadline(),
            State::Leader(node) => node.deadline(),
        };
        role.min(self.core().disk.deadline())
    }

    pub fn step(mut self, input: Input) -> State {
        match input {
            Input::Tick => match self {
                State::Follower(node) => return node.tick(),
                State::PreCandidate(node) => return node.tick(),
                State::Candidate(node) => return node.tick(),
                State::Leader(node) => return node.tick(),
            },
            Input::Message { from, message } => return self.receive(&from, message),
            Input::Persisted { seq } => {
                self.core_mut().written(seq);
                match self {
                    State::Candidate(node) => return node.written(),
                    State::Leader(node) => return node.maybe_commit(),
                    State::Follower(_) | State::PreCandidate(_) => {}
                }
            }
            Input::Propose { request, command } => match &mut self {
                State::Leader(node) => node.propose(request, command),
                _ => self.refuse(request),
            },
            Input::Read { request, lease } => match &mut self {
                State::Leader(node) => node.read(request, lease),
                _ => self.refuse(request),
            },
            Input::Change { request, change } => match &mut self {
                State::Leader(node) => node.change(request, &change),
                _ => self.refuse(request),
            },
            Input::Transfer { request, to } => match &mut self {
                State::Leader(node) => node.transfer(request, to),
                _ => self.refuse(request),
            },
            Input::DiskRoom { full } => self.core_mut().disk_full = full,
            // Taken in already.
            Input::Stalled { .. } => {}
            Input::PeerSilent { node: peer, reason } => {
                if let State::Follower(node) = &mut self {
                    node.peer_silent(&peer, reason);
                }
            }
            Input::Compact { index } => match &mut self {
                State::Leader(node) => node.compact(index),
                _ => self.core_mut().compact(index),
            },
            // The state tells of a term that no message told of: its sender was a leader no more when it sent it.
            Input::SnapshotInstalled { base, configuration } if base.term > self.core().term() => {
                let mut node = self.into_follower(StepDown::HigherTerm);
                node.core.set_term(base.term);
                node.role = Follower::new(&node.core);
                node.snapshot_installed(base, configuration);
                return State::Follower(node);
            }
            Input::SnapshotInstalled { base, configuration } => match &mut self {
                State::Follower(node) => node.snapshot_installed(base, configuration),
                State::PreCandidate(_) | State::Candidate(_) => {
                    self.core_mut().install_snapshot(base, configuration);
                    // It may tell that this node votes no more.
                    if !self.core().may_stand() {
                        return State::Follower(self.into_follower(StepDown::Removed));
                    }
                }
                State::Leader(node) => node.snapshot_installed(base, configuration),
            },
            Input::SnapshotSent { to, index } => {
                if let State::Leader(node) = &mut self {
                    node.snapshot_ended(&to, index);
                }
            }
        }
        self
    }

    fn refuse(&mut self, request: u64) {
        let refusal = Refusal::NotLeader { leader: self.leader().cloned() };
        self.core_mut().outbox.push(Effect::Refused { request, refusal });
    }

    /// The gateway and the rules about terms that hold in every role (Raft paper, section 5.1).
    fn receive(mut self, from: &NodeId, message: Message) -> State {
        if let State::Leader(node) = &mut self
            && node.role.farewells.contains_key(from)
        {
            // It is no member: its answers tell how far it has come, but its term is nobody's concern.
            if message.term > node.core.term() {
                node.forget_stranger(from);
            } else if message.is_well_formed() && message.term == node.core.term() {
                return self.handle(from, message);
            }
        }
        if !self.core().admits(from, &message) {
            self.core_mut().dropped += 1;
            return self;
        }
        if let (State::Leader(node), Body::PreVoteRequest { .. } | Body::VoteRequest { .. }) =
            (&mut self, &message.body)
            && message.term <= node.core.term()
        {
            node.hear_stranger(from);
        }
        match (message.term.cmp(&self.core().term()), &message.body) {
            // Named by its attempt: who grants may well be behind in its term.
            (Ordering::Less, Body::PreVoteResponse { .. }) => self.handle(from, message),
            (Ordering::Less, body) => {
                self.core_mut().answer_older_term(from, body);
                self
            }
            // Changes no state, and so no term either.
            (Ordering::Greater, Body::PreVoteRequest { .. }) => self.handle(from, message),
            // A leader that is heard is not deposed by somebody who does not hear it (Raft dissertation, 4.2.3).
            // Unless it asked for that itself.
            (_, Body::VoteRequest { transfer: false, .. }) if self.is_loyal() => self,
            (Ordering::Equal, _) => self.handle(from, message),
            (Ordering::Greater, _) => {
                let reason = self.end_of_leadership(from, &message.body);
                let mut node = self.into_follower(reason);
                node.core.set_term(message.term);
                node.role = Follower::new(&node.core);
                node.handle(from, message)
            }
        }
    }

    fn is_loyal(&self) -> bool {
        let core = self.core();
        core.has_promised()
            || core.config.check_quorum && (matches!(self, State::Leader(_)) || core.hears_leader())
    }

    /// Why a leader that gets a message of a newer term stops leading.
    fn end_of_leadership(&self, from: &NodeId, body: &Body) -> StepDown {
        match self {
            State::Leader(node) if node.hands_over_to(from) => StepDown::Transferred,
            State::Leader(node)
                if node.role.lease.suspects(from)
                    && matches!(body, Body::VoteRequest { transfer: true, .. }) =>
            {
                StepDown::Transferred
            }
            _ => StepDown::HigherTerm,
        }
    }

    fn handle(self, from: &NodeId, message: Message) -> State {
        match self {
            State::Follower(node) => node.handle(from, message),
            State::PreCandidate(node) => node.handle(from, message),
            State::Candidate(node) => node.handle(from, message),
            State::Leader(node) => node.handle(from, message),
        }
    }

    /// A newer term has begun, or this node must not stand any more; `reason` is what a leader tells about its end.
    fn into_follower(self, reason: StepDown) -> Node<Follower> {
        match self {
            State::Follower(node) => node,
            State::PreCandidate(node) => node.into_follower(),
            State::Candidate(node) => node.into_follower(),
            State::Leader(node) => node.step_down(reason),
        }
    }

    /// Ends the batch.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        match self {
            State::Follower(node) => node.flush(),
            State::Leader(node) => node.flush(),
            State::PreCandidate(_) | State::Candidate(_) => {}
        }
        self.core_mut().finish_batch()
    }
}
