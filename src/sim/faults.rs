//! Carries out the acts of a plan, and mends everything at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::command::Command;
use crate::node::requests::{AskId, Outcome, Want};
use crate::raft::Role;
use crate::types::MemberId;

use super::fleet;
use super::host::{Death, Host};
use super::network::{Cut, Weather};
use super::operator::{Operator, can_lead};
use super::plan::{Act, Fault};
use super::world::{Answered, Due, Event, World};

/// Which bit of a bit flip's entropy says that it lies in the state; entropy has 63.
const STATE_BIT: u32 = 62;

/// The faults of a history so far.
pub struct Faults {
    /// Whether everything is mended; then acts neither begin nor end any more.
    healed: bool,
    /// The hosts that each act (by its place in the plan) has begun with; those it ends with, too.
    begun: BTreeMap<usize, Vec<usize>>,
    /// Which acts the orders to the cluster come from.
    orders: BTreeMap<AskId, u32>,
    /// The elections that were won before the first act began.
    elections_before: Option<u64>,
    /// Who does what is not a fault.
    operator: Operator,
}

/// The hosts that a fault names. A plan numbers nodes from 1, and may name one that has not joined: then one that is there
/// stands in.
fn hosts(world: &World, fault: &Fault) -> Vec<usize> {
    let nodes: Vec<u32> = match fault {
        Fault::Kill { node, .. }
        | Fault::PowerCut { node, .. }
        | Fault::Pause { node }
        | Fault::DiskStuck { node }
        | Fault::DiskSlow { node, .. }
        | Fault::DiskFull { node, .. }
        | Fault::DiskError { node, .. }
        | Fault::ReadError { node, .. }
        | Fault::BitFlip { node, .. }
        | Fault::ClockJump { node, .. }
        | Fault::Wipe { node } => vec![*node],
        Fault::OneWay { from, to } => vec![*from, *to],
        Fault::Blackout { .. } => return (0..world.hosts.len()).collect(),
        Fault::KillLeader { .. } => return leader(world).into_iter().collect(),
        _ => Vec::new(),
    };
    nodes.into_iter().map(|node| index(node) % world.hosts.len()).collect()
}

/// The host that leads the newest term, if any does.
fn leader(world: &World) -> Option<usize> {
    let leads = |host: &Host| {
        let status = host.alive.as_ref()?.node.raft_status();
        (status.role == Role::Leader).then_some(status.term)
    };
    let leaders = world.hosts.iter().enumerate().filter_map(|(at, host)| Some((leads(host)?, at)));
    leaders.max().map(|(_, at)| at)
}

fn agent(agent: u32) -> MemberId {
    format!("a{agent}").parse().expect("a valid name")
}

impl Faults {
    /// Puts the acts of the plan into the queue.
    pub fn new(world: &mut World) -> Faults {
        for place in 0..world.plan.acts.len() {
            let act = &world.plan.acts[place];
            let (begin, end) = (act.at_ms, act.at_ms.saturating_add(act.for_ms));
            world.schedule(Duration::from_millis(begin), Due::Begin(place));
            world.schedule(Duration::from_millis(end), Due::End(place));
        }
        let operator = Operator::new(world);
        Faults {
            healed: false,
            begun: BTreeMap::new(),
            orders: BTreeMap::new(),
            elections_before: None,
            operator,
        }
    }

    /// The elections won since the first act began.
    pub fn elections(&self, world: &World) -> u64 {
        self.elections_before.map_or(0, |before| world.watch.elections() - before)
    }

    /// Whether everything was mended.
    pub fn healed(&self) -> bool {
        self.healed
    }

