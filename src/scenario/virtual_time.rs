//! A scenario in virtual time, with replicas of our own in this process: one seed is one history.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::replica::Replica;
use crate::sim::dice::Dice;
use crate::types::{Micros, NodeId};

use super::course::{Action, Course, address};
use super::file::Scenario;

/// Replicas start one after the other, so far apart.
const START_PAUSE: Duration = Duration::from_millis(20);
/// From one replica through the simulator to another.
const BETWEEN_REPLICAS: (Duration, Duration) = (Duration::from_micros(150), Duration::from_micros(450));
/// Between a client, which lives in the simulator, and a replica.
const TO_CLIENT: (Duration, Duration) = (Duration::from_micros(60), Duration::from_micros(200));

struct World {
    course: Course,
    /// `None`: not started yet, or killed.
    replicas: Vec<Option<Replica>>,
    /// What is under way, by the time of its arrival and in order.
    agenda: BTreeMap<(Micros, u64), Parcel>,
    order: u64,
    dice: Dice,
    /// So many times as long as usual is every way.
    slowness: u32,
}

enum Parcel {
    Start(usize),
    ToReplica(usize, Vec<u8>),
    FromReplica(usize, Vec<u8>),
}

/// Plays a scenario to its end.
pub fn in_virtual_time(scenario: &Scenario, seed: u64) -> Course {
    in_slow_virtual_time(scenario, seed, 1)
}

/// The same behind a simulator that takes `slowness` times as long to carry a message.
pub fn in_slow_virtual_time(scenario: &Scenario, seed: u64, slowness: u32) -> Course {
    let course = Course::new(scenario.clone(), seed);
    let end = course.end();
    let mut world = World {
        replicas: (0..scenario.replicas).map(|_| None).collect(),
        course,
        agenda: BTreeMap::new(),
        order: 0,
        dice: Dice::stream(seed, 4),
        slowness,
    };
    let mut start = Micros(0);
    for replica in 0..scenario.replicas {
        world.plan(start, Parcel::Start(replica));
        start = start.after(START_PAUSE);
    }
    while let Some(now) = world.next().filter(|now| *now < end) {
        world.advance(now);
    }
    world.course
}

impl World {
    fn plan(&mut self, at: Micros, parcel: Parcel) {
        self.order += 1;
        self.agenda.insert((at, self.order), parcel);
    }

    fn next(&self) -> Option<Micros> {
        let parcel = self.agenda.keys().next().map(|(at, _)| *at);
        let replicas = self.replicas.iter().flatten().map(Replica::deadline);
        replicas.chain(parcel).chain([self.course.deadline()]).min()
    }

    fn advance(&mut self, now: Micros) {
        if self.course.deadline() <= now {
            let actions = self.course.tick(now);
            self.act(now, actions);
        }
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Parcel::Start(replica) => self.start(now, replica),
                Parcel::ToReplica(replica, datagram) => {
                    if let Some(machine) = &mut self.replicas[replica] {
                        machine.receive(now, &datagram);
                        self.collect(now, replica);
                    }
                }
                Parcel::FromReplica(replica, datagram) => {
                    let actions = self.course.receive(now, replica, &datagram);
                    self.act(now, actions);
                }
            }
        }
        for replica in 0..self.replicas.len() {
            if let Some(machine) = self.replicas[replica].as_mut().filter(|machine| machine.deadline() <= now)
            {
                machine.tick(now);
                self.collect(now, replica);
            }
        }
    }

    fn start(&mut self, now: Micros, replica: usize) {
        let id = |number| address(number).parse::<NodeId>().expect("four digits are a name");
        let others = (0..self.replicas.len()).filter(|other| *other != replica).map(id).collect();
        let seed = self.dice.word();
        self.replicas[replica] = Some(Replica::new(id(replica), others, seed, now));
        self.collect(now, replica);
    }

    fn collect(&mut self, now: Micros, replica: usize) {
        let Some(machine) = &mut self.replicas[replica] else { return };
        for datagram in machine.take(now) {
            // Half of the way; the other half is that of the delivery.
            let delay = self.dice.span(TO_CLIENT.0, TO_CLIENT.1);
            self.plan(now.after(delay * self.slowness), Parcel::FromReplica(replica, datagram));
        }
    }

    fn act(&mut self, now: Micros, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Deliver { to, datagram, from_client } => {
                    let (least, most) = if from_client {
                        TO_CLIENT
                    } else {
                        (BETWEEN_REPLICAS.0 - TO_CLIENT.0, BETWEEN_REPLICAS.1 - TO_CLIENT.1)
                    };
                    let delay = self.dice.span(least, most);
                    self.plan(now.after(delay * self.slowness), Parcel::ToReplica(to, datagram));
                }
                Action::Kill { replica } => self.replicas[replica] = None,
            }
        }
    }
}
