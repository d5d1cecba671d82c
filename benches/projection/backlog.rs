//! A real cluster whose MongoDB was away: how fast the backlog drains, and whether writes feel it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super_node::bench::http::Connection;
use super_node::bench::load::Load;
use super_node::bench::work::Workload;
use super_node::bench::{BenchError, Plan, cluster, measure_http, on_one_thread};
use super_node::client::Call;
use super_node::local::{Fleet, Setup};
use super_node::node::status::NodeStatus;
use tokio::task::JoinSet;

use crate::mongod::{Kind, Mongod};
use crate::{CONSENSUS_SHARE_MAX, failed, verdict};

/// Connections that make the backlog.
const MAKERS: usize = 128;
/// Clients whose latencies count.
const WRITERS: usize = 4;
/// How long they write, each time.
const WINDOW: Duration = Duration::from_secs(10);
/// How long the super-nodes may take to become members.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// A backlog that does not drain ends the measurement.
const PATIENCE: Duration = Duration::from_secs(600);

pub async fn measure(movements: usize) -> Result<(), BenchError> {
    let mut server = Mongod::start(Kind::ReplicaSet).await;
    let directory = tempfile::tempdir().map_err(failed)?;
    let environment = vec![
        ("MONGODB_URI", server.uri()),
        ("SUPER_NODE_LEDGER__INTERVAL", "10s".to_string()),
        ("SUPER_NODE_LOG__LEVEL", "warn".to_string()),
    ];
    let program = PathBuf::from(env!("CARGO_BIN_EXE_super-node"));
    let setup = Setup { program, nodes: 3, environment, temporary: true };
    let mut fleet = Fleet::new(setup, directory.path()).map_err(failed)?;
    for at in 0..3 {
        fleet.start_node(at).map_err(failed)?;
    }
    cluster::ready(&mut fleet).await?;
    server.kill9();
    let begun = Instant::now();
    let leader = cluster::find(&fleet.client()?).await?.leader;
    joined(&leader).await?;
    fill(&leader, movements).await?;
    println!("{movements} movements in {:.0} s, without MongoDB", begun.elapsed().as_secs_f64());

    let idle = writes(&fleet).await?;
    server.restart().await;
    yield_cores(&server)?;
    let begun = Instant::now();
    let before = lag(&fleet).await?;
    let busy = writes(&fleet).await?;
    let after = lag(&fleet).await?;
    let during = (before - after) as f64 / begun.elapsed().as_secs_f64();
    let share = busy as f64 / idle.max(1) as f64;
    println!(
        "p99 of {WRITERS} writers: {:.2} ms while MongoDB is away, {:.2} ms while {during:.0} movements a second drain into a mongod of the lowest priority: \
         {share:.2} x; asked for {CONSENSUS_SHARE_MAX}: {}",
        idle as f64 / 1e3,
        busy as f64 / 1e3,
        verdict(share < CONSENSUS_SHARE_MAX && after > 0)
    );
    let (begun, from) = (Instant::now(), lag(&fleet).await?);
    while lag(&fleet).await? > 100 {
        if begun.elapsed() > PATIENCE {
            return Err(BenchError::Node(format!("{} movements were left", lag(&fleet).await?)));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rate = from as f64 / begun.elapsed().as_secs_f64();
    println!("the other {from} drained at {rate:.0} movements/s, while nobody wrote");
    fleet.stop().await;
    Ok(())
}

/// Gives mongod, which runs on a machine of its own where it matters, what the super-nodes leave of these cores: otherwise
/// the latencies told would be about mongod.
fn yield_cores(server: &Mongod) -> Result<(), BenchError> {
    let pid = server.pid().ok_or_else(|| BenchError::Node("mongod does not run".to_string()))?;
    let status =
        Command::new("renice").args(["-n", "19", "-p", &pid.to_string()]).output().map_err(failed)?;
    match status.status.success() {
        true => Ok(()),
        false => Err(BenchError::Node(String::from_utf8_lossy(&status.stderr).into_owned())),
    }
}

fn adjustment(member: usize) -> String {
    format!(r#"{{"member":"n{member}","delta":1000000,"reason":"measured","operator":"bench"}}"#)
}

/// Waits until the super-nodes are members of their own fleet.
async fn joined(leader: &str) -> Result<(), BenchError> {
    let (begun, mut connection) = (Instant::now(), Connection::new(leader));
    for member in 1..=3 {
        loop {
            let body = adjustment(member);
            let answer = connection.call("POST", "/v1/adjustments", body.as_bytes()).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            if begun.elapsed() > JOIN_PATIENCE {
                return Err(BenchError::Node(format!("n{member} is no member after {JOIN_PATIENCE:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Makes movements by hand, as fast as the leader takes them.
async fn fill(leader: &str, movements: usize) -> Result<(), BenchError> {
    let left = Arc::new(AtomicUsize::new(movements));
    let mut makers = JoinSet::new();
    for _ in 0..MAKERS {
        let (left, mut connection) = (Arc::clone(&left), Connection::new(leader));
        makers.spawn(async move {
            let take = |left: usize| left.checked_sub(1);
            while let Ok(number) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                let body = adjustment(1 + number % 3);
                let answer = connection.call("POST", "/v1/adjustments", body.as_bytes()).await;
                let answer = answer.map_err(BenchError::Node)?;
                if answer.status != 200 {
                    let why = String::from_utf8_lossy(&answer.body).into_owned();
                    return Err(BenchError::Node(format!("status {}: {why}", answer.status)));
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = makers.join_next().await {
        ended.map_err(failed)??;
    }
    Ok(())
}

/// What MongoDB lacks.
async fn lag(fleet: &Fleet) -> Result<u64, BenchError> {
    let found = cluster::find(&fleet.client()?).await?;
    let client = fleet.client()?;
    let answer = client.ask(&format!("http://{}", found.leader), &Call::get("/v1/status")).await?;
    Ok(answer.read::<NodeStatus>()?.projection.lag_records)
}

/// The p99 of writes, microseconds.
async fn writes(fleet: &Fleet) -> Result<u64, BenchError> {
    let found = cluster::find(&fleet.client()?).await?;
    let plan = Plan {
        connections: 1,
        clients: WRITERS,
        work: Workload { value_bytes: 256, read_share: 0.0, batch: 1 },
        load: Load { warm_up: Duration::from_secs(1), window: WINDOW },
        targets: vec![found.leader],
        processes: Vec::new(),
        metrics: Vec::new(),
        cluster: found.name,
    };
    let figures = on_one_thread(move || async move { measure_http(&plan).await }).await??;
    Ok(figures.p99_us)
}
