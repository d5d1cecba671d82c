//! Consensus told as stories: each script in `tests/transcripts/raft` opens with its claim, and shows every effect of
//! every step. Messages and disks move only when the script says so.
//!
//! After a deliberate change: `UPDATE_GOLDENFILES=1 cargo test --test raft_transcripts`, then read the difference.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use goldenscript::{Argument, Context};
use super_node::raft::{
    Base, Body, Change, Config, Configuration, Effect, ElectionReason, Entry, Event, HardState, Input,
    Message, Payload, Persist, Position, Raft, Recovered,
};
use super_node::types::{Index, Micros, NodeId, Term};

macro_rules! transcripts {
    ($($name:ident)+) => {
        const SCRIPTS: &[&str] = &[$(stringify!($name)),+];
        $(#[test]
        fn $name() {
            let path = concat!("tests/transcripts/raft/", stringify!($name), ".txt");
            goldenscript::run(&mut Theatre::default(), path).expect("the script runs");
        })+
    };
}

transcripts! {
    a_retry_is_a_second_entry
    append_before_base
    campaign_with_an_unapplied_configuration
    candidate_crashes_before_its_vote_is_durable
    change_before_the_first_commit
    check_quorum
    clock_that_stands_still
    commit_survives_step_down
    configuration_rolls_back
    conflict_repair
    demoted_voter_becomes_a_learner
    disk_order_aba
    figure_8
    five_nodes
    followers_refuse_and_name_the_leader
    heartbeat_after_a_vote_is_old
    huge_term
    joint_quorum
    late_transfer_is_ignored
    leader_counts_itself_when_durable
    learner
    learner_is_promoted
    learner_that_lags_is_not_promoted
    lease_after_a_failed_transfer
    lease_ends_before_rivals_may_stand
    lease_needs_those_who_honour_it
    left_out_but_needed
    lost_messages
    lost_tail
    malformed_messages
    old_answers_do_not_count
    one_change_at_a_time
    one_way_link
    overtaken_append_deletes_nothing
    partitioned_leader_serves_no_reads
    paused_leader_has_no_lease
    peer_silent
    peer_silent_wrongly
    pipelining
    pre_vote_refused
    pre_voter_learns_the_term
    purge_during_transfer
    quorum_moves_with_the_append
    read_round_is_fresh
    reads_wait_for_the_first_commit
    reluctant_leader
    removed_leader_hands_over
    removed_node_is_told
    removed_node_with_a_huge_term
    restart_keeps_a_removed_peer_out
    restarted_voter_keeps_its_promise
    rivals_make_way
    single_node
    single_node_waits_for_its_disk
    snapshot
    snapshot_twice
    stranger_leads
    stuck_disk_hands_over
    stuck_disk_steps_down
    three_nodes
    thrifty_leader
    transfer
    transfer_gives_up_the_lease
    transfer_is_given_up
    transfer_to_a_learner_that_does_not_know_of_its_promotion
    vote_is_durable_before_it_is_told
    voter_dies_in_a_joint_change
    voter_is_replaced_in_one_change
    votes_of_one_term
    wiped_voter_comes_back_as_learner
}

#[test]
fn every_script_is_run_and_opens_with_its_claim() {
    let mut found: Vec<String> = Vec::new();
    for file in std::fs::read_dir("tests/transcripts/raft").expect("the directory of scripts") {
        let path = file.expect("a readable directory").path();
        let text = std::fs::read_to_string(&path).expect("a readable script");
        assert!(text.starts_with("# "), "{} does not open with its claim", path.display());
        found.push(path.file_stem().expect("a name").to_string_lossy().into_owned());
    }
    found.sort();
    assert_eq!(found, SCRIPTS);
}

/// A node with its disk.
#[derive(Default)]
struct Actor {
    raft: Option<Raft>,
    config: Option<Config>,
    disk: Recovered,
    queue: VecDeque<Persist>,
    applied: Base,
    configuration: Configuration,
}

