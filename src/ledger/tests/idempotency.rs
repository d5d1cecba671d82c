//! A retry gets the first answer; nothing is executed twice.

use super::*;
use crate::ledger::apply::apply_within;
use crate::ledger::idempotency::{REMEMBERED_MAX, REMEMBERED_MS};
use crate::ledger::keys;
use crate::ledger::limits::Limits;

fn put(value: &str) -> Command {
    Command::KvPut { key: "k".to_string(), value: value.to_string(), if_revision: None }
}

#[test]
fn a_retry_returns_the_first_answer_and_changes_nothing() {
    let mut world = World::empty();
    let first = world.keyed("once", put("1"));
    assert_eq!(first.applied.index, Index(1));
    let after = world.space.clone();
    world.term = 2;
    let retry = world.keyed("once", put("1"));
    assert_eq!((retry.applied, retry.happenings), (first.applied, vec![]));
    assert_eq!(world.space, after);
    let other = world.keyed("once", put("2"));
    assert_eq!(rejection(&other.applied.answer), "conflict");
    assert_eq!(world.space, after);
    assert_eq!(world.keyed("twice", put("2")).applied.answer, Answer::Kv { revision: 2 });
}

#[test]
fn a_rejection_is_an_answer_too() {
    let mut world = World::empty();
    let only_if_absent =
        Command::KvPut { key: "k".to_string(), value: "1".to_string(), if_revision: Some(7) };
    let first = world.keyed("key", only_if_absent.clone());
    assert_eq!(rejection(&first.applied.answer), "conflict");
    assert_eq!(world.keyed("key", only_if_absent).applied, first.applied);
}

#[test]
fn keys_are_bounded() {
    let mut world = World::empty();
    for key in ["", "line\n", "ä", &"x".repeat(129)] {
        assert_eq!(rejection(&world.keyed(key, put("1")).applied.answer), "bad request");
    }
    assert_eq!(query::kv_revision(&world.space), Ok(0));
    assert!(matches!(world.keyed(&"x".repeat(128), put("1")).applied.answer, Answer::Kv { .. }));
}

#[test]
fn answers_are_forgotten_after_an_hour_of_log_time() {
    let mut world = World::empty();
    world.keyed("a", put("1"));
    world.at += REMEMBERED_MS - 1;
    assert_eq!(world.keyed("a", put("1")).applied.index, Index(1), "still known");
    world.keyed("b", put("2"));
    world.at += 1;
    assert_eq!(world.keyed("a", put("1")).applied.answer, Answer::Kv { revision: 3 }, "forgotten, so new");
    world.at += REMEMBERED_MS;
    world.keyed("c", put("3"));
    let remembered = |prefix| world.space.rows.keys().filter(|key| key[0] == prefix).count();
    assert_eq!(
        (remembered(keys::ANSWER_TABLE), remembered(keys::ANSWER_AGE_TABLE)),
        (1, 1),
        "the rest is gone"
    );
}

/// | key | its answer | is it known? | executed? |
/// |---|---|---|---|
/// | plain | forgotten | no | again |
/// | says since when, and that is before what is remembered begins | perhaps forgotten | no | refused |
/// | says since when, and all since then is remembered | never given | no | yes |
#[test]
fn a_key_that_says_since_when_it_can_have_been_used_is_never_executed_twice() {
    let limits = Limits { answers: 3, ..Limits::REAL };
    let mut world = World::empty();
    let mut keyed = |key: &str| {
        let mut envelope = world.envelope(put(&format!("{key:?}")));
        envelope.request.once = Once::Key(key.to_string());
        world.index += 1;
        let (index, term) = (Index(world.index), Term(world.term));
        let outcome = apply_within(&mut world.space, index, term, &envelope, limits);
        outcome.expect("memory does not fail").applied
    };
    let done = |applied: &Applied| rejection(&applied.answer) == "done";
    assert!(done(&keyed("@0:first")) && done(&keyed("plain")) && done(&keyed("@1:second")));
    assert!(done(&keyed("@0:fourth")), "nothing was forgotten when it came");
    // Now 2 to 4 are remembered.
    assert_eq!(rejection(&keyed("@0:first").answer), "key expired");
    assert_eq!(rejection(&keyed("@0:never heard of").answer), "key expired");
    assert_eq!(keyed("@1:second").index, Index(3), "it is remembered");
    assert!(done(&keyed("@1:new")), "the answer at 1 was not given after 1");
    assert!(done(&keyed("@7:newer")) && done(&keyed("@8:newest")));
    assert_eq!(keyed("plain").index, Index(11), "of no such form: taken for a new one");
    for plain in ["@x:a", "@5", "@:a", "5:a", "@-1:a"] {
        assert!(done(&keyed(plain)), "{plain}");
    }
}

#[test]
fn answers_are_bounded_in_number() {
    let mut world = World::empty();
    for i in 0..REMEMBERED_MAX + 3 {
        world.keyed(&format!("key-{i}"), Command::Add { a: 1, b: 1 });
    }
    let remembered = world.space.rows.keys().filter(|key| key[0] == keys::ANSWER_TABLE).count();
    assert_eq!(remembered as u64, REMEMBERED_MAX);
    let again = world.keyed("key-2", Command::Add { a: 1, b: 1 });
    assert_eq!(again.applied.index, Index(world.index), "the oldest went first");
    let kept = world.keyed("key-4", Command::Add { a: 1, b: 1 });
    assert_eq!(kept.applied.index, Index(5));
}