    /// An act begins.
    pub fn begin(&mut self, world: &mut World, place: usize) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        self.elections_before.get_or_insert(world.watch.elections());
        let act = world.plan.acts[place].clone();
        world.note(|| format!("#{} {}", act.number, describe(&act)));
        let hosts = hosts(world, &act.fault);
        let stand_in =
            hosts.iter().map(|host| world.hosts[*host].id.to_string()).collect::<Vec<_>>().join(", ");
        world.detail(|| format!("#{} is about {stand_in}", act.number));
        world.evidence.begins(&act, hosts.clone());
        if act.fault.is_operator() {
            return self.operator.begin(world, &act);
        }
        let any_lives = hosts.iter().any(|host| world.hosts[*host].alive.is_some());
        self.begun.insert(place, hosts.clone());
        let span = Duration::from_millis(act.for_ms);
        match &act.fault {
            Fault::Kill { entropy, .. } => take_down(world, &act, hosts[0], Death::Killed, *entropy),
            Fault::PowerCut { entropy, .. } => take_down(world, &act, hosts[0], Death::PowerCut, *entropy),
            Fault::KillLeader { entropy } => {
                for host in hosts {
                    take_down(world, &act, host, Death::Killed, *entropy);
                }
            }
            Fault::Blackout { entropy } => {
                for host in hosts {
                    let turn = u32::try_from(7 * host).expect("few hosts");
                    take_down(world, &act, host, Death::PowerCut, entropy.rotate_left(turn));
                }
            }
            Fault::Pause { .. } => world.pause(hosts[0], world.now.after(span)),
            Fault::Partition { side } | Fault::Reject { side } => {
                // By number, also of those that join later.
                let side: BTreeSet<usize> = side.iter().map(|node| index(*node)).collect();
                if matches!(act.fault, Fault::Reject { .. }) {
                    reset_between(world, &side);
                }
                world.network.cut(act.number, Cut::Sides(side));
            }
            Fault::OneWay { .. } => world.network.cut(act.number, Cut::OneWay(hosts[0], hosts[1])),
            Fault::Loss { .. } | Fault::Duplication { .. } | Fault::Delay { .. } => {
                world.network.set_weather(act.number, Some(weather(&act.fault)));
            }
            Fault::ClockJump { by_ms, .. } => {
                world.hosts[hosts[0]].clock.skew_ms += by_ms;
                if any_lives && *by_ms != 0 {
                    world.evidence.felt(act.number);
                }
            }
            Fault::AgentSilent { agent: number } => {
                *world.silent_agents.entry(agent(*number)).or_default() += 1;
            }
            Fault::AgentJoins { agent: number } => {
                let (member, address) = (agent(*number), format!("sim:a{number}"));
                self.order(world, &act, fleet::enrol(member, address));
            }
            Fault::AgentLeaves { agent: number } => {
                self.order(world, &act, Command::MemberLeave { member: agent(*number) });
            }
            _ => {
                if let Some(host) = hosts.first() {
                    begin_disk(world, &act, *host);
                }
            }
        }
        Ok(())
    }

    /// Somebody at a living node gives an order.
    fn order(&mut self, world: &mut World, act: &Act, command: Command) {
        let living = world.living();
        if living.is_empty() {
            return;
        }
        let host = living[usize::try_from(act.number).expect("small") % living.len()];
        let request = world.keyed(&format!("act-{}", act.number), command);
        let ask = world.ask(host, Want::Write(request));
        self.orders.insert(ask, act.number);
    }

    /// An act ends.
    pub fn end(&mut self, world: &mut World, place: usize) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        let act = world.plan.acts[place].clone();
        if act.for_ms > 0 {
            world.note(|| format!("#{} is over", act.number));
        }
        world.evidence.ends(act.number);
        let hosts = self.begun.remove(&place).unwrap_or_default();
        match &act.fault {
            Fault::Kill { .. }
            | Fault::PowerCut { .. }
            | Fault::Blackout { .. }
            | Fault::KillLeader { .. } => {
                for host in hosts {
                    let machine = &mut world.hosts[host];
                    machine.held = machine.held.saturating_sub(1);
                    world.start(host)?;
                }
            }
            Fault::Partition { .. } | Fault::Reject { .. } | Fault::OneWay { .. } => {
                world.network.mend(act.number);
            }
            Fault::Loss { .. } | Fault::Duplication { .. } | Fault::Delay { .. } => {
                world.network.set_weather(act.number, None);
            }
            Fault::AgentSilent { agent: number } => {
                let member = agent(*number);
                let silent = world.silent_agents.get_mut(&member);
                if silent.is_some_and(|silent| {
                    *silent -= 1;
                    *silent == 0
                }) {
                    world.silent_agents.remove(&member);
                }
            }
            _ => {
                if let Some(host) = hosts.first() {
                    end_disk(&act, &mut world.hosts[*host]);
                }
            }
        }
        Ok(())
    }

    /// The operator looks after what is to be done.
    pub fn operate(&mut self, world: &mut World) {
        self.operator.look(world, self.healed);
    }

    /// Takes an answer in, if it is to the operator.
    pub fn take_answer(&mut self, world: &mut World, answered: &Answered) -> Result<(), String> {
        if let Some(act) = self.orders.remove(&answered.ask) {
            if matches!(&answered.outcome, Outcome::Write(Ok(_))) {
                world.evidence.felt(act);
            }
            return Ok(());
        }
        self.operator.take_answer(world, answered)
    }

    /// Whether the operator has done everything.
    pub fn is_done(&self) -> bool {
        self.operator.is_idle()
    }

    /// Everything that is broken is mended.
    pub fn heal(&mut self, world: &mut World) -> Result<(), String> {
        self.healed = true;
        world.evidence.all_end();
        world.worst_moments = false;
        world.network.heal();
        world.silent_agents.clear();
        world.note(|| "everything is mended".to_string());
        for host in 0..world.hosts.len() {
            // A process that stands still goes on when its time has come: what waits for it is in the queue until then.
            let machine = &mut world.hosts[host];
            machine.restore();
            machine.trouble = super::host::DiskTrouble::default();
            machine.disk.set_capacity(None);
            machine.disk.mend();
            machine.held = 0;
            world.start(host)?;
        }
        Ok(())
    }
}

