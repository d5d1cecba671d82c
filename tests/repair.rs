//! Real processes whose data directory was damaged: what can be had again comes back by itself, and what cannot is told.

#[path = "support/cluster.rs"]
mod cluster;

use std::path::Path;

use cluster::{Cluster, Setup};
use serde_json::{Value, json};

/// A log that forgets soon, so that a lost state cannot be made again from it.
fn forgetful(nodes: usize) -> Setup {
    Setup::nodes(nodes).with("SUPER_NODE_RAFT__SNAPSHOT_ENTRIES", "100")
}

/// Writes until the log of every node begins after its first entry.
async fn write_until_compacted(cluster: &Cluster, through: usize) {
    for round in 0..30 {
        let operations: Vec<Value> = (0..200)
            .map(|number| json!({"op": "put", "key": format!("k{number:03}"), "value": format!("{round}-{number}")}))
            .collect();
        let url = format!("{}/v1/kv:batch", cluster.nodes[through].url());
        let body = json!({ "operations": operations });
        let answer = cluster.http.post(&url).json(&body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
        for number in 0..12 {
            cluster.put(through, &format!("single{number}"), &json!(round)).await;
        }
    }
    for at in 0..cluster.nodes.len() {
        cluster
            .wait_for("the log is compacted", async || {
                let url = format!("{}/metrics", cluster.nodes[at].url());
                let text = cluster.http.get(&url).send().await.ok()?.text().await.ok()?;
                let line = text.lines().find(|line| line.starts_with("super_node_snapshot_index "))?;
                let index: u64 = line.split(' ').nth(1)?.parse().ok()?;
                (index > 0).then_some(())
            })
            .await;
    }
}

async fn event(cluster: &Cluster, at: usize, kind: &str) -> Value {
    let types = format!("--type={kind}");
    cluster
        .wait_for(kind, async || {
            let url = cluster.nodes[at].url();
            let output = cluster
                .cli_command(&["-o", "json", "events", &types])
                .env("SUPER_NODE_ENDPOINTS", url)
                .output()
                .expect("the command runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().and_then(|line| serde_json::from_str(line).ok())
        })
        .await
}

/// Changes a byte in every page of a file beyond the first.
fn scar(path: &Path) {
    let mut bytes = std::fs::read(path).expect("the file is there");
    for at in (4_096..bytes.len()).step_by(512) {
        bytes[at + 100] ^= 0x55;
    }
    std::fs::write(path, bytes).expect("it can be written");
}

/// Changes a byte of the first record that is left in the log, which others follow: it was acknowledged.
fn bite(directory: &Path) {
    let oldest = cluster::files_under(&directory.join("log")).into_iter().next().expect("a segment");
    let mut bytes = std::fs::read(&oldest).expect("the segment is there");
    bytes[512 + 33] ^= 0x04;
    std::fs::write(oldest, bytes).expect("it can be written");
}

fn incarnation(directory: &Path) -> String {
    let text = std::fs::read_to_string(directory.join("identity.json")).expect("an identity");
    let identity: Value = serde_json::from_str(&text).expect("JSON");
    identity["incarnation"].as_str().expect("a text").to_string()
}

fn set_aside(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the directory").flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("damaged-")))
        .collect()
}

#[tokio::test]
async fn a_damaged_state_comes_back_from_the_leader_and_the_node_votes_meanwhile() {
    let mut cluster = Cluster::start(&forgetful(3));
    let (leader, term) = cluster.leader().await;
    write_until_compacted(&cluster, leader).await;
    let victim = (leader + 1) % 3;
    let third = (leader + 2) % 3;
    let before = cluster.get(leader, "/v1/kv/k007").await["value"].clone();
    cluster.kill(victim);
    scar(&cluster.nodes[victim].directory.join("state.redb"));
    // Nobody could send it a state now: the only other node alone leads nothing.
    cluster.kill_all(&[leader, third]);
    cluster.start_node(victim);
    cluster
        .wait_for("it says what it lacks", async || {
            let status = cluster.try_get(victim, "/v1/status").await?;
            (status["lacks_state"] == json!(true)).then_some(())
        })
        .await;
    let url = format!("{}/v1/kv/k007?level=stale", cluster.nodes[victim].url());
    let answer = cluster.http.get(&url).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 500);
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["code"], json!("damaged"), "not an empty answer: {problem}");
    let ready =
        cluster.http.get(format!("{}/readyz", cluster.nodes[victim].url())).send().await.expect("an answer");
    assert_eq!(ready.status().as_u16(), 503);
    // One more node, and the vote of the one without a state makes it the leader.
    cluster.start_node(third);
    let (next, _) = cluster.leader_after(term).await;
    assert_eq!(next, third, "whoever has no state leads nobody");
    let event = event(&cluster, victim, "state_mended").await;
    assert_eq!(event["data"]["from"], json!(cluster.nodes[third].id), "{event}");
    let mended = cluster
        .wait_for("the old value is there again", async || {
            let read = cluster.try_get(victim, "/v1/kv/k007?level=stale").await?;
            Some(read["value"].clone())
        })
        .await;
    assert_eq!(mended, before);
    cluster.put(victim, "after", &json!(1)).await;
    let aside = set_aside(&cluster.nodes[victim].directory);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].join("state.redb").exists() && aside[0].join("why.txt").exists());
    // And it stays so.
    cluster.kill(victim);
    cluster.start_node(victim);
    cluster
        .wait_for("it starts as if nothing had been", async || {
            let read = cluster.try_get(victim, "/v1/kv/after?level=stale").await?;
            (read["value"] == json!(1)).then_some(())
        })
        .await;
    assert_eq!(set_aside(&cluster.nodes[victim].directory).len(), 1);
}

