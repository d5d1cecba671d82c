//! The simulated MongoDB server: what it does with requests, in which steps, and what goes wrong on the way.
//!
//! A request takes its steps one after the other, and other requests take theirs in between. It may fail before the first
//! step, stop in the middle, be done and lose its answer, be done long after its sender has given up, or never be heard of
//! again. Now and then the server loses power, which takes back what it had not synced, or some node cannot reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::database::errors::{Class, ProjectionError};
use crate::database::feed::LedgerFeed;
use crate::database::ports::{Limits, News, OPERATION_TIMEOUT};
use crate::ledger::apply::Happening;
use crate::ledger::command::{Command, Request as LedgerRequest};
use crate::node::io::Input;
use crate::node::requests::{PARKED_FOR, Want};
use crate::node::status::ProjectionStatus;
use crate::types::{Index, Micros, Term};

use super::dice::Dice;
use super::invariants::projection::Watch;
use super::mongodb::{Reply, Request, Tables};
use super::projection::{CallId, Projecting, Sight, Wish};
use super::world::{Due, Event, World};

/// How often a projector hears late that its node leads or no longer does, in parts per million. Until then a deposed
/// leader goes on writing.
const LATE_NEWS_PPM: u64 = 200_000;
/// `WriteConcernFailed`: done here, but not acknowledged by enough servers.
const WRITE_CONCERN_FAILED: i32 = 64;

/// What can happen at the server.
#[derive(Debug, Clone)]
pub enum DatabaseEvent {
    /// A request takes some of its steps.
    Step {
        /// Which request.
        flight: u64,
        /// Which steps.
        steps: Range<usize>,
    },
    /// A request is answered, or its connection breaks.
    Answer {
        /// Which request.
        flight: u64,
    },
    /// Something goes wrong, or becomes better.
    Fault,
}

/// How badly the server answers, in parts per million of the requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mood {
    /// Fail before anything is done.
    refuse_ppm: u64,
    /// Stop after some of the steps.
    stop_ppm: u64,
    /// Are done, and the answer is lost.
    lose_ppm: u64,
    /// Are done after their sender has given up.
    late_ppm: u64,
    /// Are never heard of again.
    hang_ppm: u64,
    /// Take long.
    slow_ppm: u64,
}

/// How a request ends for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Broken,
    Unconfirmed,
}

/// What becomes of a request.
struct Fate {
    /// When which steps are taken.
    pieces: Vec<(Duration, Range<usize>)>,
    /// When and how it ends; `None`: its sender never hears of it.
    end: Option<(Duration, End)>,
}

/// A request that the server has.
struct Flight {
    host: usize,
    life: u64,
    call: CallId,
    request: Request,
    reply: Reply,
    end: End,
}

/// A projector in one life of its host.
struct Tenant {
    life: u64,
    projecting: Projecting,
    seen: Option<Term>,
    /// The leadership as the projector knows it, until `deaf_until`.
    told: Option<Term>,
    deaf_until: Micros,
    applied: Index,
    status: ProjectionStatus,
}

/// See the module's head.
pub struct Database {
    dice: Dice,
    tables: Tables,
    watch: Watch,
    limits: Limits,
    mood: Mood,
    down_until: Option<Micros>,
    unreachable: BTreeSet<usize>,
    healed: bool,
    flights: BTreeMap<u64, Flight>,
    last_flight: u64,
    tenants: BTreeMap<usize, Tenant>,
    /// Faults so far.
    pub faults: u64,
    /// Requests that did not end well, so far.
    pub failures: u64,
    /// Documents that were new, as the projectors counted them.
    pub written: u64,
}

impl Database {
    /// An empty server.
    pub fn new(seed: u64) -> Database {
        // Dice of its own: the rest of a history is the same with and without it, as far as it can be.
        let mut dice = Dice::new(seed ^ 0x6d6f_6e67_6f64_6221);
        let limits = Limits {
            batch_records: *dice.pick(&[2, 7, 4_000]),
            chunk_documents: *dice.pick(&[1, 3, 1_000]),
            chunks_in_flight: *dice.pick(&[1, 2, 4]),
        };
        Database {
            dice,
            tables: Tables::default(),
            watch: Watch::default(),
            limits,
            mood: Mood::default(),
            down_until: None,
            unreachable: BTreeSet::new(),
            healed: false,
            flights: BTreeMap::new(),
            last_flight: 0,
            tenants: BTreeMap::new(),
            faults: 0,
            failures: 0,
            written: 0,
        }
    }

    fn answers(&self, host: usize, now: Micros) -> bool {
        self.down_until.is_none_or(|until| until <= now) && !self.unreachable.contains(&host)
    }

