//! Lists, filters, and the explanation of a payment.

use super::*;
use crate::ledger::explain::explain;
use crate::ledger::query::{IntervalFilter, RewardFilter};
use crate::ledger::records::{MovementKind, Verdict};

/// Four intervals: `a` is paid in all, `b` loses in the second and fourth.
fn history() -> World {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b"], Policy::default());
    for id in 1..=4 {
        let b = if id % 2 == 0 { row("b", 12, 0, 0) } else { row("b", 12, 12, 9) };
        world.interval(&[row("a", 12, 12, 9), b]);
    }
    world
}

#[test]
fn rewards_are_filtered_and_paged() {
    let world = history();
    let all = RewardFilter { limit: 100, ..Default::default() };
    let list = |filter: &RewardFilter| -> Vec<u64> {
        query::rewards(&world.space, filter).expect("readable").iter().map(|movement| movement.seq).collect()
    };
    assert_eq!(list(&all), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(list(&RewardFilter { after: 3, limit: 2, ..all.clone() }), [4, 5]);
    assert_eq!(list(&RewardFilter { limit: 0, ..all.clone() }), Vec::<u64>::new());
    let of_b = RewardFilter { member: Some(member("b")), ..all.clone() };
    assert_eq!(list(&of_b), [2, 4, 6, 8]);
    assert_eq!(list(&RewardFilter { after: 4, limit: 1, ..of_b.clone() }), [6]);
    let penalties = RewardFilter { kind: Some(MovementKind::Penalty), ..all.clone() };
    assert_eq!(list(&penalties), [4, 8]);
    assert_eq!(list(&RewardFilter { limit: 1, ..penalties }), [4]);
    let time = |seq| query::reward(&world.space, seq).expect("readable").expect("exists").at;
    let (from, to) = (Some(time(3)), Some(time(7)));
    assert_eq!(list(&RewardFilter { from, to, ..all.clone() }), [3, 4, 5, 6]);
    assert_eq!(list(&RewardFilter { from, to, ..of_b }), [4, 6]);
    assert_eq!(list(&RewardFilter { from: Some(UnixMillis(i64::MAX)), ..all.clone() }), Vec::<u64>::new());
    assert_eq!(list(&RewardFilter { from: Some(UnixMillis(0)), ..all.clone() }).len(), 8);
    assert_eq!(list(&RewardFilter { member: Some(member("nobody")), ..all }), Vec::<u64>::new());
}

#[test]
fn intervals_are_filtered_and_paged() {
    let mut world = history();
    for id in 5..=8 {
        world.cut(id);
    }
    assert_eq!(world.settle(5), Answer::Done);
    let list = |after, limit, filter: &IntervalFilter| -> Vec<u64> {
        let found = query::intervals(&world.space, IntervalId(after), limit, filter).expect("readable");
        found.iter().map(|interval| interval.id.0).collect()
    };
    let any = IntervalFilter::default();
    assert_eq!(list(0, 9, &any), [1, 2, 3, 4, 5]);
    assert_eq!(list(2, 2, &any), [3, 4]);
    assert_eq!(list(0, 9, &IntervalFilter { verdict: Some(Verdict::Void), ..any.clone() }), [5]);
    let opened = |id| world.record(id).opened_at;
    assert_eq!(list(0, 9, &IntervalFilter { from: Some(opened(2)), to: Some(opened(4)), ..any }), [2, 3]);
    let names = |id, after: Option<&str>, limit| -> Vec<String> {
        let after = after.map(member);
        let page = query::observations_page(&world.space, IntervalId(id), after.as_ref(), limit);
        page.expect("readable").into_iter().map(|observation| observation.member.to_string()).collect()
    };
    assert_eq!(names(1, None, 9), ["a", "b"]);
    assert_eq!(names(1, Some("a"), 9), ["b"]);
    assert_eq!(names(5, None, 9), Vec::<String>::new());
}

#[test]
fn changed_members_come_once_in_order_of_their_last_change() {
    let mut world = history();
    world.join("c", "h:1");
    world.join("a", "moved:1");
    let changed = |after, limit| -> Vec<(String, u64)> {
        let members = query::members_changed_after(&world.space, Index(after), limit).expect("readable");
        members.into_iter().map(|member| (member.id.to_string(), member.index.0)).collect()
    };
    let all = changed(0, 100);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "n3", "b", "c", "a"]);
    assert_eq!(changed(0, 2).len(), 3, "the members of one entry are not torn apart");
    assert_eq!(changed(all[2].1, 1), all[3..4]);
    assert_eq!(changed(world.index, 100), []);
}

