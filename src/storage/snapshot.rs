//! The snapshot file: a whole applied state, to be kept apart from the nodes. `docs/backup.md` is about its use.
//!
//! ```text
//! head     "SNODESNP" · u32 format · u32 length · that many bytes of JSON ([`Head`]) · u32 CRC-32 of all before
//! chunk    u32 length of the rows, not 0 · u32 number of rows · u32 CRC-32 · the rows
//! row      u32 length of the key · u32 length of the value · key · value
//! trailer  u32 0 · u64 chunks · u64 rows · u64 bytes of keys and values · SHA-256 of the file before this hash
//! ```
//!
//! All numbers are little-endian. A chunk's checksum covers the checksum before it, its two numbers and its rows, so that
//! chunks cannot be left out, doubled or exchanged. Rows stand in the order of their keys. A file without its trailer was
//! cut, and is refused: a backup that lacks its end must not pass for a whole one. Magic, format and the length of the
//! head keep their places in every format.

use std::io::{self, Read};
use std::ops::{Bound, ControlFlow};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::codec::Hash;
use crate::ledger::keyspace::{Direction, KeyspaceError, Reader};
use crate::ledger::query;
use crate::node::applier::{SNAPSHOT_PART_BYTES, standing};
use crate::node::ports::StorageError;
use crate::raft::Configuration;
use crate::types::{Index, NodeId, Term, UnixMillis, Version};

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"SNODESNP";
/// Bytes before the head's JSON.
const PREFIX_BYTES: usize = 16;
/// Largest head that a reader accepts, in bytes.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// Largest chunk that a reader accepts, in bytes: a part of the usual size and one largest row, with room to spare.
const CHUNK_BYTES_MAX: usize = 64 << 20;
const REMEDY: &str = "use another copy of this snapshot, or another snapshot";

/// What a snapshot says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The configured name of the cluster.
    pub cluster: String,
    /// What the cluster was founded with; `None` if it was saved before its first command.
    pub identity: Option<String>,
    /// The node that it was saved from.
    pub node: NodeId,
    /// The software that saved it.
    pub version: Version,
    /// The last log entry whose effect it holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Who voted as of then.
    pub configuration: Configuration,
    /// Revision of the shared dictionary.
    pub kv_revision: u64,
    /// Movements of the ledger.
    pub records: u64,
    /// Hash of the last one.
    pub head_hash: Hash,
    /// Log time: the largest stamp applied.
    pub log_time: UnixMillis,
}

/// Numbers of a whole snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Chunks.
    pub chunks: u64,
    /// Rows of the state.
    pub rows: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

impl Head {
    /// Of a view of a node's state.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn of(view: &dyn Reader, cluster: &str, node: &NodeId) -> Result<Head, KeyspaceError> {
        let standing = standing(view)?;
        let (genesis, totals) = (query::genesis(view)?, query::totals(view)?);
        Ok(Head {
            cluster: genesis.as_ref().map_or(cluster, |genesis| &genesis.cluster).to_string(),
            identity: genesis.map(|genesis| genesis.identity),
            node: node.clone(),
            version: Version::current(),
            index: standing.applied.index,
            term: standing.applied.term,
            configuration: standing.configuration.unwrap_or_default(),
            kv_revision: query::kv_revision(view)?,
            records: totals.records,
            head_hash: totals.head_hash,
            log_time: query::log_time(view)?,
        })
    }
}

enum Stage {
    Head,
    Rows { after: Option<Vec<u8>> },
    Over,
}

/// Turns a view into the bytes of a snapshot file, piece by piece.
pub struct SnapshotWriter {
    view: Box<dyn Reader + Send>,
    head: Head,
    stage: Stage,
    checksum: u32,
    sums: Sums,
    hasher: Sha256,
}

impl SnapshotWriter {
    /// Of a view, whose head [`Head::of`] gave.
    pub fn new(view: Box<dyn Reader + Send>, head: Head) -> SnapshotWriter {
        let (stage, checksum, sums) = (Stage::Head, 0, Sums::default());
        SnapshotWriter { view, head, stage, checksum, sums, hasher: Sha256::new() }
    }

