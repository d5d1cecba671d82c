//! Records in blocks: many neighbours in one row of the keyspace.
//!
//! A block stands at the key of its first record, so a record is found in the last block that begins at or before its
//! own key. Blocks are written once, in order; only the members' blocks change, see [`super::roster`].

use std::ops::Bound;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::table::{self, RawRow};

/// Most records of one block: few enough that looking one up costs little, enough that a hundred thousand of them are
/// few rows.
pub const BLOCK_RECORDS: usize = 64;

/// The last block of those that begin with `prefix` which begins at or before `key`.
pub(super) fn holding(
    reader: &dyn Reader,
    prefix: &[u8],
    key: &[u8],
) -> Result<Option<RawRow>, KeyspaceError> {
    // The smallest key after `key`.
    let end = [key, &[0]].concat();
    let mut found = None;
    table::visit(reader, Bound::Included(prefix), &end, Direction::Backward, &mut |key, value| {
        found = Some((key.to_vec(), value.to_vec()));
        Ok(false)
    })?;
    Ok(found)
}

/// Visits the records of the blocks that begin with `prefix`, in order, from the block that holds `from` on: the first
/// ones may stand before it. `visit` answers whether to go on.
pub(super) fn visit<T: DeserializeOwned>(
    reader: &dyn Reader,
    prefix: &[u8],
    from: &[u8],
    visit: &mut dyn FnMut(T) -> Result<bool, KeyspaceError>,
) -> Result<(), KeyspaceError> {
    let first = holding(reader, prefix, from)?.map(|(key, _)| key);
    let begin = first.as_deref().unwrap_or(from);
    let end = keys::prefix_end(prefix);
    table::visit(reader, Bound::Included(begin), &end, Direction::Forward, &mut |key, value| {
        for record in table::parse::<Vec<T>>(key, value)? {
            if !visit(record)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Gathers records that come in the order of their keys, and stores them in blocks.
#[derive(Debug)]
pub(super) struct Gather<T> {
    first: Vec<u8>,
    records: Vec<T>,
}

impl<T: Serialize> Gather<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        Gather { first: Vec::new(), records: Vec::with_capacity(BLOCK_RECORDS) }
    }

    /// One more; `key` says where it would stand.
    pub fn push(
        &mut self,
        space: &mut dyn Keyspace,
        key: impl FnOnce() -> Vec<u8>,
        record: T,
    ) -> Result<(), KeyspaceError> {
        if self.records.is_empty() {
            self.first = key();
        }
        self.records.push(record);
        if self.records.len() == BLOCK_RECORDS { self.store(space) } else { Ok(()) }
    }

    /// Stores what has gathered. To be called at the end.
    pub fn store(&mut self, space: &mut dyn Keyspace) -> Result<(), KeyspaceError> {
        if self.records.is_empty() {
            return Ok(());
        }
        table::write(space, &self.first, &self.records)?;
        self.records.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::keyspace::MemoryKeyspace;

    #[test]
    fn every_record_is_found_in_the_block_that_holds_it() {
        let mut space = MemoryKeyspace::default();
        let mut gather = Gather::new();
        let count = 2 * BLOCK_RECORDS as u64 + 3;
        for number in 1..=count {
            gather.push(&mut space, || keys::movement(number), number).expect("memory does not fail");
        }
        gather.store(&mut space).expect("memory does not fail");
        // A neighbouring table must not be mistaken for a block.
        table::write(&mut space, b"q", &vec![0_u64]).expect("memory does not fail");
        table::write(&mut space, b"s", &vec![0_u64]).expect("memory does not fail");
        assert_eq!(space.rows.len(), 5);
        for from in 1..=count {
            let mut found = Vec::new();
            visit::<u64>(&space, &[keys::MOVEMENT_TABLE], &keys::movement(from), &mut |number| {
                if number >= from {
                    found.push(number);
                }
                Ok(found.len() < 2)
            })
            .expect("readable");
            assert_eq!(found.first(), Some(&from));
        }
        assert!(holding(&space, &[keys::MOVEMENT_TABLE], &keys::movement(0)).expect("readable").is_none());
    }
}
