//! What is watched from outside: every metric of the interface is exposed by a running node, and dashboard and alerts name
//! nothing else than what is.

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cluster::{Cluster, Setup, on_path};
use serde_json::Value;

/// The metrics of the interface, with their kind and labels.
const INTERFACE: &[(&str, &str, &[&str])] = &[
    ("raft_term", "gauge", &[]),
    ("raft_role", "gauge", &[]),
    ("raft_has_leader", "gauge", &[]),
    ("raft_commit_index", "gauge", &[]),
    ("raft_applied_index", "gauge", &[]),
    ("raft_follower_lag_entries", "gauge", &["peer"]),
    ("raft_leader_contact_seconds", "gauge", &[]),
    ("member_up", "gauge", &["member"]),
    ("storage_bytes", "gauge", &[]),
    ("snapshot_index", "gauge", &[]),
    ("ledger_records", "gauge", &[]),
    ("projection_lag_records", "gauge", &[]),
    ("build_info", "gauge", &["version"]),
    ("raft_elections_total", "counter", &["reason", "result"]),
    ("raft_leader_changes_total", "counter", &[]),
    ("raft_messages_total", "counter", &[]),
    ("raft_proposals_total", "counter", &["result"]),
    ("pings_total", "counter", &["result"]),
    ("http_requests_total", "counter", &["route", "code"]),
    ("ledger_records_total", "counter", &["kind"]),
    ("projection_documents_total", "counter", &["collection"]),
    ("raft_commit_seconds", "histogram", &[]),
    ("wal_sync_seconds", "histogram", &[]),
    ("ping_rtt_seconds", "histogram", &[]),
    ("http_request_seconds", "histogram", &[]),
    ("election_leaderless_seconds", "histogram", &[]),
    ("projection_batch_seconds", "histogram", &[]),
];

/// What a node exposes: kinds by family, and labels by sample.
#[derive(Default)]
struct Exposed {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Exposed {
    fn read(text: &str) -> Exposed {
        let mut exposed = Exposed::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("name and kind");
                exposed.kinds.insert(name.to_string(), kind.to_string());
            } else if !line.starts_with('#') {
                for (name, labels) in used(line) {
                    exposed.labels.entry(name).or_default().extend(labels);
                }
            }
        }
        exposed
    }

    /// What an expression names and no node exposes.
    fn unknown(&self, expression: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, labels) in used(expression) {
            match self.labels.get(&name) {
                None => problems.push(format!("{name} is not exposed: {expression}")),
                Some(known) => {
                    // Prometheus adds these two.
                    let ours = labels.iter().filter(|label| !["job", "instance"].contains(&label.as_str()));
                    let missing = ours.filter(|label| !known.contains(*label));
                    problems
                        .extend(missing.map(|label| format!("{name} has no label {label}: {expression}")));
                }
            }
        }
        problems
    }
}

/// The samples of ours that a text names, each with the labels in braces behind it.
fn used(text: &str) -> Vec<(String, Vec<String>)> {
    const PREFIX: &str = "super_node_";
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(PREFIX) {
        let word = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let end = rest[at..].find(|char| !word(char)).map_or(rest.len(), |length| at + length);
        let name = rest[at..end].to_string();
        rest = &rest[end..];
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            let mut quoted = false;
            let mut label = String::new();
            for char in inside.0.chars() {
                match char {
                    '"' => quoted = !quoted,
                    _ if quoted => {}
                    '=' => labels.push(std::mem::take(&mut label)),
                    ',' => label.clear(),
                    _ if word(char) => label.push(char),
                    _ => {}
                }
            }
        }
        found.push((name, labels));
    }
    found
}

/// All values under a key, anywhere in a document.
fn under<'v>(value: &'v Value, key: &str, into: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == key {
                    into.extend(value.as_str());
                }
                under(value, key, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| under(item, key, into)),
        _ => {}
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a readable file")
}

async fn metrics(cluster: &Cluster, at: usize) -> String {
    let answer = cluster.http.get(format!("{}/metrics", cluster.nodes[at].url())).send().await;
    answer.expect("an answer").text().await.expect("a body")
}

