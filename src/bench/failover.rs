//! How long writes wait when the leader is lost: kill -9 (its connections break) or SIGSTOP (silence, as behind a
//! partition), again and again, under writers that never let up.
//!
//! A writer tries one key until it is acknowledged, on one node after another, and goes on to the next. At the end
//! every acknowledged key is looked up. The time to the next acknowledged write is counted from the loss of the leader to
//! the first acknowledgement of a write that was asked for after it: answers that were on their way at that moment do
//! not count as service.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::client::Call;
use crate::local::Fleet;

use super::cluster::{self, Cluster};
use super::http::{Connection, encode};
use super::work::{Author, Workload};
use super::{BenchError, on_one_thread};

/// How long a writer waits for one answer before it asks another node.
const ATTEMPT: Duration = Duration::from_millis(400);
/// Pause after a refusal.
const PAUSE: Duration = Duration::from_millis(5);
/// A process that is killed or stopped may run on for so long, on another core.
const LAST_BREATH: Duration = Duration::from_millis(1);
/// How long the cluster goes on without a killed node.
const WITHOUT: Duration = Duration::from_millis(1_200);
/// How long it goes on without a frozen one: the silence has to be noticed.
const FROZEN: Duration = Duration::from_millis(2_200);
/// How long it goes on with all nodes before the next loss.
const WHOLE: Duration = Duration::from_millis(500);

/// How the leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// kill -9, and later a new process on the same directory.
    Kill,
    /// SIGSTOP, and later SIGCONT.
    Freeze,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct FailoverPlan {
    /// How many writers.
    pub writers: usize,
    /// How often the leader is lost.
    pub losses: usize,
    /// How.
    pub blow: Blow,
    /// Length of a value.
    pub value_bytes: usize,
    /// Threads that burn CPU time beside it.
    pub burners: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failover {
    /// `kill` or `freeze`.
    pub blow: &'static str,
    /// How often the leader was lost.
    pub kills: usize,
    /// How many writers.
    pub clients: usize,
    /// Threads that burnt CPU time beside it.
    pub burners: usize,
    /// Median time from the loss to the next acknowledged write, microseconds. So are the others.
    pub median_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile; the longest, if there were less than a hundred.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Of these, how many are not there at the end. Must be 0.
    pub lost: u64,
    /// Rise of the term beyond one for each loss.
    pub elections_beyond_kills: i64,
    /// Acknowledged writes per second, all gaps included.
    pub puts_per_s: f64,
}

/// An acknowledged write; microseconds from a common origin.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    /// When it was sent to the node that acknowledged it.
    asked: u64,
    /// When the answer came.
    told: u64,
}

/// One writer's keys: how many of those that begin with the prefix, from number 0, were acknowledged.
type Written = Vec<(String, u64)>;

/// Loses the leader of a fleet again and again. The fleet must be ready, and is whole at the end.
pub async fn measure(fleet: &mut Fleet, plan: FailoverPlan) -> Result<Failover, BenchError> {
    let client = fleet.client()?;
    let before = cluster::find(&client).await?;
    let origin = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let _burning = Burners::start(plan.burners);
    let writing = {
        let (stop, acknowledged, cluster) = (Arc::clone(&stop), Arc::clone(&acknowledged), before.clone());
        tokio::spawn(on_one_thread(move || write(plan, cluster, origin, stop, acknowledged)))
    };
    let mut losses = Vec::new();
    for _ in 0..plan.losses {
        cluster::ready(fleet).await?;
        tokio::time::sleep(WHOLE).await;
        losses.push(lose_leader(fleet, plan.blow, origin).await?);
    }
    cluster::ready(fleet).await?;
    tokio::time::sleep(WHOLE).await;
    let after = cluster::find(&client).await?;
    stop.store(true, Ordering::Relaxed);
    let elapsed = origin.elapsed();
    let panicked = |_| BenchError::Node("the writers panicked".to_string());
    let written = writing.await.map_err(panicked)??;
    let times = std::mem::take(&mut *acknowledged.lock().unwrap_or_else(PoisonError::into_inner));
    let mut lost = 0;
    for (prefix, count) in &written {
        lost += missing(&client, prefix, *count).await?;
    }
    let mut waits: Vec<u64> = losses.iter().map(|at| wait_after(&times, *at)).collect();
    waits.sort_unstable();
    let at = |share: f64| quantile(&waits, share);
    let rise = i64::try_from(after.term).unwrap_or(i64::MAX) - i64::try_from(before.term).unwrap_or(0);
    let total: u64 = written.iter().map(|(_, count)| count).sum();
    Ok(Failover {
        blow: if plan.blow == Blow::Kill { "kill" } else { "freeze" },
        kills: losses.len(),
        clients: plan.writers,
        burners: plan.burners,
        median_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        max_us: at(1.0),
        acknowledged: total,
        lost,
        elections_beyond_kills: rise - i64::try_from(losses.len()).unwrap_or(i64::MAX),
        puts_per_s: total as f64 / elapsed.as_secs_f64(),
    })
}

