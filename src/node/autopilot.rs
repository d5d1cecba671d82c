//! The autopilot, for those who switch it on: a voter that was silent for too long is replaced by a learner.
//!
//! A leader that has `replace_dead_after` looks now and then whom it has not heard for that long. If there is a learner that
//! nobody plans to promote, that it hears and that has caught up, it asks consensus for *one* change in which the one
//! leaves and the other votes. Consensus begins such a change only while a majority of the voters before and after
//! it answers, so the cluster is never brought below its quorum: with two of three voters dead nothing is done.
//!
//! The silence is measured within this leadership, so that a new leader gives everybody the whole time once more.

use std::time::Duration;

use crate::raft::{Change, Status};
use crate::types::{Micros, NodeId, Term};

use super::core::Node;
use super::io::{Effect, Notice};
use super::moment::Moment;
use super::requests::{Origin, Want};

/// How often a leader looks, at most; and at least four times within the limit.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one request for the change may wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom the autopilot replaces, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The voter that leaves.
    pub voter: NodeId,
    /// The learner that takes its place.
    pub learner: NodeId,
    /// For how long nothing was heard of the voter.
    pub silent: Duration,
    /// How long that is borne.
    pub limit: Duration,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Autopilot {
    /// The term that this node leads, and since when.
    leading: Option<(Term, Micros)>,
    /// What was asked for and is not complete.
    under_way: Option<Replacement>,
    look_at: Option<Micros>,
}

impl Autopilot {
    pub(super) fn deadline(&self) -> Option<Micros> {
        self.look_at
    }
}

impl Node {
    /// Looks for dead voters, when it is time.
    pub(super) fn replace_dead_voters(&mut self, moment: Moment) {
        let Some(limit) = self.settings.replace_dead_after else { return };
        let now = moment.now;
        let Some(term) = self.leading() else {
            self.autopilot = Autopilot::default();
            return;
        };
        if self.autopilot.leading.is_none_or(|(known, _)| known != term) {
            self.autopilot = Autopilot { leading: Some((term, now)), ..Autopilot::default() };
        }
        if self.autopilot.look_at.is_some_and(|at| now < at) {
            return;
        }
        self.autopilot.look_at = Some(now.after(LOOK_EVERY.min(limit / 4)));
        self.tell_replaced();
        let Some(replacement) = self.replacement(limit, now) else { return };
        let Replacement { voter, learner, .. } = replacement.clone();
        let told = self.autopilot.under_way.as_ref();
        if told.is_none_or(|told| told.voter != voter || told.learner != learner) {
            self.effects
                .push(Effect::Tell(Notice::Replaced { replacement: replacement.clone(), done: false }));
            self.autopilot.under_way = Some(replacement);
        }
        let want = Want::Change(Change::Replace { voter, learner });
        let request = self.requests.begin(Origin::Duty, want, now, PATIENCE);
        self.route(moment, request, false);
    }

    fn tell_replaced(&mut self) {
        let committed = &self.membership.committed;
        let complete = self.autopilot.under_way.take_if(|replacement| {
            committed.outgoing.is_none()
                && committed.voters.contains(&replacement.learner)
                && !committed.contains(&replacement.voter)
        });
        if let Some(replacement) = complete {
            self.effects.push(Effect::Tell(Notice::Replaced { replacement, done: true }));
        }
    }

    /// The voter that was silent for longest, if for too long, and who could take its place.
    fn replacement(&self, limit: Duration, now: Micros) -> Option<Replacement> {
        let (_, since) = self.autopilot.leading?;
        let status = self.raft.status();
        let configuration = &status.configuration;
        if configuration.outgoing.is_some() {
            return None;
        }
        let silence = |node: &NodeId| now.since(last_heard(&status, node).unwrap_or(since).max(since));
        let me = &self.settings.id;
        // An operator has chosen a successor already.
        let planned = |node: &NodeId| configuration.joining.values().flatten().any(|other| other == node);
        let others = configuration.voters.iter().filter(|voter| *voter != me && !planned(voter));
        let (silent, voter) = others.map(|voter| (silence(voter), voter)).max()?;
        if silent < limit {
            return None;
        }
        let fit = |learner: &&NodeId| {
            let peer = status.peers.get(*learner);
            !configuration.joining.contains_key(*learner)
                && peer.is_some_and(|peer| peer.caught_up_since.is_some() && peer.last_contact.is_some())
                && silence(learner) <= self.settings.raft.election_max
        };
        let learner = configuration.learners.iter().find(fit)?;
        Some(Replacement { voter: voter.clone(), learner: learner.clone(), silent, limit })
    }
}

fn last_heard(status: &Status, node: &NodeId) -> Option<Micros> {
    status.peers.get(node).and_then(|peer| peer.last_contact)
}
