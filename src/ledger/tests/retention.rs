//! What is old is forgotten by log entries alone, never before it is projected, and what is left can still be checked.

use crate::ledger::apply::Happening;
use crate::ledger::command::{Answer, Command};
use crate::ledger::keys;
use crate::ledger::keyspace::{Keyspace as _, MemoryKeyspace};
use crate::ledger::query::{self, IntervalFilter, RewardFilter};
use crate::ledger::records::Checkpoint;
use crate::ledger::retention::trimmed;
use crate::ledger::verify::verify;
use crate::types::{Index, IntervalId, Term, UnixMillis};

use super::{World, member, rejection, row};

fn trim(world: &mut World, through: u64, projected: bool) -> Answer {
    world.run(Command::Trim { through: IntervalId(through), projected })
}

fn projected(world: &mut World, intervals: u64) {
    let rewards = world.record(intervals).last_seq;
    let checkpoint =
        Checkpoint { rewards, intervals: IntervalId(intervals), elections: Term(0), members: Index(0) };
    assert_eq!(world.run(Command::Projected(checkpoint)), Answer::Done);
}

/// Thirty intervals with good and bad turns, dark ones in a row, claims and adjustments in between, and a member that left
/// early.
fn history() -> World {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b", "gone"], Default::default());
    for id in 1..=30_u32 {
        let well = |name| row(name, 12, 12, 900);
        let a = if id % 4 == 0 { row("a", 12, 3, 900) } else { well("a") };
        let mut rows = vec![a, well("b"), well("n1"), well("n2"), well("n3")];
        if id <= 3 {
            rows.push(well("gone"));
            rows.sort_by(|a, b| a.member.cmp(&b.member));
        }
        if (9..=12).contains(&id) {
            rows.iter_mut().for_each(|row| *row = super::row(row.member.as_str(), 12, 0, 0));
        }
        world.interval(&rows);
        if id == 3 {
            assert_eq!(world.leave("gone"), Answer::Done);
        }
        if id % 5 == 0 {
            world.claim("b", u64::from(id / 5), 1_000_000);
            assert_eq!(rejection(&world.adjust("a", 7_000_000)), "done");
        }
    }
    world.assert_sound();
    world
}

#[test]
fn what_is_left_is_as_sound_as_the_whole_and_every_account_is_what_it_was() {
    let mut world = history();
    let before = query::members(&world.space, None, 100).expect("readable");
    let whole = world.verify();
    for through in 1..=20 {
        let outcome = world.outcome(Command::Trim { through: IntervalId(through), projected: false });
        assert_eq!(outcome.applied.answer, Answer::Done, "{through}");
        assert!(matches!(outcome.happenings[..], [Happening::HistoryTrimmed { .. }]));
        world.assert_sound();
        let rest = world.verify();
        assert_eq!((rest.head_hash, rest.interval_hash), (whole.head_hash, whole.interval_hash));
        assert_eq!(rest.intervals, 30 - through);
    }
    assert_eq!(query::members(&world.space, None, 100).expect("readable"), before);
    // Nothing of it is left, in any table.
    let forgotten = trimmed(&world.space).expect("readable").totals.records;
    assert!(forgotten > 0 && forgotten < world.record(21).last_seq);
    for table in [b'c', keys::HEAD_TABLE, keys::ROWS_TABLE, keys::JUDGEMENT_TABLE, keys::INTERVAL_TABLE] {
        let of = |key: &&Vec<u8>| key[0] == table;
        let oldest = world.space.rows.keys().find(of).expect("something is kept");
        assert_eq!(oldest[1..9], 21_u64.to_be_bytes(), "table {}", char::from(table));
    }
    assert!(query::reward(&world.space, forgotten).expect("readable").is_none());
    assert!(query::reward(&world.space, forgotten + 1).expect("readable").is_some());
    // And life goes on.
    world.interval(&[row("a", 12, 12, 900), row("b", 12, 0, 0), row("n1", 12, 12, 900)]);
    world.claim("b", 7, 1);
    world.assert_sound();
}

