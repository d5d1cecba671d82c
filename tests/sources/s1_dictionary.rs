//! S1: a dictionary shared by three nodes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::cluster::{BINARY, Cluster, Setup};

/// A command that asks one node only.
fn at(cluster: &Cluster, node: usize, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY)
        .args(arguments)
        .env("SUPER_NODE_ENDPOINTS", cluster.nodes[node].url())
        .current_dir(cluster.directory.path())
        .output()
        .expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A command that goes on; killed in the end, however the test ends.
struct Going(Child);

impl Drop for Going {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The lines that a command prints, as they come.
fn follow(cluster: &Cluster, arguments: &[&str]) -> (Going, impl Iterator<Item = Value> + use<>) {
    let mut child =
        cluster.cli_command(arguments).stdout(Stdio::piped()).spawn().expect("the command starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (Going(child), lines.map(|line| serde_json::from_str(&line.expect("text")).expect("JSON")))
}

/// Runs a command of the whole cluster with something on its standard input.
fn fed(cluster: &Cluster, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = cluster
        .cli_command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

const EXAMPLES: [(&str, &str, &str); 6] = [
    ("message", "Hello World", "Hello World"),
    ("count", "42", "42"),
    ("ready", "true", "true"),
    ("numbers", "[1, 2, 3, 4]", "[1,2,3,4]"),
    ("config", r#"{"host": "localhost", "port": 8080}"#, r#"{"host":"localhost","port":8080}"#),
    ("word", "plain", "plain"),
];

#[tokio::test]
async fn s1_every_kind_of_value_is_set_through_any_node_and_read_from_every_other() {
    let cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    for (number, (key, value, _)) in EXAMPLES.iter().enumerate() {
        let (code, out, err) = at(&cluster, number % 3, &["kv", "set", key, value]);
        assert_eq!((code, out.trim()), (Some(0), (number + 1).to_string().as_str()), "{key}: {err}");
    }
    for node in 0..3 {
        for (key, _, shown) in EXAMPLES {
            let (code, out, err) = at(&cluster, node, &["kv", "get", key]);
            assert_eq!((code, out.trim_end()), (Some(0), shown), "{key}: {err}");
        }
        // The state, and who leads.
        let (code, out, err) = at(&cluster, node, &["kv", "list"]);
        assert_eq!((code, out.lines().count()), (Some(0), EXAMPLES.len()), "{out}{err}");
        assert!(out.contains("config\t{\"host\":\"localhost\",\"port\":8080}\t5"), "{out}");
        let (leads, told) = (&cluster.nodes[leader].id, &cluster.nodes[node].id);
        assert_eq!(err.trim(), format!("6 keys; leader: {leads}, as {told} says"));
        let (_, out, _) = at(&cluster, node, &["-o", "table", "kv", "list"]);
        assert!(out.ends_with(&format!("6 keys; leader: {leads}, as {told} says\n")), "{out}");
        let (_, out, _) = at(&cluster, node, &["-o", "json", "kv", "list"]);
        let all: Value = serde_json::from_str(&out).expect("one array");
        let kinds: Vec<&str> = all
            .as_array()
            .expect("an array")
            .iter()
            .map(|entry| match &entry["value"] {
                Value::Object(_) => "dictionary",
                Value::Array(_) => "list",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                _ => "string",
            })
            .collect();
        assert_eq!(kinds, ["dictionary", "number", "string", "list", "boolean", "string"]);
    }
    // Compare and set: whoever has read an older revision changes nothing.
    let (code, _, err) = at(&cluster, 1, &["kv", "set", "count", "43", "--if-revision", "1"]);
    assert_eq!(code, Some(5), "{err}");
    let (code, _, err) = at(&cluster, 1, &["kv", "set", "count", "43", "--if-revision", "2"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(at(&cluster, 2, &["kv", "get", "count"]).1.trim(), "43");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_a_watch_tells_every_change_below_a_prefix_whoever_leads() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    cluster.put(leader, "cfg%2Fa", &json!(1)).await;
    cluster.put(leader, "other", &json!(0)).await;
    let (_prefix, mut changes) = follow(&cluster, &["-o", "json", "kv", "watch", "cfg/", "--prefix"]);
    let (_key, mut values) = follow(&cluster, &["-o", "json", "kv", "watch", "cfg/a"]);
    assert_eq!(changes.next().expect("what is there"), json!({"key": "cfg/a", "value": 1, "revision": 1}));
    assert_eq!(values.next().expect("what is there")["value"], json!(1));
    cluster.put(leader, "other", &json!(1)).await;
    cluster.put(leader, "cfg%2Fb", &json!([true])).await;
    assert_eq!(changes.next().expect("a new key"), json!({"key": "cfg/b", "value": [true], "revision": 4}));
    assert!(cluster.cli(&["kv", "delete", "cfg/b"]).status.success());
    assert_eq!(changes.next().expect("a deletion"), json!({"key": "cfg/b", "deleted": true}));
    cluster.kill(leader);
    let (next, _) = cluster.leader_after(term).await;
    cluster.put(next, "cfg%2Fa", &json!("after")).await;
    assert_eq!(changes.next().expect("a change under another leader")["value"], json!("after"));
    assert_eq!(values.next().expect("the same for the key")["value"], json!("after"));
    // Many at once come in order of the keys, since they are one revision.
    let batch = r#"{"op":"put","key":"cfg/y","value":2} {"op":"put","key":"cfg/x","value":1}"#;
    let (code, _, err) = fed(&cluster, &["kv", "batch", "-"], batch);
    assert_eq!(code, Some(0), "{err}");
    let both = [changes.next().expect("one"), changes.next().expect("two")];
    assert_eq!((&both[0]["key"], &both[1]["key"]), (&json!("cfg/x"), &json!("cfg/y")));
    assert_eq!(both[0]["revision"], both[1]["revision"]);
    // A watched key that is deleted ends the watch.
    assert!(cluster.cli(&["kv", "delete", "cfg/a"]).status.success());
    assert_eq!(values.next(), None);
}

#[tokio::test]
async fn s1_a_batch_of_a_thousand_is_all_or_nothing() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    let put = |number: usize| format!("{{\"op\":\"put\",\"key\":\"k{number:04}\",\"value\":{number}}}\n");
    let thousand: String = (0..1_000).map(put).collect();
    let file = cluster.directory.path().join("batch.ndjson");
    std::fs::write(&file, &thousand).expect("it can be written");
    let done = cluster.cli_json(&["kv", "batch", file.to_str().expect("a printable path")]);
    assert_eq!(done["revision"], json!(1));
    let list = || cluster.cli_json(&["kv", "list"]);
    assert_eq!(list().as_array().map(Vec::len), Some(1_000));
    // One too many, one that cannot be, one that is none: nothing of the rest happens.
    let too_many: String = (1_000..2_001).map(put).collect();
    let long_key = format!("{}{{\"op\":\"put\",\"key\":\"{}\",\"value\":1}}", put(3_000), "x".repeat(9_000));
    let not_one = format!("{}{{\"op\":\"increment\",\"key\":\"a\"}}", put(3_000));
    for (input, word) in [(too_many, "1001 operations"), (long_key, "a key has"), (not_one, "increment")] {
        let (code, _, err) = fed(&cluster, &["kv", "batch", "-"], &input);
        assert_ne!(code, Some(0));
        assert!(err.contains(word), "{err}");
        assert_eq!(list().as_array().map(Vec::len), Some(1_000), "{word}");
    }
    let (code, _, err) = fed(&cluster, &["kv", "batch", "-"], "{\"op\":");
    assert_eq!(code, Some(2), "{err}");
}
