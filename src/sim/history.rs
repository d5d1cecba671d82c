//! One plan, from beginning to verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::policy::Policy;
use crate::ledger::query;
use crate::node::ports::StateStore;
use crate::node::requests::Want;
use crate::raft::{Role, Status};
use crate::types::{Index, MemberId, Micros, NodeId};

use super::amid::Amid;
use super::clients::Clients;
use super::faults::Faults;
use super::fleet;
use super::generate::generate;
use super::host::Host;
use super::intervals::Intervals;
use super::plan::{KINDS, Plan};
use super::scenario::Scenario;
use super::trace::Line;
use super::world::{Due, World};
use super::{assertion, invariants};

/// Within which time after healing MongoDB must hold the whole ledger: a request that hangs is given up after
/// [`crate::database::ports::OPERATION_TIMEOUT`], and what follows may take a few seconds' pause.
const PROJECTED_WITHIN: Duration = Duration::from_secs(30);
/// How often a history looks whether it has come where it should.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest time without an acknowledged write in a cluster that has to work under a fault: all clients may twice in a row
/// have asked a node that cannot reach the leader, and waited in vain.
const IDLE_MAX: Duration = Duration::from_secs(7);

/// From so many faults on, one of them must have hit somebody.
const HITS_EXPECTED_FROM: u64 = 5;

/// What a history that held was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Its seed.
    pub seed: u64,
    /// Super-nodes that founded the cluster.
    pub nodes: u32,
    /// Steps of nodes.
    pub steps: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// What went wrong, by kind, as far as it took effect.
    pub faults: BTreeMap<&'static str, u64>,
    /// What was to go wrong, by kind.
    pub begun: BTreeMap<&'static str, u64>,
    /// Elections won.
    pub elections: u64,
    /// Those of them after the first fault and before the last had ended.
    pub elections_amid: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes and reads answered before the last fault had ended.
    pub answered_amid: u64,
    /// Those of them while something was wrong, and felt.
    pub acknowledged_under_fault: u64,
    /// Reads answered.
    pub reads: u64,
    /// Operations whose outcome stayed unknown.
    pub unknown: u64,
    /// Writes acknowledged to callers of the library.
    pub called: u64,
    /// Calls of the library whose outcome stayed unknown.
    pub calls_unknown: u64,
    /// Entries committed.
    pub committed: Index,
    /// Nodes that were killed, or lost power, while they led.
    pub leaders_killed: u64,
    /// Claims paid and adjustments made.
    pub moved: u64,
    /// Intervals settled.
    pub settled: u64,
    /// What the ledger holds of all intervals at the end.
    pub intervals: Intervals,
    /// Snapshots installed.
    pub installed: u64,
    /// How often a majority that was well was looked at while things went wrong, and judged by its writes.
    pub judged_amid: u64,
    /// How often each bound was met.
    pub met: BTreeMap<&'static str, u64>,
    /// States that were lost because of a bit.
    pub states_lost: u64,
    /// Documents projected into MongoDB.
    pub projected: u64,
    /// Requests to MongoDB that did not end well.
    pub database_failures: u64,
    /// How long it took after the last fault until everything was well, in virtual time.
    pub recovery: Duration,
    /// One history, one number.
    pub fingerprint: u64,
}

/// An invariant that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed} at {:.3} s: {what}", at.0 as f64 / 1e6)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// Virtual time.
    pub at: Micros,
    /// Which invariant, and how.
    pub what: String,
    /// The key of the dictionary that it is about, by number.
    pub key: Option<u64>,
}

impl Violation {
    /// The name of the invariant, one of [`invariants::NAMES`].
    pub fn invariant(&self) -> &str {
        self.what.split_once(": ").map_or(self.what.as_str(), |(name, _)| name)
    }
}

/// What became of a plan.
#[derive(Debug)]
pub struct History {
    /// Whether it held.
    pub verdict: Result<Summary, Violation>,
    /// What happened, if it was recorded.
    pub trace: Vec<Line>,
    /// The operations that clients began, by number.
    pub operations: Vec<u32>,
}

