//! A torn tail is cut and nothing before it is lost; a changed byte is never read as other content.

use super_node::node::ports::{LogStore as _, StorageError};
use super_node::storage::{Disk as _, MemoryDisk};

use super::model::{Model, Random, base, entries, open, try_open, vote};

/// A log of several segments, with votes, a truncation and a compaction in it.
fn history() -> (MemoryDisk, Model) {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut log = open(&disk).log;
    let mut batches = vec![vote(1, "n1"), entries(1..=6, 1, 90), entries(5..=9, 2, 120), vote(3, "n2")];
    batches.extend([
        base(6, 2),
        entries(10..=14, 3, 150),
        entries(15..=15, 3, 700),
        entries(16..=17, 3, 280),
    ]);
    for batch in &batches {
        log.append(std::slice::from_ref(batch)).unwrap();
        model.apply(batch);
    }
    // Ends early in a segment, so that the next batch goes into the same.
    let newest = disk.list().unwrap().pop();
    while disk.list().unwrap().pop() == newest {
        let batch = entries(model.last().0 + 1..=model.last().0 + 1, 3, 100);
        log.append(std::slice::from_ref(&batch)).unwrap();
        model.apply(&batch);
    }
    assert!(disk.list().unwrap().len() >= 3, "{:?}", disk.list());
    (disk, model)
}

#[test]
fn no_changed_byte_anywhere_is_read_as_other_content() {
    let (disk, model) = history();
    let (mut noticed, mut harmless) = (0, 0);
    for name in disk.list().unwrap() {
        let length = disk.read(&name).unwrap().len() as u64;
        for offset in 0..length {
            for mask in [0x01, 0x80, 0xff] {
                let mut changed = disk.duplicate();
                changed.flip(&name, offset, mask);
                match try_open(&changed) {
                    Err(StorageError::Damaged { .. } | StorageError::Refused(_)) => noticed += 1,
                    Err(error) => panic!("{name} byte {offset} mask {mask:#x}: {error}"),
                    Ok(opened) => {
                        assert_eq!(opened.recovered, model.0, "{name} byte {offset} mask {mask:#x}");
                        harmless += 1;
                    }
                }
            }
        }
    }
    assert!(noticed > 1000 && harmless > 0, "{noticed} noticed, {harmless} harmless");
}

#[test]
fn a_lost_file_is_missed() {
    let (disk, model) = history();
    let names = disk.list().unwrap();
    for lost in &names {
        let mut less = MemoryDisk::new();
        for name in names.iter().filter(|name| *name != lost) {
            less.set_content(name, &disk.read(name).unwrap());
        }
        let error =
            try_open(&less).err().unwrap_or_else(|| panic!("without {lost} the log opens: {model:?}"));
        let text = error.to_string();
        assert!(matches!(error, StorageError::Damaged { .. }) && text.contains(lost.as_str()), "{text}");
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let (disk, before) = history();
    let name = disk.list().unwrap().pop().unwrap();
    let old = disk.read(&name).unwrap();
    let mut after = before.clone();
    let batch = entries(before.last().0 + 1..=before.last().0 + 3, 4, 180);
    after.apply(&batch);
    open(&disk).log.append(&[batch]).unwrap();
    let new = disk.read(&name).unwrap();
    let changed: Vec<usize> =
        (0..new.len()).filter(|&at| new[at] != old.get(at).copied().unwrap_or_default()).collect();
    let (first, last) = (changed[0], changed[changed.len() - 1]);
    assert!(last - first > 540, "the last batch spans sectors");
    for cut in first..=last + 1 {
        let mut torn = new.clone();
        torn[cut..].fill(0);
        let mut disk = disk.duplicate();
        disk.set_content(&name, &torn);
        let opened = try_open(&disk).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        // Only the end mark after the last body byte may miss without the record being lost.
        let whole = cut >= last;
        assert_eq!(opened.recovered, if whole { after.0.clone() } else { before.0.clone() }, "cut at {cut}");
        assert_eq!(opened.notes.len(), usize::from(!whole && cut > first), "cut at {cut}");
        // What was torn stays gone: a shorter record over it, then a crash.
        if !whole {
            let mut expected = before.clone();
            let shorter = vote(9, "n3");
            expected.apply(&shorter);
            let mut log = opened.log;
            log.append(&[shorter]).unwrap();
            disk.crash(cut as u64);
            assert_eq!(open(&disk).recovered, expected.0, "cut at {cut}");
        }
    }
}

#[test]
fn a_tail_torn_by_sectors_is_cut() {
    let (disk, before) = history();
    let name = disk.list().unwrap().pop().unwrap();
    let old = disk.read(&name).unwrap();
    open(&disk).log.append(&[entries(before.last().0 + 1..=before.last().0 + 3, 4, 180)]).unwrap();
    let new = disk.read(&name).unwrap();
    let sectors = new.len() / 512;
    let changed: Vec<usize> = (0..sectors)
        .filter(|sector| {
            let range = sector * 512..sector * 512 + 512;
            new[range.clone()] != *old.get(range).unwrap_or(&[0; 512])
        })
        .collect();
    assert!(changed.len() >= 2);
    for survivors in 0..(1_u32 << changed.len()) - 1 {
        let mut torn = old.clone();
        torn.resize(new.len(), 0);
        for (bit, sector) in changed.iter().enumerate() {
            if survivors & (1 << bit) != 0 {
                torn[sector * 512..sector * 512 + 512]
                    .copy_from_slice(&new[sector * 512..sector * 512 + 512]);
            }
        }
        let mut disk = disk.duplicate();
        disk.set_content(&name, &torn);
        let opened = try_open(&disk).unwrap_or_else(|error| panic!("survivors {survivors:b}: {error}"));
        assert_eq!(opened.recovered, before.0, "survivors {survivors:b}");
    }
}

#[test]
fn a_zeroed_record_that_others_follow_is_damage_with_file_and_offset() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).log;
    for index in 1..=3 {
        log.append(&[entries(index..=index, 1, 100)]).unwrap();
    }
    let name = "000000000001.log";
    let mut bytes = disk.read(name).unwrap();
    bytes[512..512 + 160].fill(0);
    let mut disk = MemoryDisk::new();
    disk.set_content(name, &bytes);
    let Err(StorageError::Damaged { path, offset, why }) = try_open(&disk) else {
        panic!("no damage reported")
    };
    assert!(path.ends_with(name) && offset == 512 && why.contains("backup"), "{path} {offset} {why}");
}

#[test]
fn rubbish_in_place_of_a_segment_is_damage() {
    let mut random = Random(1);
    for length in [0, 1, 511, 512, 4096] {
        let mut disk = MemoryDisk::new();
        let bytes: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        disk.set_content("000000000001.log", &bytes);
        assert!(matches!(try_open(&disk), Err(StorageError::Damaged { .. })), "{length} bytes");
    }
}
