//! The applied state: rows in memory that are new, over one ordered table in a redb file.
//!
//! An update goes to memory only, which costs next to nothing; a flush moves what has gathered into the file, in one
//! durable transaction, while updates and reads go on. After a crash the file holds what the last flush left, whole, and
//! the log replays the rest. So a key that is written a thousand times between two flushes reaches the disk once.
//!
//! Each row in the file carries a checksum of its key and its value: a changed bit is damage, and never an answer.
//!
//! A view is the file as of some flush with one or two generations of new rows above it (see `overlay`): the
//! one that gathers, and the one that is being flushed.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, WriteTransaction,
};

use crate::ledger::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use crate::node::ports::{NewRows, StateStore, StorageError};
use crate::node::spool::Spool;

use super::overlay::{Change, Layer, Value, Version};
use super::spool::{self, FileSpool};
use super::{REMEDY, range_is_empty};

/// All rows.
const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");
/// What the file says about itself; `format` is the only key.
const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");
/// The format that this version writes and reads: every value is followed by [`CHECK_BYTES`] of checksum.
const FORMAT: u64 = 2;
/// The checksum behind a value: CRC-32 of the key's length, the key and the value, little-endian.
const CHECK_BYTES: usize = 4;
/// An update that finds so many bytes of new rows in memory flushes them itself, and waits for that: a disk that
/// is slower than the log is long holds the writers up, and memory stays bounded.
const LAYER_BYTES_MAX: usize = 128 << 20;

/// Settings of the state store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// Most memory that cached pages may take, in bytes. Grows with use, never beyond.
    pub cache_bytes: usize,
    /// Whether a store may be made where there is none. `false`: its absence is damage.
    pub create: bool,
    /// Whether to verify every page of a file that was closed in order. Reads the whole file. A file that was not
    /// is always verified.
    pub verify: bool,
}

impl Default for StateOptions {
    fn default() -> Self {
        StateOptions { cache_bytes: 32 << 20, create: true, verify: false }
    }
}

/// The applied state: new rows over a redb file.
pub struct State {
    database: Arc<Database>,
    path: PathBuf,
    front: Arc<Mutex<Front>>,
    /// Held by whoever changes rows.
    writing: Mutex<()>,
    /// Held by whoever changes the file.
    flushing: Mutex<()>,
}

/// The rows of the file as of its last change. The table keeps its transaction alive, but not the database, which it
/// needs too.
struct File {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    _database: Arc<Database>,
}

/// What the next view sees.
struct Front {
    /// The newest transaction.
    version: Version,
    gathering: Arc<Layer>,
    /// On its way into the file.
    flushing: Option<Arc<Layer>>,
    file: Arc<File>,
    /// How many views of each version are open.
    views: BTreeMap<Version, usize>,
}

/// redb's errors, sorted: what it calls corrupted is damage, all else is the medium's failure.
fn failure(error: impl Into<redb::Error>) -> KeyspaceError {
    match error.into() {
        redb::Error::Corrupted(why) => KeyspaceError::Damaged { key: "(unknown)".to_string(), why },
        other => KeyspaceError::Store(other.to_string()),
    }
}

/// Calls into redb to read. It asserts what it reads of its own bookkeeping, so damage there may end in a panic.
fn guarded<T>(read: impl FnOnce() -> Result<T, redb::StorageError>) -> Result<T, KeyspaceError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(failure),
        Err(_) => Err(KeyspaceError::Damaged {
            key: "(unknown)".to_string(),
            why: "the file's bookkeeping contradicts itself".to_string(),
        }),
    }
}

fn check_of(key: &[u8], value: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

/// What the file keeps of a value.
fn pack(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + CHECK_BYTES);
    stored.extend_from_slice(value);
    stored.extend_from_slice(&check_of(key, value));
    stored
}

/// The value in what the file keeps.
fn unpack<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], KeyspaceError> {
    match stored.split_last_chunk::<CHECK_BYTES>() {
        Some((value, check)) if *check == check_of(key, value) => Ok(value),
        _ => Err(KeyspaceError::Damaged {
            key: String::from_utf8_lossy(key).into_owned(),
            why: "its checksum does not fit".to_string(),
        }),
    }
}

/// Where the rows of an arriving snapshot wait.
fn spool_path(path: &Path) -> PathBuf {
    path.with_extension("incoming")
}

