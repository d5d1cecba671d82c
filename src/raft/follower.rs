//! A follower, and a learner: the same role without a vote, which the configuration in force decides.

use std::time::Duration;

use crate::types::{Index, Micros, NodeId};

use super::candidate::{Candidate, PreCandidate};
use super::config::SILENT_JITTER_MICROS_MAX;
use super::core::{Core, Node};
use super::message::{Base, Configuration, ElectionReason, Entry};
use super::state::State;
use super::wire::{Body, Message, Position};

/// Follows a leader, or waits for one.
///
/// Invariant: `commit <= verified`, and nothing up to `verified` is ever truncated within the term.
#[derive(Debug)]
pub(super) struct Follower {
    /// The leader of this term, once it has spoken and unless it was found silent.
    pub leader: Option<NodeId>,
    /// How long it waits after the leader's last word.
    timeout: Duration,
    /// When it stands for election.
    deadline: Micros,
    /// What a detector outside said; `None`: it will have been the timeout.
    reason: Option<ElectionReason>,
    /// The log equals the leader's up to here. What was committed before equals any leader's.
    verified: Index,
    /// Whether the leader waits for an acknowledgement.
    owes_ack: bool,
    /// How far the last one went, or what the leader counts on anyway: a partial acknowledgement must say more.
    acknowledged: Index,
}

impl Follower {
    /// In the present term, of a leader yet unknown.
    pub fn new(core: &Core) -> Self {
        let timeout = core.draw_timeout();
        Follower {
            leader: None,
            timeout,
            deadline: core.now.after(timeout),
            reason: None,
            verified: core.commit,
            owes_ack: false,
            acknowledged: Index(0),
        }
    }
}

impl Node<Follower> {
    pub fn deadline(&self) -> Micros {
        if self.core.may_stand() {
            self.role.deadline.after(self.core.reluctance()).max(self.core.promised_until)
        } else {
            Micros(u64::MAX)
        }
    }

    pub fn tick(self) -> State {
        if self.core.now < self.deadline() {
            return State::Follower(self);
        }
        let otherwise = match self.core.last_leader {
            None => ElectionReason::Startup,
            Some(_) => ElectionReason::Timeout,
        };
        let reason = self.role.reason.unwrap_or(otherwise);
        self.start_election(reason)
    }

    /// Asks first, where that is configured and there is anybody to ask.
    pub fn start_election(self, reason: ElectionReason) -> State {
        let alone = self.core.log.configuration().is_sole_voter(self.core.id());
        if self.core.config.pre_vote && !alone {
            PreCandidate::start(self.core, reason)
        } else {
            State::Candidate(Candidate::start(self.core, reason, false))
        }
    }

    /// A detector outside says that `node` is gone. If it leads, this node no longer waits for it, and no longer refuses
    /// others who want to replace it, unless it promised to (see `lease`). The jitter keeps neighbours with the same news from standing all at once.
    pub fn peer_silent(&mut self, node: &NodeId, reason: ElectionReason) {
        if self.role.leader.as_ref() != Some(node) {
            return;
        }
        let jitter = Duration::from_micros(self.core.entropy % (SILENT_JITTER_MICROS_MAX + 1));
        self.core.leader_contact = None;
        self.role.leader = None;
        self.role.deadline = self.role.deadline.min(self.core.now.after(jitter));
        self.role.reason = Some(reason);
    }

