//! Both state stores keep the same promises.

use std::ops::{Bound, ControlFlow};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use super_node::ledger::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super_node::node::ports::{StateStore, StorageError};
use super_node::storage::{MemoryState, State, StateOptions};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(reader: &dyn Reader, from: Bound<&[u8]>, to: Bound<&[u8]>, direction: Direction) -> Vec<String> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)));
        ControlFlow::Continue(())
    };
    reader.scan(from, to, direction, &mut visit).unwrap();
    found
}

fn all(store: &dyn StateStore) -> Vec<String> {
    rows(&*store.view().unwrap(), Bound::Unbounded, Bound::Unbounded, Direction::Forward)
}

fn put(store: &dyn StateStore, key: &str, value: &str) {
    store.update(&mut |rows| rows.put(key.as_bytes(), value.as_bytes())).unwrap();
}

fn on_both(check: impl Fn(&dyn StateStore)) {
    check(&MemoryState::new());
    let directory = tempfile::tempdir().unwrap();
    check(&State::open(&directory.path().join("state"), &StateOptions::default()).unwrap());
}

#[test]
fn views_do_not_change_and_a_failed_update_leaves_nothing() {
    on_both(|store| {
        put(store, "a", "1");
        put(store, "b", "1");
        let view = store.view().unwrap();
        let stop = KeyspaceError::Store("stop".to_string());
        let error = store.update(&mut |rows| {
            rows.put(b"a", b"2")?;
            rows.delete(b"b")?;
            rows.put(b"c", b"2")?;
            assert_eq!(rows.get(b"a")?, Some(b"2".to_vec()), "reads see the transaction's own writes");
            assert_eq!(rows.get(b"b")?, None);
            Err(KeyspaceError::Store("stop".to_string()))
        });
        assert_eq!(error, Err(stop));
        assert_eq!(all(store), ["a=1", "b=1"]);
        store.update(&mut |rows| rows.delete(b"a").and_then(|()| rows.delete(b"absent"))).unwrap();
        assert_eq!(all(store), ["b=1"]);
        assert_eq!(rows(&*view, Bound::Unbounded, Bound::Unbounded, Direction::Forward), ["a=1", "b=1"]);
        assert_eq!(view.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert!(store.bytes() > 0);
    });
}

#[test]
fn scans_keep_to_their_bounds_in_both_directions() {
    on_both(|store| {
        for key in ["a", "b", "c", "d"] {
            put(store, key, "");
        }
        let view = store.view().unwrap();
        use Bound::{Excluded, Included, Unbounded};
        type Row<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>, &'a [&'a str]);
        let table: [Row<'_>; 7] = [
            (Unbounded, Unbounded, &["a=", "b=", "c=", "d="]),
            (Included(b"b"), Excluded(b"d"), &["b=", "c="]),
            (Excluded(b"b"), Included(b"d"), &["c=", "d="]),
            (Included(b"c"), Included(b"c"), &["c="]),
            (Included(b"c"), Excluded(b"c"), &[]),
            (Excluded(b"c"), Excluded(b"c"), &[]),
            (Included(b"d"), Included(b"a"), &[]),
        ];
        for (from, to, expected) in table {
            assert_eq!(rows(&*view, from, to, Direction::Forward), expected, "{from:?} {to:?}");
            let mut backward = rows(&*view, from, to, Direction::Backward);
            backward.reverse();
            assert_eq!(backward, expected, "{from:?} {to:?} backward");
        }
        let mut first = None;
        view.scan(Unbounded, Unbounded, Direction::Backward, &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(first, Some(b"d".to_vec()));
    });
}

#[test]
fn a_replacement_replaces_everything_and_old_views_stay() {
    on_both(|store| {
        put(store, "a", "1");
        let view = store.view().unwrap();
        let fresh: Rows = vec![(b"x".to_vec(), b"9".to_vec()), (b"y".to_vec(), b"9".to_vec())];
        store.replace(&mut fresh.into_iter().map(Ok)).unwrap();
        assert_eq!(all(store), ["x=9", "y=9"]);
        assert_eq!(view.get(b"a").unwrap(), Some(b"1".to_vec()));
        put(store, "z", "9");
        assert_eq!(all(store), ["x=9", "y=9", "z=9"]);
        store.replace(&mut std::iter::empty()).unwrap();
        assert_eq!(all(store), Vec::<String>::new());
    });
}

#[test]
fn a_view_can_move_to_another_thread() {
    on_both(|store| {
        put(store, "a", "1");
        let view = store.view().unwrap();
        let read = std::thread::spawn(move || view.get(b"a").unwrap()).join().unwrap();
        assert_eq!(read, Some(b"1".to_vec()));
    });
}

