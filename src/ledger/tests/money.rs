//! Claims, adjustments, maintenance, budgets, and members that come and go part-way.

use super::*;
use crate::ledger::accounts::BALANCE_FLOOR;
use crate::ledger::claims::{OVERCLAIM_PENALTY, Receipt};
use crate::ledger::explain::explain;
use crate::ledger::query::RewardFilter;
use crate::ledger::records::{MemberStatus, MovementKind};

const POINT: i64 = Amount::POINT;

fn good(name: &str) -> Row {
    row(name, 12, 12, 900)
}

/// `a` holds 30 points.
fn rich() -> World {
    let mut world = World::standard();
    for _ in 0..3 {
        world.interval(&[good("a")]);
    }
    world
}

fn receipt(answer: &Answer) -> &Receipt {
    match answer {
        Answer::Claimed(receipt) => receipt,
        other => panic!("not claimed: {other:?}"),
    }
}

#[test]
fn a_claim_pays_once_and_its_receipt_can_be_asked_for_again() {
    let mut world = rich();
    let paid = world.claim("a", 1, 12 * POINT);
    let Receipt { seq, amount, balance, record, .. } = receipt(&paid).clone();
    assert_eq!((seq, amount.0, balance.0, record), (1, 12 * POINT, 18 * POINT, 4));
    let state = world.space.clone();
    let again = world.claim("a", 1, 12 * POINT);
    assert_eq!(again, paid, "the very same receipt");
    assert_eq!(world.balance("a"), 18 * POINT);
    let mut differs: Vec<_> =
        world.space.rows.iter().filter(|(key, value)| state.rows.get(*key) != Some(value)).collect();
    differs.retain(|(key, _)| key.as_slice() != crate::ledger::keys::CLOCK);
    assert!(differs.is_empty(), "a repeat changes nothing: {differs:?}");
    for (seq, amount, why) in [
        (1, 11 * POINT, "conflict"),
        (0, POINT, "conflict"),
        (3, POINT, "conflict"),
        (u64::MAX, POINT, "conflict"),
        (2, 0, "bad request"),
        (2, -POINT, "bad request"),
        (2, i64::MIN, "bad request"),
    ] {
        assert_eq!(rejection(&world.claim("a", seq, amount)), why, "{seq} {amount}");
    }
    assert_eq!(rejection(&world.claim("nobody", 1, POINT)), "not found");
    assert_eq!(receipt(&world.claim("a", 2, 18 * POINT)).balance.0, 0, "to the last micro-point");
    let totals = query::totals(&world.space).expect("readable");
    assert_eq!((totals.minted.0, totals.burned.0, totals.claimed.0), (30 * POINT, 0, 30 * POINT));
    world.assert_sound();
}

#[test]
fn claiming_more_than_the_balance_costs_once_an_interval() {
    let mut world = rich();
    for amount in [30 * POINT + 1, i64::MAX] {
        assert_eq!(rejection(&world.claim("a", 1, amount)), "insufficient funds");
        assert_eq!(world.balance("a"), 25 * POINT, "once, however often it is tried");
    }
    world.interval(&[good("a")]);
    let outcome = world.outcome(Command::Claim { member: member("a"), seq: 1, amount: Amount(i64::MAX) });
    let told = Happening::OverClaimed {
        member: member("a"),
        amount: Amount(i64::MAX),
        balance: Amount(35 * POINT),
        penalty: OVERCLAIM_PENALTY,
    };
    assert!(outcome.happenings.contains(&told), "{:?}", outcome.happenings);
    assert_eq!(world.balance("a"), 30 * POINT, "a new interval, a new penalty");
    assert_eq!(receipt(&world.claim("a", 1, 30 * POINT)).seq, 1, "the number was not used up");
    let penalties = RewardFilter { kind: Some(MovementKind::ClaimPenalty), limit: 9, ..Default::default() };
    let found = query::rewards(&world.space, &penalties).expect("readable");
    assert_eq!(found.iter().map(|movement| movement.amount.0).collect::<Vec<_>>(), [-5 * POINT; 2]);
    world.assert_sound();
}

/// Two missed of twelve: 8.33333 points earned and 0.370372 lost, in each of two intervals.
#[test]
fn an_honest_race_is_not_punished() {
    let lost = 370_372;
    for (intervals_since, excess, waived) in
        [(0, 2 * lost, true), (0, 2 * lost + 1, false), (1, lost, true), (1, lost + 1, false), (2, 1, false)]
    {
        let mut world = rich();
        for _ in 0..2 {
            world.interval(&[row("a", 12, 10, 900)]);
        }
        for _ in 0..intervals_since {
            world.interval(&[good("a")]);
        }
        let balance = world.balance("a");
        assert_eq!(rejection(&world.claim("a", 1, balance + excess)), "insufficient funds");
        let taken = balance - world.balance("a");
        assert_eq!(taken, if waived { 0 } else { 5 * POINT }, "{intervals_since} {excess}");
        world.assert_sound();
    }
}

