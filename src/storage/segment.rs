//! One file of the log: its name and its header.

use serde::{Deserialize, Serialize};

use crate::raft::{Base, HardState};
use crate::types::Index;

/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 512;
/// First bytes of every segment, of any format.
const MAGIC: &[u8; 8] = b"SNODELOG";
/// The format that this version writes and reads.
pub(super) const FORMAT: u32 = 1;
/// Where the header's checksum stands; it covers all before it. The same in every format.
const CHECKSUM_AT: usize = HEADER_BYTES - 4;
/// Where the header's body stands.
const BODY_AT: usize = 16;

/// What a segment says at its start: enough to do without the segments before it, except for their entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opening {
    /// The segment's number, as in its name. Contiguous from 1.
    pub number: u64,
    /// See [`super::record::Chain::salt`].
    pub salt: u64,
    /// Number of the first record here.
    pub next: u64,
    /// Checksum of the last record of the segment before.
    pub previous: u32,
    /// Term and vote so far.
    pub hard_state: HardState,
    /// Where the log begins so far.
    pub base: Base,
    /// Where the log ends so far.
    pub last: Index,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It is not what was written.
    Damaged(&'static str),
    /// A newer version wrote it.
    Newer(u32),
}

impl Opening {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("our own types always serialise");
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let length = u32::try_from(body.len()).expect("a header is small");
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        assert!(BODY_AT + body.len() <= CHECKSUM_AT, "names are bounded, so a header always fits");
        bytes[BODY_AT..BODY_AT + body.len()].copy_from_slice(&body);
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads what [`Opening::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Opening, HeaderError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let bytes =
            bytes.get(..HEADER_BYTES).ok_or(HeaderError::Damaged("too short for a segment header"))?;
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::Damaged("not a segment of a super-node's log"));
        }
        if crc32fast::hash(&bytes[..CHECKSUM_AT]) != word(CHECKSUM_AT) {
            return Err(HeaderError::Damaged("segment header whose checksum does not fit"));
        }
        match word(8) {
            FORMAT => {}
            newer if newer > FORMAT => return Err(HeaderError::Newer(newer)),
            _ => return Err(HeaderError::Damaged("unknown segment format")),
        }
        let length = usize::try_from(word(12)).unwrap_or(usize::MAX);
        let body = bytes[BODY_AT..CHECKSUM_AT].get(..length);
        body.and_then(|body| postcard::from_bytes(body).ok())
            .ok_or(HeaderError::Damaged("segment header that cannot be decoded"))
    }
}

/// The file name of a segment.
pub(super) fn name(number: u64) -> String {
    format!("{number:012}.log")
}

/// The file name under which a segment is prepared; it gets its own once its header is durable.
pub(super) fn name_in_preparation(number: u64) -> String {
    format!("{number:012}.new")
}

/// The number in a segment's file name; `None` for any other name.
pub(super) fn number(file: &str) -> Option<u64> {
    let number = file.strip_suffix(".log")?.parse().ok()?;
    (name(number) == file && number > 0).then_some(number)
}

/// Whether a file is a segment that was never finished.
pub(super) fn is_in_preparation(file: &str) -> bool {
    file.strip_suffix(".new")
        .is_some_and(|stem| stem.parse().is_ok_and(|number: u64| name_in_preparation(number) == file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        Opening {
            number: 3,
            salt: u64::MAX,
            next: 17,
            previous: 0xdead_beef,
            hard_state: HardState { term: crate::types::Term(u64::MAX), vote: "x".repeat(64).parse().ok() },
            base: Base { index: Index(u64::MAX), term: crate::types::Term(u64::MAX) },
            last: Index(u64::MAX),
        }
    }

    #[test]
    fn the_largest_header_fits_and_every_changed_byte_is_noticed() {
        let bytes = opening().encode();
        assert_eq!(Opening::decode(&bytes), Ok(opening()));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(matches!(Opening::decode(&changed), Err(HeaderError::Damaged(_))), "byte {at}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = opening().encode();
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Opening::decode(&bytes), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn names_are_read_strictly() {
        assert_eq!(number(&name(12)), Some(12));
        for other in ["12.log", "000000000000.log", "+00000000001.log", "000000000001.new", "x"] {
            assert_eq!(number(other), None, "{other}");
        }
        assert!(is_in_preparation(&name_in_preparation(4)) && !is_in_preparation("4.new"));
    }
}