#[tokio::test]
async fn the_metrics_of_the_interface_are_exposed_and_dashboard_and_alerts_name_no_others() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.start_agent("worker-1");
    let (leader, _) = cluster.leader().await;
    cluster.put(leader, "a", &serde_json::json!(1)).await;
    cluster
        .wait_for("the agent is seen", async || {
            metrics(&cluster, leader)
                .await
                .contains("super_node_member_up{member=\"worker-1\"} 1")
                .then_some(())
        })
        .await;
    for at in 0..3 {
        let text = metrics(&cluster, at).await;
        let exposed = Exposed::read(&text);
        for (name, kind, labels) in INTERFACE {
            let name = format!("super_node_{name}");
            assert_eq!(exposed.kinds.get(&name).map(String::as_str), Some(*kind), "{name}");
            let sample = if *kind == "histogram" { format!("{name}_count") } else { name.clone() };
            let found =
                exposed.labels.get(&sample).unwrap_or_else(|| panic!("no sample of {sample}\n{text}"));
            let wanted: BTreeSet<String> = labels.iter().map(ToString::to_string).collect();
            assert_eq!(*found, wanted, "{sample}");
        }
        let mut problems = Vec::new();
        let dashboard: Value = serde_json::from_str(&read("deploy/grafana/super-node.json")).expect("JSON");
        let mut expressions = Vec::new();
        for key in ["expr", "query"] {
            under(&dashboard, key, &mut expressions);
        }
        assert!(expressions.len() > 20, "the dashboard asks for something");
        expressions.iter().for_each(|expression| problems.extend(exposed.unknown(expression)));
        problems.extend(exposed.unknown(&read("deploy/prometheus/alerts.yml")));
        // Their tests play what nodes expose.
        let tests = read("deploy/prometheus/alerts.test.yml");
        tests
            .lines()
            .filter(|line| line.contains("series: '"))
            .for_each(|line| problems.extend(exposed.unknown(line)));
        assert_eq!(problems, Vec::<String>::new());
        lint(&text);
    }
}

/// What Prometheus's own linter says of an exposition.
fn lint(text: &str) {
    if !on_path("promtool") {
        println!("SKIPPED in part: promtool is not installed, the exposition was not held against it");
        return;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
}

#[tokio::test]
async fn what_has_left_is_not_measured_any_more() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.start_agent("worker-1");
    let (leader, _) = cluster.leader().await;
    let shows = async |at: usize, line: &str| metrics(&cluster, at).await.contains(line);
    cluster
        .wait_for("all nodes see the agent", async || {
            for at in 0..3 {
                shows(at, "member_up{member=\"worker-1\"}").await.then_some(())?;
            }
            Some(())
        })
        .await;
    let gone = cluster.nodes[(leader + 1) % 3].id.clone();
    assert!(cluster.cli(&["member", "remove", "worker-1"]).status.success());
    assert!(cluster.cli(&["member", "remove", &gone]).status.success());
    for at in [leader, (leader + 2) % 3] {
        cluster
            .wait_for("neither is there", async || {
                let text = metrics(&cluster, at).await;
                let there = text.contains("member_up{member=\"worker-1\"}")
                    || text.contains(&format!("follower_lag_entries{{peer=\"{gone}\"}}"));
                (!there).then_some(())
            })
            .await;
    }
}

#[test]
fn every_alert_says_how_bad_it_is_what_it_means_and_what_to_do() {
    let rules = read("deploy/prometheus/alerts.yml");
    let tests = read("deploy/prometheus/alerts.test.yml");
    let operations = read("docs/operations.md");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 9, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        for part in ["for: ", "severity: ", "summary: ", "description: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let runbook = format!("runbook: docs/operations.md#{}", name.to_lowercase());
        assert!(alert.contains(&runbook), "{name}: {runbook}");
        assert!(operations.contains(&format!("\n### {name}\n")), "docs/operations.md says nothing of {name}");
        let fires = tests
            .split("- eval_time: ")
            .any(|case| case.contains(&format!("alertname: {name}\n")) && case.contains("exp_labels"));
        assert!(fires, "no test sees {name} fire");
    }
}

#[test]
fn a_name_that_no_node_exposes_is_noticed() {
    let exposed = Exposed::read("# TYPE super_node_a gauge\nsuper_node_a{peer=\"n, {1}\",kind=\"b\"} 3\n");
    for (expression, problems) in [
        ("max(super_node_a)", 0),
        ("super_node_a{job=~\"$job\",peer=\"x=y,z\"} > 1", 0),
        ("super_node_b", 1),
        ("super_node_a{pear=\"x\"} or super_node_ab", 2),
    ] {
        assert_eq!(exposed.unknown(expression).len(), problems, "{expression}");
    }
}
