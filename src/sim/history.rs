//! One seed, from beginning to verdict.

use std::time::Duration;

use crate::ledger::command::{Command, Request};
use crate::ledger::policy::Policy;
use crate::ledger::query;
use crate::ledger::records::MemberKind;
use crate::node::ports::StateStore;
use crate::node::requests::Want;
use crate::types::{Index, MemberId, Micros};

use super::clients::Clients;
use super::faults::Faults;
use super::world::{Due, World};

/// Within which time after healing MongoDB must hold the whole ledger: a request that hangs is given up after
/// [`crate::database::ports::OPERATION_TIMEOUT`], and what follows may take a few seconds' pause.
const PROJECTED_WITHIN: Duration = Duration::from_secs(30);

/// What a history is made of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Super-nodes; `None`: 3 or 5, or now and then 1, by the seed.
    pub nodes: Option<usize>,
    /// For how long things go wrong.
    pub faults_for: Duration,
    /// Within which time after healing the cluster must be live again.
    pub live_within: Duration,
    /// How many clients read and write.
    pub clients: usize,
    /// Whether the leader projects into a MongoDB; `None`: in half of the seeds.
    pub database: Option<bool>,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            nodes: None,
            faults_for: Duration::from_secs(12),
            live_within: Duration::from_secs(12),
            clients: 4,
            database: None,
        }
    }
}

/// What a history that held was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Its seed.
    pub seed: u64,
    /// Super-nodes.
    pub nodes: usize,
    /// Steps of nodes.
    pub steps: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Faults.
    pub faults: u64,
    /// Elections won.
    pub elections: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Reads answered.
    pub reads: u64,
    /// Operations whose outcome stayed unknown.
    pub unknown: u64,
    /// Entries committed.
    pub committed: Index,
    /// Intervals settled.
    pub settled: u64,
    /// Snapshots installed.
    pub installed: u64,
    /// Documents projected into MongoDB.
    pub projected: u64,
    /// Requests to MongoDB that did not end well.
    pub database_failures: u64,
    /// Hash of the trace.
    pub trace_hash: u64,
}

/// An invariant that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed} at {at:?} s: {what}")]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// Virtual time, in seconds.
    pub at: u64,
    /// Which invariant, and how.
    pub what: String,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

/// Runs one seed.
pub fn run(seed: u64, scenario: &Scenario) -> Result<Summary, Box<Violation>> {
    let policy = Policy { interval_ms: 2_000, ping_ms: 250, ping_timeout_ms: 100, ..Policy::default() };
    let nodes = scenario.nodes.unwrap_or(match seed % 8 {
        0 => 1,
        1..=4 => 3,
        _ => 5,
    });
    let mut world = World::new(seed, nodes, &policy);
    // Not the bits that choose the number of nodes alone: every size comes with and without.
    if scenario.database.unwrap_or((seed / 2).is_multiple_of(2)) {
        world.found_database(seed);
    }
    match history(&mut world, scenario) {
        Ok(summary) => Ok(Summary { seed, ..summary }),
        Err(what) => {
            Err(Box::new(Violation { seed, at: world.now.0 / 1_000_000, what, trace: world.trace() }))
        }
    }
}

