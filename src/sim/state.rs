//! A state store in memory that forgets on a crash what was not flushed, and keeps a digest of its content.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::keyspace::{Direction, Keyspace, KeyspaceError, MemoryKeyspace, Reader};
use crate::node::ports::StateStore;

#[derive(Debug, Default, Clone)]
struct Content {
    rows: Arc<MemoryKeyspace>,
    /// Sum of the rows' hashes: equal contents have equal digests, whatever the order of the writes.
    digest: u64,
}

/// See the module's head. Clones share the store, as file handles share a file.
#[derive(Debug, Default, Clone)]
pub struct SimState {
    inner: Arc<Mutex<(Content, Content)>>,
}

impl SimState {
    fn lock(&self) -> MutexGuard<'_, (Content, Content)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses what was not flushed.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.0 = inner.1.clone();
    }

    /// The digest of the content.
    pub fn digest(&self) -> u64 {
        self.lock().0.digest
    }

    /// The content.
    pub fn rows(&self) -> Arc<MemoryKeyspace> {
        Arc::clone(&self.lock().0.rows)
    }
}

/// FNV-1a over key and value: cheap, and good enough to tell two honest states apart.
fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut byte = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    key.iter().copied().for_each(&mut byte);
    byte(0xff);
    value.iter().copied().for_each(&mut byte);
    hash
}

struct Transaction<'a> {
    rows: &'a mut MemoryKeyspace,
    digest: &'a mut u64,
    undo: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Transaction<'_> {
    fn change(&mut self, key: &[u8], value: Option<&[u8]>) {
        let old = match value {
            Some(value) => self.rows.rows.insert(key.to_vec(), value.to_vec()),
            None => self.rows.rows.remove(key),
        };
        if let Some(old) = &old {
            *self.digest = self.digest.wrapping_sub(row_hash(key, old));
        }
        if let Some(value) = value {
            *self.digest = self.digest.wrapping_add(row_hash(key, value));
        }
        self.undo.entry(key.to_vec()).or_insert(old);
    }
}

impl Reader for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        self.rows.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        self.rows.scan(from, to, direction, visit)
    }
}

impl Keyspace for Transaction<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeyspaceError> {
        self.change(key, Some(value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KeyspaceError> {
        self.change(key, None);
        Ok(())
    }
}

struct View(Arc<MemoryKeyspace>);

impl Reader for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        self.0.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        self.0.scan(from, to, direction, visit)
    }
}

impl StateStore for SimState {
    fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        Ok(Box::new(View(self.rows())))
    }

    fn update(
        &self,
        work: &mut dyn FnMut(&mut dyn Keyspace) -> Result<(), KeyspaceError>,
    ) -> Result<(), KeyspaceError> {
        let mut inner = self.lock();
        let current = &mut inner.0;
        let before = current.digest;
        let rows = Arc::make_mut(&mut current.rows);
        let mut transaction = Transaction { rows, digest: &mut current.digest, undo: BTreeMap::new() };
        let result = work(&mut transaction);
        if result.is_err() {
            for (key, value) in std::mem::take(&mut transaction.undo) {
                match value {
                    Some(value) => transaction.rows.rows.insert(key, value),
                    None => transaction.rows.rows.remove(&key),
                };
            }
            current.digest = before;
        }
        result
    }

    fn flush(&self) -> Result<(), KeyspaceError> {
        let mut inner = self.lock();
        inner.1 = inner.0.clone();
        Ok(())
    }

    fn replace(&self, rows: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), KeyspaceError> {
        let rows: BTreeMap<Vec<u8>, Vec<u8>> = rows.collect();
        let digest = rows.iter().fold(0_u64, |sum, (key, value)| sum.wrapping_add(row_hash(key, value)));
        let content = Content { rows: Arc::new(MemoryKeyspace { rows }), digest };
        *self.lock() = (content.clone(), content);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let inner = self.lock();
        inner.0.rows.rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}
