//! S2: the cluster changes its members by itself, where it is allowed to.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Setup};

fn names(value: &Value) -> Vec<&str> {
    value.as_array().map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_a_dead_voter_is_replaced_by_a_learner_in_one_change_and_never_below_quorum() {
    let setup = Setup::nodes(3).with("SUPER_NODE_CLUSTER__REPLACE_DEAD_AFTER", "2s");
    let mut cluster = Cluster::start(&setup);
    let (leader, _) = cluster.leader().await;
    cluster.put(leader, "before", &json!(1)).await;
    let spare = cluster.add_node("spare", leader);
    let address = format!("127.0.0.1:{}", cluster.nodes[spare].peer_port);
    cluster.cli_json(&["member", "add", "spare", &address, "--super-node", "--learner-only"]);
    cluster.start_node(spare);
    cluster
        .wait_for("the spare node follows", async || {
            let read = cluster.try_get(spare, "/v1/kv/before?level=stale").await?;
            (read["value"] == json!(1)).then_some(())
        })
        .await;
    // Two of three voters are dead: nothing that is done now could be right. The two copies that are left wait.
    let dead = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.kill_all(&dead);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = cluster.get(leader, "/v1/status").await;
    assert_eq!(names(&status["voters"]), ["n1", "n2", "n3"]);
    assert_eq!((names(&status["learners"]), &status["changing"]), (vec!["spare"], &json!(false)));
    // One of them comes back, the other does not.
    cluster.start_node(dead[0]);
    let gone = cluster.nodes[dead[1]].id.clone();
    let mut wanted = vec![cluster.nodes[leader].id.as_str(), cluster.nodes[dead[0]].id.as_str(), "spare"];
    wanted.sort_unstable();
    for at in [leader, dead[0], spare] {
        cluster
            .wait_for("the spare node votes in the place of the dead one", async || {
                let status = cluster.try_get(at, "/v1/status").await?;
                (names(&status["voters"]) == wanted && status["changing"] == json!(false)).then_some(())
            })
            .await;
    }
    let (now_leads, _) = cluster.leader().await;
    let url = format!("{}/v1/events?follow=false&type=voter_replaced", cluster.nodes[now_leads].url());
    let event = cluster
        .wait_for("the reason is recorded", async || {
            let text = cluster.http.get(&url).send().await.ok()?.text().await.ok()?;
            let data = text.lines().find_map(|line| line.strip_prefix("data:"))?;
            serde_json::from_str::<Value>(data).ok()
        })
        .await;
    let data = &event["data"];
    assert_eq!((&data["voter"], &data["learner"]), (&json!(gone), &json!("spare")), "{event}");
    assert!(data["silent_ms"].as_u64() >= Some(2_000), "{event}");
    assert!(data["reason"].as_str().is_some_and(|why| why.contains("was silent for")), "{event}");
    // From three voters to three, by way of one joint configuration: never two, never four.
    let url = url.replace("voter_replaced", "configuration_changed");
    let text = cluster.http.get(&url).send().await.expect("an answer").text().await.expect("text");
    let counts: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| serde_json::from_str::<Value>(data).expect("JSON"))
        .map(|event| names(&event["data"]["voters"]).len())
        .collect();
    assert!(!counts.is_empty() && counts.iter().all(|count| *count == 3), "{counts:?}");
    assert_eq!(cluster.get(spare, "/v1/kv/before").await["value"], json!(1));
}
