//! One record of the log: everything that one `append` made durable, under one checksum.
//!
//! A record is written by one write and synced before the next begins. So a record is there wholly or not at all,
//! and a readable record proves that the one before it had been durable.

use serde::{Deserialize, Serialize};

use crate::raft::{Base, Entry, HardState};

use super::disk_memory::SECTOR_BYTES;

/// Bytes before a record's body.
pub(super) const HEADER_BYTES: usize = 32;
/// Records start at multiples of this, so that no header crosses a sector and a search need not look at every byte.
const ALIGNMENT: usize = 32;
/// Largest body that a reader accepts, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 << 20;
/// The byte after the body. Not zero, so that a record that misses its end can be told from one that changed.
const END_MARK: u8 = 0xe5;
/// How far ahead of the expected number a record found behind damage may be and still be taken for one of ours.
const NUMBER_WINDOW: u64 = 1 << 32;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Items, in the order in which they take effect.
    Items,
    /// The log goes on in the next segment; the body is that segment's number.
    Continued,
}

/// One item of a record, as read. The variants match [`ItemRef`] in order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) enum Item {
    HardState(HardState),
    Base { base: Base, keep: bool },
    Entry(Entry),
}

/// One item of a record, as written.
#[derive(Debug, Serialize)]
pub(super) enum ItemRef<'a> {
    /// New term and vote.
    HardState(&'a HardState),
    /// Forget up to here; `keep`: the entries after it stay. Decided by the writer, who knows the terms, so that a
    /// reader that starts at a later segment needs none.
    Base { base: Base, keep: bool },
    /// Append, replacing what is at that index and after.
    Entry(&'a Entry),
}

/// Where the next record hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// Differs between data directories, so that records of another one, or bytes that somebody stored in a command to
    /// look like a record, do not pass.
    pub salt: u64,
    /// Number of the next record, contiguous from 1 over the life of the log.
    pub next: u64,
    /// Checksum of the record before it; 0 for the first.
    pub previous: u32,
}

/// A header that passed its own checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub length: usize,
    pub previous: u32,
    pub number: u64,
    pub items: u32,
    flags: u32,
    pub checksum: u32,
}

/// How the bytes after the last readable record look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tail {
    /// All zeros.
    Clean,
    /// A write that a crash cut; `end` is the first byte after its remains.
    Torn { end: usize },
    /// Something that no crash explains.
    Damaged(&'static str),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn checksum(salt: u64, parts: [&[u8]; 2]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Bytes that a record with this body takes on disk.
pub(super) fn extent(body: usize) -> usize {
    (HEADER_BYTES + body + 1).next_multiple_of(ALIGNMENT)
}

impl Kind {
    fn flags(self) -> u32 {
        match self {
            Kind::Items => 0,
            Kind::Continued => 1,
        }
    }
}

impl Chain {
    /// Completes a record whose body stands in `buffer` after [`HEADER_BYTES`] of room: fills the header, adds end
    /// mark and padding, and moves the chain on.
    pub fn complete(&mut self, buffer: &mut Vec<u8>, kind: Kind, items: u32) {
        let body = buffer.len() - HEADER_BYTES;
        assert!(body > 0 && body <= BODY_BYTES_MAX, "a record's body of {body} bytes is out of bounds");
        let length = u32::try_from(body).expect("bounded above");
        buffer[0..4].copy_from_slice(&length.to_le_bytes());
        buffer[4..8].copy_from_slice(&self.previous.to_le_bytes());
        buffer[8..16].copy_from_slice(&self.next.to_le_bytes());
        buffer[16..20].copy_from_slice(&items.to_le_bytes());
        buffer[20..24].copy_from_slice(&kind.flags().to_le_bytes());
        let own = checksum(self.salt, [&buffer[..24], &buffer[HEADER_BYTES..]]);
        buffer[24..28].copy_from_slice(&own.to_le_bytes());
        let header = checksum(self.salt, [&buffer[..28], &[]]);
        buffer[28..32].copy_from_slice(&header.to_le_bytes());
        buffer.push(END_MARK);
        buffer.resize(extent(body), 0);
        self.next += 1;
        self.previous = own;
    }

    /// The header at the start of `bytes`, if its checksum holds.
    pub fn header(&self, bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if checksum(self.salt, [&bytes[..28], &[]]) != u32_at(bytes, 28) {
            return None;
        }
        let length = usize::try_from(u32_at(bytes, 0)).ok()?;
        let in_bounds = length > 0 && length <= BODY_BYTES_MAX;
        in_bounds.then(|| Header {
            length,
            previous: u32_at(bytes, 4),
            number: u64_at(bytes, 8),
            items: u32_at(bytes, 16),
            flags: u32_at(bytes, 20),
            checksum: u32_at(bytes, 24),
        })
    }

    /// The next record, if it starts `bytes` and is whole: its header, kind and body. Moves the chain on.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Option<(Header, Kind, &'a [u8])> {
        let header = self.header(bytes)?;
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES + header.length)?;
        let kind = [Kind::Items, Kind::Continued].into_iter().find(|kind| kind.flags() == header.flags)?;
        let hooked = header.number == self.next && header.previous == self.previous;
        if !hooked || checksum(self.salt, [&bytes[..24], body]) != header.checksum {
            return None;
        }
        self.next += 1;
        self.previous = header.checksum;
        Some((header, kind, body))
    }

    /// Judges `rest`, in which no next record could be read. `rest` starts at a multiple of the sector size plus
    /// `offset` and reaches to the end of the segment; the segment was all zeros there before it was written.
    ///
    /// A crash leaves each sector of the unsynced write either written or still zero, or cuts the write at a byte.
    /// So the remains of a crash miss something: the end mark, a whole sector, or the header. A record that misses
    /// nothing and still does not fit its checksum was durable once and has changed since.
    pub fn judge(&self, rest: &[u8], offset: usize) -> Tail {
        let Some(end) = rest.iter().rposition(|&byte| byte != 0).map(|last| last + 1) else {
            return Tail::Clean;
        };
        let torn = Tail::Torn { end };
        if self.record_follows(&rest[..end]) {
            return Tail::Damaged("unreadable record with readable records after it");
        }
        if let Some(header) = self.header(rest) {
            if header.number != self.next || header.previous != self.previous {
                return Tail::Damaged("a record that does not follow its predecessor");
            }
            let full = HEADER_BYTES + header.length + 1;
            if end > full {
                return Tail::Damaged("unreadable record with further bytes after it");
            }
            return if end < full || has_zero_sector(&rest[..full], offset) {
                torn
            } else {
                Tail::Damaged("complete record whose checksum does not fit")
            };
        }
        let header_is_zero = rest.iter().take(HEADER_BYTES).all(|&byte| byte == 0);
        if header_is_zero || end <= HEADER_BYTES {
            torn
        } else {
            Tail::Damaged("record header whose checksum does not fit")
        }
    }

    /// Whether some later record's header can be read in `rest`.
    fn record_follows(&self, rest: &[u8]) -> bool {
        (ALIGNMENT..rest.len()).step_by(ALIGNMENT).any(|at| {
            let ahead = self.header(&rest[at..]).map(|header| header.number.wrapping_sub(self.next));
            ahead.is_some_and(|ahead| ahead > 0 && ahead < NUMBER_WINDOW)
        })
    }
}