/// Runs the history of a seed. One that shows nothing does not hold either.
pub fn run(seed: u64, scenario: &Scenario) -> Result<Summary, Box<Violation>> {
    let plan = generate(seed, scenario);
    let summary = run_plan(&plan, false).verdict.map_err(Box::new)?;
    if let Some(lack) = vacuous(&plan, &summary) {
        let what = format!("vacuity: {lack}: {summary:?}");
        return Err(Box::new(Violation { seed, at: Micros(0), what, key: None }));
    }
    Ok(summary)
}

/// Why a history that held shows nothing, if it does not.
fn vacuous(plan: &Plan, summary: &Summary) -> Option<&'static str> {
    let real = |counts: &BTreeMap<&'static str, u64>| -> u64 {
        KINDS.iter().filter(|kind| kind.is_fault()).filter_map(|kind| counts.get(kind.name)).sum()
    };
    // Frames are not lost where there is nobody to send one to.
    let could_hit = if plan.nodes == 1 { real(&summary.begun) / 2 } else { real(&summary.begun) };
    if could_hit >= HITS_EXPECTED_FROM && real(&summary.faults) == 0 {
        return Some("no fault took effect");
    }
    if summary.elections == 0 {
        return Some("nobody was elected");
    }
    if summary.leaders_killed > 0 && summary.elections < 2 {
        return Some("a leader was killed, and nobody elected after it");
    }
    if summary.answered_amid == 0 {
        return Some("no write or read was answered before everything was mended");
    }
    if summary.settled == 0 {
        return Some("no interval was settled");
    }
    (plan.database && summary.projected == 0).then_some("nothing was projected")
}

/// Runs a plan. `recording`: whether to keep the trace.
pub fn run_plan(plan: &Plan, recording: bool) -> History {
    let policy = Policy { interval_ms: 2_000, ping_ms: 250, ping_timeout_ms: 100, ..Policy::default() };
    let mut world = World::new(plan, &policy, recording);
    if plan.database {
        world.found_database(plan.seed);
    }
    let mut clients = Clients::new(&mut world);
    let played = assertion::catch(|| play_all(&mut world, &mut clients));
    let played = played.unwrap_or_else(|assertion| Err(Broken::from(format!("assertion: {assertion}"))));
    let verdict = played.map_err(|Broken { what, key }| {
        world.note(|| format!("BROKEN {what}"));
        Violation { seed: plan.seed, at: world.now, what, key }
    });
    History { verdict, trace: world.trace.take_lines(), operations: clients.begun }
}

/// A broken invariant, within a history.
struct Broken {
    what: String,
    key: Option<u64>,
}

impl From<String> for Broken {
    fn from(what: String) -> Broken {
        let is_named = invariants::NAMES.iter().any(|name| what.starts_with(&format!("{name}: ")));
        let what = if is_named { what } else { format!("unexpected error: {what}") };
        Broken { what, key: None }
    }
}

