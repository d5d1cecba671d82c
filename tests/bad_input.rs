//! Bad input of every kind gets an error that names the thing and the remedy; the others are undisturbed.

#[path = "support/cluster.rs"]
mod cluster;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cluster::{BINARY, Cluster, Setup, files_under, free_port};
use serde_json::{Value, json};

/// Runs the binary in an empty directory; it must end by itself with this exit code. Gives what it said.
fn refused(code: i32, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(directory.path()).stdin(Stdio::null()).env_remove("MONGODB_URI");
    for (name, value) in environment {
        command.env(name, value);
    }
    said(code, command.output().expect("it runs"))
}

fn said(code: i32, output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "stderr: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn mentions(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is missing in: {text}");
    }
}

#[test]
fn an_unknown_flag_is_named() {
    mentions(&refused(2, &["start", "--lisen", "127.0.0.1:0"], &[]), &["--lisen", "--listen"]);
    mentions(&refused(2, &["strat"], &[]), &["strat", "start"]);
}

#[test]
fn broken_toml_is_shown_with_its_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("broken.toml");
    std::fs::write(&file, "[node]\nid = \"n1\n").expect("written");
    let text = refused(2, &["start", "--config", file.to_str().expect("printable")], &[]);
    mentions(&text, &["broken.toml", "line 2"]);
    let text = refused(2, &["start", "--config", "/nonexistent/x.toml"], &[]);
    mentions(&text, &["/nonexistent/x.toml"]);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("unknown.toml");
    std::fs::write(&file, "[raft]\nheartbaet = \"50ms\"\n").expect("written");
    let text = refused(2, &["start", "--config", file.to_str().expect("printable")], &[]);
    mentions(&text, &["raft.heartbaet", "raft.heartbeat"]);
    let text = refused(2, &["start"], &[("SUPER_NODE_RAFT__HEARTBAET", "50ms")]);
    mentions(&text, &["SUPER_NODE_RAFT__HEARTBAET", "HEARTBEAT"]);
    let text = refused(2, &["start"], &[("SUPER_NODE_LEDGER__INTERVAL", "2 parsecs")]);
    mentions(&text, &["SUPER_NODE_LEDGER__INTERVAL", "2 parsecs"]);
}

#[test]
fn an_id_twice_is_refused() {
    let peers = "n1=127.0.0.1:7401,n2=127.0.0.1:7411,n1=127.0.0.1:7421";
    mentions(&refused(2, &["start", "--id", "n1", "--peers", peers], &[]), &["n1", "twice"]);
    let peers = "n2=127.0.0.1:7401,n3=127.0.0.1:7411";
    mentions(&refused(2, &["start", "--id", "n1", "--peers", peers], &[]), &["n1"]);
}

#[tokio::test]
async fn a_second_process_with_the_id_of_a_running_node_is_not_heard() {
    let cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    let twin = (leader + 1) % 3;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ports: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let log = std::fs::File::create(directory.path().join("log")).expect("a log file");
    let mut child = Command::new(BINARY)
        .args(["start", "--id", &cluster.nodes[twin].id, "--peers", &cluster.peers(), "--data-dir", "data"])
        .args(["--listen", &ports[0], "--peer-listen", &ports[1], "--agents-listen", &ports[2]])
        .env_remove("MONGODB_URI")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts");
    let said = cluster
        .wait_for("the twin is told", async || {
            let text = std::fs::read_to_string(directory.path().join("log")).ok()?;
            text.contains("by another data directory").then_some(text)
        })
        .await;
    for number in 0..20 {
        cluster.put(number % 3, &format!("k{number}"), &json!(number)).await;
    }
    child.kill().expect("it still runs");
    child.wait().expect("it can be reaped");
    mentions(&said, &[&cluster.nodes[twin].id, "member remove"]);
    assert_eq!(cluster.leader().await, (leader, term), "no election");
}

#[test]
fn a_listener_for_strangers_must_be_asked_for() {
    let text = refused(2, &["start", "--listen", "0.0.0.0:7400"], &[]);
    mentions(&text, &["0.0.0.0:7400", "--insecure"]);
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let peer = format!("127.0.0.1:{}", free_port());
    let agents = format!("127.0.0.1:{}", free_port());
    let text = refused(
        2,
        &["start", "--listen", &address, "--peer-listen", &peer],
        &[("SUPER_NODE_LISTEN__AGENTS", &agents)],
    );
    mentions(&text, &[&address, "in use", "--listen"]);
    let text = refused(
        2,
        &["start", "--listen", &peer, "--peer-listen", &address],
        &[("SUPER_NODE_LISTEN__AGENTS", &agents)],
    );
    mentions(&text, &[&address, "in use", "--peer-listen"]);
}

#[tokio::test]
async fn a_data_directory_of_another_node_or_cluster_is_refused() {
    let mut cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    let directory = cluster.nodes[0].directory.to_str().expect("printable").to_string();
    let ports: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let start = |id: &str, cluster_name: &str| {
        let id = id.to_string();
        refused(
            2,
            &[
                "start",
                "--id",
                &id,
                "--data-dir",
                &directory,
                "--listen",
                &ports[0],
                "--peer-listen",
                &ports[1],
            ],
            &[("SUPER_NODE_LISTEN__AGENTS", &ports[2]), ("SUPER_NODE_NODE__CLUSTER", cluster_name)],
        )
    };
    let name = cluster.get(0, "/v1/status").await["cluster"].as_str().expect("a name").to_string();
    // Still running: the directory is locked.
    mentions(&start("n1", &name), &["in use", &directory]);
    cluster.kill(0);
    mentions(&start("n9", &name), &["n1", "n9", &directory]);
    mentions(&start("n1", "elsewhere"), &[&name, "elsewhere", &directory]);
    cluster.start_node(0);
    cluster.leader().await;
}

