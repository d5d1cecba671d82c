//! Typed access to the keyspace: decode on the way out, encode on the way in.

use std::ops::{Bound, ControlFlow};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};

use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};

/// A record that is not what it should be, as an error that names its key.
pub(super) fn damaged(key: &[u8], why: impl Into<String>) -> KeyspaceError {
    KeyspaceError::Damaged { key: key.escape_ascii().to_string(), why: why.into() }
}

/// Decodes the value of `key`.
pub(super) fn parse<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, KeyspaceError> {
    codec::decode(value).map_err(|error: CodecError| damaged(key, error.to_string()))
}

/// The record at `key`.
pub(super) fn read<T: DeserializeOwned>(reader: &dyn Reader, key: &[u8]) -> Result<Option<T>, KeyspaceError> {
    reader.get(key)?.map(|value| parse(key, &value)).transpose()
}

/// The record at `key`, or the default of a state in which nothing has happened yet.
pub(super) fn read_or_default<T: DeserializeOwned + Default>(
    reader: &dyn Reader,
    key: &[u8],
) -> Result<T, KeyspaceError> {
    Ok(read(reader, key)?.unwrap_or_default())
}

/// The record at `key`, which another record says must be there.
pub(super) fn expect<T: DeserializeOwned>(reader: &dyn Reader, key: &[u8]) -> Result<T, KeyspaceError> {
    read(reader, key)?.ok_or_else(|| damaged(key, "missing"))
}

/// Sets the record at `key`.
pub(super) fn write<T: Serialize>(
    space: &mut dyn Keyspace,
    key: &[u8],
    record: &T,
) -> Result<(), KeyspaceError> {
    space.put(key, &codec::encode(record))
}

/// A key and its value.
pub(super) type RawRow = (Vec<u8>, Vec<u8>);
/// What [`visit`] calls for each key and value; answers whether to go on.
pub(super) type RowVisitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, KeyspaceError>;

/// Visits keys from `from` to before `to` in order; `visit` answers whether to go on.
pub(super) fn visit(
    reader: &dyn Reader,
    from: Bound<&[u8]>,
    to: &[u8],
    direction: Direction,
    visit: RowVisitor<'_>,
) -> Result<(), KeyspaceError> {
    // A cursor beyond the end is an empty range, whatever the store makes of crossed bounds.
    if let Bound::Included(start) | Bound::Excluded(start) = from
        && start >= to
    {
        return Ok(());
    }
    let mut failure = None;
    reader.scan(from, Bound::Excluded(to), direction, &mut |key, value| match visit(key, value) {
        Ok(true) => ControlFlow::Continue(()),
        Ok(false) => ControlFlow::Break(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// Up to `limit` records of the keys that begin with `prefix`, after the key `after` if one is given.
pub(super) fn page<T: DeserializeOwned>(
    reader: &dyn Reader,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    keep: &mut dyn FnMut(&T) -> bool,
) -> Result<Vec<T>, KeyspaceError> {
    let mut records = Vec::new();
    if limit == 0 {
        return Ok(records);
    }
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let end = keys::prefix_end(prefix);
    visit(reader, from, &end, Direction::Forward, &mut |key, value| {
        let record = parse(key, value)?;
        if keep(&record) {
            records.push(record);
        }
        Ok(records.len() < limit)
    })?;
    Ok(records)
}

/// The first or last key and value of those that begin with `prefix`.
pub(super) fn edge(
    reader: &dyn Reader,
    prefix: &[u8],
    direction: Direction,
) -> Result<Option<RawRow>, KeyspaceError> {
    let mut found = None;
    let end = keys::prefix_end(prefix);
    visit(reader, Bound::Included(prefix), &end, direction, &mut |key, value| {
        found = Some((key.to_vec(), value.to_vec()));
        Ok(false)
    })?;
    Ok(found)
}