fn play_all(world: &mut World, clients: &mut Clients) -> Result<Summary, Broken> {
    for host in 0..world.hosts.len() {
        world.start(host)?;
    }
    enrol_agents(world);
    let mut faults = Faults::new(world);
    let (mut working, mut amid) = (Working::default(), Amid::default());
    let until = world.now.after(Duration::from_millis(world.plan.faults_ms));
    play(world, clients, &mut faults, until, &mut |world, clients, _| {
        working.look(world, clients)?;
        amid.look(world, clients)?;
        Ok(false)
    })?;
    faults.heal(world)?;
    world.heal_database();
    let healed = Healed {
        acknowledged: clients.acknowledged,
        answered: clients.acknowledged + clients.read + clients.library.acknowledged + clients.library.read,
        called: clients.library.acknowledged,
        settled: settled(world)?,
        at: world.now,
    };
    let elections_amid = faults.elections(world);
    let within = Duration::from_millis(world.plan.live_within_ms);
    let until = world.now.after(within);
    let live = play(world, clients, &mut faults, until, &mut |world, clients, faults| {
        Ok(healed.lacks(world, clients, faults)?.is_none())
    })?;
    if !live {
        let lacks = healed.lacks(world, clients, &faults)?.unwrap_or_default();
        return Err(format!("liveness: {} s after the last fault {lacks}", within.as_secs()).into());
    }
    let recovery = world.now.since(healed.at);
    let until = world.now.after(PROJECTED_WITHIN);
    let projected = |world: &World, _: &Clients, _: &Faults| Ok(world.is_projected());
    if !play(world, clients, &mut faults, until, &mut { projected })? {
        return Err(format!("liveness: the projection lags: {}", world.projection_lacks()).into());
    }
    world.projection_at_end()?;
    for host in &world.hosts {
        world.watch.at_end(host)?;
        clients.treasury.at_end(host)?;
    }
    clients.verdict().map_err(|(key, what)| Broken { what, key: Some(key) })?;
    Ok(Summary {
        seed: world.plan.seed,
        nodes: world.plan.nodes,
        steps: world.steps,
        virtual_time: world.now.since(Micros(1_000_000)),
        faults: world.evidence.effective(),
        begun: world.evidence.begun(),
        elections: world.watch.elections(),
        elections_amid,
        acknowledged: clients.acknowledged,
        answered_amid: healed.answered,
        acknowledged_under_fault: clients.under_fault,
        reads: clients.read,
        unknown: clients.unknown,
        called: clients.library.acknowledged,
        calls_unknown: clients.library.unknown,
        committed: world.watch.last_committed(),
        leaders_killed: world.leaders_killed,
        moved: clients.treasury.moved(),
        settled: settled(world)?,
        intervals: intervals(world)?,
        installed: world.installed,
        judged_amid: amid.judged,
        met: world.met.clone(),
        states_lost: world.states_lost,
        projected: world.database.as_ref().map_or(0, |database| database.written),
        database_failures: world.database.as_ref().map_or(0, |database| database.failures),
        recovery,
        fingerprint: world.trace.fingerprint(),
    })
}

/// Watches a cluster that has to work while something is wrong.
#[derive(Default)]
struct Working {
    elections: Option<u64>,
}

impl Working {
    fn look(&mut self, world: &World, clients: &Clients) -> Result<(), String> {
        let Some(from) = world.plan.working_from_ms else { return Ok(()) };
        let from = Micros(1_000_000).after(Duration::from_millis(from));
        if world.now < from {
            return Ok(());
        }
        let elections = world.watch.elections();
        let before = *self.elections.get_or_insert(elections);
        let idle = world.now.since(clients.acknowledged_at.max(from));
        if elections > before {
            let what = format!("{} elections after it had to have settled", elections - before);
            return Err(format!("works under the fault: {what}"));
        }
        if idle > IDLE_MAX {
            let state = describe(world);
            return Err(format!("works under the fault: no write for {} ms; {state}", idle.as_millis()));
        }
        Ok(())
    }
}

fn applied(host: &Host) -> Index {
    host.applied()
}

/// What was there when the faults ended; afterwards there must be more.
struct Healed {
    acknowledged: u64,
    answered: u64,
    called: u64,
    settled: u64,
    at: Micros,
}

impl Healed {
    /// What the cluster still lacks; `None`: it is live again.
    fn lacks(&self, world: &World, clients: &Clients, faults: &Faults) -> Result<Option<String>, String> {
        // Cheap questions first.
        if world.now.since(self.at) <= Duration::from_secs(1) {
            return Ok(Some("no time has passed".to_string()));
        }
        if clients.acknowledged < self.acknowledged + 3 {
            return Ok(Some(format!("no three writes were acknowledged; {}", describe(world))));
        }
        if clients.library.acknowledged < self.called + 3 {
            return Ok(Some(format!("no three calls of the library were acknowledged; {}", describe(world))));
        }
        if !faults.is_done() {
            return Ok(Some(format!("the operator is not done; {}", describe(world))));
        }
        if let Some(lack) = unsettled(world) {
            return Ok(Some(format!("{lack}; {}", describe(world))));
        }
        if settled(world)? <= self.settled {
            return Ok(Some(format!("no interval was settled; {}", describe(world))));
        }
        Ok(None)
    }
}

