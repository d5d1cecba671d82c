//! A large fleet of agents beside a cluster of three: what watching them costs, and whether writes feel it.
//!
//! ```text
//! cargo bench --bench fleet -- --members 10000 --ping 1s --interval 20s --seconds 60
//! ```
//!
//! Agents are simulated by this one process: it enrols them over HTTP as an agent does, and answers their pings from a
//! few sockets. It does not check the codes of pings, which would cost as much as the super-nodes spend. The cluster's
//! CPU time is counted while nobody writes; then a few clients write for as long again, over several settlements, and their
//! latencies are compared with those on the same cluster before the fleet came.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use super_node::bench::load::Load;
use super_node::bench::usage::{Usage, counter};
use super_node::bench::work::Workload;
use super_node::bench::{BenchError, Plan, cluster, measure_http, on_one_thread};
use super_node::client::{Call, Client, Options};
use super_node::config::value::parse_duration;
use super_node::local::{Fleet, Setup};
use super_node::network::batch::{self, Inbox};
use super_node::network::datagram::{Ping, Pong};
use super_node::types::{AgentKey, Version};
use tokio::task::JoinSet;

/// Sockets that the agents share, each with a thread.
const SOCKETS: usize = 2;
/// Enrolments under way at once.
const ENROLMENTS: usize = 128;
/// Clients that write.
const WRITERS: usize = 4;
/// How long the members may take until nearly all of them are seen to be up.
const UP_PATIENCE: Duration = Duration::from_secs(120);

/// A large fleet of agents beside a cluster of three.
#[derive(Debug, Parser)]
struct Args {
    /// Agents.
    #[arg(long, default_value_t = 10_000)]
    members: usize,
    /// Time between two pings of one agent.
    #[arg(long, default_value = "1s")]
    ping: String,
    /// Length of a judged interval.
    #[arg(long, default_value = "20s")]
    interval: String,
    /// Length of each window.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the data goes.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BenchError> {
    let args = Args::parse();
    for (flag, text) in [("--ping", &args.ping), ("--interval", &args.interval)] {
        parse_duration(text).map_err(|problem| {
            BenchError::Node(format!("{flag} {text:?} {}: {}", problem.what, problem.hint))
        })?;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system("start tokio"))?;
    runtime.block_on(measure(&args))
}

fn system(what: &str) -> impl Fn(std::io::Error) -> BenchError {
    let what = what.to_string();
    move |source| BenchError::System { what: what.clone(), source }
}

async fn measure(args: &Args) -> Result<(), BenchError> {
    let place = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("super-node-bench-").tempdir_in(place);
    let directory = directory.map_err(system("make a directory"))?;
    let environment = vec![
        ("SUPER_NODE_LEDGER__PING", args.ping.clone()),
        ("SUPER_NODE_LEDGER__INTERVAL", args.interval.clone()),
    ];
    let program = PathBuf::from(env!("CARGO_BIN_EXE_super-node"));
    let setup = Setup { program, nodes: 3, environment, temporary: true };
    let mut fleet = Fleet::new(setup, directory.path()).map_err(system("prepare the super-nodes"))?;
    for at in 0..3 {
        fleet.start_node(at).map_err(system("start a super-node"))?;
    }
    cluster::ready(&mut fleet).await?;

    let window = Duration::from_secs(args.seconds);
    let before = writes(&fleet, window).await?;
    println!("without agents: {before}");
    let resident_before = resident(&fleet)?;

    let agents = Arc::new(Agents::new(args.members));
    let sockets = answer(&agents)?;
    let begun = Instant::now();
    enrol(&fleet, &agents, &sockets).await?;
    println!("{} agents enrolled in {:.1} s", args.members, begun.elapsed().as_secs_f64());
    let client = fleet.client()?;
    let up = all_up(&client, args.members).await?;
    println!("{up} of {} seen to be up after {:.1} s", args.members, begun.elapsed().as_secs_f64());

    let answered = agents.answered.load(Ordering::Relaxed);
    let cores = cores(&fleet, window).await?;
    let rate = (agents.answered.load(Ordering::Relaxed) - answered) as f64 / window.as_secs_f64();
    println!(
        "watching {} at {}: {} of a core by super-node; {rate:.0} pings answered per second",
        args.members,
        args.ping,
        cores.iter().map(|cores| format!("{cores:.3}")).collect::<Vec<_>>().join(", ")
    );
    let after = writes(&fleet, window).await?;
    println!("with agents:    {after}; p99 is {:.2} x", after.p99_us as f64 / before.p99_us.max(1) as f64);
    let resident_after = resident(&fleet)?;
    for (at, (now, then)) in resident_after.iter().zip(&resident_before).enumerate() {
        println!(
            "n{}: {:.1} MiB resident, {:.1} before the agents came: {:.0} bytes per member",
            at + 1,
            *now as f64 / 1024.0 / 1024.0,
            *then as f64 / 1024.0 / 1024.0,
            now.saturating_sub(*then) as f64 / args.members as f64
        );
    }
    pings(&fleet).await?;
    judgements(&client).await?;
    agents.ends.store(true, Ordering::Relaxed);
    fleet.stop().await;
    Ok(())
}

