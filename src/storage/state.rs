//! The applied state on disk: one ordered table in a redb file.
//!
//! Updates commit without waiting for the disk; a flush makes all of them durable. After a crash the store holds
//! what the last flush left, whole, and the log replays the rest. Pages that updates free are reused only after a
//! flush, so the file grows until the caller flushes: flush every so many batches.

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable, Table,
    TableDefinition, WriteTransaction,
};

use crate::ledger::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use crate::node::ports::{StateStore, StorageError};

use super::{REMEDY, range_is_empty};

/// All rows.
const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");
/// What the file says about itself; `format` is the only key.
const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");
/// The format that this version writes and reads.
const FORMAT: u64 = 1;

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

/// The applied state in a redb file.
pub struct State {
    database: Arc<Database>,
    path: PathBuf,
}

/// redb's errors, sorted: what it calls corrupted is damage, all else is the medium's failure.
fn failure(error: impl Into<redb::Error>) -> KeyspaceError {
    match error.into() {
        redb::Error::Corrupted(why) => KeyspaceError::Damaged { key: "(unknown)".to_string(), why },
        other => KeyspaceError::Store(other.to_string()),
    }
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
        let state = State { database: Arc::new(database), path: path.to_path_buf() };
        match state.prepare() {
            Ok(FORMAT) => Ok(state),
            Ok(found) => Err(StorageError::Refused(format!(
                "{} has state format {found}, this version reads up to {FORMAT}: upgrade super-node",
                path.display()
            ))),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    /// Makes the tables of a new file; gives the format.
    fn prepare(&self) -> Result<u64, KeyspaceError> {
        let transaction = self.database.begin_write().map_err(failure)?;
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

    fn begin(&self, durability: Durability) -> Result<WriteTransaction, KeyspaceError> {
        let mut transaction = self.database.begin_write().map_err(failure)?;
        transaction.set_durability(durability).map_err(failure)?;
        Ok(transaction)
    }
}

impl StateStore for State {
    fn view(&self) -> Result<Box<dyn Reader + Send>, KeyspaceError> {
        let transaction = self.database.begin_read().map_err(failure)?;
        let rows = transaction.open_table(ROWS).map_err(failure)?;
        Ok(Box::new(View { rows, _database: self.database.clone() }))
    }

    fn update(
        &self,
        work: &mut dyn FnMut(&mut dyn Keyspace) -> Result<(), KeyspaceError>,
    ) -> Result<(), KeyspaceError> {
        let transaction = self.begin(Durability::None)?;
        let outcome = {
            let rows = transaction.open_table(ROWS).map_err(failure)?;
            work(&mut Rows { rows })
        };
        match outcome {
            Ok(()) => transaction.commit().map_err(failure),
            Err(error) => {
                transaction.abort().map_err(failure)?;
                Err(error)
            }
        }
    }

    fn flush(&self) -> Result<(), KeyspaceError> {
        self.begin(Durability::Immediate)?.commit().map_err(failure)
    }

    fn replace(&self, rows: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), KeyspaceError> {
        let transaction = self.begin(Durability::Immediate)?;
        transaction.delete_table(ROWS).map_err(failure)?;
        {
            let mut table = transaction.open_table(ROWS).map_err(failure)?;
            for (key, value) in rows {
                table.insert(key.as_slice(), value.as_slice()).map_err(failure)?;
            }
        }
        transaction.commit().map_err(failure)
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}

/// What a scan hands its rows to.
type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// A read transaction on the rows. The table keeps the transaction alive, but not the database, which it needs too.
struct View {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    _database: Arc<Database>,
}

/// A write transaction on the rows.
struct Rows<'t> {
    rows: Table<'t, &'static [u8], &'static [u8]>,
}

fn get(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, KeyspaceError> {
    Ok(rows.get(key).map_err(failure)?.map(|value| value.value().to_vec()))
}

fn scan(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    direction: Direction,
    visit: &mut Visit<'_>,
) -> Result<(), KeyspaceError> {
    if range_is_empty(from, to) {
        return Ok(());
    }
    let mut range = rows.range::<&[u8]>((from, to)).map_err(failure)?;
    loop {
        let row = match direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        };
        let Some(row) = row else { return Ok(()) };
        let (key, value) = row.map_err(failure)?;
        if visit(key.value(), value.value()).is_break() {
            return Ok(());
        }
    }
}

impl Reader for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        get(&self.rows, key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        scan(&self.rows, from, to, direction, visit)
    }
}

impl Reader for Rows<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyspaceError> {
        get(&self.rows, key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KeyspaceError> {
        scan(&self.rows, from, to, direction, visit)
    }
}

impl Keyspace for Rows<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeyspaceError> {
        self.rows.insert(key, value).map_err(failure).map(|_| ())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KeyspaceError> {
        self.rows.remove(key).map_err(failure).map(|_| ())
    }
}
