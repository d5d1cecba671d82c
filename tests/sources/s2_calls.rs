//! S2: the replicated addition through any node, and what the log of a node tells.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::cluster::{BINARY, Cluster, Setup};

fn add(endpoints: &str, a: i64, b: i64) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY)
        .args(["--timeout", "20s", "add", &a.to_string(), &b.to_string()])
        .env("SUPER_NODE_ENDPOINTS", endpoints)
        .output()
        .expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn s2_add_prints_three_lines_through_any_node_and_through_redirects() {
    let cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    let leads = cluster.nodes[leader].id.clone();
    for node in &cluster.nodes {
        let (code, out, err) = add(&node.url(), 5, 3);
        assert_eq!(code, Some(0), "{err}");
        let lines = [
            format!("Leader: Node {}", leads),
            format!("Operation performed on: Node {}", node.id),
            "Result: 5 + 3 = 8".to_string(),
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }
    // A node that is told not to pass it on says where the leader is; a client that follows gets its sum.
    let follower = &cluster.nodes[(leader + 1) % 3];
    let url = format!("{}/v1/add?forward=false", follower.url());
    let body = json!({"a": -7, "b": 2});
    let plain = super_node::network::tls::http(None)
        .expect("public authorities")
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let answer = plain.expect("a client").post(&url).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 307);
    let location = answer.headers()["location"].to_str().expect("text").to_string();
    assert!(location.starts_with(&cluster.nodes[leader].url()), "{location}");
    let sum: Value =
        cluster.http.post(&url).json(&body).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!((&sum["result"], &sum["node"]), (&json!(-5), &json!(leads)));
    // What cannot be added is refused, and the cluster goes on.
    let (code, _, err) = add(&follower.url(), i64::MAX, 1);
    assert_eq!(code, Some(2), "{err}");
    assert_eq!(add(&follower.url(), 1, 1).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_additions_go_on_while_leaders_die_and_come_back() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (mut leader, mut term) = cluster.leader().await;
    let endpoints: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, counted) = (stop.clone(), done.clone());
    // The real program, again and again, with all three addresses and no care for who leads.
    let work = tokio::task::spawn_blocking(move || {
        for number in 0_i64.. {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let (code, out, err) = add(&endpoints.join(","), number, 1);
            assert_eq!(code, Some(0), "addition {number}: {err}");
            let result = format!("Result: {number} + 1 = {}", number + 1);
            assert_eq!(out.lines().nth(2), Some(result.as_str()));
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..2 {
        let before = done.load(Ordering::Relaxed);
        cluster
            .wait_for("additions are done", async || {
                (done.load(Ordering::Relaxed) > before + 3).then_some(())
            })
            .await;
        cluster.kill(leader);
        let dead = leader;
        (_, term) = cluster.leader_after(term).await;
        let before = done.load(Ordering::Relaxed);
        cluster
            .wait_for("additions go on under another leader", async || {
                (done.load(Ordering::Relaxed) > before + 3).then_some(())
            })
            .await;
        cluster.start_node(dead);
        (leader, term) = cluster.leader_after(term - 1).await;
    }
    stop.store(true, Ordering::Relaxed);
    work.await.expect("every addition was done");
}

/// The lines of a JSON log: level, event and message.
fn log_lines(cluster: &Cluster, at: usize) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let log = cluster.log_of(at);
    // The last line may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let fields = &line["fields"];
        (text(&line["level"]), text(&fields["event"]), text(&fields["message"]))
    });
    lines.collect()
}

fn said(cluster: &Cluster, at: usize, level: &str, event: &str, words: &str) -> bool {
    log_lines(cluster, at).iter().any(|(l, e, message)| l == level && e == event && message.contains(words))
}

#[tokio::test]
async fn s2_the_log_tells_start_election_timeout_victory_and_the_age_of_the_last_heartbeat() {
    // Pings so rare that only the election timeout can notice a frozen leader.
    let setup = Setup::nodes(3)
        .with("SUPER_NODE_LEDGER__INTERVAL", "60s")
        .with("SUPER_NODE_LEDGER__PING", "5s")
        .with("SUPER_NODE_LOG__FORMAT", "json");
    let cluster = Cluster::start(&setup);
    let (leader, term) = cluster.leader().await;
    cluster.signal(leader, "STOP");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let next = cluster
        .wait_for("another node leads", async || {
            let mut found = None;
            for at in others {
                let status = cluster.try_get(at, "/v1/status").await?;
                let leads = status["role"] == "leader" && status["term"].as_u64() > Some(term);
                found = if leads { Some(at) } else { found };
            }
            found
        })
        .await;
    cluster.signal(leader, "CONT");
    let follower = others[0] + others[1] - next;
    for at in 0..3 {
        let id = &cluster.nodes[at].id;
        assert!(said(&cluster, at, "INFO", "node_start", &format!("node {id} of cluster super-node starts")));
    }
    assert!(said(&cluster, next, "INFO", "election_started", "election timeout: asks for votes in term"));
    assert!(said(&cluster, next, "INFO", "leader_elected", "won election for term"));
    let name = &cluster.nodes[next].id;
    assert!(said(&cluster, follower, "INFO", "follows_leader", &format!("follows {name} in term")));
    // How old the last heartbeat is, on both sides, and only for those who asked for details.
    cluster
        .wait_for("both tell how things stand", async || {
            let leads = said(&cluster, next, "DEBUG", "standing", "heartbeats answered: ");
            let follows = said(&cluster, follower, "DEBUG", "standing", &format!("follows {name} in term"));
            (leads && follows && said(&cluster, follower, "DEBUG", "standing", "last heartbeat "))
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn s2_the_log_is_quiet_unless_asked() {
    let setup = Setup::nodes(1).with("SUPER_NODE_LOG__LEVEL", "info");
    let cluster = Cluster::start(&setup);
    cluster.leader().await;
    for number in 0..50 {
        cluster.put(0, &format!("k{number}"), &json!(number)).await;
    }
    // Two intervals are judged meanwhile, and many heartbeats pass.
    cluster
        .wait_for("two intervals are settled", async || {
            let status = cluster.try_get(0, "/v1/status").await?;
            (status["interval"]["next_settle"].as_u64() >= Some(3)).then_some(())
        })
        .await;
    let log = cluster.log_of(0);
    assert!(log.contains("node n1 of cluster super-node starts"), "{log}");
    assert!(log.contains("won election for term"), "{log}");
    assert!(log.lines().count() <= 8, "{log}");
}
