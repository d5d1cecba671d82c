//! Whose reports count, and what becomes of the interval as a whole.

use super::*;
use crate::ledger::explain::explain;
use crate::ledger::query::IntervalFilter;
use crate::ledger::records::{MemberStatus, Verdict};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const AGENTS: [&str; 4] = ["a", "b", "c", "d"];

/// Three super-nodes and four agents: an observer sees six others, so four of them are most.
fn fleet() -> World {
    World::with(&NODES, &AGENTS, Policy::default())
}

/// What an observer sees: these members dark, all others well.
fn sees(observer: &str, dark: &[&str]) -> Vec<Row> {
    let others = AGENTS.iter().chain(&NODES).filter(|name| **name != observer);
    others
        .map(|name| if dark.contains(name) { row(name, 12, 0, 0) } else { row(name, 12, 12, 900) })
        .collect()
}

fn send(world: &mut World, id: u64, observer: &str, health: ObserverHealth, rows: Vec<Row>) {
    let report =
        Report { interval: IntervalId(id), observer: node(observer), part: 0, parts: 1, health, rows };
    assert_eq!(world.run(Command::Report(report)), Answer::Done);
}

/// One interval in which each super-node sees these members dark: why each does not count, and the verdict.
fn interval(world: &mut World, dark: [&[&str]; 3]) -> (Vec<String>, Verdict) {
    let id = query::interval_state(&world.space).expect("readable").expect("genesis").open.0;
    world.cut(id);
    for (observer, dark) in NODES.iter().zip(dark) {
        send(world, id, observer, WELL, sees(observer, dark));
    }
    assert_eq!(world.settle(id), Answer::Done);
    let record = world.record(id);
    (record.observers.iter().map(|observer| observer.why.clone()).collect(), record.verdict)
}

#[test]
fn who_is_not_well_is_set_aside_with_the_reason() {
    let ill = [
        (ObserverHealth { whole_interval: false, ..WELL }, "cold"),
        (ObserverHealth { longest_stall_ms: 999, ..WELL }, ""),
        (ObserverHealth { longest_stall_ms: 1_000, ..WELL }, "stalled"),
        (ObserverHealth { score: 3, ..WELL }, ""),
        (ObserverHealth { score: 4, ..WELL }, "unhealthy"),
        (ObserverHealth { whole_interval: false, longest_stall_ms: 5_000, score: 9 }, "cold"),
    ];
    for (health, why) in ill {
        let mut world = fleet();
        world.cut(1);
        // The one that is not well slanders a; the other two saw it answer.
        send(&mut world, 1, "n1", health, sees("n1", &["a"]));
        send(&mut world, 1, "n2", WELL, sees("n2", &[]));
        send(&mut world, 1, "n3", WELL, sees("n3", &[]));
        let outcome = world.outcome(Command::Settle { interval: IntervalId(1) });
        let record = world.record(1);
        assert_eq!((record.observers[0].why.as_str(), record.observers[0].used), (why, why.is_empty()));
        assert_eq!((record.verdict, record.reason.as_str()), (Verdict::Settled, ""));
        assert_eq!(world.observation(1, "a").by.contains_key(&node("n1")), why.is_empty());
        let told = outcome.happenings.iter().any(|happening| {
            matches!(happening, Happening::ObserverSetAside { observer, why: said, .. }
                if *observer == node("n1") && said == why)
        });
        assert_eq!(told, !why.is_empty(), "{health:?}");
        world.assert_sound();
    }
}

#[test]
fn without_a_majority_that_is_well_nobody_is_judged() {
    let mut world = fleet();
    world.cut(1);
    let cold = ObserverHealth { whole_interval: false, ..WELL };
    for observer in NODES {
        let health = if observer == "n3" { WELL } else { cold };
        send(&mut world, 1, observer, health, sees(observer, &["a"]));
    }
    let before = world.member("a");
    assert_eq!(world.settle(1), Answer::Done);
    let record = world.record(1);
    assert_eq!((record.verdict, record.members), (Verdict::Void, 0));
    assert_eq!(record.reason, "1 of 3 observers count, and 2 are needed");
    assert_eq!(world.member("a"), before);
    world.assert_sound();
}

