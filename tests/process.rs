//! Three real processes: elections, kill -9, restart, catch-up, judging and paying.

#[path = "support/cluster.rs"]
mod cluster;

use cluster::{Cluster, Setup, all_items};
use serde_json::{Value, json};

#[tokio::test]
async fn any_node_takes_any_request() {
    let cluster = Cluster::start(&Setup::nodes(3));
    cluster.leader().await;
    for (at, value) in
        [(0, json!("Hello World")), (1, json!(42)), (2, json!({"host": "localhost", "port": 8080}))]
    {
        cluster.put(at, &format!("key{at}"), &value).await;
        for other in 0..3 {
            // Linearizable: whoever is asked next sees it.
            let read = cluster.get(other, &format!("/v1/kv/key{at}")).await;
            assert_eq!(read["value"], value, "written through n{}, read through n{}", at + 1, other + 1);
        }
        // The header of an answer never names an older position than the answer itself.
        let url = format!("{}/v1/kv/again{at}", cluster.nodes[at].url());
        let answer = cluster.http.put(&url).json(&value).send().await.expect("an answer");
        let index =
            answer.headers()["super-node-index"].to_str().ok().and_then(|text| text.parse::<u64>().ok());
        let body: serde_json::Value = answer.json().await.expect("JSON");
        assert!(index >= body["index"].as_u64(), "{index:?} {body}");
    }
}

#[tokio::test]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    for number in 0..50 {
        cluster.put(number % 3, &format!("before{number}"), &json!(number)).await;
    }
    cluster.kill(leader);
    let (next, next_term) = cluster.leader_after(term).await;
    assert_ne!(next, leader);
    for number in 0..50 {
        assert_eq!(cluster.get(next, &format!("/v1/kv/before{number}")).await["value"], json!(number));
    }
    let path = format!("/v1/elections?after={term}");
    let election = cluster
        .wait_for("the election on record", async || {
            let page = cluster.get(next, &path).await;
            page["items"].as_array().and_then(|items| items.iter().find(|e| e["term"] == next_term).cloned())
        })
        .await;
    assert_eq!(election["leader"], json!(cluster.nodes[next].id));
    assert_eq!(election["previous"], json!(cluster.nodes[leader].id));
    assert!(election["votes"].as_array().expect("votes").len() >= 2, "{election}");
    assert!(election["leaderless_ms"].is_u64(), "{election}");
    // The process was killed: its connections were reset, which is noticed before any timeout.
    assert_eq!(election["reason"], json!("connection_lost"), "{election}");
}

#[tokio::test]
async fn a_killed_follower_restarts_and_catches_up() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    let follower = (leader + 1) % 3;
    cluster.put(leader, "first", &json!(1)).await;
    cluster.kill(follower);
    for number in 0..200 {
        cluster.put(leader, &format!("away{number}"), &json!(number)).await;
    }
    cluster.start_node(follower);
    cluster
        .wait_for("the follower has everything", async || {
            let read = cluster.try_get(follower, "/v1/kv/away199?level=stale").await?;
            (read["value"] == json!(199)).then_some(())
        })
        .await;
    assert_eq!(cluster.get(follower, "/v1/kv/first?level=stale").await["value"], json!(1));
}

