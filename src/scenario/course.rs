//! The simulator of the course, as a synchronous machine: it carries the messages of the replicas, plays the clients, kills and
//! parts, and writes down what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::sim::dice::Dice;
use crate::types::Micros;

use super::file::{EventKind, Scenario};
use super::operations::{Answer, Asked, Operation};

/// Everybody; and, as a leader, nobody that is known.
const BROADCAST: &str = "FFFF";
/// The address of the first client.
const FIRST_CLIENT: usize = 0x15;
/// How many clients there are.
const CLIENTS: usize = 8;
/// In so many cases of a thousand a client asks anybody, and not whom it takes for the leader.
const STRAY_PERMILLE: u64 = 100;
/// A request that was failed or redirected so often is given up.
const TRIES_MAX: u32 = 100;
/// So often a client has to wait before it repeats a request that failed.
const FAIL_PAUSE: Duration = Duration::from_millis(10);
/// At most so many requests are about one key, which bounds the search for an order of them.
const REQUESTS_PER_KEY_MAX: u64 = 60;
/// Longest datagram, in bytes.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Most violations of the protocol that are told.
const VIOLATIONS_MAX: usize = 10;

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give this replica this datagram.
    Deliver {
        /// The replica's number.
        to: usize,
        /// The datagram.
        datagram: Vec<u8>,
        /// Whether a client sent it, and not another replica.
        from_client: bool,
    },
    /// Kill this replica for good.
    Kill {
        /// The replica's number.
        replica: usize,
    },
}

/// A replica, as the simulator sees it.
#[derive(Debug, Clone, Default)]
struct Member {
    /// Its hello has come.
    present: bool,
    dead: bool,
    in_majority: bool,
    /// Whom it last named as the leader.
    follows: Option<usize>,
}

/// A request that a client makes, possibly several times.
#[derive(Debug, Clone)]
struct Wish {
    client: usize,
    key: String,
    asked: Asked,
    tries: u32,
}

/// A scenario being played. The shell calls [`Course::receive`] with what replicas send, [`Course::tick`] at
/// [`Course::deadline`], and does what these return.
#[derive(Debug)]
pub struct Course {
    scenario: Scenario,
    drops: Dice,
    wishes: Dice,
    events: Dice,
    members: Vec<Member>,
    parted: bool,
    /// Whom each client takes for the leader.
    leaders: Vec<Option<usize>>,
    requests_made: u64,
    events_done: usize,
    repeats: BTreeMap<(Micros, usize), Wish>,
    waiting: BTreeMap<String, (usize, Wish)>,
    /// All that clients sent, in order.
    pub operations: Vec<Operation>,
    /// Messages between replicas, lost ones included.
    pub messages: u64,
    /// Answers to what was answered already.
    pub duplicates: u64,
    /// Replicas that died without being killed, and how.
    pub deaths: Vec<String>,
    /// Datagrams that broke the protocol.
    pub violations: Vec<String>,
    /// What happened to the replicas, in words.
    pub story: Vec<String>,
}

/// The address of a replica or client.
pub fn address(number: usize) -> String {
    format!("{number:04X}")
}

impl Course {
    /// At its beginning.
    pub fn new(scenario: Scenario, seed: u64) -> Course {
        Course {
            drops: Dice::stream(seed, 1),
            wishes: Dice::stream(seed, 2),
            events: Dice::stream(seed, 3),
            members: vec![Member::default(); scenario.replicas],
            parted: false,
            leaders: vec![None; CLIENTS],
            requests_made: 0,
            events_done: 0,
            repeats: BTreeMap::new(),
            waiting: BTreeMap::new(),
            operations: Vec::new(),
            messages: 0,
            duplicates: 0,
            deaths: Vec::new(),
            violations: Vec::new(),
            story: Vec::new(),
            scenario,
        }
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// When everything is over.
    pub fn end(&self) -> Micros {
        Micros(0).after(self.scenario.length())
    }

    /// Whether this replica still runs, as far as the simulator is concerned.
    pub fn is_alive(&self, replica: usize) -> bool {
        !self.members[replica].dead
    }

    fn at(&self, seconds: f64) -> Micros {
        Micros(0).after(Duration::from_secs_f64(self.scenario.start_wait + seconds))
    }

    fn next_request(&self) -> Option<Micros> {
        let Scenario { requests, lifetime, .. } = self.scenario;
        (self.requests_made < requests)
            .then(|| self.at(lifetime * self.requests_made as f64 / requests as f64))
    }

    fn next_event(&self) -> Option<Micros> {
        self.scenario.events.get(self.events_done).map(|event| self.at(event.time))
    }

    /// When [`Course::tick`] is due.
    pub fn deadline(&self) -> Micros {
        let repeat = self.repeats.keys().next().map(|(at, _)| *at);
        [self.next_request(), self.next_event(), repeat].into_iter().flatten().min().unwrap_or(self.end())
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Micros) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.next_event().is_some_and(|at| at <= now) {
            let kind = self.scenario.events[self.events_done].kind;
            self.events_done += 1;
            self.happen(now, kind, &mut actions);
        }
        while self.next_request().is_some_and(|at| at <= now) {
            let wish = self.next_wish();
            self.requests_made += 1;
            let target = self.choose_target(wish.client);
            self.ask(now, wish, target, &mut actions);
        }
        while let Some(entry) = self.repeats.first_entry().filter(|entry| entry.key().0 <= now) {
            let wish = entry.remove();
            let target = self.choose_target(wish.client);
            self.ask(now, wish, target, &mut actions);
        }
        actions
    }