fn history(world: &mut World, scenario: &Scenario) -> Result<Summary, String> {
    let mut clients = Clients::new(scenario.clients, world);
    for host in 0..world.hosts.len() {
        world.start(host)?;
    }
    enrol_agents(world);
    let mut faults = Faults::new(world);
    let until = world.now.after(scenario.faults_for);
    play(world, &mut clients, Some(&mut faults), until, &mut |_| false)?;
    faults.heal(world)?;
    world.heal_database();
    let healed = Healed { acknowledged: clients.acknowledged, settled: settled(world)?, at: world.now };
    let until = world.now.after(scenario.live_within);
    let live = play(world, &mut clients, None, until, &mut |state| healed.is_live(state))?;
    if !live {
        return Err(format!(
            "liveness: {} after healing: {}",
            seconds(scenario.live_within),
            healed.lacks(world)
        ));
    }
    let last = world.watch.last_committed();
    // Everybody catches up to where the first live moment was.
    let caught = |world: &mut World, _: &Clients| world.hosts.iter().all(|host| applied(host) >= last);
    let until = world.now.after(scenario.live_within);
    if !play(world, &mut clients, None, until, &mut |state| caught(state.0, state.1))? {
        return Err("liveness: a node did not catch up".to_string());
    }
    let until = world.now.after(PROJECTED_WITHIN);
    if !play(world, &mut clients, None, until, &mut |state| state.0.is_projected())? {
        return Err(format!("liveness: the projection lags: {}", world.projection_lacks()));
    }
    world.projection_at_end()?;
    for host in &world.hosts {
        world.watch.at_end(host)?;
    }
    clients.verdict()?;
    let summary = Summary {
        seed: 0,
        nodes: world.hosts.len(),
        steps: world.steps,
        virtual_time: world.now.since(Micros(1_000_000)),
        faults: faults.count,
        elections: world.watch.elections(),
        acknowledged: clients.acknowledged,
        reads: clients.read,
        unknown: clients.unknown,
        committed: world.watch.last_committed(),
        settled: settled(world)?,
        installed: world.installed,
        projected: world.database.as_ref().map_or(0, |database| database.written),
        database_failures: world.database.as_ref().map_or(0, |database| database.failures),
        trace_hash: world.trace_hash,
    };
    let unprojected = world.database.is_some() && summary.projected == 0;
    if summary.elections == 0
        || summary.faults == 0
        || summary.acknowledged == 0
        || summary.settled == 0
        || unprojected
    {
        return Err(format!("vacuity: the history shows nothing: {summary:?}"));
    }
    Ok(summary)
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs())
}

fn applied(host: &super::host::Host) -> Index {
    host.alive.as_ref().map_or(Index(0), |alive| alive.node.applied_index())
}

/// What was there when the faults ended; afterwards there must be more.
struct Healed {
    acknowledged: u64,
    settled: u64,
    at: Micros,
}

impl Healed {
    fn is_live(&self, (world, clients): &mut (&mut World, &mut Clients)) -> bool {
        // Cheap questions first: this is asked after every event.
        clients.acknowledged > self.acknowledged + 2
            && world.now.since(self.at) > Duration::from_secs(1)
            && settled(world).is_ok_and(|settled| settled > self.settled)
    }

    fn lacks(&self, world: &World) -> String {
        let leaders: Vec<String> = world
            .hosts
            .iter()
            .map(|host| match &host.alive {
                None => format!("{} dead", host.id),
                Some(alive) => {
                    let raft = alive.node.raft_status();
                    format!("{} {:?} term {} commit {}", host.id, raft.role, raft.term, raft.commit)
                }
            })
            .collect();
        format!("no three acknowledged writes and a settlement; {}", leaders.join(", "))
    }
}

/// The most intervals that any node has settled.
fn settled(world: &World) -> Result<u64, String> {
    let mut most = 0;
    for host in &world.hosts {
        let view = host.state.view().map_err(|error| error.to_string())?;
        let state = query::interval_state(view.as_ref()).map_err(|error| error.to_string())?;
        most = most.max(state.map_or(0, |state| state.next_settle.0 - 1));
    }
    Ok(most)
}

/// Two agents join through the first node, and one of them is silent for a while.
fn enrol_agents(world: &mut World) {
    for name in ["a1", "a2"] {
        let member: MemberId = name.parse().expect("a valid name");
        let command = Command::MemberJoin {
            member: member.clone(),
            kind: MemberKind::Agent,
            address: format!("sim:{name}"),
        };
        let request = Request::keyed(format!("join-{name}"), command);
        world.ask(0, Want::Write(request));
        if world.dice.chance(500_000) {
            world.silent_agents.insert(member);
        }
    }
}

/// Lets the world run until a time, or until `done` says so; true if it did.
fn play(
    world: &mut World,
    clients: &mut Clients,
    mut faults: Option<&mut Faults>,
    until: Micros,
    done: &mut dyn FnMut(&mut (&mut World, &mut Clients)) -> bool,
) -> Result<bool, String> {
    while let Some(due) = world.next(until) {
        match due {
            Due::Host { host, life, event } => world.happen(host, life, event)?,
            Due::Client(client) => clients.turn(client, world)?,
            Due::Database(event) => world.database_event(event)?,
            Due::Fault => {
                if let Some(faults) = faults.as_deref_mut() {
                    faults.turn(world)?;
                }
            }
        }
        clients.take_answers(world)?;
        if done(&mut (world, clients)) {
            return Ok(true);
        }
    }
    Ok(false)
}
