//! Operators' tools on real processes: the drill of `docs/backup.md`, a cluster from its last survivor, an upgrade of one
//! node after the other.

#[path = "support/cluster.rs"]
mod cluster;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::{BINARY, Cluster, Setup, all_items};
use serde_json::{Value, json};

/// A command that needs no cluster.
fn offline(arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["-o", "json"]).args(arguments).args(paths).stdin(std::process::Stdio::null());
    command.env_remove("SUPER_NODE_ENDPOINTS").output().expect("the command runs")
}

fn json_of(output: &Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

/// The whole dictionary, as one node has it.
async fn dictionary(cluster: &Cluster, at: usize) -> Vec<(String, Value, u64)> {
    let items = all_items(cluster, at, "/v1/kv").await;
    let entry = |item: &Value| {
        let key = item["key"].as_str().expect("a key").to_string();
        (key, item["value"].clone(), item["revision"].as_u64().expect("a revision"))
    };
    items.iter().map(entry).collect()
}

/// Writes through every node until it is told to stop; returns every acknowledged value, in order.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(String, u64, u64)>>>,
}

impl Writers {
    fn begin(cluster: &Cluster) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = cluster.nodes.iter().enumerate().map(|(at, node)| {
            let (url, http, stop) = (node.url(), cluster.http.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("w{at}-{:02}", number % 40);
                    let sent = http.put(format!("{url}/v1/kv/{key}")).json(&json!(number)).send().await;
                    if let Ok(answer) = sent
                        && answer.status().is_success()
                        && let Ok(body) = answer.json::<Value>().await
                    {
                        acknowledged.push((key, number, body["revision"].as_u64().expect("a revision")));
                    } else {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                }
                acknowledged
            })
        });
        Writers { tasks: tasks.collect(), stop }
    }

    async fn end(self) -> Vec<(String, u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.expect("it writes"));
        }
        all.sort_by_key(|(_, _, revision)| *revision);
        all
    }
}

/// What the dictionary must hold after all acknowledged writes up to a revision.
fn expected(writes: &[(String, u64, u64)], upto: u64) -> Vec<(String, Value, u64)> {
    let mut latest = std::collections::BTreeMap::new();
    for (key, value, revision) in writes.iter().filter(|(_, _, revision)| *revision <= upto) {
        latest.insert(key.clone(), (json!(value), *revision));
    }
    latest.into_iter().map(|(key, (value, revision))| (key, value, revision)).collect()
}

fn destroy(cluster: &mut Cluster) {
    let running: Vec<usize> = (0..cluster.nodes.len()).filter(|at| cluster.nodes[*at].is_running()).collect();
    cluster.kill_all(&running);
    for node in &cluster.nodes {
        std::fs::remove_dir_all(&node.directory).expect("it can be removed");
    }
}

