//! From the cut to the payment.

use super::*;
use crate::ledger::accounts::BALANCE_FLOOR;
use crate::ledger::command::REPORT_ROWS_MAX;
use crate::ledger::policy::PolicyKind;
use crate::ledger::records::{MemberStatus, MovementKind, Verdict};

fn dark() -> [Row; 1] {
    [row("a", 12, 0, 0)]
}

fn good() -> [Row; 1] {
    [row("a", 12, 12, 1_000)]
}

#[test]
fn an_interval_is_paid_from_three_reports() {
    let mut world = World::standard();
    world.cut(1);
    world.report(1, "n1", vec![row("a", 12, 11, 1_125_000), row("n2", 12, 12, 900), row("n3", 12, 6, 900)]);
    world.report(1, "n2", vec![row("a", 12, 12, 900), row("n1", 12, 12, 900), row("n3", 12, 6, 900)]);
    world.report(1, "n3", vec![row("a", 12, 0, 0), row("n1", 12, 11, 900), row("n2", 12, 12, 300_000)]);
    assert_eq!(world.settle(1), Answer::Done);
    // a: A = median of 916 666, 1 000 000, 0; p = 900 of 900 and 1 125 000. n1: upper of 1 000 000 and 916 666.
    // n2: lower median latency. n3: 500 000, miss 500 000.
    for (name, availability, reward, penalty) in [
        ("a", 916_666, 9_166_660, 0),
        ("n1", 1_000_000, 10_000_000, 0),
        ("n2", 1_000_000, 10_000_000, 0),
        ("n3", 500_000, 5_000_000, 2_222_222),
    ] {
        let observation = world.observation(1, name);
        assert_eq!(observation.availability_ppm, availability, "{name}");
        assert_eq!((observation.reward.0, observation.penalty.0), (reward, penalty), "{name}");
        assert_eq!(world.balance(name), reward - penalty, "{name}");
        assert!(!observation.by.contains_key(&node(name)), "nobody judges itself");
    }
    let record = world.record(1);
    assert_eq!((record.verdict, record.members, record.last_seq), (Verdict::Settled, 4, 5));
    assert_eq!((record.rewarded.0, record.penalised.0), (34_166_660, 2_222_222));
    let movements = query::rewards(&world.space, &query::RewardFilter { limit: 9, ..Default::default() });
    let order: Vec<_> = movements
        .expect("readable")
        .iter()
        .map(|movement| (movement.seq, movement.member.to_string(), movement.kind, movement.balance.0))
        .collect();
    let expected = [
        (1, "a", MovementKind::Reward, 9_166_660),
        (2, "n1", MovementKind::Reward, 10_000_000),
        (3, "n2", MovementKind::Reward, 10_000_000),
        (4, "n3", MovementKind::Reward, 5_000_000),
        (5, "n3", MovementKind::Penalty, 2_777_778),
    ];
    assert_eq!(order, expected.map(|(seq, name, kind, balance)| (seq, name.to_string(), kind, balance)));
    world.assert_sound();
}

#[test]
fn settling_again_pays_nothing() {
    let mut world = World::standard();
    world.interval(&good());
    let paid = world.space.clone();
    let mut envelope = world.envelope(Command::Settle { interval: IntervalId(1) });
    envelope.at = UnixMillis(0);
    let again = world.apply(&envelope);
    assert_eq!((rejection(&again.applied.answer), again.happenings), ("stale", vec![]));
    assert_eq!(world.space, paid);
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut world = World::standard();
    assert_eq!(rejection(&world.settle(1)), "conflict", "not cut");
    assert_eq!(rejection(&world.cut(2)), "conflict", "1 is open");
    assert_eq!(rejection(&world.report(1, "n1", vec![])), "conflict", "not cut");
    assert_eq!(world.cut(1), Answer::Done);
    assert_eq!(rejection(&world.cut(1)), "stale");
    assert_eq!(rejection(&world.settle(1)), "conflict", "no reports");
    assert_eq!(world.report(1, "n1", good().to_vec()), Answer::Done);
    assert_eq!(rejection(&world.report(1, "n1", good().to_vec())), "stale", "once per observer");
    assert_eq!(rejection(&world.settle(1)), "conflict", "one of three");
    let readiness = query::readiness(&world.space).expect("readable").expect("genesis");
    assert_eq!((readiness.expected, readiness.complete, readiness.majority), (3, 1, 2));
    assert!(!readiness.can_settle());
    assert_eq!(world.report(1, "n3", good().to_vec()), Answer::Done);
    assert_eq!(rejection(&world.settle(2)), "conflict", "1 is next");
    assert!(query::readiness(&world.space).expect("readable").expect("genesis").can_settle());
    assert_eq!(world.settle(1), Answer::Done);
    assert_eq!(rejection(&world.report(1, "n2", good().to_vec())), "stale", "too late");
    let observers = world.record(1).observers;
    let found: Vec<_> = observers.iter().map(|one| (one.id.as_str(), one.used, one.why.as_str())).collect();
    assert_eq!(found, [("n1", true, ""), ("n2", false, "absent"), ("n3", true, "")]);
    world.assert_sound();
}

