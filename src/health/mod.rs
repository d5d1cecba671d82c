//! Ping schedule, failure detector, interval counters. Pure: time comes in as an argument, pings go out as effects.
//!
//! # Schedule
//! Each member is pinged once per `ping_every`, at an offset within the period that a hash of both names gives. So
//! the pings of one observer are spread over the period, the observers of one member are spread too, and a restart
//! changes nothing. Offsets lie on a grid of `GRID`: in a large fleet some members are due at the same moment, and their
//! pings leave together, for the price of one wake-up and few system calls. One ordered queue holds all due times; there is
//! no timer per member. A slot that was slept through is left out, not made up for.
//!
//! # One ping
//! A try that is not answered within `ping_timeout` is followed by a second one; when that times out too, the ping is
//! *missed*. Every try has its own sequence number, so an answer always says which try it belongs to, and the round
//! trip is measured from that try. An answer to a missed ping is *late*: it is counted, and changes nothing else. A
//! second answer to one try, or an answer to nothing, is *unsolicited*; one to a try that was never made is *bad*.
//! An answer that arrives in the same step in which its try runs out still counts: doubt favours the member.
//!
//! # Intervals
//! A ping counts in the interval in which its outcome becomes known; so at a cut nothing is lost and nothing is
//! counted twice, and `sent` is always `answered + missed`. A member that leaves keeps its row until the cut.
//!
//! # Levels
//! Each try that is not answered in time goes to the detector of its member, in `suspicion`: up, suspect, down, and back. After the first
//! miss further tries follow each other without a pause (`ping_timeout` apart, 500 ms by default), until the member
//! answers or is held dead, and two other super-nodes are asked to try it, in `help`. At most `PROBES_MAX` of these *probes* are
//! under way at once. They count in no interval: only the
//! schedule does, or a silent member would be asked more often than others and be paid for another number of pings.
//! A member that has never answered is [`Level::Suspect`]: nobody knows that it lives. Levels drive display, alerts and
//! elections, never money.
//!
//! # When the observer itself stood still
//! The driver reports a stall of its own with [`Input::Stalled`] *before* anything else that waited meanwhile. From
//! [`STALL_FORGIVEN`] on, whatever would have timed out in the meantime says nothing about the members: every ping
//! under way is sent anew with fresh time, answers to its older tries count without a round trip, and slots
//! that were slept through are skipped. Shorter stalls only cost the observer's own score.

mod help;
mod histogram;
mod member;
mod message;
mod own;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::{IntervalId, MemberId, Micros, NodeId, Version};

pub use message::*;

use help::{Help, QUESTIONS_MAX};
use own::Own;
use suspicion::Suspicion;

use member::{Counters, Member, Ping, PingState, WAITING_MAX};

/// Offsets of pings within their period are multiples of this, or of a [`GRID_SHARE`]th of the period if that is less.
const GRID: Duration = Duration::from_millis(2);
/// A period has at least so many different offsets.
const GRID_SHARE: u64 = 100;
/// Most probes of its own that an observer has under way. Where more members are silent at once than that, something larger
/// is wrong than some machines, perhaps with the observer; asking all of them in quick succession would make it worse. The
/// others are asked by the schedule.
const PROBES_MAX: usize = 1_000;
/// The way of a question to a helper and back.
const HELP_ROUND_TRIP: Duration = Duration::from_millis(500);

/// One entry of the queue. The order of the fields breaks ties, always the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Micros,
    slot: u32,
    /// The ping whose try runs out; 0: the member's next ping is to be sent.
    number: u64,
}

