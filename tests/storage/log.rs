//! A log reads back what was acknowledged, in every order of appends, truncations and compactions.

use super_node::node::ports::{LogStore as _, OpenedLog, StorageError};
use super_node::raft::{Persist, Recovered};
use super_node::storage::{Disk as _, Log, LogOptions, MemoryDisk, RealDisk, inspect};
use super_node::types::Index;

use super::model::{Model, base, entries, open, small, try_open, vote};

fn model(batches: &[Persist]) -> Recovered {
    let mut model = Model::default();
    batches.iter().for_each(|batch| model.apply(batch));
    model.0
}

#[test]
fn a_new_log_is_empty_and_stays_so() {
    let disk = MemoryDisk::new();
    assert_eq!(open(&disk).recovered, Recovered::default());
    assert_eq!(open(&disk).recovered, Recovered::default());
}

#[test]
fn batches_of_one_call_are_one_sync_and_come_back() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    let before = disk.syncs();
    let batches = [vote(3, "n2"), entries(1..=4, 3, 20), vote(4, "n1"), entries(3..=5, 4, 20)];
    log.append(&batches).unwrap();
    assert_eq!(disk.syncs(), before + 1);
    drop(log);
    let opened = open(&disk);
    assert_eq!(opened.recovered, model(&batches));
    assert_eq!(opened.notes, Vec::<String>::new());
}

#[test]
fn an_append_of_nothing_touches_nothing() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    let before = disk.syncs();
    log.append(&[]).unwrap();
    log.append(&[Persist { seq: 1, hard_state: None, base: None, entries: Vec::new() }]).unwrap();
    assert_eq!(disk.syncs(), before);
}

#[test]
fn a_truncated_suffix_stays_gone_over_crashes_and_segments() {
    let mut disk = MemoryDisk::new();
    let batches =
        [entries(1..=9, 1, 300), entries(4..=4, 2, 10), entries(5..=12, 2, 300), entries(2..=2, 3, 10)];
    let mut log = open(&disk).log;
    for (count, batch) in batches.iter().enumerate() {
        log.append(std::slice::from_ref(batch)).unwrap();
        disk.crash(count as u64);
        let opened = open(&disk);
        assert_eq!(opened.recovered, model(&batches[..=count]));
        log = opened.log;
    }
}

#[test]
fn compaction_removes_files_and_the_rest_is_read_without_them() {
    let mut disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    let mut history = vec![vote(1, "n1")];
    history.extend((1..=40).map(|index| entries(index..=index, 1, 200)));
    let mut file_of_36 = String::new();
    for (index, batch) in history.iter().enumerate() {
        log.append(std::slice::from_ref(batch)).unwrap();
        if index == 36 {
            file_of_36 = disk.list().unwrap().pop().unwrap();
        }
    }
    let (files, bytes) = (disk.list().unwrap(), log.bytes());
    assert!(files.len() > 4, "{files:?}");
    history.push(base(35, 1));
    log.append(&history[history.len() - 1..]).unwrap();
    assert_eq!(disk.list().unwrap(), files[files.iter().position(|file| *file == file_of_36).unwrap()..]);
    assert!(log.bytes() < bytes / 2);
    disk.crash(5);
    let opened = open(&disk);
    assert_eq!(opened.recovered, model(&history));
    assert_eq!(opened.recovered.hard_state.vote.as_ref().map(|vote| vote.as_str()), Some("n1"));
    let mut log = opened.log;
    history.push(entries(41..=41, 1, 200));
    log.append(&history[history.len() - 1..]).unwrap();
    assert_eq!(open(&disk).recovered, model(&history));
}