#[test]
fn a_deposed_leader_decides_nothing() {
    let mut world = World::standard();
    world.cut(1);
    world.report(1, "n1", good().to_vec());
    world.report(1, "n2", good().to_vec());
    let interval = IntervalId(1);
    let report = Report { interval, observer: node("n3"), part: 0, parts: 1, health: WELL, rows: vec![] };
    let before = world.space.clone();
    let at = world.at;
    for command in
        [Command::Settle { interval }, Command::Cut { interval: IntervalId(2) }, Command::Report(report)]
    {
        world.term = 1;
        let envelope = world.envelope(command.clone());
        world.term = 2;
        assert_eq!(rejection(&world.apply(&envelope).applied.answer), "stale", "{command:?}");
        assert_eq!(world.space, before);
    }
    world.at = at;
    assert_eq!(world.settle(1), Answer::Done, "the new leader may");
}

#[test]
fn reports_come_in_parts_and_in_order() {
    let mut world = World::with(&["n1"], &["a", "b", "c"], Policy::default());
    world.cut(1);
    let part = |world: &mut World, part, rows: &[Row]| world.report_part(1, "n1", part, rows.to_vec());
    let (a, b, c) = (row("a", 12, 12, 9), row("b", 12, 12, 9), row("c", 12, 12, 9));
    assert_eq!(rejection(&part(&mut world, (3, 3), &[])), "bad request", "parts are numbered from 0");
    assert_eq!(rejection(&part(&mut world, (0, 0), &[])), "bad request");
    assert_eq!(rejection(&part(&mut world, (0, 1_025), &[])), "bad request");
    assert_eq!(part(&mut world, (2, 3), std::slice::from_ref(&c)), Answer::Done);
    assert_eq!(
        rejection(&part(&mut world, (0, 2), std::slice::from_ref(&a))),
        "conflict",
        "another number of parts"
    );
    assert_eq!(
        rejection(&part(&mut world, (1, 3), std::slice::from_ref(&c))),
        "bad request",
        "c is in part 2"
    );
    assert_eq!(part(&mut world, (0, 3), &[a.clone(), b.clone()]), Answer::Done);
    assert_eq!(rejection(&part(&mut world, (0, 3), &[a])), "stale");
    assert_eq!(rejection(&part(&mut world, (1, 3), &[b])), "bad request", "b is in part 0");
    assert_eq!(rejection(&world.settle(1)), "conflict", "incomplete is not there");
    assert_eq!(part(&mut world, (1, 3), &[]), Answer::Done);
    assert_eq!(world.settle(1), Answer::Done);
    assert_eq!([world.balance("a"), world.balance("b"), world.balance("c")], [10_000_000; 3]);
    world.assert_sound();
}

#[test]
fn rows_are_checked() {
    let mut world = World::standard();
    world.cut(1);
    let wrong_sum = Row { sent: 13, ..row("a", 12, 12, 9) };
    let huge = Row { sent: 0, answered: u32::MAX, missed: 1, ..row("a", 0, 0, 9) };
    let cases = [
        ("itself", vec![row("n1", 12, 12, 9)]),
        ("unknown, after all", vec![row("a", 12, 12, 9), row("z", 12, 12, 9)]),
        ("unknown, between", vec![row("a", 12, 12, 9), row("b", 12, 12, 9), row("n2", 12, 12, 9)]),
        ("unknown, before all", vec![row("Z", 12, 12, 9), row("a", 12, 12, 9)]),
        ("sum", vec![wrong_sum]),
        ("wrapping sum", vec![huge]),
        ("order", vec![row("n2", 12, 12, 9), row("a", 12, 12, 9)]),
        ("twice", vec![row("a", 12, 12, 9), row("a", 12, 12, 9)]),
        ("too many", (0..=REPORT_ROWS_MAX).map(|i| row(&format!("m{i:05}"), 1, 1, 9)).collect()),
    ];
    for (what, rows) in cases {
        assert_eq!(rejection(&world.report(1, "n1", rows)), "bad request", "{what}");
    }
    assert_eq!(rejection(&world.report(1, "a", vec![])), "bad request", "an agent does not observe");
    assert_eq!(rejection(&world.report(1, "x", vec![])), "bad request", "nor does a stranger");
    assert_eq!(world.report(1, "n1", vec![row("a", 0, 0, 0), row("n3", 3, 3, 9)]), Answer::Done);
}