#[test]
fn no_claim_penalty_goes_below_the_floor_and_a_suspended_member_is_paid_nothing() {
    let policy = Policy { penalty: Amount(49 * POINT), ..Policy::default() };
    let mut world = World::with(&["n1", "n2", "n3"], &["a"], policy);
    for _ in 0..2 {
        world.interval(&[row("a", 12, 0, 0)]);
    }
    assert_eq!(world.balance("a"), -98 * POINT);
    // What it lost just now explains an excess of 98 points, and no more.
    assert_eq!(rejection(&world.claim("a", 1, 1)), "insufficient funds");
    assert_eq!(world.balance("a"), -100 * POINT, "two points were left to take");
    world.interval(&[good("a")]);
    world.adjust("a", 200 * POINT);
    for _ in 0..10 {
        world.interval(&[row("a", 12, 0, 0)]);
    }
    assert_eq!(world.member("a").status, MemberStatus::Suspended);
    assert_eq!(rejection(&world.claim("a", 1, 1)), "suspended");
    world.assert_sound();
}

#[test]
fn who_has_left_can_still_claim() {
    let mut world = rich();
    world.leave("a");
    assert_eq!(receipt(&world.claim("a", 1, 30 * POINT)).balance.0, 0);
    assert_eq!(rejection(&world.claim("a", 2, 1)), "insufficient funds");
    assert_eq!(world.member("a").status, MemberStatus::Left);
    world.assert_sound();
}

#[test]
fn an_adjustment_appends_with_operator_and_reason() {
    let mut world = rich();
    assert_eq!(world.adjust("a", -40 * POINT), Answer::Adjusted { record: 4, balance: Amount(-10 * POINT) });
    assert_eq!(world.adjust("a", 5), Answer::Adjusted { record: 5, balance: Amount(-10 * POINT + 5) });
    let movement = query::reward(&world.space, 5).expect("readable").expect("made");
    assert_eq!(
        (movement.kind, movement.reason.as_str()),
        (MovementKind::Adjustment, "a test (operator ops)")
    );
    let adjust = |world: &mut World, name: &str, delta: i64, reason: &str, operator: &str| {
        let (reason, operator) = (reason.to_string(), operator.to_string());
        let answer =
            world.run(Command::Adjust { member: member(name), delta: Amount(delta), reason, operator });
        rejection(&answer)
    };
    for (name, delta, reason, operator, why) in [
        ("a", 0, "r", "o", "bad request"),
        ("a", 1, " ", "o", "bad request"),
        ("a", 1, "r", "", "bad request"),
        ("a", 1, "r\n", "o", "bad request"),
        ("a", 1, &"r".repeat(257), "o", "bad request"),
        ("nobody", 1, "r", "o", "not found"),
        ("a", -100 * POINT, "r", "o", "conflict"),
        ("a", i64::MIN, "r", "o", "conflict"),
        ("a", i64::MAX, "r", "o", "conflict"),
    ] {
        assert_eq!(adjust(&mut world, name, delta, reason, operator), why, "{name} {delta} {reason:?}");
    }
    assert_eq!(
        adjust(&mut world, "a", BALANCE_FLOOR.0 + 10 * POINT - 5, "r", "o"),
        "done",
        "down to the floor"
    );
    assert_eq!(Amount(world.balance("a")), BALANCE_FLOOR);
    world.assert_sound();
}

#[test]
fn a_statement_has_everything_in_order_whoever_made_it() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b"], Policy::default());
    world.adjust("a", POINT);
    world.interval(&[row("a", 12, 10, 900), good("b")]);
    world.claim("a", 1, POINT);
    world.adjust("b", POINT);
    world.adjust("a", 2 * POINT);
    world.interval(&[row("a", 12, 10, 900), good("b")]);
    world.adjust("a", 3 * POINT);
    let all =
        query::rewards(&world.space, &RewardFilter { limit: 99, ..Default::default() }).expect("readable");
    for name in ["a", "b", "n1"] {
        let expected: Vec<u64> = all
            .iter()
            .filter(|movement| movement.member == member(name))
            .map(|movement| movement.seq)
            .collect();
        for after in 0..=all.len() as u64 {
            for limit in [1, 2, 99] {
                let filter =
                    RewardFilter { member: Some(member(name)), after, limit, ..RewardFilter::default() };
                let found: Vec<u64> = query::rewards(&world.space, &filter)
                    .expect("readable")
                    .iter()
                    .map(|movement| movement.seq)
                    .collect();
                let wanted: Vec<u64> =
                    expected.iter().copied().filter(|seq| *seq > after).take(limit).collect();
                assert_eq!(found, wanted, "{name} after {after}");
            }
        }
    }
    world.assert_sound();
}

