//! Whole nodes in virtual time: many seeds, every invariant after every step; and determinism itself.

use std::fs;
use std::path::Path;

use super_node::sim::cuts::every_cut;
use super_node::sim::{Plan, Scenario, generate, run, run_plan};

fn check(seed: u64, scenario: &Scenario) {
    if let Err(violation) = run(seed, scenario) {
        panic!("{violation}\nreproduce: super-node sim --seed {seed}");
    }
}

#[test]
fn histories_hold_every_invariant() {
    for seed in 0..60 {
        check(seed, &Scenario::default());
    }
}

/// All files of a directory of the repository, with their names.
fn files(directory: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(path).expect("the directory is there");
    let mut files: Vec<(String, String)> = entries
        .map(|entry| entry.expect("can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("can be read");
            (path.file_name().expect("has a name").to_string_lossy().into_owned(), text)
        })
        .collect();
    files.sort();
    files
}

/// Plans that found a bug once. They stay, as files: a seed changes its meaning when plans are drawn otherwise.
#[test]
fn plans_that_found_a_bug_hold_now() {
    let plans = files("tests/treasure");
    assert!(!plans.is_empty());
    for (name, text) in plans {
        let plan = Plan::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!plan.about.is_empty(), "{name} says in `about` which bug it found");
        if let Err(violation) = run_plan(&plan, false).verdict {
            panic!("{violation}\nreproduce: super-node sim --plan tests/treasure/{name}");
        }
    }
}

#[test]
fn every_scenario_file_runs() {
    let scenarios = files("scenarios");
    assert!(scenarios.len() >= 4);
    for (name, text) in scenarios {
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!scenario.name.is_empty(), "{name} says in `name` what it is about");
        for seed in 0..2 {
            if let Err(violation) = run(seed, &scenario) {
                panic!("{violation}\nreproduce: super-node sim --seed {seed} --scenario scenarios/{name}");
            }
        }
    }
}

/// A few histories; `docs/simulator.md` has the figures of ten thousand kills.
#[test]
fn leaders_are_killed_again_and_again_and_no_interval_is_lost_or_paid_twice() {
    let text = files("scenarios").into_iter().find(|(name, _)| name == "leader-kills.toml");
    let scenario = Scenario::parse(&text.expect("the file is there").1).expect("a scenario");
    let (mut kills, mut settled) = (0, 0);
    for seed in 0..4 {
        let summary = run(seed, &scenario).unwrap_or_else(|violation| panic!("{violation}"));
        let intervals = summary.intervals;
        assert_eq!((intervals.lost, intervals.doubled), (0, 0), "seed {seed}: {intervals:?}");
        assert_eq!(intervals.due, intervals.settled + intervals.waiting, "seed {seed}: {intervals:?}");
        kills += summary.leaders_killed;
        settled += intervals.settled;
    }
    assert!(kills >= 100 && settled >= 50, "{kills} leaders killed, {settled} intervals settled");
}

#[test]
fn with_any_directed_link_cut_some_leader_works_and_stays() {
    for plan in every_cut(1) {
        if let Err(violation) = run_plan(&plan, false).verdict {
            panic!("{}\n{violation}\nreproduce: super-node sim --cuts --from 1", plan.about);
        }
    }
}

/// The whole traces, each frame and each write: byte for byte.
#[test]
fn one_seed_is_one_history() {
    for seed in [1, 5, 7, 12] {
        let plan = generate(seed, &Scenario::default());
        let told = || {
            let history = run_plan(&plan, true);
            let summary = history.verdict.expect("the history holds");
            let lines: Vec<String> = history.trace.iter().map(ToString::to_string).collect();
            (summary, lines.join("\n"))
        };
        let (first, second) = (told(), told());
        assert!(first.1.lines().count() > 1_000, "the trace tells everything");
        assert_eq!(first.0, second.0);
        assert!(first.1.as_bytes() == second.1.as_bytes(), "seed {seed} gives two traces");
    }
}

/// What is told does not change what happens.
#[test]
fn a_history_does_not_depend_on_whether_it_is_recorded() {
    let plan = generate(3, &Scenario::default());
    let (told, untold) = (run_plan(&plan, true), run_plan(&plan, false));
    assert_eq!(told.verdict, untold.verdict);
    assert!(untold.trace.is_empty());
}
