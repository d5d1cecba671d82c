//! Revisions of the policy, and rehearsals of them on recorded history.

use super::*;
use crate::ledger::policy::{PolicyKind, Revision};
use crate::ledger::records::{MemberStatus, Verdict};

fn revision(number: u64) -> Policy {
    Policy { revision: number, ..Policy::default() }
}

fn dark() -> [Row; 1] {
    [row("a", 12, 0, 0)]
}

#[test]
fn a_revision_judges_from_its_interval_on_and_is_pinned_in_each_record() {
    let mut world = World::standard();
    let cheap = Policy { reward: Amount(1_000_000), ..revision(2) };
    let harsh = Policy { penalty: Amount(9_000_000), ..revision(3) };
    assert_eq!(
        world.set_policy(cheap, 0, Some(4)),
        Answer::PolicySet { revision: 2, activate_at: IntervalId(4) }
    );
    assert_eq!(
        world.set_policy(harsh.clone(), 0, Some(4)),
        Answer::PolicySet { revision: 3, activate_at: IntervalId(4) }
    );
    assert_eq!(query::policy(&world.space).expect("readable").expect("genesis").revision, 1);
    for _ in 1..=2 {
        world.interval(&[row("a", 12, 12, 900)]);
    }
    assert_eq!(world.cut(3), Answer::Done);
    assert_eq!(query::policy(&world.space), Ok(Some(harsh.clone())), "the newest that is due");
    for observer in ["n1", "n2"] {
        world.report(3, observer, dark().to_vec());
    }
    world.settle(3);
    assert_eq!(world.balance("a"), 15_000_000, "interval 3 was still judged by the first");
    world.interval(&dark());
    assert_eq!(world.balance("a"), 6_000_000);
    assert_eq!((1..=4).map(|id| world.record(id).policy).collect::<Vec<_>>(), [1, 1, 1, 3]);
    let known: Vec<u64> = query::revisions(&world.space, 1, 9)
        .expect("readable")
        .iter()
        .map(|revision: &Revision| revision.policy.revision)
        .collect();
    assert_eq!(known, [2, 3]);
    world.assert_sound();
}

#[test]
fn revisions_are_checked() {
    let mut world = World::standard();
    world.cut(1);
    for (policy, budget, activate_at, why) in [
        (revision(1), 0, None, "conflict"),
        (revision(3), 0, None, "conflict"),
        (revision(u64::MAX), 0, None, "conflict"),
        (revision(0), 0, None, "bad request"),
        (revision(2), -1, None, "bad request"),
        (Policy { interval_ms: 0, ..revision(2) }, 0, None, "bad request"),
        (Policy { interval_ms: 86_400_001, ..revision(2) }, 0, None, "bad request"),
        (Policy { ping_ms: 60_001, ..revision(2) }, 0, None, "bad request"),
        (Policy { ping_timeout_ms: 0, ..revision(2) }, 0, None, "bad request"),
        (Policy { reward: Amount(-1), ..revision(2) }, 0, None, "bad request"),
        (Policy { penalty: Amount(-1), ..revision(2) }, 0, None, "bad request"),
        // Interval 2 is open, so 4 is the first.
        (revision(2), 0, Some(3), "conflict"),
        (revision(2), 0, Some(10), "done"),
        (revision(3), 0, Some(9), "conflict"),
        (revision(3), 0, None, "done"),
    ] {
        let what = format!("{policy:?} {budget} {activate_at:?}");
        assert_eq!(rejection(&world.set_policy(policy, budget, activate_at)), why, "{what}");
    }
    let third = query::revision(&world.space, 3).expect("readable").expect("set");
    assert_eq!(third.activate_at, IntervalId(10), "never before the revision before it");
}

/// Four intervals, two of them dark, a claim and an adjustment between.
fn history() -> World {
    let mut world = World::standard();
    world.interval(&[row("a", 12, 12, 900)]);
    world.interval(&[row("a", 12, 10, 900)]);
    world.claim("a", 1, 2_000_000);
    world.interval(&dark());
    world.adjust("a", 3_000_000);
    world.interval(&dark());
    world
}

