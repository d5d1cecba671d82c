//! Claim: links that carry messages in one direction only do not keep a cluster from serving, as long as some majority
//! hears each other, and do not make it change leaders without end (hazard 40). Shown for every single directed cut of 3 and
//! of 5 nodes and every pair of them on 3, each from the start and under each leader.

mod raft_world;

use std::collections::BTreeSet;
use std::time::Duration;

use raft_world::{Announce, Plan, World, name};
use super_node::raft::Input;
use super_node::types::Term;

/// How long a cluster may take to find a leader that serves.
const SETTLE: Duration = Duration::from_secs(3);
/// For how long that leader must then stay.
const STAY: Duration = Duration::from_secs(5);
/// Most terms that may pass while the cluster settles.
const TERMS_MAX: u64 = 3;

type Cut = BTreeSet<(usize, usize)>;

fn links(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |from| (0..nodes).filter(move |to| *to != from).map(move |to| (from, to)))
}

fn newest_term(world: &World) -> u64 {
    let terms = world.machines.iter().filter_map(|machine| machine.raft.as_ref());
    terms.map(|raft| raft.term().0).max().unwrap_or(0)
}

fn world(nodes: usize, seed: u64) -> World {
    World::new(Plan {
        seed,
        voters: nodes,
        learners: 0,
        spare: 0,
        loss: 0,
        lease: seed.is_multiple_of(2).then(|| Duration::from_millis(270)),
        promise: None,
        thrift: None,
        reluctant: BTreeSet::new(),
        faults: false,
        pause_max: 30_000,
    })
}

/// Lets the cut work from the start (`leader`: nobody yet) or once `leader` leads.
fn check(nodes: usize, cut: &Cut, leader: Option<usize>, seed: u64) {
    let _announce = Announce(format!("cut {cut:?} of {nodes} nodes, leader {leader:?}, seed {seed}"));
    let mut world = world(nodes, seed);
    if let Some(wanted) = leader {
        world.run_for(Duration::from_secs(2));
        if let Some(leader) = world.leader().filter(|leader| *leader != wanted) {
            world.do_now(leader, Input::Transfer { request: 0, to: Some(name(wanted)) });
        }
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.leader(), Some(wanted), "{} leads before the cut", name(wanted));
    }
    let before = newest_term(&world);
    world.cut = cut.clone();
    world.run_for(SETTLE);
    let (settled, serves) = (newest_term(&world), world.book.len());
    assert!(settled <= before.max(1) + TERMS_MAX, "{} terms to settle", settled - before);
    let found = world.leader().expect("somebody leads");
    let term: Term = world.machines[found].raft.as_ref().and_then(|raft| raft.leads()).expect("it leads");
    world.run_for(STAY);
    assert_eq!(newest_term(&world), settled, "elections go on");
    let still = world.machines[found].raft.as_ref().and_then(|raft| raft.leads());
    assert_eq!(still, Some(term), "the leader does not stay");
    assert!(world.book.len() > serves + 100, "hardly anything is committed");
    world.heal();
}

/// Each cut from the start and under each leader; leases are on in every other history.
fn check_all(nodes: usize, cuts: impl Iterator<Item = Cut>) -> usize {
    let mut count = 0;
    for (turn, cut) in cuts.enumerate() {
        for (place, leader) in std::iter::once(None).chain((0..nodes).map(Some)).enumerate() {
            check(nodes, &cut, leader, (turn + place) as u64);
            count += 1;
        }
    }
    count
}

#[test]
fn every_directed_cut_of_three_nodes() {
    assert_eq!(check_all(3, links(3).map(|link| Cut::from([link]))), 6 * 4);
}

#[test]
fn every_pair_of_directed_cuts_of_three_nodes() {
    let pairs = links(3)
        .flat_map(|one| links(3).filter(move |other| one < *other).map(move |other| Cut::from([one, other])));
    assert_eq!(check_all(3, pairs), 15 * 4);
}

#[test]
fn every_directed_cut_of_five_nodes() {
    assert_eq!(check_all(5, links(5).map(|link| Cut::from([link]))), 20 * 6);
}
