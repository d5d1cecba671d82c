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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_a_node_that_joins_tells_how_far_it_is_and_is_refused_by_another_version() {
    let mut cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    cluster.put(0, "before", &json!("joining")).await;
    let at = cluster.join_node("n2", 0);
    cluster
        .wait_for("it votes", async || {
            let status = cluster.try_get(at, "/v1/status").await?;
            (names(&status["voters"]) == ["n1", "n2"] && status["role"] == "follower").then_some(())
        })
        .await;
    cluster
        .wait_for("it says so", async || cluster.log_of(at).contains("this node votes now").then_some(()))
        .await;
    let log = cluster.log_of(at);
    let steps = ["n2 asks cluster super-node to be added at", "this node has caught up and is about to vote"];
    for step in steps {
        assert!(log.contains(step), "{step}: {log}");
    }
    assert_eq!(cluster.get(at, "/v1/kv/before").await["value"], json!("joining"));
    // A cluster whose nodes speak otherwise to each other: the same status, of a later version.
    let mut later = cluster.get(0, "/v1/status").await;
    let protocol = later["peer_protocol_max"].as_u64().expect("a number") + 1;
    later["peer_protocol"] = json!(protocol);
    // A version that speaks a range of them starts above this one's.
    later["peer_protocol_max"] = json!(protocol);
    later["leader"] = later["id"].clone();
    let router = axum::Router::new().route("/v1/status", axum::routing::get(async || axum::Json(later)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let stranger = cluster.add_node("n3", 0);
    cluster.nodes[stranger].join = Some(url);
    let mut command = cluster.command(stranger);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("peer protocol {protocol} to {protocol}")), "{said}");
    assert!(said.contains("run versions on both that have a protocol in common"), "{said}");
    assert!(!cluster.nodes[stranger].directory.exists(), "nothing was made");
}
