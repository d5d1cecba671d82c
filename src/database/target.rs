//! One MongoDB database: claim it, write a batch, move the checkpoint.

use std::collections::BTreeMap;
use std::future::Future;

use bson::raw::{RawDocumentBuf, cstr};
use bson::{Bson, DateTime, Document, doc};
use futures_util::future::{try_join_all, try_join3};

use crate::ledger::records::{Checkpoint, Genesis, Member};
use crate::types::{NodeId, Term};

use super::documents::{
    self, ELECTIONS, INTERVALS, MEMBERS, OBSERVATIONS, PROJECTION, REWARDS, id_key, id_text, id_value,
    read_projection, signed,
};
use super::errors::ProjectionError;
use super::feed::Batch;
use super::mongo::{Mongo, MongoSettings};
use super::piece::Piece;
use super::ports::{Limits, Replacement, Server, Visibility, Written, bounded};

/// A write met a document that was no longer there when it was looked at: a code of MongoDB that asks for another try.
const WRITE_CONFLICT: i32 = 112;

/// A database that this cluster may project into.
pub struct Target<S> {
    server: S,
    name: String,
    genesis: Genesis,
    node: NodeId,
    limits: Limits,
}

impl Target<Mongo> {
    /// Connects, and then as [`Target::claim`].
    ///
    /// # Errors
    /// [`ProjectionError::WrongCluster`] when the database is another cluster's; whatever the server says.
    pub async fn open(
        settings: &MongoSettings,
        genesis: Genesis,
        node: NodeId,
    ) -> Result<(Target<Mongo>, Checkpoint), ProjectionError> {
        let server = Mongo::connect(settings).await?;
        Target::claim(server, &settings.database, genesis, node, Limits::default()).await
    }
}

impl<S: Server> Target<S> {
    /// Prepares collections and indexes, claims the database for this cluster, and reads how far it is. `name` is the
    /// database's, for people.
    ///
    /// What is read may not be durable yet: an older writer may be moving the checkpoint at this moment. It says where to
    /// go on, and no more, until [`Target::advance`] has confirmed it.
    ///
    /// # Errors
    /// [`ProjectionError::WrongCluster`] when the database is another cluster's; whatever the server says.
    pub async fn claim(
        server: S,
        name: &str,
        genesis: Genesis,
        node: NodeId,
        limits: Limits,
    ) -> Result<(Target<S>, Checkpoint), ProjectionError> {
        let target = Target { server, name: name.to_string(), genesis, node, limits };
        target.server.prepare().await?;
        let checkpoint = target.take().await?;
        Ok((target, checkpoint))
    }