#[test]
fn a_snapshot_beyond_the_log_or_of_another_term_drops_everything() {
    for (at, term) in [(20, 2), (6, 2)] {
        let disk = MemoryDisk::new();
        let mut log = open(&disk).log;
        let history = [entries(1..=9, 1, 300), base(at, term), entries(at + 1..=at + 2, 3, 30)];
        for batch in &history {
            log.append(std::slice::from_ref(batch)).unwrap();
        }
        drop(log);
        let recovered = open(&disk).recovered;
        assert_eq!(recovered, model(&history));
        assert_eq!((recovered.base.index, recovered.entries.len()), (Index(at), 2));
    }
}

#[test]
fn a_base_that_goes_back_changes_nothing() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    let history = [entries(1..=9, 1, 30), base(6, 1), base(3, 1), base(6, 1)];
    log.append(&history).unwrap();
    assert_eq!(open(&disk).recovered, model(&history));
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let disk = MemoryDisk::new();
    let options = LogOptions { record_bytes: 1 << 20, ..small() };
    let OpenedLog { mut log, .. } = Log::open(disk.clone(), options).unwrap();
    let history = [entries(1..=1, 1, 10), entries(2..=4, 1, 3000), entries(5..=5, 1, 10)];
    for batch in &history {
        log.append(std::slice::from_ref(batch)).unwrap();
    }
    assert_eq!(disk.list().unwrap().len(), 3);
    assert_eq!(open(&disk).recovered, model(&history));
}

#[test]
fn an_error_is_final_even_if_the_disk_recovers() {
    let mut disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    log.append(&[entries(1..=1, 1, 10)]).unwrap();
    disk.fail_after(0);
    let error = log.append(&[entries(2..=2, 1, 10)]).unwrap_err();
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    disk.mend();
    let error = log.append(&[entries(2..=2, 1, 10)]).unwrap_err();
    assert!(error.to_string().contains("earlier failure"), "{error}");
}

/// At every size of the disk: what does not fit waits, is not there after a crash, and is written once there is room,
/// together with what came meanwhile.
#[test]
fn what_finds_no_room_waits_and_is_written_when_there_is_some() {
    let history = [
        vote(1, "n1"),
        entries(1..=6, 1, 90),
        entries(5..=9, 2, 120),
        base(6, 2),
        entries(10..=14, 3, 150),
        entries(15..=15, 3, 2_600),
        vote(3, "n2"),
    ];
    let (mut waited, mut rolled) = (0, 0);
    for room in (0..9_000).step_by(96) {
        let mut disk = MemoryDisk::new();
        let mut log = open(&disk).log;
        disk.set_capacity(Some(log.bytes() + room));
        let mut written = 0;
        for (number, batch) in history.iter().enumerate() {
            match log.append(std::slice::from_ref(batch)) {
                Ok(()) => {
                    assert_eq!(written, number, "nothing overtakes what waits");
                    written += 1;
                }
                Err(StorageError::Full { path }) => {
                    assert!(path.contains("00000"), "{path}");
                    waited += 1;
                    // A crash now leaves what was written before, and no trace of the rest.
                    let mut after = disk.duplicate();
                    after.set_capacity(None);
                    after.crash(room + number as u64);
                    assert_eq!(
                        open(&after).recovered,
                        model(&history[..written]),
                        "room {room}, batch {number}"
                    );
                }
                Err(error) => panic!("room {room}, batch {number}: {error}"),
            }
        }
        disk.set_capacity(None);
        log.append(&[]).unwrap();
        rolled += usize::from(disk.list().unwrap().len() > 1);
        disk.crash(room);
        assert_eq!(open(&disk).recovered, model(&history), "room {room}");
    }
    assert!(waited > 100 && rolled > 10, "{waited} waits, {rolled} new segments");
}