fn rehearsal(
    world: &World,
    from: u64,
    to: u64,
    revision: Option<Revision>,
) -> crate::ledger::rehearse::Rehearsal {
    let wish = Wish { from: IntervalId(from), to: IntervalId(to), revision };
    rehearse(&world.space, &wish).expect("readable")
}

#[test]
fn the_same_policy_comes_out_byte_for_byte_from_wherever_it_begins() {
    let world = history();
    for from in 1..=4 {
        for to in from..=4 {
            for revision in [None, Some(Revision::initial(Policy::default()))] {
                let found = rehearsal(&world, from, to, revision);
                assert!(found.identical, "{from} to {to}");
                assert_eq!((found.intervals, found.verdicts_changed), (to - from + 1, vec![]));
                assert!(
                    found
                        .members
                        .iter()
                        .all(|member| member.difference == 0 && member.recorded == member.rehearsed)
                );
            }
        }
    }
    assert_eq!(rehearsal(&world, 5, 9, None).intervals, 0);
    let damaged = {
        let mut world = history();
        let key = crate::ledger::keys::interval(IntervalId(2));
        let mut record = world.record(2);
        record.rewarded = Amount(record.rewarded.0 + 1);
        world.space.rows.insert(key, crate::codec::encode(&record));
        world
    };
    assert!(!rehearsal(&damaged, 1, 4, None).identical, "the comparison can fail");
}

/// By hand. Recorded: +10, +8.33333 -0.370372, claim -2, -5, adjustment +3, -5: balance 8.962958.
/// With half the reward and twice the penalty: +5, +4.166665 -0.740744, -2, -10, +3, -10: balance -10.574079.
#[test]
fn another_policy_is_rehearsed_with_its_difference_per_member() {
    let world = history();
    assert_eq!(world.balance("a"), 8_962_958);
    let other = Policy { reward: Amount(5_000_000), penalty: Amount(10_000_000), ..revision(2) };
    let found = rehearsal(&world, 1, 4, Some(Revision::initial(other)));
    assert!(!found.identical);
    let a = found.members.iter().find(|one| one.member == member("a")).expect("judged");
    assert_eq!(
        (a.recorded.rewarded, a.recorded.penalised, a.recorded.balance.0),
        (18_333_330, 10_370_372, 8_962_958)
    );
    assert_eq!(
        (a.rehearsed.rewarded, a.rehearsed.penalised, a.rehearsed.balance.0),
        (9_166_665, 20_740_744, -10_574_079)
    );
    assert_eq!(a.difference, -19_537_037);
    assert_eq!(world.balance("a"), 8_962_958, "a rehearsal changes nothing");
}

#[test]
fn a_rehearsal_follows_suspensions_of_its_own() {
    let mut world = World::standard();
    for _ in 0..14 {
        world.interval(&dark());
    }
    world.interval(&[row("a", 12, 12, 900)]);
    assert_eq!(world.member("a").status, MemberStatus::Suspended);
    let classic = Policy { kind: PolicyKind::Classic, interval_ms: 600_000, ping_ms: 50_000, ..revision(2) };
    let found = rehearsal(&world, 1, 15, Some(Revision::initial(classic)));
    let a = found.members.iter().find(|one| one.member == member("a")).expect("judged");
    // Suspended after ten misses for one interval of ten minutes, three more misses, and an answer.
    assert_eq!((a.rehearsed.status, a.rehearsed.strikes), (MemberStatus::Active, 0));
    assert_eq!((a.rehearsed.rewarded, a.rehearsed.penalised), (10_000_000, 65_000_000));
    assert_eq!((a.recorded.status, a.recorded.penalised), (MemberStatus::Suspended, 50_000_000));
}

#[test]
fn a_verdict_that_would_be_another_is_named() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b", "c", "d"], Policy::default());
    // Five pings of twelve are too few to call anybody dark; of eight they are enough.
    let few: Vec<Row> = ["a", "b", "c", "d"].iter().map(|name| row(name, 5, 0, 0)).collect();
    world.interval(&few);
    assert_eq!(world.record(1).verdict, Verdict::Settled);
    let slower = Policy { ping_ms: 7_500, ..revision(2) };
    let found = rehearsal(&world, 1, 1, Some(Revision::initial(slower)));
    assert_eq!(found.verdicts_changed, [IntervalId(1)]);
}
