//! Reading a log back. Nothing here changes the disk.

use std::collections::{BTreeMap, VecDeque};

use crate::node::ports::StorageError;
use crate::raft::{Entry, HardState, Recovered};

use super::REMEDY;
use super::disk::Disk;
use super::log::io_error;
use super::positions::Positions;
use super::record::{self, Chain, Item, Kind, Tail};
use super::segment::{self, HeaderError, Opening};

/// What a log holds and what has to be put right before it can be appended to.
pub(super) struct Scan {
    pub recovered: Recovered,
    pub positions: Positions,
    pub chain: Chain,
    /// All segments present: number and length in bytes.
    pub segments: BTreeMap<u64, u64>,
    /// The newest segment.
    pub current: u64,
    /// End of the last record there.
    pub tail: u64,
    /// Offset and bytes of the last record in the newest segment, if it has any.
    pub last_record: Option<(u64, Vec<u8>)>,
    /// Segments that were never finished, by file name.
    pub unfinished: Vec<String>,
    pub notes: Vec<String>,
}

/// The log's content while it is replayed.
struct Replay {
    hard_state: HardState,
    positions: Positions,
    entries: VecDeque<Entry>,
}

impl Replay {
    fn begin(opening: &Opening) -> Replay {
        Replay {
            hard_state: opening.hard_state.clone(),
            positions: Positions::announced(opening.base, opening.last),
            entries: VecDeque::new(),
        }
    }

    fn matches(&self, opening: &Opening) -> bool {
        self.hard_state == opening.hard_state
            && self.positions.base == opening.base
            && self.positions.last == opening.last
    }

    fn apply(&mut self, item: Item, segment: u64) -> Result<(), String> {
        match item {
            Item::HardState(hard_state) => self.hard_state = hard_state,
            Item::Base { base, keep } => {
                if base.index <= self.positions.base.index {
                    return Err(format!(
                        "base {} goes back behind {}",
                        base.index, self.positions.base.index
                    ));
                }
                self.positions.set_base(base, keep);
                if !keep {
                    self.entries.clear();
                }
                while self.entries.front().is_some_and(|entry| entry.index <= base.index) {
                    self.entries.pop_front();
                }
            }
            Item::Entry(entry) => {
                self.positions.append(entry.index, entry.term, segment)?;
                while self.entries.back().is_some_and(|last| last.index >= entry.index) {
                    self.entries.pop_back();
                }
                self.entries.push_back(entry);
            }
        }
        Ok(())
    }
}

/// How far one segment could be read.
struct Walk {
    tail: usize,
    last_record: Option<(usize, usize)>,
    /// Whether it says that the log goes on in the next one.
    continued: bool,
}

fn damaged<D: Disk>(disk: &D, number: u64, offset: usize, why: impl std::fmt::Display) -> StorageError {
    let path = disk.locate(&segment::name(number));
    StorageError::Damaged { path, offset: offset as u64, why: format!("{why}; {REMEDY}") }
}

/// Reads all segments. `None`: there are none.
pub(super) fn scan<D: Disk>(disk: &D, salt: u64) -> Result<Option<Scan>, StorageError> {
    let names = disk.list().map_err(|source| io_error("list", disk.locate(""), source))?;
    let unfinished = names.iter().filter(|name| segment::is_in_preparation(name)).cloned().collect();
    let numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    let Some(&current) = numbers.last() else { return Ok(None) };
    // Segments below a gap were being removed; whether the rest can do without them shows at the end.
    let mut first = current;
    while numbers.binary_search(&(first - 1)).is_ok() {
        first -= 1;
    }
    let mut segments = BTreeMap::new();
    let mut state: Option<(Replay, Chain, u64, Walk)> = None;
    let mut newest = Vec::new();
    for &number in &numbers {
        let name = segment::name(number);
        let bytes = disk.read(&name).map_err(|source| io_error("read", disk.locate(&name), source))?;
        segments.insert(number, bytes.len() as u64);
        if number < first {
            continue;
        }
        let opening = open_segment(disk, number, salt, &bytes)?;
        let (mut replay, mut chain) = match state.take() {
            None => (Replay::begin(&opening), Chain { salt, next: opening.next, previous: opening.previous }),
            Some((replay, chain, before, walk)) => {
                let follows = chain.next == opening.next && chain.previous == opening.previous;
                if !follows || !replay.matches(&opening) {
                    let why = "unreadable record, or records missing, before the next segment";
                    return Err(damaged(disk, before, walk.tail, why));
                }
                (replay, chain)
            }
        };
        let walk = walk(disk, number, &bytes, &mut replay, &mut chain)?;
        state = Some((replay, chain, number, walk));
        newest = bytes;
    }
    let (replay, chain, _, walk) = state.expect("there is at least one segment");
    finish(disk, Found { replay, chain, walk, first, current, newest, segments, unfinished }).map(Some)
}