#[test]
fn maintenance_is_excused_and_unpaid() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b"], Policy::default());
    // Interval 1 is open, so 2 is the first that can be announced.
    assert_eq!(
        world.maintain("a", None, 2),
        Answer::Maintenance { from: IntervalId(2), to: IntervalId(3), left: 58 }
    );
    let seen = [[0, 12], [0, 12], [12, 12], [0, 12]];
    for [a, b] in seen {
        world.interval(&[row("a", 12, a, 900), row("b", 12, b, 900)]);
    }
    let excused: Vec<bool> = (1..=4).map(|id| world.observation(id, "a").excused).collect();
    assert_eq!(excused, [false, true, true, false]);
    // Dark in 1 and 4: 5 points and 4 strikes each. In 2 dark and in 3 well: neither counts.
    assert_eq!((world.balance("a"), world.member("a").strikes), (-10 * POINT, 8));
    assert_eq!((world.balance("b"), world.member("b").strikes), (40 * POINT, 0));
    assert_eq!(world.observation(3, "a").availability_ppm, 1_000_000, "what was seen stays on record");
    let lines = explain(&world.space, IntervalId(2), &member("a")).expect("readable").expect("seen").lines;
    assert!(lines.contains(&"announced maintenance: not paid, not penalised, not struck".to_string()));
    world.assert_sound();
}

#[test]
fn maintenance_is_announced_ahead_and_limited() {
    let mut world = World::standard();
    for (from, intervals, why) in [
        (Some(1), 1, "bad request"),
        (Some(0), 1, "bad request"),
        (Some(u64::MAX), 1, "bad request"),
        (None, 0, "bad request"),
        (None, 61, "bad request"),
        (None, u64::MAX, "bad request"),
        (Some(10), 30, "done"),
        (Some(39), 1, "conflict"),
        (Some(9), 2, "conflict"),
        (Some(40), 30, "done"),
        (Some(100), 1, "conflict"),
    ] {
        assert_eq!(rejection(&world.maintain("a", from, intervals)), why, "{from:?} {intervals}");
    }
    assert_eq!(rejection(&world.maintain("nobody", None, 1)), "not found");
    assert_eq!(rejection(&world.maintain("n1", Some(100), 1)), "done", "everybody has a limit of its own");
    world.at += 30 * 24 * 3_600_000;
    assert_eq!(
        world.maintain("a", Some(100), 60),
        Answer::Maintenance { from: IntervalId(100), to: IntervalId(159), left: 0 },
        "thirty days later"
    );
    world.leave("a");
    assert_eq!(rejection(&world.maintain("a", Some(500), 1)), "not found", "who has left maintains nothing");
}

#[test]
fn announced_darkness_makes_no_fleet_dark() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b", "c", "d"], Policy::default());
    for name in ["a", "b", "c", "d"] {
        world.maintain(name, None, 1);
    }
    let dark: Vec<Row> = ["a", "b", "c", "d"].iter().map(|name| row(name, 12, 0, 0)).collect();
    world.interval(&dark);
    world.interval(&dark);
    let verdicts: Vec<&str> = (1..=2).map(|id| world.record(id).verdict.as_str()).collect();
    assert_eq!(verdicts, ["correlated", "settled"]);
    world.assert_sound();
}

/// 10, 10 and 8.33333 points for a budget of 20: 28 333 330 in all.
/// a and b: 10 000 000 * 20 000 000 / 28 333 330 = 7 058 824; c: 8 333 330 * 20 000 000 / 28 333 330 = 5 882 351;
/// that is 19 999 999, and the one left over goes to the larger share that is first by name.
#[test]
fn a_budget_is_shared_by_what_was_earned() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b", "c"], Policy::default());
    assert_eq!(
        world.set_policy(Policy { revision: 2, ..Policy::default() }, 20 * POINT, None),
        Answer::PolicySet { revision: 2, activate_at: IntervalId(3) }
    );
    let rows = [good("a"), good("b"), row("c", 12, 10, 900)];
    for _ in 1..=2 {
        world.interval(&rows);
    }
    assert_eq!(world.balance("a"), 20 * POINT, "not in force yet");
    world.interval(&rows);
    let earned: Vec<i64> = ["a", "b", "c"].iter().map(|name| world.observation(3, name).reward.0).collect();
    assert_eq!(earned, [7_058_825, 7_058_824, 5_882_351]);
    assert_eq!((world.record(3).rewarded.0, world.record(3).policy), (20 * POINT, 2));
    let lines = explain(&world.space, IntervalId(3), &member("a")).expect("readable").expect("seen");
    assert!(lines.agrees);
    let line = "budget 20000000 for 28333330 earned by all: 10000000 * 20000000 / 28333330 + 1 of what rounding left over = 7058825";
    assert!(lines.lines.iter().any(|found| found == line), "{:#?}", lines.lines);
    world.assert_sound();
}

#[test]
fn who_joins_or_leaves_part_way_is_paid_for_its_part() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a"], Policy::default());
    world.join("b", "host:2");
    // 7 of 12 pings: C = 583 333, and 10 000 000 * 583 333 / 1 000 000 = 5 833 330.
    world.interval(&[good("a"), row("b", 7, 7, 900)]);
    assert_eq!((world.balance("a"), world.balance("b")), (10 * POINT, 5_833_330));
    world.leave("a");
    world.interval(&[row("a", 6, 6, 900), good("b")]);
    assert_eq!((world.balance("a"), world.member("a").status), (15 * POINT, MemberStatus::Left));
    world.interval(&[good("b")]);
    assert_eq!(world.balance("a"), 15 * POINT);
    world.assert_sound();
}
