//! The shared dictionary and the addition.

use super::*;
use crate::ledger::command::{KV_BATCH_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, KvOperation};

fn put(key: &str, value: &str, if_revision: Option<u64>) -> Command {
    Command::KvPut { key: key.to_string(), value: value.to_string(), if_revision }
}

fn delete(key: &str, if_revision: Option<u64>) -> Command {
    Command::KvDelete { key: key.to_string(), if_revision }
}

fn get(world: &World, key: &str) -> Option<(String, u64)> {
    query::kv_get(&world.space, key).expect("readable").map(|entry| (entry.value, entry.revision))
}

#[test]
fn revisions_count_writes_and_guard_them() {
    let mut world = World::empty();
    // (command, revision afterwards, or what it is rejected as)
    let story: Vec<(Command, Result<u64, &str>)> = vec![
        (put("a", "1", None), Ok(1)),
        (put("a", "2", Some(0)), Err("conflict")),
        (put("a", "2", Some(2)), Err("conflict")),
        (put("a", "2", Some(1)), Ok(2)),
        (put("b", "{\"x\":[1,null]}", Some(0)), Ok(3)),
        (delete("a", Some(1)), Err("conflict")),
        (delete("a", Some(2)), Ok(4)),
        (delete("a", None), Err("not found")),
        (delete("a", Some(0)), Err("not found")),
        (delete("a", Some(2)), Err("conflict")),
        (delete("b", None), Ok(5)),
        (put("a", "3", Some(0)), Ok(6)),
    ];
    for (command, expected) in story {
        let before = query::kv_revision(&world.space).expect("readable");
        let answer = world.run(command.clone());
        match expected {
            Ok(revision) => assert_eq!(answer, Answer::Kv { revision }, "{command:?}"),
            Err(why) => {
                assert_eq!(rejection(&answer), why, "{command:?}");
                assert_eq!(query::kv_revision(&world.space).expect("readable"), before);
            }
        }
    }
    assert_eq!(get(&world, "a"), Some(("3".to_string(), 6)));
    assert_eq!(get(&world, "b"), None);
}

#[test]
fn keys_and_values_are_bounded_and_values_are_json() {
    let mut world = World::empty();
    let longest = format!("\"{}\"", "x".repeat(KV_VALUE_BYTES_MAX - 2));
    for (key, value) in [("k".repeat(KV_KEY_BYTES_MAX), "1"), ("ä".to_string(), longest.as_str())] {
        assert!(matches!(world.run(put(&key, value, None)), Answer::Kv { .. }));
    }
    let too_long = format!("\"{}\"", "x".repeat(KV_VALUE_BYTES_MAX - 1));
    let too_deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for (key, value) in [
        ("", "1"),
        (&*"k".repeat(KV_KEY_BYTES_MAX + 1), "1"),
        ("k", ""),
        ("k", "text"),
        ("k", "1 2"),
        ("k", "1e999"),
        ("k", &*too_long),
        ("k", &*too_deep),
    ] {
        assert_eq!(rejection(&world.run(put(key, value, None))), "bad request");
    }
}

#[test]
fn a_batch_is_all_or_nothing_and_one_revision() {
    let mut world = World::empty();
    let put = |key: &str, value: &str| KvOperation::Put { key: key.to_string(), value: value.to_string() };
    let delete = |key: &str| KvOperation::Delete { key: key.to_string() };
    let bad = vec![put("a", "1"), put("b", "not json")];
    assert_eq!(rejection(&world.run(Command::KvBatch { operations: bad })), "bad request");
    assert_eq!(get(&world, "a"), None);
    let good = vec![put("a", "1"), put("b", "2"), delete("a"), delete("absent"), put("c", "3")];
    let outcome = world.outcome(Command::KvBatch { operations: good });
    assert_eq!(outcome.applied.answer, Answer::Kv { revision: 1 });
    assert_eq!(outcome.happenings.len(), 4, "an absent key is no change");
    assert_eq!((get(&world, "a"), get(&world, "b")), (None, Some(("2".to_string(), 1))));
    let many = vec![delete("a"); KV_BATCH_MAX + 1];
    for operations in [Vec::new(), many] {
        assert_eq!(rejection(&world.run(Command::KvBatch { operations })), "bad request");
    }
    let large = vec![put("k", &format!("\"{}\"", "x".repeat(1_000_000))); 9];
    assert_eq!(rejection(&world.run(Command::KvBatch { operations: large })), "bad request");
}

#[test]
fn lists_are_ordered_and_paged() {
    let mut world = World::empty();
    for key in ["b/2", "b/1", "a", "b/10", "c", "b"] {
        world.run(put(key, "0", None));
    }
    let list = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        let entries = query::kv_list(&world.space, prefix, after, limit).expect("readable");
        entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(list("", None, 100), ["a", "b", "b/1", "b/10", "b/2", "c"]);
    assert_eq!(list("b/", None, 2), ["b/1", "b/10"]);
    assert_eq!(list("b/", Some("b/10"), 2), ["b/2"]);
    assert_eq!(list("b/", Some("a"), 1), ["b/1"], "a cursor before the prefix");
    assert!(
        list("b/", Some("z"), 9).is_empty() && list("x", None, 9).is_empty() && list("", None, 0).is_empty()
    );
}

#[test]
fn addition_does_not_wrap() {
    let mut world = World::empty();
    for (a, b, result) in [(5, 3, Some(8)), (i64::MAX, 0, Some(i64::MAX)), (i64::MIN, i64::MAX, Some(-1))] {
        assert_eq!(world.run(Command::Add { a, b }), Answer::Sum { result: result.expect("given") });
    }
    for (a, b) in [(i64::MAX, 1), (i64::MIN, -1)] {
        assert_eq!(rejection(&world.run(Command::Add { a, b })), "bad request");
    }
}