/// Whether `bytes`, which start at `offset` within a sector, cover a sector that is all zero.
fn has_zero_sector(bytes: &[u8], offset: usize) -> bool {
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES) % SECTOR_BYTES;
    let sectors = bytes.get(first..).unwrap_or_default().chunks(SECTOR_BYTES);
    sectors.into_iter().any(|sector| sector.iter().all(|&byte| byte == 0))
}

/// Decodes a record's body.
pub(super) fn items(header: &Header, mut body: &[u8]) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    for _ in 0..header.items {
        let (item, rest) = postcard::take_from_bytes(body).map_err(|error| error.to_string())?;
        items.push(item);
        body = rest;
    }
    if body.is_empty() { Ok(items) } else { Err(format!("{} bytes too many", body.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        Chain { salt: 9, next: 1, previous: 0 }
    }

    fn record(chain: &mut Chain, body: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; HEADER_BYTES];
        buffer.extend_from_slice(body);
        chain.complete(&mut buffer, Kind::Items, 1);
        buffer
    }

    #[test]
    fn a_record_is_read_back_only_in_its_place() {
        let mut writer = chain();
        let first = record(&mut writer, b"one");
        let second = record(&mut writer, b"two");
        let mut reader = chain();
        assert_eq!(reader.take(&second), None, "not before the first");
        assert_eq!(reader.take(&first).map(|(_, _, body)| body), Some(&b"one"[..]));
        assert_eq!(reader.take(&first), None, "not twice");
        assert!(reader.take(&second).is_some());
        assert_eq!(Chain { salt: 8, ..chain() }.take(&first), None, "not in another directory");
    }

    #[test]
    fn a_record_of_another_past_is_not_read_even_if_its_number_fits() {
        let (mut reader, mut stale) = (chain(), chain());
        reader.take(&record(&mut chain(), b"one")).expect("readable");
        record(&mut stale, b"uno");
        let second = record(&mut stale, b"due");
        assert_eq!(reader.header(&second).map(|header| header.number), Some(reader.next));
        assert_eq!(reader.take(&second), None);
        assert!(matches!(reader.judge(&second, 0), Tail::Damaged(_)));
    }

    #[test]
    fn tears_are_told_from_changes() {
        let bytes = record(&mut chain(), &[7; 1500]);
        let mut room = bytes.clone();
        room.resize(bytes.len() + 600, 0);
        let end = HEADER_BYTES + 1500 + 1;
        assert_eq!(chain().judge(&vec![0; 300], 32), Tail::Clean);
        for cut in 1..end {
            let mut torn = room.clone();
            torn[cut..].fill(0);
            assert!(matches!(chain().judge(&torn, 32), Tail::Torn { .. }), "cut at {cut}");
        }
        for at in 0..end {
            let mut changed = room.clone();
            changed[at] ^= 0x10;
            assert!(matches!(chain().judge(&changed, 32), Tail::Damaged(_)), "changed at {at}");
        }
        for sector in [0..480, 480..992, 992..1504, 1504..1533] {
            let mut torn = room.clone();
            torn[sector.clone()].fill(0);
            assert!(matches!(chain().judge(&torn, 32), Tail::Torn { .. }), "lost {sector:?}");
        }
    }

    #[test]
    fn a_zeroed_record_before_a_readable_one_is_damage() {
        let mut writer = chain();
        let mut bytes = record(&mut writer, &[7; 100]);
        let first = bytes.len();
        bytes.extend(record(&mut writer, &[8; 100]));
        bytes[..first].fill(0);
        assert!(matches!(chain().judge(&bytes, 0), Tail::Damaged(_)));
    }
}
