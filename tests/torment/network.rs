//! Networks that split, that carry one direction only, and that lose and delay.

use crate::field::Traffic;
use crate::harness::{Plan, Torment, field};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_the_minority_is_replaced_and_serves_nothing_stale() {
    let Some(field) = field(5) else { return };
    let plan = Plan::new("a_leader_in_the_minority_is_replaced_and_serves_nothing_stale", 7, 5);
    split_leaders_off(plan.on(field).with_late_abdication().with_leases(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_the_minority_loses_its_lease_before_it_is_replaced() {
    let Some(field) = field(3) else { return };
    let plan = Plan::new("a_leader_in_the_minority_loses_its_lease_before_it_is_replaced", 7, 3);
    split_leaders_off(plan.on(field).with_late_abdication().with_leases(true)).await;
}

async fn split_leaders_off(plan: Plan) {
    let mut torment = Torment::begin(plan).await;
    let nodes = torment.members().len();
    while torment.goes_on() {
        let leader = torment.leader().await;
        let mut minority = vec![leader];
        let other = torment.dice.below(nodes);
        if nodes > 3 && other != leader && torment.dice.percent(70) {
            minority.push(other);
        }
        torment.split(&minority);
        let sleeps = torment.dice.percent(50);
        if sleeps {
            // It wakes up alone: nobody tells it what it has slept through.
            torment.freeze(leader);
        }
        torment.progress("the leader was split off").await;
        if sleeps {
            torment.thaw(leader);
        }
        torment.burst(leader);
        torment.pause(0, 300).await;
        torment.heal();
        torment.burst(leader);
        torment.progress("the network was healed").await;
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_directed_cut_of_three_nodes_leaves_a_cluster_that_serves() {
    let Some(field) = field(3) else { return };
    let name = "every_directed_cut_of_three_nodes_leaves_a_cluster_that_serves";
    let mut torment = Torment::begin(Plan::new(name, 8, 3).on(field)).await;
    while torment.goes_on() {
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                torment.cut(from, to, Traffic::All);
                // Long enough for everybody to have missed something.
                torment.pause(700, 1_000).await;
                torment.progress("a direction was cut").await;
                torment.burst(from);
                torment.burst(to);
                torment.heal();
                torment.progress("the network was healed").await;
            }
        }
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_loses_and_delays_is_served_over() {
    let Some(field) = field(3) else { return };
    let name = "a_network_that_loses_and_delays_is_served_over";
    let mut torment = Torment::begin(Plan::new(name, 8, 3).on(field)).await;
    while torment.goes_on() {
        let percent = torment.dice.one(&[0, 2, 5, 10]);
        let delay_ms = torment.dice.one(&[5, 20, 50]);
        torment.slow(percent, Some(delay_ms));
        torment.pause(1_500, 2_500).await;
        torment.progress("the network was slowed down").await;
        torment.slow(0, None);
        torment.progress("the network was healed").await;
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_splits_kills_and_freezes_at_random() {
    let Some(field) = field(3) else { return };
    let mut torment =
        Torment::begin(Plan::new("cuts_splits_kills_and_freezes_at_random", 9, 3).on(field)).await;
    while torment.goes_on() {
        let (at, step) = (torment.somebody().await, 1 + torment.dice.below(2));
        let away = (0..3).find(|at| !torment.awake().contains(at));
        let traffic = torment.dice.one(&[Traffic::All, Traffic::All, Traffic::Tcp, Traffic::Udp]);
        match (torment.dice.below(10), away) {
            // Mostly a majority is there and can talk, or there would be nothing to get wrong.
            (0 | 1, Some(away)) => torment.restore(away),
            (0..=3, _) => torment.heal(),
            (4 | 5, _) => torment.cut(at, (at + step) % 3, traffic),
            (6 | 7, None) => torment.split(&[at]),
            (8, None) => torment.kill(&[at]),
            (9, None) => torment.freeze(at),
            (_, Some(away)) => torment.restore(away),
            _ => torment.heal(),
        }
        torment.pause(100, 1_000).await;
        torment.burst(at);
    }
    torment.end().await;
}

impl Torment {
    fn split(&mut self, some: &[usize]) {
        let names: Vec<String> = some.iter().map(|at| self.id(*at)).collect();
        self.deed(format!("split {} from the others", names.join(" ")));
        self.field().split(some);
    }

    fn cut(&mut self, from: usize, to: usize, traffic: Traffic) {
        self.deed(format!("{} hears nothing of {} ({traffic:?})", self.id(to), self.id(from)));
        self.field().cut(from, to, traffic);
    }

    fn heal(&mut self) {
        self.deed("heal the network".to_string());
        self.field().heal();
    }

    fn slow(&mut self, percent: u8, delay_ms: Option<u32>) {
        let field = self.field();
        field.lose(percent);
        let how = field.slow(delay_ms);
        self.deed(format!("{percent} of 100 packets are lost, {how}"));
    }

    fn field(&mut self) -> &mut crate::field::Field {
        self.field.as_mut().expect("the plan has a network")
    }
}
