//! Clients that use the library: the plan of a call ([`crate::calls::Plan`]) in virtual time, over requests and answers
//! that are lost, late, or come after the client gave up.
//!
//! What stands between the plan and the nodes is what HTTP and the API are to the real client; the decisions are the
//! same code. Some callers send their writes under idempotency keys, one at a time; others in a session, several at a
//! time. After a call has ended, a copy of its request may still arrive.
//!
//! What is checked: a value is written at most once (`once`), never after its writer was told that it was not, and an
//! acknowledged one is committed; "unknown" is said only while a try is open; and each key is linearizable.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::calls::{Endpoints, Guard, Heard, Kind, Next, Plan, Sequences, Verdict, Word};
use crate::ledger::command::{Answer, Command, InSession, Once, Rejection, Request};
use crate::ledger::idempotency::stamped;
use crate::ledger::query;
use crate::ledger::sessions::SESSION_WINDOW;
use crate::node::handle::Failure;
use crate::node::ports::StateStore;
use crate::node::requests::{AskId, Outcome, Want};
use crate::types::{Index, Micros, SessionId};

use super::dice::Dice;
use super::invariants::linearizable::{Action, OPERATIONS_MAX, Operation, is_linearizable};
use super::trace::Weight;
use super::world::{Answered, Due, World};

/// What the streams of callers are numbered from.
const CALLER_STREAMS: u64 = 1 << 41;
/// The first value that callers write; other clients write lower ones.
const VALUES_FROM: u64 = 1 << 40;
/// Keys that the callers share at a time, and the number of the first.
const KEYS: u64 = 2;
const KEYS_FROM: u64 = 1_000;
/// Calls that a caller with a session has under way at a time.
const PIPELINE_MAX: usize = 4;
/// How long the library tries: all tries of one call together.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(800), Duration::from_millis(4_000));
/// How long a message takes between a client and a node.
const LATENCY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));
/// How long it takes when it is held up: often longer than a try may take.
const HELD_UP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(2_500));
/// Messages that are lost, and that are held up, in a million, while things go wrong.
const LOST_PPM: u64 = 60_000;
const HELD_UP_PPM: u64 = 60_000;
/// How often a copy of a request arrives after its call has ended.
const GHOST_PPM: u64 = 150_000;
/// How often a turn closes the session under whatever is outstanding in it.
const CLOSE_PPM: u64 = 15_000;
/// How often a node is asked not to pass the request on, so that it names the leader instead.
const DIRECT_PPM: u64 = 400_000;

/// Names a call of a caller.
type CallId = u64;

/// One try of one call of one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Try {
    caller: usize,
    call: CallId,
    number: u32,
}

/// What happens to callers.
#[derive(Debug)]
pub enum Event {
    /// A caller begins a call, if it likes to.
    Turn(usize),
    /// A request reaches a host.
    Arrive {
        /// Whose; `None`: a copy, whose answer nobody awaits.
        from: Option<Try>,
        /// Where.
        host: usize,
        /// What it asks for.
        want: Box<Want>,
    },
    /// An answer, a refusal, or the refusal of a connection reaches the caller.
    Hear {
        /// Of which try.
        of: Try,
        /// What it means to the plan.
        heard: Heard,
        /// What it brings.
        news: News,
    },
    /// A try has had its time.
    Limit(Try),
    /// A pause is over.
    Resume(usize, CallId),
}

/// What an answer brings, beyond being one.
#[derive(Debug, Clone)]
pub enum News {
    /// Nothing.
    Nothing,
    /// A write was done at this position.
    Written(Index),
    /// A read found this.
    Found(Option<u64>),
    /// A session is open.
    Session(SessionId),
    /// The session is gone.
    SessionGone,
    /// The key says too little of since when it can have been used; this far the log reaches now.
    KeyExpired(Index),
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Read { key: u64 },
    Write { key: u64, value: u64 },
    Open,
    Close(SessionId),
}

impl About {
    fn key(self) -> Option<u64> {
        match self {
            About::Read { key } | About::Write { key, .. } => Some(key),
            About::Open | About::Close(_) => None,
        }
    }
}

/// A call under way.
struct Live {
    about: About,
    plan: Plan,
    invoked: Micros,
    /// How far its caller had seen the log reach.
    seen: Index,
    once: Option<Placed>,
    tries: u32,
    /// The try that is under way, and whom it asks.
    current: Option<(Try, String)>,
    /// Tries that were sent, and of which nothing was heard that speaks for them.
    open: BTreeSet<u32>,
    news: News,
}

