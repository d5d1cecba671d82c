//! One MongoDB database: claim it, write a batch, move the checkpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use bson::raw::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr};
use bson::{Bson, DateTime, Document, RawBsonRef, doc};
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, WriteConcern};
use mongodb::{Client, Collection, Database};

use crate::ledger::records::{Checkpoint, Genesis, Member};
use crate::types::{NodeId, Term};

use super::documents::{
    self, ELECTIONS, INTERVALS, MEMBERS, OBSERVATIONS, PROJECTION, REWARDS, read_projection,
};
use super::errors::{DUPLICATE_KEY, ProjectionError};
use super::feed::Batch;

/// How long one operation may take before it is given up and reconciled through the checkpoint.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the driver looks for a server, unless the connection string says otherwise.
pub const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may take to be made, unless the connection string says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the driver looks after its servers, unless the connection string says otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the server waits for the write concern before it says that it is not met.
pub const WRITE_CONCERN_TIMEOUT: Duration = Duration::from_secs(8);
/// Documents per insert command, and members per update command.
pub const CHUNK_DOCUMENTS: usize = 1_000;
/// Insert commands of one collection in flight at once.
pub const CHUNKS_IN_FLIGHT: usize = 4;

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

/// Runs an operation under [`OPERATION_TIMEOUT`].
pub(super) async fn bounded<T>(
    action: &'static str,
    operation: impl Future<Output = Result<T, ProjectionError>>,
) -> Result<T, ProjectionError> {
    match tokio::time::timeout(OPERATION_TIMEOUT, operation).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ProjectionError::Timeout { action, seconds: OPERATION_TIMEOUT.as_secs() }),
    }
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

/// How many documents of a batch were not there before, per collection.
pub type Written = BTreeMap<&'static str, u64>;

/// A database that this cluster may project into.
pub struct Target {
    database: Database,
    name: String,
    acknowledgment: Acknowledgment,
    genesis: Genesis,
    node: NodeId,
}

impl Target {
    /// Connects, prepares collections and indexes, claims the database for this cluster, and reads how far it is.
    ///
    /// # Errors
    /// [`ProjectionError::WrongCluster`] when the database is another cluster's; whatever the server says.
    pub async fn open(
        settings: &MongoSettings,
        genesis: Genesis,
        node: NodeId,
    ) -> Result<(Target, Checkpoint), ProjectionError> {
        let acknowledgment = settings.acknowledgment()?;
        let client = client(&settings.uri).await?;
        let concern = WriteConcern::builder()
            .w(acknowledgment.clone())
            .w_timeout(WRITE_CONCERN_TIMEOUT)
            .journal(true)
            .build();
        let options = mongodb::options::DatabaseOptions::builder().write_concern(concern).build();
        let database = client.database_with_options(&settings.database, options);
        let target = Target { database, name: settings.database.clone(), acknowledgment, genesis, node };
        super::schema::apply(&target.database).await?;
        let checkpoint = target.claim().await?;
        Ok((target, checkpoint))
    }

    fn raw(&self, collection: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(collection)
    }

    fn wrong_cluster(&self, found: &documents::Projection) -> ProjectionError {
        let short = |name: &str, identity: &str| format!("{name} ({identity:.8})");
        ProjectionError::WrongCluster {
            database: self.name.clone(),
            found: short(&found.cluster, &found.identity),
            expected: short(&self.genesis.cluster, &self.genesis.identity),
        }
    }

    /// Reads the projection document that matches, by majority when writes are by majority: what might still be
    /// rolled back does not count.
    async fn find_projection(
        &self,
        filter: Document,
    ) -> Result<Option<documents::Projection>, ProjectionError> {
        let concern = match self.acknowledgment {
            Acknowledgment::Majority => ReadConcern::majority(),
            _ => ReadConcern::local(),
        };
        let projection = self.raw(PROJECTION);
        let reading = async { Ok(projection.find_one(filter).read_concern(concern).await?) };
        let found = bounded("read the checkpoint", reading).await?;
        let read = |document: RawDocumentBuf| {
            read_projection(&document).map_err(|error| ProjectionError::Unreadable(error.to_string()))
        };
        found.map(read).transpose()
    }