    /// A replica's process ended by itself.
    pub fn died(&mut self, replica: usize, how: &str) {
        if !std::mem::replace(&mut self.members[replica].dead, true) {
            self.deaths.push(format!("{} {how}", address(replica)));
        }
    }

    fn living(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|replica| self.is_alive(*replica)).collect()
    }

    /// Whom most of the living take for the leader; among equals, who takes itself for it.
    fn leader(&self) -> Option<usize> {
        let mut votes: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
        for replica in self.living() {
            if let Some(leader) = self.members[replica].follows.filter(|leader| self.is_alive(*leader)) {
                let vote = votes.entry(leader).or_default();
                *vote = (vote.0 + 1, vote.1 || leader == replica);
            }
        }
        votes.into_iter().max_by_key(|(_, vote)| *vote).map(|(leader, _)| leader)
    }

    fn happen(&mut self, now: Micros, kind: EventKind, actions: &mut Vec<Action>) {
        let leader = self.leader();
        let living = self.living();
        let seconds = now.0 as f64 / 1e6;
        match kind {
            EventKind::KillLeader | EventKind::KillNonLeader => {
                let of_kind = |replica: &usize| (Some(*replica) == leader) == (kind == EventKind::KillLeader);
                let choice: Vec<usize> = living.into_iter().filter(of_kind).collect();
                if choice.is_empty() {
                    self.story.push(format!("{seconds:.1} s: nobody leads, nobody is killed"));
                    return;
                }
                let replica = *self.events.pick(&choice);
                self.story.push(format!("{seconds:.1} s: {} is killed", address(replica)));
                self.members[replica].dead = true;
                // A client that meets a closed door looks elsewhere.
                self.leaders
                    .iter_mut()
                    .filter(|known| **known == Some(replica))
                    .for_each(|known| *known = None);
                actions.push(Action::Kill { replica });
            }
            EventKind::PartEasy | EventKind::PartHard => {
                let mut rest = living;
                let mut majority = BTreeSet::new();
                if let Some(leader) = leader.filter(|_| kind == EventKind::PartEasy) {
                    rest.retain(|replica| *replica != leader);
                    majority.insert(leader);
                }
                while majority.len() < self.members.len() / 2 + 1 && !rest.is_empty() {
                    let at = self.events.below(rest.len() as u64);
                    majority.insert(rest.swap_remove(usize::try_from(at).expect("few replicas")));
                }
                let names: Vec<String> = majority.iter().map(|replica| address(*replica)).collect();
                self.story.push(format!("{seconds:.1} s: {} are parted from the others", names.join(", ")));
                for (replica, member) in self.members.iter_mut().enumerate() {
                    member.in_majority = majority.contains(&replica);
                }
                self.parted = true;
            }
            EventKind::PartEnd => {
                self.story.push(format!("{seconds:.1} s: all are together again"));
                self.parted = false;
            }
        }
    }

    fn next_wish(&mut self) -> Wish {
        let number = self.requests_made;
        let keys = self.scenario.requests.div_ceil(REQUESTS_PER_KEY_MAX / 2).max(4);
        // A key in its turn, but for a shuffle of the turns: so none is asked for too often.
        let key = (number / keys * 7 + number + self.wishes.below(2)) % keys;
        let reads = self.wishes.below(1_000_000) < (self.scenario.mix * 1e6) as u64;
        let asked = if reads { Asked::Get } else { Asked::Put(format!("value {number}")) };
        let client = usize::try_from(number % CLIENTS as u64).expect("few clients");
        Wish { client, key: format!("key {key}"), asked, tries: 0 }
    }

    fn choose_target(&mut self, client: usize) -> usize {
        let stray = self.wishes.below(1_000) < STRAY_PERMILLE;
        if let Some(leader) = self.leaders[client].filter(|leader| !stray && self.is_alive(*leader)) {
            return leader;
        }
        let living = self.living();
        if living.is_empty() { 0 } else { *self.wishes.pick(&living) }
    }

    fn ask(&mut self, now: Micros, wish: Wish, target: usize, actions: &mut Vec<Action>) {
        let mid = format!("{:08X}", self.operations.len());
        let mut message = json!({
            "src": address(FIRST_CLIENT + wish.client),
            "dst": address(target),
            "leader": self.leaders[wish.client].map_or(BROADCAST.to_string(), address),
            "MID": mid,
            "key": wish.key,
        });
        // No two puts write one value, not even two tries of one: so an answer tells which of them it has seen.
        let asked = match &wish.asked {
            Asked::Put(value) if wish.tries > 0 => Asked::Put(format!("{value} try {}", wish.tries + 1)),
            asked => asked.clone(),
        };
        match &asked {
            Asked::Get => message["type"] = json!("get"),
            Asked::Put(value) => {
                message["type"] = json!("put");
                message["value"] = json!(value);
            }
        }
        self.operations.push(Operation {
            key: wish.key.clone(),
            asked: asked.clone(),
            replica: target,
            sent: now,
            answer: None,
        });
        self.waiting.insert(mid, (self.operations.len() - 1, wish));
        self.deliver(target, message.to_string().into_bytes(), true, actions);
    }

    fn deliver(&mut self, to: usize, datagram: Vec<u8>, from_client: bool, actions: &mut Vec<Action>) {
        if self.members[to].dead {
            return;
        }
        if !self.members[to].present {
            self.died(to, "was sent something before it had said hello");
            actions.push(Action::Kill { replica: to });
            return;
        }
        actions.push(Action::Deliver { to, datagram, from_client });
    }

    fn violation(&mut self, from: usize, what: &str) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("{}: {what}", address(from)));
        }
    }

    /// A replica sent something.
    pub fn receive(&mut self, now: Micros, from: usize, datagram: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.members[from].dead {
            return actions;
        }
        let message: Option<Value> =
            serde_json::from_slice(datagram).ok().filter(|_| datagram.len() <= DATAGRAM_BYTES_MAX);
        let Some(message) = message.filter(Value::is_object) else {
            self.violation(from, "sent a datagram that is no JSON object or is too long");
            return actions;
        };
        let field = |name: &str| message[name].as_str();
        let (Some(src), Some(dst), Some(leader), Some(kind)) =
            (field("src"), field("dst"), field("leader"), field("type"))
        else {
            self.violation(from, "sent a message without src, dst, leader or type");
            return actions;
        };
        if src != address(from) {
            self.violation(from, "sent a message in another's name");
            return actions;
        }
        self.members[from].present = true;
        let leader = self.replica_named(leader);
        self.members[from].follows = leader;
        if let Some(client) =
            usize::from_str_radix(dst, 16).ok().and_then(|dst| dst.checked_sub(FIRST_CLIENT))
            && client < CLIENTS
        {
            self.answered(now, from, client, leader, kind, &message, &mut actions);
            return actions;
        }
        let receivers: Vec<usize> = if dst == BROADCAST {
            (0..self.members.len()).filter(|to| *to != from).collect()
        } else {
            self.replica_named(dst).into_iter().filter(|to| *to != from).collect()
        };
        self.messages += receivers.len() as u64;
        if kind == "hello" {
            return actions;
        }
        if receivers.is_empty() {
            self.violation(from, "sent a message to nobody");
        }
        for to in receivers {
            let cut = self.parted && self.members[from].in_majority != self.members[to].in_majority;
            let lost = self.drops.below(1_000_000) < (self.scenario.drops * 1e6) as u64;
            if !cut && !lost {
                self.deliver(to, datagram.to_vec(), false, &mut actions);
            }
        }
        actions
    }

    fn replica_named(&self, address: &str) -> Option<usize> {
        usize::from_str_radix(address, 16).ok().filter(|replica| *replica < self.members.len())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one message")]
    fn answered(
        &mut self,
        now: Micros,
        from: usize,
        client: usize,
        leader: Option<usize>,
        kind: &str,
        message: &Value,
        actions: &mut Vec<Action>,
    ) {
        let answer = match kind {
            "ok" => Answer::Ok(message["value"].as_str().map(str::to_string)),
            "fail" => Answer::Fail,
            "redirect" => Answer::Redirect,
            _ => return self.violation(from, "sent a client something that is no answer"),
        };
        let mid = message["MID"].as_str().unwrap_or_default();
        let Some((number, mut wish)) = self.waiting.remove(mid) else {
            let known = usize::from_str_radix(mid, 16).is_ok_and(|number| number < self.operations.len());
            if known {
                self.duplicates += 1;
            } else {
                self.violation(from, "answered what nobody asked");
            }
            return;
        };
        let operation = &mut self.operations[number];
        operation.answer = Some((now, answer.clone()));
        if operation.asked == Asked::Get && answer == Answer::Ok(None) {
            self.violation(from, "answered a get without a value");
        }
        self.leaders[client] = leader.filter(|leader| self.is_alive(*leader));
        wish.tries += 1;
        if wish.tries >= TRIES_MAX || now >= self.end() {
            return;
        }
        match answer {
            Answer::Ok(_) => {}
            Answer::Fail => {
                self.repeats.insert((now.after(FAIL_PAUSE), number), wish);
            }
            Answer::Redirect => {
                let target = leader.unwrap_or_else(|| self.choose_target(client));
                self.ask(now, wish, target, actions);
            }
        }
    }
}