    /// What has been given so far.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// The next piece of the file; `None` after the last.
    ///
    /// # Errors
    /// When the state cannot be read; the file so far is of no use then.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, KeyspaceError> {
        let piece = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Over => return Ok(None),
            Stage::Head => {
                self.stage = Stage::Rows { after: None };
                self.head_bytes()
            }
            Stage::Rows { after } => match self.chunk(after)? {
                Some(chunk) => chunk,
                None => return Ok(Some(self.trailer())),
            },
        };
        self.hasher.update(&piece);
        Ok(Some(piece))
    }

    fn head_bytes(&mut self) -> Vec<u8> {
        let json = serde_json::to_vec(&self.head).expect("plain fields always serialise");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(json.len()).expect("a head is small").to_le_bytes());
        bytes.extend_from_slice(&json);
        self.checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// The rows after a key, as a chunk; `None` if there are none.
    fn chunk(&mut self, after: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, KeyspaceError> {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut body, mut rows, mut last) = (Vec::new(), 0_u32, None);
        self.view.scan(from, Bound::Unbounded, Direction::Forward, &mut |key, value| {
            if body.len() >= SNAPSHOT_PART_BYTES {
                return ControlFlow::Break(());
            }
            for part in [key, value] {
                let length = u32::try_from(part.len()).expect("keys and values are bounded far below 4 GiB");
                body.extend_from_slice(&length.to_le_bytes());
            }
            body.extend_from_slice(key);
            body.extend_from_slice(value);
            self.sums.bytes += (key.len() + value.len()) as u64;
            rows += 1;
            last = Some(key.to_vec());
            ControlFlow::Continue(())
        })?;
        let Some(last) = last else { return Ok(None) };
        self.stage = Stage::Rows { after: Some(last) };
        self.sums.chunks += 1;
        self.sums.rows += u64::from(rows);
        let length = u32::try_from(body.len()).expect("a chunk is bounded");
        self.checksum = chunk_checksum(self.checksum, length, rows, &body);
        let mut bytes = Vec::with_capacity(12 + body.len());
        for number in [length, rows, self.checksum] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&body);
        Ok(Some(bytes))
    }

    fn trailer(&mut self) -> Vec<u8> {
        let mut bytes = 0_u32.to_le_bytes().to_vec();
        for number in [self.sums.chunks, self.sums.rows, self.sums.bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.hasher.update(&bytes);
        bytes.extend_from_slice(&self.hasher.finalize_reset());
        bytes
    }
}

fn chunk_checksum(before: u32, length: u32, rows: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in [before, length, rows] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(body);
    hasher.finalize()
}

/// Reads a snapshot file and checks all of it on the way.
pub struct SnapshotReader<R: Read> {
    input: R,
    /// The file's name, for messages.
    path: String,
    head: Head,
    /// Bytes read so far.
    offset: u64,
    checksum: u32,
    sums: Sums,
    last_key: Option<Vec<u8>>,
    hasher: Sha256,
    /// The hash of the whole file, once it has been read.
    hash: Option<Hash>,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the head. `path` names the file in messages.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when a newer version wrote it; [`StorageError::Damaged`] when it is no snapshot, or has
    /// changed; [`StorageError::Io`] when it cannot be read.
    pub fn open(path: &str, mut input: R) -> Result<SnapshotReader<R>, StorageError> {
        let damaged = |offset, why: &str| damaged(path, offset, why);
        let mut bytes = read_exactly(path, &mut input, 0, PREFIX_BYTES)?;
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if &bytes[..8] != MAGIC {
            return Err(damaged(0, "not a snapshot of super-node"));
        }
        let format = word(&bytes, 8);
        if format > FORMAT {
            return Err(StorageError::Refused(format!(
                "{path} has snapshot format {format}, this version reads up to {FORMAT}: upgrade super-node"
            )));
        }
        let length = usize::try_from(word(&bytes, 12)).unwrap_or(usize::MAX);
        if format == 0 || length > HEAD_BYTES_MAX {
            return Err(damaged(8, "its head makes no sense"));
        }
        bytes.extend(read_exactly(path, &mut input, PREFIX_BYTES as u64, length + 4)?);
        let checksum = word(&bytes, PREFIX_BYTES + length);
        if crc32fast::hash(&bytes[..PREFIX_BYTES + length]) != checksum {
            return Err(damaged(0, "the checksum of its head does not fit"));
        }
        let head = serde_json::from_slice(&bytes[PREFIX_BYTES..PREFIX_BYTES + length])
            .map_err(|error| damaged(PREFIX_BYTES as u64, &format!("its head cannot be read: {error}")))?;
        let mut hasher = Sha256::new();
        hasher.update(&bytes);
        Ok(SnapshotReader {
            input,
            path: path.to_string(),
            head,
            offset: bytes.len() as u64,
            checksum,
            sums: Sums::default(),
            last_key: None,
            hasher,
            hash: None,
        })
    }