/// The place of the node with a number, counted from 1.
fn index(node: u32) -> usize {
    usize::try_from(node.max(1) - 1).expect("small")
}

fn take_down(world: &mut World, act: &Act, host: usize, death: Death, entropy: u64) {
    let led =
        |host: &Host| host.alive.as_ref().is_some_and(|alive| alive.node.raft_status().role == Role::Leader);
    world.leaders_killed += u64::from(led(&world.hosts[host]));
    if world.hosts[host].alive.is_some() {
        world.evidence.felt(act.number);
    }
    world.hosts[host].held += 1;
    world.die(host, death, entropy);
}

fn begin_disk(world: &mut World, act: &Act, host: usize) {
    let span = Duration::from_millis(act.for_ms);
    let until = world.now.after(span);
    let machine = &mut world.hosts[host];
    match &act.fault {
        Fault::DiskStuck { .. } => {
            let stuck = &mut machine.trouble.stuck_until;
            *stuck = (*stuck).max(Some(until));
        }
        Fault::DiskSlow { up_to_ms, .. } => {
            machine.trouble.slow.push((act.number, Duration::from_millis(*up_to_ms)));
        }
        Fault::DiskFull { room, .. } => {
            machine.trouble.full += 1;
            let used = machine.disk.used();
            machine.disk.set_capacity(Some(used + room));
        }
        Fault::DiskError { calls, .. } => {
            machine.trouble.errors += 1;
            if machine.alive.is_some() {
                machine.disk.fail_after(*calls);
            }
        }
        Fault::ReadError { entropy, .. } => {
            machine.trouble.unreadable += 1;
            world.die(host, Death::PowerCut, *entropy);
            world.start_later(host);
        }
        Fault::BitFlip { entropy, .. } => {
            let in_state = (entropy >> STATE_BIT) & 1 == 1 && others_have_their_state(world, host);
            world.die(host, Death::PowerCut, *entropy);
            if in_state {
                world.note(|| format!("n{}: the bit lies in its state", host + 1));
                world.hosts[host].lose_state();
                world.states_lost += 1;
                world.evidence.felt(act.number);
            } else if world.hosts[host].flip(*entropy) {
                world.evidence.felt(act.number);
            }
            world.start_later(host);
        }
        _ => {}
    }
}

/// Whether a host may lose its state: enough voters are left that have theirs. Whoever lacks its state votes and does not
/// lead, so those that can lead must be a majority by themselves: then the one of them with the longest log is elected.
fn others_have_their_state(world: &World, host: usize) -> bool {
    let machine = &world.hosts[host];
    // Who is about to get a vote is none of the voters yet.
    let is_changing = |host: &Host| {
        let status = host.alive.as_ref().map(|alive| alive.node.raft_status());
        status.is_some_and(|status| status.configuration.outgoing.is_some())
    };
    let is_whole = !machine.lost && !machine.state_lost && !world.hosts.iter().any(is_changing);
    is_whole && can_lead(world, world.members().voters.iter(), std::slice::from_ref(&machine.id))
}

fn end_disk(act: &Act, machine: &mut Host) {
    let trouble = &mut machine.trouble;
    match &act.fault {
        Fault::DiskSlow { .. } => trouble.slow.retain(|(number, _)| *number != act.number),
        Fault::DiskFull { .. } => {
            trouble.full = trouble.full.saturating_sub(1);
            if trouble.full == 0 {
                machine.disk.set_capacity(None);
            }
        }
        Fault::DiskError { .. } => {
            trouble.errors = trouble.errors.saturating_sub(1);
            machine.disk.mend();
        }
        Fault::ReadError { .. } => trouble.unreadable = trouble.unreadable.saturating_sub(1),
        Fault::BitFlip { .. } => machine.restore(),
        _ => {}
    }
}

