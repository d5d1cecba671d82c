//! The set of super-nodes changes while it works: real processes that join, leave, replace each other and hand over.

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster::{Cluster, Setup};
use serde_json::{Value, json};

/// One client that writes numbered keys, one after another, through whoever answers; it knows which were acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Vec<u64>>,
}

impl Load {
    fn start(urls: Vec<String>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), count.clone());
        let task = tokio::spawn(async move {
            let http = super_node::network::tls::http(None)
                .expect("public authorities")
                .timeout(Duration::from_secs(5))
                .build()
                .expect("a client");
            let mut acknowledged = Vec::new();
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let url = &urls[usize::try_from(number).expect("small") % urls.len()];
                let put = http.put(format!("{url}/v1/kv/load{number}")).json(&number);
                if put.send().await.is_ok_and(|answer| answer.status().is_success()) {
                    acknowledged.push(number);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            acknowledged
        });
        Load { stop, count, task }
    }

    /// Ends it, once it has done something; everything that was acknowledged must be readable through every one of these nodes.
    async fn verify(self, cluster: &Cluster, nodes: &[usize]) {
        let before = self.count.load(Ordering::Relaxed);
        cluster
            .wait_for("the load goes on after all that", async || {
                (self.count.load(Ordering::Relaxed) > before + 10).then_some(())
            })
            .await;
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.task.await.expect("the load does not panic");
        for at in nodes {
            let mut found = BTreeSet::new();
            for item in cluster::all_items(cluster, *at, "/v1/kv?prefix=load").await {
                found.insert(item["value"].as_u64().expect("a number"));
            }
            let lost: Vec<_> = acknowledged.iter().filter(|number| !found.contains(number)).collect();
            assert!(lost.is_empty(), "{} lacks {lost:?}", cluster.nodes[*at].id);
        }
    }
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Waits until every one of these nodes, and nobody else, votes in the eyes of each.
async fn wait_for_voters(cluster: &Cluster, nodes: &[usize]) {
    let mut wanted: Vec<&str> = nodes.iter().map(|at| cluster.nodes[*at].id.as_str()).collect();
    wanted.sort_unstable();
    for at in nodes {
        let what = format!("{} sees the voters {wanted:?}", cluster.nodes[*at].id);
        cluster
            .wait_for(&what, async || {
                let status = cluster.try_get(*at, "/v1/status").await?;
                (names(&status["voters"]) == wanted && status["leader"].is_string()).then_some(())
            })
            .await;
    }
}