    /// Makes this cluster's projection document if the database is nobody's, and reads it.
    async fn claim(&self) -> Result<Checkpoint, ProjectionError> {
        let cluster = self.genesis.cluster.as_str();
        let of_another = doc! { "_id": { "$ne": cluster } };
        // Sequences are `_id`s, so two clusters in one database would take each other's records for their own.
        if let Some(other) = self.find_projection(of_another.clone()).await? {
            return Err(self.wrong_cluster(&other));
        }
        let first = doc! {
            "$setOnInsert": {
                "identity": &self.genesis.identity,
                "checkpoint": 0_i64, "intervals": 0_i64, "elections": 0_i64, "members": 0_i64,
                "term": 0_i64, "node": self.node.as_str(), "at": DateTime::now(),
            }
        };
        let projection = self.raw(PROJECTION);
        let claiming =
            async { Ok(projection.update_one(doc! { "_id": cluster }, first).upsert(true).await?) };
        let made = bounded("claim the database", claiming).await?.upserted_id.is_some();
        // Two clusters may have claimed at once: whoever then sees the other gives way and comes back later.
        if let Some(other) = self.find_projection(of_another).await? {
            if made {
                let ours = doc! { "_id": cluster, "identity": &self.genesis.identity, "checkpoint": 0_i64 };
                bounded("give way", async { Ok(projection.delete_one(ours).await?) }).await?;
            }
            return Err(self.wrong_cluster(&other));
        }
        let found = self.find_projection(doc! { "_id": cluster }).await?;
        let found = found.ok_or_else(|| ProjectionError::ClaimLost(cluster.to_string()))?;
        if found.identity != self.genesis.identity {
            return Err(self.wrong_cluster(&found));
        }
        Ok(found.checkpoint)
    }

    /// Writes a batch. When it returns, everything in it is in MongoDB under the write concern; the checkpoint has
    /// not moved. May be repeated, and may overlap with another writer.
    pub async fn write(&self, batch: &Batch) -> Result<Written, ProjectionError> {
        let rewards = batch.rewards.iter().map(documents::movement).collect();
        let observations = batch.observations.iter().map(documents::observation).collect();
        let elections = batch.elections.iter().map(documents::election).collect();
        let (rewards, observations, elections) = tokio::try_join!(
            self.insert(REWARDS, rewards),
            self.insert(OBSERVATIONS, observations),
            self.insert(ELECTIONS, elections),
        )?;
        // Only now: who finds an interval finds its evidence and its payments, and the members reflect them.
        let intervals = batch.intervals.iter().map(documents::interval).collect();
        let intervals = self.insert(INTERVALS, intervals).await?;
        let members = self.replace_members(&batch.members).await?;
        Ok([
            (REWARDS, rewards),
            (OBSERVATIONS, observations),
            (ELECTIONS, elections),
            (INTERVALS, intervals),
            (MEMBERS, members),
        ]
        .into())
    }