#[test]
fn an_observer_behind_a_partition_stands_alone_and_harms_nobody() {
    let mut world = fleet();
    let dark: &[&str] = &["a", "b", "c", "d", "n2", "n3"];
    assert_eq!(
        interval(&mut world, [dark, &["n1"], &["n1"]]),
        (["alone", "", ""].map(String::from).to_vec(), Verdict::Settled)
    );
    for name in AGENTS.iter().chain(&["n2", "n3"]) {
        assert_eq!(world.balance(name), 10_000_000, "{name}");
    }
    // The others see it dark, and two are enough to say so.
    assert_eq!((world.balance("n1"), world.member("n1").strikes), (-5_000_000, 4));
    // Four of six are more than half, three are not.
    assert_eq!(interval(&mut world, [&["a", "b", "c", "d"], &[], &[]]).0[0], "alone");
    assert_eq!(interval(&mut world, [&["a", "b", "c"], &[], &[]]).0[0], "");
    assert_eq!(world.balance("a"), 30_000_000, "a single witness does not outweigh two");
    world.assert_sound();
}

#[test]
fn with_few_members_to_see_alone_is_no_fault() {
    let mut world = World::with(&NODES, &[], Policy::default());
    world.cut(1);
    for (observer, rows) in [
        ("n1", vec![row("n2", 12, 0, 0), row("n3", 12, 0, 0)]),
        ("n2", vec![row("n1", 12, 12, 9), row("n3", 12, 12, 9)]),
        ("n3", vec![row("n1", 12, 12, 9), row("n2", 12, 12, 9)]),
    ] {
        send(&mut world, 1, observer, WELL, rows);
    }
    world.settle(1);
    assert!(
        world.record(1).observers.iter().all(|observer| observer.used),
        "three members are too few to tell"
    );
    world.assert_sound();
}

#[test]
fn a_lying_observer_neither_frames_nor_enriches() {
    let mut world = fleet();
    // It calls three dark that answer, and one well that is dark, in every interval.
    for id in 1..=12 {
        world.cut(id);
        send(&mut world, id, "n1", WELL, sees("n1", &["b", "c", "d"]));
        for observer in ["n2", "n3"] {
            send(&mut world, id, observer, WELL, sees(observer, &["a"]));
        }
        assert_eq!(world.settle(id), Answer::Done);
    }
    assert_eq!((world.balance("b"), world.member("b").strikes), (120_000_000, 0));
    assert_eq!(world.member("a").status, MemberStatus::Suspended);
    assert_eq!(world.balance("a"), -50_000_000, "ten dark intervals, then nothing more");
    world.assert_sound();
}

#[test]
fn a_leader_that_omits_reports_is_seen_and_cannot_decide_alone() {
    let mut world = fleet();
    world.cut(1);
    // The leader's own report says that a is dark. It passes on no other.
    send(&mut world, 1, "n1", WELL, sees("n1", &["a"]));
    assert_eq!(rejection(&world.settle(1)), "conflict", "one of three");
    for id in 2..=4 {
        world.cut(id);
    }
    assert_eq!(world.settle(1), Answer::Done);
    let record = world.record(1);
    assert_eq!(record.verdict, Verdict::Void);
    let why: Vec<_> = record.observers.iter().map(|observer| observer.why.as_str()).collect();
    assert_eq!(why, ["", "absent", "absent"], "what is missing is on record");
    assert_eq!(world.balance("a"), 0);
    // With one more report there is a majority, in which the better word counts.
    send(&mut world, 2, "n1", WELL, sees("n1", &["a"]));
    send(&mut world, 2, "n2", WELL, sees("n2", &[]));
    assert_eq!(world.settle(2), Answer::Done);
    assert_eq!(world.balance("a"), 10_000_000);
    world.assert_sound();
}

#[test]
fn when_all_see_most_members_dark_nobody_is_punished_until_it_goes_on_for_long() {
    let mut world = fleet();
    let dark: &[&str] = &["a", "b", "c", "d"];
    for id in 1..=5 {
        assert_eq!(interval(&mut world, [dark; 3]).1, Verdict::Correlated, "{id}");
        assert_eq!((world.member("a").strikes, world.balance("a")), (0, 0));
        assert_eq!(world.balance("n1"), 10_000_000 * id, "who answered is paid");
    }
    let told = |id: u64| -> String {
        let lines =
            explain(&world.space, IntervalId(id), &member("a")).expect("readable").expect("seen").lines;
        lines.join("\n")
    };
    assert!(
        told(5).contains("correlated: every observer saw most of 6 other members dark (n1 4, n2 4, n3 4)"),
        "{}",
        told(5)
    );
    assert!(told(5).contains("no penalties and no strikes"), "{}", told(5));
    for strikes in [4, 8] {
        assert_eq!(interval(&mut world, [dark; 3]).1, Verdict::Correlated);
        assert_eq!(
            (world.member("a").strikes, world.balance("a")),
            (strikes, 0),
            "strikes, and still no penalty"
        );
    }
    assert!(world.record(6).reason.ends_with("more than 5 in a row, so strikes are given again"));
    // One interval as usual, and the patience begins anew.
    assert_eq!(interval(&mut world, [&["a"]; 3]).1, Verdict::Settled);
    assert_eq!((world.member("a").strikes, world.balance("a")), (12, -5_000_000));
    assert_eq!(interval(&mut world, [dark; 3]).1, Verdict::Correlated);
    assert_eq!(world.member("a").strikes, 12);
    world.assert_sound();
}

