//! Leases: reads without a round trip, for those who switch them on (Raft dissertation, section 6.4.1).
//!
//! A follower that answers a round promises by that to help nobody to power, itself included, for the shortest
//! election timeout (or for `promise`, where that is set and shorter). So when a quorum has answered a round, nobody else can be elected before that timeout has passed
//! since the round was *sent*, and for a span that is shorter than it the leader may serve reads by itself. What makes
//! this safe:
//!
//! * The span is counted from the sending, on a clock that counts the time during which the machine was suspended.
//! * A promise is kept whatever a detector says about the leader, and whatever terms come by: only the word of the
//!   leader itself, who gives its lease up first, breaks it (a vote request that says `transfer`).
//! * A voter that restarts has forgotten its promises, so it grants nothing for as long as they could last.
//! * Only the answers of peers who say that they honour leases are counted.
//! * The span is cut to nine tenths of what is promised: room for clocks that drift apart by up to a tenth.
//!
//! A lease is void from the moment at which leadership is handed over, given up or lost, and when the configuration
//! changes; it begins anew with rounds sent after that. After a transfer that was given up, the target may still get the
//! leader's word, late: so there is no lease until the target has answered a newer round, after which it
//! ignores that word.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::types::{Micros, NodeId};

use super::config::Config;
use super::core::{Core, Node};
use super::leader::Leader;

impl Config {
    /// For how long a confirmed round lets the leader read by itself.
    pub(super) fn lease_span(&self) -> Option<Duration> {
        self.lease.map(|span| span.min(self.promise_span() * 9 / 10))
    }

    /// For how long a follower that has heard the leader helps nobody to power.
    pub(super) fn promise_span(&self) -> Duration {
        self.promise.map_or(self.election_min, |span| span.min(self.election_min))
    }
}

impl Core {
    /// Whether this node owes it to a leader that it heard to help nobody to power.
    pub fn has_promised(&self) -> bool {
        self.now < self.promised_until
    }

    /// A leader was heard: by answering it, this node promises.
    pub fn promise(&mut self) {
        if self.config.lease.is_some() {
            self.promised_until = self.promised_until.max(self.now.after(self.config.promise_span()));
        }
    }
}

/// The lease of one leadership.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The rounds begun and not confirmed, with the time of their beginning. Emptied whenever the lease is void, so
    /// that only later rounds renew it.
    begun: VecDeque<(u64, Micros)>,
    /// When the newest confirmed round began.
    confirmed: Option<Micros>,
    /// Those to whom leadership was to be handed, with the newest round at the time. Until they have answered a newer
    /// one they may still take the leader at its word.
    suspects: BTreeMap<NodeId, u64>,
}

impl Lease {
    /// A round begins: nothing of it was said before `now`. Rounds older than `span` cannot renew anything any more.
    pub fn begin(&mut self, round: u64, now: Micros, span: Duration) {
        while self.begun.pop_front_if(|(_, began)| now.since(*began) >= span).is_some() {}
        self.begun.push_back((round, now));
    }

    /// A quorum that honours leases has answered `round`.
    pub fn confirm(&mut self, round: u64) {
        while let Some((_, began)) = self.begun.pop_front_if(|(begun, _)| *begun <= round) {
            self.confirmed = Some(began);
        }
    }

    /// No round so far counts any more.
    pub fn void(&mut self) {
        self.begun.clear();
        self.confirmed = None;
    }

    /// `node` is told to take over, at a time when `round` was the newest.
    pub fn suspect(&mut self, node: &NodeId, round: u64) {
        self.void();
        self.suspects.insert(node.clone(), round);
    }

    /// Whether `node` was told to take over and may still do so.
    pub fn suspects(&self, node: &NodeId) -> bool {
        self.suspects.contains_key(node)
    }

    /// `node` has answered `round`: it follows, and ignores what was said before.
    pub fn heard(&mut self, node: &NodeId, round: u64) {
        if self.suspects.get(node).is_some_and(|told| round > *told) {
            self.suspects.remove(node);
        }
    }
}

impl Node<Leader> {
    /// Until when reads may be served without asking anybody; `None` if they may not.
    pub fn lease_until(&self) -> Option<Micros> {
        let Node { core, role } = self;
        let span = core.config.lease_span()?;
        if core.commit < role.first || role.transfer.is_some() || !role.lease.suspects.is_empty() {
            return None;
        }
        if core.log.configuration().is_sole_voter(core.id()) {
            return Some(core.now.after(span));
        }
        role.lease.confirmed.map(|began| began.after(span)).filter(|until| *until > core.now)
    }

    /// Counts the answers.
    pub fn renew_lease(&mut self) {
        let Node { core, role } = self;
        if core.config.lease.is_none() {
            return;
        }
        for (id, peer) in &role.peers {
            role.lease.heard(id, peer.round);
        }
        let promised = |id: &NodeId| match role.peers.get(id) {
            Some(peer) if peer.leases => peer.round,
            None if id == core.id() => role.round,
            Some(_) | None => 0,
        };
        role.lease.confirm(core.log.configuration().quorum_value(promised));
    }
}
