//! A backlog of settlements, by the projector and by the bare driver: documents per second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use super_node::bench::BenchError;
use super_node::database::documents::{self, ELECTIONS, INTERVALS, OBSERVATIONS, PROJECTION, REWARDS};
use super_node::database::feed::{Feed, LedgerFeed};
use super_node::database::ports::{BATCH_RECORDS, CHUNK_DOCUMENTS};
use super_node::database::schema;
use super_node::database::shell::run;
use super_node::ledger::records::Checkpoint;
use super_node::metrics::Metrics;
use super_node::node::handle::Handle;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::mongod::Mongod;
use crate::node::FakeNode;
use crate::{RATE_SHARE_MIN, failed, median, settings, verdict};

/// Members of the fleet that is paid.
const MEMBERS: usize = 1_000;
/// Commands of the bare driver under way at once: it is measured with each, and the best counts.
const AT_ONCE: [usize; 4] = [1, 2, 4, 8];
/// How often the checkpoint is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub async fn measure(server: &Mongod, movements: usize, rounds: usize) -> Result<(), BenchError> {
    let directory = tempfile::tempdir().map_err(failed)?;
    let mut ledger = Ledger::new(directory.path(), MEMBERS)?;
    while ledger.records() < movements as u64 {
        ledger.settle();
    }
    let (chunks, documents) = documents_of(&LedgerFeed::of(ledger.state.clone()))?;
    println!("{documents} documents: {} movements, their observations and intervals", ledger.records());
    let mut bare = vec![Vec::new(); AT_ONCE.len()];
    let mut ours = Vec::new();
    for _ in 0..rounds.max(1) {
        for (at_once, rates) in AT_ONCE.iter().zip(&mut bare) {
            rates.push(documents as f64 / insert_many(server, &chunks, *at_once).await?.as_secs_f64());
        }
        ours.push(documents as f64 / project(server, &ledger).await?.as_secs_f64());
    }
    let bare: Vec<f64> = bare.into_iter().map(median).collect();
    for (at_once, rate) in AT_ONCE.iter().zip(&bare) {
        println!("bare driver, insert_many of {CHUNK_DOCUMENTS}, {at_once} at once: {rate:.0} documents/s");
    }
    let best = bare.into_iter().fold(0.0, f64::max);
    let ours = median(ours);
    println!(
        "projector: {ours:.0} documents/s, and the members: {:.2} of the bare driver's best; asked for {RATE_SHARE_MIN}: {}",
        ours / best,
        verdict(ours >= best * RATE_SHARE_MIN)
    );
    Ok(())
}

/// Documents for one `insert_many`, and their collection.
type Chunk = (&'static str, Vec<RawDocumentBuf>);

/// Everything in the ledger that is inserted, as the projector would, in the same chunks.
fn documents_of(feed: &dyn Feed) -> Result<(Vec<Chunk>, usize), BenchError> {
    let (mut chunks, mut total, mut after) = (Vec::new(), 0, Checkpoint::default());
    loop {
        let batch = feed.next(&after, BATCH_RECORDS).map_err(failed)?;
        if batch.is_empty() {
            return Ok((chunks, total));
        }
        let all: [Chunk; 4] = [
            (REWARDS, batch.rewards.iter().map(documents::movement).collect()),
            (OBSERVATIONS, batch.observations.iter().map(documents::observation).collect()),
            (ELECTIONS, batch.elections.iter().map(documents::election).collect()),
            (INTERVALS, batch.intervals.iter().map(documents::interval).collect()),
        ];
        for (collection, documents) in all {
            total += documents.len();
            let split = documents.chunks(CHUNK_DOCUMENTS).map(|chunk| (collection, chunk.to_vec()));
            chunks.extend(split);
        }
        after = batch.upto;
    }
}

/// A database with our collections and nothing in them.
async fn fresh(server: &Mongod, name: &str) -> Result<mongodb::Database, BenchError> {
    let database = server.client().await.database(name);
    database.drop().await.map_err(failed)?;
    schema::apply(&database).await.map_err(failed)?;
    Ok(database)
}

async fn insert_many(server: &Mongod, chunks: &[Chunk], at_once: usize) -> Result<Duration, BenchError> {
    let database = fresh(server, "bare").await?;
    let concern = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    let begun = Instant::now();
    stream::iter(chunks)
        .map(|(collection, documents)| {
            let collection = database.collection_with_options::<RawDocumentBuf>(collection, options.clone());
            async move { collection.insert_many(documents).ordered(false).await.map(drop) }
        })
        .buffer_unordered(at_once)
        .try_collect::<Vec<()>>()
        .await
        .map_err(failed)?;
    let took = begun.elapsed();
    database.drop().await.map_err(failed)?;
    Ok(took)
}

/// How long it takes from the first document to the checkpoint at the end. Claiming the database is no part of it.
async fn project(server: &Mongod, ledger: &Ledger) -> Result<Duration, BenchError> {
    let database = fresh(server, "projected").await?;
    let rewards = database.collection::<Document>(REWARDS);
    let projector = Projector::start(server, "projected", ledger);
    while rewards.find_one(doc! {}).await.map_err(failed)?.is_none() {
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
    let begun = Instant::now();
    while checkpoint(&database).await? < ledger.records() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let took = begun.elapsed();
    projector.stop().await?;
    database.drop().await.map_err(failed)?;
    Ok(took)
}

/// The last movement that MongoDB vouches for.
pub async fn checkpoint(database: &mongodb::Database) -> Result<u64, BenchError> {
    let projection = database.collection::<Document>(PROJECTION);
    let found = projection.find_one(doc! {}).await.map_err(failed)?;
    let checkpoint = found.and_then(|document| document.get_i64("checkpoint").ok()).unwrap_or(0);
    Ok(u64::try_from(checkpoint).unwrap_or(0))
}

/// The projector of a node that leads, on a ledger.
pub struct Projector {
    node: FakeNode,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Projector {
    pub fn start(server: &Mongod, database: &str, ledger: &Ledger) -> Projector {
        let node = FakeNode::new("n1");
        let handle = Handle { state: ledger.state.clone(), ..node.handle.clone() };
        let shutdown = CancellationToken::new();
        let (settings, metrics) = (settings(server, database), Arc::new(Metrics::new()));
        let task = tokio::spawn(run(settings, handle, metrics, shutdown.clone()));
        node.lead(1);
        Projector { node, shutdown, task }
    }

    /// Tells it that something was applied.
    pub fn news(&self) {
        self.node.news();
    }

    /// What keeps it from going on.
    pub fn error(&self) -> Option<String> {
        self.node.projection.borrow().error.clone()
    }

    pub async fn stop(self) -> Result<(), BenchError> {
        self.shutdown.cancel();
        self.task.await.map_err(failed)
    }
}