/// The super-nodes that the ledger has as members.
async fn wait_for_enrolled(cluster: &Cluster, at: usize, wanted: &[&str]) {
    cluster
        .wait_for(&format!("the ledger has the super-nodes {wanted:?}"), async || {
            let page = cluster.try_get(at, "/v1/members").await?;
            let found = page["items"].as_array()?.iter();
            let found: Vec<_> = found
                .filter(|item| item["kind"] == "node" && item["status"] != "left")
                .filter_map(|item| item["id"].as_str())
                .collect();
            (found == wanted).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_five_and_shrinks_back_under_load() {
    let mut cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    let load = Load::start(vec![cluster.nodes[0].url()]);
    for (number, id) in (2..).zip(["n2", "n3", "n4", "n5"]) {
        // Through whoever is newest: any node takes any request.
        let at = cluster.join_node(id, number - 2);
        wait_for_voters(&cluster, &(0..=at).collect::<Vec<_>>()).await;
    }
    wait_for_enrolled(&cluster, 4, &["n1", "n2", "n3", "n4", "n5"]).await;
    // The joined survive a restart with the command that they joined with.
    cluster.kill(4);
    cluster.start_node(4);
    wait_for_voters(&cluster, &[0, 1, 2, 3, 4]).await;
    for at in [4, 3, 2] {
        let id = cluster.nodes[at].id.clone();
        let answer = cluster.cli_json(&["member", "remove", &id]);
        assert!(!names(&answer["voters"]).contains(&id.as_str()), "{answer}");
        wait_for_voters(&cluster, &(0..at).collect::<Vec<_>>()).await;
        // It is told, says so, and disturbs nobody.
        cluster
            .wait_for(&format!("{id} knows that it was removed"), async || {
                let status = cluster.try_get(at, "/v1/status").await?;
                (status["removed"] == json!(true)).then_some(())
            })
            .await;
        let url = format!("{}/v1/kv/x", cluster.nodes[at].url());
        let refused = cluster.http.put(url).json(&1).send().await.expect("an answer");
        let problem: Value = refused.json().await.expect("a problem");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("removed")), "{problem}");
    }
    cluster.cli_json(&["member", "remove", "n2"]);
    wait_for_voters(&cluster, &[0]).await;
    wait_for_enrolled(&cluster, 0, &["n1"]).await;
    let term = cluster.get(0, "/v1/status").await["term"].clone();
    cluster.put(0, "alone", &json!(true)).await;
    load.verify(&cluster, &[0]).await;
    assert_eq!(cluster.get(0, "/v1/status").await["term"], term, "those who left start no elections");
    let last = cluster.cli(&["member", "remove", "n1"]);
    assert_eq!(last.status.code(), Some(5), "{}", String::from_utf8_lossy(&last.stderr));
    assert!(String::from_utf8_lossy(&last.stderr).contains("last voter"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_in_one_change() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    let dead = (leader + 1) % 3;
    let (well, name) = ((leader + 2) % 3, cluster.nodes[dead].id.clone());
    cluster.put(leader, "before", &json!(1)).await;
    cluster.kill(dead);
    let load = Load::start(vec![cluster.nodes[leader].url(), cluster.nodes[well].url()]);
    let at = cluster.add_node("n4", leader);
    let address = format!("127.0.0.1:{}", cluster.nodes[at].peer_port);
    let added = cluster.cli_json(&["member", "add", "n4", &address, "--super-node", "--replaces", &name]);
    assert_eq!((&added["role"], &added["joining"]), (&json!("learner"), &json!(true)), "{added}");
    let status = cluster.get(leader, "/v1/status").await;
    let n4 = status["nodes"].as_array().and_then(|nodes| nodes.iter().find(|n| n["id"] == "n4")).cloned();
    let n4 = n4.expect("it is shown");
    assert_eq!(
        (&n4["role"], &n4["joining"], &n4["replaces"]),
        (&json!("learner"), &json!(true), &json!(name))
    );
    assert!(n4["lag"].is_u64(), "{n4}");
    // Asked for again, it is so; the same name elsewhere is somebody else.
    let again = cluster.cli_json(&["member", "add", "n4", &address, "--super-node", "--replaces", &name]);
    assert_eq!(again["already"], json!(true), "{again}");
    let stays = cluster.nodes[well].id.clone();
    let denied = cluster.cli(&["member", "add", "n4", &address, "--super-node", "--replaces", &stays]);
    let told = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert_eq!(denied.status.code(), Some(5), "{told}");
    assert!(told.contains(&format!("{stays} does not leave for it")), "{told}");
    assert!(told.contains(&format!("member remove {stays}")), "{told}");
    let other = cluster.cli(&["member", "add", "n4", "127.0.0.1:9", "--super-node"]);
    assert_eq!(other.status.code(), Some(5), "{}", String::from_utf8_lossy(&other.stderr));
    // Added before it was started: it finds that out and just waits to be dialled.
    cluster.start_node(at);
    wait_for_voters(&cluster, &[leader, well, at]).await;
    wait_for_enrolled(&cluster, at, &{
        let mut names = vec![cluster.nodes[leader].id.as_str(), cluster.nodes[well].id.as_str(), "n4"];
        names.sort_unstable();
        names
    })
    .await;
    // The dead one comes back with what it had: it learns that it is no member any more.
    cluster.start_node(dead);
    cluster
        .wait_for("the replaced node learns it", async || {
            let status = cluster.try_get(dead, "/v1/status").await?;
            (status["removed"] == json!(true)).then_some(())
        })
        .await;
    assert!(cluster.log_of(dead).contains("removed from the cluster"));
    // With two of the three new voters gone nothing goes; with one gone everything does.
    cluster.kill(well);
    cluster.put(at, "after", &json!(2)).await;
    assert_eq!(cluster.get(at, "/v1/kv/before").await["value"], json!(1));
    load.verify(&cluster, &[leader, at]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_hands_over_and_the_leader_itself_can_be_removed() {
    let cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    let load = Load::start((0..3).map(|at| cluster.nodes[at].url()).collect());
    let to = (leader + 1) % 3;
    let name = cluster.nodes[to].id.clone();
    let answer = cluster.cli_json(&["leader", "transfer", "--to", &name]);
    assert_eq!(answer["leader"], json!(name), "{answer}");
    let (now, after) = cluster.leader_after(term).await;
    assert_eq!((now, answer["term"].as_u64()), (to, Some(after)));
    assert_eq!(cluster.cli_json(&["leader", "show"])["leader"], json!(name));
    let elections = format!("/v1/elections?after={term}");
    cluster
        .wait_for("the election is on record", async || {
            let page = cluster.get(now, &elections).await;
            let found = page["items"].as_array()?.iter().find(|e| e["term"] == json!(after))?.clone();
            assert_eq!(found["reason"], json!("transfer"), "{found}");
            Some(())
        })
        .await;
    // Asked for what is so already, it is so.
    let again = cluster.cli_json(&["leader", "transfer", "--to", &name]);
    assert_eq!(again["leader"], json!(name), "{again}");
    let nobody = cluster.cli(&["leader", "transfer", "--to", "n9"]);
    assert_eq!(nobody.status.code(), Some(5), "{}", String::from_utf8_lossy(&nobody.stderr));
    // To whom it likes.
    let anybody = cluster.cli_json(&["leader", "transfer"]);
    assert_ne!(anybody["leader"], json!(name), "{anybody}");
    let (now, _) = cluster.leader_after(after).await;
    let gone = cluster.nodes[now].id.clone();
    let removed = cluster.cli_json(&["member", "remove", &gone]);
    assert_eq!(names(&removed["voters"]).len(), 2, "{removed}");
    let left: Vec<usize> = (0..3).filter(|at| *at != now).collect();
    wait_for_voters(&cluster, &left).await;
    cluster.put(left[0], "after", &json!(true)).await;
    load.verify(&cluster, &left).await;
}

/// Runs `start` of a node that must not come up; gives its exit code and what it said.
fn refused(cluster: &Cluster, at: usize, more: &[&str]) -> (Option<i32>, String) {
    let output = cluster.command(at).args(more).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).to_string())
}

#[tokio::test]
async fn who_must_not_join_is_refused_with_the_remedy() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    cluster.put(leader, "a", &json!(1)).await;
    // The name of a voter, with an empty directory: it may have voted.
    let thief = cluster.add_node("n4", leader);
    cluster.nodes[thief].id = "n2".to_string();
    let (code, said) = refused(&cluster, thief, &[]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("n2 is a super-node of cluster") && said.contains("member remove n2"), "{said}");
    assert!(!cluster.nodes[thief].directory.exists(), "nothing was made");
    cluster.nodes[thief].id = "n4".to_string();
    // Another cluster than the one that is asked for.
    let mut other = cluster.command(thief);
    let output = other.env("SUPER_NODE_NODE__CLUSTER", "blue").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("belongs to cluster 'super-node', not to 'blue'"), "{said}");
    // A directory that belongs to another cluster of the same name.
    let mut lonely = Cluster::start(&Setup::nodes(1));
    lonely.leader().await;
    lonely.put(0, "mine", &json!(1)).await;
    lonely.signal(0, "TERM");
    lonely.wait_exit(0);
    let elsewhere = cluster.add_node("n1", leader);
    cluster.nodes[elsewhere].directory.clone_from(&lonely.nodes[0].directory);
    let (code, said) = refused(&cluster, elsewhere, &[]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("and") && said.contains("to another"), "{said}");
    // An agent has the name.
    let agent = json!({ "id": "worker", "address": "127.0.0.1:9" });
    let url = format!("{}/v1/members", cluster.nodes[leader].url());
    assert!(cluster.http.post(&url).json(&agent).send().await.expect("an answer").status().is_success());
    let worker = cluster.add_node("worker", leader);
    let (code, said) = refused(&cluster, worker, &[]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("the name of an agent"), "{said}");
    // Whom it replaces must be somebody.
    let nobody = cluster.add_node("n5", leader);
    let (code, said) = refused(&cluster, nobody, &["--replaces", "n9"]);
    assert_eq!(code, Some(5), "{said}");
    // Nobody of these was added.
    let status = cluster.get(leader, "/v1/status").await;
    assert_eq!(names(&status["voters"]), ["n1", "n2", "n3"]);
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_directory_is_not_heard_until_it_joins_anew() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    let lost = (leader + 1) % 3;
    let (name, well) = (cluster.nodes[lost].id.clone(), (leader + 2) % 3);
    let bound = format!("{name} is bound to its data directory");
    for at in [leader, well] {
        cluster
            .wait_for("every node knows the directory", async || {
                cluster.log_of(at).contains(&bound).then_some(())
            })
            .await;
    }
    cluster.kill(lost);
    std::fs::remove_dir_all(&cluster.nodes[lost].directory).expect("it is there");
    // With an empty directory it would vote a second time. Nobody hears it, and it hears why.
    cluster.start_node(lost);
    cluster
        .wait_for("it is refused with the remedy", async || {
            let log = cluster.log_of(lost);
            let remedy = format!("super-node member remove {name}");
            (log.contains("knows") && log.contains("by another data directory") && log.contains(&remedy))
                .then_some(())
        })
        .await;
    cluster.put(leader, "goes-on", &json!(1)).await;
    assert_eq!(cluster.get(lost, "/v1/status").await["leader"], Value::Null);
    assert_eq!(cluster.get(leader, "/v1/status").await["term"], json!(term), "it disturbs nobody");
    cluster.kill(lost);
    std::fs::remove_dir_all(&cluster.nodes[lost].directory).expect("it is there");
    // The name is free once the node is removed.
    cluster.cli_json(&["member", "remove", &name]);
    cluster.nodes[lost].join = Some(cluster.nodes[well].url());
    cluster.start_node(lost);
    wait_for_voters(&cluster, &[leader, well, lost]).await;
    assert_eq!(cluster.get(lost, "/v1/kv/goes-on").await["value"], json!(1));
}

#[tokio::test]
async fn a_reading_copy_follows_and_is_promoted_and_demoted_by_hand() {
    let mut cluster = Cluster::start(&Setup::nodes(1).with("SUPER_NODE_RAFT__LEASE", "true"));
    cluster.leader().await;
    cluster.put(0, "a", &json!(1)).await;
    let at = cluster.add_node("reader", 0);
    let address = format!("127.0.0.1:{}", cluster.nodes[at].peer_port);
    cluster.cli_json(&["member", "add", "reader", &address, "--super-node", "--learner-only"]);
    cluster.start_node(at);
    cluster
        .wait_for("the copy follows", async || {
            let read = cluster.try_get(at, "/v1/kv/a?level=stale").await?;
            (read["value"] == json!(1)).then_some(())
        })
        .await;
    let status = cluster.get(at, "/v1/status").await;
    assert_eq!((&status["role"], names(&status["learners"])), (&json!("learner"), vec!["reader"]));
    // Reads of every level go through it.
    for level in ["linearizable", "lease", "stale"] {
        let read = cluster.get(at, &format!("/v1/kv/a?level={level}")).await;
        assert_eq!(read["value"], json!(1), "{level}");
    }
    let url = format!("{}/v1/members/reader:promote", cluster.nodes[at].url());
    cluster
        .wait_for("it has caught up and votes", async || {
            let answer = cluster.http.post(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    wait_for_voters(&cluster, &[0, at]).await;
    let demoted = cluster.cli_json(&["member", "demote", "reader"]);
    assert_eq!((names(&demoted["voters"]), &demoted["role"]), (vec!["n1"], &json!("learner")), "{demoted}");
    // Without it, all goes on.
    cluster.kill(at);
    cluster.put(0, "b", &json!(2)).await;
    let gone = cluster.cli_json(&["member", "remove", "reader"]);
    assert_eq!(names(&gone["learners"]), Vec::<&str>::new());
    let unknown = cluster.cli(&["member", "remove", "nobody"]);
    assert_eq!(unknown.status.code(), Some(6), "{}", String::from_utf8_lossy(&unknown.stderr));
}

#[tokio::test]
async fn a_node_that_moved_tells_the_others_where_it_is() {
    let mut cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    let at = cluster.join_node("n2", 0);
    wait_for_voters(&cluster, &[0, at]).await;
    cluster.kill(at);
    cluster.nodes[at].peer_port = cluster::free_port();
    cluster.start_node(at);
    let address = format!("127.0.0.1:{}", cluster.nodes[at].peer_port);
    cluster
        .wait_for("the configuration has the new address", async || {
            let status = cluster.try_get(0, "/v1/status").await?;
            let nodes = status["nodes"].as_array()?;
            let found = nodes.iter().find(|node| node["id"] == "n2")?;
            (found["address"] == json!(address)).then_some(())
        })
        .await;
    cluster.put(at, "from-its-new-place", &json!(1)).await;
}

#[tokio::test]
async fn a_leader_that_is_asked_to_stop_hands_over_first() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    cluster.put(leader, "before", &json!(1)).await;
    cluster.signal(leader, "TERM");
    assert_eq!(cluster.wait_exit(leader), Some(0));
    let (next, next_term) = cluster.leader_after(term).await;
    let election = cluster
        .wait_for("the election on record", async || {
            let page = cluster.try_get(next, "/v1/elections").await?;
            page["items"].as_array()?.iter().find(|election| election["term"] == json!(next_term)).cloned()
        })
        .await;
    assert_eq!(election["reason"], json!("transfer"), "{election}");
    assert!(cluster.log_of(leader).contains("asked to stop:"), "and its log says to whom");
    assert_eq!(cluster.get(next, "/v1/kv/before").await["value"], json!(1));
}