#[tokio::test]
async fn a_follower_that_was_away_too_long_gets_the_state() {
    let setup = Setup::nodes(3).with("SUPER_NODE_RAFT__SNAPSHOT_ENTRIES", "100");
    let mut cluster = Cluster::start(&setup);
    let (leader, _) = cluster.leader().await;
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    for number in 0..600 {
        cluster.put(leader, &format!("away{number}"), &json!(number)).await;
    }
    // The log's head is dropped at the next flush of the state.
    let dropped = async || {
        let text = cluster.http.get(format!("{}/metrics", cluster.nodes[leader].url())).send().await.ok()?;
        let text = text.text().await.ok()?;
        let line = text.lines().find(|line| line.starts_with("super_node_snapshot_index "))?;
        line.rsplit(' ').next()?.parse::<u64>().ok().filter(|index| *index > 300)
    };
    cluster.wait_for("the log's head is dropped", dropped).await;
    cluster.start_node(follower);
    cluster
        .wait_for("the follower has everything", async || {
            let read = cluster.try_get(follower, "/v1/kv/away599?level=stale").await?;
            (read["value"] == json!(599)).then_some(())
        })
        .await;
    assert_eq!(cluster.get(follower, "/v1/kv/away0?level=stale").await["value"], json!(0));
    // And it goes on from there like everybody else, also over a restart.
    cluster.put(follower, "later", &json!("on")).await;
    cluster.kill(follower);
    cluster.start_node(follower);
    cluster
        .wait_for("the follower is back", async || {
            let read = cluster.try_get(follower, "/v1/kv/later?level=stale").await?;
            (read["value"] == json!("on")).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_cluster_that_was_killed_whole_resumes() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    cluster.put(leader, "kept", &json!([1, 2, 3, 4])).await;
    cluster
        .wait_for("a settled interval", async || {
            let page = cluster.get(leader, "/v1/intervals").await;
            page["items"].as_array().filter(|items| !items.is_empty()).map(|_| ())
        })
        .await;
    let before = all_items(&cluster, leader, "/v1/rewards").await;
    for at in 0..3 {
        cluster.kill(at);
    }
    for at in 0..3 {
        cluster.start_node(at);
    }
    let (leader, _) = cluster.leader_after(term).await;
    assert_eq!(cluster.get(leader, "/v1/kv/kept").await["value"], json!([1, 2, 3, 4]));
    let after = all_items(&cluster, leader, "/v1/rewards").await;
    assert_eq!(&after[..before.len()], &before[..], "no movement is lost or changed");
    let settled = |page: &Value| page["items"].as_array().map_or(0, Vec::len);
    let count = settled(&cluster.get(leader, "/v1/intervals?limit=1000").await);
    cluster
        .wait_for("intervals go on", async || {
            let page = cluster.get(leader, "/v1/intervals?limit=1000").await;
            (settled(&page) > count).then_some(())
        })
        .await;
    let ids: Vec<u64> =
        all_items(&cluster, leader, "/v1/intervals").await.iter().filter_map(|i| i["id"].as_u64()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "contiguous, each once");
}

#[tokio::test]
async fn five_nodes_survive_two_and_one_node_works_alone() {
    let mut five = Cluster::start(&Setup::nodes(5));
    let (leader, term) = five.leader().await;
    five.put(leader, "a", &json!(1)).await;
    five.kill(leader);
    let (next, next_term) = five.leader_after(term).await;
    five.kill(next);
    let (last, _) = five.leader_after(next_term).await;
    five.put(last, "b", &json!(2)).await;
    assert_eq!(five.get(last, "/v1/kv/a").await["value"], json!(1));
    drop(five);
    let mut one = Cluster::start(&Setup::nodes(1));
    one.leader().await;
    one.put(0, "alone", &json!(true)).await;
    one.kill(0);
    one.start_node(0);
    one.leader().await;
    assert_eq!(one.get(0, "/v1/kv/alone").await["value"], json!(true));
}

#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged_and_the_answer_says_so() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, _) = cluster.leader().await;
    cluster.put(leader, "a", &json!(1)).await;
    for at in (0..3).filter(|at| *at != leader) {
        cluster.kill(at);
    }
    // The leader notices within an election timeout that nobody answers.
    cluster
        .wait_for("the leader steps down", async || {
            let status = cluster.get(leader, "/v1/status").await;
            (status["role"] != json!("leader")).then_some(())
        })
        .await;
    let url = format!("{}/v1/kv/b", cluster.nodes[leader].url());
    let answer = cluster.http.put(&url).json(&json!(2)).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    let problem: Value = answer.json().await.expect("a problem document");
    assert_eq!(problem["code"], json!("no_leader"));
    assert_eq!(problem["outcome"], json!("not_applied"));
    // Local reads and health need no quorum.
    assert_eq!(cluster.get(leader, "/v1/kv/a?level=stale").await["value"], json!(1));
    let output = cluster.cli(&["kv", "set", "b", "2", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    // Whoever has little patience, and asks the silent ones, too, hears of a read as much.
    let all: Vec<String> = cluster.nodes.iter().map(cluster::Node::url).collect();
    for words in
        [&["kv", "get", "a"][..], &["member", "list"], &["ledger", "balances"], &["election", "list"]]
    {
        let mut arguments = vec!["--timeout", "1s", "--endpoints"];
        let all = all.join(",");
        arguments.push(&all);
        arguments.extend(words);
        let output = cluster.cli(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{words:?}: {told}");
        assert!(told.contains("[no_leader]"), "{words:?}: {told}");
    }
}

#[tokio::test]
async fn a_silent_leader_is_replaced_by_the_ping_task() {
    // A leader that is frozen keeps its connections, and the election timeout is far away: only pings can tell.
    let setup = Setup::nodes(3)
        .with("SUPER_NODE_RAFT__ELECTION", "5s..6s")
        .with("SUPER_NODE_RAFT__HEARTBEAT", "50ms");
    let cluster = Cluster::start(&setup);
    let (leader, term) = cluster.leader().await;
    cluster
        .wait_for("pings are answered", async || {
            let status = cluster.get((leader + 1) % 3, "/v1/status").await;
            (status["members"]["up"] == json!(3)).then_some(())
        })
        .await;
    cluster.signal(leader, "STOP");
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let (next, next_term) = cluster
        .wait_for("a new leader", async || {
            for at in &others {
                let status = cluster.try_get(*at, "/v1/status").await?;
                if status["role"] == json!("leader") && status["term"].as_u64() > Some(term) {
                    return Some((*at, status["term"].as_u64()?));
                }
            }
            None
        })
        .await;
    let election = cluster
        .wait_for("the election on record", async || {
            let page = cluster.get(next, "/v1/elections").await;
            page["items"].as_array()?.iter().find(|e| e["term"] == json!(next_term)).cloned()
        })
        .await;
    assert_eq!(election["reason"], json!("pings_silent"), "{election}");
    // When it wakes up it follows.
    cluster.signal(leader, "CONT");
    cluster
        .wait_for("the old leader follows", async || {
            let status = cluster.try_get(leader, "/v1/status").await?;
            (status["role"] == json!("follower") && status["leader"] == json!(cluster.nodes[next].id))
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn the_silent_are_penalised_and_the_answering_are_paid() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.start_agent("worker-1");
    cluster.start_agent("worker-2");
    let (leader, _) = cluster.leader().await;
    cluster
        .wait_for("both agents are paid", async || {
            let page = cluster.get(leader, "/v1/balances").await;
            let paid = |id: &str| {
                let items = page["items"].as_array()?;
                items.iter().find(|m| m["member"] == id || m["id"] == id)?["balance"]
                    .as_i64()
                    .filter(|b| *b > 0)
            };
            paid("worker-1").and(paid("worker-2"))
        })
        .await;
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    cluster.kill_agent("worker-2");
    for member in [cluster.nodes[follower].id.clone(), "worker-2".to_string()] {
        let path = format!("/v1/rewards?member={member}&kind=penalty");
        // A whole interval dark costs the whole penalty.
        let penalty = cluster
            .wait_for("a full penalty", async || {
                let page = cluster.get(leader, &path).await;
                page["items"].as_array()?.iter().find(|m| m["amount"] == json!(-5_000_000)).cloned()
            })
            .await;
        let interval = penalty["interval"].as_u64().expect("an interval");
        let explained = cluster.cli_json(&["interval", "explain", &member, &interval.to_string()]);
        assert!(explained.to_string().contains("5000000"), "{explained}");
    }
    let interval = cluster.get(leader, "/v1/intervals?limit=1000").await;
    let last = interval["items"].as_array().and_then(|items| items.last()).expect("an interval").clone();
    assert_eq!(last["verdict"], json!("settled"));
    let absent = json!({"id": cluster.nodes[follower].id, "used": false, "why": "absent"});
    assert!(last["observers"].as_array().expect("observers").contains(&absent), "{last}");
    let verify = cluster.cli(&["ledger", "verify"]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
}

#[tokio::test]
async fn all_nodes_hold_the_same_ledger() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    let records = async |at: usize, least: u64| {
        let status = cluster.try_get(at, "/v1/status").await?;
        let records = status["ledger"]["records"].as_u64()?;
        (records >= least).then_some(records)
    };
    cluster.wait_for("movements", async || records(leader, 6).await).await;
    cluster.kill(leader);
    let (next, _) = cluster.leader_after(term).await;
    cluster.start_node(leader);
    let records = cluster.get(next, "/v1/status").await["ledger"]["records"].as_u64().expect("a count");
    let mut ledgers = Vec::new();
    for at in 0..3 {
        cluster
            .wait_for("the node has caught up", async || {
                let status = cluster.try_get(at, "/v1/status").await?;
                (status["ledger"]["records"].as_u64()? >= records).then_some(())
            })
            .await;
        let items = all_items(&cluster, at, "/v1/rewards").await;
        ledgers.push(items[..usize::try_from(records).expect("few")].to_vec());
    }
    assert_eq!(ledgers[0], ledgers[1]);
    assert_eq!(ledgers[1], ledgers[2]);
}

#[tokio::test]
async fn a_node_stops_cleanly_when_asked() {
    let mut cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    cluster.put(0, "a", &json!(1)).await;
    cluster.signal(0, "TERM");
    assert_eq!(cluster.wait_exit(0), Some(0));
    cluster.start_node(0);
    cluster.leader().await;
    assert_eq!(cluster.get(0, "/v1/kv/a").await["value"], json!(1));
}

#[tokio::test]
async fn old_history_is_forgotten_on_all_nodes_and_the_rest_is_sound() {
    let mut setup = Setup::nodes(3).with("SUPER_NODE_STORAGE__HISTORY", "10");
    setup.set("SUPER_NODE_LEDGER__INTERVAL", "200ms");
    setup.set("SUPER_NODE_LEDGER__PING", "50ms");
    setup.set("SUPER_NODE_LEDGER__PING_TIMEOUT", "30ms");
    let mut cluster = Cluster::start(&setup);
    let (leader, term) = cluster.leader().await;
    let oldest = async |cluster: &Cluster, at: usize| {
        let page = cluster.try_get(at, "/v1/intervals?level=stale&limit=1").await?;
        page["items"][0]["id"].as_u64()
    };
    let third = (leader + 1) % 3;
    let reached = cluster
        .wait_for("something is forgotten", async || oldest(&cluster, third).await.filter(|id| *id > 4));
    let reached = reached.await;
    // The next leader goes on with it.
    cluster.kill(leader);
    cluster.leader_after(term).await;
    cluster.wait_for("more is", async || oldest(&cluster, third).await.filter(|id| *id > reached + 8)).await;
    cluster.start_node(leader);
    cluster.leader().await;
    for at in 0..3 {
        cluster
            .wait_for("it is forgotten here too", async || {
                oldest(&cluster, at).await.filter(|id| *id > reached)
            })
            .await;
        let report = cluster.get(at, "/v1/ledger/verify").await;
        assert_eq!(report["ok"], json!(true), "{report}");
        let intervals = report["intervals"].as_u64().expect("a count");
        assert!((10..40).contains(&intervals), "about ten are kept: {report}");
    }
}