#[tokio::test]
async fn a_lost_state_is_made_again_from_a_log_that_goes_back_to_the_beginning() {
    let mut cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    cluster.put(0, "first", &json!("kept")).await;
    let path = cluster.nodes[0].directory.join("state.redb");
    cluster.kill(0);
    std::fs::remove_file(&path).expect("the state is there");
    cluster.start_node(0);
    cluster.leader().await;
    assert_eq!(cluster.get(0, "/v1/kv/first").await["value"], json!("kept"));
    assert!(cluster.log_of(0).contains("made again from the log"), "{}", cluster.log_of(0));
}

#[tokio::test]
async fn a_lost_state_that_nobody_else_has_stops_the_node_with_exit_code_9_and_the_remedy() {
    let mut cluster = Cluster::start(&forgetful(1));
    cluster.leader().await;
    write_until_compacted(&cluster, 0).await;
    cluster.kill(0);
    scar(&cluster.nodes[0].directory.join("state.redb"));
    for _ in 0..2 {
        cluster.start_node(0);
        assert_eq!(cluster.wait_exit(0), Some(9));
    }
    let log = cluster.log_of(0);
    assert!(log.contains("no other super-node is known") && log.contains("restore a backup"), "{log}");
    assert!(set_aside(&cluster.nodes[0].directory).is_empty(), "nothing was changed");
    // The same with its log.
    bite(&cluster.nodes[0].directory);
    cluster.start_node(0);
    assert_eq!(cluster.wait_exit(0), Some(9));
    let log = cluster.log_of(0);
    assert!(log.contains("no other super-node is known that could take it back"), "{log}");
    assert!(set_aside(&cluster.nodes[0].directory).is_empty(), "nothing was changed");
}