async fn verified(cluster: &Cluster, at: usize) {
    let report = cluster.get(at, "/v1/ledger/verify").await;
    assert_eq!(report["ok"], json!(true), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_from_a_snapshot_when_everything_is_destroyed() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.leader().await;
    let file = cluster.directory.path().join("backup.snapshot");
    let writers = Writers::begin(&cluster);
    // Something to verify: members have been paid.
    cluster
        .wait_for("a settled interval", async || {
            let page = cluster.try_get(0, "/v1/rewards").await?;
            (!page["items"].as_array()?.is_empty()).then_some(())
        })
        .await;
    let saved = cluster.cli_json(&["snapshot", "save", file.to_str().expect("printable")]);
    let writes = writers.end().await;
    let upto = saved["kv_revision"].as_u64().expect("a revision");
    assert!(
        upto > 0 && writes.last().is_some_and(|(_, _, last)| *last > upto),
        "it was under writes: {saved}"
    );
    // What is in it can be looked at, and is what was said.
    let inspected = json_of(&offline(&["snapshot", "inspect"], &[&file]));
    for field in ["index", "term", "sha256", "rows", "kv_revision", "ledger_head", "identity"] {
        assert_eq!(inspected[field], saved[field], "{field}");
    }
    let again = cluster.cli(&["snapshot", "save", file.to_str().expect("printable")]);
    assert_eq!(again.status.code(), Some(2), "a snapshot is never overwritten");
    destroy(&mut cluster);

    let peers = cluster.peers();
    for node in &cluster.nodes {
        let restored = json_of(&offline(
            &["snapshot", "restore", "--id", &node.id, "--peers", &peers, "--data-dir"],
            &[&node.directory, &file],
        ));
        assert_eq!(restored["sha256"], saved["sha256"]);
        assert_ne!(restored["new_identity"], saved["identity"]);
    }
    let occupied =
        offline(&["snapshot", "restore", "--id", "n1", "--data-dir"], &[&cluster.nodes[0].directory, &file]);
    assert_eq!(occupied.status.code(), Some(2), "{}", String::from_utf8_lossy(&occupied.stderr));
    for at in 0..3 {
        cluster.start_node(at);
    }
    cluster.leader().await;
    for at in 0..3 {
        // Key by key what was acknowledged up to the snapshot, neither less nor more.
        assert_eq!(dictionary(&cluster, at).await, expected(&writes, upto), "n{}", at + 1);
        verified(&cluster, at).await;
    }
    // It works on: it is written to, and members are paid.
    cluster.put(1, "after", &json!("restored")).await;
    let before = saved["ledger_records"].as_u64().expect("a count");
    cluster
        .wait_for("another payment", async || {
            let status = cluster.try_get(0, "/v1/status").await?;
            (status["ledger"]["records"].as_u64()? > before).then_some(())
        })
        .await;
    verified(&cluster, 2).await;
    let recoveries = cluster.get(0, "/v1/recoveries").await;
    assert_eq!(recoveries["items"][0]["kind"], json!("restored"), "{recoveries}");
    assert_eq!(recoveries["items"][0]["previous_identity"], saved["identity"], "{recoveries}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_becomes_a_cluster_and_the_others_are_refused_until_they_join_anew() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.leader().await;
    for number in 0..30 {
        cluster.put(number % 3, &format!("k{number}"), &json!(number)).await;
    }
    let identity = cluster.get(0, "/v1/status").await["identity"].clone();
    // Soon after the founding: that is on the disk before anybody hears of it.
    cluster.kill_all(&[0, 1, 2]);
    // Of three directories one is left: that of the node whose log is longest has everything acknowledged.
    let lasts: Vec<u64> = cluster
        .nodes
        .iter()
        .map(|node| {
            let shown = json_of(&offline(&["log", "inspect", "--data-dir"], &[&node.directory]));
            shown["last_index"].as_u64().expect("an index")
        })
        .collect();
    let survivor = (0..3).max_by_key(|at| lasts[*at]).expect("three");
    let directory = cluster.nodes[survivor].directory.clone();
    let unasked = offline(&["recover", "--force-new-cluster", "--data-dir"], &[&directory]);
    let text = String::from_utf8_lossy(&unasked.stderr).to_string();
    assert_eq!(unasked.status.code(), Some(2), "{text}");
    for word in ["may be lost", "may appear", "is refused", "--yes", &format!("entry {}", lasts[survivor])] {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    let done = json_of(&offline(&["recover", "--force-new-cluster", "--yes", "--data-dir"], &[&directory]));
    assert_eq!(done["previous_identity"], identity);
    let twice = offline(&["recover", "--force-new-cluster", "--yes", "--data-dir"], &[&directory]);
    assert_eq!(twice.status.code(), Some(2), "{}", String::from_utf8_lossy(&twice.stderr));

    cluster.start_node(survivor);
    cluster.leader().await;
    for number in 0..30 {
        let read = cluster.get(survivor, &format!("/v1/kv/k{number}")).await;
        assert_eq!(read["value"], json!(number));
    }
    verified(&cluster, survivor).await;
    let status = cluster.get(survivor, "/v1/status").await;
    assert_eq!(status["identity"], done["identity"]);
    assert_eq!(status["voters"], json!([cluster.nodes[survivor].id]));
    let listed = cluster.cli_json(&["recover", "--list"]);
    assert_eq!(listed[0]["kind"], json!("forced_new_cluster"), "{listed}");
    assert_eq!(listed[0]["previous_voters"], json!(["n1", "n2", "n3"]), "{listed}");

    // One that was left behind comes back with its old directory: it is told that its cluster is another one, and is no
    // part of this one.
    let left = (survivor + 1) % 3;
    cluster.start_node(left);
    cluster
        .wait_for("the old cluster is refused", async || {
            let logs = cluster.log_of(left) + &cluster.log_of(survivor);
            logs.contains("two clusters that are both called").then_some(())
        })
        .await;
    cluster.put(survivor, "alone", &json!(1)).await;
    let status = cluster.get(survivor, "/v1/status").await;
    assert_eq!(status["voters"], json!([cluster.nodes[survivor].id]));
    cluster.kill(left);
    // With an empty one it joins, and has all of it.
    let joined = cluster.join_node("n4", survivor);
    cluster
        .wait_for("it votes", async || {
            let status = cluster.try_get(survivor, "/v1/status").await?;
            status["voters"].as_array()?.contains(&json!("n4")).then_some(())
        })
        .await;
    assert_eq!(dictionary(&cluster, joined).await, dictionary(&cluster, survivor).await);
    let known = cluster.get(joined, "/v1/recoveries").await;
    assert_eq!(known["items"][0]["identity"], done["identity"], "{known}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_upgraded_one_after_the_other_under_load_and_nothing_is_lost() {
    // An older super-node speaks peer protocol 2 and knows no offers.
    let newest = super_node::node::frame::PROTOCOL;
    let old = Setup::nodes(3).with("SUPER_NODE_NODE__PEER_PROTOCOL_MAX", "2");
    let mut cluster = Cluster::start(&old);
    cluster.leader().await;
    let writers = Writers::begin(&cluster);
    let spoken = |cluster: &Cluster, at: usize| -> Vec<String> {
        let log = cluster.log_of(at);
        let connected = log.lines().filter(|line| line.contains("connected") && line.contains("protocol="));
        connected
            .filter_map(|line| line.split("protocol=").nth(1))
            .map(|rest| rest[..1].to_string())
            .collect()
    };
    for at in 0..3 {
        cluster.signal(at, "TERM");
        assert_eq!(cluster.wait_exit(at), Some(0));
        cluster.set("SUPER_NODE_NODE__PEER_PROTOCOL_MAX", &newest.to_string());
        cluster.start_node(at);
        cluster
            .wait_for("it has caught up", async || {
                let (own, leader) =
                    (cluster.try_get(at, "/v1/status").await?, cluster.leader_status().await?);
                let behind = leader["commit"].as_u64()?.saturating_sub(own["applied"].as_u64()?);
                (own["peer_protocol_max"] == json!(newest) && behind < 200).then_some(())
            })
            .await;
        cluster.leader().await;
    }
    let writes = writers.end().await;
    assert!(writes.len() > 20, "there was load: {}", writes.len());
    let last = writes.last().expect("there was load").2;
    for at in 0..3 {
        let found = dictionary(&cluster, at).await;
        // A write whose answer was lost may have happened after the last acknowledged one of its key.
        for (key, value, revision) in expected(&writes, last) {
            let there = found.iter().find(|(known, _, _)| *known == key).expect("acknowledged, so there");
            assert!(there.2 >= revision, "{key}: {value} at {revision} is lost, there is {there:?}");
        }
        verified(&cluster, at).await;
    }
    // The first one to be upgraded met older ones, and spoke their protocol; the last met none.
    let (first, last) = (spoken(&cluster, 0), spoken(&cluster, 2));
    assert!(first.iter().any(|protocol| protocol == "2"), "{first:?}");
    let newest = newest.to_string();
    assert!(first.contains(&newest), "{first:?}");
    assert_eq!(last.iter().rev().take(2).collect::<Vec<_>>(), [&newest, &newest], "{last:?}");
}

/// What `snapshot save --stale` says of one node.
fn digest_of(cluster: &Cluster, at: usize, attempt: usize) -> Value {
    let file = cluster.directory.path().join(format!("digest-{attempt}-{at}"));
    let arguments = ["-o", "json", "snapshot", "save", "--stale", file.to_str().expect("printable")];
    let mut command = cluster.cli_command(&arguments);
    json_of(&command.env("SUPER_NODE_ENDPOINTS", cluster.nodes[at].url()).output().expect("the command runs"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_have_one_digest_after_load_a_crash_and_catching_up() {
    // A log that forgets soon: whoever was away gets a snapshot.
    let mut cluster = Cluster::start(&Setup::nodes(3).with("SUPER_NODE_RAFT__SNAPSHOT_ENTRIES", "100"));
    let (leader, term) = cluster.leader().await;
    let (away, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let writers = Writers::begin(&cluster);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    cluster.kill(away);
    let base = |status: &Value| status["log"]["base_index"].as_u64();
    let left = cluster.get(third, "/v1/status").await["applied"].as_u64();
    cluster
        .wait_for("the others forget what it lacks", async || {
            let status = cluster.try_get(third, "/v1/status").await?;
            (base(&status) > left).then_some(())
        })
        .await;
    cluster.start_node(away);
    cluster.kill(leader);
    cluster.leader_after(term).await;
    cluster.start_node(leader);
    cluster.leader().await;
    assert!(!writers.end().await.is_empty(), "there was load");
    // Intervals go on, so the three may stand at different entries when they are asked.
    let mut attempt = 0;
    let digests = loop {
        let digests: Vec<Value> = (0..3).map(|at| digest_of(&cluster, at, attempt)).collect();
        if digests.iter().all(|digest| digest["index"] == digests[0]["index"]) {
            break digests;
        }
        attempt += 1;
        assert!(attempt < 100, "never at the same entry: {digests:?}");
    };
    assert!(digests[0]["rows"].as_u64() > Some(100), "{digests:?}");
    for digest in &digests[1..] {
        assert_eq!(digest["state_digest"], digests[0]["state_digest"], "{digests:?}");
    }
    assert_ne!(digests[0]["sha256"], digests[1]["sha256"], "each file says whose it is");
}

#[test]
fn what_cannot_be_restored_is_said_with_its_exit_code() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    std::fs::write(path("not.snapshot"), b"something else, and long enough to be a head").expect("written");
    let cases = [
        (offline(&["snapshot", "inspect"], &[&path("not.snapshot")]), 9, "not a snapshot"),
        (offline(&["snapshot", "inspect"], &[&path("missing")]), 1, "open"),
        (offline(&["log", "inspect", "--data-dir"], &[&path("nothing")]), 2, "not a data directory"),
        (
            offline(&["snapshot", "save", "--data-dir"], &[&path("nothing"), &path("x.snapshot")]),
            2,
            "not a data directory",
        ),
        (offline(&["recover", "--force-new-cluster"], &[]), 2, "--data-dir"),
        (offline(&["recover"], &[]), 2, "--force-new-cluster"),
    ];
    for (output, code, word) in cases {
        let text = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    assert!(!path("x.snapshot").exists() && !path("x.snapshot.partial").exists());
}