fn damaged(path: &Path, why: String) -> StorageError {
    StorageError::Damaged { path: path.display().to_string(), offset: 0, why: format!("{why}; {REMEDY}") }
}

/// Opens the file; `None`: it was to be verified, and has changed.
fn open_database(path: &Path, options: &StateOptions) -> Result<Option<Database>, DatabaseError> {
    let mut database = Database::builder().set_cache_size(options.cache_bytes).create(path)?;
    let sound = !options.verify || database.check_integrity()?;
    Ok(sound.then_some(database))
}

fn refusal(path: &Path, error: DatabaseError) -> StorageError {
    let shown = path.display();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StorageError::Refused(format!(
            "{shown} is in use by another process: stop that one, or use another --data-dir"
        )),
        DatabaseError::UpgradeRequired(format) => StorageError::Refused(format!(
            "{shown} has file format {format}, which this version cannot read: use the version that wrote it"
        )),
        DatabaseError::Storage(redb::StorageError::Io(source)) => match source.kind() {
            // redb's word for a file that does not begin like one of its own, or ends too early.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                damaged(path, format!("not a state store: {source}"))
            }
            _ => StorageError::Io { action: "open", path: shown.to_string(), source },
        },
        other => damaged(path, other.to_string()),
    }
}

impl State {
    /// Opens the store in a file, or makes one if [`StateOptions::create`] allows. After a crash this reads the
    /// whole file once, to verify it. A changed page of a file that was closed in order is noticed when redb stumbles
    /// over it, or with [`StateOptions::verify`].
    pub fn open(path: &Path, options: &StateOptions) -> Result<State, StorageError> {
        let damaged = |why| damaged(path, why);
        if !options.create && !path.exists() {
            return Err(damaged("the applied state is missing".to_string()));
        }
        // redb asserts what it reads of its own bookkeeping, so damage there ends in a panic.
        let opened = std::panic::catch_unwind(|| open_database(path, options));
        let database = match opened {
            Ok(Ok(Some(database))) => database,
            Ok(Ok(None)) => return Err(damaged("some of its pages have changed".to_string())),
            Ok(Err(error)) => return Err(refusal(path, error)),
            Err(_) => return Err(damaged("its bookkeeping contradicts itself".to_string())),
        };
        let database = Arc::new(database);
        match prepare(&database) {
            Ok(FORMAT) => {}
            Ok(found) if found < FORMAT => {
                return Err(StorageError::Refused(format!(
                    "{} has state format {found} of an earlier version, and this one reads {FORMAT}: give the node an \
                     empty data directory and start it with --join",
                    path.display()
                )));
            }
            Ok(found) => {
                return Err(StorageError::Refused(format!(
                    "{} has state format {found}, this version reads up to {FORMAT}: upgrade super-node",
                    path.display()
                )));
            }
            Err(error) => return Err(damaged(error.to_string())),
        };
        let file = File::read(&database).map_err(|error| damaged(error.to_string()))?;
        let left = spool_path(path);
        spool::remove(&left).map_err(|source| StorageError::Io {
            action: "remove",
            path: left.display().to_string(),
            source,
        })?;
        let front = Front {
            version: 0,
            gathering: Arc::default(),
            flushing: None,
            file: Arc::new(file),
            views: BTreeMap::new(),
        };
        Ok(State {
            database,
            path: path.to_path_buf(),
            front: Arc::new(Mutex::new(front)),
            writing: Mutex::default(),
            flushing: Mutex::default(),
        })
    }

    /// A durable transaction. It also records what makes opening after a crash quick: without that, redb reads the
    /// whole file.
    fn begin(&self) -> Result<WriteTransaction, KeyspaceError> {
        let mut transaction = self.database.begin_write().map_err(failure)?;
        transaction.set_durability(Durability::Immediate).map_err(failure)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }
}