#[test]
fn reports_say_how_far_they_have_come() {
    let mut world = World::standard();
    world.cut(1);
    world.report_part(1, "n3", (1, 2), vec![]);
    world.report(1, "n1", vec![]);
    let states: Vec<_> = query::reports(&world.space, IntervalId(1))
        .expect("readable")
        .into_iter()
        .map(|state| (state.observer.to_string(), state.received, state.parts, state.complete))
        .collect();
    let expected = [("n1", 1, 1, true), ("n2", 0, 0, false), ("n3", 1, 2, false)];
    assert_eq!(
        states,
        expected.map(|(name, received, parts, done)| (name.to_string(), received, parts, done))
    );
    assert_eq!(query::reports(&world.space, IntervalId(2)), Ok(vec![]));
}

#[test]
fn an_explanation_shows_every_number() {
    let mut world = World::standard();
    world.cut(1);
    world.report(1, "n1", vec![row("a", 12, 10, 1_125_000)]);
    world.report(1, "n2", vec![row("a", 12, 9, 1_125_000)]);
    world.settle(1);
    let explained = explain(&world.space, IntervalId(1), &member("a")).expect("readable").expect("observed");
    assert!(explained.agrees);
    let expected = [
        "interval 1, member a: settled, policy 1 (standard)",
        "n = 60000 ms / 5000 ms = 12 pings of a full interval",
        "n1: 12 sent, 10 answered, 2 missed, p90 1125000 us: a = 10 * 1000000 / 12 = 833333",
        "n2: 12 sent, 9 answered, 3 missed, p90 1125000 us: a = 9 * 1000000 / 12 = 750000",
        "n3: not counted (absent)",
        "A = upper median(750000, 833333) = 833333",
        "p = lower median(1125000, 1125000) = 1125000 us",
        "L = 1000000 - 500000 * (1125000 - 250000) / 1750000 = 750000",
        "V = 1000000",
        "C = min(1000000, 12 * 1000000 / 12) = 1000000",
        "S = 833333 * 750000 / 1000000 * 1000000 / 1000000 = 624999",
        "reward = 10000000 * 624999 / 1000000 * 1000000 / 1000000 = 6249990",
        "miss = 1000000 - 833333 = 166667",
        "penalty = 5000000 * (166667 - 100000) / 900000 * 1000000 / 1000000 = 370372",
        "strikes 0 -> 0",
        "status active -> active",
        "paid 6.24999 and penalised 0.370372: balance 0 -> 5.879618 points",
        "recomputed from the evidence: equal to the record",
    ];
    assert_eq!(explained.lines, expected);
    let json = serde_json::to_value(&explained).expect("serialises");
    assert_eq!(json["score"]["latency_ppm"], 750_000);
    assert_eq!(json["evidence"][0]["row"]["answered"], 10);
}

#[test]
fn explanations_of_unusual_intervals() {
    let mut world = World::standard();
    let explained = |world: &World, id, name: &str| {
        explain(&world.space, IntervalId(id), &member(name)).expect("readable")
    };
    assert!(explained(&world, 1, "a").is_none(), "not settled");
    world.interval(&[row("a", 5, 0, 0)]);
    assert!(explained(&world, 1, "nobody").is_none());
    let little = explained(&world, 1, "a").expect("observed");
    assert!(little.agrees && little.score.is_none());
    assert!(little.lines.iter().any(|line| line.contains("no observer made at least half of 12 pings")));
    for id in 2..=5 {
        world.cut(id);
    }
    world.report(2, "n1", vec![row("a", 12, 0, 0)]);
    world.settle(2);
    let void = explained(&world, 2, "a").expect("seen");
    assert!(void.agrees && void.observation.is_none());
    assert!(void.lines.iter().any(|line| line.starts_with("the interval is void")));
    assert!(
        void.lines.contains(&"void: 1 of 3 observers count, and 2 are needed".to_string()),
        "{:#?}",
        void.lines
    );
}