#[tokio::test]
async fn a_node_whose_log_is_damaged_votes_on_nothing_and_comes_back_as_a_new_one_that_lacks_nothing() {
    let mut cluster = Cluster::start(&Setup::nodes(3).with("SUPER_NODE_STORAGE__REJOIN_WITHIN", "25s"));
    let (leader, _) = cluster.leader().await;
    for number in 0..30 {
        cluster.put(number % 3, &format!("k{number}"), &json!(number)).await;
    }
    let (victim, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let directory = cluster.nodes[victim].directory.clone();
    let before = incarnation(&directory);
    cluster.kill_all(&[0, 1, 2]);
    bite(&directory);
    // Two of three: with the vote of the damaged one they would have a leader within half a second.
    cluster.start_node(third);
    cluster.start_node(victim);
    cluster
        .wait_for("it looks for help", async || {
            cluster.log_of(victim).contains("not taken back yet").then_some(())
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let alone = cluster.get(third, "/v1/status").await;
    assert_eq!(alone["leader"], Value::Null, "{alone}");
    assert!(set_aside(&directory).is_empty(), "nothing is given up as long as nobody can take it back");
    // A majority of the others.
    cluster.start_node(leader);
    cluster
        .wait_for("it votes again", async || {
            let status = cluster.try_get(victim, "/v1/status").await?;
            let votes = status["voters"].as_array()?.len() == 3 && status["role"] == json!("follower");
            (votes && status["leader"].is_string()).then_some(())
        })
        .await;
    let aside = set_aside(&directory);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].join("log").is_dir() && aside[0].join("why.txt").exists());
    assert_ne!(incarnation(&directory), before, "nothing that was promised before is held to be its word");
    for number in 0..30 {
        let read = cluster.get(victim, &format!("/v1/kv/k{number}?level=stale")).await;
        assert_eq!(read["value"], json!(number), "acknowledged, so there");
    }
    // Now its vote counts, and it starts with the settings of old.
    cluster.kill(victim);
    cluster.start_node(victim);
    cluster.leader().await;
    cluster.kill(leader);
    cluster.put(victim, "after", &json!(1)).await;
    assert_eq!(set_aside(&directory).len(), 1);
}

#[tokio::test]
async fn what_every_node_has_lost_stops_them_all_with_exit_code_9_and_the_remedy() {
    let mut cluster = Cluster::start(&forgetful(3).with("SUPER_NODE_STORAGE__REJOIN_WITHIN", "2s"));
    let (leader, _) = cluster.leader().await;
    write_until_compacted(&cluster, leader).await;
    cluster.kill_all(&[0, 1, 2]);
    for node in &cluster.nodes {
        scar(&node.directory.join("state.redb"));
    }
    // All states. The second time there is nothing any more that could be damaged.
    for _ in 0..2 {
        (0..3).for_each(|at| cluster.start_node(at));
        for at in 0..3 {
            assert_eq!(cluster.wait_exit(at), Some(9), "{}", cluster.log_of(at));
            let log = cluster.log_of(at);
            assert!(
                log.contains("lost here and on every other voter") && log.contains("snapshot restore"),
                "{log}"
            );
        }
    }
    // All logs.
    for node in &cluster.nodes {
        bite(&node.directory);
    }
    (0..3).for_each(|at| cluster.start_node(at));
    for at in 0..3 {
        assert_eq!(cluster.wait_exit(at), Some(9), "{}", cluster.log_of(at));
        let log = cluster.log_of(at);
        assert!(log.contains("was not taken back within 2s") && log.contains("--force-new-cluster"), "{log}");
        let states_only =
            set_aside(&cluster.nodes[at].directory).iter().all(|aside| !aside.join("log").exists());
        assert!(states_only, "no log was given up");
    }
}

#[tokio::test]
async fn the_scrub_finds_a_changed_byte_in_the_log_of_a_running_node() {
    let setup = Setup::nodes(1).with("SUPER_NODE_STORAGE__SCRUB_RATE", "1GiB");
    let cluster = Cluster::start(&setup);
    cluster.leader().await;
    let segments = cluster.nodes[0].directory.join("log");
    let mut number = 0;
    while std::fs::read_dir(&segments).expect("the log").count() < 2 {
        cluster.put(0, &format!("large{}", number % 4), &json!("x".repeat(512 << 10))).await;
        number += 1;
    }
    let path = segments.join("000000000001.log");
    let mut bytes = std::fs::read(&path).expect("the first segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let event = event(&cluster, 0, "scrub_damage").await;
    assert_eq!(event["data"]["where"], json!("log"), "{event}");
    assert!(event["message"].as_str().is_some_and(|text| text.contains("000000000001.log")), "{event}");
    let metrics =
        cluster.http.get(format!("{}/metrics", cluster.nodes[0].url())).send().await.expect("an answer");
    let text = metrics.text().await.expect("a body");
    assert!(text.contains("super_node_scrub_damage_total{kind=\"log\"} 1\n"), "{text}");
    cluster.put(0, "onward", &json!(true)).await;
}

/// A small file system in memory; unmounted on drop.
struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`: this user may not mount.
    fn new(megabytes: u32) -> Option<SmallDisk> {
        let place = tempfile::tempdir().expect("a temporary directory");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(place.path())
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then_some(SmallDisk { place })
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.place.path().join("filler")).expect("a file");
        while file.write_all(&[1; 64 << 10]).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.place.path().join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _reported = std::process::Command::new("umount").arg("-l").arg(self.place.path()).status();
    }
}

/// The log of a node lies on the disk of its data, as a rule, and that may be full.
#[tokio::test]
async fn a_node_whose_log_lines_cannot_be_written_works_on() {
    let setup = Setup::nodes(1).with("SUPER_NODE_LOG__LEVEL", "debug");
    let mut cluster = Cluster::start(&setup);
    cluster.put(0, "before", &json!("kept")).await;
    cluster.kill(0);
    let log = cluster.nodes[0].directory.with_extension("log");
    std::fs::remove_file(&log).expect("the log is there");
    std::os::unix::fs::symlink("/dev/full", &log).expect("the place is free");
    cluster.start_node(0);
    cluster.put(0, "after", &json!("written")).await;
    assert_eq!(cluster.get(0, "/v1/kv/before").await["value"], json!("kept"));
    std::fs::remove_file(&log).expect("the link is there");
}

#[tokio::test]
async fn on_a_full_disk_writes_are_refused_at_once_while_reads_and_elections_go_on_and_room_ends_it() {
    let Some(disk) = SmallDisk::new(160) else {
        eprintln!("skipped: only root may mount a small file system");
        return;
    };
    let mut setup = Setup::nodes(3).with("SUPER_NODE_STORAGE__RESERVE", "4MiB");
    setup.root = Some(disk.place.path().to_path_buf());
    let mut cluster = Cluster::start(&setup);
    let (leader, term) = cluster.leader().await;
    cluster.put(leader, "before", &json!("kept")).await;
    disk.fill();
    cluster
        .wait_for("all know that the disk is full", async || {
            for at in 0..3 {
                if cluster.try_get(at, "/v1/status").await?["disk_full"] != json!(true) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    for at in 0..3 {
        let url = format!("{}/v1/kv/refused", cluster.nodes[at].url());
        let answer = cluster.http.put(&url).json(&json!(1)).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 503);
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], json!("overloaded"), "{problem}");
        assert_eq!(problem["outcome"], json!("not_applied"), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("disk")), "{problem}");
        assert_eq!(
            cluster.get(at, "/v1/kv/before").await["value"],
            json!("kept"),
            "linearizable reads go on"
        );
    }
    cluster.kill(leader);
    let (next, _) = cluster.leader_after(term).await;
    assert_eq!(
        cluster.get(next, "/v1/kv/before").await["value"],
        json!("kept"),
        "an election went on, and it reads"
    );
    disk.make_room();
    cluster.put(next, "after", &json!("written")).await;
    cluster.start_node(leader);
    cluster
        .wait_for("the one that was killed has everything", async || {
            let read = cluster.try_get(leader, "/v1/kv/after?level=stale").await?;
            (read["value"] == json!("written")).then_some(())
        })
        .await;
    for at in 0..3 {
        assert!(!cluster.has_ended(at), "{} has not stopped", cluster.nodes[at].id);
    }
}