fn open_segment<D: Disk>(disk: &D, number: u64, salt: u64, bytes: &[u8]) -> Result<Opening, StorageError> {
    let path = disk.locate(&segment::name(number));
    let opening = Opening::decode(bytes).map_err(|error| match error {
        HeaderError::Damaged(why) => damaged(disk, number, 0, why),
        HeaderError::Newer(format) => StorageError::Refused(format!(
            "{path} has log format {format}, this version reads up to {}: upgrade super-node",
            segment::FORMAT
        )),
    })?;
    if opening.number != number {
        return Err(damaged(
            disk,
            number,
            0,
            format!("this is segment {} under another name", opening.number),
        ));
    }
    if opening.last < opening.base.index {
        return Err(damaged(disk, number, 0, "the header says that the log ends before it begins"));
    }
    if opening.salt != salt {
        return Err(StorageError::Refused(format!(
            "{path} was copied from another data directory: put the right log back, or use another --data-dir"
        )));
    }
    Ok(opening)
}

/// Replays the records of one segment up to the first that cannot be read.
fn walk<D: Disk>(
    disk: &D,
    number: u64,
    bytes: &[u8],
    replay: &mut Replay,
    chain: &mut Chain,
) -> Result<Walk, StorageError> {
    let mut walk = Walk { tail: segment::HEADER_BYTES, last_record: None, continued: false };
    loop {
        let mut after = *chain;
        let Some((header, kind, body)) = bytes.get(walk.tail..).and_then(|rest| after.take(rest)) else {
            return Ok(walk);
        };
        if kind == Kind::Continued {
            // Not part of the chain: the next segment was made before this was written.
            walk.continued = true;
            return Ok(walk);
        }
        let undecodable =
            |why| damaged(disk, number, walk.tail, format!("record that makes no sense: {why}"));
        for item in record::items(&header, body).map_err(undecodable)? {
            replay.apply(item, number).map_err(undecodable)?;
        }
        let end = (walk.tail + record::extent(header.length)).min(bytes.len());
        walk.last_record = Some((walk.tail, end));
        walk.tail += record::extent(header.length);
        *chain = after;
    }
}

/// Checks a segment that is complete: its header, and every record up to the one that says that the log goes on.
pub(super) fn check_closed<D: Disk>(
    disk: &D,
    number: u64,
    salt: u64,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let opening = open_segment(disk, number, salt, bytes)?;
    let mut chain = Chain { salt, next: opening.next, previous: opening.previous };
    let mut at = segment::HEADER_BYTES;
    loop {
        match bytes.get(at..).and_then(|rest| chain.take(rest)) {
            Some((_, Kind::Continued, _)) => return Ok(()),
            Some((header, Kind::Items, _)) => at += record::extent(header.length),
            None => return Err(damaged(disk, number, at, "unreadable record in a closed segment")),
        }
    }
}

struct Found {
    replay: Replay,
    chain: Chain,
    walk: Walk,
    first: u64,
    current: u64,
    newest: Vec<u8>,
    segments: BTreeMap<u64, u64>,
    unfinished: Vec<String>,
}

/// Judges the end of the newest segment and whether everything is there.
fn finish<D: Disk>(disk: &D, found: Found) -> Result<Scan, StorageError> {
    let Found { replay, chain, walk, first, current, newest, segments, unfinished } = found;
    if walk.continued {
        let missing = disk.locate(&segment::name(current + 1));
        return Err(StorageError::Damaged {
            path: missing,
            offset: 0,
            why: format!("the file is missing; {REMEDY}"),
        });
    }
    if replay.positions.has_unread() {
        let missing = disk.locate(&segment::name(first - 1));
        return Err(StorageError::Damaged {
            path: missing,
            offset: 0,
            why: format!("the file is missing; {REMEDY}"),
        });
    }
    let mut notes = Vec::new();
    let rest = newest.get(walk.tail..).unwrap_or_default();
    match chain.judge(rest, walk.tail) {
        Tail::Clean => {}
        Tail::Damaged(why) => return Err(damaged(disk, current, walk.tail, why)),
        Tail::Torn { end } => {
            let path = disk.locate(&segment::name(current));
            notes.push(format!(
                "{path}: cut {end} bytes at {}: an unfinished record, as a crash in the middle of a write leaves it",
                walk.tail
            ));
        }
    }
    let Replay { hard_state, positions, entries } = replay;
    let entries = Vec::from(entries);
    assert_eq!(
        entries.len() as u64,
        positions.last.0 - positions.base.index.0,
        "replay keeps exactly the entries after the base"
    );
    Ok(Scan {
        recovered: Recovered { hard_state, base: positions.base, entries },
        positions,
        chain,
        segments,
        current,
        tail: walk.tail as u64,
        last_record: walk.last_record.map(|(from, to)| (from as u64, newest[from..to].to_vec())),
        unfinished,
        notes,
    })
}
