//! Reading again what lies on disk, a little at a time, to find bits that changed while nobody looked.
//!
//! What is found is reported; nothing is changed. Closed segments of the log are checked record by record, rows of the
//! state by their checksums, and each row by being looked up too: a changed key in an inner page hides a row from a lookup
//! that a scan still passes.

use std::ops::{Bound, ControlFlow};

use crate::ledger::keyspace::{Direction, KeyspaceError, Reader};
use crate::node::ports::StorageError;

use super::disk::Disk;
use super::log::io_error;
use super::{recovery, segment};

/// The closed segments of a log, by file name, oldest first: all but the newest, which is being written.
pub fn closed_segments<D: Disk>(disk: &D) -> Result<Vec<String>, StorageError> {
    let names = disk.list().map_err(|source| io_error("list", disk.locate(""), source))?;
    let mut segments: Vec<String> =
        names.into_iter().filter(|name| segment::number(name).is_some()).collect();
    segments.pop();
    Ok(segments)
}

/// Checks one closed segment; gives its length in bytes, or `None` if it is gone: compaction removed it.
///
/// # Errors
/// [`StorageError::Damaged`], with the place.
pub fn check_segment<D: Disk>(disk: &D, salt: u64, name: &str) -> Result<Option<u64>, StorageError> {
    let Some(number) = segment::number(name) else { return Ok(None) };
    match disk.read(name) {
        Ok(bytes) => recovery::check_closed(disk, number, salt, &bytes).map(|()| Some(bytes.len() as u64)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", disk.locate(name), source)),
    }
}

/// How far a check of rows came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The last row's key; `None`: there are no more rows.
    pub last: Option<Vec<u8>>,
}

/// Checks rows after `after`, until `bytes` have been read.
///
/// # Errors
/// [`KeyspaceError::Damaged`], with the key.
pub fn check_rows(reader: &dyn Reader, after: Option<&[u8]>, bytes: u64) -> Result<Checked, KeyspaceError> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut checked = Checked { bytes: 0, last: None };
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    reader.scan(from, Bound::Unbounded, Direction::Forward, &mut |key, value| {
        checked.bytes += (key.len() + value.len()) as u64;
        rows.push((key.to_vec(), value.to_vec()));
        if checked.bytes >= bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let mut before = after;
    for (key, value) in &rows {
        let in_order = before.is_none_or(|before| before < key.as_slice());
        if !in_order || reader.get(key)?.as_ref() != Some(value) {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(KeyspaceError::Damaged {
                key,
                why: "a lookup does not find it where a scan does".to_string(),
            });
        }
        before = Some(key);
    }
    checked.last = rows.pop().map(|(key, _)| key);
    Ok(checked)
}
