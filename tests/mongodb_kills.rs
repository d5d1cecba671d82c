//! Real super-nodes and real mongods, and whatever kills them: after each fault MongoDB equals the ledger.
//!
//! One pass over every fault is part of the suite. As many rounds as wanted, with faults drawn by a seed:
//!
//! ```text
//! MONGODB_KILL_ROUNDS=200 cargo nextest run --profile kills --test mongodb_kills
//! MONGODB_KILL_ROUNDS=200 MONGODB_KILL_SEED=7 cargo nextest run --profile kills --test mongodb_kills random_kills
//! ```

#[path = "mongodb_kills/backup.rs"]
mod backup;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/dice.rs"]
mod dice;
#[path = "mongodb_kills/field.rs"]
mod field;
#[path = "support/mongod.rs"]
mod mongod;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "mongodb_kills/replica_set.rs"]
mod replica_set;

use cluster::{Cluster, Setup};
use dice::Dice;
use field::{Fault, Field};
use mongod::{AnyServer, Kind, Mongod};
use serde_json::json;

/// How many rounds, if not one of each fault.
const ROUNDS: &str = "MONGODB_KILL_ROUNDS";
/// The seed of the faults, if not a new one.
const SEED: &str = "MONGODB_KILL_SEED";

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: a whole number is needed")))
}

/// Claim: whatever is killed, paused, cut off, emptied or put back to an old state in the middle of batches, MongoDB ends
/// equal to the ledger; as often as it happens.
#[tokio::test(flavor = "multi_thread")]
async fn random_kills_leave_nothing_missing_and_nothing_double() {
    let seed = number(SEED).unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut dice = Dice(seed);
    let mut field = Field::lay(&mut dice).await;
    let again = format!(
        "{SEED}={seed} {ROUNDS}=N cargo nextest run --profile kills --test mongodb_kills random_kills"
    );
    println!("again: {again}");
    // Each of them once, then whatever the dice say.
    let mut rounds: Vec<Fault> = Fault::ALL.to_vec();
    let wanted = usize::try_from(number(ROUNDS).unwrap_or(0)).expect("a few rounds");
    while rounds.len() < wanted {
        rounds.push(dice.one(&Fault::ALL));
    }
    for (number, fault) in rounds.iter().enumerate() {
        field.round(*fault, &mut dice).await;
        let report = field.equal().await;
        assert_eq!(report["ok"], json!(true), "round {}, {fault:?}: {report}\nagain: {again}", number + 1);
        println!(
            "round {}: {fault:?}: {} movements, {} intervals, no difference",
            number + 1,
            report["mongodb"]["rewards"],
            report["mongodb"]["intervals"]
        );
    }
}

/// Claim: a replica set of three that loses its primary in the middle of batches goes on with another, and nothing that was
/// acknowledged is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_loses_its_primary_ends_equal() {
    let mut dice = Dice(number(SEED).unwrap_or_else(|| u64::from(rand::random::<u32>())));
    let mut set = replica_set::ReplicaSet::start(3).await;
    let mut field = Field::beside(&set.uri(), &mut dice).await;
    let rounds = number(ROUNDS).unwrap_or(0) / 10;
    for round in 1..=rounds.max(2) {
        field.burst(&mut dice);
        dice_pause(&mut dice).await;
        let lost = set.kill_primary().await;
        if round % 2 == 0 {
            field.kill_leader().await;
        }
        field.drained().await;
        let report = field.equal().await;
        assert_eq!(report["ok"], json!(true), "with two of three: {report}");
        set.restart(lost).await;
        println!("primary lost {round} times: {} movements, no difference", report["mongodb"]["rewards"]);
    }
}

/// The moment within a batch at which a fault strikes.
async fn dice_pause(dice: &mut Dice) {
    tokio::time::sleep(dice.between(0, 120)).await;
}

/// The cursor and the number that an error says to set.
fn remedy(error: &str) -> (String, i64) {
    let inside = error.split("{$set: {").nth(1).and_then(|rest| rest.split(')').next());
    let parts = inside.and_then(|inside| inside.split_once(": NumberLong("));
    let (cursor, last) = parts.unwrap_or_else(|| panic!("no remedy in: {error}"));
    (cursor.to_string(), last.parse().expect("a number"))
}

