//! The course's families in virtual time: full marks with every seed. A few seeds here, where nothing is optimised;
//! `scripts/test.sh simulate` runs many.
//!
//! `COURSE_SEEDS=200 cargo test --test scenarios` tries more of them.

use super_node::scenario::{Grade, Judgement, find, in_slow_virtual_time, in_virtual_time, judge};

fn earns_full_marks(family: &str) {
    let seeds: u64 = std::env::var("COURSE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let scenarios = find(family);
    assert!(!scenarios.is_empty(), "there is no family {family}");
    for (name, scenario) in scenarios {
        for seed in 0..seeds {
            let judgement = judge(&in_virtual_time(&scenario, seed));
            let failures = judgement.failures(Grade::Full);
            assert!(
                failures.is_empty(),
                "super-node scenario run {name} --seed {seed}\n  {}\n  {}",
                failures.join("\n  "),
                judgement.story.join("\n  ")
            );
            assert_eq!(judgement.grades.len(), 4, "every figure is graded");
            if scenario.drops == 0.0 && scenario.events.is_empty() {
                assert!(judgement.passes(Grade::Bonus), "{name} seed {seed}: {:?}", judgement.grades);
            }
        }
    }
}

#[test]
fn the_simple_family_earns_bonus_marks() {
    earns_full_marks("simple");
}

#[test]
fn the_crash_family_earns_full_marks() {
    earns_full_marks("crash");
}

#[test]
fn the_partition_family_earns_full_marks() {
    earns_full_marks("partition");
}

#[test]
fn the_lossy_family_earns_full_marks() {
    earns_full_marks("lossy");
}

#[test]
fn the_mixed_family_earns_full_marks() {
    earns_full_marks("mixed");
}

/// The leader dies, and with much loss the election takes longer than a follower would keep requests: while it hears a
/// majority it must not send anybody to whom it does not hear, which is the dead leader.
#[test]
fn nobody_is_sent_to_a_dead_leader_while_a_majority_elects() {
    let (_, scenario) = &find("mixed-2")[0];
    let judgement = judge(&in_virtual_time(scenario, 201));
    assert!(judgement.figures.failures < 2, "{:?}", judgement.figures);
}

/// Nothing is taken for granted about how fast the simulator is: one on a busy machine is not asked again and again.
#[test]
fn behind_a_slow_simulator_there_are_as_few_messages() {
    for (name, slowness) in [("simple-1", 20), ("simple-1", 60), ("crash-1", 20), ("lossy-2", 20)] {
        let (_, scenario) = &find(name)[0];
        let Judgement { checks, figures, .. } = judge(&in_slow_virtual_time(scenario, 1, slowness));
        assert!(checks.iter().all(|check| check.ok), "{name}, {slowness} times as slow: {checks:?}");
        let within = figures.total_msgs < 4_000 && figures.failures < 2 && figures.duplicates == 0;
        assert!(within, "{name}, {slowness} times as slow: {figures:?}");
    }
}

#[test]
fn one_seed_is_one_run() {
    let (_, scenario) = &find("mixed-2")[0];
    let run = |seed| judge(&in_virtual_time(scenario, seed));
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).figures, run(8).figures);
}
