//! What the detector does over many days, in virtual time: the numbers of `docs/detector.md`.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::types::AgentKey;

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;
/// One burst of loss begins every ten minutes and lasts for two seconds.
const BURST_EVERY: u64 = 600 * SECOND;
const BURST: u64 = 2 * SECOND;
/// Answers take so long.
const ROUND_TRIP: u64 = 2_000;

/// What an agent that lives until `dies` and loses 80 % of the tries in bursts brings its observer to do.
struct Run {
    suspected: u32,
    downs: Vec<u64>,
    first_suspect_after_death: Option<u64>,
}

fn run(seed: u64, days: u64, bursts: bool, dies: Option<u64>) -> Run {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chance = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % 100
    };
    let config = Config { ping_every: Duration::from_secs(1), ..Config::new("n1".parse().unwrap()) };
    let mut health = Health::new(config, Micros(0));
    let member: MemberId = format!("w-{seed}").parse().unwrap();
    let target = Target::Agent { address: Arc::from("w:1"), key: AgentKey([0; 32]) };
    health.step(Micros(0), Input::Members(vec![(member.clone(), target)]));
    let mut run = Run { suspected: 0, downs: Vec::new(), first_suspect_after_death: None };
    let mut answers: BTreeSet<(u64, u64)> = BTreeSet::new();
    let end = days * DAY;
    loop {
        let answer = answers.first().copied().filter(|(at, _)| *at <= health.deadline().0);
        let (now, input) = match answer {
            Some((at, seq)) => {
                answers.remove(&(at, seq));
                let version = Version { major: 0, minor: 1, patch: 0 };
                (at, Input::Answered { member: member.clone(), seq, version })
            }
            None => (health.deadline().0, Input::Tick),
        };
        if now >= end || (dies.is_some() && run.first_suspect_after_death.is_some()) {
            return run;
        }
        for effect in health.step(Micros(now), input) {
            match effect {
                Effect::Ping { seq, .. } => {
                    let lost = bursts && now % BURST_EVERY < BURST && chance() < 80;
                    if !lost && dies.is_none_or(|dies| now < dies) {
                        answers.insert((now + ROUND_TRIP, seq));
                    }
                }
                Effect::Edge { to: Level::Suspect, .. } => {
                    run.suspected += 1;
                    if let Some(dies) = dies.filter(|dies| now >= *dies) {
                        run.first_suspect_after_death.get_or_insert(now - dies);
                    }
                }
                Effect::Edge { to: Level::Down, .. } => run.downs.push(now),
                _ => {}
            }
        }
    }
}

/// The mean time from death to suspicion over many members that die at all phases of the ping period, in microseconds.
fn mean_detection(members: u64) -> u64 {
    let sum: u64 = (1..=members)
        .map(|seed| run(seed, 1, false, Some(100 * SECOND + seed * SECOND / members)))
        .map(|run| run.first_suspect_after_death.expect("it is noticed"))
        .sum();
    sum / members
}

#[test]
fn a_member_that_dies_is_suspect_after_two_and_a_half_seconds_on_average_at_one_ping_a_second() {
    let mean = mean_detection(1_000);
    println!("mean time to suspicion: {mean} us");
    assert!((2_400_000..=2_600_000).contains(&mean), "{mean} us");
}

#[test]
fn bursts_of_loss_make_suspects_and_never_a_dead_member() {
    // Only a member whose pings fall into the first half of a second has four tries in a burst.
    let mut suspected = 0;
    for seed in 1..=4 {
        let run = run(seed, 1, true, None);
        assert!(run.downs.is_empty(), "seed {seed}: {:?}", run.downs);
        suspected += run.suspected;
    }
    assert!(suspected > 10, "the bursts are felt: {suspected}");
}

/// Longer when it is built with a number: `SUPER_NODE_MEMBER_DAYS=300 cargo test --profile sim --lib figures -- --nocapture`.
#[test]
fn over_many_days_nobody_is_held_dead_falsely() {
    let days = option_env!("SUPER_NODE_MEMBER_DAYS")
        .map_or(3, |days| days.parse::<u64>().expect("a number of days"));
    let members = days.div_ceil(10);
    let runs: Vec<Run> = (1..=members).map(|seed| run(1_000 + seed, 10.min(days), true, None)).collect();
    let suspected: u32 = runs.iter().map(|run| run.suspected).sum();
    let downs: usize = runs.iter().map(|run| run.downs.len()).sum();
    println!(
        "{} member-days: suspected {suspected} times, falsely held dead {downs} times",
        members * 10.min(days)
    );
    assert_eq!(downs, 0);
}
