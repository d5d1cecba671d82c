//! Real super-nodes beside a real mongod: whatever is killed, MongoDB ends equal to the ledger.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/mongod.rs"]
mod mongod;

use cluster::{Cluster, Setup};
use mongod::{AnyServer, Kind, Mongod};
use serde_json::json;

fn setup(uri: &str, database: &str) -> Setup {
    Setup::nodes(3).with("MONGODB_URI", uri).with("SUPER_NODE_MONGODB__DATABASE", database)
}

/// Waits until the projection has come up to what the ledger holds now, then compares everything.
async fn compare(cluster: &Cluster, leader: usize) {
    cluster
        .wait_for("the projection has drained", async || {
            let status = cluster.try_get(leader, "/v1/status").await?;
            let records = status["ledger"]["records"].as_u64()?;
            let projection = &status["projection"];
            let drained = projection["checkpoint"].as_u64()? >= records.saturating_sub(12);
            (drained && projection["error"].is_null() && records > 0).then_some(())
        })
        .await;
    let report = cluster.get(leader, "/v1/ledger/verify?mongodb=true").await;
    assert_eq!(report["ok"], json!(true), "{report}");
    assert!(report["mongodb"]["rewards"].as_u64() > Some(0), "{report}");
}

#[tokio::test]
async fn a_leader_killed_in_the_middle_leaves_nothing_missing_and_nothing_double() {
    let mongod = AnyServer::get().await;
    let database = mongod.database_name("killed_leader");
    let mut cluster = Cluster::start(&setup(mongod.uri(), &database));
    cluster.start_agent("worker-1");
    for _ in 0..3 {
        let (leader, term) = cluster.leader().await;
        let before = cluster.get(leader, "/v1/status").await["ledger"]["records"].as_u64().unwrap_or(0);
        cluster
            .wait_for("new movements", async || {
                let status = cluster.try_get(leader, "/v1/status").await?;
                (status["ledger"]["records"].as_u64()? > before).then_some(())
            })
            .await;
        // Right now the leader's projector is at work on them.
        cluster.kill(leader);
        cluster.leader_after(term).await;
        cluster.start_node(leader);
    }
    // And one that stays dead for a while: a whole interval without an answer.
    let (leader, term) = cluster.leader().await;
    cluster.kill(leader);
    let killed = cluster.nodes[leader].id.clone();
    let (next, _) = cluster.leader_after(term).await;
    let path = format!("/v1/rewards?member={killed}&kind=penalty");
    cluster
        .wait_for("the killed node's whole penalty", async || {
            let page = cluster.try_get(next, &path).await?;
            page["items"].as_array()?.iter().find(|item| item["amount"] == json!(-5_000_000)).map(|_| ())
        })
        .await;
    cluster.start_node(leader);
    let (leader, _) = cluster.leader().await;
    compare(&cluster, leader).await;
    let client = mongod::connect(mongod.uri()).await;
    let rewards = client.database(&database).collection::<bson::Document>("rewards");
    let penalty = rewards
        .find_one(bson::doc! {"kind": "penalty", "member": &killed})
        .await
        .expect("a query")
        .expect("a penalty");
    assert!(penalty.get_i64("amount").expect("an Int64") < 0, "{penalty}");
    let intervals = client.database(&database).collection::<bson::Document>("intervals");
    assert!(intervals.count_documents(bson::doc! {"verdict": "settled"}).await.expect("a count") > 0);
}

#[tokio::test]
async fn a_backlog_drains_when_mongodb_comes_back() {
    let mut mongod = Mongod::start(Kind::Standalone).await;
    let cluster = Cluster::start(&setup(&mongod.uri(), "backlog"));
    let (leader, _) = cluster.leader().await;
    cluster
        .wait_for("something is projected", async || {
            let status = cluster.try_get(leader, "/v1/status").await?;
            (status["projection"]["checkpoint"].as_u64()? > 0).then_some(())
        })
        .await;
    mongod.kill9();
    let records = cluster.get(leader, "/v1/status").await["ledger"]["records"].as_u64().unwrap_or(0);
    // Everything else goes on.
    cluster.put(leader, "meanwhile", &json!(1)).await;
    cluster
        .wait_for("movements without MongoDB, and a lag that says so", async || {
            let status = cluster.try_get(leader, "/v1/status").await?;
            let lag = status["projection"]["lag_records"].as_u64()?;
            (status["ledger"]["records"].as_u64()? > records
                && lag > 0
                && status["projection"]["error"].is_string())
            .then_some(())
        })
        .await;
    mongod.restart().await;
    let (leader, _) = cluster.leader().await;
    compare(&cluster, leader).await;
}