fn since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The smallest number that so large a share of the sorted numbers does not exceed.
fn quantile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// Microseconds from the loss (which is counted from the same origin) to the first acknowledgement of a write that was
/// asked for after it.
fn wait_after(acknowledged: &[Acknowledged], loss: u64) -> u64 {
    let dead = loss + u64::try_from(LAST_BREATH.as_micros()).unwrap_or(u64::MAX);
    let later = acknowledged.iter().filter(|write| write.asked >= dead);
    later.map(|write| write.told - loss).min().unwrap_or(u64::MAX)
}

/// Loses the leader, waits, and brings it back. Gives the moment of the loss.
async fn lose_leader(fleet: &mut Fleet, blow: Blow, origin: Instant) -> Result<u64, BenchError> {
    let found = cluster::find(&fleet.client()?).await?;
    let leads = |url: &str| cluster::host_and_port(url) == found.leader;
    let at = fleet.nodes.iter().position(|node| leads(&node.url));
    let at = at.ok_or_else(|| BenchError::Node(format!("{} leads, but is none of ours", found.leader)))?;
    let failed =
        |source| BenchError::System { what: "lose the leader and bring it back".to_string(), source };
    let loss = since(origin);
    match blow {
        Blow::Kill => {
            fleet.kill_node(at).await.map_err(failed)?;
            tokio::time::sleep(WITHOUT).await;
            fleet.start_node(at).map_err(failed)?;
        }
        Blow::Freeze => {
            fleet.freeze(at, true).map_err(failed)?;
            tokio::time::sleep(FROZEN).await;
            fleet.freeze(at, false).map_err(failed)?;
        }
    }
    Ok(loss)
}

/// The writers, until they are told to stop.
async fn write(
    plan: FailoverPlan,
    cluster: Cluster,
    origin: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
) -> Written {
    let work = Workload { value_bytes: plan.value_bytes, read_share: 0.0, batch: 1 };
    let written = Rc::new(RefCell::new(Written::new()));
    let mut writers = tokio::task::JoinSet::new();
    for (number, mut author) in Author::several(plan.writers, work).into_iter().enumerate() {
        let (stop, acknowledged, written) =
            (Arc::clone(&stop), Arc::clone(&acknowledged), Rc::clone(&written));
        let all = cluster.all.clone();
        writers.spawn_local(async move {
            let mut at = number % all.len();
            let mut connection = Connection::new(&all[at]);
            let (mut path, mut body, mut count) = (String::new(), Vec::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                let (method, _) = encode(&author.draw(), &mut path, &mut body);
                while !stop.load(Ordering::Relaxed) {
                    let asked = since(origin);
                    let attempt = tokio::time::timeout(ATTEMPT, connection.call(method, &path, &body)).await;
                    if matches!(&attempt, Ok(Ok(answer)) if answer.status == 200) {
                        let write = Acknowledged { asked, told: since(origin) };
                        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(write);
                        count += 1;
                        break;
                    }
                    at = (at + 1) % all.len();
                    connection.redirect(&all[at]);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            written.borrow_mut().push((author.prefix().to_string(), count));
        });
    }
    while writers.join_next().await.is_some() {}
    written.take()
}

/// How many of a writer's acknowledged keys are not there.
async fn missing(client: &crate::client::Client, prefix: &str, count: u64) -> Result<u64, BenchError> {
    let items = client.pages(Call::get("/v1/kv").query("prefix", prefix), None).await?;
    let numbers =
        items.iter().filter_map(|item| item["key"].as_str()?.strip_prefix(prefix)?.parse::<u64>().ok());
    let there = numbers.filter(|number| *number < count).count() as u64;
    Ok(count.saturating_sub(there))
}

/// Threads that do nothing, as hard as they can, until this is dropped.
struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Burners {
    fn start(count: usize) -> Burners {
        let stop = Arc::new(AtomicBool::new(false));
        let burn = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..count).map(|_| burn()).collect();
        Burners { stop, threads }
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic; and if it did, there would be nothing to do about it.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_with_a_write_that_was_asked_for_after_the_loss() {
        let writes = |pairs: &[(u64, u64)]| -> Vec<Acknowledged> {
            pairs.iter().map(|(asked, told)| Acknowledged { asked: *asked, told: *told }).collect()
        };
        let second = 1_000_000;
        let answered_late = (second - 200, second + 3_000);
        let last_breath = (second + 100, second + 900);
        let served = (second + 20_000, second + 80_000);
        let later = (second + 79_000, second + 90_000);
        let cases = [
            ("an answer was on its way", writes(&[answered_late, last_breath, later, served]), 80_000),
            ("nothing came any more", writes(&[answered_late]), u64::MAX),
        ];
        for (what, acknowledged, expected) in cases {
            assert_eq!(wait_after(&acknowledged, second), expected, "{what}");
        }
    }

    #[test]
    fn quantiles_of_few_numbers_are_among_them() {
        let numbers = [1, 2, 3, 4];
        for (share, expected) in [(0.0, 1), (0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4)] {
            assert_eq!(quantile(&numbers, share), expected, "{share}");
        }
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
