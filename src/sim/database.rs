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
use crate::database::ports::{Limits, News};
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
    /// Are done after their sender has lost the connection or given up, and perhaps sent them again.
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
    /// Steps to come.
    pieces: usize,
    answered: bool,
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
            patience: Duration::from_secs(*dice.pick(&[1, 2, 10])),
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
        let begin = self.dice.span(Duration::from_micros(100), most);
        let cut = usize::try_from(self.dice.below(steps as u64 + 1)).expect("at most a usize");
        let gap = self.dice.span(Duration::from_micros(10), Duration::from_millis(4));
        let mut pieces = vec![(begin, 0..cut), (begin + gap, cut..steps)];
        let end = begin + gap + self.dice.span(Duration::from_micros(50), Duration::from_millis(4));
        if late && request.is_write() {
            let wait = self.dice.span(Duration::from_millis(10), Duration::from_millis(2_500));
            let pieces = vec![(begin + wait, 0..cut), (begin + wait + gap, cut..steps)];
            // The connection broke, or nothing is heard at all and the sender gives up by itself.
            let end = self.dice.chance(800_000).then_some((end, End::Broken));
            return Fate { pieces, end };
        }
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

    /// One or two kinds of failure, and never so many that nothing goes through: most bugs need progress.
    fn draw_mood(&mut self) -> Mood {
        let mut mood = Mood::default();
        for _ in 0..2 {
            let ppm = 10_000 + self.dice.below(90_000);
            match self.dice.below(7) {
                0 => mood.refuse_ppm = ppm,
                1 => mood.stop_ppm = ppm,
                2 => mood.lose_ppm = ppm,
                3 | 4 => mood.late_ppm = 2 * ppm,
                5 => mood.hang_ppm = ppm / 4,
                _ => mood.slow_ppm = ppm,
            }
        }
        mood
    }

    /// Loses power: what was not synced may be gone, and so is every request.
    fn power_cut(&mut self, now: Micros) -> Result<Vec<Flight>, String> {
        let unsynced = self.tables.unsynced() as u64;
        let kept = usize::try_from(self.dice.below(unsynced + 1)).expect("at most a usize");
        self.tables.power_cut(kept);
        self.watch.after_power_cut(&self.tables)?;
        self.watch.synced(&self.tables)?;
        let away = self.dice.span(Duration::from_millis(20), Duration::from_millis(1_500));
        self.down_until = Some(now.after(away));
        let flights = std::mem::take(&mut self.flights).into_values();
        Ok(flights.filter(|flight| !flight.answered).collect())
    }
}

fn broken() -> ProjectionError {
    ProjectionError::Driver(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
}

impl World {
    /// From now on the nodes project into a simulated MongoDB.
    pub fn found_database(&mut self, seed: u64) {
        let mut database = Database::new(seed);
        let first = database.dice.span(Duration::from_millis(100), Duration::from_secs(2));
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
            // Mostly refused at once; now and then a server is looked for until the driver gives up.
            let most = if database.dice.chance(100_000) { 3_000 } else { 50 };
            let after = database.dice.span(Duration::from_micros(200), Duration::from_millis(most));
            database.failures += 1;
            let answer = Event::Answered { call, reply: Box::new(Err(broken())) };
            self.schedule(after, Due::Host { host, life, event: answer });
            return;
        }
        let Fate { mut pieces, end } = database.fate(&request);
        pieces.retain(|(_, steps)| !steps.is_empty());
        database.last_flight += 1;
        let flight = database.last_flight;
        let reply = Reply::default();
        let how = end.map_or(End::Broken, |(_, how)| how);
        database.failures += u64::from(end.is_none() || how != End::Answered);
        let words = request.words();
        let (how_many, answered) = (pieces.len(), false);
        let under_way = Flight { host, life, call, request, reply, end: how, pieces: how_many, answered };
        database.flights.insert(flight, under_way);
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
                let id = flight;
                let Some(flight) = database.flights.get_mut(&id) else { return Ok(()) };
                flight.pieces -= 1;
                let changes =
                    database.tables.execute(&flight.request, steps, &mut flight.reply).map_err(|error| {
                        format!("MongoDB equals the ledger: it refuses {:?}: {error}", flight.request)
                    })?;
                if flight.answered && flight.pieces == 0 {
                    database.flights.remove(&id);
                }
                for change in &changes {
                    database.watch.changed(&database.tables, change)?;
                }
                Ok(())
            }
            DatabaseEvent::Answer { flight } => {
                let id = flight;
                let Some(flight) = database.flights.get_mut(&id) else { return Ok(()) };
                flight.answered = true;
                let reply = match flight.end {
                    End::Answered => {
                        if flight.request.is_write() {
                            database.tables.sync();
                            database.watch.synced(&database.tables)?;
                        }
                        Ok(flight.reply.clone())
                    }
                    End::Broken => Err(broken()),
                    End::Unconfirmed => Err(ProjectionError::Write {
                        action: "simulated",
                        code: WRITE_CONCERN_FAILED,
                        message: "write concern not met".to_string(),
                    }),
                };
                let event = Event::Answered { call: flight.call, reply: Box::new(reply) };
                let due = Due::Host { host: flight.host, life: flight.life, event };
                if flight.pieces == 0 {
                    database.flights.remove(&id);
                }
                self.schedule(Duration::from_micros(50), due);
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
        let pause = database.dice.span(Duration::from_millis(100), Duration::from_millis(1_200));
        let what = match database.dice.below(10) {
            0 => {
                lost = database.power_cut(now)?;
                format!("MongoDB loses power, with {} requests under way", lost.len())
            }
            1..=5 => {
                database.mood = database.draw_mood();
                format!("MongoDB: {:?}", database.mood)
            }
            6 => {
                let host = usize::try_from(database.dice.below(hosts)).expect("small");
                database.unreachable = [host].into();
                format!("host {host} cannot reach MongoDB")
            }
            7 | 8 => {
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

    /// At the end of a history: MongoDB is the ledger, as every host that has come to its end reads it from the beginning.
    pub fn projection_at_end(&self) -> Result<(), String> {
        let Some(database) = &self.database else { return Ok(()) };
        let at_end = self.hosts.iter().filter(|host| {
            let applied = host.alive.as_ref().map(|alive| alive.node.applied_index());
            applied.is_some_and(|applied| database.watch.knows(applied))
        });
        for host in at_end {
            database.watch.whole(&LedgerFeed::of(std::sync::Arc::new(host.state.clone())))?;
        }
        database.watch.at_end(&database.tables)
    }
}
