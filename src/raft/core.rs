//! What a node is in every role: its term and vote, its log, what is committed, what it owes the disk.

use std::time::Duration;

use crate::types::{Index, Micros, NodeId, Term};

use super::config::Config;
use super::disk::Disk;
use super::log::Log;
use super::message::{Base, Configuration, Effect, Entry, Event, HardState, Persist, Seq};
use super::outbox::Outbox;
use super::wire::{Body, Message, Position};

/// A node in the role `R`. Role data lives in the role's type, so what only a leader may do exists only for a leader;
/// a change of role consumes the node in its old role.
#[derive(Debug)]
pub(super) struct Node<R> {
    pub core: Box<Core>,
    pub role: R,
}

/// The part that outlives a change of role.
///
/// Invariants, asserted where they could break: the term never goes back, the vote of a term never changes;
/// `base <= applied <= commit <= last`; `commit` never goes back.
#[derive(Debug)]
pub(super) struct Core {
    pub config: Config,
    pub hard: HardState,
    pub log: Log,
    pub commit: Index,
    /// The last index that was handed out to be applied.
    pub applied: Index,
    pub outbox: Outbox,
    pub disk: Disk,
    /// The time of the present step.
    pub now: Micros,
    /// The random word of the present step.
    pub entropy: u64,
    /// When the leader of this term was last heard; `None` also when it was found silent.
    pub leader_contact: Option<Micros>,
    /// Until when it helps nobody to power, since it answered a leader that may count on it; see `lease`.
    pub promised_until: Micros,
    /// The leader that was last heard or, if it was this node itself, last was.
    pub last_leader: Option<NodeId>,
    /// When that was; at first, the start.
    pub last_word: Micros,
    /// The last leadership that was reported as followed.
    pub announced: Option<(Term, NodeId)>,
    /// The newest round heard from this term's leader, whatever this node was meanwhile: an older word of the leader is
    /// known by it.
    pub round: u64,
    /// Pre-votes asked for, to name them.
    pub attempts: u64,
    /// Messages that were ignored as malformed, out of place or from strangers.
    pub dropped: u64,
    /// The disk has no room for further entries: somebody else should lead.
    pub disk_full: bool,
    /// The applied state was lost: nothing can be applied before a snapshot has replaced it.
    pub lacks_state: bool,
    /// The newest commit index that a leader told of, whether or not this node's log reaches there.
    pub commit_heard: Index,
}

impl Core {
    pub fn id(&self) -> &NodeId {
        &self.config.id
    }

    pub fn term(&self) -> Term {
        self.hard.term
    }

    pub fn is_voter(&self) -> bool {
        self.log.configuration().is_voter(&self.config.id)
    }

    /// Whether this node may stand for election. A voter may; and so may a node that the configuration in force leaves out,
    /// as long as it does not know that this is committed (Raft dissertation, section 4.2.2): it may be the only one that holds
    /// that entry, and then nobody whose vote counts without it can win against its longer log. A node without its state
    /// could lead, but serve nobody.
    pub fn may_stand(&self) -> bool {
        if self.lacks_state {
            return false;
        }
        let place = self.log.configuration_index();
        let before = Index(place.0.saturating_sub(1));
        let was_voter =
            || self.log.configuration_as_of(before).is_some_and(|before| before.is_voter(self.id()));
        self.is_voter() || place > self.commit && was_voter()
    }

