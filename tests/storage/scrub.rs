//! Reading again finds what has changed on disk, in the log and in the state, and takes nothing healthy for damage.

use super_node::ledger::keyspace::{Direction, KeyspaceError, MemoryKeyspace, Reader};
use super_node::node::ports::{LogStore as _, StateStore as _, StorageError};
use super_node::storage::scrub::{check_rows, check_segment, closed_segments};
use super_node::storage::{Disk as _, Log, MemoryDisk, State, StateOptions};

use std::ops::{Bound, ControlFlow};

use super::model::{SALT, base, entries, open};

/// A log of 40 entries over several segments.
fn written() -> (MemoryDisk, Log<MemoryDisk>) {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    for index in 1..=40 {
        log.append(&[entries(index..=index, 1, 200)]).unwrap();
    }
    (disk, log)
}

#[test]
fn every_changed_byte_of_a_closed_segment_that_says_anything_is_found() {
    let (disk, _log) = written();
    let names = closed_segments(&disk).unwrap();
    assert!(names.len() > 2, "{names:?}");
    for name in &names {
        let length = disk.read(name).unwrap().len() as u64;
        assert_eq!(check_segment(&disk, SALT, name).unwrap(), Some(length));
    }
    let (name, content) = (&names[1], disk.read(&names[1]).unwrap());
    let mut found = 0;
    for (at, byte) in content.iter().enumerate() {
        let mut changed = disk.duplicate();
        changed.flip(name, at as u64, 0x10);
        match check_segment(&changed, SALT, name) {
            Err(StorageError::Damaged { path, .. }) => {
                assert!(path.contains(name.as_str()), "{path}");
                found += 1;
            }
            // Padding between records, and room that was never used.
            Ok(_) => assert!(*byte == 0 || *byte == 0xe5, "byte {at} changed unnoticed"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(found > 512, "{found}");
}

#[test]
fn a_segment_that_compaction_removed_is_no_damage() {
    let (disk, mut log) = written();
    let names = closed_segments(&disk).unwrap();
    log.append(&[base(40, 1)]).unwrap();
    assert_eq!(check_segment(&disk, SALT, &names[0]).unwrap(), None);
}

#[test]
fn rows_are_checked_in_steps_up_to_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let store = State::open(&directory.path().join("state"), &StateOptions::default()).unwrap();
    let put = |space: &mut dyn super_node::ledger::keyspace::Keyspace| {
        (0..100_u8).try_for_each(|number| space.put(&[number], &[number; 50]))
    };
    store.update(&mut |space| put(space)).unwrap();
    store.flush().unwrap();
    let (mut after, mut steps, mut bytes) = (None, 0, 0);
    loop {
        let checked = check_rows(store.view().unwrap().as_ref(), after.as_deref(), 500).unwrap();
        bytes += checked.bytes;
        let Some(last) = checked.last else { break };
        (after, steps) = (Some(last), steps + 1);
    }
    assert_eq!((steps, bytes), (10, 5_100), "100 rows of 51 bytes, ten at a time");
}

#[test]
fn changed_values_are_damage_to_whoever_reads_them_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let store = State::open(&path, &StateOptions::default()).unwrap();
    store
        .update(&mut |space| {
            space.put(b"good", b"0123456789")?;
            space.put(b"poor", b"abcdefghij")
        })
        .unwrap();
    store.flush().unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"abcdefghij")).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[*at] = b'A');
    std::fs::write(&path, &bytes).unwrap();
    let store = State::open(&path, &StateOptions { verify: false, ..StateOptions::default() }).unwrap();
    let view = store.view().unwrap();
    assert_eq!(view.get(b"good").unwrap(), Some(b"0123456789".to_vec()));
    let error = view.get(b"poor").unwrap_err();
    assert!(matches!(&error, KeyspaceError::Damaged { key, .. } if key == "poor"), "{error}");
    assert!(matches!(check_rows(view.as_ref(), None, 1 << 20), Err(KeyspaceError::Damaged { .. })));
}

/// A store in which one row is found by a scan and not by a lookup, as when a key in an inner page has changed.
struct Misled(MemoryKeyspace);

impl Reader for Misled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        if key == b"b" { Ok(None) } else { self.0.get(key) }
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        self.0.scan(from, to, direction, visit)
    }
}

#[test]
fn a_row_that_lookups_miss_is_found() {
    use super_node::ledger::keyspace::Keyspace as _;
    let mut rows = MemoryKeyspace::default();
    for key in [b"a", b"b", b"c"] {
        rows.put(key, b"1").unwrap();
    }
    assert_eq!(check_rows(&rows, None, 100).unwrap().bytes, 6);
    let error = check_rows(&Misled(rows), None, 100).unwrap_err();
    assert!(matches!(&error, KeyspaceError::Damaged { key, .. } if key == "b"), "{error}");
}