#[test]
fn questions_about_what_was_forgotten_have_answers() {
    let mut world = history();
    let first = world.record(1);
    for _ in 0..5 {
        trim(&mut world, 20, false);
    }
    let space = &world.space;
    let forgotten = trimmed(space).expect("readable");
    assert_eq!(forgotten.through, IntervalId(20));
    assert_eq!(query::interval(space, IntervalId(20)).expect("readable"), None);
    assert!(query::judgement(space, IntervalId(20), &member("a")).expect("readable").is_none());
    assert!(crate::ledger::explain::explain(space, IntervalId(3), &member("a")).expect("readable").is_none());
    let listed = query::intervals(space, IntervalId(0), 1, &IntervalFilter::default()).expect("readable");
    assert_eq!(listed[0].id, IntervalId(21));
    let early = RewardFilter { from: Some(UnixMillis(0)), limit: 1, ..RewardFilter::default() };
    let found = query::rewards(space, &early).expect("readable");
    assert_eq!(found[0].seq, forgotten.totals.records + 1);
    let until = RewardFilter { to: Some(first.settled_at), limit: 10, ..RewardFilter::default() };
    assert!(query::rewards(space, &until).expect("readable").is_empty());
    for name in ["a", "b", "gone", "n1"] {
        let own = RewardFilter { member: Some(member(name)), limit: 1_000, ..RewardFilter::default() };
        let found = query::rewards(space, &own).expect("readable");
        assert!(found.iter().all(|movement| movement.seq > forgotten.totals.records), "{name}");
        assert_eq!(found.is_empty(), name == "gone", "{name}");
    }
}

/// | asked for | answer |
/// |---|---|
/// | the last ten | bad request |
/// | 12 of 30, four at a time | done, done, done |
/// | what is forgotten | stale |
/// | beyond the projection | conflict, with and without the leader's word that there is one |
#[test]
fn only_what_is_old_and_projected_is_forgotten() {
    let mut world = history();
    assert_eq!(rejection(&trim(&mut world, 21, false)), "bad request");
    for _ in 0..3 {
        assert_eq!(trim(&mut world, 12, false), Answer::Done);
    }
    assert_eq!(trimmed(&world.space).expect("readable").through, IntervalId(12));
    assert_eq!(rejection(&trim(&mut world, 12, false)), "stale");
    assert_eq!(rejection(&trim(&mut world, 13, true)), "conflict", "nothing is projected");
    projected(&mut world, 14);
    for says in [true, false] {
        assert_eq!(rejection(&trim(&mut world, 15, says)), "conflict", "MongoDB lacks it");
    }
    assert_eq!(trim(&mut world, 14, true), Answer::Done);
    world.assert_sound();
}

/// A changed row is noticed, in what is left as in what stands for the rest.
#[test]
fn a_changed_row_is_noticed_after_something_was_forgotten() {
    let mut world = history();
    for _ in 0..3 {
        trim(&mut world, 12, false);
    }
    world.assert_sound();
    let sound = world.space.clone();
    let changed = |table: &[u8]| -> MemoryKeyspace {
        let mut space = sound.clone();
        let of = |(key, _): &(&Vec<u8>, &Vec<u8>)| key.starts_with(table);
        let (key, mut value) =
            sound.rows.iter().find(of).map(|(key, value)| (key.clone(), value.clone())).expect("a row");
        // The last byte; of what stands for the rest, the interval up to which it does.
        let at = if table == b"atrimmed" { 1 } else { value.len() - 1 };
        value[at] ^= 0x01;
        space.put(&key, &value).expect("memory does not fail");
        space
    };
    for table in [&b"r"[..], b"i", b"o", b"m", b"atotals", b"atrimmed", b"q"] {
        let report = verify(&changed(table), &mut |_, _| {});
        assert!(!report.ok, "{}", String::from_utf8_lossy(table));
    }
}
