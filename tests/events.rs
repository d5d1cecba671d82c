//! The event stream: every kind is documented, and those that can be provoked on real processes are, with their fields.

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use cluster::{Cluster, PATIENCE, Setup, files_under};
use serde_json::{Value, json};

/// The kinds of `docs/events.md`: what stands in back quotes in the first column of its tables.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../docs/events.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let firsts = rows.filter_map(|line| line.trim_start_matches('|').split('|').next());
    firsts.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_string).collect()
}

/// The words that stand in quotes after `before` and white space, and before a comma.
fn words_after(text: &str, before: &str) -> Vec<String> {
    let rests = text.match_indices(before).map(|(at, _)| text[at + before.len()..].trim_start());
    let quoted = rests.filter_map(|rest| rest.strip_prefix('"')?.split_once('"'));
    let words = quoted.filter(|(word, rest)| {
        rest.trim_start().starts_with(',')
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    });
    words.map(|(word, _)| word.to_string()).collect()
}

#[test]
fn every_kind_that_the_program_knows_is_documented_and_no_other() {
    let mut known = BTreeSet::new();
    for file in files_under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        if file.ends_with("node/notices.rs") || file.ends_with("database/shell.rs") {
            known.extend(words_after(shipped, "("));
        }
        for call in shipped.split("publish(").skip(1) {
            let arguments = call.split(';').next().unwrap_or_default();
            known.extend(words_after(&format!("({arguments}"), "(").into_iter().take(1));
            known.extend(words_after(arguments, ",").into_iter().take(1));
        }
    }
    let documented = documented();
    let missing: Vec<&String> = known.difference(&documented).collect();
    let stale: Vec<&String> = documented.difference(&known).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "not documented: {missing:?}, no longer known: {stale:?}"
    );
    assert!(known.len() > 60, "{known:?}");
}

/// All events of all running nodes, as `super-node events` prints them.
fn events(cluster: &Cluster) -> Vec<Value> {
    let mut all = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let output = cluster.cli(&["-o", "json", "--endpoints", &node.url(), "events"]);
        let text = String::from_utf8_lossy(&output.stdout).to_string();
        all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
    }
    all
}

/// Waits until an event of a kind fits.
async fn until(cluster: &Cluster, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let found = events(cluster).into_iter().find(|event| event["type"] == kind && fits(&event["data"]));
        if let Some(event) = found {
            return event;
        }
        assert!(begun.elapsed() < 3 * PATIENCE, "no fitting {kind} within {:?}", 3 * PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

async fn post(cluster: &Cluster, at: usize, path: &str, body: &Value) -> u16 {
    let url = format!("{}{path}", cluster.nodes[at].url());
    cluster.http.post(url).json(body).send().await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_on_a_real_cluster_is_told_with_its_fields() {
    let setup = Setup::nodes(3).with("SUPER_NODE_STORAGE__SCRUB_RATE", "64MiB");
    let mut cluster = Cluster::start(&setup);
    let (leader, term) = cluster.leader().await;
    for number in 1..=4 {
        cluster.start_agent(&format!("worker-{number}"));
    }
    until(&cluster, "member_joined", |data| data["member"] == "worker-4").await;
    until(&cluster, "interval_settled", |data| data["verdict"] == "settled").await;
    // Money.
    let claim = |seq: u64, amount: i64| json!({ "member": "n1", "seq": seq, "amount": amount });
    let begun = Instant::now();
    while post(&cluster, leader, "/v1/claims", &claim(1, 1)).await != 200 {
        assert!(begun.elapsed() < 3 * PATIENCE, "n1 earns nothing");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    until(&cluster, "claim_paid", |data| data["member"] == "n1" && data["amount"] == -1).await;
    post(&cluster, leader, "/v1/claims", &claim(2, 1_000_000_000_000)).await;
    until(&cluster, "over_claimed", |data| data["penalty"].as_i64() > Some(0)).await;
    let adjustment = json!({ "member": "n1", "delta": 5, "reason": "a test", "operator": "test" });
    post(&cluster, leader, "/v1/adjustments", &adjustment).await;
    until(&cluster, "adjusted", |data| data["amount"] == 5).await;
    // Most members are dark at once; then one comes back.
    (1..=4).for_each(|number| cluster.kill_agent(&format!("worker-{number}")));
    until(&cluster, "member_suspect", |data| data["member"] == "worker-1").await;
    until(&cluster, "member_down", |data| data["member"] == "worker-1" && data["misses"].as_u64() > Some(0))
        .await;
    until(&cluster, "interval_settled", |data| {
        data["verdict"] == "correlated" && data["reason"].as_str().is_some_and(|why| !why.is_empty())
    })
    .await;
    cluster.start_agent("worker-1");
    until(&cluster, "member_up", |data| data["member"] == "worker-1").await;
    for number in 2..=4 {
        let url = format!("{}/v1/members/worker-{number}", cluster.nodes[leader].url());
        cluster.http.delete(url).send().await.expect("an answer");
    }
    until(&cluster, "member_left", |data| data["member"] == "worker-2").await;
    // An observer that stood still is not believed.
    let follower = (0..3).find(|at| *at != leader).expect("a follower");
    cluster.signal(follower, "STOP");
    tokio::time::sleep(std::time::Duration::from_millis(1_600)).await;
    cluster.signal(follower, "CONT");
    until(&cluster, "observer_set_aside", |data| {
        data["observer"] == cluster.nodes[follower].id.as_str() && data["why"].is_string()
    })
    .await;
    // The leadership is handed over.
    let output = cluster.cli(&["leader", "transfer"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until(&cluster, "transfer_started", |data| data["to"].is_string()).await;
    until(&cluster, "stepped_down", |data| data["reason"] == "transferred").await;
    until(&cluster, "election_started", |data| data["pre_vote"] == false && data["reason"] == "transfer")
        .await;
    until(&cluster, "vote", |data| data["granted"] == true && data["pre_vote"] == false).await;
    until(&cluster, "leader_elected", |data| {
        data["reason"] == "transfer" && data["votes"].as_array().is_some_and(|votes| votes.len() >= 2)
    })
    .await;
    until(&cluster, "election_recorded", |data| data["term"].as_u64() > Some(term)).await;
    // Two of three cannot judge when one of them is cut off: nobody else votes.
    until(&cluster, "scrub_done", |data| data["sound"] == true && data["bytes"].as_u64() > Some(0)).await;
    let documented = documented();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for event in events(&cluster) {
        *seen.entry(event["type"].as_str().expect("a kind").to_string()).or_default() += 1;
    }
    assert!(seen.keys().all(|kind| documented.contains(kind)), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_majority_a_leader_steps_down_and_says_why() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    cluster.kill_all(&others);
    until(&cluster, "stepped_down", |data| data["reason"] == "quorum_lost").await;
    // It asks whether it could win, and nobody answers.
    until(&cluster, "election_started", |data| data["pre_vote"] == true).await;
}