/// What tells the tries of a write apart from others.
#[derive(Debug, Clone, Copy)]
enum Placed {
    Key,
    Sequence(SessionId, u64),
}

struct Caller {
    dice: Dice,
    endpoints: Endpoints,
    /// Whether it uses sessions.
    in_sessions: bool,
    sequences: Option<Sequences>,
    calls: BTreeMap<CallId, Live>,
    last_call: CallId,
    /// How far it has seen the log reach.
    seen: Index,
}

/// All callers of a history.
pub struct Library {
    callers: Vec<Caller>,
    asks: BTreeMap<AskId, Try>,
    histories: BTreeMap<u64, Vec<Operation>>,
    worn: [u64; KEYS as usize],
    last_value: u64,
    /// Whether messages arrive, and soon.
    calm: bool,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// When the last one was.
    pub acknowledged_at: Micros,
    /// Reads that were answered.
    pub read: u64,
    /// Calls whose outcome stayed unknown.
    pub unknown: u64,
}

impl Library {
    /// `count` callers, each of which begins soon; every second one uses sessions.
    pub fn new(count: usize, world: &mut World) -> Library {
        let caller = |place: usize| Caller {
            dice: Dice::stream(world.plan.seed, CALLER_STREAMS + place as u64),
            endpoints: Endpoints::new(world.hosts.iter().map(|host| host.id.to_string())),
            in_sessions: place % 2 == 1,
            sequences: None,
            calls: BTreeMap::new(),
            last_call: 0,
            seen: Index(0),
        };
        let callers = (0..count).map(caller).collect();
        for place in 0..count {
            let after = Duration::from_millis(200 + 300 * place as u64);
            world.schedule(after, Due::Library(Event::Turn(place)));
        }
        Library {
            callers,
            asks: BTreeMap::new(),
            histories: BTreeMap::new(),
            worn: [0; KEYS as usize],
            last_value: VALUES_FROM,
            calm: false,
            acknowledged: 0,
            acknowledged_at: Micros(0),
            read: 0,
            unknown: 0,
        }
    }

    /// Lets something happen to a caller. `healed`: from now on no message is lost or held up. `Err`: an invariant is
    /// broken.
    pub fn happen(&mut self, event: Event, world: &mut World, healed: bool) -> Result<(), String> {
        self.calm |= healed;
        match event {
            Event::Turn(caller) => self.turn(caller, world),
            Event::Arrive { from, host, want } => {
                self.arrive(from, host, *want, world);
                Ok(())
            }
            Event::Hear { of, heard, news } => self.hear(of, &heard, news, world),
            Event::Limit(of) => self.hear(of, &Heard::Silence { sent: true }, News::Nothing, world),
            Event::Resume(caller, call) => self.go_on(caller, call, world),
        }
    }

    /// Takes an answer in, if it is to one of the callers.
    pub fn take_answer(&mut self, world: &mut World, answered: &Answered) -> Result<bool, String> {
        let Some(of) = self.asks.remove(&answered.ask) else { return Ok(false) };
        let about = self.callers[of.caller].calls.get(&of.call).map(|live| live.about);
        let (heard, news) = match (&answered.outcome, about) {
            (Outcome::Read(Ok(_)), Some(About::Read { key })) => {
                (Heard::Answer, News::Found(found(world, answered.host, key)?))
            }
            (Outcome::Read(Ok(_)), _) => (Heard::Answer, News::Nothing),
            (Outcome::Write(Ok(applied)), _) => said(&applied.answer, applied.index),
            (Outcome::Write(Err(failure)) | Outcome::Read(Err(failure)), _) => {
                (failed(failure), News::Nothing)
            }
            (other, _) => return Err(format!("assertion: a call was answered by {other:?}")),
        };
        if let Some(after) = self.travel(of.caller) {
            world.schedule(after, Due::Library(Event::Hear { of, heard, news }));
        }
        Ok(true)
    }

    /// How long a message is on its way; `None`: it is lost.
    fn travel(&mut self, caller: usize) -> Option<Duration> {
        let calm = self.calm;
        let dice = &mut self.callers[caller].dice;
        if !calm && dice.chance(LOST_PPM) {
            return None;
        }
        let (least, most) = if !calm && dice.chance(HELD_UP_PPM) { HELD_UP } else { LATENCY };
        Some(dice.span(least, most))
    }