#[test]
fn without_a_majority_an_interval_becomes_void_when_three_newer_are_cut() {
    let mut world = World::standard();
    for id in 1..=3 {
        world.cut(id);
    }
    world.report(1, "n2", dark().to_vec());
    world.report_part(1, "n3", (0, 2), dark().to_vec());
    assert_eq!(rejection(&world.settle(1)), "conflict", "two newer are cut");
    world.cut(4);
    assert!(query::readiness(&world.space).expect("readable").expect("genesis").overdue);
    let before = world.member("a");
    assert_eq!(world.settle(1), Answer::Done);
    assert_eq!(world.member("a"), before, "nobody is paid, penalised or struck");
    let record = world.record(1);
    assert_eq!((record.verdict, record.members, record.last_seq), (Verdict::Void, 0, 0));
    let why: Vec<_> = record.observers.iter().map(|observer| observer.why.as_str()).collect();
    assert_eq!(why, ["absent", "", "incomplete"]);
    assert_eq!(rejection(&world.settle(2)), "conflict", "only two are newer than 2");
    for observer in ["n1", "n2"] {
        world.report(2, observer, good().to_vec());
    }
    assert_eq!(world.settle(2), Answer::Done, "late is not lost");
    assert_eq!(world.balance("a"), 10_000_000);
    world.assert_sound();
}

#[test]
fn strikes_suspension_probation_reinstatement() {
    let mut world = World::standard();
    let standing = |world: &World| {
        let member = world.member("a");
        (member.status, member.strikes, member.remaining)
    };
    // Ten dark intervals: 4 strikes and 5 points each; the tenth suspends.
    for i in 1..=9 {
        world.interval(&dark());
        assert_eq!(standing(&world), (MemberStatus::Active, 4 * i, 0));
    }
    let happenings = world.interval(&dark());
    assert!(happenings.contains(&Happening::MemberSuspended { member: member("a"), intervals: 10 }));
    assert_eq!(standing(&world), (MemberStatus::Suspended, 40, 10));
    assert_eq!(world.balance("a"), -50_000_000);
    // Ten settled intervals of cooldown: neither paid nor fined, seen or unseen. A void one does not count.
    for i in 1..=9 {
        let seen = if i % 2 == 0 { dark().to_vec() } else { Vec::new() };
        world.interval(&seen);
        assert_eq!(standing(&world), (MemberStatus::Suspended, 40, 10 - i));
    }
    let happenings = world.interval(&good());
    assert!(happenings.contains(&Happening::MemberProbation { member: member("a") }));
    assert_eq!(standing(&world), (MemberStatus::Probation, 20, 3));
    // Probation: good intervals unpaid; one that is neither good nor dark does not advance it and is fined.
    world.interval(&good());
    assert_eq!(standing(&world), (MemberStatus::Probation, 19, 2));
    world.interval(&[row("a", 12, 10, 1_000)]);
    assert_eq!(standing(&world), (MemberStatus::Probation, 19, 2));
    assert_eq!(world.balance("a"), -50_370_372);
    world.interval(&good());
    let happenings = world.interval(&good());
    assert!(happenings.contains(&Happening::MemberReinstated { member: member("a") }));
    assert_eq!(standing(&world), (MemberStatus::Active, 17, 0));
    assert_eq!(world.balance("a"), -50_370_372, "probation is unpaid to the end");
    world.interval(&good());
    assert_eq!((standing(&world), world.balance("a")), ((MemberStatus::Active, 16, 0), -40_370_372));
    // From 16 strikes six dark intervals suspend again, for twice as long.
    for _ in 0..6 {
        world.interval(&dark());
    }
    assert_eq!(standing(&world), (MemberStatus::Suspended, 40, 20));
    assert_eq!(world.member("a").suspensions, 2);
    world.assert_sound();
}

#[test]
fn a_dark_probation_suspends_for_longer() {
    let mut world = World::standard();
    for _ in 0..10 {
        world.interval(&dark());
    }
    for length in [20, 40] {
        while world.member("a").status == MemberStatus::Suspended {
            world.interval(&dark());
        }
        // From 20 strikes five dark intervals reach 40.
        for _ in 0..5 {
            assert_eq!(world.member("a").status, MemberStatus::Probation);
            world.interval(&dark());
        }
        assert_eq!(
            (world.member("a").status, world.member("a").remaining),
            (MemberStatus::Suspended, length)
        );
    }
    world.assert_sound();
}