    async fn bounded<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, ProjectionError>>,
    ) -> Result<T, ProjectionError> {
        bounded(&self.server, self.limits.patience, action, operation).await
    }

    fn now(&self) -> DateTime {
        DateTime::from_millis(self.server.wall().0)
    }

    fn wrong_cluster(&self, found: &documents::Projection) -> ProjectionError {
        let short = |name: &str, identity: &str| format!("{name} ({identity:.8})");
        ProjectionError::WrongCluster {
            database: self.name.clone(),
            found: short(&found.cluster, &found.identity),
            expected: short(&self.genesis.cluster, &self.genesis.identity),
        }
    }

    /// Reads the projection document that matches; what might still be rolled back does not count.
    async fn find_projection(
        &self,
        filter: Document,
    ) -> Result<Option<documents::Projection>, ProjectionError> {
        let reading = self.server.find(PROJECTION, filter, Visibility::Settled);
        let found = self.bounded("read the checkpoint", reading).await?;
        let read = |document: &RawDocumentBuf| {
            read_projection(document).map_err(|error| ProjectionError::Unreadable(error.to_string()))
        };
        found.first().map(read).transpose()
    }

    /// Makes this cluster's projection document if the database is nobody's, and reads it.
    async fn take(&self) -> Result<Checkpoint, ProjectionError> {
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
                "term": 0_i64, "node": self.node.as_str(), "at": self.now(),
            }
        };
        let claiming = self.server.update(PROJECTION, doc! { "_id": cluster }, first, true);
        let made = self.bounded("claim the database", claiming).await?.inserted;
        // Two clusters may have claimed at once: whoever then sees the other gives way and comes back later.
        if let Some(other) = self.find_projection(of_another).await? {
            if made {
                let ours = doc! { "_id": cluster, "identity": &self.genesis.identity, "checkpoint": 0_i64 };
                self.bounded("give way", self.server.delete(PROJECTION, ours)).await?;
            }
            return Err(self.wrong_cluster(&other));
        }
        self.checkpoint().await
    }

    /// Where the projection document stands.
    ///
    /// # Errors
    /// [`ProjectionError::ClaimLost`] when it is gone, [`ProjectionError::WrongCluster`] when it is another's; whatever the
    /// server says.
    pub async fn checkpoint(&self) -> Result<Checkpoint, ProjectionError> {
        let cluster = self.genesis.cluster.as_str();
        let found = self.find_projection(doc! { "_id": cluster }).await?;
        let found = found.ok_or_else(|| ProjectionError::ClaimLost(cluster.to_string()))?;
        if found.identity != self.genesis.identity {
            return Err(self.wrong_cluster(&found));
        }
        Ok(found.checkpoint)
    }

    /// Writes a batch, both halves of it, one after the other. When it returns, everything in it is in MongoDB under the
    /// write concern; the checkpoint has not moved. May be repeated, and may overlap with another writer.
    ///
    /// # Errors
    /// [`ProjectionError::Differs`] when a record is there with other contents; whatever the server says. Some of the
    /// batch may have been written.
    pub async fn write(&self, batch: Batch) -> Result<Written, ProjectionError> {
        let piece = Piece::from(batch);
        let mut written = self.write_records(&piece).await?;
        written.extend(self.write_conclusions(&piece).await?);
        Ok(written)
    }

    /// The first half of a batch: movements, observations and elections, which refer to nothing that must be there before
    /// them. Batches may overlap in it.
    ///
    /// # Errors
    /// As [`Target::write`].
    pub async fn write_records(&self, piece: &Piece) -> Result<Written, ProjectionError> {
        let (rewards, observations, elections) = try_join3(
            self.insert(REWARDS, &piece.rewards),
            self.insert(OBSERVATIONS, &piece.observations),
            self.insert(ELECTIONS, &piece.elections),
        )
        .await?;
        Ok([(REWARDS, rewards), (OBSERVATIONS, observations), (ELECTIONS, elections)].into())
    }

    /// The second half, once the first half of this batch and of all before it is there: whoever finds an interval finds
    /// its evidence and its payments, and the members reflect them.
    ///
    /// # Errors
    /// As [`Target::write`].
    pub async fn write_conclusions(&self, piece: &Piece) -> Result<Written, ProjectionError> {
        let intervals = self.insert(INTERVALS, &piece.intervals).await?;
        let members = self.replace_members(&piece.batch.members).await?;
        Ok([(INTERVALS, intervals), (MEMBERS, members)].into())
    }

    /// Moves the checkpoint forward, never back, and says who moved it. When it returns, the checkpoint is at least
    /// there for good. It must still be at `from` or beyond, where this session has seen it: otherwise somebody has put
    /// an older state of the database in place meanwhile, and what lies between would be skipped.
    ///
    /// # Errors
    /// [`ProjectionError::ClaimLost`] when the projection document is gone, [`ProjectionError::WentBack`] when it is
    /// behind `from`, [`ProjectionError::WrongCluster`] when it is another's; whatever the server says.
    pub async fn advance(
        &self,
        from: Checkpoint,
        upto: Checkpoint,
        term: Term,
    ) -> Result<(), ProjectionError> {
        let at_least = |cursor: u64| doc! { "$gte": signed(cursor) };
        let ours = doc! {
            "_id": &self.genesis.cluster,
            "identity": &self.genesis.identity,
            "checkpoint": at_least(from.rewards),
            "intervals": at_least(from.intervals.0),
            "elections": at_least(from.elections.0),
            "members": at_least(from.members.0),
        };
        let change = doc! {
            "$max": {
                "checkpoint": signed(upto.rewards),
                "intervals": signed(upto.intervals.0),
                "elections": signed(upto.elections.0),
                "members": signed(upto.members.0),
                "term": signed(term.0),
                "at": self.now(),
            },
            "$set": { "node": self.node.as_str() },
        };
        let moving = self.server.update(PROJECTION, ours, change, false);
        match self.bounded("move the checkpoint", moving).await?.matched {
            false => Err(self.why_not_moved(from).await?),
            true => Ok(()),
        }
    }

    /// What became of the projection document, which is not what it was.
    async fn why_not_moved(&self, from: Checkpoint) -> Result<ProjectionError, ProjectionError> {
        let found = self.checkpoint().await?;
        Ok(ProjectionError::WentBack { from: from.rewards, found: found.rewards })
    }

    /// Inserts documents, several commands at once. Each lane sends one command after the other, so that none waits for
    /// the slowest of the others.
    async fn insert(
        &self,
        collection: &'static str,
        documents: &[RawDocumentBuf],
    ) -> Result<u64, ProjectionError> {
        let Limits { chunk_documents, chunks_in_flight, .. } = self.limits;
        let lane = |first: usize| async move {
            let mut inserted = 0;
            for chunk in documents.chunks(chunk_documents).skip(first).step_by(chunks_in_flight) {
                inserted += self.insert_chunk(collection, chunk).await?;
            }
            Ok::<u64, ProjectionError>(inserted)
        };
        let lanes = documents.len().div_ceil(chunk_documents).min(chunks_in_flight);
        Ok(try_join_all((0..lanes).map(lane)).await?.iter().sum())
    }

    async fn insert_chunk(
        &self,
        collection: &'static str,
        documents: &[RawDocumentBuf],
    ) -> Result<u64, ProjectionError> {
        let duplicates = self.bounded("insert", self.server.insert(collection, documents)).await?;
        if !duplicates.is_empty() {
            let present: Vec<&RawDocumentBuf> =
                duplicates.iter().filter_map(|at| documents.get(*at)).collect();
            self.compare(collection, &present).await?;
        }
        Ok((documents.len() - duplicates.len()) as u64)
    }

    /// Checks that what is already there is what we would have written.
    async fn compare(
        &self,
        collection: &'static str,
        expected: &[&RawDocumentBuf],
    ) -> Result<(), ProjectionError> {
        let ids: Vec<Bson> = expected.iter().filter_map(|document| id_value(document)).collect();
        let reading = self.server.find(collection, doc! { "_id": { "$in": ids } }, Visibility::Any);
        let found = self.bounded("compare duplicates", reading).await?;
        let found: BTreeMap<Vec<u8>, &RawDocumentBuf> =
            found.iter().map(|document| (id_key(document), document)).collect();
        for expected in expected {
            let Some(found) = found.get(&id_key(expected)) else {
                return Err(ProjectionError::Write {
                    action: "compare duplicates",
                    code: WRITE_CONFLICT,
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
        let Limits { chunk_documents, chunks_in_flight, .. } = self.limits;
        let lane = |first: usize| async move {
            let mut changed = 0;
            for chunk in members.chunks(chunk_documents).skip(first).step_by(chunks_in_flight) {
                changed += self.replace_chunk(chunk).await?;
            }
            Ok::<u64, ProjectionError>(changed)
        };
        let lanes = members.len().div_ceil(chunk_documents).min(chunks_in_flight);
        Ok(try_join_all((0..lanes).map(lane)).await?.iter().sum())
    }

    async fn replace_chunk(&self, members: &[Member]) -> Result<u64, ProjectionError> {
        let replacements: Vec<Replacement> = members.iter().map(older_member).collect();
        let replacing = self.server.replace(MEMBERS, &replacements, true);
        let reply = self.bounded("update members", replacing).await?;
        let mut changed = reply.changed;
        // The filter asks for an older document. A duplicate key says that there is one which is not older, or
        // that another writer made an older one in the same moment: an update without insertion tells which.
        if !reply.duplicates.is_empty() {
            let raced = reply.duplicates.iter().filter_map(|at| replacements.get(*at)).cloned();
            let raced: Vec<Replacement> = raced.collect();
            let replacing = self.server.replace(MEMBERS, &raced, false);
            changed += self.bounded("update members", replacing).await?.changed;
        }
        Ok(changed)
    }
}

/// Replaces what is older than this.
fn older_member(member: &Member) -> Replacement {
    let mut older = RawDocumentBuf::new();
    older.append(cstr!("$lt"), signed(member.index.0));
    let mut filter = RawDocumentBuf::new();
    filter.append(cstr!("_id"), member.id.as_str());
    filter.append(cstr!("index"), older);
    Replacement { filter, document: documents::member(member) }
}
