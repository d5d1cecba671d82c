//! One replica, as a synchronous state machine: the time and datagrams go in, datagrams come out.
//!
//! ```text
//!   loop {
//!       wait for a datagram, or until replica.deadline()
//!       for everything that is there: replica.receive(now, datagram); else replica.tick(now)
//!       send everything in replica.take(now)
//!   }
//! ```
//!
//! Where a request goes. A leader gives a put to the core and answers when it is applied; a get it answers by its lease, or
//! after a round of questions. A follower redirects to a leader that it heard a moment ago, and holds the request
//! otherwise until it knows: an answer may be late, but a client that is sent to a dead leader gets none. Three rules keep
//! an answer true:
//!
//! * A put that is in the log is never failed nor redirected before the entry of another term stands in its place,
//!   committed: until then it may yet be.
//! * A leader whose last put has waited too long takes up no more: cut off from the majority, it has few puts at risk.
//! * Who knows of no leader for long and hears no majority, as in the minority of a partition, sends clients to somebody it
//!   does not hear: clients reach replicas that the replica itself does not. Nothing of the request was begun.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::codec;
use crate::raft::{
    Body as Says, Config, Configuration, Effect, ElectionReason, Entry, Input, Message, Payload, Raft,
    Recovered,
};
use crate::sim::dice::Dice;
use crate::types::{Index, Micros, NodeId};

use super::detector::{Detector, Verdict};
use super::requests::{Ask, Request, Requests};
use super::wire::{BROADCAST, Body, Packet, pack, unpack};

/// The shortest time from the start of a replica to the first election: by then all others have said hello. A message to
/// one that has not would count as its death.
pub const FIRST_ELECTION: Duration = Duration::from_millis(2_200);
/// Election timeouts. Long, because heartbeats are sparse; a dead leader is found by asking it (see `detector`).
/// Every candidacy costs a replica that is cut off a dozen messages.
const ELECTION: (Duration, Duration) = (Duration::from_millis(2_200), Duration::from_millis(3_000));
/// A follower that nothing was sent to for so long gets a heartbeat, or the entries that it lacks.
const HEARTBEAT: Duration = Duration::from_millis(1_000);
/// How long a follower stays loyal to a leader that it has heard, whatever its detector says. The lease is nine tenths of it.
const PROMISE: Duration = Duration::from_millis(200);
/// The shortest wait before an unanswered append is sent again; several round trips through the simulator.
const RESEND: Duration = Duration::from_micros(2_500);
/// Most bytes of entries in one append: in Base64, with all around it, they fit a datagram.
const APPEND_BYTES_MAX: usize = 32 << 10;
/// Longest put, key and value in bytes: one entry with all around it fits a datagram.
const PUT_BYTES_MAX: usize = 44 << 10;
/// A leader whose oldest put has waited for so long takes up no more puts until that is committed.
const STALL: Duration = Duration::from_millis(100);
/// A request that has been held for so long without a leader is sent elsewhere.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// One replica.
#[derive(Debug)]
pub struct Replica {
    id: NodeId,
    others: Vec<NodeId>,
    raft: Raft,
    dice: Dice,
    /// The store: values as JSON texts.
    state: BTreeMap<String, String>,
    applied: Index,
    requests: Requests,
    /// Gets that may be answered once so much is applied.
    reads: Vec<(Index, Request)>,
    detector: Detector,
    /// Whose life the detector watches.
    watched: Option<NodeId>,
    /// When each of the others was last heard.
    heard: BTreeMap<NodeId, Micros>,
    out: Vec<Packet>,
}

impl Replica {
    /// A replica that has just started. `seed`: of everything that it draws.
    pub fn new(id: NodeId, others: BTreeSet<NodeId>, seed: u64, now: Micros) -> Replica {
        let mut dice = Dice::new(seed);
        let mut voters = others.clone();
        voters.insert(id.clone());
        let config = Config {
            id: id.clone(),
            election_min: ELECTION.0,
            election_max: ELECTION.1,
            heartbeat: HEARTBEAT,
            lease: Some(PROMISE),
            promise: Some(PROMISE),
            thrift: Some(RESEND),
            append_bytes_max: APPEND_BYTES_MAX,
            ..Config::default()
        };
        let configuration = Configuration { voters, ..Configuration::default() };
        // The core's time stands still until the quiet time at the start is over; then its first timeout runs.
        let quiet = FIRST_ELECTION.saturating_sub(ELECTION.0);
        let (empty, begin, entropy) = (Recovered::default(), now.after(quiet), dice.word());
        let raft = Raft::new(config, configuration, empty, Index(0), begin, entropy)
            .expect("an empty log is a sound one");
        let others: Vec<NodeId> = others.into_iter().filter(|other| *other != id).collect();
        let mut replica = Replica {
            id,
            others,
            raft,
            dice,
            state: BTreeMap::new(),
            applied: Index(0),
            requests: Requests::default(),
            reads: Vec::new(),
            detector: Detector::default(),
            watched: None,
            heard: BTreeMap::new(),
            out: Vec::new(),
        };
        replica.send(BROADCAST, Body::Hello);
        replica
    }

