//! The Raft log on disk: segments of chained records, appended to and never rewritten.
//!
//! Guarantees, in the order in which the code keeps them:
//! 1. One call of `append` is one record, one write and one sync (more only beyond [`LogOptions::record_bytes`]).
//! 2. A segment gets its name once its header is durable; its first record is written once that name is.
//! 3. A segment is removed once nothing after the durable base lies in it.
//! 4. Bytes behind the last record are zero before they are written, also after a torn write was cut.
//! 5. Room is made before it is written to, so that a full disk is noticed while everything is whole: the record waits in
//!    memory, and is written when there is room.
//! 6. After any other error every further call fails: what the disk holds is not known any more (safety rule 3).

use std::collections::BTreeMap;
use std::io;

use crate::codec;
use crate::node::ports::{LogStore, OpenedLog, StorageError};
use crate::raft::{Base, HardState, Persist, Recovered};
use crate::types::Index;

use super::REMEDY;
use super::disk::Disk;
use super::positions::Positions;
use super::record::{self, Chain, ItemRef, Kind};
use super::recovery::{self, Scan};
use super::segment::{self, Opening};

/// Sizes, in bytes, and identity of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment is closed before it grows beyond this. A larger record gets a segment of its own.
    pub segment_bytes: u64,
    /// How far ahead of the records a segment is filled with zeros. Writing into such room costs about half of
    /// growing the file at every sync; filling a whole segment at once would delay a first start.
    pub zero_fill_bytes: u64,
    /// One call of `append` that is larger than this is written as several records. At most half of the largest record
    /// that a reader accepts (64 MiB).
    pub record_bytes: usize,
    /// Differs between data directories: the log of another one is refused.
    pub salt: u64,
    /// Whether a log may be made where there is none. `false`: it must be there, and its absence is damage.
    pub create: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 16 << 20,
            zero_fill_bytes: 256 << 10,
            record_bytes: 16 << 20,
            salt: 0,
            create: true,
        }
    }
}

