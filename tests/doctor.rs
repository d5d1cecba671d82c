//! `doctor` on set-ups that are really broken.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/mongod.rs"]
mod mongod;
#[path = "support/old_mongod.rs"]
mod old_mongod;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{BINARY, Cluster, Setup, free_port};
use mongod::{Kind, Mongod};
use serde_json::Value;

/// The findings of a run, and its exit code.
fn findings(command: &mut Command) -> (Vec<Value>, Option<i32>) {
    let output = command.env_remove("MONGODB_URI").output().expect("the command runs");
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    let found = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (found, output.status.code())
}

/// The one finding of a check, as level and text; its remedy must be there if it is bad.
fn found(findings: &[Value], check: &str, subject: &str) -> (String, String) {
    let of_it = |finding: &&Value| {
        finding["check"] == check && finding["subject"].as_str().is_some_and(|text| text.contains(subject))
    };
    let finding =
        findings.iter().find(of_it).unwrap_or_else(|| panic!("no {check} of {subject}: {findings:?}"));
    let text = |name: &str| finding[name].as_str().expect("text").to_string();
    assert_eq!(text("level") == "ok", text("remedy").is_empty(), "{finding}");
    (text("level"), text("what"))
}

#[test]
fn each_trouble_of_this_machine_is_found_with_its_remedy() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (free, nobody) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    // Taken, as long as this listener lives.
    let kept = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = kept.local_addr().expect("an address").to_string();
    // A shell lowers the limit for the command alone.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 512; exec \"$0\" \"$@\"",
            BINARY,
            "-o",
            "json",
            "doctor",
            "--offline",
            "--id",
            "n1",
        ])
        .args(["--data-dir", directory.path().join("n1").to_str().expect("printable")])
        .args(["--listen", &taken, "--peer-listen", &free, "--agents-listen", &free])
        .args(["--peers", &format!("n1={free},n2={nobody}")])
        .args(["--mongodb", "mongodb://somebody:secret@127.0.0.1:1/?serverSelectionTimeoutMS=300"])
        .current_dir(directory.path());
    let (all, code) = findings(&mut command);
    assert_eq!(code, Some(1));
    for (check, subject, level, words) in [
        ("open_files", "this machine", "fail", "512 files"),
        ("port", &taken, "fail", "taken by another program"),
        ("port", "--peer-listen", "ok", "free"),
        ("peer", "n2", "fail", "nobody listens there"),
        ("mongodb", "127.0.0.1:1", "fail", "cannot be reached"),
        ("data_dir", "n1", "ok", "not made yet"),
    ] {
        let (found_level, what) = found(&all, check, subject);
        assert_eq!(found_level, level, "{check}: {what}");
        assert!(what.contains(words), "'{words}' is not in: {what}");
    }
    drop(kept);
    assert!(!format!("{all:?}").contains("secret"), "passwords never show");
    assert!(!directory.path().join("n1").exists(), "a look changes nothing");
}

#[tokio::test]
async fn running_nodes_are_compared_with_each_other() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.leader().await;
    let mut other = Setup::nodes(1);
    other.set("SUPER_NODE_NODE__CLUSTER", "red");
    let stranger = Cluster::start(&other);
    stranger.leader().await;
    let doctor = |endpoints: &str| {
        let mut command = Command::new(BINARY);
        command.args(["-o", "json", "--endpoints", endpoints, "doctor", "--online"]);
        findings(&mut command)
    };
    // All three are found through one.
    let (all, _) = doctor(&cluster.nodes[0].url());
    for check in ["version", "clock", "peer"] {
        assert_eq!(found(&all, check, "all nodes").0, "ok", "{all:?}");
    }
    for node in &cluster.nodes {
        found(&all, "open_files", &node.id);
        found(&all, "disk", &node.id);
    }
    let (all, code) = doctor(&format!("{},{}", cluster.nodes[0].url(), stranger.nodes[0].url()));
    let (level, what) = found(&all, "cluster", "all nodes");
    assert_eq!((level.as_str(), code), ("fail", Some(1)));
    assert!(what.contains("'red'") && what.contains("n1, n2, n3"), "{what}");

    cluster.kill(2);
    let (address, url) = (cluster.nodes[2].peer_port.to_string(), cluster.nodes[2].url());
    cluster
        .wait_for("its end is noticed", async || {
            let report = cluster.try_get(0, "/v1/doctor").await?;
            let links = report["links"].as_array()?;
            links
                .iter()
                .any(|link| link["node"] == "n3" && link["outgoing"] == false && link["incoming"] == false)
                .then_some(())
        })
        .await;
    let (all, code) = doctor(&cluster.nodes[0].url());
    assert_eq!(code, Some(1));
    let (level, what) = found(&all, "peer", &address);
    assert!(level == "fail" && what.contains("no connection"), "{what}");
    assert_eq!(found(&all, "node", &url).0, "fail");
    // It comes back, held to the older protocol: a mix.
    cluster.set("SUPER_NODE_NODE__PEER_PROTOCOL_MAX", "2");
    cluster.start_node(2);
    cluster.leader().await;
    let (level, what) = {
        let (all, _) = doctor(&cluster.nodes[0].url());
        found(&all, "version", "all nodes")
    };
    assert!(level == "warn" && what.contains("n3") && what.contains("peer protocol 2"), "{what}");
}

/// What `doctor` says of this machine and this MongoDB.
fn with_mongodb(uri: &str, directory: &Path) -> (String, String) {
    let mut command = Command::new(BINARY);
    command
        .args(["-o", "json", "doctor", "--offline", "--mongodb", uri])
        .args(["--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0"])
        .current_dir(directory);
    found(&findings(&mut command).0, "mongodb", "127.0.0.1")
}