    /// Moves the checkpoint forward, never back, and says who moved it.
    pub async fn advance(&self, upto: Checkpoint, term: Term) -> Result<(), ProjectionError> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let ours = doc! { "_id": &self.genesis.cluster, "identity": &self.genesis.identity };
        let change = doc! {
            "$max": {
                "checkpoint": signed(upto.rewards),
                "intervals": signed(upto.intervals.0),
                "elections": signed(upto.elections.0),
                "members": signed(upto.members.0),
                "term": signed(term.0),
                "at": DateTime::now(),
            },
            "$set": { "node": self.node.as_str() },
        };
        let projection = self.raw(PROJECTION);
        let moving = async { Ok(projection.update_one(ours, change).await?) };
        match bounded("move the checkpoint", moving).await?.matched_count {
            0 => Err(ProjectionError::ClaimLost(self.genesis.cluster.clone())),
            _ => Ok(()),
        }
    }

    async fn insert(
        &self,
        collection: &'static str,
        documents: Vec<RawDocumentBuf>,
    ) -> Result<u64, ProjectionError> {
        let mut inserted = 0;
        for group in documents.chunks(CHUNK_DOCUMENTS * CHUNKS_IN_FLIGHT) {
            let inserts: Vec<_> =
                group.chunks(CHUNK_DOCUMENTS).map(|chunk| self.insert_chunk(collection, chunk)).collect();
            inserted += try_join_all(inserts).await?.iter().sum::<u64>();
        }
        Ok(inserted)
    }

    async fn insert_chunk(
        &self,
        collection: &'static str,
        documents: &[RawDocumentBuf],
    ) -> Result<u64, ProjectionError> {
        let target = self.raw(collection);
        let inserting = async { Ok(target.insert_many(documents).ordered(false).await) };
        match bounded("insert", inserting).await? {
            Ok(_) => Ok(documents.len() as u64),
            Err(error) => {
                let duplicates = only_duplicates(&error).ok_or(ProjectionError::Driver(error))?;
                let present: Vec<&RawDocumentBuf> =
                    duplicates.iter().filter_map(|at| documents.get(*at)).collect();
                self.compare(collection, &present).await?;
                Ok((documents.len() - duplicates.len()) as u64)
            }
        }
    }

    /// Checks that what is already there is what we would have written.
    async fn compare(
        &self,
        collection: &'static str,
        expected: &[&RawDocumentBuf],
    ) -> Result<(), ProjectionError> {
        let ids: Vec<Bson> = expected.iter().filter_map(|document| id_value(document)).collect();
        let target = self.raw(collection);
        let reading = async {
            let cursor = target.find(doc! { "_id": { "$in": ids } }).await?;
            Ok(cursor.try_collect::<Vec<RawDocumentBuf>>().await?)
        };
        let found = bounded("compare duplicates", reading).await?;
        let found: BTreeMap<Vec<u8>, &RawDocumentBuf> =
            found.iter().map(|document| (id_key(document), document)).collect();
        for expected in expected {
            let Some(found) = found.get(&id_key(expected)) else {
                return Err(ProjectionError::Write {
                    action: "compare duplicates",
                    code: 112,
                    message: "a document disappeared meanwhile".to_string(),
                });
            };
            if found.as_bytes() != expected.as_bytes() {
                return Err(ProjectionError::Differs { collection, id: id_text(expected) });
            }
        }
        Ok(())
    }

    /// Sets members to absolute values, each only where MongoDB holds an older one.
    async fn replace_members(&self, members: &[Member]) -> Result<u64, ProjectionError> {
        let mut changed = 0;
        for chunk in members.chunks(CHUNK_DOCUMENTS) {
            let reply = self.update_members(chunk.iter(), true).await?;
            changed += reply.changed;
            // The filter asks for an older document. A duplicate key says that there is one which is not older, or
            // that another writer made an older one in the same moment: an update without insertion tells which.
            if !reply.duplicates.is_empty() {
                let raced = reply.duplicates.iter().filter_map(|at| chunk.get(*at));
                changed += self.update_members(raced, false).await?.changed;
            }
        }
        Ok(changed)
    }

    async fn update_members(
        &self,
        members: impl Iterator<Item = &Member>,
        upsert: bool,
    ) -> Result<UpdateReply, ProjectionError> {
        let mut updates = RawArrayBuf::new();
        for member in members {
            let mut older = RawDocumentBuf::new();
            older.append(cstr!("$lt"), i64::try_from(member.index.0).unwrap_or(i64::MAX));
            let mut filter = RawDocumentBuf::new();
            filter.append(cstr!("_id"), member.id.as_str());
            filter.append(cstr!("index"), older);
            let mut update = RawDocumentBuf::new();
            update.append(cstr!("q"), filter);
            update.append(cstr!("u"), documents::member(member));
            update.append(cstr!("upsert"), upsert);
            updates.push(update);
        }
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("update"), MEMBERS);
        command.append(cstr!("updates"), updates);
        command.append(cstr!("ordered"), false);
        command.append(cstr!("writeConcern"), self.write_concern());
        let updating = async { Ok(self.database.run_raw_command(command).await?) };
        UpdateReply::read(&bounded("update members", updating).await?)
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

/// What the `update` command answered.
struct UpdateReply {
    changed: u64,
    duplicates: Vec<usize>,
}

impl UpdateReply {
    /// The driver does not look into the answer of a raw command, so failed writes are found here.
    fn read(reply: &Document) -> Result<UpdateReply, ProjectionError> {
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
        Ok(UpdateReply { changed: u64::try_from(modified).unwrap_or_default() + upserted as u64, duplicates })
    }
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

fn id_value(document: &RawDocument) -> Option<Bson> {
    document.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok())
}

/// Bytes that order and identify the `_id` of a document.
pub(super) fn id_key(document: &RawDocument) -> Vec<u8> {
    match document.get("_id") {
        Ok(Some(RawBsonRef::Int64(id))) => id.to_be_bytes().to_vec(),
        Ok(Some(RawBsonRef::String(id))) => id.as_bytes().to_vec(),
        Ok(Some(RawBsonRef::Document(id))) => id.as_bytes().to_vec(),
        other => format!("{other:?}").into_bytes(),
    }
}

/// The `_id` of a document for people.
pub(super) fn id_text(document: &RawDocument) -> String {
    id_value(document).map_or_else(|| "without _id".to_string(), |id| id.to_string())
}
