//! A byte that changes anywhere in a small data directory is noticed, or is read by nobody; and what was damaged is set
//! aside on demand.

use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use super_node::ledger::keyspace::{Direction, Reader};
use super_node::node::ports::{LogStore as _, StateStore as _, StorageError};
use super_node::raft::Recovered;
use super_node::storage::DataDirectory;
use super_node::storage::directory::{Rejoin, condemn_state};
use super_node::types::NodeId;

use super::model::{base, entries, vote};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Memory if there is such a directory: thousands of trials should wait for no disk.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).expect("a temporary directory")
    } else {
        tempfile::tempdir().expect("a temporary directory")
    }
}

fn node() -> NodeId {
    "n1".parse().expect("a valid name")
}

/// Every row, as a scan sees it, and each looked up as well.
fn rows(reader: &dyn Reader, keys: &Rows) -> Result<Rows, String> {
    let mut found = Rows::new();
    let scan = reader.scan(Bound::Unbounded, Bound::Unbounded, Direction::Forward, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    scan.map_err(|error| error.to_string())?;
    let mut looked_up = Rows::new();
    for (key, _) in keys {
        if let Some(value) = reader.get(key).map_err(|error| error.to_string())? {
            looked_up.push((key.clone(), value));
        }
    }
    assert_eq!(found, looked_up, "a scan and lookups disagree");
    Ok(found)
}

/// A directory with votes, a truncation and a compaction in its log and a few dozen rows in its state; what they hold.
fn history(path: &Path) -> (Recovered, Vec<Rows>) {
    let mut directory = DataDirectory::open(path, &node(), "blue").unwrap();
    let mut log = directory.open_log().unwrap().log;
    for batch in [vote(1, "n1"), entries(1..=6, 1, 90), entries(5..=9, 2, 120), vote(3, "n2"), base(4, 1)] {
        log.append(&[batch]).unwrap();
    }
    let state = directory.open_state().unwrap();
    let mut wholes = vec![Rows::new()];
    for round in 0..3_u8 {
        let put = |number: u8| (format!("key{number:03}").into_bytes(), vec![b'a' + round; 60]);
        let now: Rows = (0..40).map(put).collect();
        state.update(&mut |space| now.iter().try_for_each(|(key, value)| space.put(key, value))).unwrap();
        state.flush().unwrap();
        wholes.push(now);
    }
    drop((log, state, directory));
    let recovered = DataDirectory::open(path, &node(), "blue").unwrap().open_log().unwrap().recovered;
    (recovered, wholes)
}

fn read_all(path: &Path, keys: &Rows) -> Result<(Recovered, Rows), String> {
    let told = |error: StorageError| match error {
        StorageError::Io { .. } => panic!("a changed byte is no error of the system: {error}"),
        other => other.to_string(),
    };
    let mut directory = DataDirectory::open(path, &node(), "blue").map_err(told)?;
    let recovered = directory.open_log().map_err(told)?.recovered;
    let state = directory.open_state().map_err(told)?;
    let view = state.view().map_err(|error| error.to_string())?;
    Ok((recovered, rows(view.as_ref(), keys)?))
}

/// Puts the files back as they were.
fn lay_out(path: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::write(path.join(name), bytes).unwrap();
    }
}

#[test]
fn no_changed_byte_of_a_whole_directory_is_read_as_other_content() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let (recovered, wholes) = history(&path);
    let keys = wholes.last().unwrap().clone();
    let names = ["identity.json", "log/000000000001.log", "state.redb"].map(PathBuf::from);
    let files: Vec<(PathBuf, Vec<u8>)> =
        names.iter().map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect();
    let (mut noticed, mut harmless) = (0, 0);
    // What redb asserts of its bookkeeping is caught, and need not be printed a thousand times.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for (name, bytes) in &files {
        // Every byte that says anything, and some of the zeros.
        let used: Vec<usize> =
            (0..bytes.len()).filter(|&at| bytes[at] != 0 || at < 64 || at % 16_384 == 7).collect();
        // The log alone is changed at every byte in `damage`, a snapshot file in `src/storage/snapshot.rs`; the nightly
        // run changes every byte here too.
        let every =
            name.ends_with("identity.json") || std::env::var_os("SUPER_NODE_TEST_EVERY_BYTE").is_some();
        let step = if every { 1 } else { used.len().div_ceil(400) };
        for &at in used.iter().step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            lay_out(&path, &files);
            fs::write(path.join(name), &changed).unwrap();
            match read_all(&path, &keys) {
                Ok((log, rows)) => {
                    // An earlier whole state is brought up by the log.
                    let right = log == recovered && wholes.contains(&rows);
                    if !right {
                        std::panic::set_hook(hook);
                        panic!("{} byte {at}: other content, {} rows", name.display(), rows.len());
                    }
                    harmless += 1;
                }
                Err(_) => noticed += 1,
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(noticed > 500, "{noticed} noticed, {harmless} harmless");
}

