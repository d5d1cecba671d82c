//! MongoDB through its driver: the ports of [`super::ports`] for real.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use bson::{Bson, Document};
use futures_util::TryStreamExt as _;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, WriteConcern};
use mongodb::{Client, Collection, Database};

use crate::types::{Micros, UnixMillis};

use super::errors::{DUPLICATE_KEY, ProjectionError};
use super::ports::{self, Clock, Pending, Replaced, Replacement, Server, Updated, Visibility};

/// How long the driver looks for a server, unless the connection string says otherwise.
pub const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may take to be made, unless the connection string says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the driver looks after its servers, unless the connection string says otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the server waits for the write concern before it says that it is not met.
pub const WRITE_CONCERN_TIMEOUT: Duration = Duration::from_secs(8);

/// Where to project to. Its debug form hides the password.
#[derive(Clone)]
pub struct MongoSettings {
    /// The connection string, `mongodb://…` or `mongodb+srv://…`.
    pub uri: String,
    /// The database; one per cluster.
    pub database: String,
    /// `majority`, or the number of servers that must have a write. Always with the journal.
    pub write_concern: String,
}

impl fmt::Debug for MongoSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoSettings")
            .field("uri", &super::errors::redact_uri(&self.uri))
            .field("database", &self.database)
            .field("write_concern", &self.write_concern)
            .finish()
    }
}

impl MongoSettings {
    /// A connection string with the default database `super_node` and majority writes.
    pub fn new(uri: &str) -> Self {
        MongoSettings {
            uri: uri.to_string(),
            database: "super_node".to_string(),
            write_concern: "majority".to_string(),
        }
    }

    fn acknowledgment(&self) -> Result<Acknowledgment, ProjectionError> {
        if self.write_concern == "majority" {
            return Ok(Acknowledgment::Majority);
        }
        match self.write_concern.parse() {
            Ok(servers @ 1..=50) => Ok(Acknowledgment::Nodes(servers)),
            _ => Err(ProjectionError::Settings(format!(
                "write_concern '{}': use 'majority' or a number from 1 to 50",
                self.write_concern
            ))),
        }
    }
}

/// The clocks of the machine, under tokio.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    begun: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { begun: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        Micros(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep(&self, span: Duration) -> Pending<'_, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// Runs an operation of the driver under [`ports::OPERATION_TIMEOUT`].
pub(super) async fn bounded<T>(
    action: &'static str,
    operation: impl Future<Output = Result<T, ProjectionError>>,
) -> Result<T, ProjectionError> {
    ports::bounded(&SystemClock::default(), ports::OPERATION_TIMEOUT, action, operation).await
}

/// A client for a connection string, with short timeouts where the string names none.
pub(super) async fn client(uri: &str) -> Result<Client, ProjectionError> {
    // Resolving an SRV name may hang like any other operation.
    let parsed = bounded("resolve the connection string", async { Ok(ClientOptions::parse(uri).await?) });
    let mut options = parsed.await?;
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
    options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
    options.heartbeat_freq.get_or_insert(HEARTBEAT);
    options.app_name.get_or_insert_with(|| "super-node".to_string());
    Ok(Client::with_options(options)?)
}

/// Whether a database holds nothing at all, so that a new cluster may take it.
///
/// # Errors
/// Whatever the driver or the server says, such as that it cannot be reached or lets nobody in.
pub async fn is_unused(uri: &str, database: &str) -> Result<bool, ProjectionError> {
    let client = client(uri).await?;
    let collections = bounded("list the collections", async {
        Ok(client.database(database).list_collection_names().await?)
    });
    Ok(collections.await?.is_empty())
}

/// A database on a server.
pub struct Mongo {
    database: Database,
    acknowledgment: Acknowledgment,
    clock: SystemClock,
}

impl Mongo {
    /// Makes a client; the first operation will connect.
    ///
    /// # Errors
    /// When the settings cannot be used, or the name in them cannot be resolved.
    pub async fn connect(settings: &MongoSettings) -> Result<Mongo, ProjectionError> {
        let acknowledgment = settings.acknowledgment()?;
        let client = client(&settings.uri).await?;
        let concern = WriteConcern::builder()
            .w(acknowledgment.clone())
            .w_timeout(WRITE_CONCERN_TIMEOUT)
            .journal(true)
            .build();
        let options = mongodb::options::DatabaseOptions::builder().write_concern(concern).build();
        let database = client.database_with_options(&settings.database, options);
        Ok(Mongo { database, acknowledgment, clock: SystemClock::default() })
    }

    fn raw(&self, collection: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(collection)
    }

