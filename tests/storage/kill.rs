//! A process that is killed loses nothing that it was told is durable. The test starts itself as that process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::process::{Command, Stdio};

use super_node::ledger::keyspace::Direction;
use super_node::node::ports::{LogStore as _, StateStore as _};
use super_node::storage::DataDirectory;

use super::model::entries;

/// Names the data directory to the process that is to be killed.
const CHILD: &str = "SUPER_NODE_TEST_KILL_DIRECTORY";
/// The parent kills once it has read so many acknowledgements.
const ACKNOWLEDGED: u64 = 60;

fn open(path: &Path) -> DataDirectory {
    DataDirectory::open(path, &"n1".parse().unwrap(), "blue").unwrap()
}

/// Writes until killed: each entry to the log, then as one transaction of two rows to the state; flushes the state now
/// and then. Says what is durable on standard output.
fn write_until_killed(path: &Path) {
    let mut directory = open(path);
    let mut log = directory.open_log().unwrap().log;
    let state = directory.open_state().unwrap();
    let mut out = std::io::stdout();
    for index in 1.. {
        log.append(&[entries(index..=index, 1, 500)]).unwrap();
        state
            .update(&mut |rows| {
                rows.put(b"applied", &index.to_be_bytes())?;
                rows.put(&[b"row".as_slice(), &index.to_be_bytes()].concat(), &[1; 300])
            })
            .unwrap();
        let flushed = index % 10 == 0;
        if flushed {
            state.flush().unwrap();
        }
        writeln!(out, "ack {index} {flushed}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_keeps_its_log_and_a_whole_earlier_state() {
    if let Ok(path) = std::env::var(CHILD) {
        return write_until_killed(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let name = "storage::kill::a_killed_process_keeps_its_log_and_a_whole_earlier_state";
    for round in 1..=2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, directory.path().join(round.to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut acknowledged, mut flushed) = (0_u64, 0_u64);
        for line in lines {
            let line = line.unwrap();
            let Some((_, ack)) = line.split_once("ack ") else { continue };
            let (index, is_flushed) = ack.split_once(' ').expect("two words");
            acknowledged = index.parse().unwrap();
            if is_flushed == "true" {
                flushed = acknowledged;
            }
            if acknowledged == ACKNOWLEDGED + round * 7 {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        check(&directory.path().join(round.to_string()), acknowledged, flushed);
    }
}

fn check(path: &Path, acknowledged: u64, flushed: u64) {
    assert!(acknowledged > ACKNOWLEDGED && flushed > 0, "{acknowledged} acknowledged, {flushed} flushed");
    let mut directory = open(path);
    let recovered = directory.open_log().unwrap().recovered;
    assert!(recovered.entries.len() as u64 >= acknowledged);
    assert_eq!(recovered.entries, entries(1..=recovered.entries.len() as u64, 1, 500).entries);
    let view = directory.open_state().unwrap().view().unwrap();
    let applied = view.get(b"applied").unwrap().expect("flushed at least once");
    let applied = u64::from_be_bytes(applied.try_into().unwrap());
    let mut found = Vec::new();
    view.scan(Bound::Included(b"row"), Bound::Unbounded, Direction::Forward, &mut |key, _| {
        found.push(u64::from_be_bytes(key[3..].try_into().unwrap()));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(found, (1..=applied).collect::<Vec<_>>(), "rows and counter are of one transaction");
    assert!(applied >= flushed && applied <= recovered.entries.len() as u64);
}
