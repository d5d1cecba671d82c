//! Is MongoDB unbroken by itself, and equal to the ledger?
//!
//! Two passes over the documents up to MongoDB's own checkpoint, each in bounded memory:
//!
//! * *alone*: sequences are contiguous, every hash is recomputed from the document, every document names the hash
//!   before it, every interval follows from its observations and its movements, balances add up. Anybody can do this without a cluster;
//! * *against the ledger*: immutable documents are equal byte for byte, nothing is missing and nothing is there that
//!   the ledger does not know; members are equal, or newer than the view that they are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::{Collection, Cursor, Database};
use serde::Serialize;

use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::records::{Checkpoint, Observation};
use crate::ledger::verify::{self as ledger, ChainChecker};
use crate::types::IntervalId;

use super::documents::{
    self, ELECTIONS, INTERVALS, MEMBERS, OBSERVATIONS, PROJECTION, REWARDS, id_key, id_text, read_interval,
    read_member, read_movement, read_observation, read_projection, signed,
};
use super::errors::ProjectionError;
use super::feed::{Batch, Feed};
use super::mongo::{bounded, client};

/// Problems told one by one; more are only counted.
pub const PROBLEMS_TOLD_MAX: usize = 100;
/// Records compared at a time.
const PAGE: usize = 4_000;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ComparisonReport {
    /// Whether there was no problem at all.
    pub ok: bool,
    /// How far MongoDB says it is.
    pub checkpoint: Checkpoint,
    /// Movements found in MongoDB up to the checkpoint.
    pub rewards: u64,
    /// Intervals found.
    pub intervals: u64,
    /// Observations found.
    pub observations: u64,
    /// Elections compared with the ledger.
    pub elections: u64,
    /// Members compared with the ledger.
    pub members: u64,
    /// What is wrong, in words; the first [`PROBLEMS_TOLD_MAX`], then one line with the number of the others.
    pub problems: Vec<String>,
}

/// Compares MongoDB with the ledger that `feed` reads, and checks it by itself.
///
/// # Errors
/// When MongoDB or the ledger cannot be read, or MongoDB holds no projection of `cluster`. A difference is not an error:
/// it is in the report.
pub async fn compare(
    uri: &str,
    database: &str,
    cluster: &str,
    feed: Arc<dyn Feed>,
) -> Result<ComparisonReport, ProjectionError> {
    let mut check = Check::open(uri, database, cluster).await?;
    check.identity(&feed).await?;
    check.alone().await?;
    check.against(&feed).await?;
    Ok(check.finish())
}

/// Checks MongoDB by itself: contiguity, both hash chains, evidence hashes.
///
/// # Errors
/// When MongoDB cannot be read or holds no projection of `cluster`.
pub async fn check_alone(
    uri: &str,
    database: &str,
    cluster: &str,
) -> Result<ComparisonReport, ProjectionError> {
    let mut check = Check::open(uri, database, cluster).await?;
    check.alone().await?;
    Ok(check.finish())
}

struct Check {
    database: Database,
    identity: String,
    report: ComparisonReport,
    untold: u64,
}

impl Check {
    async fn open(uri: &str, name: &str, cluster: &str) -> Result<Check, ProjectionError> {
        let database = client(uri).await?.database(name);
        let projection: Collection<RawDocumentBuf> = database.collection(PROJECTION);
        let reading = async { Ok(projection.find_one(doc! { "_id": cluster }).await?) };
        let found = bounded("read the checkpoint", reading).await?.ok_or_else(|| {
            ProjectionError::Settings(format!("database '{name}' holds no projection of cluster '{cluster}'"))
        })?;
        let found =
            read_projection(&found).map_err(|error| ProjectionError::Unreadable(error.to_string()))?;
        let report = ComparisonReport { checkpoint: found.checkpoint, ..ComparisonReport::default() };
        Ok(Check { database, identity: found.identity, report, untold: 0 })
    }

    fn finish(mut self) -> ComparisonReport {
        if self.untold > 0 {
            self.report.problems.push(format!("and {} more", self.untold));
        }
        self.report.ok = self.report.problems.is_empty();
        self.report
    }

    fn problem(&mut self, text: String) {
        if self.report.problems.len() < PROBLEMS_TOLD_MAX {
            self.report.problems.push(text);
        } else {
            self.untold += 1;
        }
    }