#[test]
fn the_memory_store_forgets_what_was_not_flushed_in_whole_transactions() {
    let mut seen = std::collections::BTreeSet::new();
    for entropy in 0..12 {
        let store = MemoryState::new();
        put(&store, "a", "1");
        store.flush().unwrap();
        let bytes = store.bytes();
        for value in ["2", "3", "4"] {
            store
                .update(&mut |rows| {
                    rows.put(b"a", value.as_bytes()).and_then(|()| rows.put(b"b", value.as_bytes()))
                })
                .unwrap();
        }
        store.crash(entropy);
        let found = all(&store);
        if found == ["a=1"] {
            assert_eq!(store.bytes(), bytes);
        }
        seen.insert(found);
    }
    let expected = [vec!["a=1"], vec!["a=2", "b=2"], vec!["a=3", "b=3"], vec!["a=4", "b=4"]];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_planned_failure_of_the_memory_store_fails_every_call() {
    let store = MemoryState::new();
    put(&store, "a", "1");
    store.flush().unwrap();
    store.fail();
    assert!(store.view().is_err() && store.flush().is_err());
    assert!(store.update(&mut |_| Ok(())).is_err() && store.replace(&mut std::iter::empty()).is_err());
    store.crash(0);
    assert_eq!(all(&store), ["a=1"]);
}

#[test]
fn a_store_in_use_a_missing_store_and_rubbish_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let keep = StateOptions { create: false, ..StateOptions::default() };
    assert!(matches!(State::open(&path, &keep), Err(StorageError::Damaged { .. })));
    let store = State::open(&path, &StateOptions::default()).unwrap();
    let second = State::open(&path, &StateOptions::default()).err().expect("refused");
    assert!(matches!(&second, StorageError::Refused(text) if text.contains("in use")), "{second}");
    drop(store);
    drop(State::open(&path, &keep).unwrap());
    let length = std::fs::metadata(&path).unwrap().len();
    for rubbish in [vec![7; 100], vec![7; 100_000], vec![0; usize::try_from(length).unwrap()]] {
        std::fs::write(&path, rubbish).unwrap();
        let error = State::open(&path, &keep).err().expect("damage");
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    }
}

/// Bytes are changed in a file that was closed in order and in one that was not. Opening never panics; a verified file
/// holds what it held, or an earlier whole transaction.
#[test]
fn changed_bytes_of_a_state_file_are_noticed_when_it_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let options = StateOptions { verify: true, ..StateOptions::default() };
    let store = State::open(&path, &options).unwrap();
    let mut wholes = vec![all(&store)];
    for round in 0..3 {
        for key in 0..20 {
            put(&store, &format!("{key:02}"), &format!("{round}{}", "x".repeat(40)));
            wholes.push(all(&store));
        }
        store.flush().unwrap();
    }
    let unclean = std::fs::read(&path).unwrap();
    drop(store);
    let clean = std::fs::read(&path).unwrap();
    let values: Vec<u8> = clean.iter().map(|&byte| if byte == b'x' { b'y' } else { byte }).collect();
    std::fs::write(&path, &values).unwrap();
    let error = State::open(&path, &options).err().expect("every value has changed");
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    let mut noticed = 0;
    for bytes in [clean, unclean] {
        let used: Vec<usize> = (0..bytes.len()).filter(|&at| at < 320 || bytes[at] != 0).collect();
        for &at in used.iter().step_by(used.len() / 100) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            std::fs::write(&path, &changed).unwrap();
            match State::open(&path, &options) {
                Ok(store) => assert!(wholes.contains(&all(&store)), "byte {at} is read as other content"),
                Err(StorageError::Io { action, path, source }) => {
                    panic!("byte {at}: {action} {path}: {source}")
                }
                Err(_) => noticed += 1,
            }
        }
    }
    assert!(noticed > 0);
}

/// What may happen to a store. Keys are few, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Update(Vec<(u8, Option<u8>)>),
    FailingUpdate(Vec<(u8, Option<u8>)>),
    Flush,
    Replace(Vec<u8>),
    Look,
    Forget(usize),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes =
        || proptest::collection::vec((0_u8..12, proptest::option::weighted(0.7, any::<u8>())), 0..6);
    let step = prop_oneof![
        6 => changes().prop_map(Step::Update),
        1 => changes().prop_map(Step::FailingUpdate),
        2 => Just(Step::Flush),
        1 => proptest::collection::vec(0_u8..12, 0..6).prop_map(Step::Replace),
        3 => Just(Step::Look),
        2 => any::<usize>().prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 0..40)
}