/// An observer. Invariants: the queue holds exactly one entry per member (its next ping) and one per waiting ping;
/// `counts` sums to the number of members; `probes` counts the waiting pings that are probes.
#[derive(Debug)]
pub struct Health {
    config: Config,
    /// Members by slot; a slot is reused when its member has left.
    slots: Vec<Option<Member>>,
    free: Vec<u32>,
    index: BTreeMap<MemberId, u32>,
    /// The slots of super-nodes, which may be asked for help.
    nodes: BTreeSet<u32>,
    due: BTreeSet<Due>,
    /// Counters of members that left during the open interval.
    departed: BTreeMap<MemberId, (Counters, Option<Version>)>,
    counts: LevelCounts,
    /// The number of the next ping.
    next_number: u64,
    last_cut: Option<(IntervalId, Micros)>,
    own: Own,
    help: Help,
    /// Probes under way, those for others included.
    probes: usize,
    /// Misses say nothing about members before then.
    frozen_until: Micros,
}

impl Health {
    /// An observer without members. Limits in `config` that make no sense are raised to the nearest that does.
    pub fn new(config: Config, now: Micros) -> Health {
        let config = Config { ping_every: config.ping_every.max(Duration::from_millis(1)), ..config };
        Health {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            index: BTreeMap::new(),
            nodes: BTreeSet::new(),
            due: BTreeSet::new(),
            departed: BTreeMap::new(),
            counts: LevelCounts::default(),
            next_number: 1,
            last_cut: None,
            own: Own::new(now),
            help: Help::default(),
            probes: 0,
            frozen_until: Micros(0),
        }
    }

    /// Takes an input, and does all that is due at `now`.
    pub fn step(&mut self, now: Micros, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !matches!(input, Input::Stalled(_)) {
            self.own.end_round(now, self.config.ping_every);
        }
        match input {
            Input::Tick => {}
            Input::Members(members) => self.handle_members(now, members),
            Input::Changed(members) => {
                for (id, target) in members {
                    self.handle_change(now, id, target);
                }
            }
            Input::Answered { member, seq, version } => {
                self.handle_answer(now, &member, seq, version, &mut effects);
            }
            Input::Cut { interval } => effects.push(Effect::Report(self.cut(now, interval))),
            Input::Timing { ping_every, ping_timeout } => self.handle_timing(now, ping_every, ping_timeout),
            Input::Stalled(span) => self.handle_stall(now, span, &mut effects),
            Input::SendFailed => self.own.fault(),
            Input::HelpAsked { from, id, member } => self.handle_help(now, from, id, &member, &mut effects),
            Input::Word { from, id, alive } => self.handle_word(&from, id, alive),
        }
        self.run_due(now, &mut effects);
        self.miss_words(now);
        effects
    }

    /// When [`Input::Tick`] is due next.
    pub fn deadline(&self) -> Micros {
        let due = self.due.first().map_or(Micros(u64::MAX), |due| due.at);
        self.help.deadline().map_or(due, |word| word.min(due))
    }

    /// The level of a member; `None` for somebody who is not one, and for the observer itself.
    pub fn level(&self, member: &MemberId) -> Option<Level> {
        self.index.get(member).map(|&slot| self.member(slot).level)
    }

    /// All members with their levels, ordered by name.
    pub fn levels(&self) -> impl Iterator<Item = (&MemberId, Level)> {
        self.index.iter().map(|(id, &slot)| (id, self.member(slot).level))
    }

    /// How many members stand at each level.
    pub fn counts(&self) -> LevelCounts {
        self.counts
    }

    fn member(&self, slot: u32) -> &Member {
        self.slots[slot as usize].as_ref().expect("the index and the queue name only slots in use")
    }

    fn member_mut(&mut self, slot: u32) -> &mut Member {
        self.slots[slot as usize].as_mut().expect("the index and the queue name only slots in use")
    }

    fn handle_members(&mut self, now: Micros, members: Vec<(MemberId, Target)>) {
        let mut wanted: BTreeMap<MemberId, Target> = members.into_iter().collect();
        wanted.remove(&self.config.id);
        let gone: Vec<(MemberId, u32)> = self
            .index
            .iter()
            .filter(|(id, _)| !wanted.contains_key(*id))
            .map(|(id, &slot)| (id.clone(), slot))
            .collect();
        for (id, slot) in gone {
            self.remove(&id, slot);
        }
        for (id, target) in wanted {
            self.handle_change(now, id, Some(target));
        }
    }

