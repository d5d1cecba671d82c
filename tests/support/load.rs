//! Clients that write and read through every node at once, and note what they were told for the oracle.
//!
//! Each node has a lane of clients. A lane asks at a steady pace, whether or not earlier questions were answered: a
//! frozen or cut off node is asked all the time, and the answers that it gives when it wakes up are the ones in which
//! staleness would show. Some clients give up early, some wait for long.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::dice::Dice;
use crate::oracle::{Action, Micros, Operation, Outcome, Seen};

/// Between two questions to one node.
const PACE: Duration = Duration::from_millis(12);
/// Unanswered questions to one node; beyond that its lane waits.
const UNANSWERED_MAX: usize = 64;
/// How long clients wait for an answer: some give up before an election ends, some after a long freeze.
const TIMEOUTS_MS: [u64; 4] = [300, 1_000, 2_000, 5_000];
/// How long a client repeats a write that it sent under an idempotency key.
const REPEAT_MAX: Duration = Duration::from_secs(6);
/// Registers, which everybody writes.
const REGISTERS: usize = 4;
/// Keys of their own that are read again.
const RECENT_MAX: usize = 64;

/// The clients of a cluster. Clones share everything.
#[derive(Clone)]
pub struct Load(Arc<Inner>);

struct Inner {
    begun: Instant,
    operations: Mutex<Vec<Operation>>,
    /// The nodes that are asked: id and base URL.
    targets: Mutex<Vec<(String, String)>>,
    /// Keys of their own that were acknowledged a short while ago.
    recent: Mutex<VecDeque<String>>,
    stop: AtomicBool,
    values: AtomicU64,
    http: reqwest::Client,
    tasks: TaskTracker,
    /// Whether half of the reads may be answered from the leader's lease.
    leases: bool,
    /// Requests that were not answered as asked, reads included.
    failed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// No clients yet: see [`Load::ask`].
    pub fn begin(leases: bool) -> Load {
        let http = super_node::network::tls::http(None)
            .expect("public authorities")
            .no_proxy()
            .connect_timeout(Duration::from_secs(1))
            .build()
            .expect("an HTTP client");
        Load(Arc::new(Inner {
            begun: Instant::now(),
            operations: Mutex::default(),
            targets: Mutex::default(),
            recent: Mutex::default(),
            stop: AtomicBool::new(false),
            values: AtomicU64::new(1),
            http,
            tasks: TaskTracker::new(),
            leases,
            failed: AtomicU64::new(0),
        }))
    }

    /// Now, on the clock of the history.
    pub fn now(&self) -> Micros {
        u64::try_from(self.0.begun.elapsed().as_micros()).expect("a test is short") + 1
    }

    /// Begins to ask a node.
    pub fn ask(&self, id: &str, url: &str, dice: Dice) {
        lock(&self.0.targets).push((id.to_string(), url.to_string()));
        let lane =
            Lane { load: self.clone(), id: id.to_string(), url: url.to_string(), dice, known: Vec::new() };
        self.0.tasks.spawn(lane.run());
    }

    /// Asks a node no more.
    pub fn leave(&self, id: &str) {
        lock(&self.0.targets).retain(|(known, _)| known != id);
    }

    fn is_asked(&self, id: &str) -> bool {
        !self.0.stop.load(Ordering::Relaxed) && lock(&self.0.targets).iter().any(|(known, _)| known == id)
    }

    /// Many patient linearizable reads of the registers through one node, all at once; does not wait for the answers.
    /// Asked of a frozen node, they are answered when it wakes up.
    pub fn burst(&self, id: &str, url: &str, count: usize) {
        for number in 0..count {
            let (load, id, url) = (self.clone(), id.to_string(), url.to_string());
            let key = format!("register{}", number % REGISTERS);
            self.0.tasks.spawn(async move { load.read(&id, &url, &key, Duration::from_secs(5)).await });
        }
    }

    /// Acknowledged writes that were asked for after a moment.
    pub fn acknowledged_since(&self, moment: Micros) -> usize {
        let operations = lock(&self.0.operations);
        // They are noted when they return.
        let recent = operations.iter().rev().take_while(|operation| operation.returned > moment);
        recent.filter(|operation| operation.invoked > moment && is_acknowledged(operation)).count()
    }

