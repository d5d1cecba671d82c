//! Few messages, where each one counts: what a leader puts off, and when it says it again.
//!
//! Switched on by [`Config::thrift`]. A commit needs a majority, so an entry leaves at once for just enough voters to make one
//! with the leader; the others get what they lack when a heartbeat would be due to them, in its place, in as many appends
//! as that takes. Reads that need a
//! round ask just enough voters, too. What makes this live:
//!
//! * An append that is not acknowledged in time counts as lost, and as many voters as are then wanting are told again. Time
//!   is measured as for TCP (RFC 6298): the smoothed round trip and four times its deviation, at least the configured
//!   wait, doubled with every further miss of the same peer, at most a heartbeat. An acknowledgement names the round that it
//!   answers, so what was said twice is measured as well (which TCP without timestamps must not, after Karn): on a network that
//!   always takes longer than the first guess there would be nothing else to measure.
//! * Who has missed least is told first, so a dead peer is passed over, and on a lossy network all take turns.
//! * An append holds everything that its receiver has not acknowledged, so a lost one leaves no gap behind.
//! * Every append begins a round and so renews the lease: under load there are no heartbeats to a quorum at all.
//! * Unanswered questions, of leaders and candidates, are repeated soon at first and then ever less often.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::types::{Index, Micros, NodeId};

use super::config::Config;
use super::core::Node;
use super::leader::Leader;
use super::progress::{Flow, Progress};

/// A candidate repeats its question after so many shortest waits; it is not in the hurry that a client's write is.
const QUESTION_WAITS: u32 = 8;
/// Each wait for answers to a question is doubled so often. Whoever is cut off asks in vain, again and again.
const QUESTION_DOUBLINGS: u32 = 3;
/// A candidacy lasts so many shortest waits, and up to as many more.
const CANDIDACY_WAITS: u32 = 64;
/// So many rounds are remembered; what answers an older one is not measured.
const ROUNDS_MAX: usize = 64;
/// No wait is doubled more often.
const DOUBLINGS_MAX: u32 = 10;

/// An append whose acknowledgement is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Awaited {
    /// Since when: the sending, or the last progress after it.
    since: Micros,
    /// Its last index.
    reach: Index,
    /// Whether the log went on behind it.
    cut: bool,
}

/// What a thrifty leader knows of the network.
#[derive(Debug, Default)]
pub(super) struct Thrift {
    /// The smoothed round trip and its deviation.
    round_trip: Option<(Duration, Duration)>,
    /// The newest rounds, with the time at which each began.
    rounds: VecDeque<(u64, Micros)>,
    /// When reads last asked for an echo that they still wait for, and how often before.
    asked: Option<(Micros, u32)>,
}

impl Config {
    /// How long a candidate waits before it asks again, having done so `repeats` times.
    pub(super) fn question_repeats_after(&self, repeats: u32) -> Duration {
        let grown = |wait| doubled(wait * QUESTION_WAITS, QUESTION_DOUBLINGS * repeats).min(self.heartbeat);
        self.thrift.map_or(self.heartbeat, grown)
    }

    /// How long a candidacy lasts, by a random word.
    pub(super) fn candidacy(&self, entropy: u64) -> Option<Duration> {
        let least = self.thrift? * CANDIDACY_WAITS;
        let span = u64::try_from(least.as_micros()).unwrap_or(u64::MAX - 1);
        Some(least + Duration::from_micros(entropy % (span + 1)))
    }
}

fn doubled(wait: Duration, times: u32) -> Duration {
    wait * 2_u32.pow(times.min(DOUBLINGS_MAX))
}

impl Thrift {
    /// A round begins.
    pub fn began(&mut self, round: u64, now: Micros) {
        if self.rounds.len() >= ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((round, now));
    }

    /// In answer to that round: `peer` holds everything up to `matched`.
    pub fn acknowledged(&mut self, peer: &mut Progress, matched: Index, round: u64, now: Micros) {
        let begun = self.rounds.iter().rev().find(|(number, _)| *number == round).map(|(_, begun)| *begun);
        if let Some(begun) = begun {
            self.measure(now.since(begun));
        }
        let Some(awaited) = &mut peer.awaited else { return };
        if matched >= awaited.reach {
            peer.behind = awaited.cut;
            peer.awaited = None;
        } else if matched > peer.matched {
            awaited.since = now;
        }
    }

    fn measure(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((smooth, deviation)) => {
                ((smooth * 7 + sample) / 8, (deviation * 3 + smooth.abs_diff(sample)) / 4)
            }
        });
    }

    /// How long an answer may take that is asked for after `missed` misses. The first repetition does not wait longer
    /// than the first try.
    fn patience(&self, config: &Config, shortest: Duration, missed: u32) -> Duration {
        let usual = self.round_trip.map_or(shortest, |(smooth, deviation)| smooth + deviation * 4);
        doubled(usual.max(shortest), missed.saturating_sub(1)).min(config.heartbeat)
    }
}