/// Latencies of writes.
struct Writes {
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    errors: u64,
}

impl std::fmt::Display for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |micros: u64| micros as f64 / 1e3;
        write!(
            f,
            "{:.0} writes/s of {WRITERS} clients, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms, {} failed",
            self.per_second,
            millis(self.p50_us),
            millis(self.p99_us),
            millis(self.max_us),
            self.errors
        )
    }
}

async fn writes(fleet: &Fleet, window: Duration) -> Result<Writes, BenchError> {
    let found = cluster::find(&fleet.client()?).await?;
    let plan = Plan {
        connections: 1,
        clients: WRITERS,
        work: Workload { value_bytes: 256, read_share: 0.0, batch: 1 },
        load: Load { warm_up: Duration::from_secs(1), window },
        targets: vec![found.leader],
        processes: fleet.nodes.iter().filter_map(|node| node.pid()).collect(),
        metrics: found.all,
        cluster: found.name,
    };
    let figures = on_one_thread(move || async move { measure_http(&plan).await }).await??;
    Ok(Writes {
        per_second: figures.puts_per_s,
        p50_us: figures.p50_us,
        p99_us: figures.p99_us,
        max_us: figures.max_us,
        errors: figures.errors,
    })
}

/// The agents of this process.
struct Agents {
    keys: HashMap<String, AgentKey>,
    answered: AtomicU64,
    ends: AtomicBool,
}

impl Agents {
    fn new(members: usize) -> Agents {
        let agent = |number: usize| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&(number as u64).to_be_bytes());
            (format!("worker-{number:06}"), AgentKey(key))
        };
        Agents {
            keys: (0..members).map(agent).collect(),
            answered: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        }
    }

    /// The answer to a datagram, if it is a ping of one of them, and whom it goes to.
    fn answer(&self, bytes: &[u8], from: SocketAddr) -> Option<(SocketAddr, Vec<u8>)> {
        let ping = Ping::decode(bytes)?;
        let key = self.keys.get(ping.member)?;
        let member = ping.member.parse().ok()?;
        let pong = Pong { seq: ping.seq, nonce: ping.nonce, version: Version::current(), member };
        Some((from, pong.encode(key)))
    }
}

/// Starts the threads that answer pings; gives their addresses back.
fn answer(agents: &Arc<Agents>) -> Result<Vec<String>, BenchError> {
    let mut addresses = Vec::new();
    for number in 0..SOCKETS {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        let socket = socket.map_err(system("open a socket"))?;
        // The system caps it at its own limit.
        let _smaller = socket.set_recv_buffer_size(16 << 20);
        let anywhere: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&anywhere.into()).map_err(system("bind a socket"))?;
        let socket: UdpSocket = socket.into();
        socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(system("set a timeout"))?;
        addresses.push(socket.local_addr().map_err(system("bind a socket"))?.to_string());
        let agents = Arc::clone(agents);
        let work = move || {
            let (mut inbox, mut answers) = (Inbox::default(), Vec::new());
            while !agents.ends.load(Ordering::Relaxed) {
                if inbox.receive(&socket).is_err() {
                    continue;
                }
                answers.extend(inbox.datagrams().filter_map(|(bytes, from)| agents.answer(bytes, from?)));
                let sent = batch::send(&socket, &answers, |_, _| {});
                agents.answered.fetch_add(sent as u64, Ordering::Relaxed);
                answers.clear();
            }
        };
        let thread = std::thread::Builder::new().name(format!("agents-{number}"));
        thread.spawn(work).map_err(system("start a thread"))?;
    }
    Ok(addresses)
}