    fn note(&mut self, result: Result<(), String>) {
        if let Err(problem) = result {
            self.problem(problem);
        }
    }

    async fn identity(&mut self, feed: &Arc<dyn Feed>) -> Result<(), ProjectionError> {
        let genesis = read(feed, |feed| feed.genesis()).await?;
        match genesis {
            Some(genesis) if genesis.identity == self.identity => {}
            Some(genesis) => {
                let text = format!(
                    "MongoDB belongs to identity {}, the ledger to {}",
                    self.identity, genesis.identity
                );
                self.problem(text);
            }
            None => self.problem("the ledger here is empty".to_string()),
        }
        Ok(())
    }

    async fn find(
        &self,
        collection: &str,
        filter: Document,
        sort: Document,
    ) -> Result<Cursor<RawDocumentBuf>, ProjectionError> {
        let target: Collection<RawDocumentBuf> = self.database.collection(collection);
        bounded("read documents", async { Ok(target.find(filter).sort(sort).await?) }).await
    }

    async fn alone(&mut self) -> Result<(), ProjectionError> {
        let upto = self.report.checkpoint;
        let mut checker = ChainChecker::new();
        let filter = doc! { "_id": { "$lte": signed(upto.rewards) } };
        let mut cursor = self.find(REWARDS, filter, doc! { "_id": 1 }).await?;
        // The interval that the last movement belongs to.
        let mut paid = None;
        while let Some(document) = next(&mut cursor).await? {
            self.report.rewards += 1;
            match read_movement(&document) {
                Ok(movement) => {
                    paid = movement.interval.max(paid);
                    self.note(checker.movement(&movement));
                }
                Err(error) => self.problem(format!("rewards {}: {error}", id_text(&document))),
            }
        }
        let last = checker.totals().records;
        if last != upto.rewards {
            self.problem(format!("rewards end at {last}, the checkpoint says {}", upto.rewards));
        }
        self.intervals_alone(&mut checker, upto.intervals).await?;
        // While a settlement is half projected, its movements have no interval yet.
        if paid.is_none_or(|paid| paid <= upto.intervals) {
            self.note(checker.finish());
        }
        self.balances_alone(&checker).await
    }

    async fn intervals_alone(
        &mut self,
        checker: &mut ChainChecker,
        upto: IntervalId,
    ) -> Result<(), ProjectionError> {
        let filter = doc! { "_id": { "$lte": signed(upto.0) } };
        let mut intervals = self.find(INTERVALS, filter, doc! { "_id": 1 }).await?;
        let filter = doc! { "_id.i": { "$lte": signed(upto.0) } };
        let by_interval = doc! { "_id.i": 1, "_id.m": 1 };
        let cursor = self.find(OBSERVATIONS, filter, by_interval).await?;
        let mut evidence = Evidence { cursor, ahead: None, read: 0 };
        while let Some(document) = next(&mut intervals).await? {
            self.report.intervals += 1;
            match read_interval(&document) {
                Ok(interval) => {
                    self.note(checker.interval(&interval));
                    let (observations, problems) = evidence.of(interval.id).await?;
                    self.note(ledger::check_observations(&interval, &observations));
                    problems.into_iter().for_each(|problem| self.problem(problem));
                }
                Err(error) => self.problem(format!("intervals {}: {error}", id_text(&document))),
            }
        }
        let last = checker.last_interval();
        if last != upto {
            self.problem(format!("intervals end at {last}, the checkpoint says {upto}"));
        }
        let (_, leftover) = evidence.of(IntervalId(u64::MAX)).await?;
        leftover.into_iter().for_each(|problem| self.problem(problem));
        self.report.observations = evidence.read;
        Ok(())
    }

    /// A member whose last movement is the last that the chain knows of must have the balance that it left.
    async fn balances_alone(&mut self, checker: &ChainChecker) -> Result<(), ProjectionError> {
        let mut cursor = self.find(MEMBERS, doc! {}, doc! {}).await?;
        while let Some(document) = next(&mut cursor).await? {
            match read_member(&document) {
                Ok(member) => {
                    let (balance, seq) = checker.account(&member.id);
                    if member.as_of == seq && member.balance != balance {
                        let (stated, balance) = (member.balance.0, balance.0);
                        self.problem(format!(
                            "members {}: balance is {stated}, movement {seq} left {balance}",
                            member.id
                        ));
                    }
                }
                Err(error) => self.problem(format!("members {}: {error}", id_text(&document))),
            }
        }
        Ok(())
    }