    /// A member came, moved, or left.
    fn handle_change(&mut self, now: Micros, id: MemberId, target: Option<Target>) {
        match (self.index.get(&id).copied(), target) {
            (Some(slot), Some(target)) => {
                self.note_node(slot, &target);
                self.member_mut(slot).target = target;
            }
            (Some(slot), None) => self.remove(&id, slot),
            (None, Some(target)) if id != self.config.id => self.insert(now, id, target),
            (None, _) => {}
        }
    }

    fn insert(&mut self, now: Micros, id: MemberId, target: Target) {
        let phase = phase_hash(&self.config.id, &id);
        let (counters, version) = self.departed.remove(&id).unwrap_or_default();
        let level = Level::Suspect;
        let member = Member {
            id: id.clone(),
            target,
            level,
            suspicion: Suspicion::default(),
            version,
            phase,
            next: self.next_slot(phase, now),
            pings: Vec::new(),
            counters,
        };
        let at = member.next;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("members are far fewer than 2^32")
        });
        self.note_node(slot, &member.target);
        self.slots[slot as usize] = Some(member);
        self.index.insert(id, slot);
        self.due.insert(Due { at, slot, number: 0 });
        *self.counts.of(level) += 1;
    }

    fn note_node(&mut self, slot: u32, target: &Target) {
        if matches!(target, Target::Node(_)) {
            self.nodes.insert(slot);
        } else {
            self.nodes.remove(&slot);
        }
    }

    fn remove(&mut self, id: &MemberId, slot: u32) {
        let member = self.slots[slot as usize].take().expect("the index names only slots in use");
        self.index.remove(id);
        self.free.push(slot);
        self.nodes.remove(&slot);
        self.due.remove(&Due { at: member.next, slot, number: 0 });
        for ping in member.pings.iter().filter(|ping| ping.state == PingState::Waiting) {
            self.due.remove(&Due { at: ping.due, slot, number: ping.number });
            // Whoever asked gets no word, and forgets the question.
            self.help.for_others.remove(&ping.number);
            self.probes -= usize::from(ping.probe);
        }
        *self.counts.of(member.level) -= 1;
        self.departed.insert(member.id, (member.counters, member.version));
    }

    fn handle_answer(
        &mut self,
        now: Micros,
        id: &MemberId,
        seq: u64,
        version: Version,
        effects: &mut Vec<Effect>,
    ) {
        let Some(&slot) = self.index.get(id) else { return };
        let (number, attempt) = (seq >> 8, (seq & 0xff) as u8);
        let never_sent = number >= self.next_number || number == 0;
        let member = self.slots[slot as usize].as_mut().expect("the index names only slots in use");
        let Some(at) = member.pings.iter().position(|ping| ping.number == number) else {
            let counter =
                if never_sent { &mut member.counters.bad } else { &mut member.counters.unsolicited };
            *counter = counter.saturating_add(1);
            return;
        };
        let ping = &mut member.pings[at];
        if attempt >= ping.tries {
            member.counters.bad = member.counters.bad.saturating_add(1);
            return;
        }
        member.version = Some(version);
        let probe = ping.probe;
        match &mut ping.state {
            PingState::Answered { echoes } | PingState::Missed { echoes } if *echoes == 0 => {
                member.counters.unsolicited = member.counters.unsolicited.saturating_add(1);
            }
            PingState::Answered { echoes } => *echoes -= 1,
            PingState::Missed { echoes } => {
                *echoes -= 1;
                member.counters.late = member.counters.late.saturating_add(u32::from(!probe));
            }
            PingState::Waiting => {
                let round_trip_us = ping.round_trip(attempt, now);
                self.due.remove(&Due { at: ping.due, slot, number });
                self.probes -= usize::from(probe);
                ping.state = PingState::Answered { echoes: ping.tries - 1 };
                if ping.tries == 1 {
                    // Nothing more can come of it: whatever does, nobody asked for.
                    member.pings.remove(at);
                }
                member.forget_old();
                if probe {
                    self.end_probe(number, true, effects);
                } else {
                    member.counters.answered = member.counters.answered.saturating_add(1);
                    if let Some(micros) = round_trip_us {
                        member.counters.round_trips.record(micros);
                    }
                    let outcome = Outcome::Answered { round_trip_us };
                    effects.push(Effect::Judged { member: id.clone(), outcome });
                }
                self.heard(slot, now, effects);
            }
        }
    }

    /// A member has answered. One that is still not up is asked once more at once.
    fn heard(&mut self, slot: u32, now: Micros, effects: &mut Vec<Effect>) {
        let score = self.own.score();
        let member = self.member_mut(slot);
        let misses = member.suspicion.answered(member.level);
        let level = member.suspicion.level(member.level, score);
        self.change_level(slot, level, misses, effects);
        if level != Level::Up && self.member(slot).waiting() == 0 && self.probes < PROBES_MAX {
            self.probe(slot, now, effects);
        }
    }

    fn change_level(&mut self, slot: u32, to: Level, misses: u32, effects: &mut Vec<Effect>) {
        let member = self.member_mut(slot);
        let from = std::mem::replace(&mut member.level, to);
        if from != to {
            effects.push(Effect::Edge { member: member.id.clone(), from, to, misses });
            *self.counts.of(from) -= 1;
            *self.counts.of(to) += 1;
        }
    }

    fn cut(&mut self, now: Micros, interval: IntervalId) -> Frozen {
        // A node that catches up applies many cuts in one go: it saw none of those intervals.
        let whole_interval = self.last_cut.is_some_and(|(last, at)| {
            Some(interval.0) == last.0.checked_add(1) && now.since(at) >= self.config.ping_every
        });
        self.last_cut = Some((interval, now));
        let mut rows: Vec<Row> = Vec::with_capacity(self.index.len() + self.departed.len());
        for (id, (counters, version)) in std::mem::take(&mut self.departed) {
            rows.extend(counters.row(&id, version));
        }
        for (id, &slot) in &self.index {
            let member = self.slots[slot as usize].as_mut().expect("the index names only slots in use");
            rows.extend(std::mem::take(&mut member.counters).row(id, member.version));
        }
        rows.sort_by(|a, b| a.member.cmp(&b.member));
        Frozen { interval, rows, health: self.own.report(whole_interval) }
    }

    fn handle_timing(&mut self, now: Micros, ping_every: Duration, ping_timeout: Duration) {
        self.config.ping_timeout = ping_timeout;
        let ping_every = ping_every.max(Duration::from_millis(1));
        if ping_every != self.config.ping_every {
            self.config.ping_every = ping_every;
            for slot in self.index.values().copied().collect::<Vec<_>>() {
                self.schedule(slot, now);
            }
        }
    }

    fn handle_stall(&mut self, now: Micros, span: Duration, effects: &mut Vec<Effect>) {
        self.own.stalled(now, span);
        if span >= STALL_COUNTED {
            self.frozen_until = now.after(self.config.ping_timeout * 2);
        }
        if span < STALL_FORGIVEN {
            return;
        }
        for slot in self.index.values().copied().collect::<Vec<_>>() {
            if self.member(slot).next <= now {
                self.schedule(slot, now);
            }
            let due = now.after(self.config.ping_timeout);
            let member = self.slots[slot as usize].as_mut().expect("the index names only slots in use");
            for ping in member.pings.iter_mut().filter(|ping| ping.state == PingState::Waiting) {
                if ping.try_again(now, true) {
                    self.due.remove(&Due { at: ping.due, slot, number: ping.number });
                    ping.due = due;
                    self.due.insert(Due { at: due, slot, number: ping.number });
                    let (member, target) = (member.id.clone(), member.target.clone());
                    effects.push(Effect::Ping { member, target, seq: ping.seq() });
                }
            }
        }
    }

    fn run_due(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        while let Some(due) = self.due.first().copied().filter(|due| due.at <= now) {
            if due.number == 0 {
                self.schedule(due.slot, now);
                self.ping(due.slot, now, effects);
            } else {
                self.due.remove(&due);
                self.handle_timeout(due, now, effects);
            }
        }
    }

    /// Moves a member's entry in the queue to its next slot after `now`.
    fn schedule(&mut self, slot: u32, now: Micros) {
        let member = self.member(slot);
        let (before, next) = (member.next, self.next_slot(member.phase, now));
        self.due.remove(&Due { at: before, slot, number: 0 });
        self.due.insert(Due { at: next, slot, number: 0 });
        self.member_mut(slot).next = next;
    }

    /// The first moment after `now` that lies at the offset `hash` within a ping period, on the grid.
    fn next_slot(&self, hash: u64, now: Micros) -> Micros {
        let every = u64::try_from(self.config.ping_every.as_micros()).unwrap_or(u64::MAX);
        let into = now.0 % every;
        let grid = u64::try_from(GRID.as_micros()).unwrap_or(u64::MAX).min(every.div_ceil(GRID_SHARE));
        let phase = hash % every;
        let phase = phase - phase % grid;
        let wait = if phase > into { phase - into } else { every - into + phase };
        Micros(now.0.saturating_add(wait))
    }

    fn ping(&mut self, slot: u32, now: Micros, effects: &mut Vec<Effect>) {
        if self.member(slot).waiting() >= WAITING_MAX {
            return;
        }
        let due = now.after(self.config.ping_timeout);
        let number = self.next_number;
        self.next_number += 1;
        let ping = Ping::new(number, now, due);
        let seq = ping.seq();
        self.due.insert(Due { at: due, slot, number });
        let member = self.member_mut(slot);
        member.pings.push(ping);
        effects.push(Effect::Ping { member: member.id.clone(), target: member.target.clone(), seq });
    }

    fn handle_timeout(&mut self, due: Due, now: Micros, effects: &mut Vec<Effect>) {
        let timeout = self.config.ping_timeout;
        let member = self.slots[due.slot as usize].as_mut().expect("the queue names only slots in use");
        let found = member.pings.iter_mut().find(|ping| ping.number == due.number);
        let ping = found.expect("the queue has an entry exactly for each waiting ping");
        if !ping.probe && !ping.was_retried() && ping.try_again(now, false) {
            ping.due = now.after(timeout);
            self.due.insert(Due { at: ping.due, ..due });
            let (member, target) = (member.id.clone(), member.target.clone());
            effects.push(Effect::Ping { member, target, seq: ping.seq() });
            self.miss_try(due.slot, now, effects);
            return;
        }
        let probe = ping.probe;
        self.probes -= usize::from(probe);
        ping.state = PingState::Missed { echoes: ping.tries };
        if !probe {
            member.counters.missed = member.counters.missed.saturating_add(1);
            effects.push(Effect::Judged { member: member.id.clone(), outcome: Outcome::Missed });
        }
        member.forget_old();
        self.miss_try(due.slot, now, effects);
        if probe {
            self.end_probe(due.number, false, effects);
        }
        // Whoever is silent is asked again at once, unless another try is under way, or it is held dead anyway.
        let member = self.member(due.slot);
        if member.level != Level::Down && member.waiting() == 0 && self.probes < PROBES_MAX {
            self.probe(due.slot, now, effects);
        }
    }

    /// A try was not answered in time. While this process may itself be the reason, that says nothing.
    fn miss_try(&mut self, slot: u32, now: Micros, effects: &mut Vec<Effect>) {
        if now < self.frozen_until {
            return;
        }
        let score = self.own.score();
        let member = self.member_mut(slot);
        let before = member.level;
        member.suspicion.missed();
        let (misses, level) = (member.suspicion.misses(), member.suspicion.level(before, score));
        self.change_level(slot, level, misses, effects);
        if misses == 1 || (before == Level::Up && level == Level::Suspect) {
            self.ask_help(slot, now, effects);
        }
    }

    /// One try for the detector alone.
    fn probe(&mut self, slot: u32, now: Micros, effects: &mut Vec<Effect>) -> u64 {
        self.probes += 1;
        let due = now.after(self.config.ping_timeout);
        let number = self.next_number;
        self.next_number += 1;
        let ping = Ping { probe: true, ..Ping::new(number, now, due) };
        let seq = ping.seq();
        self.due.insert(Due { at: due, slot, number });
        let member = self.member_mut(slot);
        member.pings.push(ping);
        effects.push(Effect::Ping { member: member.id.clone(), target: member.target.clone(), seq });
        number
    }

    /// Tells whoever asked for a probe.
    fn end_probe(&mut self, number: u64, alive: bool, effects: &mut Vec<Effect>) {
        if let Some((to, id)) = self.help.for_others.remove(&number) {
            effects.push(Effect::Word { to, id, alive });
        }
    }

    /// Asks two other super-nodes that are up themselves.
    fn ask_help(&mut self, slot: u32, now: Micros, effects: &mut Vec<Effect>) {
        let silent = &self.member(slot).id;
        let candidates: Vec<NodeId> = self
            .nodes
            .iter()
            .map(|&slot| self.member(slot))
            .filter(|member| member.level == Level::Up && member.id != *silent)
            .filter_map(|member| match &member.target {
                Target::Node(node) => Some(node.clone()),
                Target::Agent { .. } => None,
            })
            .collect();
        let silent = silent.clone();
        for helper in self.help.choose(&candidates) {
            // The helper's own try, and the way there and back.
            let patience = self.config.ping_timeout * 2 + HELP_ROUND_TRIP;
            let id = self.help.ask(silent.clone(), helper.clone(), now, patience);
            effects.push(Effect::AskHelp { helper, id, member: silent.clone() });
        }
    }

    fn handle_help(
        &mut self,
        now: Micros,
        from: NodeId,
        id: u64,
        member: &MemberId,
        effects: &mut Vec<Effect>,
    ) {
        let slot = self.index.get(member).copied();
        let free = |slot: &u32| {
            self.help.for_others.len() < QUESTIONS_MAX && self.member(*slot).waiting() < WAITING_MAX
        };
        match slot.filter(free) {
            Some(slot) => {
                let number = self.probe(slot, now, effects);
                self.help.for_others.insert(number, (from, id));
            }
            None => effects.push(Effect::Word { to: from, id, alive: false }),
        }
    }

    fn handle_word(&mut self, from: &NodeId, id: u64, alive: bool) {
        let Some(asked) = self.help.answered(from, id) else { return };
        if alive && let Some(&slot) = self.index.get(&asked.member) {
            self.member_mut(slot).suspicion.vouched();
        }
    }

    /// A helper that is up and says nothing: our own line may be bad.
    fn miss_words(&mut self, now: Micros) {
        while let Some(asked) = self.help.overdue(now) {
            let helper = MemberId::from(&asked.helper);
            if now >= self.frozen_until && self.level(&helper) == Some(Level::Up) {
                self.own.fault();
            }
        }
    }
}

/// A hash of both names: FNV-1a over them, then the finaliser of splitmix64, because FNV alone spreads the last
/// characters (`worker-1`, `worker-2`) badly over the high bits.
fn phase_hash(observer: &MemberId, member: &MemberId) -> u64 {
    let bytes = observer.as_str().bytes().chain([0]).chain(member.as_str().bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod figures;
#[cfg(test)]
mod tests;
