//! The two ways of asking for votes: the harmless question, and the election.

use std::collections::BTreeMap;

use crate::types::{Micros, NodeId};

use super::core::{Core, Node};
use super::follower::Follower;
use super::message::{ElectionReason, Event};
use super::quorum::VoteResult;
use super::state::State;
use super::wire::{Body, Message, Position};

/// Asks whether it would be elected (Raft dissertation, section 9.6). Its term is still the old one.
#[derive(Debug)]
pub(super) struct PreCandidate {
    attempt: u64,
    votes: BTreeMap<NodeId, bool>,
    reason: ElectionReason,
    /// When it gives up and waits as a follower again.
    deadline: Micros,
    /// When it asks those again who have not granted.
    resend_at: Micros,
    /// How often it has done so.
    repeats: u32,
}

/// Stands for election in its term (Raft paper, section 5.2).
#[derive(Debug)]
pub(super) struct Candidate {
    /// Its own vote is among them only once it is durable (hazard 5).
    votes: BTreeMap<NodeId, bool>,
    reason: ElectionReason,
    /// Whether the leader asked it to stand.
    transfer: bool,
    /// When it gives up and asks first again.
    deadline: Micros,
    /// When it asks those again who have not answered.
    resend_at: Micros,
    /// How often it has done so.
    repeats: u32,
}

impl Core {
    /// Whether this node, standing itself, makes way for a rival: for the one with the better log, and between equals the
    /// one with the greater name. Of all who stand at the same moment one has nobody to make way for, and collects
    /// everybody's word, where otherwise the votes would split.
    fn makes_way_for(&self, rival: &NodeId, last: Position) -> bool {
        let own = self.log.last();
        (last.term, last.index, rival) > (own.term, own.index, self.id())
    }
}

impl PreCandidate {
    pub fn start(mut core: Box<Core>, reason: ElectionReason) -> State {
        core.attempts += 1;
        core.leader_contact = None;
        let attempt = core.attempts;
        core.outbox.event(Event::ElectionStarted { term: core.term().next(), pre_vote: true, reason });
        let role = PreCandidate {
            attempt,
            votes: BTreeMap::from([(core.id().clone(), true)]),
            reason,
            deadline: core.now.after(core.config.election_min),
            resend_at: core.now.after(core.config.question_repeats_after(0)),
            repeats: 0,
        };
        let mut node = Node { core, role };
        node.request_pre_votes();
        State::PreCandidate(node)
    }
}

impl Node<PreCandidate> {
    pub fn deadline(&self) -> Micros {
        self.role.deadline.min(self.role.resend_at)
    }

    fn question(&self) -> Body {
        Body::PreVoteRequest { attempt: self.role.attempt, last: self.core.log.last() }
    }

    fn request_pre_votes(&mut self) {
        let question = self.question();
        let votes = &self.role.votes;
        self.core.send_to_voters(&question, |voter| votes.get(voter) != Some(&true));
    }

    pub fn tick(mut self) -> State {
        let now = self.core.now;
        if now >= self.role.deadline {
            return State::Follower(self.into_follower());
        }
        if now >= self.role.resend_at {
            self.role.repeats += 1;
            self.role.resend_at = now.after(self.core.config.question_repeats_after(self.role.repeats));
            self.request_pre_votes();
        }
        State::PreCandidate(self)
    }

    /// Waits like any follower.
    pub fn into_follower(self) -> Node<Follower> {
        let role = Follower::new(&self.core);
        Node { core: self.core, role }
    }