    /// A datagram came. What is none of this protocol, or for somebody else, is dropped.
    pub fn receive(&mut self, now: Micros, datagram: &[u8]) {
        let Some(packet) = Packet::parse(datagram) else { return };
        if packet.dst != self.id.as_str() && packet.dst != BROADCAST {
            return;
        }
        if let Some(other) = self.others.iter().find(|other| other.as_str() == packet.src) {
            self.heard.insert(other.clone(), now);
        }
        match packet.body {
            Body::Get { mid, key } => {
                self.arrive(Request {
                    client: packet.src,
                    mid,
                    arrived: now,
                    ask: Ask::Get { key: name(key) },
                });
            }
            Body::Put { mid, key, value } => {
                let command = codec::encode(&(name(key), value.to_string()));
                let fits = command.len() <= PUT_BYTES_MAX;
                let request = Request { client: packet.src, mid, arrived: now, ask: Ask::Put { command } };
                if fits { self.arrive(request) } else { self.refuse(request) }
            }
            Body::Raft { data } => {
                if let Some((from, message)) = packet.src.parse().ok().zip(unpack(&data)) {
                    self.handle(now, from, message);
                }
            }
            Body::Ping => {
                let leads = self.raft.leads().is_some() && !self.is_stalled(now);
                self.send(&packet.src, Body::Pong { leads });
            }
            Body::Pong { leads } => {
                if let Some(leader) = self.watched.clone().filter(|leader| leader.as_str() == packet.src) {
                    if leads { self.detector.heard(now) } else { self.leader_is_gone(now, leader) }
                }
            }
            Body::Hello | Body::Ok { .. } | Body::Fail { .. } | Body::Redirect { .. } => {}
        }
    }

    /// Time has passed; due at [`Replica::deadline`], harmless otherwise.
    pub fn tick(&mut self, now: Micros) {
        self.step(now, Input::Tick);
    }

    /// When [`Replica::tick`] is due. Valid after [`Replica::take`].
    pub fn deadline(&self) -> Micros {
        let held = match self.raft.leads() {
            None => self.requests.held_since().map_or(Micros(u64::MAX), |since| self.guess_after(since)),
            // Whatever it waits for comes as a message, or from the core.
            Some(_) => Micros(u64::MAX),
        };
        self.raft.deadline().min(self.detector.deadline()).min(held)
    }