    async fn against(&mut self, feed: &Arc<dyn Feed>) -> Result<(), ProjectionError> {
        let checkpoint = self.report.checkpoint;
        // Read before the ledger, which grows: whatever MongoDB held then, the ledger must know at the end.
        let mut unknown_members = self.member_ids().await?;
        let mut ends = Vec::new();
        for collection in [REWARDS, INTERVALS, ELECTIONS] {
            ends.push(self.last_id(collection).await?);
        }
        let mut after = Checkpoint::default();
        loop {
            let batch = read(feed, move |feed| feed.next(&after, PAGE)).await?;
            if batch.is_empty() {
                break;
            }
            // The ledger here may have been trimmed: what it has forgotten was checked by the chain alone.
            if let Some(first) = batch.rewards.first() {
                after.rewards = first.seq - 1;
            }
            if let Some(first) = batch.intervals.first() {
                after.intervals = IntervalId(first.id.0 - 1);
            }
            self.batch(&after, &batch, &checkpoint).await?;
            self.members(&batch, &checkpoint, &mut unknown_members).await?;
            after = batch.upto;
        }
        let known = [after.rewards, after.intervals.0, after.elections.0];
        for ((collection, found), known) in [REWARDS, INTERVALS, ELECTIONS].iter().zip(ends).zip(known) {
            if found > signed(known) {
                self.problem(format!("{collection} go to {found}, the ledger here ends at {known}"));
            }
        }
        for member in unknown_members {
            self.problem(format!("members {member}: not in the ledger"));
        }
        Ok(())
    }

    /// Compares the immutable records of a batch with the documents of the same range.
    async fn batch(
        &mut self,
        after: &Checkpoint,
        batch: &Batch,
        checkpoint: &Checkpoint,
    ) -> Result<(), ProjectionError> {
        let upto = &batch.upto;
        let between = |above: u64, upto: u64| doc! { "$gt": signed(above), "$lte": signed(upto) };
        let rewards =
            batch.rewards.iter().map(|one| (documents::movement(one), one.seq <= checkpoint.rewards));
        let range = doc! { "_id": between(after.rewards, upto.rewards) };
        self.equal(REWARDS, rewards.collect(), range).await?;

        let intervals =
            batch.intervals.iter().map(|one| (documents::interval(one), one.id <= checkpoint.intervals));
        let range = doc! { "_id": between(after.intervals.0, upto.intervals.0) };
        self.equal(INTERVALS, intervals.collect(), range).await?;

        let observations = batch.observations.iter();
        let observations =
            observations.map(|one| (documents::observation(one), one.interval <= checkpoint.intervals));
        let range = doc! { "_id.i": between(after.intervals.0, upto.intervals.0) };
        self.equal(OBSERVATIONS, observations.collect(), range).await?;

        let elections =
            batch.elections.iter().map(|one| (documents::election(one), one.term <= checkpoint.elections));
        let range = doc! { "_id": between(after.elections.0, upto.elections.0) };
        self.report.elections += self.equal(ELECTIONS, elections.collect(), range).await?;
        Ok(())
    }

    /// `expected`: documents, and whether each must be there already. Returns how many were found.
    async fn equal(
        &mut self,
        collection: &str,
        expected: Vec<(RawDocumentBuf, bool)>,
        range: Document,
    ) -> Result<u64, ProjectionError> {
        let mut cursor = self.find(collection, range, doc! {}).await?;
        let mut found = BTreeMap::new();
        while let Some(document) = next(&mut cursor).await? {
            found.insert(id_key(&document), document);
        }
        let total = found.len() as u64;
        for (expected, required) in expected {
            match found.remove(&id_key(&expected)) {
                None if required => {
                    self.problem(format!("{collection} {}: missing in MongoDB", id_text(&expected)));
                }
                Some(found) if found.as_bytes() != expected.as_bytes() => {
                    self.problem(format!("{collection} {}: differs from the ledger", id_text(&expected)));
                }
                None | Some(_) => {}
            }
        }
        for document in found.values() {
            self.problem(format!("{collection} {}: not in the ledger", id_text(document)));
        }
        Ok(total)
    }

