//! The course's families in virtual time: full marks with every seed.
//!
//! `COURSE_SEEDS=200 cargo test --test scenarios` tries more of them.

use super_node::scenario::{Grade, find, in_virtual_time, judge};

fn earns_full_marks(family: &str) {
    let seeds: u64 = std::env::var("COURSE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
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

#[test]
fn one_seed_is_one_run() {
    let (_, scenario) = &find("mixed-2")[0];
    let run = |seed| judge(&in_virtual_time(scenario, seed));
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).figures, run(8).figures);
}