#[tokio::test]
async fn a_mongodb_that_lets_nobody_in_and_one_that_is_too_old_are_told_apart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (level, what) = with_mongodb(&old_mongod::start("4.4.29", 9), directory.path());
    assert!(level == "fail" && what.contains("MongoDB 4.4.29, which is too old"), "{level} {what}");
    // So old that the driver does not speak with it at all.
    let (level, what) = with_mongodb(&old_mongod::start("3.4.24", 5), directory.path());
    assert!(level == "fail" && what.contains("too old"), "{level} {what}");
    let guarded = Mongod::start(Kind::AuthRequired).await;
    let (level, what) = with_mongodb(&guarded.uri(), directory.path());
    assert!(level == "fail" && what.contains("does not let us in"), "{level} {what}");
    let wrong = guarded.uri().replace("mongodb://", "mongodb://nobody:wrong@");
    let (level, what) = with_mongodb(&wrong, directory.path());
    assert!(level == "fail" && what.contains("does not let us in"), "{level} {what}");
    assert!(!what.contains("wrong"), "passwords never show: {what}");
}

/// `tests/support/shim.c` as a library that a process loads before its own.
fn shim(directory: &Path) -> PathBuf {
    let library = directory.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/shim.c");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([library.as_path(), source.as_path()])
        .arg("-ldl")
        .output()
        .expect("cc runs: it is needed to build this crate, too");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

#[tokio::test]
async fn a_wrong_clock_and_a_slow_disk_are_found_on_a_running_node() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let library = shim(cluster.directory.path());
    cluster.leader().await;
    cluster.kill(2);
    cluster.set("LD_PRELOAD", library.to_str().expect("printable"));
    cluster.set("SHIM_CLOCK_MS", "5000");
    cluster.set("SHIM_SYNC_MS", "25");
    cluster.start_node(2);
    cluster.leader().await;
    let mut command = Command::new(BINARY);
    command.args(["-o", "json", "--endpoints", &cluster.nodes[0].url(), "doctor", "--online"]);
    let (all, code) = findings(&mut command);
    assert_eq!(code, Some(1));
    let (level, what) = found(&all, "clock", "n3");
    assert!(level == "fail" && what.contains("the clock of n3 is at least"), "{what}");
    let (level, what) = found(&all, "disk", "n3");
    assert!(level != "ok" && what.contains("a synced write takes"), "{level} {what}");
}

#[test]
fn a_slow_disk_is_found_before_the_first_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let library = shim(directory.path());
    for (sync_ms, level, words) in
        [("25", "warn", "every write waits"), ("200", "fail", "leaders would step down")]
    {
        let mut command = Command::new(BINARY);
        command
            .args(["-o", "json", "doctor", "--offline", "--data-dir", "data"])
            .args([
                "--listen",
                "127.0.0.1:0",
                "--peer-listen",
                "127.0.0.1:0",
                "--agents-listen",
                "127.0.0.1:0",
            ])
            .env("LD_PRELOAD", &library)
            .env("SHIM_SYNC_MS", sync_ms)
            // A worst case beyond half of it is what fails, and a busy machine must not add up to that.
            .env("SUPER_NODE_RAFT__ELECTION", if level == "warn" { "10s..12s" } else { "300ms..600ms" })
            .current_dir(directory.path());
        let (found_level, what) = found(&findings(&mut command).0, "disk", "");
        assert_eq!(found_level, level, "{what}");
        assert!(what.contains(words), "{what}");
    }
}

#[tokio::test]
async fn a_node_that_others_cannot_reach_is_found_although_it_reaches_them() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    let at = cluster.join_node("n4", leader);
    let votes = async |cluster: &Cluster| {
        let status = cluster.leader_status().await?;
        status["voters"].as_array()?.contains(&"n4".into()).then_some(())
    };
    cluster.wait_for("n4 votes", async || votes(&cluster).await).await;
    cluster.kill(at);
    // Nobody listens there.
    cluster.set("SUPER_NODE_LISTEN__ADVERTISE", "127.0.0.9");
    cluster.start_node(at);
    let known = async |cluster: &Cluster| {
        let status = cluster.leader_status().await?;
        let found = status["nodes"].as_array()?.iter().find(|node| node["id"] == "n4")?;
        found["address"].as_str()?.starts_with("127.0.0.9:").then_some(())
    };
    cluster.wait_for("the configuration follows its word", async || known(&cluster).await).await;
    // Connections stand until they break: who starts anew dials what the configuration says.
    cluster.kill(0);
    cluster.set("SUPER_NODE_LISTEN__ADVERTISE", "");
    cluster.start_node(0);
    let (asked, own) = (cluster.nodes[0].url(), cluster.nodes[at].url());
    cluster
        .wait_for("n1 is reached by n4, and does not reach it", async || {
            let report = cluster.try_get(0, "/v1/doctor").await?;
            let links = report["links"].as_array()?;
            links
                .iter()
                .any(|link| link["node"] == "n4" && link["incoming"] == true && link["outgoing"] == false)
                .then_some(())
        })
        .await;
    let mut command = Command::new(BINARY);
    command.args(["-o", "json", "--endpoints", &format!("{asked},{own}"), "doctor", "--online"]);
    let (all, code) = findings(&mut command);
    assert_eq!(code, Some(1));
    let (level, what) = found(&all, "peer", "n1 to n4 at 127.0.0.9");
    assert!(level == "fail" && what.contains("one way only: n4 reaches n1"), "{what}");
}