/// A cluster that has written a little, of which one follower was killed.
struct Wounded {
    cluster: Cluster,
    leader: usize,
    victim: usize,
    /// The last file of the victim's log, and where its content ends.
    segment: PathBuf,
    end: usize,
}

async fn wounded() -> Wounded {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    for number in 0..20 {
        cluster.put(leader, &format!("k{number}"), &json!(number)).await;
    }
    let victim = (leader + 1) % 3;
    cluster.kill(victim);
    let segment = files_under(&cluster.nodes[victim].directory.join("log")).pop().expect("a segment");
    let bytes = std::fs::read(&segment).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("content") + 1;
    Wounded { cluster, leader, victim, segment, end }
}

#[tokio::test]
async fn a_cut_off_log_tail_is_cut_and_said() {
    let Wounded { mut cluster, victim, segment, end, .. } = wounded().await;
    // What a crash in the middle of a write leaves: the last record lacks its end.
    let file = std::fs::OpenOptions::new().write(true).open(segment).expect("writable");
    file.set_len(end as u64 - 3).expect("cut");
    drop(file);
    cluster.start_node(victim);
    cluster
        .wait_for("the node is back with everything", async || {
            let read = cluster.try_get(victim, "/v1/kv/k19?level=stale").await?;
            (read["value"] == json!(19)).then_some(())
        })
        .await;
    mentions(&cluster.log_of(victim), &["cut", "unfinished"]);
}

#[tokio::test]
async fn a_damaged_log_stops_the_node_with_code_9_and_the_others_go_on() {
    let Wounded { mut cluster, leader, victim, segment, end } = wounded().await;
    let mut bytes = std::fs::read(&segment).expect("readable");
    // In the first record, which others follow: damage in the last one cannot be told from a write that was cut off.
    const FIRST_RECORD: usize = 512;
    assert!(end > FIRST_RECORD + 200, "several records");
    bytes[FIRST_RECORD + 20] ^= 0x10;
    std::fs::write(segment, bytes).expect("written");
    // Without this the node comes back by itself, see `tests/repair.rs`.
    cluster.set("SUPER_NODE_STORAGE__REJOIN_WITHIN", "false");
    cluster.start_node(victim);
    assert_eq!(cluster.wait_exit(victim), Some(9), "{}", cluster.log_of(victim));
    mentions(
        &cluster.log_of(victim),
        &["damaged", "byte", "rejoin_within is false", "restore it from a backup"],
    );
    cluster.put(leader, "after", &json!(1)).await;
}

#[tokio::test]
async fn garbage_on_the_peer_port_disturbs_nobody() {
    let cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    let port = cluster.nodes[leader].peer_port;
    let mut flood: Vec<TcpStream> = Vec::new();
    for number in 0_u8..30 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
        let garbage: Vec<u8> = match number % 4 {
            0 => vec![0xff; 64],
            1 => (0..200).map(|byte: u8| byte.wrapping_mul(31).wrapping_add(number)).collect(),
            2 => vec![0, 0, 0, 5, 1, 2, 3, 4, 5],
            // A promise of 2 GiB, then silence.
            _ => vec![0x7f, 0xff, 0xff, 0xff],
        };
        let _refused = stream.write_all(&garbage);
        flood.push(stream);
    }
    for number in 0..20 {
        cluster.put(number % 3, &format!("k{number}"), &json!(number)).await;
    }
    let (still, still_term) = cluster.leader().await;
    assert_eq!((still, still_term), (leader, term), "no election");
    for mut stream in flood {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut rest = Vec::new();
        // Closed by the node: either an end, or a reset.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

#[tokio::test]
async fn malformed_and_oversized_bodies_are_refused_by_name() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    let url = format!("{}/v1/kv/a", cluster.nodes[0].url());
    let json_type = "application/json";
    let put = |body: Vec<u8>| cluster.http.put(&url).header("Content-Type", json_type).body(body).send();
    let answer = put(b"{\"a\": ".to_vec()).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 400);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: Value = answer.json().await.expect("a problem document");
    assert_eq!(problem["code"], json!("bad_request"));
    assert_eq!(problem["outcome"], json!("not_applied"));
    let mut large = vec![b'x'; 10 << 20];
    large[0] = b'"';
    *large.last_mut().expect("not empty") = b'"';
    let answer = put(large).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 413);
    let problem: Value = answer.json().await.expect("a problem document");
    assert_eq!(problem["code"], json!("too_large"));
    cluster.put(0, "a", &json!(1)).await;
    assert_eq!(cluster.get(0, "/v1/kv/a").await["value"], json!(1));
}

#[tokio::test]
async fn an_unreachable_mongodb_stops_nothing_and_is_said() {
    // Nothing listens there.
    let uri = format!("mongodb://127.0.0.1:{}/", free_port());
    let cluster = Cluster::start(&Setup::nodes(1).with("MONGODB_URI", &uri));
    cluster.leader().await;
    cluster.put(0, "a", &json!(1)).await;
    let error = cluster
        .wait_for("the projection's error", async || {
            let status = cluster.get(0, "/v1/status").await;
            status["projection"]["error"].as_str().map(str::to_string)
        })
        .await;
    assert!(!error.is_empty());
    let text = refused(2, &["start", "--mongodb", "mongo://nonsense"], &[]);
    mentions(&text, &["mongodb"]);
}

#[test]
fn an_unreachable_cluster_is_exit_code_3() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let text = refused(3, &["--endpoints", &url, "--timeout", "1s", "kv", "set", "a", "1"], &[]);
    mentions(&text, &["error:", "tried", "not applied"]);
}
