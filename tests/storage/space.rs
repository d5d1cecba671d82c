//! The log takes no more room than the rule in docs/storage.md says, however many entries pass through it.

use super_node::node::ports::LogStore as _;
use super_node::raft::{Base, Entry, Payload, Persist};
use super_node::storage::{Log, LogOptions, RealDisk};
use super_node::types::{Index, Term};

/// One batch of small entries.
fn batch(first: u64, count: u64, bytes: usize) -> Persist {
    let entry = |index| Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Command(bytes::Bytes::from(vec![7; bytes])),
    };
    Persist { seq: first, hard_state: None, base: None, entries: (first..first + count).map(entry).collect() }
}

fn on_disk(path: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(path).expect("the log's directory").flatten();
    files.map(|file| file.metadata().map_or(0, |file| file.len())).sum()
}

/// A million in the suite; `scripts/ten-million.sh` takes ten.
///
/// The rule: entries that are kept, each at most 32 bytes longer than its command, plus two segments.
#[test]
fn however_many_entries_pass_through_the_log_takes_no_more_room_than_those_that_are_kept() {
    let total = std::env::var("SUPER_NODE_TEST_ENTRIES").ok().and_then(|text| text.parse().ok());
    let total: u64 = total.unwrap_or(1_000_000);
    const BATCH: u64 = 10_000;
    const KEPT: u64 = 20_000;
    const COMMAND_BYTES: usize = 16;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = LogOptions::default();
    // A node compacts in steps of what it keeps.
    let bound = (2 * KEPT + BATCH) * (COMMAND_BYTES as u64 + 32) + 2 * options.segment_bytes;
    let open = || {
        let disk = RealDisk::open(directory.path()).expect("the directory opens");
        Log::open(disk, options.clone()).expect("the log opens")
    };
    let mut log = open().log;
    let mut most = 0;
    for first in (1..=total).step_by(usize::try_from(BATCH).expect("small")) {
        let mut next = batch(first, BATCH, COMMAND_BYTES);
        let before = first - 1;
        if before > KEPT && before.is_multiple_of(KEPT) {
            next.base = Some(Base { index: Index(before - KEPT), term: Term(1) });
        }
        log.append(&[next]).expect("the disk takes it");
        most = most.max(on_disk(directory.path()));
    }
    assert!(most <= bound, "{most} bytes on disk, the rule allows {bound}");
    drop(log);
    // What is read at the start is what is left, not what was.
    let begun = std::time::Instant::now();
    let opened = open();
    println!("{total} entries: at most {most} bytes on disk, opened again in {:?}", begun.elapsed());
    assert_eq!(opened.recovered.last(), Index(total));
    assert!(opened.recovered.entries.len() as u64 <= 2 * KEPT + BATCH, "{}", opened.recovered.entries.len());
}