/// Enrols all of them, many at a time.
async fn enrol(fleet: &Fleet, agents: &Arc<Agents>, sockets: &[String]) -> Result<(), BenchError> {
    let endpoints: Vec<String> = fleet.nodes.iter().map(|node| node.url.clone()).collect();
    let options = Options { endpoints, timeout: Duration::from_secs(30), ..Options::default() };
    let client = Arc::new(Client::new(options)?);
    let mut tasks = JoinSet::new();
    for (number, (id, key)) in agents.keys.iter().enumerate() {
        if tasks.len() >= ENROLMENTS {
            tasks.join_next().await.expect("many are under way").expect("no panic")?;
        }
        let key: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({ "id": id, "address": sockets[number % SOCKETS], "key": key,
            "version": Version::current().to_string() });
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let call = Call::new(reqwest::Method::POST, "/v1/members:enrol").body(&body);
            client.send(call).await.map(|_| ()).map_err(BenchError::from)
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic")?;
    }
    Ok(())
}

/// Waits until all members are seen to be up by the node that answers; says how many are when patience ends.
async fn all_up(client: &Client, members: usize) -> Result<u64, BenchError> {
    let deadline = Instant::now() + UP_PATIENCE;
    loop {
        let status: Value = client.send(Call::get("/v1/status")).await?.read()?;
        let up = status["members"]["up"].as_u64().unwrap_or(0);
        if up >= members as u64 || Instant::now() >= deadline {
            return Ok(up);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// CPU time of each super-node over a window, in cores.
async fn cores(fleet: &Fleet, window: Duration) -> Result<Vec<f64>, BenchError> {
    let pids: Vec<u32> = fleet.nodes.iter().filter_map(|node| node.pid()).collect();
    let mut begun = Vec::new();
    for pid in &pids {
        begun.push(Usage::sample(&[*pid], &[]).await?);
    }
    let since = Instant::now();
    tokio::time::sleep(window).await;
    let mut cores = Vec::new();
    for (pid, begun) in pids.iter().zip(&begun) {
        let spent = Usage::sample(&[*pid], &[]).await?.since(begun).servers.unwrap_or_default();
        cores.push(spent.as_secs_f64() / since.elapsed().as_secs_f64());
    }
    Ok(cores)
}

/// Resident memory of each super-node, bytes (`proc_pid_status(5)`).
fn resident(fleet: &Fleet) -> Result<Vec<u64>, BenchError> {
    let of = |pid: u32| {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).map_err(system(&path))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| BenchError::Node(format!("{path} has no VmRSS")))
    };
    fleet.nodes.iter().filter_map(|node| node.pid()).map(of).collect()
}

/// Prints how many pings each super-node saw answered, and how many not.
async fn pings(fleet: &Fleet) -> Result<(), BenchError> {
    for address in cluster::find(&fleet.client()?).await?.all {
        let answered = counter(&address, "super_node_pings_total{result=\"answered\"}").await?;
        let missed = counter(&address, "super_node_pings_total{result=\"missed\"}").await?;
        println!("{address}: {answered} pings answered, {missed} missed");
    }
    Ok(())
}

/// Milliseconds between two moments of a record.
fn span_ms(record: &Value, from: &str, to: &str) -> i64 {
    let at = |name: &str| record[name].as_i64().unwrap_or(0);
    at(to) - at(from)
}

/// Prints what became of the newest intervals.
async fn judgements(client: &Client) -> Result<(), BenchError> {
    let intervals: Vec<Value> = client.pages(Call::get("/v1/intervals"), None).await?;
    for interval in intervals.iter().rev().take(5).rev() {
        println!(
            "interval {}: {}, {} members, rewarded {}, penalised {}; settled {} ms after its end",
            interval["id"],
            interval["verdict"],
            interval["members"],
            interval["rewarded"],
            interval["penalised"],
            span_ms(interval, "cut_at", "settled_at")
        );
    }
    Ok(())
}