    pub fn handle(mut self, from: &NodeId, message: Message) -> State {
        match message.body {
            Body::AppendRequest { previous, entries, commit, round } => {
                if self.follow(from) {
                    self.handle_append_entries(previous, entries, commit, round);
                }
            }
            Body::Heartbeat { commit, round } => {
                if self.follow(from) {
                    self.handle_heartbeat(commit, round);
                }
            }
            Body::PreVoteRequest { attempt, last } => {
                self.core.handle_pre_vote_request(from, message.term, attempt, last, true);
            }
            Body::VoteRequest { last, .. } => {
                // Whoever gives its vote waits for what comes of it (Raft paper, section 5.2).
                if self.core.handle_request_vote(from, last) {
                    self.role.deadline = self.core.now.after(self.role.timeout);
                    self.role.reason = None;
                }
            }
            Body::TimeoutNow { round } => return self.timeout_now(from, round),
            // Answers to what this node asked in a role that it has left.
            Body::PreVoteResponse { .. }
            | Body::VoteResponse { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatResponse { .. }
            | Body::NewerTerm => {}
        }
        State::Follower(self)
    }

    /// Accepts `from` as the leader of this term; a second one cannot exist and is not believed.
    fn follow(&mut self, from: &NodeId) -> bool {
        let other_leads = |leader: &NodeId| leader != from;
        let announced = self.core.announced.as_ref().filter(|(term, _)| *term == self.core.term());
        if announced.is_some_and(|(_, leader)| other_leads(leader)) {
            self.core.dropped += 1;
            return false;
        }
        if self.role.leader.is_none() {
            self.role.leader = Some(from.clone());
        }
        self.core.leader_spoke(from);
        self.role.deadline = self.core.now.after(self.role.timeout);
        self.role.reason = None;
        true
    }

    fn handle_heartbeat(&mut self, commit: Index, round: u64) {
        self.core.round = self.core.round.max(round);
        self.learn_commit(commit);
        let (round, verified) = (self.core.round, self.role.verified);
        let matched = verified.min(self.core.log.durable());
        let (fit, leases) = (self.core.is_fit(), self.core.config.lease.is_some());
        if let Some(leader) = self.role.leader.clone() {
            self.core.send(&leader, Body::HeartbeatResponse { round, verified, matched, fit, leases });
        }
    }

    /// What is committed is the same everywhere, but only what is verified is known to be the leader's.
    fn learn_commit(&mut self, commit: Index) {
        self.core.commit_heard = self.core.commit_heard.max(commit);
        let commit = commit.min(self.role.verified);
        if commit > self.core.commit {
            self.core.advance_commit(commit);
        }
    }

    /// AppendEntries (Raft paper, section 5.3 and figure 2).
    fn handle_append_entries(
        &mut self,
        previous: Position,
        mut entries: Vec<Entry>,
        commit: Index,
        round: u64,
    ) {
        self.core.round = self.core.round.max(round);
        let base = self.core.log.base();
        let mut previous = previous;
        if previous.index < base.index {
            // The message begins in what is compacted (hazard 12). That part is committed and applied, so the leader's is
            // the same; the rest, if any, builds on the base.
            let known = usize::try_from(base.index.0 - previous.index.0).unwrap_or(usize::MAX);
            if entries.get(known - 1).is_some_and(|entry| entry.term != base.term) {
                self.core.dropped += 1;
                return;
            }
            entries.drain(..known.min(entries.len()));
            previous = base.into();
        }
        match self.core.log.term_at(previous.index) {
            Some(term) if term == previous.term => self.accept(previous, entries, commit),
            // A place that was verified cannot differ: the sender is wrong about its own log.
            Some(_) if previous.index <= self.role.verified => self.core.dropped += 1,
            _ => self.reject(previous),
        }
    }

    /// The log holds `previous`: takes over what follows it. An entry that is there already stays, with all that follows
    /// it: a message that was overtaken by later ones deletes nothing (hazard 11).
    fn accept(&mut self, previous: Position, entries: Vec<Entry>, commit: Index) {
        let end = Index(previous.index.0 + entries.len() as u64);
        let log = &mut self.core.log;
        let fresh = entries.iter().position(|entry| log.term_at(entry.index) != Some(entry.term));
        if let Some(fresh) = fresh {
            let first = entries[fresh].index;
            if first <= self.role.verified {
                self.core.dropped += 1;
                return;
            }
            log.truncate(first, self.core.commit);
            entries.into_iter().skip(fresh).for_each(|entry| log.append(entry));
        }
        self.role.verified = self.role.verified.max(end);
        self.role.owes_ack = true;
        // The leader waits for these entries; that what they build on is durable is no news worth a message.
        self.role.acknowledged = self.role.acknowledged.max(previous.index);
        self.learn_commit(commit);
    }

    /// The log does not hold `previous`: says where the two may still agree, skipping whole terms (Raft paper, end of
    /// section 5.3).
    fn reject(&mut self, previous: Position) {
        let log = &self.core.log;
        let hint = log.last_not_after(previous.index, previous.term).unwrap_or(log.base().into());
        let round = self.core.round;
        if let Some(leader) = self.role.leader.clone() {
            self.core.send(&leader, Body::AppendRejected { previous: previous.index, hint, round });
        }
    }

    /// The state now holds everything up to `base`, and what the log holds after it is unchanged or gone.
    pub fn snapshot_installed(&mut self, base: Base, configuration: Configuration) {
        self.core.install_snapshot(base, configuration);
        let last = self.core.log.last().index;
        self.role.verified = self.role.verified.min(last).max(base.index);
        self.role.owes_ack = true;
    }

    /// Acknowledges what has become durable: one message, however many appends it answers. `durable` is clipped by
    /// truncation, so an older write never vouches for what replaced its entries (hazards 9 and 10).
    pub fn flush(&mut self) {
        let (verified, durable) = (self.role.verified, self.core.log.durable());
        let (matched, round, complete) = (durable.min(verified), self.core.round, durable >= verified);
        if !self.role.owes_ack || !(complete || matched > self.role.acknowledged) {
            return;
        }
        if let Some(leader) = self.role.leader.clone() {
            self.role.owes_ack = !complete;
            self.role.acknowledged = self.role.acknowledged.max(matched);
            self.core.send(&leader, Body::AppendAccepted { matched, round });
        }
    }
}
