//! How far receivers were told only moves forward, never beyond the ledger, and for a bounded number of them.

use crate::ledger::command::{Answer, Command};
use crate::ledger::query;
use crate::ledger::webhooks::{HOOKS_MAX, HookCursor, newest};
use crate::types::{IntervalId, Term};

use super::{World, rejection, row};

fn notified(world: &mut World, hook: &str, cursor: HookCursor) -> Answer {
    world.run(Command::Notified { hook: hook.to_string(), cursor })
}

fn at(elections: u64, intervals: u64, rewards: u64) -> HookCursor {
    HookCursor { elections: Term(elections), intervals: IntervalId(intervals), rewards }
}

#[test]
fn a_cursor_moves_forward_only_and_not_beyond_the_ledger() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a"], Default::default());
    for _ in 0..3 {
        let rows: Vec<_> = ["a", "n1", "n2", "n3"].map(|name| row(name, 12, 12, 900)).into();
        world.interval(&rows);
    }
    let end = newest(&world.space).expect("readable");
    assert_eq!((end.intervals, end.elections), (IntervalId(3), Term(0)));
    assert!(end.rewards > 2);
    assert_eq!(notified(&mut world, "pager", at(0, 2, 2)), Answer::Done);
    // What comes late changes nothing; each field is looked at by itself.
    assert_eq!(notified(&mut world, "pager", at(0, 1, 3)), Answer::Done);
    let known = |world: &World| query::webhooks(&world.space).expect("readable")["pager"].cursor;
    assert_eq!(known(&world), at(0, 2, 3));
    for beyond in [at(0, 4, 0), at(1, 0, 0), at(0, 0, end.rewards + 1)] {
        let answer = notified(&mut world, "pager", beyond);
        assert_eq!(rejection(&answer), "bad request", "{answer:?}");
    }
    assert_eq!(known(&world), at(0, 2, 3));
    for name in ["", "a b", "ä", &"x".repeat(65)] {
        assert!(matches!(notified(&mut world, name, at(0, 0, 0)), Answer::Rejected(_)), "{name}");
    }
    world.assert_sound();
}

#[test]
fn the_hook_that_was_not_told_for_the_longest_makes_room() {
    let mut world = World::standard();
    for number in 0..HOOKS_MAX {
        notified(&mut world, &format!("hook{number}"), at(0, 0, 0));
    }
    notified(&mut world, "hook0", at(0, 0, 0));
    notified(&mut world, "new", at(0, 0, 0));
    let hooks = query::webhooks(&world.space).expect("readable");
    assert_eq!(hooks.len(), HOOKS_MAX);
    assert!(hooks.contains_key("hook0") && hooks.contains_key("new") && !hooks.contains_key("hook1"));
}