    fn turn(&mut self, caller: usize, world: &mut World) -> Result<(), String> {
        let me = &mut self.callers[caller];
        let pause = me.dice.span(Duration::from_millis(30), Duration::from_millis(400));
        world.schedule(pause, Due::Library(Event::Turn(caller)));
        let at_once = if me.in_sessions { PIPELINE_MAX } else { 1 };
        let waits_for_session = me.calls.values().any(|live| live.about == About::Open);
        if me.calls.len() >= at_once || waits_for_session {
            return Ok(());
        }
        let (read, place) = (me.dice.chance(400_000), me.dice.below(KEYS));
        let about = match &me.sequences {
            _ if read => About::Read { key: self.key(place) },
            None if me.in_sessions => About::Open,
            Some(known) if me.dice.chance(CLOSE_PPM) => About::Close(known.session()),
            _ => {
                self.last_value += 1;
                About::Write { key: self.key(place), value: self.last_value }
            }
        };
        self.begin(caller, about, world)
    }

    /// The key at one of the places; a new one when as much was done on the old one as can be checked.
    fn key(&mut self, place: u64) -> u64 {
        let under_way: usize = self.callers.iter().map(|caller| caller.calls.len()).sum();
        let worn = &mut self.worn[usize::try_from(place).expect("small")];
        let key = KEYS_FROM + place + KEYS * *worn;
        if self.histories.get(&key).map_or(0, Vec::len) + under_way < OPERATIONS_MAX {
            return key;
        }
        *worn += 1;
        key + KEYS
    }

    fn begin(&mut self, caller: usize, about: About, world: &mut World) -> Result<(), String> {
        let me = &mut self.callers[caller];
        let once = match (about, me.sequences.as_mut()) {
            (About::Read { .. }, _) => None,
            (About::Write { .. }, Some(sequences)) => {
                // The window is wider than the pipeline.
                sequences.begin().map(|sequence| Placed::Sequence(sequences.session(), sequence))
            }
            _ => Some(Placed::Key),
        };
        let kind = match once {
            None => Kind::Read,
            Some(Placed::Key) => Kind::Write(Guard::Key),
            Some(Placed::Sequence(..)) => Kind::Write(Guard::Sequence),
        };
        let timeout = me.dice.span(TIMEOUT.0, TIMEOUT.1);
        // Whoever replaces all nodes that a client was given must give it the new ones.
        world.hosts.iter().for_each(|host| me.endpoints.add(host.id.to_string()));
        me.last_call += 1;
        let call = me.last_call;
        let live = Live {
            about,
            plan: Plan::new(kind, world.now, timeout, Duration::ZERO),
            invoked: world.now,
            seen: me.seen,
            once,
            tries: 0,
            current: None,
            open: BTreeSet::new(),
            news: News::Nothing,
        };
        me.calls.insert(call, live);
        tell(world, about, || format!("caller {caller} begins call {call}: {about:?} {once:?}"));
        self.go_on(caller, call, world)
    }

    /// Does what the plan of a call wants next.
    fn go_on(&mut self, caller: usize, call: CallId, world: &mut World) -> Result<(), String> {
        let me = &mut self.callers[caller];
        let Some(live) = me.calls.get_mut(&call) else { return Ok(()) };
        match live.plan.next(&me.endpoints, world.now, me.dice.word()) {
            Next::Pause(span) => world.schedule(span, Due::Library(Event::Resume(caller, call))),
            Next::Over(verdict) => return self.conclude(caller, call, verdict, world),
            Next::Try { endpoint, limit } => {
                live.tries += 1;
                let of = Try { caller, call, number: live.tries };
                live.open.insert(of.number);
                live.current = Some((of, endpoint.clone()));
                world.schedule(limit, Due::Library(Event::Limit(of)));
                let about = live.about;
                tell(world, about, || {
                    format!("caller {caller} call {call} asks {endpoint} (try {})", of.number)
                });
                let want = Box::new(self.want(caller, call));
                let host = world.hosts.iter().position(|host| host.id.as_str() == endpoint);
                if let (Some(host), Some(after)) = (host, self.travel(caller)) {
                    world.schedule(after, Due::Library(Event::Arrive { from: Some(of), host, want }));
                }
            }
        }
        Ok(())
    }