    /// Ends the clients and waits for their last answers; gives the whole history.
    pub async fn end(&self) -> Vec<Operation> {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.tasks.close();
        self.0.tasks.wait().await;
        // Whoever finds the key gone after this is told so by the oracle, as by any other reader.
        let targets = lock(&self.0.targets).clone();
        for (id, url) in targets {
            for register in 0..REGISTERS {
                self.read(&id, &url, &format!("register{register}"), Duration::from_secs(10)).await;
            }
        }
        std::mem::take(&mut lock(&self.0.operations))
    }

    /// Requests that were refused, lost, or not answered in time.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    fn note(&self, key: &str, node: &str, invoked: Micros, action: Action) {
        let operation =
            Operation { key: key.to_string(), node: node.to_string(), invoked, returned: self.now(), action };
        lock(&self.0.operations).push(operation);
    }

    /// A linearizable read; gives what was seen.
    async fn read(&self, id: &str, url: &str, key: &str, timeout: Duration) -> Option<Option<Seen>> {
        let invoked = self.now();
        let level = if self.0.leases && invoked.is_multiple_of(2) { "lease" } else { "linearizable" };
        let url = format!("{url}/v1/kv/{key}?level={level}");
        let seen = self.ask_for(&url, timeout).await;
        match seen {
            Some(seen) => self.note(key, id, invoked, Action::Read(seen)),
            None => _ = self.0.failed.fetch_add(1, Ordering::Relaxed),
        }
        seen
    }

    async fn ask_for(&self, url: &str, timeout: Duration) -> Option<Option<Seen>> {
        let answer = self.0.http.get(url).timeout(timeout).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        match status {
            200 => Some(Some(Seen { value: body["value"].as_u64()?, revision: body["revision"].as_u64()? })),
            404 if body["code"] == json!("not_found") => Some(None),
            _ => None,
        }
    }

    /// One attempt to write.
    async fn attempt(&self, url: &str, wish: &Wish<'_>, timeout: Duration) -> Outcome {
        let url = format!("{url}/v1/kv/{}", wish.key);
        let mut request = self.0.http.put(url).json(&json!(wish.value)).timeout(timeout);
        if let Some(expected) = wish.expected {
            request = request.header("If-Match", format!("\"{expected}\""));
        }
        request = match wish.repeat {
            Repeat::Never => request,
            Repeat::UnderKey => request.header("Idempotency-Key", format!("once-{}", wish.value)),
            Repeat::InSession { session, sequence } => request
                .header("Super-Node-Session", session.to_string())
                .header("Super-Node-Sequence", sequence.to_string()),
        };
        let answer = match request.send().await {
            Ok(answer) => answer,
            // The request never left.
            Err(error) if error.is_connect() => return Outcome::NotApplied,
            Err(_) => return Outcome::Unknown,
        };
        let success = answer.status().is_success();
        let Ok(body) = answer.json::<Value>().await else { return Outcome::Unknown };
        match body["revision"].as_u64() {
            Some(revision) if success => Outcome::Acknowledged { revision },
            _ if body["outcome"] == json!("not_applied") => Outcome::NotApplied,
            _ => Outcome::Unknown,
        }
    }

    /// Writes; what can be repeated safely is repeated, through other nodes, while its outcome is unknown.
    async fn write(&self, id: &str, url: &str, wish: Wish<'_>, timeout: Duration, mut dice: Dice) -> Outcome {
        let invoked = self.now();
        let begun = Instant::now();
        let mut outcome = self.attempt(url, &wish, timeout).await;
        if wish.repeat != Repeat::Never && outcome == Outcome::Unknown {
            while begun.elapsed() < REPEAT_MAX && !is_success(outcome) {
                tokio::time::sleep(dice.between(20, 200)).await;
                let targets = lock(&self.0.targets).clone();
                let (_, other) = &targets[dice.below(targets.len())];
                outcome = self.attempt(other, &wish, timeout).await;
            }
            // That a repetition was refused says nothing about the first attempt.
            if !is_success(outcome) {
                outcome = Outcome::Unknown;
            }
        }
        let action = Action::Write { value: wish.value, expected: wish.expected, outcome };
        self.note(wish.key, id, invoked, action);
        if !is_success(outcome) {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
        } else if !wish.key.starts_with("register") {
            let mut recent = lock(&self.0.recent);
            recent.push_back(wish.key.to_string());
            if recent.len() > RECENT_MAX {
                recent.pop_front();
            }
        }
        outcome
    }

    /// A client session; `None`: nobody opened one.
    async fn open_session(&self, url: &str) -> Option<u64> {
        let request = self.0.http.post(format!("{url}/v1/sessions")).timeout(Duration::from_secs(1));
        request.send().await.ok()?.json::<Value>().await.ok()?["session"].as_u64()
    }
}

