//! Clients of the simulated cluster: each does one operation at a time, on any node, and remembers what it saw.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::command::{Answer, Command, Rejection, Request};
use crate::ledger::query;
use crate::node::handle::Failure;
use crate::node::ports::StateStore;
use crate::node::requests::{AskId, Outcome, Want};
use crate::types::Micros;

use super::dice::Dice;
use super::invariants::linearizable::{Action, OPERATIONS_MAX, Operation, is_linearizable};
use super::library::Library;
use super::trace::Weight;
use super::treasury::Treasury;
use super::world::{Answered, Due, World, name};

/// Keys that the clients share at a time.
const KEYS: u64 = 3;
/// How long a client waits for an answer before it holds the outcome unknown.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the streams of operations are numbered from.
const OPERATION_STREAMS: u64 = 1 << 40;

/// What a client knows of a key: its value and the revision of that value.
type Seen = Option<(u64, u64)>;

struct Pending {
    ask: AskId,
    operation: u32,
    key: u64,
    invoked: Micros,
    action: Action,
}

#[derive(Default)]
struct Client {
    turns: u32,
    pending: Option<Pending>,
    /// What it last saw of each key.
    seen: BTreeMap<u64, Seen>,
}

/// All clients of a history.
pub struct Clients {
    clients: Vec<Client>,
    histories: BTreeMap<u64, Vec<Operation>>,
    /// How many keys were given up because as many operations as can be checked were done on them, by place.
    worn: [u64; KEYS as usize],
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Those that were while something was wrong, and felt.
    pub under_fault: u64,
    /// When the last one was.
    pub acknowledged_at: Micros,
    /// Reads that were answered.
    pub read: u64,
    /// Operations whose outcome stayed unknown.
    pub unknown: u64,
    /// The numbers of all operations that were begun.
    pub begun: Vec<u32>,
    /// Those that use the library, half as many as these.
    pub library: Library,
    /// Who moves money.
    pub treasury: Treasury,
}

impl Clients {
    /// The clients of the plan, each of which begins soon.
    pub fn new(world: &mut World) -> Clients {
        let count = usize::try_from(world.plan.clients).expect("small");
        for client in 0..count {
            let after = Duration::from_millis(100 + 800 * client as u64 / count as u64);
            world.schedule(after, Due::Client(client));
        }
        Clients {
            clients: (0..count).map(|_| Client::default()).collect(),
            histories: BTreeMap::new(),
            worn: [0; KEYS as usize],
            acknowledged: 0,
            under_fault: 0,
            acknowledged_at: Micros(0),
            read: 0,
            unknown: 0,
            begun: Vec::new(),
            library: Library::new(count.div_ceil(2), world),
            treasury: Treasury::new(world),
        }
    }

    /// A client's turn: it gives up an operation that waits too long, or begins a new one. What it does is drawn from a
    /// stream of the operation's own number, so that a history without some operations keeps the others as they were.
    pub fn turn(&mut self, client: usize, world: &mut World, healed: bool) {
        let me = &mut self.clients[client];
        let place = u32::try_from(client).expect("few clients");
        let operation = me.turns * world.plan.clients + place;
        me.turns += 1;
        let mut dice = Dice::stream(world.plan.seed, OPERATION_STREAMS + u64::from(operation));
        let pause = dice.span(Duration::from_millis(20), Duration::from_millis(400));
        world.schedule(pause, Due::Client(client));
        if let Some(pending) = me.pending.take() {
            if world.now.since(pending.invoked) < PATIENCE {
                me.pending = Some(pending);
                return;
            }
            self.unknown(pending);
        }
        // Who has left the cluster, or is not in it yet, has to give a good answer, too; but not to everybody all the time.
        let mut living = world.living();
        if healed || dice.chance(900_000) {
            let members = world.members();
            living.retain(|host| members.contains(&name(*host)));
        }
        if living.is_empty() || !world.plan.allows(operation, healed) {
            return;
        }
        self.begun.push(operation);
        let host = *dice.pick(&living);
        let place = dice.below(KEYS);
        let key = self.key(place);
        let (want, action) = self.choose(client, key, u64::from(operation) + 1, &mut dice, world);
        let id = world.hosts[host].id.clone();
        let text =
            || format!("client {client} (operation {operation}) asks {id}: {}", describe(key, &action));
        world.trace.tell(world.now, Weight::Main, Some(key), text);
        let invoked = world.now;
        let ask = world.ask(host, want);
        self.clients[client].pending = Some(Pending { ask, operation, key, invoked, action });
    }

    /// The key at one of the places; a new one when as much was done on the old one as can be checked.
    fn key(&mut self, place: u64) -> u64 {
        let worn = &mut self.worn[usize::try_from(place).expect("small")];
        let key = place + KEYS * *worn;
        let done = self.histories.get(&key).map_or(0, Vec::len);
        if done + self.clients.len() < OPERATIONS_MAX {
            return key;
        }
        *worn += 1;
        key + KEYS
    }

    fn choose(&self, client: usize, key: u64, value: u64, dice: &mut Dice, world: &World) -> (Want, Action) {
        let name = format!("key{key}");
        // Half of the writes carry a key that makes them safe to pass on a second time.
        let keyed = dice.chance(500_000);
        let request = |command| {
            if keyed { world.keyed(&format!("write-{value}"), command) } else { Request::new(command) }
        };
        let lease = world.plan.lease_ms.is_some() && dice.chance(500_000);
        let command = match dice.below(100) {
            0..45 => return (Want::Read { lease }, Action::Read(None)),
            45..80 => Command::KvPut { key: name, value: value.to_string(), if_revision: None },
            80..92 => {
                let seen = self.clients[client].seen.get(&key).copied().flatten();
                let revision = seen.map_or(0, |(_, revision)| revision);
                let expected = seen.map(|(value, _)| value);
                let command =
                    Command::KvPut { key: name, value: value.to_string(), if_revision: Some(revision) };
                let action = Action::Swap { expected, new: value };
                return (Want::Write(request(command)), action);
            }
            _ => Command::KvDelete { key: name, if_revision: None },
        };
        let written = matches!(command, Command::KvPut { .. }).then_some(value);
        (Want::Write(request(command)), Action::Write(written))
    }

