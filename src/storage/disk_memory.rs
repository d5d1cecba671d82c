//! A disk in memory that does to unsynced bytes what a power cut does, decided by one number.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::Disk;

/// The unit that a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones share the same content, so that a test or the simulator can keep one handle while the
/// log owns another. Deterministic: equal calls with equal entropy give equal bytes.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Content by file number; a file survives under its number while any directory state may still name it.
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Directory changes since the last sync, in order.
    pending: Vec<NameChange>,
    /// Changing calls that may still succeed; `None`: all.
    calls_left: Option<u64>,
    /// Bytes that all files together may hold; `None`: no bound.
    capacity: Option<u64>,
    /// Whether reading files fails.
    unreadable: bool,
    syncs: u64,
    /// Changing calls so far.
    calls: u64,
}

#[derive(Debug, Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
enum NameChange {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

/// SplitMix64: a few independent decisions out of one number.
struct Decisions(u64);

impl Decisions {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}

impl Content {
    fn put(bytes: &mut Vec<u8>, offset: usize, part: &[u8]) {
        let end = offset + part.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(part);
    }

    /// Each unsynced write, in order, is lost, kept, cut at a byte, or torn by sectors of the file.
    fn settle(&mut self, decisions: &mut Decisions) {
        let survived = &mut self.durable;
        for (offset, bytes) in self.pending.drain(..) {
            match decisions.below(4) {
                0 => {}
                1 => Content::put(survived, offset, &bytes),
                2 => Content::put(survived, offset, &bytes[..decisions.below(bytes.len() + 1)]),
                _ => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = (from + SECTOR_BYTES - (offset + from) % SECTOR_BYTES).min(bytes.len());
                        if decisions.below(2) == 0 {
                            Content::put(survived, offset + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
    }
}

impl Inner {
    fn content(&self, name: &str) -> io::Result<&Content> {
        let file = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&self.files[file])
    }

    fn content_mut(&mut self, name: &str) -> io::Result<&mut Content> {
        let file = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.get_mut(file).expect("a named file has content"))
    }

    /// Counts a changing call; an error once the planned failure is reached.
    fn change(&mut self) -> io::Result<()> {
        self.calls += 1;
        match &mut self.calls_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("planned failure")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[file].current.len() as u64).sum()
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// Drops content that no directory state can name any more.
    fn collect(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.files.retain(|file, _| names.values().chain(durable.values()).any(|named| named == file));
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no call on the disk panics while it holds the lock")
    }

    /// A power cut. All synced bytes stay; of each unsynced write nothing, all, a prefix or some sectors; of the
    /// unsynced directory changes a prefix. `entropy` decides. Planned failures end: the machine is new.
    pub fn crash(&mut self, entropy: u64) {
        let mut inner = self.lock();
        let mut decisions = Decisions(entropy);
        let kept = decisions.below(inner.pending.len() + 1);
        let pending = std::mem::take(&mut inner.pending);
        let mut names = inner.durable_names.clone();
        for change in &pending[..kept] {
            change.apply(&mut names);
        }
        inner.durable_names = names.clone();
        inner.names = names;
        inner.collect();
        for content in inner.files.values_mut() {
            content.settle(&mut decisions);
            content.current = content.durable.clone();
        }
        inner.calls_left = None;
    }

    /// Lets `calls` more changing calls (create, write, sync, rename, remove, directory sync) succeed, and fails all
    /// after them until the next [`MemoryDisk::crash`]. The write that fails still leaves unsynced bytes, as a
    /// real one may; the sync that fails writes some of them and forgets the rest, which still read as if they were
    /// there, and which no later sync makes durable.
    pub fn fail_after(&mut self, calls: u64) {
        self.lock().calls_left = Some(calls);
    }

    /// Planned failures end, and nothing else changes: a process died, and the system keeps what it wrote.
    pub fn mend(&mut self) {
        self.lock().calls_left = None;
    }

    /// Makes every read of a file fail, or no longer.
    pub fn fail_reads(&mut self, fail: bool) {
        self.lock().unreadable = fail;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// A byte of what was durably written, with one bit of it: chosen by two random words. `None`: there is none.
    pub fn pick_byte(&self, which: u64, bit: u64) -> Option<(String, u64, u8)> {
        let inner = self.lock();
        let mut written = Vec::new();
        for (name, file) in &inner.durable_names {
            // Files grow in steps filled with zeros: a bit that changes there says nothing about what was written.
            let end =
                inner.files[file].durable.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            written.push((name, end as u64));
        }
        let total: u64 = written.iter().map(|(_, end)| end).sum();
        let mut at = which.checked_rem(total)?;
        for (name, end) in written {
            if at < end {
                return Some((name.clone(), at, 1 << (bit % 8)));
            }
            at -= end;
        }
        None
    }

    /// Bounds the bytes of all files together; a write beyond fails with "storage full". `None` lifts the bound.
    pub fn set_capacity(&mut self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Changes bits of one durable byte, as a failing medium does; nothing happens beyond the end of the file.
    pub fn flip(&mut self, name: &str, offset: u64, mask: u8) {
        let mut inner = self.lock();
        let Ok(content) = inner.content_mut(name) else { return };
        let Ok(offset) = usize::try_from(offset) else { return };
        for bytes in [&mut content.current, &mut content.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }

    /// Sets the durable content of a file, made if need be.
    pub fn set_content(&mut self, name: &str, bytes: &[u8]) {
        let mut inner = self.lock();
        let file = inner.next_file;
        inner.next_file += 1;
        let content = Content { current: bytes.to_vec(), durable: bytes.to_vec(), pending: Vec::new() };
        inner.files.insert(file, content);
        inner.names.insert(name.to_string(), file);
        inner.durable_names.insert(name.to_string(), file);
    }

    /// A disk of its own with the durable content of this one.
    pub fn duplicate(&self) -> MemoryDisk {
        let inner = self.lock();
        let mut copy = MemoryDisk::new();
        for (name, file) in &inner.durable_names {
            copy.set_content(name, &inner.files[file].durable);
        }
        copy
    }

    /// Successful file syncs so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }
}

impl Disk for MemoryDisk {
    fn locate(&self, name: &str) -> String {
        format!("memory/{name}")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let inner = self.lock();
        if inner.unreadable {
            return Err(io::Error::other("planned failure to read"));
        }
        Ok(inner.content(name)?.current.clone())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(file, Content::default());
        inner.change_names(NameChange::Set(name.to_string(), file));
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let outcome = inner.change();
        let (used, capacity) = (inner.used(), inner.capacity);
        let content = inner.content_mut(name)?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let growth = (offset + bytes.len()).saturating_sub(content.current.len()) as u64;
        if capacity.is_some_and(|capacity| used + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Content::put(&mut content.current, offset, bytes);
        content.pending.push((offset, bytes.to_vec()));
        outcome
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let outcome = inner.change();
        let mut decisions = Decisions(inner.calls);
        let content = inner.content_mut(name)?;
        if outcome.is_err() {
            content.settle(&mut decisions);
            return outcome;
        }
        for (offset, bytes) in content.pending.drain(..) {
            Content::put(&mut content.durable, offset, &bytes);
        }
        inner.syncs += 1;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.content(from)?;
        inner.change_names(NameChange::Rename(from.to_string(), to.to_string()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.content(name)?;
        inner.change_names(NameChange::Remove(name.to_string()));
        Ok(())
    }

    fn room(&self) -> Option<u64> {
        let inner = self.lock();
        inner.capacity.map(|capacity| capacity.saturating_sub(inner.used()))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.durable_names = inner.names.clone();
        inner.pending.clear();
        inner.collect();
        Ok(())
    }
}
