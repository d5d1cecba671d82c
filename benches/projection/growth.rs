//! What millions of movements cost in one MongoDB: the insert rate as they become more, documents and indexes on disk, queries.

use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use super_node::bench::BenchError;
use super_node::codec::{Canonical, Hash};
use super_node::database::documents::REWARDS;
use super_node::database::feed::Batch;
use super_node::database::ports::BATCH_RECORDS;
use super_node::database::target::Target;
use super_node::ledger::records::{Checkpoint, Genesis, Movement, MovementKind};
use super_node::types::{Amount, Index, IntervalId, MemberId, Term, UnixMillis};

use crate::mongod::{Kind, Mongod};
use crate::{failed, settings};

const MILLION: u64 = 1_000_000;
/// Members that are paid in turn.
const MEMBERS: u64 = 10_000;
/// Log time between two intervals, milliseconds.
const INTERVAL_MS: u64 = 60_000;
const ORIGIN_MS: u64 = 1_700_000_000_000;
/// Queries of each kind.
const QUERIES: u64 = 200;

pub async fn measure(millions: &[u64], cache: &str) -> Result<(), BenchError> {
    let mut server = Mongod::start_with_cache(Kind::ReplicaSet, cache).await;
    let genesis = Genesis {
        cluster: "growth".to_string(),
        identity: "0".repeat(32),
        at: UnixMillis(i64::try_from(ORIGIN_MS).expect("small")),
    };
    let node = "n1".parse().map_err(failed)?;
    let opened = Target::open(&settings(&server, "growth"), genesis, node).await;
    let (target, mut stands) = opened.map_err(failed)?;
    let database = server.client().await.database("growth");
    for million in millions {
        let end = million * MILLION;
        let mut last = (Instant::now(), stands.rewards);
        while stands.rewards < end {
            let upto = end.min(stands.rewards + BATCH_RECORDS as u64);
            let rewards: Vec<Movement> = (stands.rewards + 1..=upto).map(movement).collect();
            target.write(Batch { rewards, ..Batch::default() }).await.map_err(failed)?;
            let next = Checkpoint { rewards: upto, ..stands };
            target.advance(stands, next, Term(1)).await.map_err(failed)?;
            stands = next;
            // Of the last million, or what there is of it.
            if end - upto >= MILLION {
                last = (Instant::now(), upto);
            }
        }
        let rate = (end - last.1) as f64 / last.0.elapsed().as_secs_f64();
        tell(&database, *million, rate).await?;
    }
    server.kill9();
    Ok(())
}

/// The n-th movement: members are paid in turn, an interval at a time; hashes are as random as real ones.
fn movement(seq: u64) -> Movement {
    let interval = (seq - 1) / MEMBERS + 1;
    let hash = |seq: u64| match seq {
        0 => Hash::ZERO,
        seq => Canonical::new("growth").u64(seq).digest(),
    };
    let member: MemberId = format!("worker-{:06}", (seq - 1) % MEMBERS).parse().expect("a valid name");
    Movement {
        seq,
        member,
        kind: MovementKind::Reward,
        amount: Amount(10_000_000),
        balance: Amount(10_000_000 * i64::try_from(interval).expect("small")),
        interval: Some(IntervalId(interval)),
        reason: "availability 100 %, p90 0.9 ms".to_string(),
        index: Index(interval * 8),
        term: Term(1),
        at: UnixMillis(i64::try_from(ORIGIN_MS + interval * INTERVAL_MS).expect("small")),
        prev_hash: hash(seq - 1),
        hash: hash(seq),
    }
}

async fn tell(database: &mongodb::Database, million: u64, rate: f64) -> Result<(), BenchError> {
    database.client().database("admin").run_command(doc! { "fsync": 1 }).await.map_err(failed)?;
    let stats = database.run_command(doc! { "collStats": REWARDS }).await.map_err(failed)?;
    let mib = |value: Option<&Bson>| match value {
        Some(Bson::Int32(bytes)) => f64::from(*bytes) / 1_048_576.0,
        Some(Bson::Int64(bytes)) => *bytes as f64 / 1_048_576.0,
        Some(Bson::Double(bytes)) => bytes / 1_048_576.0,
        _ => 0.0,
    };
    let of = |field: &str| mib(stats.get(field));
    println!(
        "{million} million: {rate:.0} movements/s over the last million; documents {:.0} MiB, on disk {:.0} MiB, indexes {:.0} MiB",
        of("size"),
        of("storageSize"),
        of("totalIndexSize")
    );
    let sizes = stats.get_document("indexSizes").map_err(failed)?;
    let each: Vec<String> =
        sizes.iter().map(|(name, bytes)| format!("{name} {:.0}", mib(Some(bytes)))).collect();
    println!("    indexes, MiB: {}", each.join(", "));
    let intervals = million * MILLION / MEMBERS;
    let account = queries(database, |n| {
        (doc! { "member": format!("worker-{:06}", n * 7_919 % MEMBERS) }, doc! { "_id": -1 }, 20)
    });
    let account = account.await?;
    let whole = queries(database, |n| {
        let interval = i64::try_from(1 + n * 7_919 % intervals).expect("small");
        (doc! { "interval": interval, "member": "worker-000042" }, doc! {}, 1)
    });
    println!(
        "    p50 of an account's last 20: {account:?}; of a member's payment in an interval: {:?}",
        whole.await?
    );
    Ok(())
}

/// The median time of a query.
async fn queries(
    database: &mongodb::Database,
    make: impl Fn(u64) -> (Document, Document, i64),
) -> Result<Duration, BenchError> {
    let rewards = database.collection::<Document>(REWARDS);
    let mut times = Vec::new();
    for number in 0..QUERIES {
        let (filter, sort, limit) = make(number);
        let begun = Instant::now();
        let found = rewards.find(filter).sort(sort).limit(limit).await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        times.push(begun.elapsed());
        if found.is_empty() {
            return Err(BenchError::Node(format!("query {number} found nothing")));
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}