    fn write_concern(&self) -> RawDocumentBuf {
        let mut concern = RawDocumentBuf::new();
        match &self.acknowledgment {
            Acknowledgment::Nodes(servers) => concern.append(cstr!("w"), i64::from(*servers)),
            _ => concern.append(cstr!("w"), "majority"),
        }
        concern.append(cstr!("j"), true);
        let millis = i64::try_from(WRITE_CONCERN_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
        concern.append(cstr!("wtimeout"), millis);
        concern
    }
}

impl Clock for Mongo {
    fn now(&self) -> Micros {
        self.clock.now()
    }

    fn wall(&self) -> UnixMillis {
        self.clock.wall()
    }

    fn sleep(&self, span: Duration) -> Pending<'_, ()> {
        self.clock.sleep(span)
    }
}

impl Server for Mongo {
    fn prepare(&self) -> Pending<'_, Result<(), ProjectionError>> {
        Box::pin(super::schema::apply(&self.database))
    }

    fn find(
        &self,
        collection: &'static str,
        filter: Document,
        visibility: Visibility,
    ) -> Pending<'_, Result<Vec<RawDocumentBuf>, ProjectionError>> {
        let concern = match (visibility, &self.acknowledgment) {
            (Visibility::Settled, Acknowledgment::Majority) => ReadConcern::majority(),
            _ => ReadConcern::local(),
        };
        let collection = self.raw(collection);
        Box::pin(async move {
            let cursor = collection.find(filter).read_concern(concern).await?;
            Ok(cursor.try_collect().await?)
        })
    }

    fn insert<'a>(
        &'a self,
        collection: &'static str,
        documents: &'a [RawDocumentBuf],
    ) -> Pending<'a, Result<Vec<usize>, ProjectionError>> {
        let collection = self.raw(collection);
        Box::pin(async move {
            match collection.insert_many(documents).ordered(false).await {
                Ok(_) => Ok(Vec::new()),
                Err(error) => only_duplicates(&error).ok_or(ProjectionError::Driver(error)),
            }
        })
    }

    fn update(
        &self,
        collection: &'static str,
        filter: Document,
        change: Document,
        upsert: bool,
    ) -> Pending<'_, Result<Updated, ProjectionError>> {
        let collection = self.raw(collection);
        Box::pin(async move {
            let done = collection.update_one(filter, change).upsert(upsert).await?;
            Ok(Updated { matched: done.matched_count > 0, inserted: done.upserted_id.is_some() })
        })
    }

    fn delete(&self, collection: &'static str, filter: Document) -> Pending<'_, Result<(), ProjectionError>> {
        let collection = self.raw(collection);
        Box::pin(async move {
            collection.delete_one(filter).await?;
            Ok(())
        })
    }

    fn replace<'a>(
        &'a self,
        collection: &'static str,
        replacements: &'a [Replacement],
        upsert: bool,
    ) -> Pending<'a, Result<Replaced, ProjectionError>> {
        let mut updates = RawArrayBuf::new();
        for replacement in replacements {
            let mut update = RawDocumentBuf::new();
            update.append(cstr!("q"), replacement.filter.clone());
            update.append(cstr!("u"), replacement.document.clone());
            update.append(cstr!("upsert"), upsert);
            updates.push(update);
        }
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("update"), collection);
        command.append(cstr!("updates"), updates);
        command.append(cstr!("ordered"), false);
        command.append(cstr!("writeConcern"), self.write_concern());
        Box::pin(async move { read_reply(&self.database.run_raw_command(command).await?) })
    }
}

/// What the `update` command answered. The driver does not look into the answer of a raw command, so failed writes are
/// found here.
fn read_reply(reply: &Document) -> Result<Replaced, ProjectionError> {
    let failure = |error: &Document| ProjectionError::Write {
        action: "update members",
        code: error.get_i32("code").unwrap_or_default(),
        message: error.get_str("errmsg").unwrap_or("no message").to_string(),
    };
    let mut duplicates = Vec::new();
    for error in reply.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
        match (error.get_i32("code"), error.get_i32("index").map(usize::try_from)) {
            (Ok(DUPLICATE_KEY), Ok(Ok(index))) => duplicates.push(index),
            _ => return Err(failure(error)),
        }
    }
    if let Ok(error) = reply.get_document("writeConcernError") {
        return Err(failure(error));
    }
    let modified = reply.get_i32("nModified").unwrap_or_default();
    let upserted = reply.get_array("upserted").map(Vec::len).unwrap_or_default();
    let changed = u64::try_from(modified).unwrap_or_default() + upserted as u64;
    Ok(Replaced { changed, duplicates })
}

/// The positions of the documents that were already there; `None` if anything else went wrong too.
fn only_duplicates(error: &Error) -> Option<Vec<usize>> {
    let ErrorKind::InsertMany(insert) = error.kind.as_ref() else { return None };
    let errors = insert.write_errors.as_ref()?;
    if insert.write_concern_error.is_some() || errors.iter().any(|one| one.code != DUPLICATE_KEY) {
        return None;
    }
    Some(errors.iter().map(|one| one.index).collect())
}