/// The log, open for appending.
pub struct Log<D: Disk> {
    disk: D,
    options: LogOptions,
    chain: Chain,
    positions: Positions,
    hard_state: HardState,
    /// Term, vote, base and end as of the last record written: what the header of the next segment says.
    written: Written,
    /// All segments: number and length in bytes.
    segments: BTreeMap<u64, u64>,
    current: u64,
    /// End of the last record in the current segment.
    tail: u64,
    /// The record in the making, with room for its header.
    buffer: Vec<u8>,
    staged_items: u32,
    failed: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Written {
    hard_state: HardState,
    base: Base,
    last: Index,
}

/// What a log holds, read without changing it.
#[derive(Debug)]
pub struct Inspection {
    /// Its content.
    pub recovered: Recovered,
    /// What opening it would put right, such as a torn tail.
    pub notes: Vec<String>,
    /// Segment files: name and length in bytes.
    pub segments: Vec<(String, u64)>,
    /// Records written over the life of the log.
    pub records: u64,
}

/// Reads a log without changing it. `None`: there is none.
pub fn inspect<D: Disk>(disk: &D, salt: u64) -> Result<Option<Inspection>, StorageError> {
    Ok(recovery::scan(disk, salt)?.map(|scan| Inspection {
        recovered: scan.recovered,
        notes: scan.notes,
        segments: scan.segments.into_iter().map(|(number, length)| (segment::name(number), length)).collect(),
        records: scan.chain.next - 1,
    }))
}

pub(super) fn io_error(action: &'static str, path: String, source: io::Error) -> StorageError {
    StorageError::Io { action, path, source }
}

/// What the system says about making room: a full disk is told from all else.
fn room_error(action: &'static str, path: String, source: io::Error) -> StorageError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path },
        _ => io_error(action, path, source),
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log on a disk, or makes one if [`LogOptions::create`] allows. What it reports as recovered is
    /// durable. The tail that a crash tore is cut; anything else that cannot be read is [`StorageError::Damaged`].
    pub fn open(disk: D, options: LogOptions) -> Result<OpenedLog<Log<D>>, StorageError> {
        assert!(
            options.record_bytes <= record::BODY_BYTES_MAX / 2,
            "LogOptions::record_bytes is out of bounds"
        );
        let Some(scan) = recovery::scan(&disk, options.salt)? else {
            return Log::create(disk, options);
        };
        let Scan { recovered, positions, chain, segments, current, tail, last_record, unfinished, notes } =
            scan;
        let written =
            Written { hard_state: recovered.hard_state.clone(), base: recovered.base, last: positions.last };
        let hard_state = recovered.hard_state.clone();
        let mut log = Log::assemble(disk, options, chain, positions);
        (log.hard_state, log.written, log.segments) = (hard_state, written, segments);
        (log.current, log.tail) = (current, tail);
        for name in unfinished {
            log.remove(&name)?;
        }
        if let Some((offset, bytes)) = last_record {
            // A sync that failed in an earlier run may have left this record in the system's memory, marked as
            // written. Writing it again makes the sync below mean something.
            log.write(offset, &bytes)?;
        }
        log.clear_tail()?;
        log.sync_directory()?;
        log.remove_unneeded()?;
        Ok(OpenedLog { log, recovered, notes })
    }

    fn create(mut disk: D, options: LogOptions) -> Result<OpenedLog<Log<D>>, StorageError> {
        if !options.create {
            let why = format!("the log is missing; {REMEDY}");
            return Err(StorageError::Damaged { path: disk.locate(&segment::name(1)), offset: 0, why });
        }
        let unfinished = segment::name_in_preparation(1);
        let names = disk.list().map_err(|source| io_error("list", disk.locate(""), source))?;
        if names.contains(&unfinished) {
            disk.remove(&unfinished)
                .map_err(|source| io_error("remove", disk.locate(&unfinished), source))?;
        }
        let chain = Chain { salt: options.salt, next: 1, previous: 0 };
        let positions = Positions::announced(Base::default(), Index(0));
        let mut log = Log::assemble(disk, options, chain, positions);
        log.create_segment(1)?;
        Ok(OpenedLog { log, recovered: Recovered::default(), notes: Vec::new() })
    }

    fn assemble(disk: D, options: LogOptions, chain: Chain, positions: Positions) -> Log<D> {
        Log {
            disk,
            options,
            chain,
            positions,
            hard_state: HardState::default(),
            written: Written::default(),
            segments: BTreeMap::new(),
            current: 0,
            tail: 0,
            buffer: vec![0; record::HEADER_BYTES],
            staged_items: 0,
            failed: None,
        }
    }

    /// Zeroes and syncs everything behind the last record, even if it reads as zeros: an earlier run may have failed
    /// to sync such zeros. A torn record's header goes last: as long as anything of it is left, what is left still
    /// looks torn, so that a crash in here is no different from the crash before.
    fn clear_tail(&mut self) -> Result<(), StorageError> {
        let (tail, end) = (self.tail, self.segments[&self.current]);
        let body = tail + record::HEADER_BYTES as u64;
        if end > body {
            self.write(body, &zeros(end - body))?;
        }
        self.sync()?;
        if end > tail {
            self.write(tail, &zeros(end.min(body) - tail))?;
            self.sync()?;
        }
        Ok(())
    }

    fn try_append(&mut self, batches: &[Persist]) -> Result<(), StorageError> {
        let base_before = self.positions.base;
        for batch in batches {
            if let Some(hard_state) = &batch.hard_state {
                self.stage(&ItemRef::HardState(hard_state))?;
                self.hard_state = hard_state.clone();
            }
            if let Some(base) = batch.base.filter(|base| base.index > self.positions.base.index) {
                let keep = self.positions.holds(base);
                self.stage(&ItemRef::Base { base, keep })?;
                self.positions.set_base(base, keep);
            }
            for entry in &batch.entries {
                self.stage(&ItemRef::Entry(entry))?;
                let staged = self.positions.stage(entry.index, entry.term);
                staged.unwrap_or_else(|why| panic!("the core persists contiguous entries: {why}"));
            }
        }
        self.commit()?;
        if self.positions.base != base_before { self.remove_unneeded() } else { Ok(()) }
    }

    /// Adds an item to the record in the making; writes that first if it would become too large.
    fn stage(&mut self, item: &ItemRef<'_>) -> Result<(), StorageError> {
        let start = self.buffer.len();
        codec::append(item, &mut self.buffer);
        let size = self.buffer.len() - start;
        if size > record::BODY_BYTES_MAX / 2 {
            let path = self.disk.locate(&segment::name(self.current));
            return Err(StorageError::Refused(format!(
                "{path}: an entry of {size} bytes is too large for the log"
            )));
        }
        if self.staged_items > 0 && self.buffer.len() - record::HEADER_BYTES > self.options.record_bytes {
            let item = self.buffer.split_off(start);
            match self.commit() {
                // It becomes one larger record, when there is room.
                Err(StorageError::Full { .. }) if start + size <= record::BODY_BYTES_MAX => {}
                result => result?,
            }
            self.buffer.extend_from_slice(&item);
        }
        self.staged_items += 1;
        Ok(())
    }

    /// Writes and syncs the record in the making.
    fn commit(&mut self) -> Result<(), StorageError> {
        if self.staged_items == 0 {
            return Ok(());
        }
        let extent = record::extent(self.buffer.len() - record::HEADER_BYTES) as u64;
        let reserve = record::extent(size_of::<u64>() + 2) as u64;
        let is_empty = self.tail == segment::HEADER_BYTES as u64;
        if !is_empty && self.tail + extent + reserve > self.options.segment_bytes {
            self.roll()?;
        }
        let end = self.tail + extent;
        let length = self.segments[&self.current];
        // With room for the word that the log continues elsewhere: where the next segment can be made, that must fit too.
        if end + reserve > length {
            // Zeros for the next records go out with this one: the file grows, and its length is synced, now and then.
            let filled =
                (end + self.options.zero_fill_bytes).min(self.options.segment_bytes).max(end + reserve);
            self.fill(length, filled - length)?;
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        self.chain.complete(&mut bytes, Kind::Items, self.staged_items);
        self.write(self.tail, &bytes)?;
        self.sync()?;
        self.tail = end;
        self.positions.settle(self.current);
        self.written = Written {
            hard_state: self.hard_state.clone(),
            base: self.positions.base,
            last: self.positions.last,
        };
        // Keeps the room for the next record, unless one was uncommonly large.
        bytes.truncate(record::HEADER_BYTES);
        bytes.shrink_to(1 << 20);
        self.buffer = bytes;
        self.staged_items = 0;
        Ok(())
    }

    /// Begins the next segment, then says in the current one that there is a next, so that its loss is noticed.
    fn roll(&mut self) -> Result<(), StorageError> {
        let (before, tail) = (self.current, self.tail);
        self.create_segment(before + 1)?;
        let (next, start) = (self.current, self.tail);
        let mut bytes = vec![0; record::HEADER_BYTES];
        codec::append(&next, &mut bytes);
        let mut chain = self.chain;
        chain.complete(&mut bytes, Kind::Continued, 0);
        self.current = before;
        self.write(tail, &bytes)?;
        self.sync()?;
        (self.current, self.tail) = (next, start);
        Ok(())
    }

    /// Makes a segment and its name durable. It becomes the current one.
    fn create_segment(&mut self, number: u64) -> Result<(), StorageError> {
        let opening = Opening {
            number,
            salt: self.options.salt,
            next: self.chain.next,
            previous: self.chain.previous,
            hard_state: self.written.hard_state.clone(),
            base: self.written.base,
            last: self.written.last,
        };
        let bytes = opening.encode();
        let written = bytes.len() as u64;
        let filled = (written + self.options.zero_fill_bytes).min(self.options.segment_bytes).max(written);
        let (draft, name) = (segment::name_in_preparation(number), segment::name(number));
        let path = self.disk.locate(&draft);
        let room = |action, source| room_error(action, path.clone(), source);
        let disk = &mut self.disk;
        let made = disk.create(&draft).map_err(|source| room("create", source)).and_then(|()| {
            disk.write(&draft, 0, &bytes).map_err(|source| room("write", source))?;
            disk.fill(&draft, written, filled - written).map_err(|source| room("write", source))
        });
        if let Err(error @ StorageError::Full { .. }) = made {
            // As if it had never been begun. If it was not even made, there is nothing to remove.
            let _not_made = self.disk.remove(&draft);
            return Err(error);
        }
        made?;
        self.disk.sync(&draft).map_err(|source| io_error("sync", path.clone(), source))?;
        self.disk.rename(&draft, &name).map_err(|source| io_error("rename", path, source))?;
        self.sync_directory()?;
        self.segments.insert(number, filled);
        self.current = number;
        self.tail = segment::HEADER_BYTES as u64;
        Ok(())
    }

    /// Removes the segments before the first that is needed, oldest first.
    fn remove_unneeded(&mut self) -> Result<(), StorageError> {
        let needed = self.positions.first_segment().unwrap_or(self.current);
        let unneeded: Vec<u64> = self.segments.range(..needed).map(|(&number, _)| number).collect();
        for &number in &unneeded {
            self.remove(&segment::name(number))?;
            self.segments.remove(&number);
        }
        if unneeded.is_empty() { Ok(()) } else { self.sync_directory() }
    }

    /// Writes to the current segment.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let name = segment::name(self.current);
        let written = self.disk.write(&name, offset, bytes);
        written.map_err(|source| io_error("write", self.disk.locate(&name), source))?;
        let length = self.segments.entry(self.current).or_default();
        *length = (*length).max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Makes room in the current segment.
    fn fill(&mut self, offset: u64, bytes: u64) -> Result<(), StorageError> {
        let name = segment::name(self.current);
        let filled = self.disk.fill(&name, offset, bytes);
        filled.map_err(|source| room_error("write", self.disk.locate(&name), source))?;
        let length = self.segments.entry(self.current).or_default();
        *length = (*length).max(offset + bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let name = segment::name(self.current);
        self.disk.sync(&name).map_err(|source| io_error("sync", self.disk.locate(&name), source))
    }

    fn sync_directory(&mut self) -> Result<(), StorageError> {
        self.disk.sync_directory().map_err(|source| io_error("sync directory", self.disk.locate(""), source))
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.disk.remove(name).map_err(|source| io_error("remove", self.disk.locate(name), source))
    }
}

impl<D: Disk> LogStore for Log<D> {
    fn append(&mut self, batches: &[Persist]) -> Result<(), StorageError> {
        if let Some(cause) = &self.failed {
            let source = io::Error::other(format!("refused after an earlier failure: {cause}"));
            return Err(io_error("append to", self.disk.locate(&segment::name(self.current)), source));
        }
        let result = self.try_append(batches);
        match &result {
            Ok(()) | Err(StorageError::Full { .. }) => {}
            Err(error) => self.failed = Some(error.to_string()),
        }
        result
    }

    fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    fn room(&self) -> Option<u64> {
        self.disk.room()
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("segments fit into memory")
}

fn zeros(bytes: u64) -> Vec<u8> {
    vec![0; to_usize(bytes)]
}
