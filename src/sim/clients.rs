//! Clients of the simulated cluster: each does one operation at a time, on any node, and remembers what it saw.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::command::{Answer, Command, Request};
use crate::ledger::query;
use crate::node::handle::Failure;
use crate::node::ports::StateStore;
use crate::node::requests::{AskId, Outcome, Want};
use crate::types::Micros;

use super::invariants::linearizable::{Action, OPERATIONS_MAX, Operation, is_linearizable};
use super::world::{Due, World};

/// Keys that the clients share.
const KEYS: u64 = 3;
/// How long a client waits for an answer before it holds the outcome unknown.
const PATIENCE: Duration = Duration::from_secs(3);

struct Pending {
    ask: AskId,
    key: u64,
    invoked: Micros,
    action: Action,
}

/// All clients of a history.
pub struct Clients {
    pending: Vec<Option<Pending>>,
    histories: BTreeMap<u64, Vec<Operation>>,
    last_value: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Reads that were answered.
    pub read: u64,
    /// Operations whose outcome stayed unknown.
    pub unknown: u64,
}

impl Clients {
    /// `count` clients, each of which begins soon.
    pub fn new(count: usize, world: &mut World) -> Clients {
        for client in 0..count {
            let after = world.dice.span(Duration::from_millis(100), Duration::from_millis(900));
            world.schedule(after, Due::Client(client));
        }
        Clients {
            pending: (0..count).map(|_| None).collect(),
            histories: BTreeMap::new(),
            last_value: 0,
            acknowledged: 0,
            read: 0,
            unknown: 0,
        }
    }

    /// A client's turn: it gives up an operation that waits too long, or begins a new one.
    pub fn turn(&mut self, client: usize, world: &mut World) -> Result<(), String> {
        let pause = world.dice.span(Duration::from_millis(20), Duration::from_millis(400));
        world.schedule(pause, Due::Client(client));
        if let Some(pending) = &self.pending[client] {
            if world.now.since(pending.invoked) < PATIENCE {
                return Ok(());
            }
            if let Some(pending) = self.pending[client].take() {
                self.unknown(pending);
            }
        }
        let alive: Vec<usize> =
            (0..world.hosts.len()).filter(|host| world.hosts[*host].alive.is_some()).collect();
        if alive.is_empty() {
            return Ok(());
        }
        let host = *world.dice.pick(&alive);
        let key = world.dice.below(KEYS);
        if self
            .histories
            .get(&key)
            .is_some_and(|history| history.len() + self.pending.len() >= OPERATIONS_MAX)
        {
            return Ok(());
        }
        let (want, action) = if world.dice.chance(500_000) {
            (Want::Read { lease: false }, Action::Read(None))
        } else {
            self.last_value += 1;
            (Want::Write(write(key, self.last_value)), Action::Write(self.last_value))
        };
        let invoked = world.now;
        world.note(&format!("client {client} asks {} on key{key}: {action:?}", world.hosts[host].id));
        let ask = world.ask(host, want);
        self.pending[client] = Some(Pending { ask, key, invoked, action });
        Ok(())
    }

    /// Takes the answers in that have come.
    pub fn take_answers(&mut self, world: &mut World) -> Result<(), String> {
        for answered in std::mem::take(&mut world.answers) {
            let waits = |pending: &Option<Pending>| pending.as_ref().is_some_and(|p| p.ask == answered.ask);
            let Some(client) = self.pending.iter().position(waits) else { continue };
            let Some(mut pending) = self.pending[client].take() else { continue };
            let now = world.now;
            world.note(&format!("client {client} on key{} hears {:?}", pending.key, answered.outcome));
            match answered.outcome {
                Outcome::Write(Ok(applied)) => match applied.answer {
                    Answer::Kv { .. } => {
                        self.acknowledged += 1;
                        self.done(pending, Some(now));
                    }
                    other => return Err(format!("clients: a plain put was answered by {other:?}")),
                },
                Outcome::Write(Err(Failure::Unknown(_))) => self.unknown(pending),
                // It has not happened: no trace of it may ever be read, which the checker sees as a value from nowhere.
                Outcome::Write(Err(_)) | Outcome::Read(Err(_)) => {}
                Outcome::Change(_) | Outcome::Transfer(_) => {
                    return Err("clients: a change was answered that nobody asked for".to_string());
                }
                Outcome::Read(Ok(_)) => {
                    let host = &world.hosts[answered.host];
                    let view = host.state.view().map_err(|error| error.to_string())?;
                    let entry = query::kv_get(view.as_ref(), &format!("key{}", pending.key))
                        .map_err(|error| error.to_string())?;
                    let value = entry.map(|entry| entry.value.parse::<u64>()).transpose();
                    pending.action =
                        Action::Read(value.map_err(|error| format!("clients: odd value: {error}"))?);
                    self.read += 1;
                    self.done(pending, Some(now));
                }
            }
        }
        Ok(())
    }

    fn unknown(&mut self, pending: Pending) {
        self.unknown += 1;
        // A read without an answer says nothing.
        if matches!(pending.action, Action::Write(_)) {
            self.done(pending, None);
        }
    }

    fn done(&mut self, pending: Pending, returned: Option<Micros>) {
        let operation = Operation { invoked: pending.invoked, returned, action: pending.action };
        self.histories.entry(pending.key).or_default().push(operation);
    }

    /// Whether every key's history is linearizable.
    pub fn verdict(&mut self) -> Result<(), String> {
        for client in 0..self.pending.len() {
            if let Some(pending) = self.pending[client].take() {
                self.unknown(pending);
            }
        }
        for (key, history) in &self.histories {
            if !is_linearizable(history) {
                return Err(format!(
                    "linearizability: the operations on key{key} have no legal order: {history:?}"
                ));
            }
        }
        Ok(())
    }
}

fn write(key: u64, value: u64) -> Request {
    // Half of the writes carry a key that makes them safe to pass on a second time.
    let command = Command::KvPut { key: format!("key{key}"), value: value.to_string(), if_revision: None };
    if value.is_multiple_of(2) {
        return Request::keyed(format!("write-{value}"), command);
    }
    Request::new(command)
}