fn weather(fault: &Fault) -> Weather {
    match fault {
        Fault::Loss { ppm } => Weather { loss_ppm: *ppm, ..Weather::default() },
        Fault::Duplication { ppm } => Weather { double_ppm: *ppm, ..Weather::default() },
        Fault::Delay { ppm, up_to_ms } => {
            Weather { slow_ppm: *ppm, slow_by: Duration::from_millis(*up_to_ms), ..Weather::default() }
        }
        _ => Weather::default(),
    }
}

/// Each host on either side of a firewall is told at once that its connections to those beyond were reset, and new ones
/// are refused.
fn reset_between(world: &mut World, side: &BTreeSet<usize>) {
    for host in 0..world.hosts.len() {
        for other in 0..world.hosts.len() {
            if side.contains(&host) == side.contains(&other) || world.network.is_cut(host, other) {
                continue;
            }
            let after = world.hosts[host].dice.span(Duration::from_millis(1), Duration::from_millis(20));
            let node = world.hosts[other].id.clone();
            world.at_host(after, host, Event::Gone { node });
        }
    }
}

/// An act in words.
pub fn describe(act: &Act) -> String {
    let span = format!("for {} ms", act.for_ms);
    let percent = |ppm: &u64| *ppm as f64 / 10_000.0;
    match &act.fault {
        Fault::Kill { node, .. } => format!("n{node} is killed, and away {span}"),
        Fault::PowerCut { node, .. } => format!("n{node} loses power {span}"),
        Fault::Blackout { .. } => format!("all lose power {span}"),
        Fault::Pause { node } => format!("n{node} stands still {span}"),
        Fault::Partition { side } => {
            let side: Vec<String> = side.iter().map(|node| format!("n{node}")).collect();
            format!("the network parts {span}: [{}] and the others", side.join(", "))
        }
        Fault::Reject { side } => {
            let side: Vec<String> = side.iter().map(|node| format!("n{node}")).collect();
            format!("a firewall rejects {span} what passes between [{}] and the others", side.join(", "))
        }
        Fault::OneWay { from, to } => {
            format!("nothing passes from n{from} to n{to} {span}; the way back is whole")
        }
        Fault::Loss { ppm } => format!("{:.1} % of all frames are lost {span}", percent(ppm)),
        Fault::Duplication { ppm } => format!("{:.1} % of all frames come twice {span}", percent(ppm)),
        Fault::Delay { ppm, up_to_ms } => {
            format!("{:.1} % of all frames are up to {up_to_ms} ms late {span}", percent(ppm))
        }
        Fault::DiskStuck { node } => format!("the disk of n{node} hangs {span}"),
        Fault::DiskSlow { node, up_to_ms } => {
            format!("writes to the disk of n{node} take up to {up_to_ms} ms {span}")
        }
        Fault::DiskFull { node, room } => format!("the disk of n{node} has room for {room} bytes {span}"),
        Fault::DiskError { node, calls } => format!("the disk of n{node} fails after {calls} calls"),
        Fault::ReadError { node, .. } => format!("n{node} loses power, then cannot read its disk {span}"),
        Fault::BitFlip { node, .. } => {
            format!(
                "n{node} loses power, and a bit on its disk changes; restored after {} ms, if it lies in the log",
                act.for_ms
            )
        }
        Fault::ClockJump { node, by_ms } => format!("the wall clock of n{node} is set by {by_ms} ms"),
        Fault::AgentSilent { agent } => format!("agent a{agent} is silent {span}"),
        Fault::AgentJoins { agent } => format!("agent a{agent} joins"),
        Fault::AgentLeaves { agent } => format!("agent a{agent} leaves"),
        Fault::Grow => "a new node joins".to_string(),
        Fault::Shrink { pick } => format!("a voter (pick {pick}) is to be removed"),
        Fault::Replace { pick, dead } => {
            let state = if *dead { "dies for good and" } else { "" };
            format!("a voter (pick {pick}) {state} is to be replaced by a new node")
        }
        Fault::Demote { pick } => format!("a voter (pick {pick}) is to become a learner"),
        Fault::Promote { pick } => format!("a learner (pick {pick}) is to become a voter"),
        Fault::Readdress { pick } => format!("a node (pick {pick}) is to be reached elsewhere"),
        Fault::Transfer { pick: Some(pick) } => format!("a voter (pick {pick}) is to lead"),
        Fault::Transfer { pick: None } => "leadership is to be handed over".to_string(),
        Fault::Wipe { node } => format!("n{node} loses all it had"),
        Fault::KillLeader { .. } => format!("whoever leads is killed, and away {span}"),
    }
}