impl Progress {
    /// The next append begins after what is acknowledged or was agreed upon, whatever is under way.
    pub fn rewind(&mut self) {
        if let Flow::Replicate { in_flight, bytes } = &mut self.flow {
            in_flight.clear();
            *bytes = 0;
            self.next = self.agreed.max(self.matched.next());
        }
    }

    /// An append that ends at `reach` left; the log goes up to `last`.
    pub fn await_acknowledgement(&mut self, reach: Index, last: Index, now: Micros) {
        let since = self.awaited.map_or(now, |awaited| awaited.since);
        self.awaited = Some(Awaited { since, reach, cut: reach < last });
        self.behind = false;
    }
}

impl Node<Leader> {
    /// When something that was said must be said again.
    pub fn next_repetition(&self) -> Micros {
        let Some(shortest) = self.core.config.thrift else { return Micros(u64::MAX) };
        let patience = |missed| self.role.thrift.patience(&self.core.config, shortest, missed);
        let appends = self
            .role
            .peers
            .values()
            .filter_map(|peer| peer.awaited.map(|awaited| awaited.since.after(patience(peer.missed))));
        let reads = self.role.thrift.asked.map(|(at, repeats)| at.after(patience(repeats)));
        appends.chain(reads).min().unwrap_or(Micros(u64::MAX))
    }

    /// Whom a thrifty leader sends entries now: as many as a quorum is wanting, those to whom a heartbeat would be due and
    /// who lack entries, and the one to whom it hands over. `None`: it is not thrifty.
    pub fn choose_receivers(&mut self) -> Option<BTreeSet<NodeId>> {
        let shortest = self.core.config.thrift?;
        let Node { core, role } = self;
        let (now, last) = (core.now, core.log.last().index);
        for peer in role.peers.values_mut() {
            let patience = role.thrift.patience(&core.config, shortest, peer.missed);
            if peer.awaited.take_if(|awaited| now >= awaited.since.after(patience)).is_some() {
                peer.missed += 1;
            }
        }
        let reaches = |peer: &Progress| {
            peer.matched >= last || peer.awaited.is_some_and(|awaited| awaited.reach >= last)
        };
        let mut chosen = self.complete_quorum(|_, peer| reaches(peer));
        for (id, peer) in &self.role.peers {
            let due =
                self.heartbeat_due(peer) <= now || peer.behind || self.hands_over_to(id) && !reaches(peer);
            let lacks = peer.matched < last || matches!(peer.flow, Flow::Probe { .. });
            if due && lacks && can_be_fed(peer) {
                chosen.insert(id.clone());
            }
        }
        Some(chosen)
    }

    /// Whom a thrifty leader asks whether it still leads. `None`: it is not thrifty.
    pub fn choose_witnesses(&mut self, reads_start: bool, round_begun: bool) -> Option<BTreeSet<NodeId>> {
        let shortest = self.core.config.thrift?;
        let Node { core, role } = self;
        let now = core.now;
        if !role.reads.awaits_echo() {
            role.thrift.asked = None;
        }
        if let Some((at, repeats)) = role.thrift.asked
            && now >= at.after(role.thrift.patience(&core.config, shortest, repeats))
        {
            // Somebody of those that were asked does not answer: now everybody is.
            role.thrift.asked = Some((now, repeats + 1));
            return Some(role.peers.keys().cloned().collect());
        }
        if !reads_start {
            return Some(BTreeSet::new());
        }
        role.thrift.asked.get_or_insert((now, 0));
        // Whoever was sent entries in this batch was asked by them.
        Some(self.complete_quorum(|_, peer| round_begun && peer.sent_at == Some(now)))
    }

    /// Those who are wanting for a quorum of this node and of whom `covered` holds, the likeliest to answer first.
    fn complete_quorum(&self, covered: impl Fn(&NodeId, &Progress) -> bool) -> BTreeSet<NodeId> {
        let configuration = self.core.log.configuration();
        let mut order: Vec<(&NodeId, &Progress)> = self.role.peers.iter().collect();
        order.retain(|(id, peer)| configuration.is_voter(id) && can_be_fed(peer) && !covered(id, peer));
        order.sort_by_key(|(id, peer)| (peer.missed, *id));
        let mut order = order.into_iter();
        let mut chosen = BTreeSet::new();
        loop {
            let counts = |id: &NodeId| match self.role.peers.get(id) {
                Some(peer) => u64::from(chosen.contains(id) || covered(id, peer)),
                None => u64::from(id == self.core.id()),
            };
            if configuration.quorum_value(counts) > 0 {
                return chosen;
            }
            let Some((next, _)) = order.next() else { return chosen };
            chosen.insert(next.clone());
        }
    }
}

fn can_be_fed(peer: &Progress) -> bool {
    !matches!(peer.flow, Flow::Snapshot { .. })
}
