//! Three real processes under constant writes, killed, frozen and restarted at random: every acknowledged write is
//! there afterwards, on every node, and the books agree.

#[path = "support/cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, Setup, all_items};
use serde_json::{Value, json};

/// For how long things go wrong.
const CHAOS: Duration = Duration::from_secs(15);
/// Writers; each writes keys of its own, through any node.
const WRITERS: usize = 3;
/// Pause between two writes of one writer.
const WRITE_EVERY: Duration = Duration::from_millis(15);

/// A small generator (SplitMix64), so that a failure names the seed of its faults.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (word ^ (word >> 27)) % bound
    }

    fn host(&mut self) -> usize {
        usize::try_from(self.below(3)).expect("small")
    }
}

/// Writes unique values to keys of its own until told to stop; gives what was acknowledged, with the revisions.
async fn write(
    writer: usize,
    urls: Vec<String>,
    http: reqwest::Client,
    stop: Arc<AtomicBool>,
) -> Vec<(String, Value, u64)> {
    let mut acknowledged = Vec::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}-{number}");
        let value = json!(format!("{writer}:{number}"));
        let at = usize::try_from(number).expect("small") % urls.len();
        let put = http.put(format!("{}/v1/kv/{key}", urls[at])).json(&value).send().await;
        if let Ok(answer) = put
            && answer.status().is_success()
            && let Ok(body) = answer.json::<Value>().await
        {
            acknowledged.push((key, value, body["revision"].as_u64().expect("a revision")));
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
    acknowledged
}

/// Kills, restarts, freezes and thaws, one thing after the other.
async fn torment(cluster: &mut Cluster, dice: &mut Dice) {
    let begun = Instant::now();
    let mut frozen = [false; 3];
    while begun.elapsed() < CHAOS {
        let at = dice.host();
        match (dice.below(4), cluster.nodes[at].is_running(), frozen[at]) {
            (0 | 1, true, _) => {
                cluster.kill(at);
                frozen[at] = false;
            }
            (_, false, _) => cluster.start_node(at),
            (_, true, false) => {
                cluster.signal(at, "STOP");
                frozen[at] = true;
            }
            (_, true, true) => {
                cluster.signal(at, "CONT");
                frozen[at] = false;
            }
        }
        tokio::time::sleep(Duration::from_millis(100 + dice.below(1_200))).await;
    }
    for (at, frozen) in frozen.into_iter().enumerate() {
        if frozen {
            cluster.signal(at, "CONT");
        }
        if !cluster.nodes[at].is_running() {
            cluster.start_node(at);
        }
    }
}

/// The whole content of a node, as it has applied it.
async fn content(cluster: &Cluster, at: usize) -> std::collections::BTreeMap<String, (Value, u64)> {
    let items = all_items(cluster, at, "/v1/kv?level=stale").await;
    let row = |item: &Value| {
        let key = item["key"].as_str().expect("a key").to_string();
        (key, (item["value"].clone(), item["revision"].as_u64().expect("a revision")))
    };
    items.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9_and_freezing_of_any_node() {
    let seed = u64::from(std::process::id());
    println!("faults by seed {seed}");
    let mut dice = Dice(seed);
    // Few entries are kept, so that whoever is away for a while needs the whole state.
    let setup = Setup::nodes(3).with("SUPER_NODE_RAFT__SNAPSHOT_ENTRIES", "100");
    let mut cluster = Cluster::start(&setup);
    cluster.leader().await;
    let urls: Vec<String> = cluster.nodes.iter().map(cluster::Node::url).collect();
    let stop = Arc::new(AtomicBool::new(false));
    // A frozen node answers nobody, and its writers should get on.
    let http = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().expect("an HTTP client");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(writer, urls.clone(), http.clone(), Arc::clone(&stop))))
        .collect();
    torment(&mut cluster, &mut dice).await;
    // Written by everybody's leave: from here on every node has what was acknowledged before.
    cluster.leader().await;
    for at in 0..3 {
        cluster.put(at, &format!("last{at}"), &json!(at)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("the writer lives"));
    }
    assert!(acknowledged.len() > 50, "{} writes: the run shows nothing", acknowledged.len());
    cluster.put(0, "end", &json!("end")).await;
    let mut contents = Vec::new();
    for at in 0..3 {
        cluster
            .wait_for("the last write is everywhere", async || {
                let read = cluster.try_get(at, "/v1/kv/end?level=stale").await?;
                (read["value"] == json!("end")).then_some(())
            })
            .await;
        contents.push(content(&cluster, at).await);
    }
    for (key, value, revision) in &acknowledged {
        assert_eq!(contents[0].get(key), Some(&(value.clone(), *revision)), "{key}, seed {seed}");
    }
    assert_eq!(contents[0], contents[1], "seed {seed}");
    assert_eq!(contents[0], contents[2], "seed {seed}");
    // The books: every interval once, the same movements everywhere, and each chain whole.
    let ids: Vec<u64> =
        all_items(&cluster, 0, "/v1/intervals").await.iter().filter_map(|i| i["id"].as_u64()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "contiguous, each once");
    let reference = all_items(&cluster, 0, "/v1/rewards").await;
    for at in 1..3 {
        let other = all_items(&cluster, at, "/v1/rewards").await;
        let common = reference.len().min(other.len());
        assert_eq!(reference[..common], other[..common], "seed {seed}");
    }
    let verified = cluster.cli_json(&["ledger", "verify"]);
    assert!(!reference.is_empty(), "something was paid: {verified}");
}