/// Why the cluster is not at rest: one leader in the newest term, whom all nodes of its configuration follow, which is
/// not joint; and all of them have applied what was committed a moment ago.
fn unsettled(world: &World) -> Option<String> {
    let nodes: Vec<(&Host, Status)> =
        world.hosts.iter().filter_map(|host| Some((host, host.alive.as_ref()?.node.raft_status()))).collect();
    let leaders: Vec<&(&Host, Status)> =
        nodes.iter().filter(|(_, status)| status.role == Role::Leader).collect();
    let [(leader, status)] = leaders.as_slice() else { return Some(format!("{} nodes lead", leaders.len())) };
    let configuration = &status.configuration;
    if configuration.outgoing.is_some() || !configuration.joining.is_empty() {
        return Some("a change of the configuration is not done".to_string());
    }
    if !configuration.voters.contains(&leader.id) {
        return Some(format!("{} leads and has no vote", leader.id));
    }
    for id in configuration.all_nodes() {
        let Some((host, follower)) = nodes.iter().find(|(host, _)| host.id == id) else {
            return Some(format!("{id} does not run"));
        };
        if follower.leader.as_ref() != Some(&leader.id) || follower.term != status.term {
            return Some(format!("{id} does not follow {}", leader.id));
        }
        // What was committed within the last moment may be on its way.
        if applied(host).0 + 8 < status.commit.0 {
            return Some(format!("{id} has applied {} of {}", applied(host), status.commit));
        }
    }
    None
}

fn describe(world: &World) -> String {
    let nodes: Vec<String> = world
        .hosts
        .iter()
        .map(|host| match &host.alive {
            None => format!("{} dead", host.id),
            Some(alive) => {
                let raft = alive.node.raft_status();
                let leader = raft.leader.as_ref().map_or("nobody", NodeId::as_str);
                format!(
                    "{} {:?} term {} of {leader} commit {} last {}",
                    host.id, raft.role, raft.term, raft.commit, raft.last
                )
            }
        })
        .collect();
    nodes.join(", ")
}

/// The most intervals that any node has settled.
fn settled(world: &World) -> Result<u64, String> {
    let mut most = 0;
    for host in &world.hosts {
        let view = host.state.view().map_err(|error| format!("storage: {error}"))?;
        let state = query::interval_state(view.as_ref()).map_err(|error| format!("storage: {error}"))?;
        most = most.max(state.map_or(0, |state| state.next_settle.0 - 1));
    }
    Ok(most)
}

/// What the node that is furthest holds of the intervals.
fn intervals(world: &World) -> Result<Intervals, String> {
    let Some(furthest) = world.hosts.iter().max_by_key(|host| applied(host)) else {
        return Ok(Intervals::default());
    };
    let count = || Intervals::count(furthest.state.view()?.as_ref());
    count().map_err(|error| format!("storage: {error}"))
}

/// Two agents join through the first node.
fn enrol_agents(world: &mut World) {
    for name in ["a1", "a2"] {
        let member: MemberId = name.parse().expect("a valid name");
        let address = format!("sim:{name}");
        let request = world.keyed(&format!("join-{name}"), fleet::enrol(member, address));
        world.ask(0, Want::Write(request));
    }
}

type Look<'l> = &'l mut dyn FnMut(&World, &Clients, &Faults) -> Result<bool, String>;

/// Lets the world run until a time, or until a look at it says that it has come where it should; true if it has.
fn play(
    world: &mut World,
    clients: &mut Clients,
    faults: &mut Faults,
    until: Micros,
    look: Look<'_>,
) -> Result<bool, String> {
    let mut look_at = world.now.after(LOOK_EVERY);
    while let Some(due) = world.next(until) {
        match due {
            Due::Host { host, life, event } => world.happen(host, life, event)?,
            Due::Start(host) => world.start(host)?,
            Due::Client(client) => clients.turn(client, world, faults.healed()),
            Due::Treasury => clients.treasury.turn(world),
            Due::Library(event) => clients.library.happen(event, world, faults.healed())?,
            Due::Begin(place) => faults.begin(world, place)?,
            Due::End(place) => faults.end(world, place)?,
            Due::Operator => faults.operate(world),
            Due::Database(event) => world.database_event(event)?,
        }
        for answered in std::mem::take(&mut world.answers) {
            clients.take_answer(world, &answered)?;
            faults.take_answer(world, &answered)?;
        }
        if world.now >= look_at {
            look_at = world.now.after(LOOK_EVERY);
            if look(world, clients, faults)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
