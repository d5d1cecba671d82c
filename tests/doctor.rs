//! `doctor` on set-ups that are really broken.

#[path = "support/cluster.rs"]
mod cluster;

use std::net::TcpListener;
use std::process::Command;

use cluster::{BINARY, Cluster, Setup, free_port};
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