#[derive(Default)]
struct Theatre {
    now: u64,
    actors: BTreeMap<NodeId, Actor>,
    network: VecDeque<(NodeId, NodeId, Message)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Disks that do not answer.
    hung: BTreeSet<NodeId>,
    /// Processes that stand still.
    stopped: BTreeSet<NodeId>,
    requests: u64,
    output: String,
}

type Outcome = Result<(), Box<dyn Error>>;

/// The arguments of a command.
struct Arguments {
    positional: VecDeque<String>,
    keys: BTreeMap<String, String>,
}

impl Arguments {
    fn of(command: &goldenscript::Command) -> Self {
        let mut arguments = Arguments { positional: VecDeque::new(), keys: BTreeMap::new() };
        for argument in &command.args {
            match argument {
                Argument::Positional(value) => arguments.positional.push_back(value.clone()),
                Argument::KeyValue(key, value) => {
                    arguments.keys.insert(key.clone(), value.clone());
                }
                _ => {}
            }
        }
        arguments
    }

    fn next(&mut self) -> Result<String, Box<dyn Error>> {
        Ok(self.positional.pop_front().ok_or("an argument is missing")?)
    }

    fn node(&mut self) -> Result<NodeId, Box<dyn Error>> {
        Ok(self.next()?.parse()?)
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, Box<dyn Error>> {
        Ok(self.keys.remove(key).map(|value| value.parse()).transpose()?)
    }

    fn id(&mut self, key: &str) -> Result<Option<NodeId>, Box<dyn Error>> {
        Ok(self.keys.remove(key).map(|value| value.parse()).transpose()?)
    }

    /// `INDEX/TERM`.
    fn position(&mut self, key: &str) -> Result<Position, Box<dyn Error>> {
        self.keys.remove(key).map_or(Ok(Position::default()), |value| position(&value))
    }

    fn finish(self) -> Outcome {
        if self.positional.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        Err(format!("unknown arguments {:?} {:?}", self.positional, self.keys).into())
    }
}

fn position(text: &str) -> Result<Position, Box<dyn Error>> {
    let (index, term) = text.split_once('/').ok_or("a position is INDEX/TERM")?;
    Ok(Position { index: Index(index.parse()?), term: Term(term.parse()?) })
}

/// `INDEX/TERM:TEXT`; without text an empty entry, `{a b}` a configuration.
fn entry(text: &str) -> Result<Entry, Box<dyn Error>> {
    let (place, payload) = text.split_once(':').unwrap_or((text, ""));
    let Position { index, term } = position(place)?;
    let payload = match payload.strip_prefix('{') {
        None if payload.is_empty() => Payload::Noop,
        None => Payload::Command(payload.to_string().into()),
        Some(names) => {
            let voters: Result<_, _> = names.trim_end_matches('}').split(' ').map(str::parse).collect();
            Payload::Configuration(Configuration { voters: voters?, ..Configuration::default() })
        }
    };
    Ok(Entry { index, term, payload })
}

fn show_names(names: &BTreeSet<NodeId>) -> String {
    names.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

fn show_configuration(configuration: &Configuration) -> String {
    let mut text = format!("{{{}}}", show_names(&configuration.voters));
    if let Some(outgoing) = &configuration.outgoing {
        let _infallible = write!(text, " and {{{}}}", show_names(outgoing));
    }
    if !configuration.learners.is_empty() {
        let _infallible = write!(text, " learners {{{}}}", show_names(&configuration.learners));
    }
    for (node, replaces) in &configuration.joining {
        let replaces = replaces.as_ref().map_or(String::new(), |replaced| format!(" for {replaced}"));
        let _infallible = write!(text, " joining {node}{replaces}");
    }
    for (node, address) in &configuration.addresses {
        let _infallible = write!(text, " {node}@{address}");
    }
    text
}

fn show_entry(entry: &Entry) -> String {
    let Entry { index, term, payload } = entry;
    match payload {
        Payload::Noop => format!("{index}/{term}"),
        Payload::Command(command) => format!("{index}/{term}:{}", String::from_utf8_lossy(command)),
        Payload::Configuration(configuration) => {
            format!("{index}/{term}:{}", show_configuration(configuration))
        }
    }
}

fn show_entries(entries: &[Entry]) -> String {
    format!("[{}]", entries.iter().map(show_entry).collect::<Vec<_>>().join(", "))
}

fn show_position(position: Position) -> String {
    format!("{}/{}", position.index, position.term)
}

fn show_message(message: &Message) -> String {
    let said = match &message.body {
        Body::PreVoteRequest { attempt, last } => {
            format!("pre-vote? attempt={attempt} last={}", show_position(*last))
        }
        Body::PreVoteResponse { attempt, granted } => format!("pre-vote={granted} attempt={attempt}"),
        Body::VoteRequest { last, transfer } => {
            let asked = if *transfer { " transfer" } else { "" };
            format!("vote? last={}{asked}", show_position(*last))
        }
        Body::VoteResponse { granted } => format!("vote={granted}"),
        Body::AppendRequest { previous, entries, commit, round } => {
            let previous = show_position(*previous);
            format!("append after {previous} {} commit={commit} round={round}", show_entries(entries))
        }
        Body::AppendAccepted { matched, round } => format!("accepted {matched} round={round}"),
        Body::AppendRejected { previous, hint, round } => {
            format!("rejected {previous} hint={} round={round}", show_position(*hint))
        }
        Body::Heartbeat { commit, round } => format!("heartbeat commit={commit} round={round}"),
        Body::HeartbeatResponse { round, verified, matched, fit, leases } => {
            let unfit = if *fit { "" } else { " unfit" };
            let leases = if *leases { " leases" } else { "" };
            format!("heard round={round} verified={verified} matched={matched}{unfit}{leases}")
        }
        Body::TimeoutNow { round } => format!("stand now! round={round}"),
        Body::NewerTerm => "your term is over".to_string(),
    };
    format!("(term {}) {said}", message.term)
}

fn show_persist(batch: &Persist) -> String {
    let mut text = format!("write {}", batch.seq);
    if let Some(HardState { term, vote }) = &batch.hard_state {
        let vote = vote.as_ref().map_or("none".to_string(), NodeId::to_string);
        let _infallible = write!(text, " term={term} vote={vote}");
    }
    if let Some(base) = batch.base {
        let _infallible = write!(text, " base={}", show_position(base.into()));
    }
    if !batch.entries.is_empty() {
        let _infallible = write!(text, " {}", show_entries(&batch.entries));
    }
    text
}

impl Theatre {
    fn say(&mut self, text: impl AsRef<str>) {
        self.output.push_str(text.as_ref());
        self.output.push('\n');
    }

    fn actor(&mut self, id: &NodeId) -> Result<&mut Actor, Box<dyn Error>> {
        Ok(self.actors.get_mut(id).ok_or_else(|| format!("no node {id}"))?)
    }

    /// `cluster 3 [learners=1] [outgoing="n3 n4"] [voters="…"] [waiting=1] [window=4] [bytes=…] [uncommitted=…]
    /// [pre_vote=false] [lease=270] [reluctant="n1"]`. `waiting`: further nodes, that know of nobody yet.
    fn cluster(&mut self, arguments: &mut Arguments) -> Outcome {
        let voters: u64 = arguments.next()?.parse()?;
        let learners = arguments.number("learners")?.unwrap_or(0);
        let names = |from: u64, to: u64| -> Result<BTreeSet<NodeId>, Box<dyn Error>> {
            (from..=to).map(|number| Ok(format!("n{number}").parse()?)).collect()
        };
        let listed = |text: String| text.split(' ').map(str::parse).collect::<Result<BTreeSet<NodeId>, _>>();
        let all = names(1, voters + learners)?;
        let learners = names(voters + 1, voters + learners)?;
        let voting = match arguments.keys.remove("voters") {
            Some(text) => listed(text)?,
            None => all.difference(&learners).cloned().collect(),
        };
        let outgoing = arguments.keys.remove("outgoing").map(listed).transpose()?;
        let configuration = Configuration { voters: voting, outgoing, learners, ..Configuration::default() };
        let default = Config::default();
        let window =
            arguments.number("window")?.map_or(default.append_messages_max, |window| window as usize);
        let bytes = arguments.number("bytes")?.map_or(default.append_bytes_max, |bytes| bytes as usize);
        let uncommitted = arguments.number("uncommitted")?.unwrap_or(default.uncommitted_bytes_max as u64);
        let pre_vote = arguments.keys.remove("pre_vote").as_deref() != Some("false");
        let lease = arguments.number("lease")?.map(Duration::from_millis);
        let promise = arguments.number("promise")?.map(Duration::from_millis);
        let thrift = arguments.number("thrift")?.map(Duration::from_millis);
        let reluctant = arguments.keys.remove("reluctant").map(listed).transpose()?.unwrap_or_default();
        let waiting = arguments.number("waiting")?.unwrap_or(0);
        let waiting = names(all.len() as u64 + 1, all.len() as u64 + waiting)?;
        for id in all.union(&waiting).cloned() {
            let configuration =
                if waiting.contains(&id) { Configuration::default() } else { configuration.clone() };
            let config = Config {
                id: id.clone(),
                pre_vote,
                lease,
                promise,
                thrift,
                reluctant: reluctant.contains(&id),
                append_messages_max: window,
                append_bytes_max: bytes,
                uncommitted_bytes_max: uncommitted as usize,
                ..default.clone()
            };
            let actor = Actor { config: Some(config), configuration, ..Actor::default() };
            self.actors.insert(id, actor);
        }
        Ok(())
    }

    /// `start [NODE] [entropy=0]`: with what is on its disk.
    fn start(&mut self, id: &NodeId, entropy: u64) -> Outcome {
        let now = Micros(self.now);
        let actor = self.actor(id)?;
        let config = actor.config.clone().ok_or("a configured node")?;
        let (configuration, base) = (actor.configuration.clone(), actor.applied);
        let repeat = actor.disk.agree_with(base);
        let disk = actor.disk.clone();
        actor.raft = Some(Raft::new(config, configuration.clone(), disk, base.index, now, entropy)?);
        if repeat {
            self.say(format!("{id} state and log differ: the state's snapshot counts"));
            return self.step(id, entropy, Input::SnapshotInstalled { base, configuration }, false);
        }
        self.collect(id)
    }

    fn step(&mut self, id: &NodeId, entropy: u64, input: Input, batch: bool) -> Outcome {
        let now = Micros(self.now);
        let raft = self.actor(id)?.raft.as_mut().ok_or_else(|| format!("{id} does not run"))?;
        raft.step(now, entropy, input);
        if batch { Ok(()) } else { self.collect(id) }
    }

    fn collect(&mut self, id: &NodeId) -> Outcome {
        let now = Micros(self.now);
        let raft = self.actor(id)?.raft.as_mut().ok_or_else(|| format!("{id} does not run"))?;
        for effect in raft.take_effects(now) {
            let text = match &effect {
                Effect::Persist(batch) => show_persist(batch),
                Effect::Send { to, message } => format!("→ {to} {}", show_message(message)),
                Effect::Apply { entries } => format!("apply {}", show_entries(entries)),
                Effect::Proposed { request, index, term } => format!("request {request} is {index}/{term}"),
                Effect::Transferring { request, to } => format!("request {request} hands over to {to}"),
                Effect::ReadReady { request, index } => format!("read {request} may be served at {index}"),
                Effect::Refused { request, refusal } => format!("request {request} refused: {refusal:?}"),
                Effect::SendSnapshot { to } => format!("snapshot wanted for {to}"),
                Effect::Event(Event::ConfigurationChanged { index, configuration }) => {
                    format!("ConfigurationChanged {index}: {}", show_configuration(configuration))
                }
                Effect::Event(event) => format!("{event:?}"),
            };
            self.say(format!("{id} {text}"));
            match effect {
                Effect::Persist(batch) => self.actor(id)?.queue.push_back(batch),
                Effect::Send { to, message } if !self.cut.contains(&(id.clone(), to.clone())) => {
                    self.network.push_back((id.clone(), to, message));
                }
                Effect::Apply { entries } => {
                    let changes = entries.iter().rev().find_map(|entry| match &entry.payload {
                        Payload::Configuration(configuration) => Some(configuration.clone()),
                        Payload::Noop | Payload::Command(_) => None,
                    });
                    let actor = self.actor(id)?;
                    actor.configuration = changes.unwrap_or(actor.configuration.clone());
                    if let Some(Entry { index, term, .. }) = entries.last() {
                        self.actor(id)?.applied = Base { index: *index, term: *term };
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `sync NODE [count=1]`: the disk finishes its oldest batches.
    fn sync(&mut self, id: &NodeId, count: u64) -> Outcome {
        for _ in 0..count {
            let actor = self.actor(id)?;
            let Some(batch) = actor.queue.pop_front() else { return Err("nothing to write".into()) };
            actor.disk.record(&batch);
            self.step(id, 0, Input::Persisted { seq: batch.seq }, false)?;
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        from: &Option<NodeId>,
        to: &Option<NodeId>,
    ) -> Option<(NodeId, NodeId, Message)> {
        let fits = |(sender, receiver, _): &(NodeId, NodeId, Message)| {
            from.as_ref().is_none_or(|from| from == sender) && to.as_ref().is_none_or(|to| to == receiver)
        };
        let place = self.network.iter().position(fits)?;
        self.network.remove(place)
    }

    /// `deliver [from=] [to=] [count=]`, all that fit if no count is given; `[keep]` leaves a copy in the network.
    fn deliver(&mut self, arguments: &mut Arguments, keep: bool) -> Outcome {
        let (from, to) = (arguments.id("from")?, arguments.id("to")?);
        let count = arguments.number("count")?;
        let mut kept = Vec::new();
        for _ in 0..count.unwrap_or(1_000) {
            let Some((sender, receiver, message)) = self.take_message(&from, &to) else { break };
            if keep {
                kept.push((sender.clone(), receiver.clone(), message.clone()));
            }
            if self.actor(&receiver)?.raft.is_some() {
                self.step(&receiver, 0, Input::Message { from: sender, message }, false)?;
            }
        }
        self.network.extend(kept);
        Ok(())
    }

    /// `drop [from=] [to=] [count=]`
    fn lose(&mut self, arguments: &mut Arguments) -> Outcome {
        let (from, to) = (arguments.id("from")?, arguments.id("to")?);
        for _ in 0..arguments.number("count")?.unwrap_or(u64::MAX) {
            let Some((sender, receiver, message)) = self.take_message(&from, &to) else { break };
            self.say(format!("lost: {sender} → {receiver} {}", show_message(&message)));
        }
        Ok(())
    }

    /// `stabilize`: disks and network work until nothing is left to do. Time stands still.
    fn stabilize(&mut self) -> Outcome {
        for _ in 0..10_000 {
            let works = |id: &NodeId| !self.hung.contains(id) && !self.stopped.contains(id);
            let mut busy = self.actors.iter().filter(|(id, actor)| !actor.queue.is_empty() && works(id));
            let arrives = |(_, to, _): &(NodeId, NodeId, Message)| !self.stopped.contains(to);
            if let Some(id) = busy.next().map(|(id, _)| id.clone()) {
                self.sync(&id, 1)?;
            } else if let Some(place) = self.network.iter().position(arrives) {
                let (from, to, message) = self.network.remove(place).expect("it is there");
                if self.actors.get(&to).is_some_and(|actor| actor.raft.is_some()) {
                    self.step(&to, 0, Input::Message { from, message }, false)?;
                }
            } else {
                return Ok(());
            }
        }
        Err("it does not come to rest".into())
    }

    /// `pass MILLISECONDS`: that time goes by. Whoever wants its tick gets it; disks and network take no time.
    fn pass(&mut self, span: u64) -> Outcome {
        let end = self.now + Duration::from_millis(span).as_micros() as u64;
        for _ in 0..10_000 {
            self.stabilize()?;
            let awake = self.actors.iter().filter(|(id, _)| !self.stopped.contains(id));
            let wanted = awake.filter_map(|(id, actor)| Some((actor.raft.as_ref()?.deadline().0, id)));
            match wanted.min().map(|(at, id)| (at, id.clone())) {
                Some((at, id)) if at <= end => {
                    self.now = self.now.max(at);
                    self.step(&id, 0, Input::Tick, false)?;
                }
                _ => {
                    self.now = end;
                    return Ok(());
                }
            }
        }
        Err("time does not pass".into())
    }

    /// `snapshot FROM TO`: the state is transferred and installed, and the sender is told. `to_end=false`: it is not.
    fn snapshot(&mut self, arguments: &mut Arguments) -> Outcome {
        let (from, to) = (arguments.node()?, arguments.node()?);
        let base = match arguments.keys.remove("base") {
            Some(text) => position(&text).map(|Position { index, term }| Base { index, term })?,
            None => self.actor(&from)?.applied,
        };
        let sender = self.actor(&from)?;
        let running = sender.raft.as_ref().and_then(|raft| raft.configuration_as_of(base.index));
        let configuration = running.unwrap_or(&sender.configuration).clone();
        self.actor(&to)?.applied = base;
        self.actor(&to)?.configuration = configuration.clone();
        self.step(&to, 0, Input::SnapshotInstalled { base, configuration }, false)?;
        if arguments.keys.remove("report").as_deref() != Some("false") {
            let index = Some(base.index);
            self.step(&from, 0, Input::SnapshotSent { to, index }, false)?;
        }
        Ok(())
    }

    /// `forge FROM TO KIND term=… …`: a message that nobody sent.
    fn forge(&mut self, arguments: &mut Arguments, batch: bool) -> Outcome {
        let (from, to, kind) = (arguments.node()?, arguments.node()?, arguments.next()?);
        let term = Term(arguments.number("term")?.unwrap_or(1));
        let commit = Index(arguments.number("commit")?.unwrap_or(0));
        let round = arguments.number("round")?.unwrap_or(0);
        let body = match kind.as_str() {
            "append" => {
                let entries = arguments.keys.remove("entries").unwrap_or_default();
                let entries: Result<Vec<Entry>, _> =
                    entries.split(',').filter(|text| !text.is_empty()).map(entry).collect();
                let previous = arguments.position("after")?;
                Body::AppendRequest { previous, entries: entries?, commit, round }
            }
            "accepted" => {
                Body::AppendAccepted { matched: Index(arguments.number("matched")?.unwrap_or(0)), round }
            }
            "rejected" => Body::AppendRejected {
                previous: Index(arguments.number("previous")?.unwrap_or(0)),
                hint: arguments.position("hint")?,
                round,
            },
            "vote" => {
                let transfer = arguments.keys.remove("transfer").as_deref() == Some("true");
                Body::VoteRequest { last: arguments.position("last")?, transfer }
            }
            "newer" => Body::NewerTerm,
            "pre-vote" => Body::PreVoteRequest { attempt: 1, last: arguments.position("last")? },
            "heard" => Body::HeartbeatResponse {
                round,
                verified: Index(arguments.number("verified")?.unwrap_or(0)),
                matched: Index(arguments.number("matched")?.unwrap_or(0)),
                fit: true,
                leases: arguments.keys.remove("leases").as_deref() == Some("true"),
            },
            "stand" => Body::TimeoutNow { round },
            "voted" => Body::VoteResponse { granted: true },
            "heartbeat" => Body::Heartbeat { commit, round },
            other => return Err(format!("no message {other}").into()),
        };
        let message = Message { term, body };
        self.step(&to, 0, Input::Message { from, message }, batch)
    }

    fn status(&mut self, id: &NodeId) -> Outcome {
        let raft = self.actor(id)?.raft.as_ref().ok_or_else(|| format!("{id} does not run"))?;
        let status = raft.status();
        let leader = status.leader.as_ref().map_or("none".to_string(), NodeId::to_string);
        let mut text = format!(
            "{id} {:?} term={} leader={leader} base={} applied={} commit={} durable={} last={} dropped={}",
            status.role,
            status.term,
            show_position(status.base.into()),
            status.applied,
            status.commit,
            status.durable,
            status.last,
            status.dropped_messages
        );
        for (peer, progress) in &status.peers {
            let _infallible = write!(text, " {peer}:{}<{}", progress.matched, progress.next);
        }
        if status.disk_degraded {
            text.push_str(" degraded");
        }
        if let Some(to) = &status.transfer {
            let _infallible = write!(text, " hands over to {to}");
        }
        if let Some(until) = status.lease_until {
            let _infallible = write!(text, " lease until {} ms", until.0 as f64 / 1_000.0);
        }
        self.say(text);
        Ok(())
    }

    /// `change LEADER add NODE ADDRESS [promote=true] [replaces=NODE]`, `change LEADER promote|demote|remove NODE`,
    /// `change LEADER readdress NODE ADDRESS`
    fn change(arguments: &mut Arguments) -> Result<Change, Box<dyn Error>> {
        let (what, node) = (arguments.next()?, arguments.node()?);
        Ok(match what.as_str() {
            "add" => Change::AddLearner {
                node,
                address: arguments.next()?,
                promote: arguments.keys.remove("promote").as_deref() == Some("true"),
                replaces: arguments.id("replaces")?,
            },
            "promote" => Change::Promote { node },
            "demote" => Change::Demote { node },
            "remove" => Change::Remove { node },
            "readdress" => Change::Readdress { node, address: arguments.next()? },
            other => return Err(format!("no change {other}").into()),
        })
    }

    fn crash(&mut self, id: &NodeId, written: u64) -> Outcome {
        let actor = self.actor(id)?;
        actor.raft = None;
        let mut lost = Vec::new();
        for (position, batch) in std::mem::take(&mut actor.queue).into_iter().enumerate() {
            if (position as u64) < written {
                actor.disk.record(&batch);
            } else {
                lost.push(format!("{id} loses {}", show_persist(&batch)));
            }
        }
        lost.into_iter().for_each(|text| self.say(text));
        Ok(())
    }

    fn disk(&mut self, id: &NodeId) -> Outcome {
        let disk = self.actor(id)?.disk.clone();
        let vote = disk.hard_state.vote.as_ref().map_or("none".to_string(), NodeId::to_string);
        let (term, base) = (disk.hard_state.term, show_position(disk.base.into()));
        self.say(format!("{id} disk: term={term} vote={vote} base={base} {}", show_entries(&disk.entries)));
        Ok(())
    }

    fn nodes(&self, arguments: &mut Arguments) -> Result<Vec<NodeId>, Box<dyn Error>> {
        let mut named = Vec::new();
        while !arguments.positional.is_empty() {
            named.push(arguments.node()?);
        }
        Ok(if named.is_empty() { self.actors.keys().cloned().collect() } else { named })
    }

    /// `timeout NODE`: the clock goes to the node's deadline, and it gets its tick.
    fn timeout(&mut self, id: &NodeId, entropy: u64) -> Outcome {
        let deadline = self.actor(id)?.raft.as_ref().ok_or("it does not run")?.deadline();
        self.now = self.now.max(deadline.0);
        self.say(format!("{id} at {} ms", self.now as f64 / 1_000.0));
        self.step(id, entropy, Input::Tick, false)
    }

    fn peer_input(&mut self, name: &str, arguments: &mut Arguments, entropy: u64, batch: bool) -> Outcome {
        let id = arguments.node()?;
        let input = match name {
            "tick" => Input::Tick,
            "propose" => {
                self.requests += 1;
                Input::Propose { request: self.requests, command: arguments.next()?.into() }
            }
            "read" => {
                self.requests += 1;
                let lease = arguments.keys.remove("lease").as_deref() == Some("true");
                Input::Read { request: self.requests, lease }
            }
            "change" => {
                self.requests += 1;
                Input::Change { request: self.requests, change: Self::change(arguments)? }
            }
            "transfer" => {
                self.requests += 1;
                Input::Transfer { request: self.requests, to: arguments.id("to")? }
            }
            "silent" => Input::PeerSilent { node: arguments.node()?, reason: ElectionReason::ConnectionLost },
            "compact" => Input::Compact { index: Index(arguments.next()?.parse()?) },
            "snapshot_failed" => Input::SnapshotSent { to: arguments.node()?, index: None },
            other => return Err(format!("no command {other}").into()),
        };
        self.step(&id, entropy, input, batch)
    }

    fn command(&mut self, name: &str, arguments: &mut Arguments, context: &Context) -> Outcome {
        let batch = context.tags.contains("batch");
        let entropy = arguments.number("entropy")?.unwrap_or(0);
        match name {
            "cluster" => self.cluster(arguments),
            "start" => self.nodes(arguments)?.iter().try_for_each(|id| self.start(id, entropy)),
            "wait" => {
                self.now += Duration::from_millis(arguments.next()?.parse()?).as_micros() as u64;
                Ok(())
            }
            "timeout" => arguments.node().and_then(|id| self.timeout(&id, entropy)),
            "sync" => {
                let count = arguments.number("count")?.unwrap_or(1);
                arguments.node().and_then(|id| self.sync(&id, count))
            }
            "deliver" => self.deliver(arguments, context.tags.contains("keep")),
            "drop" => self.lose(arguments),
            "cut" => {
                self.cut.insert((arguments.node()?, arguments.node()?));
                Ok(())
            }
            "isolate" => {
                let id = arguments.node()?;
                for other in self.actors.keys() {
                    self.cut.extend([(id.clone(), other.clone()), (other.clone(), id.clone())]);
                }
                Ok(())
            }
            "heal" => {
                self.cut.clear();
                Ok(())
            }
            "stabilize" => self.stabilize(),
            "pass" => {
                let span = arguments.next()?.parse()?;
                self.pass(span)
            }
            "hang" => {
                self.hung.insert(arguments.node()?);
                Ok(())
            }
            "stop" => {
                self.stopped.insert(arguments.node()?);
                Ok(())
            }
            "go" => {
                let id = arguments.node()?;
                self.hung.remove(&id);
                self.stopped.remove(&id);
                Ok(())
            }
            "crash" => {
                let written = arguments.number("written")?.unwrap_or(0);
                arguments.node().and_then(|id| self.crash(&id, written))
            }
            "wipe" => {
                let id = arguments.node()?;
                let actor = self.actor(&id)?;
                (actor.disk, actor.applied) = (Recovered::default(), Base::default());
                Ok(())
            }
            "write" => {
                // Prepares a disk before the node starts.
                let id = arguments.node()?;
                let term = Term(arguments.number("term")?.unwrap_or(0));
                let entries: Result<Vec<Entry>, _> =
                    std::mem::take(&mut arguments.positional).iter().map(|text| entry(text)).collect();
                let disk = &mut self.actor(&id)?.disk;
                disk.hard_state.term = term;
                disk.entries = entries?;
                Ok(())
            }
            "status" => self.nodes(arguments)?.iter().try_for_each(|id| self.status(id)),
            "configuration" => {
                let id = arguments.node()?;
                let raft = self.actor(&id)?.raft.as_ref().ok_or("it does not run")?;
                let text = show_configuration(&raft.status().configuration);
                self.say(format!("{id} {text}"));
                Ok(())
            }
            "disk" => arguments.node().and_then(|id| self.disk(&id)),
            "snapshot" => self.snapshot(arguments),
            "forge" => self.forge(arguments, batch),
            other => self.peer_input(other, arguments, entropy, batch),
        }
    }
}

impl goldenscript::Runner for Theatre {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let mut arguments = Arguments::of(command);
        self.command(&command.name, &mut arguments, context)?;
        arguments.finish()?;
        let output = std::mem::take(&mut self.output);
        if !context.tags.contains("events") {
            return Ok(output);
        }
        // Who decides what, without the messages, writes and applications that lead to it.
        let detail = |line: &&str| [" → ", " write ", " apply "].iter().any(|word| line.contains(word));
        let kept = output.lines().filter(|line| !detail(line));
        Ok(kept.map(|line| format!("{line}\n")).collect())
    }
}