#[test]
fn void_intervals_do_not_shorten_a_cooldown() {
    let mut world = World::standard();
    for _ in 0..10 {
        world.interval(&dark());
    }
    for id in 11..=14 {
        world.cut(id);
    }
    assert_eq!(world.settle(11), Answer::Done);
    assert_eq!(world.record(11).verdict, Verdict::Void);
    assert_eq!(world.member("a").remaining, 10);
    world.assert_sound();
}

#[test]
fn the_balance_has_a_floor() {
    let policy = Policy { penalty: Amount(30 * Amount::POINT), ..Policy::default() };
    let mut world = World::with(&["n1", "n2", "n3"], &["a"], policy);
    for balance in [-30_000_000, -60_000_000, -90_000_000, -100_000_000, -100_000_000] {
        world.interval(&dark());
        assert_eq!(world.balance("a"), balance);
    }
    assert_eq!(Amount(world.balance("a")), BALANCE_FLOOR);
    assert_eq!(world.observation(4, "a").penalty, Amount(10_000_000), "what was taken, not what was due");
    assert_eq!(world.observation(5, "a").penalty, Amount(0));
    assert_eq!(query::totals(&world.space).expect("readable").records, 4, "no movement of nothing");
    world.assert_sound();
}

#[test]
fn too_little_evidence_neither_pays_nor_strikes() {
    let mut world = World::standard();
    world.interval(&[row("a", 5, 0, 0)]);
    assert_eq!((world.member("a").strikes, world.balance("a")), (0, 0));
    let observation = world.observation(1, "a");
    assert_eq!((observation.sent, observation.availability_ppm, observation.score_ppm), (15, 0, 0));
    world.interval(&[row("a", 6, 0, 0)]);
    assert_eq!((world.member("a").strikes, world.balance("a")), (4, -2_500_000));
    world.assert_sound();
}

#[test]
fn a_single_super_node_is_its_own_majority_and_not_paid() {
    let mut world = World::with(&["n1"], &["a"], Policy::default());
    world.cut(1);
    world.report(1, "n1", good().to_vec());
    assert_eq!(world.settle(1), Answer::Done);
    assert_eq!((world.balance("a"), world.balance("n1")), (10_000_000, 0));
    assert_eq!(query::observation(&world.space, IntervalId(1), &member("n1")), Ok(None));
    world.assert_sound();
}

#[test]
fn what_does_not_fit_is_not_paid_and_nothing_wraps() {
    let policy = Policy { reward: Amount(i64::MAX), ..Policy::default() };
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b"], policy);
    let happenings = world.interval(&[row("a", 12, 12, 9), row("b", 12, 12, 9)]);
    assert_eq!((world.balance("a"), world.balance("b")), (i64::MAX, 0), "minted is at its end");
    let refused = Happening::MovementRefused {
        kind: MovementKind::Reward,
        member: member("b"),
        amount: Amount(i64::MAX),
    };
    assert!(happenings.contains(&refused));
    assert_eq!(world.observation(1, "b").reward, Amount(0));
    world.interval(&[row("a", 12, 0, 0), row("b", 12, 12, 9)]);
    assert_eq!(world.balance("a"), i64::MAX - 5_000_000);
    world.assert_sound();
}

#[test]
fn classic_suspends_after_ten_misses_in_a_row_for_ten_minutes() {
    let policy = Policy { kind: PolicyKind::Classic, interval_ms: 70_000, ..Policy::default() };
    let mut world = World::with(&["n1", "n2", "n3"], &["a"], policy);
    let (dark, good) = ([row("a", 14, 0, 0)], [row("a", 14, 14, 3_000_000)]);
    for _ in 0..9 {
        world.interval(&dark);
    }
    world.interval(&good);
    assert_eq!((world.member("a").strikes, world.balance("a")), (0, -35_000_000), "an answer ends the row");
    for _ in 0..10 {
        world.interval(&dark);
    }
    // 600 s / 70 s, rounded up.
    assert_eq!((world.member("a").status, world.member("a").remaining), (MemberStatus::Suspended, 9));
    assert_eq!(world.balance("a"), -85_000_000);
    for _ in 0..9 {
        world.interval(&good);
    }
    assert_eq!((world.member("a").status, world.member("a").strikes), (MemberStatus::Active, 0));
    assert_eq!(world.balance("a"), -85_000_000);
    world.interval(&good);
    assert_eq!(world.balance("a"), -75_000_000);
    world.assert_sound();
}
