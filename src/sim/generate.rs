//! Draws a plan from a seed: which nodes, which faults, when.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::operator::SPARES_MAX;
use super::plan::{Act, Fault, KINDS, Kind, Plan, Tight};
use super::scenario::Scenario;

/// The stream of a seed that plans are drawn from.
const PLAN_STREAM: u64 = 1;
/// The stream of a seed that bounds are drawn from.
const TIGHT_STREAM: u64 = 998;

/// The plan of a seed.
pub fn generate(seed: u64, scenario: &Scenario) -> Plan {
    let mut dice = Dice::stream(seed, PLAN_STREAM);
    let nodes = *dice.pick(&scenario.nodes);
    let lease = scenario.lease.filter(|_| dice.chance(scenario.lease_share_ppm()));
    let drifts: Vec<i64> =
        (0..nodes + SPARES_MAX).map(|_| around_zero(&mut dice, scenario.drift_ppm)).collect();
    let skews: Vec<i64> = (0..nodes + SPARES_MAX).map(|_| around_zero(&mut dice, 2_000)).collect();
    let mut reluctant = Vec::new();
    for node in 1..=nodes {
        if (reluctant.len() as u64) < u64::from(scenario.reluctant) && dice.chance(100_000) {
            reluctant.push(node);
        }
    }
    let keep_entries = *dice.pick(&[4, 16, 64]);
    let database = dice.chance(10_000 * scenario.database_percent);
    let acts = acts(&mut dice, nodes, scenario);
    let tight = tight(seed);
    Plan {
        about: scenario.name.clone(),
        seed,
        nodes,
        faults_ms: millis(scenario.faults_for),
        live_within_ms: millis(scenario.live_within),
        clients: scenario.clients,
        // Sometimes so few that whoever is away needs the whole state.
        keep_entries,
        lease_ms: lease.map(millis),
        reluctant,
        drift_ppm: drifts,
        skew_ms: skews,
        tight,
        worst_moments: scenario.worst_moments,
        database,
        working_from_ms: None,
        operations: None,
        acts,
    }
}

