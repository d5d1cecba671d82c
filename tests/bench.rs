//! `bench`: figures of a cluster of its own and of a running one, and whether they keep what was asked for.

#[path = "support/cluster.rs"]
mod cluster;

use std::process::Command;

use cluster::{BINARY, Cluster, Setup};
use serde_json::Value;

/// A short run.
const SHORT: [&str; 8] = ["--seconds", "0.5", "--warm-up", "100ms", "--clients", "2", "--size", "64"];

fn bench(words: &[&str], directory: &std::path::Path) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(BINARY)
        .args(["-o", "json", "bench"])
        .args(SHORT)
        .args(words)
        .env_remove("MONGODB_URI")
        .env("TMPDIR", directory)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), rows)
}

#[test]
fn a_cluster_of_its_own_is_measured_beside_a_bare_server_and_nothing_is_left() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (code, rows) = bench(&["--local", "3", "--expect", "puts>=1"], directory.path());
    assert_eq!(code, Some(0), "{rows:?}");
    let of = |protocol: &str| rows.iter().find(|row| row["protocol"] == protocol).expect("a row");
    let (bare, http) = (of("bare"), of("http"));
    for row in [bare, http] {
        assert!(row["ops_per_s"].as_f64() > Some(0.0), "{row}");
        assert!(row["p50_us"].as_u64() <= row["p99_us"].as_u64(), "{row}");
        assert!(row["p99_us"].as_u64() <= row["p999_us"].as_u64(), "{row}");
        assert_eq!(row["errors"], 0, "{row}");
    }
    assert_eq!(http["expect"][0]["ok"], true, "{http}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("listed").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_running_cluster_is_measured_and_a_bound_that_is_not_kept_is_exit_code_1() {
    let cluster = Cluster::start(&Setup::nodes(3));
    cluster.leader().await;
    let url = cluster.nodes[0].url();
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (words, code) in [
        (&["--protocol", "native", "--mix", "0.5", "--batch", "3", "--expect", "ops>=1"][..], 0),
        (&["--no-bare", "--target", "all", "--expect", "ops>=1,puts>=1000000000"][..], 1),
    ] {
        let mut all = vec!["--endpoints", &url];
        all.extend(words);
        let (found, rows) = bench(&all, directory.path());
        assert_eq!(found, Some(code), "{rows:?}");
        let [row] = &rows[..] else { panic!("one row: {rows:?}") };
        assert!(row["ops_per_s"].as_f64() > Some(0.0), "{row}");
        let bounds = row["expect"].as_array().expect("the bounds");
        assert_eq!(bounds.iter().all(|bound| bound["ok"] == true), code == 0, "{row}");
    }
    // What it wrote can be found, and is nothing else than what it says.
    let listed = cluster.cli_json(&["kv", "list", "--limit", "5"]);
    assert!(!listed.as_array().expect("keys").is_empty());
    let output = cluster.cli(&["bench", "--expect", "puts>many"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