    /// Ends the batch: the datagrams to send.
    pub fn take(&mut self, now: Micros) -> Vec<Vec<u8>> {
        self.settle(now);
        self.watch();
        self.serve(now);
        match (self.detector.tick(now), self.watched.clone()) {
            (Verdict::Ask, Some(leader)) => self.send(leader.as_str(), Body::Ping),
            (Verdict::Silent, Some(leader)) => self.leader_is_gone(now, leader),
            _ => {}
        }
        self.settle(now);
        let leader = self.raft.leader().map_or(BROADCAST, NodeId::as_str);
        // A redirect has named somebody already.
        for packet in self.out.iter_mut().filter(|packet| packet.leader.is_empty()) {
            leader.clone_into(&mut packet.leader);
        }
        self.out.drain(..).map(|packet| packet.to_bytes()).collect()
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<&NodeId> {
        self.raft.leader()
    }

    fn step(&mut self, now: Micros, input: Input) {
        let entropy = self.dice.word();
        self.raft.step(now, entropy, input);
    }

    fn send(&mut self, to: &str, body: Body) {
        let (src, dst) = (self.id.as_str().to_string(), to.to_string());
        self.out.push(Packet { src, dst, leader: String::new(), body });
    }

    fn arrive(&mut self, request: Request) {
        if let Some(refused) = self.requests.arrive(request) {
            self.refuse(refused);
        }
    }

    /// Was never begun and never will be.
    fn refuse(&mut self, request: Request) {
        self.send(&request.client, Body::Fail { mid: request.mid });
    }

    fn handle(&mut self, now: Micros, from: NodeId, message: Message) {
        let speaks = matches!(message.body, Says::AppendRequest { .. } | Says::Heartbeat { .. });
        let doubts = matches!(message.body, Says::PreVoteRequest { .. });
        self.step(now, Input::Message { from: from.clone(), message });
        self.watch();
        if speaks && self.watched.as_ref() == Some(&from) {
            self.detector.heard(now);
        } else if doubts && self.watched.is_some() {
            // Somebody does not hear the leader. Does it still live?
            self.detector.suspect(now);
        }
    }

    fn leader_is_gone(&mut self, now: Micros, leader: NodeId) {
        self.step(now, Input::PeerSilent { node: leader, reason: ElectionReason::PingsSilent });
        self.watch();
    }

    /// Keeps the detector on whoever leads, other than this replica.
    fn watch(&mut self) {
        let leader = self.raft.leader().filter(|leader| **leader != self.id);
        if leader != self.watched.as_ref() {
            self.watched = leader.cloned();
            self.detector.reset();
        }
    }

    /// Whether this leader has waited for a commit so long that it may be cut off.
    fn is_stalled(&self, now: Micros) -> bool {
        let since = self.raft.leads().and_then(|term| self.requests.proposed_since(term));
        since.is_some_and(|since| now.since(since) >= STALL)
    }

    /// Moves every request that is held on its way, as far as that is known.
    fn serve(&mut self, now: Micros) {
        let leads = self.raft.leads().is_some();
        let stalled = self.is_stalled(now);
        let known = self.watched.clone().filter(|_| self.detector.is_fresh(now));
        for request in self.requests.take_held() {
            match (&request.ask, &known) {
                (Ask::Get { .. }, _) if leads => {
                    let request = self.requests.ask(request);
                    self.step(now, Input::Read { request, lease: true });
                }
                (Ask::Put { command }, _) if leads && !stalled => {
                    let command = Bytes::from(command.clone());
                    let request = self.requests.ask(request);
                    self.step(now, Input::Propose { request, command });
                }
                (_, Some(leader)) => self.redirect(request, leader),
                (_, None) if !leads && now >= self.guess_after(request.arrived) => match self.guess(now) {
                    Some(other) => self.redirect(request, &other),
                    None => self.requests.hold(request),
                },
                (_, None) => {
                    if self.watched.is_some() {
                        self.detector.suspect(now);
                    }
                    self.requests.hold(request);
                }
            }
        }
    }

    /// Sends a client to somebody else.
    fn redirect(&mut self, request: Request, to: &NodeId) {
        let (src, leader) = (self.id.as_str().to_string(), to.as_str().to_string());
        self.out.push(Packet { src, dst: request.client, leader, body: Body::Redirect { mid: request.mid } });
    }

    /// When a request that came then is sent elsewhere, if nobody is known to lead by then: not while a majority is
    /// heard, which will have a leader soon, and of which nobody knows more than this replica. The one that is not heard any
    /// more is then most likely the leader that died.
    fn guess_after(&self, arrived: Micros) -> Micros {
        let mut heard: Vec<Micros> = self.heard.values().copied().collect();
        heard.sort_unstable_by(|left, right| right.cmp(left));
        let last_wanted = self.others.len().div_ceil(2).saturating_sub(1);
        let majority = heard.get(last_wanted).copied().unwrap_or_default();
        arrived.max(majority).after(PATIENCE)
    }

    /// Somebody else who may know who leads. Whoever is heard now knows as little as this replica, on the same side of a
    /// partition; of the rest, the one that was heard last is the likeliest to live.
    fn guess(&self, now: Micros) -> Option<NodeId> {
        let heard = |other: &&NodeId| self.heard.get(*other).copied();
        let absent = |other: &&NodeId| heard(other).is_none_or(|at| now.since(at) >= PATIENCE);
        let others = || self.others.iter();
        others().filter(absent).max_by_key(heard).or_else(|| others().max_by_key(heard)).cloned()
    }

    /// Does what the core wants, until it wants nothing more.
    fn settle(&mut self, now: Micros) {
        loop {
            let effects = self.raft.take_effects(now);
            if effects.is_empty() {
                return;
            }
            let mut written = None;
            for effect in effects {
                match effect {
                    Effect::Persist(persist) => written = Some(persist.seq),
                    Effect::Send { to, message } => {
                        self.send(to.as_str(), Body::Raft { data: pack(&message) });
                    }
                    Effect::Apply { entries } => entries.into_iter().for_each(|entry| self.apply(entry)),
                    Effect::Proposed { request, index, term } => {
                        self.requests.proposed(request, index, term, now);
                    }
                    Effect::ReadReady { request, index } => {
                        self.reads.extend(self.requests.decided(request).map(|request| (index, request)));
                    }
                    Effect::Refused { request, .. } => {
                        if let Some(request) = self.requests.decided(request) {
                            self.requests.hold(request);
                        }
                    }
                    // Nothing is ever compacted, nobody transfers leadership, and nobody reads events.
                    Effect::SendSnapshot { .. } | Effect::Transferring { .. } | Effect::Event(_) => {}
                }
            }
            self.answer_reads();
            if let Some(seq) = written {
                self.step(now, Input::Persisted { seq });
            }
        }
    }

    fn apply(&mut self, entry: Entry) {
        self.applied = entry.index;
        if let Payload::Command(command) = &entry.payload
            && let Ok((key, value)) = codec::decode::<(String, String)>(command)
        {
            self.state.insert(key, value);
        }
        let (done, lost) = self.requests.applied(entry.index, entry.term);
        if let Some(request) = done {
            self.send(&request.client, Body::Ok { mid: request.mid, value: None });
        }
        // They have not happened and cannot any more: they begin anew.
        lost.into_iter().for_each(|request| self.requests.hold(request));
    }

    fn answer_reads(&mut self) {
        for (index, request) in std::mem::take(&mut self.reads) {
            if index > self.applied {
                self.reads.push((index, request));
                continue;
            }
            let Ask::Get { key } = &request.ask else { continue };
            let stored = self.state.get(key).and_then(|text| serde_json::from_str(text).ok());
            let value = Some(stored.unwrap_or_else(|| Value::String(String::new())));
            self.send(&request.client, Body::Ok { mid: request.mid, value });
        }
    }
}

/// A key as a name: a text is itself, anything else its JSON text.
fn name(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