/// Each bound is tight in a third of the histories. From a stream of their own: what is drawn besides stays as it was.
fn tight(seed: u64) -> Tight {
    let mut dice = Dice::stream(seed, TIGHT_STREAM);
    let mut draw = |choices: &[usize]| {
        let choice = *dice.pick(choices);
        dice.chance(333_333).then_some(choice)
    };
    Tight {
        // A state has some ten to hundred KiB.
        snapshot_part_bytes: draw(&[1_000, 4_000, 16_000]),
        requests: draw(&[6, 12, 30]),
        parked: draw(&[0, 1, 3]),
        append_bytes: draw(&[1, 300, 3_000]),
        append_messages: draw(&[1, 2, 3]),
        uncommitted_bytes: draw(&[200, 1_000, 5_000]),
        held_messages: draw(&[0, 2, 8]),
        reads: draw(&[1, 2, 3]),
        answers: draw(&[1, 5, 30]).map(|most| most as u64),
        sessions: draw(&[1, 2, 4]).map(|most| most as u64),
        session_bytes: draw(&[300, 1_000]).map(|most| most as u64),
    }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn around_zero(dice: &mut Dice, most: i64) -> i64 {
    let width = u64::try_from(2 * most + 1).expect("bounds are positive");
    i64::try_from(dice.below(width)).expect("small") - most
}

/// Each history draws from some of the kinds only: what needs two faults of one kind is found sooner that way than by
/// histories that have a little of everything.
fn acts(dice: &mut Dice, nodes: u32, scenario: &Scenario) -> Vec<Act> {
    let weight = |kind: &Kind| scenario.weights.get(kind.name).copied().unwrap_or(0);
    let possible = KINDS.iter().filter(|kind| weight(kind) > 0);
    let chosen: Vec<&Kind> = possible.clone().filter(|_| dice.chance(550_000)).collect();
    // A history of deeds alone shows little.
    let enough = chosen.iter().any(|kind| kind.is_fault());
    let kinds: Vec<&Kind> = if enough { chosen } else { possible.collect() };
    let total: u64 = kinds.iter().map(|kind| weight(kind)).sum();
    let mut acts = Vec::new();
    let mut at_ms = 700;
    let until = millis(scenario.faults_for);
    while total > 0 && at_ms < until {
        let mut ticket = dice.below(total);
        let kind = kinds.iter().find(|kind| {
            let found = ticket < weight(kind);
            ticket = ticket.saturating_sub(weight(kind));
            found
        });
        let kind = kind.expect("the ticket is below the sum of the weights");
        let (least, most) = scenario.spans_ms.get(kind.name).copied().unwrap_or(kind.span_ms);
        let for_ms = least + dice.below(most - least + 1);
        let number = u32::try_from(acts.len()).expect("few acts") + 1;
        if let Some(fault) = draw(dice, kind.name, nodes) {
            acts.push(Act { number, at_ms, for_ms, fault });
        }
        let (least, most) = scenario.pause_ms;
        at_ms += least + dice.below(most - least + 1);
    }
    acts
}

/// Entropy that TOML can hold.
fn entropy(dice: &mut Dice) -> u64 {
    dice.word() >> 1
}

/// Draws one side of a partition: some of those that found the cluster and some that may join it, never all or none of
/// the founders if there are several.
fn side(dice: &mut Dice, founders: u32, all: u32) -> Vec<u32> {
    loop {
        let side: Vec<u32> = (1..=all).filter(|_| dice.chance(500_000)).collect();
        let inside = side.iter().filter(|node| **node <= founders).count();
        if founders == 1 && inside == 1 || inside > 0 && inside < founders as usize {
            return side;
        }
    }
}

/// A fault of a kind. Nodes are drawn from those that found the cluster, and those that may join it.
fn draw(dice: &mut Dice, kind: &str, founders: u32) -> Option<Fault> {
    let all = founders + SPARES_MAX;
    let small = |number: u64| u32::try_from(number).expect("small");
    let node = |dice: &mut Dice| small(1 + dice.below(u64::from(all)));
    let pick = |dice: &mut Dice| small(dice.below(16));
    let agent = |dice: &mut Dice| small(1 + dice.below(4));
    Some(match kind {
        "kill" => Fault::Kill { node: node(dice), entropy: entropy(dice) },
        "power_cut" => Fault::PowerCut { node: node(dice), entropy: entropy(dice) },
        "blackout" => Fault::Blackout { entropy: entropy(dice) },
        "pause" => Fault::Pause { node: node(dice) },
        "partition" => Fault::Partition { side: side(dice, founders, all) },
        "reject" => Fault::Reject { side: side(dice, founders, all) },
        "one_way" => {
            let (from, to) = (node(dice), node(dice));
            if from == to {
                return None;
            }
            Fault::OneWay { from, to }
        }
        "loss" => Fault::Loss { ppm: dice.below(250_000) },
        "duplication" => Fault::Duplication { ppm: dice.below(200_000) },
        "delay" => Fault::Delay { ppm: dice.below(200_000), up_to_ms: *dice.pick(&[20, 300, 300, 1_500]) },
        "disk_stuck" => Fault::DiskStuck { node: node(dice) },
        "disk_slow" => Fault::DiskSlow { node: node(dice), up_to_ms: *dice.pick(&[20, 80, 250]) },
        "disk_full" => Fault::DiskFull { node: node(dice), room: *dice.pick(&[0, 600, 5_000, 300_000]) },
        "disk_error" => Fault::DiskError { node: node(dice), calls: dice.below(6) },
        "read_error" => Fault::ReadError { node: node(dice), entropy: entropy(dice) },
        "bit_flip" => Fault::BitFlip { node: node(dice), entropy: entropy(dice) },
        "clock_jump" => Fault::ClockJump { node: node(dice), by_ms: around_zero(dice, 10_000) },
        "agent_silent" => Fault::AgentSilent { agent: agent(dice) },
        "agent_joins" => Fault::AgentJoins { agent: agent(dice) },
        "agent_leaves" => Fault::AgentLeaves { agent: agent(dice) },
        "grow" => Fault::Grow,
        "shrink" => Fault::Shrink { pick: pick(dice) },
        "replace" => Fault::Replace { pick: pick(dice), dead: dice.chance(500_000) },
        "demote" => Fault::Demote { pick: pick(dice) },
        "promote" => Fault::Promote { pick: pick(dice) },
        "readdress" => Fault::Readdress { pick: pick(dice) },
        "transfer" => Fault::Transfer { pick: dice.chance(600_000).then(|| pick(dice)) },
        "wipe" => Fault::Wipe { node: node(dice) },
        "kill_leader" => Fault::KillLeader { entropy: entropy(dice) },
        other => unreachable!("{other} is not in the list of kinds"),
    })
}

/// How often each kind is drawn in a number of plans: what a scenario is about, before anything runs.
pub fn counts<'p>(plans: impl Iterator<Item = &'p Plan>) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for act in plans.flat_map(|plan| &plan.acts) {
        *counts.entry(act.fault.kind()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn() {
        let weights = KINDS.iter().map(|kind| (kind.name, kind.weight.max(1))).collect();
        let scenario = Scenario { weights, ..Scenario::default() };
        let plans: Vec<Plan> = (0..300).map(|seed| generate(seed, &scenario)).collect();
        let counts = counts(plans.iter());
        for kind in KINDS {
            assert!(counts.get(kind.name).is_some_and(|count| *count > 10), "{}: {counts:?}", kind.name);
        }
    }

    #[test]
    fn one_seed_is_one_plan() {
        assert_eq!(generate(7, &Scenario::default()), generate(7, &Scenario::default()));
        assert_ne!(generate(7, &Scenario::default()).acts, generate(8, &Scenario::default()).acts);
    }
}