    async fn members(
        &mut self,
        batch: &Batch,
        checkpoint: &Checkpoint,
        unknown: &mut BTreeSet<String>,
    ) -> Result<(), ProjectionError> {
        let ids: Vec<&str> = batch.members.iter().map(|member| member.id.as_str()).collect();
        let mut cursor = self.find(MEMBERS, doc! { "_id": { "$in": ids } }, doc! {}).await?;
        let mut found = BTreeMap::new();
        while let Some(document) = next(&mut cursor).await? {
            found.insert(id_key(&document), document);
        }
        for member in &batch.members {
            unknown.remove(member.id.as_str());
            let required = member.index <= checkpoint.members;
            let Some(document) = found.get(member.id.as_str().as_bytes()) else {
                if required {
                    self.problem(format!("members {}: missing in MongoDB", member.id));
                }
                continue;
            };
            self.report.members += 1;
            match read_member(document) {
                Err(error) => self.problem(format!("members {}: {error}", member.id)),
                Ok(found) if found.index < member.index && required => {
                    let (index, ours) = (found.index, member.index);
                    self.problem(format!(
                        "members {}: as of index {index}, the ledger is at {ours}",
                        member.id
                    ));
                }
                Ok(found) if found.index == member.index && found != *member => {
                    self.problem(format!("members {}: differs from the ledger", member.id));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    async fn member_ids(&self) -> Result<BTreeSet<String>, ProjectionError> {
        let target: Collection<Document> = self.database.collection(MEMBERS);
        let reading = async { Ok(target.find(doc! {}).projection(doc! { "_id": 1 }).await?) };
        let mut cursor = bounded("read members", reading).await?;
        let mut ids = BTreeSet::new();
        while let Some(document) = next(&mut cursor).await? {
            ids.insert(
                document.get("_id").map(|id| id.as_str().unwrap_or("?").to_string()).unwrap_or_default(),
            );
        }
        Ok(ids)
    }

    async fn last_id(&self, collection: &str) -> Result<i64, ProjectionError> {
        let mut cursor = self.find(collection, doc! {}, doc! { "_id": -1 }).await?;
        let last = next(&mut cursor).await?;
        Ok(last.and_then(|document| document.get_i64("_id").ok()).unwrap_or_default())
    }
}

/// Observations in the order of their intervals, read one ahead.
struct Evidence {
    cursor: Cursor<RawDocumentBuf>,
    ahead: Option<Observation>,
    read: u64,
}

impl Evidence {
    /// An interval's observations, and what was wrong on the way: unreadable observations, and those of earlier
    /// intervals, which no interval claims.
    async fn of(&mut self, interval: IntervalId) -> Result<(Vec<Observation>, Vec<String>), ProjectionError> {
        let (mut observations, mut problems) = (Vec::new(), Vec::new());
        loop {
            let observation = match self.ahead.take() {
                Some(observation) => observation,
                None => {
                    let Some(document) = next(&mut self.cursor).await? else { break };
                    self.read += 1;
                    match read_observation(&document) {
                        Ok(observation) => observation,
                        Err(error) => {
                            problems.push(format!("observations {}: {error}", id_text(&document)));
                            continue;
                        }
                    }
                }
            };
            if observation.interval > interval {
                self.ahead = Some(observation);
                break;
            }
            if observation.interval == interval {
                observations.push(observation);
            } else {
                let (interval, member) = (observation.interval, observation.member);
                problems.push(format!("observation of {member} in interval {interval}: no such interval"));
            }
        }
        Ok((observations, problems))
    }
}

async fn next<T: serde::de::DeserializeOwned + Unpin + Send + Sync>(
    cursor: &mut Cursor<T>,
) -> Result<Option<T>, ProjectionError> {
    bounded("read documents", async { Ok(cursor.try_next().await?) }).await
}

async fn read<T: Send + 'static>(
    feed: &Arc<dyn Feed>,
    reading: impl FnOnce(&dyn Feed) -> Result<T, KeyspaceError> + Send + 'static,
) -> Result<T, ProjectionError> {
    let feed = feed.clone();
    let read = tokio::task::spawn_blocking(move || reading(&*feed)).await;
    Ok(read.map_err(|error| KeyspaceError::Store(format!("reader failed: {error}")))??)
}