    /// What a call asks for, as of now.
    fn want(&self, caller: usize, call: CallId) -> Want {
        let me = &self.callers[caller];
        let live = &me.calls[&call];
        let known = me.sequences.as_ref();
        let command = match live.about {
            About::Read { .. } => return Want::Read { lease: false },
            About::Write { key, value } => {
                Command::KvPut { key: name(key), value: value.to_string(), if_revision: None }
            }
            About::Open => Command::SessionOpen,
            About::Close(session) => Command::SessionClose { session },
        };
        let once = match live.once {
            Some(Placed::Sequence(session, sequence)) => {
                let lowest = known.filter(|known| known.session() == session);
                let lowest_unanswered = lowest.map_or(sequence, Sequences::lowest_unanswered);
                Once::Session(InSession { session, sequence, lowest_unanswered })
            }
            _ => Once::Key(stamped(live.seen, &format!("caller-{caller}-{call}"))),
        };
        Want::Write(Request { once, command })
    }

    fn arrive(&mut self, from: Option<Try>, host: usize, want: Want, world: &mut World) {
        if world.hosts[host].alive.is_some() {
            let forward = from.is_none_or(|of| !self.callers[of.caller].dice.chance(DIRECT_PPM));
            let ask = world.ask_with(host, want, forward);
            if let Some(of) = from {
                self.asks.insert(ask, of);
            }
            return;
        }
        // Nobody listens there: the connection is refused.
        if let Some(of) = from
            && let Some(after) = self.travel(of.caller)
        {
            let heard = Heard::Silence { sent: false };
            world.schedule(after, Due::Library(Event::Hear { of, heard, news: News::Nothing }));
        }
    }

    fn hear(&mut self, of: Try, heard: &Heard, news: News, world: &mut World) -> Result<(), String> {
        let Try { caller, call, number } = of;
        let me = &mut self.callers[caller];
        let Some(live) = me.calls.get_mut(&call) else { return Ok(()) };
        // What comes after the try was given up is not heard: its connection is closed.
        let Some((_, endpoint)) = live.current.take_if(|(current, _)| *current == of) else { return Ok(()) };
        let text = || format!("caller {caller} call {call} hears of try {number}: {heard:?} {news:?}");
        tell(world, live.about, text);
        let speaks_for_it = match heard {
            Heard::Answer | Heard::Silence { sent: false } => true,
            Heard::No { word, .. } => *word != Word::Unknown,
            Heard::Silence { sent: true } => false,
        };
        if speaks_for_it {
            live.open.remove(&number);
        }
        live.news = news;
        live.plan.heard(&mut me.endpoints, &endpoint, world.now, heard);
        self.go_on(caller, call, world)
    }

    fn conclude(
        &mut self,
        caller: usize,
        call: CallId,
        verdict: Verdict,
        world: &mut World,
    ) -> Result<(), String> {
        let repeat = Box::new(self.want(caller, call));
        let me = &mut self.callers[caller];
        let Some(live) = me.calls.remove(&call) else { return Ok(()) };
        if let News::Written(index) | News::KeyExpired(index) = &live.news {
            me.seen = me.seen.max(*index);
        }
        tell(world, live.about, || format!("caller {caller} call {call} is over: {verdict:?}"));
        if let Some(Placed::Sequence(session, sequence)) = live.once
            && let Some(known) = me.sequences.as_mut().filter(|known| known.session() == session)
        {
            known.end(sequence);
            if matches!(live.news, News::SessionGone) {
                me.sequences = None;
            }
        }
        if verdict == Verdict::Unknown {
            self.unknown += 1;
            if live.open.is_empty() {
                return Err(format!(
                    "unknown without reason: call {call} of caller {caller} has no open try"
                ));
            }
        }
        let done = Operation { invoked: live.invoked, returned: Some(world.now), action: Action::Read(None) };
        match (live.about, verdict, &live.news) {
            (About::Read { key }, Verdict::Done, News::Found(value)) => {
                self.read += 1;
                self.histories
                    .entry(key)
                    .or_default()
                    .push(Operation { action: Action::Read(*value), ..done });
            }
            (About::Write { key, value }, Verdict::Done, News::Written(index)) => {
                world.watch.acknowledged(Some(value), *index)?;
                self.acknowledged += 1;
                self.acknowledged_at = world.now;
                let action = Action::Write(Some(value));
                self.histories.entry(key).or_default().push(Operation { action, ..done });
            }
            (About::Write { key, value }, Verdict::Unknown, _) => {
                let action = Action::Write(Some(value));
                self.histories.entry(key).or_default().push(Operation { action, returned: None, ..done });
            }
            (About::Write { value, .. }, Verdict::Refused | Verdict::NotApplied, _) => {
                world.watch.refused(Some(value))?;
            }
            (About::Open, Verdict::Done, News::Session(session)) => {
                self.callers[caller].sequences = Some(Sequences::new(*session, SESSION_WINDOW));
            }
            (About::Close(session), Verdict::Done | Verdict::Refused, _) => {
                self.callers[caller].sequences.take_if(|known| known.session() == session);
            }
            (_, Verdict::Done, news) => {
                return Err(format!("assertion: {:?} was answered by {news:?}", live.about));
            }
            _ => {}
        }
        self.haunt(caller, verdict, repeat, world);
        Ok(())
    }