    pub fn handle(mut self, from: &NodeId, message: Message) -> State {
        match message.body {
            Body::AppendRequest { .. } | Body::Heartbeat { .. } => {
                return self.into_follower().handle(from, message);
            }
            Body::PreVoteRequest { attempt, last } => {
                let willing = self.core.makes_way_for(from, last);
                let granted = self.core.handle_pre_vote_request(from, message.term, attempt, last, willing);
                // The rival stands, so it hears no leader either: what it may have refused before, it will grant now.
                if !granted && self.role.votes.get(from) != Some(&true) {
                    let question = self.question();
                    self.core.send(from, question);
                }
            }
            Body::VoteRequest { last, .. } => {
                if self.core.handle_request_vote(from, last) {
                    return State::Follower(self.into_follower());
                }
            }
            Body::PreVoteResponse { attempt, granted } => {
                return self.handle_pre_vote_response(from, attempt, granted);
            }
            Body::VoteResponse { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatResponse { .. }
            | Body::TimeoutNow { .. }
            | Body::NewerTerm => {}
        }
        State::PreCandidate(self)
    }

    fn handle_pre_vote_response(mut self, from: &NodeId, attempt: u64, granted: bool) -> State {
        if attempt != self.role.attempt {
            return State::PreCandidate(self);
        }
        *self.role.votes.entry(from.clone()).or_insert(granted) |= granted;
        match self.core.log.configuration().vote_result(&self.role.votes) {
            VoteResult::Won => State::Candidate(Candidate::start(self.core, self.role.reason, false)),
            VoteResult::Lost => State::Follower(self.into_follower()),
            VoteResult::Pending => State::PreCandidate(self),
        }
    }
}

impl Candidate {
    /// Stands in the next term. `transfer`: the leader of the present one asked for it.
    pub fn start(mut core: Box<Core>, reason: ElectionReason, transfer: bool) -> Node<Candidate> {
        core.set_term(core.term().next());
        core.cast_vote(core.id().clone());
        core.outbox.event(Event::ElectionStarted { term: core.term(), pre_vote: false, reason });
        let role = Candidate {
            votes: BTreeMap::new(),
            reason,
            transfer,
            deadline: core.now.after(core.draw_candidacy()),
            resend_at: core.now.after(core.config.question_repeats_after(0)),
            repeats: 0,
        };
        let mut node = Node { core, role };
        node.request_votes();
        node
    }
}

impl Node<Candidate> {
    pub fn deadline(&self) -> Micros {
        self.role.deadline.min(self.role.resend_at)
    }

    fn request_votes(&mut self) {
        let question = Body::VoteRequest { last: self.core.log.last(), transfer: self.role.transfer };
        let votes = &self.role.votes;
        self.core.send_to_voters(&question, |voter| !votes.contains_key(voter));
    }

    pub fn tick(mut self) -> State {
        let now = self.core.now;
        if now >= self.role.deadline {
            let reason = self.role.reason;
            return self.into_follower().start_election(reason);
        }
        if now >= self.role.resend_at {
            self.role.repeats += 1;
            self.role.resend_at = now.after(self.core.config.question_repeats_after(self.role.repeats));
            // While the first question still waits for the disk there is nothing to repeat.
            if self.core.outbox.hard_state_is_durable() {
                self.request_votes();
            }
        }
        State::Candidate(self)
    }

    /// Gives up within the term; its vote stays given (hazard 4).
    pub fn into_follower(mut self) -> Node<Follower> {
        let (term, reason) = (self.core.term(), self.role.reason);
        self.core.outbox.event(Event::ElectionLost { term, reason });
        let role = Follower::new(&self.core);
        Node { core: self.core, role }
    }

    /// Its own vote counts from when it is durable.
    pub fn written(mut self) -> State {
        if !self.core.outbox.hard_state_is_durable() {
            return State::Candidate(self);
        }
        self.role.votes.insert(self.core.id().clone(), true);
        self.count_votes()
    }

    fn count_votes(self) -> State {
        match self.core.log.configuration().vote_result(&self.role.votes) {
            VoteResult::Won => {
                let votes = self.role.votes.iter().filter(|(_, granted)| **granted);
                let votes = votes.map(|(voter, _)| voter.clone()).collect();
                let reason = self.role.reason;
                State::Leader(self.become_leader(reason, votes))
            }
            // Whoever won will be heard before the deadline; if nobody did, asking at once again would only repeat it.
            VoteResult::Lost | VoteResult::Pending => State::Candidate(self),
        }
    }

    pub fn handle(mut self, from: &NodeId, message: Message) -> State {
        match message.body {
            Body::AppendRequest { .. } | Body::Heartbeat { .. } => {
                return self.into_follower().handle(from, message);
            }
            Body::PreVoteRequest { attempt, last } => {
                let willing = self.core.makes_way_for(from, last);
                self.core.handle_pre_vote_request(from, message.term, attempt, last, willing);
            }
            Body::VoteRequest { last, .. } => {
                self.core.handle_request_vote(from, last);
            }
            Body::VoteResponse { granted } => {
                self.role.votes.entry(from.clone()).or_insert(granted);
                return self.count_votes();
            }
            Body::PreVoteResponse { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatResponse { .. }
            | Body::TimeoutNow { .. }
            | Body::NewerTerm => {}
        }
        State::Candidate(self)
    }
}