    /// A timeout from the configured range, by this step's random word.
    pub fn draw_timeout(&self) -> Duration {
        let span = self.config.election_max.saturating_sub(self.config.election_min);
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX - 1);
        self.config.election_min + Duration::from_micros(self.entropy % (span + 1))
    }

    /// How long a candidate waits for its election to be decided. Where questions are repeated soon, that is soon, too: of a
    /// split vote nothing more is to be expected.
    pub fn draw_candidacy(&self) -> Duration {
        let drawn = self.draw_timeout();
        self.config.candidacy(self.entropy).map_or(drawn, |candidacy| candidacy.min(drawn))
    }

    pub fn send(&mut self, to: &NodeId, body: Body) {
        let message = Message { term: self.hard.term, body };
        self.dropped += u64::from(self.outbox.send(to.clone(), message));
    }

    /// Sends to every other voter for whom `wanted` holds.
    pub fn send_to_voters(&mut self, body: &Body, wanted: impl Fn(&NodeId) -> bool) {
        for voter in self.log.configuration().all_voters() {
            if voter != self.config.id && wanted(&voter) {
                self.send(&voter, body.clone());
            }
        }
    }

    /// The gateway: only what makes sense, and answers only from members. Requests are heard from anybody (Raft paper,
    /// section 6): this node's configuration may be behind, and then a leader or candidate that it does not know is as good
    /// as any. What a stranger asks is judged like everything else, by term and log, and by the loyalty to a leader
    /// that is heard.
    pub fn admits(&self, from: &NodeId, message: &Message) -> bool {
        *from != self.config.id
            && message.is_well_formed()
            && (message.body.is_request() || self.log.configuration().contains(from))
    }

    /// A newer term begins for this node (Raft paper, section 5.1).
    pub fn set_term(&mut self, term: Term) {
        assert!(term > self.hard.term, "term {term} after {}", self.hard.term);
        self.hard = HardState { term, vote: None };
        self.leader_contact = None;
        self.round = 0;
        self.outbox.term_changed();
    }

    /// Gives this term's vote, for good (hazard 4).
    pub fn cast_vote(&mut self, candidate: NodeId) {
        let vote = &self.hard.vote;
        assert!(vote.is_none() || *vote == Some(candidate.clone()), "the vote of a term changed");
        if vote.is_none() {
            self.hard.vote = Some(candidate);
            self.outbox.hard_state_changed();
        }
    }

    /// How much longer than others this node waits before it stands: it would rather not lead, or should not.
    pub fn reluctance(&self) -> Duration {
        let hesitates = self.config.reluctant || self.disk.degraded() || self.disk_full;
        if hesitates { self.config.election_max } else { Duration::ZERO }
    }

    /// Whether this node is a good choice for a leader; for one that has no vote, whether it is for a voter.
    pub fn is_fit(&self) -> bool {
        let reluctant = self.config.reluctant && self.is_voter();
        !reluctant && self.is_able_to_lead()
    }

    /// Whether it could lead, if it had to.
    pub fn is_able_to_lead(&self) -> bool {
        !self.disk.degraded() && !self.disk_full && !self.lacks_state
    }

    /// Judges the disk, by what is pending now.
    pub fn observe_disk(&mut self) {
        if let Some(event) = self.disk.observe(self.now) {
            self.outbox.event(event);
        }
    }

    /// Whether the leader was heard within the shortest election timeout.
    pub fn hears_leader(&self) -> bool {
        self.leader_contact.is_some_and(|contact| self.now.since(contact) < self.config.election_min)
    }

    /// The leader of this term said something.
    pub fn leader_spoke(&mut self, leader: &NodeId) {
        self.leader_contact = Some(self.now);
        self.last_word = self.now;
        self.promise();
        if self.last_leader.as_ref() != Some(leader) {
            self.last_leader = Some(leader.clone());
        }
        let term = self.hard.term;
        if !self.announced.as_ref().is_some_and(|(known, node)| *known == term && node == leader) {
            self.announced = Some((term, leader.clone()));
            self.outbox.event(Event::FollowsLeader { term, leader: leader.clone() });
        }
    }

    /// Tells the sender of an old request that its term is over. Old answers interest nobody.
    pub fn answer_older_term(&mut self, from: &NodeId, body: &Body) {
        if body.is_request() {
            self.send(from, Body::NewerTerm);
        }
    }

    /// Answers a pre-vote. `willing`: what the role has to say; besides it nobody is preferred to a leader that is still
    /// heard, and no log to a longer one. Changes nothing.
    pub fn handle_pre_vote_request(
        &mut self,
        candidate: &NodeId,
        term: Term,
        attempt: u64,
        last: Position,
        willing: bool,
    ) -> bool {
        let free = !self.hears_leader() && !self.has_promised();
        let granted = willing && free && last.is_up_to_date_with(self.log.last());
        let (term, candidate) = (term.next(), candidate.clone());
        self.send(&candidate, Body::PreVoteResponse { attempt, granted });
        self.outbox.event(Event::VoteCast { term, candidate, granted, pre_vote: true });
        granted
    }

    /// Answers a vote request of the present term (Raft paper, sections 5.2 and 5.4.1). The outbox keeps the answer until
    /// the vote is durable (hazard 1).
    pub fn handle_request_vote(&mut self, candidate: &NodeId, last: Position) -> bool {
        let free = self.hard.vote.as_ref().is_none_or(|vote| vote == candidate);
        let granted = free && last.is_up_to_date_with(self.log.last());
        if granted {
            self.cast_vote(candidate.clone());
        }
        let (term, candidate) = (self.hard.term, candidate.clone());
        self.send(&candidate, Body::VoteResponse { granted });
        self.outbox.event(Event::VoteCast { term, candidate, granted, pre_vote: false });
        granted
    }

    /// Everything up to `index` is committed.
    pub fn advance_commit(&mut self, index: Index) {
        assert!(index <= self.log.last().index, "commit {index} beyond the log");
        assert!(index >= self.commit, "commit {index} after {}", self.commit);
        let settled =
            self.log.configurations(self.commit, index).filter(|(_, found)| found.outgoing.is_none());
        for (index, configuration) in settled {
            let (index, configuration) = (*index, configuration.clone());
            self.outbox.event(Event::ConfigurationChanged { index, configuration });
        }
        self.commit = index;
    }

    /// The disk confirmed `seq`.
    pub fn written(&mut self, seq: Seq) {
        self.disk.written(seq, self.now);
        self.observe_disk();
        self.log.written(seq);
        self.outbox.written(seq);
    }

    /// Forgets the log up to `index`, as far as it is applied.
    pub fn compact(&mut self, index: Index) {
        let index = index.min(self.applied);
        if index > self.log.base().index {
            self.log.compact(index);
        }
    }

    /// The state was replaced by a snapshot.
    pub fn install_snapshot(&mut self, base: Base, configuration: Configuration) {
        assert!(base.index >= self.applied, "the shell replaced the state by an older one");
        let news = base.index > self.commit && *self.log.configuration() != configuration;
        if news && configuration.outgoing.is_none() {
            let (index, configuration) = (base.index, configuration.clone());
            self.outbox.event(Event::ConfigurationChanged { index, configuration });
        }
        self.log.install(base, configuration);
        self.commit = self.commit.max(base.index);
        self.applied = base.index;
        self.lacks_state = false;
    }

    /// Ends a batch: what must be written, what may be applied, and everything that may leave.
    pub fn finish_batch(&mut self) -> Vec<Effect> {
        let ready = self.commit.min(self.log.durable());
        if ready > self.applied && !self.lacks_state {
            let entries: Vec<Entry> = self.log.range(self.applied.next(), ready).cloned().collect();
            assert!(entries.len() as u64 == ready.0 - self.applied.0, "entries to apply are missing");
            self.applied = ready;
            self.outbox.push(Effect::Apply { entries });
        }
        let effects = self.outbox.take();
        if !self.outbox.needs_writing() && !self.log.needs_writing() {
            return effects;
        }
        let (seq, with_hard_state) = self.outbox.next_batch();
        let hard_state = with_hard_state.then(|| self.hard.clone());
        let (base, entries) = self.log.take_unwritten(seq);
        self.disk.handed(seq, self.now);
        let persist = Effect::Persist(Persist { seq, hard_state, base, entries });
        std::iter::once(persist).chain(effects).collect()
    }
}