    /// Draws what becomes of a request.
    fn fate(&mut self, request: &Request) -> Fate {
        let roll = self.dice.below(1_000_000);
        let mood = self.mood;
        let mut bound = 0;
        let mut within = |ppm| {
            bound += ppm;
            roll < bound
        };
        let (refused, stopped, lost) =
            (within(mood.refuse_ppm), within(mood.stop_ppm), within(mood.lose_ppm));
        let (late, hung, slow) = (within(mood.late_ppm), within(mood.hang_ppm), within(mood.slow_ppm));
        let steps = request.steps();
        let most = if slow { Duration::from_secs(4) } else { Duration::from_millis(8) };
        let begin = match late && request.is_write() {
            // The sender has given up by then, and may have sent it again.
            true => OPERATION_TIMEOUT + self.dice.span(Duration::ZERO, Duration::from_secs(4)),
            false => self.dice.span(Duration::from_micros(100), most),
        };
        let cut = usize::try_from(self.dice.below(steps as u64 + 1)).expect("at most a usize");
        let gap = self.dice.span(Duration::from_micros(10), Duration::from_millis(4));
        let mut pieces = vec![(begin, 0..cut), (begin + gap, cut..steps)];
        let end = begin + gap + self.dice.span(Duration::from_micros(50), Duration::from_millis(4));
        if refused {
            return Fate { pieces: Vec::new(), end: Some((begin, End::Broken)) };
        }
        // Preparing bounds its own operations, so it always ends.
        if hung && *request != Request::Prepare {
            return Fate { pieces: Vec::new(), end: None };
        }
        if stopped {
            pieces.truncate(1);
            return Fate { pieces, end: Some((end, End::Broken)) };
        }
        if lost {
            let end_as = if self.dice.chance(300_000) { End::Unconfirmed } else { End::Broken };
            return Fate { pieces, end: Some((end, end_as)) };
        }
        Fate { pieces, end: Some((end, End::Answered)) }
    }

    fn draw_mood(&mut self) -> Mood {
        let mut some = |most| if self.dice.chance(500_000) { self.dice.below(most) } else { 0 };
        Mood {
            refuse_ppm: some(150_000),
            stop_ppm: some(200_000),
            lose_ppm: some(200_000),
            late_ppm: some(80_000),
            hang_ppm: some(50_000),
            slow_ppm: some(200_000),
        }
    }

    /// Loses power: what was not synced may be gone, and so is every request.
    fn power_cut(&mut self, now: Micros) -> Result<Vec<Flight>, String> {
        let unsynced = self.tables.unsynced() as u64;
        let kept = usize::try_from(self.dice.below(unsynced + 1)).expect("at most a usize");
        self.tables.power_cut(kept);
        self.watch.after_power_cut(&self.tables)?;
        self.watch.synced(&self.tables)?;
        let away = self.dice.span(Duration::from_millis(50), Duration::from_secs(3));
        self.down_until = Some(now.after(away));
        Ok(std::mem::take(&mut self.flights).into_values().collect())
    }
}