#[test]
fn the_alert_comes_when_strikes_are_about_to_resume_and_once() {
    let mut world = fleet();
    let mut alerts = Vec::new();
    for id in 1..=8 {
        world.cut(id);
        for observer in NODES {
            send(&mut world, id, observer, WELL, sees(observer, &AGENTS));
        }
        let outcome = world.outcome(Command::Settle { interval: IntervalId(id) });
        alerts.extend(
            outcome.happenings.into_iter().filter(|one| matches!(one, Happening::MostMembersDark { .. })),
        );
    }
    assert_eq!(alerts, [Happening::MostMembersDark { interval: IntervalId(5), intervals: 5 }]);
}

#[test]
fn a_cooldown_stands_still_while_most_are_dark_and_runs_when_it_lasts() {
    let mut world = fleet();
    for _ in 0..10 {
        interval(&mut world, [&["a"]; 3]);
    }
    assert_eq!((world.member("a").status, world.member("a").remaining), (MemberStatus::Suspended, 10));
    for remaining in [10, 10, 10, 10, 10, 9, 8] {
        interval(&mut world, [&AGENTS; 3]);
        assert_eq!(world.member("a").remaining, remaining);
    }
    world.assert_sound();
}

#[test]
fn a_single_observer_that_sees_most_dark_judges_nobody() {
    let mut world = World::with(&["n1"], &["a", "b"], Policy::default());
    for (dark, verdict) in [(1, Verdict::Settled), (2, Verdict::Void)] {
        let id = query::interval_state(&world.space).expect("readable").expect("genesis").open.0;
        world.cut(id);
        let rows = ["a", "b"]
            .iter()
            .enumerate()
            .map(|(at, name)| if at < dark { row(name, 12, 0, 0) } else { row(name, 12, 12, 900) });
        world.report(id, "n1", rows.collect());
        world.settle(id);
        assert_eq!(world.record(id).verdict, verdict, "{dark} of 2");
    }
    assert_eq!(world.record(2).reason, "the only observer saw most of 2 other members dark: n1 2");
    assert_eq!((world.balance("a"), world.balance("b")), (-5_000_000, 10_000_000), "of the first interval");
    let void = query::IntervalFilter { verdict: Some(Verdict::Void), ..IntervalFilter::default() };
    assert_eq!(query::intervals(&world.space, IntervalId(0), 9, &void).expect("readable").len(), 1);
    world.assert_sound();
}

#[test]
fn versions_are_compared_with_the_lowest_that_a_super_node_states() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b", "c"], Policy::default());
    let version = |text: &str| text.parse().expect("a version");
    let state = |world: &mut World, name: &str, text: &str| {
        world.run(Command::NodeVersion { node: node(name), version: version(text) })
    };
    assert_eq!(rejection(&state(&mut world, "n9", "1.0.0")), "conflict", "a stranger");
    for (name, text) in [("n1", "2.4.0"), ("n2", "2.3.1"), ("n3", "2.4.0")] {
        assert_eq!(state(&mut world, name, text), Answer::Done);
    }
    let rows = || -> Vec<Row> {
        [("a", "2.3.0"), ("b", "2.2.0"), ("c", "3.0.0")]
            .iter()
            .map(|(name, text)| Row { version: Some(version(text)), ..row(name, 12, 12, 900) })
            .collect()
    };
    world.interval(&rows());
    assert_eq!(["a", "b", "c"].map(|name| world.balance(name)), [10_000_000, 8_000_000, 0]);
    assert_eq!(world.member("c").strikes, 0, "another version is no miss");
    let lines = explain(&world.space, IntervalId(1), &member("b")).expect("readable").expect("seen").lines;
    assert!(
        lines.contains(
            &"V = upper median(800000, 800000, 800000) = 800000 (against version 2.3.1)".to_string()
        )
    );
    // The upgrade is complete: what was good enough is a minor version behind now.
    assert_eq!(state(&mut world, "n2", "2.4.0"), Answer::Done);
    world.interval(&rows());
    assert_eq!(world.balance("a"), 18_000_000);
    world.assert_sound();
}