/// Claim: a MongoDB that was emptied after the ledger has forgotten its beginning is not filled up silently: the hole is named,
/// with the way around it; and with the hole accepted the rest arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_retention_left_is_named() {
    let server = Mongod::start(Kind::Standalone).await;
    let setup = Setup::nodes(1)
        .with("MONGODB_URI", &server.uri())
        .with("SUPER_NODE_LEDGER__INTERVAL", "400ms")
        .with("SUPER_NODE_STORAGE__HISTORY", "10");
    let mut cluster = Cluster::start(&setup);
    cluster.start_agent("worker-1");
    let trimmed = async || {
        let first = cluster.try_get(0, "/v1/rewards?limit=1").await?;
        first["items"][0]["seq"].as_u64().filter(|first| *first > 1)
    };
    cluster.wait_for("the ledger forgets its beginning", trimmed).await;
    let database = server.client().await.database("super_node");
    database.drop().await.expect("drop");
    let named = async || {
        let status = cluster.try_get(0, "/v1/status").await?;
        let error = status["projection"]["error"].as_str()?.to_string();
        error.contains("MongoDB lacks ledger records from 1 on").then_some(error)
    };
    let error = cluster.wait_for("the hole is named", named).await;
    // As each error says, until there is none: for movements and for intervals, and again if more was forgotten meanwhile.
    let projection = database.collection::<bson::Document>("projection");
    let (mut done, mut told) = (std::collections::BTreeSet::new(), Some(error));
    while let Some(error) = told {
        let (cursor, last) = remedy(&error);
        let set = bson::doc! { "$set": { cursor.as_str(): last } };
        projection.update_one(bson::doc! {}, set).await.expect("updated");
        done.insert(cursor);
        let another = async || {
            let status = cluster.try_get(0, "/v1/status").await?;
            let now = status["projection"]["error"].as_str().map(str::to_string);
            (now.as_ref() != Some(&error)).then_some(now)
        };
        told = cluster.wait_for("the next error, or none", another).await;
    }
    assert_eq!(Vec::from_iter(done), ["checkpoint", "intervals"]);
    let rewards = database.collection::<bson::Document>("rewards");
    let after = async || rewards.find_one(bson::doc! {}).await.ok()?;
    cluster.wait_for("what is left arrives", after).await;
    let log = cluster.log_of(0);
    assert!(log.contains("it was emptied or restored from an older backup"), "{log}");
}

/// Claim: without MongoDB everything else works the same, and one that is switched on later gets the whole history.
#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_that_comes_later_gets_the_whole_history() {
    let server = AnyServer::get().await;
    let mut cluster = Cluster::start(&Setup::nodes(3).with("SUPER_NODE_LEDGER__INTERVAL", "1s"));
    cluster.leader().await;
    let settled = async || {
        let status = cluster.leader_status().await?;
        (status["ledger"]["records"].as_u64()? >= 6).then_some(status)
    };
    let status = cluster.wait_for("intervals are settled and paid", settled).await;
    assert_eq!(status["projection"]["enabled"], json!(false), "{status}");
    assert!(cluster.put(1, "without", &json!(1)).await > 0);
    let adjusted =
        cluster.cli(&["ledger", "adjust", "n2", "5", "--reason", "before MongoDB", "--operator", "kim"]);
    assert!(adjusted.status.success(), "{}", String::from_utf8_lossy(&adjusted.stderr));
    let verified = cluster.cli(&["ledger", "verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    // Now one node after the other is told of it.
    let database = server.database_name("later");
    cluster.set("MONGODB_URI", server.uri());
    cluster.set("SUPER_NODE_MONGODB__DATABASE", &database);
    for at in 0..3 {
        let (_, term) = cluster.leader().await;
        let led = cluster.leader().await.0 == at;
        cluster.kill(at);
        if led {
            cluster.leader_after(term).await;
        }
        cluster.start_node(at);
    }
    let (leader, _) = cluster.leader().await;
    let report = field::drained_and_equal(&cluster, leader).await;
    assert_eq!(report["ok"], json!(true), "{report}");
    let client = mongod::connect(server.uri()).await;
    let rewards = client.database(&database).collection::<bson::Document>("rewards");
    let first = rewards.find_one(bson::doc! { "_id": 1_i64 }).await.expect("a query");
    assert!(first.is_some(), "from the very first movement on");
    let by_hand = rewards.find_one(bson::doc! { "kind": "adjustment" }).await.expect("a query");
    assert_eq!(by_hand.expect("the adjustment").get_i64("amount").ok(), Some(5_000_000));
    client.database(&database).drop().await.expect("drop");
}