fn broken() -> ProjectionError {
    ProjectionError::Driver(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
}

impl World {
    /// From now on the nodes project into a simulated MongoDB.
    pub fn found_database(&mut self, seed: u64) {
        let mut database = Database::new(seed);
        let first = database.dice.span(Duration::from_millis(500), Duration::from_secs(3));
        self.schedule(first, Due::Database(DatabaseEvent::Fault));
        self.database = Some(database);
    }

    /// Every fault of MongoDB ends. What is late stays late.
    pub fn heal_database(&mut self) {
        let Some(database) = &mut self.database else { return };
        database.healed = true;
        database.mood = Mood::default();
        database.down_until = None;
        database.unreachable.clear();
    }

    /// A host has ended a batch of steps: its projector may have to know.
    pub(super) fn projector_hears(&mut self, host: usize) {
        let (Some(database), Some(alive)) = (&mut self.database, &self.hosts[host].alive) else { return };
        let (life, leading, applied) =
            (self.hosts[host].life, alive.node.leading(), alive.node.applied_index());
        if database.tenants.get(&host).is_none_or(|tenant| tenant.life != life) {
            let feed = LedgerFeed::of(std::sync::Arc::new(self.hosts[host].state.clone()));
            let feed = std::sync::Arc::new(feed);
            let projecting = Projecting::new(self.hosts[host].id.clone(), feed, database.limits);
            let tenant = Tenant {
                life,
                projecting,
                seen: None,
                told: None,
                deaf_until: Micros(0),
                applied,
                status: ProjectionStatus::default(),
            };
            database.tenants.insert(host, tenant);
            self.at_host(Duration::ZERO, host, Event::Project);
        }
        let Some(database) = &mut self.database else { return };
        let Some(tenant) = database.tenants.get_mut(&host) else { return };
        let (led, entries) = (tenant.seen != leading, tenant.applied != applied);
        (tenant.seen, tenant.applied) = (leading, applied);
        let entries = entries && tenant.projecting.wants_entries();
        if led {
            let late = database.dice.chance(LATE_NEWS_PPM);
            let most = if late { Duration::from_secs(3) } else { Duration::from_micros(200) };
            let wait = database.dice.span(Duration::from_micros(10), most);
            tenant.deaf_until = self.now.after(wait);
            self.at_host(wait, host, Event::Project);
        }
        if entries {
            self.at_host(Duration::from_micros(20), host, Event::Project);
        }
    }

    /// A host's projector runs until it waits for something.
    pub(super) fn project(&mut self, host: usize) -> Result<(), String> {
        let (now, wall, life) = (self.now, self.wall(host), self.hosts[host].life);
        let (Some(database), Some(alive)) = (&mut self.database, &self.hosts[host].alive) else {
            return Ok(());
        };
        let Some(tenant) = database.tenants.get_mut(&host).filter(|tenant| tenant.life == life) else {
            return Ok(());
        };
        if tenant.deaf_until <= now {
            tenant.told = alive.node.leading();
        }
        let sight = Sight { now, wall, leading: tenant.told, applied: alive.node.applied_index() };
        for wish in tenant.projecting.poll(sight) {
            self.grant(host, life, wish)?;
        }
        Ok(())
    }

    fn grant(&mut self, host: usize, life: u64, wish: Wish) -> Result<(), String> {
        match wish {
            Wish::Wake(at) => self.at_host(at.since(self.now), host, Event::Project),
            Wish::Call(call, request) => self.send_to_database(host, life, call, request),
            Wish::Propose(checkpoint) => {
                let request = LedgerRequest::new(Command::Projected(checkpoint));
                let (ask, want) = (self.new_ask(), Want::Write(request));
                let input = Input::Ask { ask, want, forward: false, patience: PARKED_FOR };
                self.at_host(Duration::ZERO, host, Event::Result(Box::new(input)));
            }
            Wish::Report(status) => {
                let input = Input::Projection(status.clone());
                if let Some(tenant) = self.database.as_mut().and_then(|one| one.tenants.get_mut(&host)) {
                    tenant.status = status;
                }
                self.at_host(Duration::ZERO, host, Event::Result(Box::new(input)));
            }
            Wish::Written(documents) => {
                if let Some(database) = &mut self.database {
                    database.written += documents;
                }
            }
            Wish::Tell(news) => {
                let id = self.hosts[host].id.clone();
                self.detail(|| format!("{id} projection: {news:?}"));
                // Whatever the server does here may pass by itself.
                if let News::Failing { class: Class::Operator | Class::Bug, error, .. } = news {
                    return Err(format!(
                        "MongoDB equals the ledger: the projector of {id} gives up: {error}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn send_to_database(&mut self, host: usize, life: u64, call: CallId, request: Request) {
        let now = self.now;
        let id = self.hosts[host].id.clone();
        let Some(database) = &mut self.database else { return };
        if !database.answers(host, now) {
            let after = database.dice.span(Duration::from_micros(200), Duration::from_secs(3));
            database.failures += 1;
            let answer = Event::Answered { call, reply: Box::new(Err(broken())) };
            self.schedule(after, Due::Host { host, life, event: answer });
            return;
        }
        let Fate { pieces, end } = database.fate(&request);
        database.last_flight += 1;
        let flight = database.last_flight;
        let reply = Reply::default();
        let how = end.map_or(End::Broken, |(_, how)| how);
        database.failures += u64::from(end.is_none() || how != End::Answered);
        let words = request.words();
        database.flights.insert(flight, Flight { host, life, call, request, reply, end: how });
        for (after, steps) in pieces {
            self.schedule(after, Due::Database(DatabaseEvent::Step { flight, steps }));
        }
        let fate = match end {
            None => "never ends".to_string(),
            Some((after, how)) => {
                self.schedule(after, Due::Database(DatabaseEvent::Answer { flight }));
                format!("{how:?} after {} ms", after.as_millis())
            }
        };
        self.detail(|| format!("{id} to MongoDB, request {flight}: {words}: {fate}"));
    }

    /// Something happens at the server. `Err`: an invariant is broken.
    pub fn database_event(&mut self, event: DatabaseEvent) -> Result<(), String> {
        let now = self.now;
        let Some(database) = &mut self.database else { return Ok(()) };
        match event {
            DatabaseEvent::Step { flight, steps } => {
                let Some(flight) = database.flights.get_mut(&flight) else { return Ok(()) };
                let changes =
                    database.tables.execute(&flight.request, steps, &mut flight.reply).map_err(|error| {
                        format!("MongoDB equals the ledger: it refuses {:?}: {error}", flight.request)
                    })?;
                for change in &changes {
                    database.watch.changed(&database.tables, change)?;
                }
                Ok(())
            }
            DatabaseEvent::Answer { flight } => {
                let Some(flight) = database.flights.remove(&flight) else { return Ok(()) };
                let reply = match flight.end {
                    End::Answered => {
                        if flight.request.is_write() {
                            database.tables.sync();
                            database.watch.synced(&database.tables)?;
                        }
                        Ok(flight.reply)
                    }
                    End::Broken => Err(broken()),
                    End::Unconfirmed => Err(ProjectionError::Write {
                        action: "simulated",
                        code: WRITE_CONCERN_FAILED,
                        message: "write concern not met".to_string(),
                    }),
                };
                let event = Event::Answered { call: flight.call, reply: Box::new(reply) };
                self.schedule(
                    Duration::from_micros(50),
                    Due::Host { host: flight.host, life: flight.life, event },
                );
                Ok(())
            }
            DatabaseEvent::Fault => self.database_fault(now),
        }
    }

    fn database_fault(&mut self, now: Micros) -> Result<(), String> {
        let hosts = self.hosts.len() as u64;
        let Some(database) = self.database.as_mut().filter(|database| !database.healed) else {
            return Ok(());
        };
        database.faults += 1;
        let mut lost = Vec::new();
        let pause = database.dice.span(Duration::from_millis(200), Duration::from_millis(2_500));
        let what = match database.dice.below(8) {
            0 | 1 => {
                lost = database.power_cut(now)?;
                format!("MongoDB loses power, with {} requests under way", lost.len())
            }
            2..=4 => {
                database.mood = database.draw_mood();
                format!("MongoDB: {:?}", database.mood)
            }
            5 => {
                let host = usize::try_from(database.dice.below(hosts)).expect("small");
                database.unreachable.insert(host);
                format!("host {host} cannot reach MongoDB")
            }
            6 => {
                database.unreachable.clear();
                "every host can reach MongoDB".to_string()
            }
            _ => {
                database.mood = Mood::default();
                "MongoDB is well".to_string()
            }
        };
        for flight in lost {
            let event = Event::Answered { call: flight.call, reply: Box::new(Err(broken())) };
            let after = Duration::from_millis(1);
            self.schedule(after, Due::Host { host: flight.host, life: flight.life, event });
        }
        self.note(|| what);
        self.schedule(pause, Due::Database(DatabaseEvent::Fault));
        Ok(())
    }

    /// An answer of MongoDB reaches a host.
    pub(super) fn database_answered(
        &mut self,
        host: usize,
        call: CallId,
        reply: Result<Reply, ProjectionError>,
    ) -> Result<(), String> {
        if let Some(tenant) = self.database.as_mut().and_then(|one| one.tenants.get_mut(&host)) {
            tenant.projecting.answered(call, reply);
        }
        self.project(host)
    }

    /// A host has applied one entry: what must MongoDB hold one day, and does it hold what the cluster agrees on?
    pub(super) fn projection_applied(
        &mut self,
        host: usize,
        index: Index,
        happenings: &[Happening],
    ) -> Result<(), String> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let state = std::sync::Arc::new(self.hosts[host].state.clone());
        database.watch.applied(&LedgerFeed::of(state), index)?;
        happenings.iter().try_for_each(|happening| match happening {
            Happening::Projected(checkpoint) => database.watch.agreed(checkpoint),
            _ => Ok(()),
        })
    }

    /// Whether MongoDB has come to the end of the ledger, and the leader knows it.
    pub fn is_projected(&self) -> bool {
        let Some(database) = &self.database else { return true };
        database.watch.is_level() && database.tenants.iter().any(|(host, tenant)| self.knows(*host, tenant))
    }

    fn knows(&self, host: usize, tenant: &Tenant) -> bool {
        let leads = self.hosts[host].alive.as_ref().is_some_and(|alive| alive.node.leading().is_some());
        leads && tenant.status.lag_records == 0 && tenant.status.enabled && tenant.status.error.is_none()
    }

    /// What keeps [`World::is_projected`] from being true.
    pub fn projection_lacks(&self) -> String {
        let Some(database) = &self.database else { return String::new() };
        let statuses: Vec<String> = database
            .tenants
            .iter()
            .map(|(host, tenant)| format!("{} {:?}", self.hosts[*host].id, tenant.status))
            .collect();
        format!("{}; {}", database.watch.words(), statuses.join(", "))
    }

    /// At the end of a history: MongoDB is the ledger.
    pub fn projection_at_end(&self) -> Result<(), String> {
        self.database.as_ref().map_or(Ok(()), |database| database.watch.at_end(&database.tables))
    }
}
