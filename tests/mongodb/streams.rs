//! `database/streams/`: what a program that follows the ledger in MongoDB can rely on.

use std::path::Path;
use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::Client;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use mongodb::options::ChangeStreamOptions;
use super_node::database::feed::MemoryFeed;

use crate::history::append_interval;
use crate::mongod::{Kind, Mongod};
use crate::queries::{FOLDER, Script, to_bson};
use crate::{Projecting, scripted, settings};

const DATABASE: &str = "super_node";
/// Only a bound for broken machines.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the stream that a file opens.
async fn open(client: &Client, name: &str) -> ChangeStream<ChangeStreamEvent<Document>> {
    let path = format!("{FOLDER}/streams/{name}.js");
    let script = Script::read(Path::new(&path), "const stream = ");
    assert_eq!(script.method, "watch");
    let stages = script.pipeline.iter().map(|stage| match to_bson(stage) {
        Bson::Document(stage) => stage,
        other => panic!("{other:?} is not a stage"),
    });
    let options: ChangeStreamOptions =
        serde_json::from_value(script.options.clone().into()).expect("options of a stream");
    let collection = client.database(DATABASE).collection::<Document>(&script.collection);
    let watch = collection.watch().pipeline(stages.collect::<Vec<_>>()).with_options(Some(options));
    watch.await.expect("a stream")
}

/// The consumer of `movements.js`.
struct Consumer {
    client: Client,
    /// The last sequence that was dealt with.
    last: i64,
    seen: Vec<i64>,
}

impl Consumer {
    async fn read(&mut self, projection: Option<Document>) {
        let Some(projection) = projection else { return };
        let checkpoint = projection.get_i64("checkpoint").expect("a checkpoint");
        let range = doc! { "_id": { "$gt": self.last, "$lte": checkpoint } };
        let rewards = self.client.database(DATABASE).collection::<Document>("rewards");
        let mut found = rewards.find(range).sort(doc! { "_id": 1 }).await.expect("find");
        while let Some(movement) = found.try_next().await.expect("readable") {
            self.last = movement.get_i64("_id").expect("a sequence");
            self.seen.push(self.last);
        }
    }

    /// Follows until a sequence was dealt with, then ends as a program that is killed.
    async fn follow(&mut self, until: i64) {
        let mut stream = open(&self.client, "movements").await;
        let projection = self.client.database(DATABASE).collection::<Document>("projection");
        self.read(projection.find_one(doc! {}).await.expect("find")).await;
        while self.last < until {
            let event = tokio::time::timeout(PATIENCE, stream.try_next()).await;
            let event = event.expect("in time").expect("readable").expect("the stream goes on");
            self.read(event.full_document).await;
        }
    }
}

fn last(feed: &MemoryFeed) -> i64 {
    let records = feed.records.read().expect("not poisoned");
    records.rewards.last().map_or(0, |last| i64::try_from(last.seq).expect("small"))
}

/// Claim: who follows as `database/streams/movements.js` does sees each movement once and in order, although it was
/// away for a while; `fines.js` shows each fine that is projected while it watches.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_every_movement_once_and_in_order() {
    let server = Mongod::start(Kind::ReplicaSet).await;
    let settings = settings(&server.uri(), DATABASE);
    let client = server.client().await;
    let feed = scripted(2, 700);
    let projecting = Projecting::start("n1", &settings, &feed);
    projecting.node.lead(1);
    projecting.drained(&feed).await;
    let mut consumer = Consumer { client: client.clone(), last: 0, seen: Vec::new() };
    let mut fines = open(&client, "fines").await;
    let before = last(&feed);

    let grow = |times: usize| {
        for _ in 0..times {
            append_interval(&feed, 700);
            projecting.node.news();
        }
    };
    grow(1);
    consumer.follow(before + 1).await;
    // Away: what comes now it hears of later.
    grow(2);
    projecting.drained(&feed).await;
    let end = last(&feed) + 2 * 700;
    tokio::join!(consumer.follow(end), async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            grow(1);
        }
    });
    assert_eq!(consumer.seen, (1..=end).collect::<Vec<_>>());
    projecting.drained(&feed).await;

    let mut expected: Vec<i64> = {
        let records = feed.records.read().expect("not poisoned");
        let fines = records.rewards.iter().filter(|one| one.amount.0 < 0);
        fines.map(|one| i64::try_from(one.seq).expect("small")).filter(|seq| *seq > before).collect()
    };
    assert_eq!(expected.len(), 500);
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let event = tokio::time::timeout(PATIENCE, fines.try_next()).await;
        let event = event.expect("in time").expect("readable").expect("the stream goes on");
        seen.push(event.full_document.expect("an insert").get_i64("_id").expect("a sequence"));
    }
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    projecting.stop().await;
}
