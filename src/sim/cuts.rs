//! Every directed cut (the outage of a one-way link, Cloudflare 2020): each link of three and of five nodes in each
//! direction, and each pair of them on three. Some quorum always hears each other: there must be a leader that stays.

use super::plan::{Act, Fault, Plan, Tight};

/// When the links are cut, in milliseconds.
const CUT_AT_MS: u64 = 2_000;
/// From when on the cluster has to work, in milliseconds.
const WORKING_FROM_MS: u64 = 6_000;
/// For how long it has to, in milliseconds.
const WORKING_FOR_MS: u64 = 12_000;

/// The directed links between nodes that are numbered from 1.
fn links(nodes: u32) -> Vec<(u32, u32)> {
    let all = (1..=nodes).flat_map(|from| (1..=nodes).map(move |to| (from, to)));
    all.filter(|(from, to)| from != to).collect()
}

fn plan(seed: u64, nodes: u32, cuts: &[(u32, u32)]) -> Plan {
    let names: Vec<String> = cuts.iter().map(|(from, to)| format!("n{from} to n{to}")).collect();
    let acts = (1..).zip(cuts).map(|(number, (from, to))| Act {
        number,
        at_ms: CUT_AT_MS,
        for_ms: WORKING_FROM_MS + WORKING_FOR_MS,
        fault: Fault::OneWay { from: *from, to: *to },
    });
    Plan {
        about: format!("{nodes} nodes, nothing passes from {}", names.join(" and from ")),
        seed,
        nodes,
        faults_ms: WORKING_FROM_MS + WORKING_FOR_MS,
        live_within_ms: 12_000,
        clients: 8,
        keep_entries: 64,
        lease_ms: None,
        reluctant: Vec::new(),
        drift_ppm: Vec::new(),
        skew_ms: Vec::new(),
        tight: Tight::default(),
        worst_moments: false,
        database: false,
        working_from_ms: Some(WORKING_FROM_MS),
        operations: None,
        acts: acts.collect(),
    }
}

/// All of them, with a seed each.
pub fn every_cut(seed: u64) -> Vec<Plan> {
    let (three, five) = (links(3), links(5));
    let mut plans = Vec::new();
    for link in &three {
        plans.push(plan(seed, 3, &[*link]));
    }
    for (at, first) in three.iter().enumerate() {
        for second in &three[at + 1..] {
            plans.push(plan(seed, 3, &[*first, *second]));
        }
    }
    for link in &five {
        plans.push(plan(seed, 5, &[*link]));
    }
    plans
}