    /// A copy of the request may have been held up on the way, and arrive when nobody waits for it any more. (Of a call
    /// that was not applied there is none: each of its tries was refused.)
    fn haunt(&mut self, caller: usize, verdict: Verdict, want: Box<Want>, world: &mut World) {
        let dice = &mut self.callers[caller].dice;
        if self.calm || !matches!(verdict, Verdict::Done | Verdict::Unknown) || !dice.chance(GHOST_PPM) {
            return;
        }
        let hosts = world.hosts.len() as u64;
        let host = usize::try_from(dice.below(hosts)).expect("few hosts");
        let after = dice.span(HELD_UP.0, HELD_UP.1);
        world.schedule(after, Due::Library(Event::Arrive { from: None, host, want }));
    }

    /// Whether every key's history is linearizable. The breach names the key.
    pub fn verdict(&mut self) -> Result<(), (u64, String)> {
        for caller in &mut self.callers {
            for live in std::mem::take(&mut caller.calls).into_values() {
                if let About::Write { key, value } = live.about {
                    let action = Action::Write(Some(value));
                    let operation = Operation { invoked: live.invoked, returned: None, action };
                    self.histories.entry(key).or_default().push(operation);
                }
            }
        }
        for (key, history) in &self.histories {
            if !is_linearizable(history) {
                let mut lines: Vec<String> = history.iter().map(ToString::to_string).collect();
                lines.sort();
                let what =
                    format!("the calls on {} have no legal order:\n    {}", name(*key), lines.join("\n    "));
                return Err((*key, format!("linearizability: {what}")));
            }
        }
        Ok(())
    }
}

/// A line of the trace.
fn tell(world: &mut World, about: About, text: impl FnOnce() -> String) {
    world.trace.tell(world.now, Weight::Main, about.key(), text);
}

/// The name of a key of the callers.
fn name(key: u64) -> String {
    format!("key{key}")
}

/// What a node has at a key.
fn found(world: &World, host: usize, key: u64) -> Result<Option<u64>, String> {
    let view = world.hosts[host].state.view().map_err(|error| format!("storage: {error}"))?;
    let entry = query::kv_get(view.as_ref(), &name(key)).map_err(|error| format!("storage: {error}"))?;
    let value = entry.map(|entry| entry.value.parse::<u64>()).transpose();
    value.map_err(|error| format!("linearizability: odd value: {error}"))
}

/// What an answer of the replicated state means to the plan (over HTTP: its status, `outcome` and `index`).
fn said(answer: &Answer, index: Index) -> (Heard, News) {
    let refused = |word| Heard::No { retryable: false, word, leader: None };
    match answer {
        Answer::Kv { .. } => (Heard::Answer, News::Written(index)),
        Answer::Session { session, .. } => (Heard::Answer, News::Session(*session)),
        Answer::Rejected(Rejection::SessionExpired(_)) => {
            (refused(Word::ThisTryDidNothing), News::SessionGone)
        }
        Answer::Rejected(Rejection::KeyExpired(_)) => {
            (refused(Word::ThisTryDidNothing), News::KeyExpired(index))
        }
        Answer::Rejected(Rejection::OutsideWindow(_)) => (refused(Word::Unknown), News::Nothing),
        Answer::Rejected(_) => (refused(Word::RefusedForGood), News::Nothing),
        Answer::Done
        | Answer::Sum { .. }
        | Answer::Claimed(_)
        | Answer::Adjusted { .. }
        | Answer::Maintenance { .. }
        | Answer::PolicySet { .. }
        | Answer::Enrolled { .. } => (Heard::Answer, News::Nothing),
    }
}

/// What a failure means to the plan.
fn failed(failure: &Failure) -> Heard {
    let leader = match failure {
        Failure::NotLeader { leader } => leader.as_ref().map(ToString::to_string),
        _ => None,
    };
    let word = if failure.leaves_open() { Word::Unknown } else { Word::ThisTryDidNothing };
    Heard::No { retryable: failure.is_retryable(), word, leader }
}