    /// Takes an answer in, if it is to one of the clients.
    pub fn take_answer(&mut self, world: &mut World, answered: &Answered) -> Result<(), String> {
        if self.library.take_answer(world, answered)? || self.treasury.take_answer(answered)? {
            return Ok(());
        }
        let waits = |client: &Client| client.pending.as_ref().is_some_and(|p| p.ask == answered.ask);
        let Some(client) = self.clients.iter().position(waits) else { return Ok(()) };
        let Some(mut pending) = self.clients[client].pending.take() else { return Ok(()) };
        let (now, key, operation) = (world.now, pending.key, pending.operation);
        let say = |world: &mut World, what: &str| {
            let text = || format!("client {client} (operation {operation}) hears on key{key}: {what}");
            world.trace.tell(now, Weight::Main, Some(key), text);
        };
        match &answered.outcome {
            Outcome::Write(Ok(applied)) => {
                let asked = pending.action.clone();
                let value = pending.action.value();
                match (&applied.answer, asked) {
                    (Answer::Kv { revision }, _) => {
                        say(world, "done");
                        self.acknowledged += 1;
                        self.under_fault += u64::from(world.evidence.is_under_fault());
                        self.acknowledged_at = now;
                        world.watch.acknowledged(value, applied.index)?;
                        self.clients[client].seen.insert(key, value.map(|value| (value, *revision)));
                    }
                    (Answer::Rejected(Rejection::Conflict(why)), Action::Swap { expected, .. }) => {
                        say(world, why);
                        world.watch.refused(value)?;
                        pending.action = Action::Missed(expected);
                    }
                    (Answer::Rejected(Rejection::NotFound(_)), Action::Write(None)) => {
                        say(world, "it is absent");
                        pending.action = Action::Read(None);
                    }
                    // This try did nothing. Of an earlier one, which its node passed on, it says nothing.
                    (Answer::Rejected(Rejection::KeyExpired(why)), _) => {
                        say(world, why);
                        self.unknown(pending);
                        return Ok(());
                    }
                    (other, asked) => {
                        return Err(format!(
                            "linearizability: {asked:?} on key{key} was answered by {other:?}"
                        ));
                    }
                }
                self.done(pending, Some(now));
            }
            Outcome::Write(Err(Failure::Unknown(why))) => {
                say(world, &format!("unknown: {why}"));
                self.unknown(pending);
            }
            // It has not happened: no trace of it may ever be read, which the checker sees as a value from nowhere.
            Outcome::Write(Err(failure)) => {
                say(world, &format!("not done: {failure}"));
                world.watch.refused(pending.action.value())?;
            }
            Outcome::Change(_) | Outcome::Transfer(_) => {
                return Err("linearizability: a change was answered that no client asked for".to_string());
            }
            Outcome::Read(Err(failure)) => say(world, &format!("no answer: {failure}")),
            Outcome::Read(Ok(_)) => {
                let host = &world.hosts[answered.host];
                let view = host.state.view().map_err(|error| format!("storage: {error}"))?;
                let entry = query::kv_get(view.as_ref(), &format!("key{key}"))
                    .map_err(|error| format!("storage: {error}"))?;
                let value = entry.as_ref().map(|entry| entry.value.parse::<u64>()).transpose();
                let value = value.map_err(|error| format!("linearizability: odd value: {error}"))?;
                say(world, &value.map_or("it is absent".to_string(), |value| format!("it is {value}")));
                let seen = entry.zip(value).map(|(entry, value)| (value, entry.revision));
                self.clients[client].seen.insert(key, seen);
                pending.action = Action::Read(value);
                self.read += 1;
                self.done(pending, Some(now));
            }
        }
        Ok(())
    }

    fn unknown(&mut self, pending: Pending) {
        self.unknown += 1;
        // A read without an answer says nothing.
        if !matches!(pending.action, Action::Read(_)) {
            self.done(pending, None);
        }
    }

    fn done(&mut self, pending: Pending, returned: Option<Micros>) {
        let operation = Operation { invoked: pending.invoked, returned, action: pending.action };
        self.histories.entry(pending.key).or_default().push(operation);
    }

    /// Whether every key's history is linearizable. The breach names the key.
    pub fn verdict(&mut self) -> Result<(), (u64, String)> {
        for client in 0..self.clients.len() {
            if let Some(pending) = self.clients[client].pending.take() {
                self.unknown(pending);
            }
        }
        for (key, history) in &self.histories {
            if !is_linearizable(history) {
                let mut lines: Vec<String> = history.iter().map(ToString::to_string).collect();
                lines.sort();
                let what =
                    format!("the operations on key{key} have no legal order:\n    {}", lines.join("\n    "));
                return Err((*key, format!("linearizability: {what}")));
            }
        }
        self.library.verdict()
    }
}

fn describe(key: u64, action: &Action) -> String {
    match action {
        Action::Read(_) => format!("what is key{key}?"),
        Action::Write(Some(value)) => format!("set key{key} to {value}"),
        Action::Write(None) => format!("remove key{key}"),
        Action::Swap { expected, new } => match expected {
            Some(expected) => format!("set key{key} to {new} if it is {expected}"),
            None => format!("set key{key} to {new} if it is absent"),
        },
        Action::Missed(expected) => format!("key{key} is not {expected:?}"),
    }
}
