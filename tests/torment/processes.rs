//! Killed, frozen and restarted processes.

use crate::harness::{Plan, Torment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_leader_again_and_again() {
    let mut torment = Torment::begin(Plan::new("kill_9_of_the_leader_again_and_again", 6, 3)).await;
    while torment.goes_on() {
        let leader = torment.leader().await;
        torment.pause(0, 500).await;
        torment.kill(&[leader]);
        torment.progress("the leader was killed").await;
        torment.start(leader);
        torment.pause(0, 500).await;
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_followers_one_or_all() {
    let mut torment = Torment::begin(Plan::new("kill_9_of_followers_one_or_all", 6, 3)).await;
    while torment.goes_on() {
        let leader = torment.leader().await;
        let followers: Vec<usize> = torment.awake().into_iter().filter(|at| *at != leader).collect();
        let doomed = if torment.dice.percent(50) { followers } else { vec![torment.dice.one(&followers)] };
        torment.kill(&doomed);
        torment.pause(100, 1_000).await;
        for at in doomed {
            torment.start(at);
        }
        torment.progress("the followers were started again").await;
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_all_at_once() {
    let mut torment = Torment::begin(Plan::new("kill_9_of_all_at_once", 6, 3)).await;
    while torment.goes_on() {
        torment.pause(100, 1_000).await;
        torment.kill(&[0, 1, 2]);
        for at in 0..3 {
            torment.start(at);
        }
        torment.progress("all were started again").await;
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_wakes_up_and_serves_nothing_stale() {
    let plan = Plan::new("a_frozen_leader_wakes_up_and_serves_nothing_stale", 6, 3);
    freeze_leaders(plan.with_late_abdication().with_leases(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_has_lost_its_lease_when_it_wakes_up() {
    let plan = Plan::new("a_frozen_leader_has_lost_its_lease_when_it_wakes_up", 6, 3);
    freeze_leaders(plan.with_late_abdication().with_leases(true)).await;
}

async fn freeze_leaders(plan: Plan) {
    let mut torment = Torment::begin(plan).await;
    while torment.goes_on() {
        let leader = torment.leader().await;
        torment.freeze(leader);
        if torment.dice.percent(70) {
            // Somebody else leads and has written; whoever asks the sleeper now must learn of that.
            torment.progress("the leader was frozen").await;
        }
        torment.pause(0, 300).await;
        torment.burst(leader);
        torment.thaw(leader);
        torment.burst(leader);
        torment.progress("the old leader woke up").await;
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_goes_unnoticed_but_for_an_election() {
    let mut torment =
        Torment::begin(Plan::new("a_rolling_restart_goes_unnoticed_but_for_an_election", 6, 3)).await;
    while torment.goes_on() {
        for at in 0..3 {
            torment.deed(format!("restart {}", torment.id(at)));
            torment.cluster.signal(at, "TERM");
            assert_eq!(torment.cluster.wait_exit(at), Some(0), "a node that is asked to stop stops in order");
            torment.start(at);
            torment.ready(at).await;
            torment.progress("a node was restarted").await;
        }
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_frozen_and_restarted_at_random() {
    let mut torment = Torment::begin(Plan::new("killed_frozen_and_restarted_at_random", 9, 3)).await;
    while torment.goes_on() {
        let at = torment.somebody().await;
        let away = (0..3).find(|at| !torment.awake().contains(at));
        match (torment.dice.below(4), away) {
            // Mostly a majority is there, or there would be nothing to get wrong.
            (0 | 1, Some(away)) => torment.restore(away),
            _ if !torment.awake().contains(&at) => torment.restore(at),
            (0 | 2, _) => torment.kill(&[at]),
            _ => torment.freeze(at),
        }
        torment.pause(100, 1_000).await;
    }
    torment.end().await;
}
