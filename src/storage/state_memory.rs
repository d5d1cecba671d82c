//! The applied state in memory, with the promises of the real one: consistent views, whole transactions, and a crash
//! that forgets what was not flushed.

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ledger::keyspace::{Direction, Keyspace, KeyspaceError, MemoryKeyspace, Reader};
use crate::node::ports::{NewRows, StateStore};

/// A state store in memory. Clones share the same content, so that a test or the simulator can crash the store that a
/// node uses. Work that runs inside `update` must not call the store itself, which is locked meanwhile.
#[derive(Debug, Clone, Default)]
pub struct MemoryState {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Shared with the views; copied before a change only while a view still holds it.
    rows: Arc<MemoryKeyspace>,
    /// Of each transaction since the last flush, what undoes it.
    unflushed: Vec<Undo>,
    bytes: u64,
    digest: u64,
    failing: bool,
}

/// Keys with the values they had, in the order of the changes.
type Undo = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn row_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// FNV-1a over key and value: cheap, and good enough to tell two honest states apart.
fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let bytes = key.iter().copied().chain([0xff]).chain(value.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Inner {
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Vec<u8>> {
        let rows = &mut Arc::make_mut(&mut self.rows).rows;
        let before = match value {
            Some(value) => rows.insert(key.to_vec(), value.to_vec()),
            None => rows.remove(key),
        };
        if let Some(value) = value {
            self.bytes += row_bytes(key, value);
            self.digest = self.digest.wrapping_add(row_hash(key, value));
        }
        if let Some(before) = &before {
            self.bytes -= row_bytes(key, before);
            self.digest = self.digest.wrapping_sub(row_hash(key, before));
        }
        before
    }

    fn roll_back(&mut self, undo: Undo) {
        for (key, value) in undo.into_iter().rev() {
            self.set(&key, value.as_deref());
        }
    }

    fn check(&self) -> Result<(), KeyspaceError> {
        if self.failing { Err(KeyspaceError::Store("planned failure".to_string())) } else { Ok(()) }
    }
}

impl MemoryState {
    /// An empty store.
    pub fn new() -> MemoryState {
        MemoryState::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A power cut: of the transactions since the last flush, none to all survive, in order. `entropy` decides.
    /// A planned failure ends.
    pub fn crash(&self, entropy: u64) {
        let mut inner = self.lock();
        let unflushed = inner.unflushed.len() as u64;
        let kept = usize::try_from(entropy % (unflushed + 1)).expect("at most a usize");
        for undo in inner.unflushed.split_off(kept).into_iter().rev() {
            inner.roll_back(undo);
        }
        inner.unflushed.clear();
        inner.failing = false;
    }

    /// The sum of the rows' hashes, kept up to date with every change: equal contents have equal digests, whatever
    /// way they came about.
    pub fn digest(&self) -> u64 {
        self.lock().digest
    }

    /// As [`MemoryState::digest`], without the row of one key.
    pub fn digest_without(&self, key: &[u8]) -> u64 {
        let inner = self.lock();
        let row = inner.rows.rows.get(key);
        inner.digest.wrapping_sub(row.map_or(0, |value| row_hash(key, value)))
    }

    /// Makes every call fail until the next [`MemoryState::crash`].
    pub fn fail(&self) {
        self.lock().failing = true;
    }
}

impl StateStore for MemoryState {
    fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        let inner = self.lock();
        inner.check()?;
        Ok(Box::new(View(inner.rows.clone())))
    }

    fn update(
        &self,
        work: &mut dyn FnMut(&mut dyn Keyspace) -> Result<(), KeyspaceError>,
    ) -> Result<(), KeyspaceError> {
        let mut inner = self.lock();
        inner.check()?;
        let mut transaction = Transaction { inner: &mut inner, undo: Vec::new() };
        work(&mut transaction)?;
        let undo = std::mem::take(&mut transaction.undo);
        drop(transaction);
        inner.unflushed.push(undo);
        Ok(())
    }

    fn flush(&self) -> Result<(), KeyspaceError> {
        let mut inner = self.lock();
        inner.check()?;
        inner.unflushed.clear();
        Ok(())
    }

    fn replace(&self, rows: &mut NewRows<'_>) -> Result<(), KeyspaceError> {
        let rows = MemoryKeyspace { rows: rows.collect::<Result<_, _>>()? };
        let mut inner = self.lock();
        inner.check()?;
        inner.bytes = rows.rows.iter().map(|(key, value)| row_bytes(key, value)).sum();
        inner.digest = rows.rows.iter().fold(0, |sum, (key, value)| sum.wrapping_add(row_hash(key, value)));
        inner.rows = Arc::new(rows);
        inner.unflushed.clear();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn room(&self) -> Option<u64> {
        None
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

/// Changes the rows at once and remembers how to undo it; undoes whatever is not taken out when it goes, also when the
/// work panicked.
struct Transaction<'s> {
    inner: &'s mut Inner,
    undo: Undo,
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        self.inner.roll_back(undo);
    }
}

impl Reader for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        self.inner.rows.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        self.inner.rows.scan(from, to, direction, visit)
    }
}

impl Keyspace for Transaction<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeyspaceError> {
        let before = self.inner.set(key, Some(value));
        self.undo.push((key.to_vec(), before));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KeyspaceError> {
        if let Some(before) = self.inner.set(key, None) {
            self.undo.push((key.to_vec(), Some(before)));
        }
        Ok(())
    }
}