    /// What it says about itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What has been read so far.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Bytes of the file read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// SHA-256 over the whole file but its last 32 bytes, which say the same; `None` before the end has been read.
    pub fn hash(&self) -> Option<Hash> {
        self.hash
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, StorageError> {
        let taken = read_exactly(&self.path, &mut self.input, self.offset, bytes)?;
        self.offset += bytes as u64;
        Ok(taken)
    }

    /// The rows of the next chunk; `None` after the last, once the trailer was checked.
    ///
    /// # Errors
    /// As [`SnapshotReader::open`].
    pub fn next_rows(&mut self) -> Result<Option<Vec<Row>>, StorageError> {
        if self.hash.is_some() {
            return Ok(None);
        }
        let at = self.offset;
        let first = self.take(4)?;
        let length = u32::from_le_bytes(first.clone().try_into().expect("four bytes"));
        if length == 0 {
            return self.finish(&first).map(|()| None);
        }
        if length as usize > CHUNK_BYTES_MAX {
            return Err(damaged(&self.path, at, "a chunk is longer than there can be"));
        }
        let numbers = self.take(8)?;
        let rows = u32::from_le_bytes(numbers[..4].try_into().expect("four bytes"));
        let checksum = u32::from_le_bytes(numbers[4..].try_into().expect("four bytes"));
        let body = self.take(length as usize)?;
        if chunk_checksum(self.checksum, length, rows, &body) != checksum {
            return Err(damaged(&self.path, at, "the checksum of a chunk does not fit"));
        }
        self.hasher.update(&first);
        self.hasher.update(&numbers);
        self.hasher.update(&body);
        self.checksum = checksum;
        let rows = self.rows(&body, rows).ok_or_else(|| {
            damaged(&self.path, at, "the rows of a chunk are out of order, or not as many as it says")
        })?;
        self.sums.chunks += 1;
        Ok(Some(rows))
    }

    fn rows(&mut self, mut body: &[u8], count: u32) -> Option<Vec<Row>> {
        let mut rows = Vec::new();
        while let Some((lengths, rest)) = body.split_first_chunk::<8>() {
            let (key, value) = lengths.split_at(4);
            let length = |bytes: &[u8]| usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok();
            let (key, rest) = rest.split_at_checked(length(key)?)?;
            let (value, rest) = rest.split_at_checked(length(value)?)?;
            if self.last_key.as_deref().is_some_and(|last| last >= key) {
                return None;
            }
            self.last_key = Some(key.to_vec());
            self.sums.rows += 1;
            self.sums.bytes += (key.len() + value.len()) as u64;
            rows.push((key.to_vec(), value.to_vec()));
            body = rest;
        }
        (body.is_empty() && rows.len() == count as usize).then_some(rows)
    }

    /// Checks the trailer, and that nothing follows it.
    fn finish(&mut self, first: &[u8]) -> Result<(), StorageError> {
        let at = self.offset;
        let numbers = self.take(24)?;
        self.hasher.update(first);
        self.hasher.update(&numbers);
        let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
        let said = Sums { chunks: number(0), rows: number(8), bytes: number(16) };
        let hash = Hash(self.hasher.finalize_reset().into());
        let written = self.take(32)?;
        if said != self.sums || hash.0 != written[..] {
            return Err(damaged(&self.path, at, "its trailer does not fit the rest"));
        }
        let mut one = [0];
        match self.input.read(&mut one) {
            Ok(0) => {}
            Ok(_) => return Err(damaged(&self.path, self.offset, "bytes follow its end")),
            Err(source) => return Err(StorageError::Io { action: "read", path: self.path.clone(), source }),
        }
        self.hash = Some(hash);
        Ok(())
    }
}

fn damaged(path: &str, offset: u64, why: &str) -> StorageError {
    StorageError::Damaged { path: path.to_string(), offset, why: format!("{why}; {REMEDY}") }
}

fn read_exactly(
    path: &str,
    input: &mut impl Read,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, StorageError> {
    let mut taken = vec![0; bytes];
    match input.read_exact(&mut taken) {
        Ok(()) => Ok(taken),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(damaged(path, offset, "it ends too early: it was cut, or saving it was interrupted"))
        }
        Err(source) => Err(StorageError::Io { action: "read", path: path.to_string(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::keyspace::MemoryKeyspace;

    fn view(rows: usize, bytes: usize) -> MemoryKeyspace {
        let row = |number: usize| (format!("k{number:06}").into_bytes(), vec![7; bytes]);
        MemoryKeyspace { rows: (0..rows).map(row).collect() }
    }

    fn file(view: &MemoryKeyspace) -> Vec<u8> {
        let head = Head::of(view, "blue", &"n1".parse().unwrap()).unwrap();
        let mut writer = SnapshotWriter::new(Box::new(view.clone()), head);
        let mut bytes = Vec::new();
        while let Some(piece) = writer.next_piece().unwrap() {
            bytes.extend(piece);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Row>, StorageError> {
        let mut reader = SnapshotReader::open("x.snapshot", bytes)?;
        let mut all = Vec::new();
        while let Some(rows) = reader.next_rows()? {
            all.extend(rows);
        }
        Ok(all)
    }

    #[test]
    fn rows_come_back_over_several_chunks() {
        for rows in [0, 1, 40] {
            let view = view(rows, 100_000);
            let back = read(&file(&view)).unwrap();
            assert_eq!(back, view.rows.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let bytes = file(&view(30, 10));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            assert!(read(&changed).is_err(), "byte {at}");
            let cut = read(&bytes[..at]);
            assert!(matches!(cut, Err(StorageError::Damaged { .. })), "cut at {at}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(read(&longer).unwrap_err().to_string().contains("bytes follow its end"));
    }

    #[test]
    fn a_newer_format_is_refused_in_words() {
        let mut bytes = file(&view(1, 1));
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let error = read(&bytes).unwrap_err();
        assert!(matches!(&error, StorageError::Refused(_)), "{error}");
        assert!(error.to_string().contains("snapshot format 2") && error.to_string().contains("upgrade"));
    }
}
