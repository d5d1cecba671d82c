//! The rows of a snapshot that is arriving, in a file beside the state. It is read once, when the last part has come, and
//! means nothing to any later process, so it is never synced.
//!
//! ```text
//! part   u32 length of the rows · u32 CRC-32 of the rows · the rows
//! row    u32 length of the key · u32 length of the value · key · value
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::ledger::keyspace::KeyspaceError;
use crate::node::spool::{Row, Spool, SpooledRows};

/// See the module's head.
#[derive(Debug)]
pub struct FileSpool {
    path: PathBuf,
    /// Open while there is something in it.
    file: Option<File>,
}

impl FileSpool {
    /// At a place that nobody else uses.
    pub fn new(path: PathBuf) -> FileSpool {
        FileSpool { path, file: None }
    }

    fn failed(&self, error: &io::Error) -> KeyspaceError {
        failed(&self.path, error)
    }
}

/// Removes what an earlier process left.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: &io::Error) -> KeyspaceError {
    KeyspaceError::Store(format!("{}: {error}", path.display()))
}

impl Spool for FileSpool {
    fn clear(&mut self) -> Result<(), KeyspaceError> {
        self.file = None;
        remove(&self.path).map_err(|error| self.failed(&error))
    }

    fn push(&mut self, rows: Vec<Row>) -> Result<(), KeyspaceError> {
        let mut bytes = vec![0; 8];
        for (key, value) in &rows {
            for part in [key, value] {
                bytes.extend_from_slice(&length(part).to_le_bytes());
            }
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        let body = length(&bytes[8..]).to_le_bytes();
        let checksum = crc32fast::hash(&bytes[8..]).to_le_bytes();
        bytes[..4].copy_from_slice(&body);
        bytes[4..8].copy_from_slice(&checksum);
        let written = match &mut self.file {
            Some(file) => file.write_all(&bytes),
            none => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                options.open(&self.path).and_then(|file| none.insert(file).write_all(&bytes))
            }
        };
        written.map_err(|error| self.failed(&error))
    }

    fn rows(&self) -> Result<SpooledRows<'_>, KeyspaceError> {
        if self.file.is_none() {
            return Ok(Box::new(std::iter::empty()));
        }
        let file = File::open(&self.path).map_err(|error| self.failed(&error))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut waiting = Vec::new().into_iter();
        let path = &self.path;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                if let Some(row) = waiting.next() {
                    return Some(Ok(row));
                }
                match part(&mut reader) {
                    Ok(Some(rows)) => waiting = rows.into_iter(),
                    Ok(None) => return None,
                    Err(error) => return Some(Err(failed(path, &error))),
                }
            }
        })))
    }
}

/// Keys, values and parts are bounded far below 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a part fits into a frame")
}

/// The rows of the next part; `None` at the end.
fn part(reader: &mut BufReader<File>) -> io::Result<Option<Vec<Row>>> {
    let mut head = [0; 8];
    match reader.read(&mut head)? {
        0 => return Ok(None),
        some => reader.read_exact(&mut head[some..])?,
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut body = vec![0; number(0) as usize];
    reader.read_exact(&mut body)?;
    if crc32fast::hash(&body) != number(4) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not fit"));
    }
    let mut rows = Vec::new();
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        rows.push(row(&mut rest).ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok(Some(rows))
}

/// Takes a row off the front.
fn row(bytes: &mut &[u8]) -> Option<Row> {
    let mut number = || {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        usize::try_from(u32::from_le_bytes(*head)).ok()
    };
    let (key, value) = (number()?, number()?);
    let (key, rest) = bytes.split_at_checked(key)?;
    let (value, rest) = rest.split_at_checked(value)?;
    *bytes = rest;
    Some((key.to_vec(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_in_order_and_a_changed_byte_is_noticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("incoming");
        let mut spool = FileSpool::new(path.clone());
        let all = |spool: &FileSpool| -> Result<Vec<Row>, KeyspaceError> { spool.rows()?.collect() };
        assert_eq!(all(&spool), Ok(Vec::new()));
        let rows = |part: u8| -> Vec<Row> {
            (0..3).map(|at| (vec![part, at], vec![part; usize::from(at)])).collect()
        };
        for part in 0..3 {
            spool.push(rows(part)).expect("there is room");
        }
        let expected: Vec<Row> = (0..3).flat_map(rows).collect();
        assert_eq!(all(&spool), Ok(expected.clone()));
        let whole = std::fs::read(&path).expect("the file is there");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, &changed).expect("it can be written");
            assert_ne!(all(&spool), Ok(expected.clone()), "byte {at}");
        }
        spool.clear().expect("it can be removed");
        assert!(!path.exists());
        spool.push(rows(7)).expect("there is room");
        assert_eq!(all(&spool), Ok(rows(7)), "a new one holds nothing of the one before");
    }
}