type Model = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

fn apply(rows: &mut dyn Keyspace, changes: &[(u8, Option<u8>)]) -> Result<(), KeyspaceError> {
    for (key, value) in changes {
        match value {
            Some(value) => rows.put(&[*key], &[*value])?,
            None => rows.delete(&[*key])?,
        }
    }
    Ok(())
}

fn check(reader: &dyn Reader, model: &Model, bounds: (u8, u8)) -> Result<(), TestCaseError> {
    for key in 0..12 {
        prop_assert_eq!(reader.get(&[key]).unwrap(), model.get(&vec![key]).cloned());
    }
    let (low, high) = ([bounds.0], [bounds.1]);
    for direction in [Direction::Forward, Direction::Backward] {
        let (from, to) = (Bound::Excluded(&low[..]), Bound::Included(&high[..]));
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        reader.scan(from, to, direction, &mut visit).unwrap();
        let within = model.iter().filter(|(key, _)| key[0] > bounds.0 && key[0] <= bounds.1);
        let mut expected: Rows = within.map(|(key, value)| (key.clone(), value.clone())).collect();
        if direction == Direction::Backward {
            expected.reverse();
        }
        prop_assert_eq!(found, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Rows in memory, rows on their way into the file and rows in it read as one map, from every view.
    #[test]
    fn the_store_agrees_with_a_plain_map(steps in steps(), low in 0_u8..12, high in 0_u8..12) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut store = State::open(&path, &StateOptions::default()).unwrap();
        let (mut model, mut flushed) = (Model::new(), Model::new());
        let mut views: Vec<(Box<dyn Reader + Send>, Model)> = Vec::new();
        for step in steps {
            match step {
                Step::Update(changes) => {
                    store.update(&mut |rows| {
                        apply(rows, &changes)?;
                        let mut seen = model.clone();
                        for (key, value) in &changes {
                            match value {
                                Some(value) => drop(seen.insert(vec![*key], vec![*value])),
                                None => drop(seen.remove(&vec![*key])),
                            }
                        }
                        check(rows, &seen, (low, high)).map_err(|error| KeyspaceError::Store(error.to_string()))
                    }).map_err(|error| TestCaseError::fail(error.to_string()))?;
                    for (key, value) in changes {
                        match value {
                            Some(value) => drop(model.insert(vec![key], vec![value])),
                            None => drop(model.remove(&vec![key])),
                        }
                    }
                }
                Step::FailingUpdate(changes) => {
                    let stop = KeyspaceError::Store("stop".to_string());
                    let result = store.update(&mut |rows| apply(rows, &changes).and(Err(stop.clone())));
                    prop_assert_eq!(result, Err(KeyspaceError::Store("stop".to_string())));
                }
                Step::Flush => {
                    store.flush().unwrap();
                    flushed = model.clone();
                }
                Step::Replace(keys) => {
                    model = keys.into_iter().map(|key| (vec![key], vec![key])).collect();
                    store.replace(&mut model.clone().into_iter().map(Ok)).unwrap();
                    flushed = model.clone();
                }
                Step::Look => views.push((store.view().unwrap(), model.clone())),
                Step::Forget(which) if !views.is_empty() => drop(views.remove(which % views.len())),
                Step::Forget(_) => {}
                Step::Reopen => {
                    views.clear();
                    drop(store);
                    store = State::open(&path, &StateOptions::default()).unwrap();
                    model = flushed.clone();
                }
            }
            check(&*store.view().unwrap(), &model, (low, high))?;
            for (view, model) in &views {
                check(&**view, model, (low, high))?;
            }
        }
    }
}

#[test]
fn a_flush_while_others_write_and_read_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store =
        std::sync::Arc::new(State::open(&directory.path().join("state"), &StateOptions::default()).unwrap());
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flusher = {
        let (store, done) = (store.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.flush().unwrap();
            }
        })
    };
    for number in 0_u32..400 {
        store
            .update(&mut |rows| {
                rows.put(b"count", &number.to_be_bytes())?;
                rows.put(&[b"n", &number.to_be_bytes()[..]].concat(), b"")
            })
            .unwrap();
        let view = store.view().unwrap();
        assert_eq!(view.get(b"count").unwrap(), Some(number.to_be_bytes().to_vec()));
        let counted = rows(&*view, Bound::Included(b"n"), Bound::Excluded(b"o"), Direction::Forward).len();
        assert_eq!(counted, number as usize + 1, "each write left its key");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    flusher.join().unwrap();
}