/// What a client wants to write.
struct Wish<'a> {
    key: &'a str,
    value: u64,
    expected: Option<u64>,
    repeat: Repeat,
}

/// How the cluster can tell that a second copy of a write is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It cannot: the write is sent once.
    Never,
    UnderKey,
    InSession {
        session: u64,
        sequence: u64,
    },
}

/// The clients of one node.
#[derive(Clone)]
struct Lane {
    load: Load,
    id: String,
    url: String,
    dice: Dice,
    /// Per register, the revision that was last seen through this node.
    known: Vec<Arc<AtomicU64>>,
}

impl Lane {
    async fn run(mut self) {
        self.known = (0..REGISTERS).map(|_| Arc::default()).collect();
        let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX));
        while self.load.is_asked(&self.id) {
            if let Ok(permit) = Arc::clone(&unanswered).try_acquire_owned() {
                let asked = self.next();
                self.load.0.tasks.spawn(async move {
                    asked.await;
                    drop(permit);
                });
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// The next question.
    fn next(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let timeout = Duration::from_millis(self.dice.one(&TIMEOUTS_MS));
        let register = self.dice.below(REGISTERS);
        let chance = self.dice.below(100);
        let (load, id, url) = (self.load.clone(), self.id.clone(), self.url.clone());
        let (known, dice) = (Arc::clone(&self.known[register]), self.dice.split());
        async move {
            let mut key = format!("register{register}");
            if chance < 55 {
                if chance < 10 {
                    key = load.recent_key(dice).unwrap_or(key);
                }
                let seen = load.read(&id, &url, &key, timeout).await;
                if let (Some(Some(seen)), true) = (seen, key.starts_with("register")) {
                    known.store(seen.revision, Ordering::Relaxed);
                }
                return;
            }
            let value = load.0.values.fetch_add(1, Ordering::Relaxed);
            let expected =
                (chance < 63).then(|| known.load(Ordering::Relaxed)).filter(|revision| *revision > 0);
            if chance >= 85 {
                key = format!("key{value}");
            }
            let repeat = if (63..73).contains(&chance) { Repeat::UnderKey } else { Repeat::Never };
            let wish = Wish { key: &key, value, expected, repeat };
            load.write(&id, &url, wish, timeout, dice).await;
        }
    }

    /// One client that writes one after the other, in a session.
    async fn write_in_sessions(mut self) {
        let mut open = None;
        while self.load.is_asked(&self.id) {
            tokio::time::sleep(PACE * 4).await;
            if open.is_none() {
                open = self.load.open_session(&self.url).await.map(|session| (session, 0));
            }
            let Some((session, sequence)) = &mut open else { continue };
            *sequence += 1;
            let repeat = Repeat::InSession { session: *session, sequence: *sequence };
            let value = self.load.0.values.fetch_add(1, Ordering::Relaxed);
            let register = self.dice.below(REGISTERS * 2);
            let own = register >= REGISTERS;
            let key = if own { format!("key{value}") } else { format!("register{register}") };
            let wish = Wish { key: &key, value, expected: None, repeat };
            let (timeout, dice) = (Duration::from_millis(self.dice.one(&TIMEOUTS_MS)), self.dice.split());
            if self.load.write(&self.id, &self.url, wish, timeout, dice).await == Outcome::Unknown {
                // Perhaps it has expired.
                open = None;
            }
        }
    }
}

impl Load {
    fn recent_key(&self, mut dice: Dice) -> Option<String> {
        let recent = lock(&self.0.recent);
        (!recent.is_empty()).then(|| recent[dice.below(recent.len())].clone())
    }
}

fn is_success(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Acknowledged { .. })
}

pub fn is_acknowledged(operation: &Operation) -> bool {
    matches!(operation.action, Action::Write { outcome, .. } if is_success(outcome))
}
