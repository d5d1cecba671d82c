//! S3's wish for an in-memory mode.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Setup};

fn in_memory(nodes: usize) -> Setup {
    Setup::nodes(nodes).with("SUPER_NODE_NODE__IN_MEMORY", "true")
}

async fn readyz(cluster: &Cluster, at: usize) -> String {
    let url = format!("{}/readyz?verbose", cluster.nodes[at].url());
    cluster.http.get(&url).send().await.expect("an answer").text().await.expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_cluster_in_memory_works_says_so_and_touches_no_disk() {
    let mut cluster = Cluster::start(&in_memory(3));
    let (leader, term) = cluster.leader().await;
    cluster.put(leader, "a", &json!({"deep": [1, 2]})).await;
    for at in 0..3 {
        assert_eq!(cluster.get(at, "/v1/kv/a").await["value"], json!({"deep": [1, 2]}));
        assert_eq!(cluster.get(at, "/v1/status").await["in_memory"], json!(true));
        assert!(readyz(&cluster, at).await.contains("[+] storage: in memory"));
        assert!(cluster.log_of(at).contains("IN MEMORY: log and state are lost"));
        assert!(!cluster.nodes[at].directory.exists());
    }
    let told = String::from_utf8(cluster.cli(&["status"]).stdout).expect("text");
    assert!(told.contains("is in memory: it loses everything when it ends"), "{told}");
    // One of three dies: nothing is lost. What comes back in its name knows nothing, and is not heard before it was
    // removed and joins anew.
    cluster.kill(leader);
    let (next, _) = cluster.leader_after(term).await;
    cluster.put(next, "b", &json!(2)).await;
    let name = cluster.nodes[leader].id.clone();
    let bound = format!("{name} is bound to its data directory");
    assert!(cluster.log_of(next).contains(&bound), "it was met while it lived");
    cluster.start_node(leader);
    cluster
        .wait_for("it is refused with the remedy", async || {
            cluster.log_of(leader).contains(&format!("super-node member remove {name}")).then_some(())
        })
        .await;
    assert_eq!(cluster.get(leader, "/v1/status").await["leader"], Value::Null);
    cluster.kill(leader);
    cluster.cli_json(&["member", "remove", &name]);
    cluster.nodes[leader].join = Some(cluster.nodes[next].url());
    cluster.start_node(leader);
    let back = cluster
        .wait_for("it has joined anew and has everything", async || {
            let status = cluster.try_get(leader, "/v1/status").await?;
            let votes = status["voters"].as_array()?.len() == 3 && status["role"] == "follower";
            if votes { cluster.try_get(leader, "/v1/kv/a").await } else { None }
        })
        .await;
    assert_eq!(back["value"], json!({"deep": [1, 2]}));
    assert!(!cluster.nodes[leader].directory.exists());
}

#[tokio::test]
async fn s3_a_node_on_disk_says_so_and_memory_excludes_a_directory() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    assert_eq!(cluster.get(0, "/v1/status").await["in_memory"], json!(false));
    assert!(readyz(&cluster, 0).await.contains("[+] storage: on disk"));
    let both = cluster.cli(&["start", "--in-memory", "--data-dir", "somewhere"]);
    assert_eq!(both.status.code(), Some(2), "{}", String::from_utf8_lossy(&both.stderr));
    let shown = cluster.cli(&["config", "show", "--in-memory"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.lines().any(|line| line.contains("node.in_memory") && line.contains("true")), "{shown}");
}
