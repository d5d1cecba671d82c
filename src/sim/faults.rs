//! What goes wrong in a history, and when: drawn step by step from the seed.

use std::time::Duration;

use crate::ledger::command::{Command, Request};
use crate::ledger::records::MemberKind;
use crate::node::requests::Want;
use crate::types::MemberId;

use super::world::{Due, Weather, World};

/// The faults of a history so far.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many there were.
    pub count: u64,
}

impl Faults {
    /// The first fault comes soon.
    pub fn new(world: &mut World) -> Faults {
        world.schedule(Duration::from_millis(700), Due::Fault);
        Faults::default()
    }

    /// Something goes wrong, or becomes better.
    pub fn turn(&mut self, world: &mut World) -> Result<(), String> {
        let pause = world.dice.span(Duration::from_millis(50), Duration::from_millis(1_200));
        world.schedule(pause, Due::Fault);
        self.count += 1;
        let hosts = world.hosts.len();
        let host = usize::try_from(world.dice.below(hosts as u64)).expect("small");
        match world.dice.below(13) {
            0 | 1 => {
                if world.hosts[host].alive.is_some() {
                    world.crash(host);
                }
            }
            2 | 3 => {
                for host in 0..hosts {
                    if world.hosts[host].alive.is_none() {
                        world.start(host)?;
                    }
                }
            }
            4 => self.partition(world),
            5 => {
                let other = usize::try_from(world.dice.below(hosts as u64)).expect("small");
                if other != host {
                    world.cut.insert((host, other));
                    world.note(&format!("link {host} -> {other} is cut, the way back is not"));
                }
            }
            6 => {
                world.cut.clear();
                world.note("all links are whole");
            }
            7 => {
                let span = world.dice.span(Duration::from_millis(100), Duration::from_millis(1_500));
                if world.hosts[host].alive.is_some() {
                    world.pause(host, span);
                }
            }
            8 => {
                world.weather = Weather {
                    loss_ppm: world.dice.below(250_000),
                    double_ppm: world.dice.below(100_000),
                    slow_ppm: world.dice.below(100_000),
                };
                let weather = world.weather;
                world.note(&format!("{weather:?}"));
            }
            9 => {
                let span = world.dice.span(Duration::from_millis(50), Duration::from_millis(2_500));
                world.hosts[host].disk_stuck_until = Some(world.now.after(span));
                world.note(&format!("the disk of host {host} hangs for {} ms", span.as_millis()));
            }
            10 => {
                // A wall clock is set, forward or back.
                let jump = i64::try_from(world.dice.below(20_000)).expect("small") - 10_000;
                world.hosts[host].clock_skew_ms += jump;
                world.note(&format!("the clock of host {host} jumps by {jump} ms"));
            }
            11 => self.agent(world, host),
            _ => world.weather = Weather::default(),
        }
        Ok(())
    }

    /// An agent joins, leaves, falls silent or speaks again.
    fn agent(&mut self, world: &mut World, host: usize) {
        let member: MemberId = format!("a{}", 1 + world.dice.below(4)).parse().expect("a valid name");
        let command = match world.dice.below(4) {
            0 | 1 => {
                if !world.silent_agents.remove(&member) {
                    world.silent_agents.insert(member);
                }
                return;
            }
            2 => Command::MemberLeave { member },
            _ => {
                let address = format!("sim:{member}");
                Command::MemberJoin { member, kind: MemberKind::Agent, address }
            }
        };
        if world.hosts[host].alive.is_some() {
            world.note(&format!("{command:?}"));
            let request = Request::keyed(format!("agent-{}", self.count), command);
            world.ask(host, Want::Write(request));
        }
    }

    /// Cuts the hosts in two: every link between the sides, both ways.
    fn partition(&mut self, world: &mut World) {
        let hosts = world.hosts.len();
        let sides: Vec<bool> = (0..hosts).map(|_| world.dice.chance(500_000)).collect();
        world.cut.clear();
        for from in 0..hosts {
            for to in 0..hosts {
                if sides[from] != sides[to] {
                    world.cut.insert((from, to));
                }
            }
        }
        world.note(&format!("partition {sides:?}"));
    }

    /// Everything that is broken is mended.
    pub fn heal(&mut self, world: &mut World) -> Result<(), String> {
        world.worst_moments = false;
        world.cut.clear();
        world.weather = Weather::default();
        world.silent_agents.clear();
        world.note("healed");
        for host in 0..world.hosts.len() {
            world.hosts[host].paused_until = None;
            world.hosts[host].disk_stuck_until = None;
            if world.hosts[host].alive.is_none() {
                world.start(host)?;
            }
        }
        Ok(())
    }
}