#[test]
fn a_log_is_given_up_with_its_state_and_the_directory_is_that_of_a_new_node() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let (recovered, wholes) = history(&path);
    let rejoin = Rejoin { urls: vec!["http://127.0.0.1:7400".to_string()], learner_only: true };
    let mut directory = DataDirectory::open(&path, &node(), "blue").unwrap();
    let before = directory.identity().clone();
    directory.plan_rejoin(rejoin.clone()).unwrap();
    drop(directory);
    // Only planned: everything is as it was, but for the plan; and that is guarded like the rest of the identity.
    let file = path.join("identity.json");
    let bytes = fs::read(&file).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        fs::write(&file, &changed).unwrap();
        if let Ok(directory) = DataDirectory::open(&path, &node(), "blue") {
            assert_eq!(directory.identity().rejoin, Some(rejoin.clone()), "byte {at}");
        }
    }
    fs::write(&file, &bytes).unwrap();
    let mut directory = DataDirectory::open(&path, &node(), "blue").unwrap();
    assert_eq!(directory.identity().incarnation, before.incarnation);
    assert_eq!(directory.open_log().unwrap().recovered, recovered);
    let aside = directory.begin_anew("a test says so").unwrap();
    assert_eq!(fs::read_to_string(aside.join("why.txt")).unwrap(), "a test says so\n");
    assert!(aside.join("log/000000000001.log").exists() && aside.join("state.redb").exists());
    drop(directory);
    let mut directory = DataDirectory::open(&path, &node(), "blue").unwrap();
    assert_ne!(directory.identity().incarnation, before.incarnation);
    assert_eq!(directory.identity().rejoin, Some(rejoin));
    assert_eq!(directory.open_log().unwrap().recovered, Recovered::default());
    let state = directory.open_state().unwrap();
    assert_eq!(rows(state.view().unwrap().as_ref(), wholes.last().unwrap()).unwrap(), Rows::new());
    directory.has_rejoined().unwrap();
    assert_eq!(directory.identity().rejoin, None);
}

#[test]
fn a_state_is_set_aside_with_the_reason_and_a_new_one_is_made() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let (recovered, wholes) = history(&path);
    condemn_state(&path, "a test says so").unwrap();
    let mut directory = DataDirectory::open(&path, &node(), "blue").unwrap();
    let incarnation = directory.identity().incarnation.clone();
    let error = directory.open_state().err().expect("it was condemned");
    assert!(matches!(error, StorageError::Damaged { .. }) && error.to_string().contains("a test says so"));
    let aside = directory.set_state_aside("a test says so").unwrap();
    assert_eq!(fs::read_to_string(aside.join("why.txt")).unwrap(), "a test says so\n");
    assert!(aside.join("state.redb").exists());
    let state = directory.open_state().unwrap();
    assert_eq!(rows(state.view().unwrap().as_ref(), wholes.last().unwrap()).unwrap(), Rows::new());
    drop((state, directory));
    // The log, the votes and the incarnation are what they were; and it can be done again.
    let mut directory = DataDirectory::open(&path, &node(), "blue").unwrap();
    assert_eq!(directory.identity().incarnation, incarnation);
    assert_eq!(directory.open_log().unwrap().recovered, recovered);
    drop(directory.open_state().unwrap());
    let second = directory.set_state_aside("again").unwrap();
    assert_ne!(second, aside);
    // A state that is missing altogether is no obstacle either.
    drop(directory.open_state().unwrap());
    fs::remove_file(path.join("state.redb")).unwrap();
    directory.set_state_aside("gone").unwrap();
    drop(directory.open_state().unwrap());
}