#[test]
fn a_failed_sync_is_an_error_and_the_bytes_may_go_either_way() {
    let mut seen = [false; 2];
    for calls in 1..20 {
        let mut disk = MemoryDisk::new();
        let mut log = open(&disk).log;
        (0..calls).for_each(|_| log.append(&[vote(1, "n1")]).unwrap());
        disk.fail_after(1);
        let error = log.append(&[vote(2, "n2")]).unwrap_err();
        if matches!(error, StorageError::Io { action: "write", .. }) {
            // This append would have made room for the next ones: it failed before its sync.
            continue;
        }
        assert!(matches!(error, StorageError::Io { action: "sync", .. }), "{error}");
        disk.crash(calls);
        let term = open(&disk).recovered.hard_state.term.0;
        seen[usize::try_from(term).unwrap() - 1] = true;
    }
    assert_eq!(seen, [true; 2]);
}

/// The process dies and the system lives: its memory still has what the process wrote, durable or not.
#[test]
fn what_open_reports_is_durable_even_if_the_last_run_never_synced_it() {
    // Fewer than fill a segment, so that the vote goes into the first.
    for calls in 1..20 {
        for sync_failed in [true, false] {
            let mut disk = MemoryDisk::new();
            let mut log = open(&disk).log;
            (0..calls).for_each(|_| log.append(&[vote(1, "n1")]).unwrap());
            if sync_failed {
                disk.fail_after(1);
                log.append(&[vote(2, "n2")]).unwrap_err();
                disk.fail_after(u64::MAX);
            } else {
                // Killed between write and sync: the bytes that the append would have written, unsynced.
                let twin = disk.duplicate();
                open(&twin).log.append(&[vote(2, "n2")]).unwrap();
                let name = disk.list().unwrap().pop().unwrap();
                disk.write(&name, 0, &twin.read(&name).unwrap()).unwrap();
            }
            let recovered = open(&disk).recovered;
            assert_eq!(recovered.hard_state.term.0, 2);
            disk.crash(calls);
            assert_eq!(open(&disk).recovered, recovered, "calls {calls}, sync failed: {sync_failed}");
        }
    }
}

#[test]
fn another_directorys_log_and_a_newer_format_are_refused_in_words() {
    let disk = MemoryDisk::new();
    open(&disk);
    let foreign = Log::open(disk.clone(), LogOptions { salt: 8, ..small() }).err().expect("refused");
    assert!(
        matches!(&foreign, StorageError::Refused(text) if text.contains("another data directory")),
        "{foreign}"
    );

    let mut bytes = disk.read("000000000001.log").unwrap();
    bytes[8] = 2;
    let checksum = crc32fast::hash(&bytes[..508]);
    bytes[508..512].copy_from_slice(&checksum.to_le_bytes());
    let mut newer = MemoryDisk::new();
    newer.set_content("000000000001.log", &bytes);
    let error = try_open(&newer).err().expect("refused");
    assert!(matches!(&error, StorageError::Refused(text) if text.contains("upgrade")), "{error}");
}

#[test]
fn a_log_that_must_be_there_is_missed() {
    let error = Log::open(MemoryDisk::new(), LogOptions { create: false, ..small() }).err().expect("damage");
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
}

#[test]
fn a_real_directory_works_like_the_memory() {
    let directory = tempfile::tempdir().unwrap();
    let disk = || RealDisk::open(directory.path()).unwrap();
    let mut history = vec![vote(1, "n1")];
    history.extend((1..=30).map(|index| entries(index..=index, 1, 200)));
    history.extend([base(25, 1), entries(28..=31, 2, 10)]);
    for batch in &history {
        let mut log = Log::open(disk(), small()).unwrap().log;
        log.append(std::slice::from_ref(batch)).unwrap();
    }
    let before = disk().list().unwrap();
    let found = inspect(&disk(), 7).unwrap().expect("a log");
    assert_eq!(found.recovered, model(&history));
    assert_eq!(found.records, history.len() as u64);
    assert_eq!(before, found.segments.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    assert_eq!(Log::open(disk(), small()).unwrap().recovered, model(&history));
    let default = Log::open(disk(), LogOptions { salt: 7, ..LogOptions::default() }).unwrap();
    assert_eq!(default.recovered, model(&history));
}
