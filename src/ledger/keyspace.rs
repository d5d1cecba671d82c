//! The ordered keyspace that the replicated machine lives in: the port below the ledger.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// The store could not be read or written. The caller must stop: the state is not to be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyspaceError {
    /// The medium failed.
    #[error("state store: {0}")]
    Store(String),
    /// A record could not be decoded.
    #[error("state store: damaged record at {key}: {why}")]
    Damaged {
        /// The key, printable.
        key: String,
        /// What the decoder said.
        why: String,
    },
}

/// Direction of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// A consistent view of the keys.
pub trait Reader {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError>;

    /// Visits the keys between the bounds in byte order until `visit` breaks.
    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError>;
}

/// A transaction: reads see its own writes; all or nothing becomes visible to others.
pub trait Keyspace: Reader {
    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeyspaceError>;

    /// Removes `key`; nothing happens if it is absent.
    fn delete(&mut self, key: &[u8]) -> Result<(), KeyspaceError>;
}

/// A keyspace in memory, for tests, the simulator and rehearsals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryKeyspace {
    /// All keys and values.
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Reader for MemoryKeyspace {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        let empty = match (from, to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
        };
        if empty {
            return Ok(());
        }
        let mut range = self.rows.range::<[u8], _>((from, to));
        loop {
            let row = match direction {
                Direction::Forward => range.next(),
                Direction::Backward => range.next_back(),
            };
            let Some((key, value)) = row else { return Ok(()) };
            if visit(key, value).is_break() {
                return Ok(());
            }
        }
    }
}

impl Keyspace for MemoryKeyspace {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeyspaceError> {
        self.rows.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KeyspaceError> {
        self.rows.remove(key);
        Ok(())
    }
}
