//! Whole nodes in virtual time: many seeds, every invariant after every step; and determinism itself.

use super_node::sim::{Scenario, run};

/// Seeds that found a bug once, with what they found. They stay.
const TREASURE: &[(u64, &str)] = &[
    (
        27,
        "a write whose leader was lost was passed on again, found no leader, and was called not applied though the \
         first try had been",
    ),
    (
        762,
        "a snapshot was being installed while another leader sent the entries that it covers: its end found more \
         handed out than the snapshot holds, and the node stopped",
    ),
];

fn check(seed: u64) {
    if let Err(violation) = run(seed, &Scenario::default()) {
        let trace = violation.trace.join("\n");
        panic!("{trace}\n{violation}\nreproduce: super-node sim --seed {seed}");
    }
}

#[test]
fn histories_hold_every_invariant() {
    for seed in 0..60 {
        check(seed);
    }
}

#[test]
fn seeds_that_found_a_bug_hold_now() {
    for (seed, bug) in TREASURE {
        println!("{seed}: {bug}");
        check(*seed);
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 5, 7] {
        let first = run(seed, &Scenario::default()).expect("the history holds");
        let second = run(seed, &Scenario::default()).expect("the history holds");
        assert_eq!(first, second, "the trace hash among them");
    }
}