impl Front {
    /// What is there now.
    fn layers(&self) -> Layers {
        Layers {
            version: self.version,
            layers: std::iter::once(&self.gathering).chain(&self.flushing).cloned().collect(),
            file: Arc::clone(&self.file),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the tables of a new file; gives the format.
fn prepare(database: &Database) -> Result<u64, KeyspaceError> {
    let transaction = database.begin_write().map_err(failure)?;
    let format = {
        let mut about = transaction.open_table(ABOUT).map_err(failure)?;
        let found = about.get("format").map_err(failure)?.map(|format| format.value());
        if found.is_none() {
            about.insert("format", FORMAT).map_err(failure)?;
            transaction.open_table(ROWS).map_err(failure)?;
        }
        found
    };
    match format {
        Some(format) => transaction.abort().map_err(failure).map(|()| format),
        None => transaction.commit().map_err(failure).map(|()| FORMAT),
    }
}

impl File {
    fn read(database: &Arc<Database>) -> Result<File, KeyspaceError> {
        let transaction = database.begin_read().map_err(failure)?;
        let rows = transaction.open_table(ROWS).map_err(failure)?;
        Ok(File { rows, _database: Arc::clone(database) })
    }
}

impl StateStore for State {
    fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        let mut front = lock(&self.front);
        let version = front.version;
        *front.views.entry(version).or_default() += 1;
        let layers = front.layers();
        drop(front);
        Ok(Box::new(View { layers, _claim: Claim { version, front: Arc::clone(&self.front) } }))
    }

    fn update(
        &self,
        work: &mut dyn FnMut(&mut dyn Keyspace) -> Result<(), KeyspaceError>,
    ) -> Result<(), KeyspaceError> {
        let _alone = lock(&self.writing);
        let full = lock(&self.front).gathering.bytes() >= LAYER_BYTES_MAX;
        if full {
            self.flush()?;
        }
        // No claim on what it sees: nobody else writes meanwhile.
        let mut rows = Rows { present: lock(&self.front).layers(), changes: BTreeMap::new() };
        work(&mut rows)?;
        let mut front = lock(&self.front);
        front.version += 1;
        let newest_view = front.views.last_key_value().map(|(version, _)| *version);
        let seen = |from: Version| newest_view.is_some_and(|view| view >= from);
        front.gathering.commit(front.version, rows.changes, seen);
        Ok(())
    }

    fn flush(&self) -> Result<(), KeyspaceError> {
        let _alone = lock(&self.flushing);
        let full = {
            let mut front = lock(&self.front);
            match &front.flushing {
                // An earlier flush failed. Its rows are still to be seen, but the process is about to end.
                Some(_) => return Err(KeyspaceError::Store("an earlier flush failed".to_string())),
                None if front.gathering.is_empty() => return Ok(()),
                None => {}
            }
            let full = std::mem::take(&mut front.gathering);
            front.flushing = Some(Arc::clone(&full));
            full
        };
        let transaction = self.begin()?;
        {
            let mut table = transaction.open_table(ROWS).map_err(failure)?;
            full.for_each(|key, value| match value {
                Some(value) => {
                    let stored = pack(key, value);
                    table.insert(key, stored.as_slice()).map_err(failure).map(|_| ())
                }
                None => table.remove(key).map_err(failure).map(|_| ()),
            })?;
        }
        transaction.commit().map_err(failure)?;
        let file = Arc::new(File::read(&self.database)?);
        let mut front = lock(&self.front);
        (front.file, front.flushing) = (file, None);
        Ok(())
    }

    fn replace(&self, rows: &mut NewRows<'_>) -> Result<(), KeyspaceError> {
        let _alone = (lock(&self.writing), lock(&self.flushing));
        let transaction = self.begin()?;
        transaction.delete_table(ROWS).map_err(failure)?;
        {
            let mut table = transaction.open_table(ROWS).map_err(failure)?;
            for row in rows {
                let (key, value) = row?;
                let stored = pack(&key, &value);
                table.insert(key.as_slice(), stored.as_slice()).map_err(failure)?;
            }
        }
        transaction.commit().map_err(failure)?;
        let file = Arc::new(File::read(&self.database)?);
        let mut front = lock(&self.front);
        front.version += 1;
        (front.gathering, front.flushing, front.file) = (Arc::default(), None, file);
        Ok(())
    }

    fn spool(&self) -> Box<dyn Spool> {
        Box::new(FileSpool::new(spool_path(&self.path)))
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    fn room(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.path).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// What a scan hands its rows to.
type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// The rows as of one version: new ones, newest generation first, over the file.
struct Layers {
    version: Version,
    layers: Vec<Arc<Layer>>,
    file: Arc<File>,
}

/// Keeps what a view sees from being forgotten.
struct Claim {
    version: Version,
    front: Arc<Mutex<Front>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut front = lock(&self.front);
        if let Some(views) = front.views.get_mut(&self.version) {
            *views -= 1;
            if *views == 0 {
                front.views.remove(&self.version);
            }
        }
    }
}

/// What a reader holds.
struct View {
    layers: Layers,
    _claim: Claim,
}

/// A transaction: its own changes over what is there.
struct Rows {
    present: Layers,
    changes: BTreeMap<Vec<u8>, Value>,
}

/// Changes in the order of a scan.
type Source<'s> = Box<dyn Iterator<Item = Result<Change, KeyspaceError>> + 's>;

impl Layers {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        for layer in &self.layers {
            if let Some(value) = layer.get(key, self.version) {
                return Ok(value.map(|value| value.to_vec()));
            }
        }
        let Some(stored) = guarded(|| self.file.rows.get(key))? else { return Ok(None) };
        Ok(Some(unpack(key, stored.value())?.to_vec()))
    }

    /// The newest source first.
    fn sources(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Vec<Source<'_>>, KeyspaceError> {
        let mut sources: Vec<Source<'_>> = Vec::new();
        for layer in &self.layers {
            sources.push(Box::new(layer.range(self.version, from, to, direction).map(Ok)));
        }
        let mut range = guarded(|| self.file.rows.range::<&[u8]>((from, to)))?;
        sources.push(Box::new(std::iter::from_fn(move || {
            let row = guarded(|| {
                match direction {
                    Direction::Forward => range.next(),
                    Direction::Backward => range.next_back(),
                }
                .transpose()
            });
            let row = match row {
                Ok(row) => row?,
                Err(error) => return Some(Err(error)),
            };
            let (key, stored) = (row.0.value().to_vec(), row.1.value());
            let value = unpack(&key, stored).map(|value| Some(Bytes::copy_from_slice(value)));
            Some(value.map(|value| (key, value)))
        })));
        Ok(sources)
    }
}

/// Visits the rows of several sources as one; of a key that several have, the first source's word counts.
fn merge(sources: Vec<Source<'_>>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), KeyspaceError> {
    let mut sources: Vec<_> = sources.into_iter().map(Iterator::peekable).collect();
    loop {
        let mut next: Option<&[u8]> = None;
        for source in &mut sources {
            match source.peek() {
                Some(Ok((key, _))) => {
                    let earlier = next.is_none_or(|next| match direction {
                        Direction::Forward => key.as_slice() < next,
                        Direction::Backward => key.as_slice() > next,
                    });
                    if earlier {
                        next = Some(key);
                    }
                }
                Some(Err(error)) => return Err(error.clone()),
                None => {}
            }
        }
        let Some(key) = next.map(<[u8]>::to_vec) else { return Ok(()) };
        let mut word = None;
        for source in &mut sources {
            let same = |row: &Result<Change, KeyspaceError>| matches!(row, Ok((found, _)) if *found == key);
            if let Some(Ok((_, value))) = source.next_if(same) {
                word.get_or_insert(value);
            }
        }
        if let Some(Some(value)) = word
            && visit(&key, &value).is_break()
        {
            return Ok(());
        }
    }
}

impl Reader for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        self.layers.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        if range_is_empty(from, to) {
            return Ok(());
        }
        merge(self.layers.sources(from, to, direction)?, direction, visit)
    }
}

impl Reader for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.as_ref().map(|value| value.to_vec())),
            None => self.present.get(key),
        }
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        if range_is_empty(from, to) {
            return Ok(());
        }
        let own =
            self.changes.range::<[u8], _>((from, to)).map(|(key, value)| Ok((key.clone(), value.clone())));
        let mut sources: Vec<Source<'_>> = vec![match direction {
            Direction::Forward => Box::new(own),
            Direction::Backward => Box::new(own.rev()),
        }];
        sources.extend(self.present.sources(from, to, direction)?);
        merge(sources, direction, visit)
    }
}

impl Keyspace for Rows {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeyspaceError> {
        self.set(key, Some(Bytes::copy_from_slice(value)));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KeyspaceError> {
        self.set(key, None);
        Ok(())
    }
}

impl Rows {
    fn set(&mut self, key: &[u8], value: Value) {
        match self.changes.get_mut(key) {
            Some(known) => *known = value,
            None => drop(self.changes.insert(key.to_vec(), value)),
        }
    }
}
