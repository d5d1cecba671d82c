//! `bench`: closed-loop load against a running cluster, or against one of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::progress::Moving;
use super::signals::{self, ParentArgs};
use super::{CliError, Environment, Format, Global, Output};
use crate::bench::cluster::{self, Cluster};
use crate::bench::failover::{self, Blow, FailoverPlan};
use crate::bench::figures::{Expectation, Figures};
use crate::bench::floor::Floor;
use crate::bench::load::Load;
use crate::bench::work::Workload;
use crate::bench::{self, BenchError, Plan, on_one_thread};
use crate::config::value::parse_duration;
use crate::local::{Fleet, free_address};

/// How a client speaks to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on each connection.
    Http,
    /// The framed protocol, many requests at a time on each connection.
    Native,
}

/// Which nodes the clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The leader only.
    Leader,
    /// All nodes, in turn.
    All,
}

/// `bench`
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Clients, each with one operation under way; several numbers give several rows
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [64])]
    pub clients: Vec<u16>,
    /// Length of each row's window
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = positive)]
    pub seconds: f64,
    /// Time before each window
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub warm_up: String,
    /// Length of a value in bytes: a JSON string of so many characters
    #[arg(long, value_name = "B", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub size: u32,
    /// Share of operations that are linearizable reads, from 0 to 1
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = share)]
    pub mix: f64,
    /// Entries in one write, all or nothing
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: u16,
    /// What the clients speak
    #[arg(long, value_enum, default_value_t = Protocol::Http)]
    pub protocol: Protocol,
    /// Framed connections that the clients share [default: one for every 64 clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub connections: Option<u16>,
    /// Whom the clients connect to
    #[arg(long, value_enum, default_value_t = Target::Leader)]
    pub target: Target,
    /// Start so many super-nodes on this machine and measure them, instead of --endpoints
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub local: Option<u8>,
    /// Where the data of --local goes: the disk to be measured [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", requires = "local")]
    pub dir: Option<PathBuf>,
    /// Kill the leader of --local with -9 so often under load, and measure the time to the next acknowledged write
    #[arg(long, value_name = "N", requires = "local", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub kills: Option<u16>,
    /// Freeze the leader of --local so often under load, likewise
    #[arg(long, value_name = "N", requires = "local", conflicts_with = "kills",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub freezes: Option<u16>,
    /// Threads that burn CPU time beside --kills or --freezes
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=64))]
    pub burn: u8,
    /// Bounds such as "puts>=20000,p99<=10ms": PASS or FAIL for each row, exit 1 if any fails
    #[arg(long, value_name = "BOUND,…")]
    pub expect: Option<String>,
    /// Do not measure the bare HTTP server beside it
    #[arg(long)]
    pub no_bare: bool,
    /// For the child that is measured as the bare server
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub serve_bare: Option<SocketAddr>,
    /// For that child.
    #[command(flatten)]
    pub parent: ParentArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 86_400.0 => Ok(number),
        _ => Err("must be more than 0 and at most 86400".to_string()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("must be from 0 to 1".to_string()),
    }
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        CliError::failed(error.to_string())
    }
}

/// A cluster of this command's own. The fleet goes before its directory.
struct Own {
    fleet: Fleet,
    directory: TempDir,
}

/// Runs it.
pub async fn run(
    args: BenchArgs,
    global: &Global,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    if let Some(address) = args.serve_bare {
        let stop = signals::stop(&args.parent)?;
        let listener = tokio::net::TcpListener::bind(address).await?;
        return Ok(bench::bare::serve(listener, stop.token.clone()).await?);
    }
    let expectations = args.expect.as_deref().map(Expectation::parse_all).transpose();
    let expectations = expectations
        .map_err(|why| CliError::usage(format!("--expect: {why}"), "such as puts>=20000,p99<=10ms"))?
        .unwrap_or_default();
    let (own, client) = match args.local {
        Some(nodes) => {
            let own = start_own(&args, usize::from(nodes)).await?;
            let client = own.fleet.client()?;
            (Some(own), client)
        }
        None => (None, global.client(environment)?),
    };
    if client.endpoints().iter().any(|endpoint| endpoint.starts_with("https://")) {
        return Err(CliError::usage(
            "bench does not speak TLS",
            "measure with --local 3 what the machine can do",
        ));
    }
    let blow = match (args.kills, args.freezes) {
        (Some(kills), _) => Some((Blow::Kill, kills)),
        (None, Some(freezes)) => Some((Blow::Freeze, freezes)),
        (None, None) => None,
    };
    let own = match (blow, own) {
        (Some((blow, losses)), Some(own)) => {
            return lose_leaders(&args, (blow, losses), own, &expectations, output).await;
        }
        (_, own) => own,
    };
    let mut rows = Vec::new();
    for &clients in &args.clients {
        let cluster = cluster::find(&client).await?;
        let plan = plan(&args, usize::from(clients), &cluster, own.as_ref())?;
        let bare = match (args.no_bare, args.batch, args.protocol) {
            (false, 1, Protocol::Http) => Some(measure_bare(&plan).await?),
            _ => None,
        };
        // The floor says something about one write at a time, on a disk that is known.
        let floor = match &own {
            Some(own) if clients == 1 && args.mix == 0.0 => Some(measure_floor(own).await?),
            _ => None,
        };
        let mut figures = measure(&args, plan).await?;
        figures.of_floor = floor.map(|floor| figures.p50_us as f64 / floor.write_us());
        figures.of_bare = bare.as_ref().map(|bare| figures.ops_per_s / bare.ops_per_s);
        rows.extend(bare);
        rows.push(figures);
    }
    if let Some(mut own) = own {
        own.fleet.stop().await;
    }
    report(&rows, &expectations, output)
}

async fn start_own(args: &BenchArgs, nodes: usize) -> Result<Own, CliError> {
    let place = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory =
        tempfile::Builder::new().prefix("super-node-bench-").tempdir_in(&place).map_err(|error| {
            CliError::usage(
                format!("--dir {}: {error}", place.display()),
                "name a directory that can be written",
            )
        })?;
    let fleet = cluster::start(std::env::current_exe()?, nodes, directory.path()).await?;
    Ok(Own { fleet, directory })
}

fn plan(args: &BenchArgs, clients: usize, cluster: &Cluster, own: Option<&Own>) -> Result<Plan, CliError> {
    let warm_up = parse_duration(&args.warm_up).map_err(|problem| {
        CliError::usage(format!("--warm-up: \"{}\" {}", args.warm_up, problem.what), problem.hint)
    })?;
    let nodes = own.iter().flat_map(|own| own.fleet.nodes.iter());
    Ok(Plan {
        cluster: cluster.name.clone(),
        connections: args.connections.map_or_else(|| clients.div_ceil(64), usize::from),
        clients: clients.max(1),
        work: Workload {
            value_bytes: usize::try_from(args.size).unwrap_or(usize::MAX),
            read_share: args.mix,
            batch: usize::from(args.batch),
        },
        load: Load { warm_up, window: Duration::from_secs_f64(args.seconds) },
        targets: match args.target {
            Target::Leader => vec![cluster.leader.clone()],
            Target::All => cluster.all.clone(),
        },
        processes: nodes.filter_map(|node| node.pid()).collect(),
        metrics: cluster.all.clone(),
    })
}

async fn measure(args: &BenchArgs, plan: Plan) -> Result<Figures, CliError> {
    let _moving = Moving::over("measuring", plan.load.warm_up + plan.load.window);
    let figures = match args.protocol {
        Protocol::Http => on_one_thread(move || async move { bench::measure_http(&plan).await }).await,
        Protocol::Native => on_one_thread(move || async move { bench::measure_native(&plan).await }).await,
    };
    Ok(figures??)
}

async fn measure_floor(own: &Own) -> Result<Floor, CliError> {
    let directory = own.directory.path().to_path_buf();
    let measured = tokio::task::spawn_blocking(move || Floor::measure(&directory)).await;
    let measured = measured.map_err(|_panicked| CliError::failed("measuring the floor panicked"))?;
    measured.map_err(|error| CliError::failed(format!("cannot measure the disk: {error}")))
}

/// Measures the bare server under the same load.
async fn measure_bare(plan: &Plan) -> Result<Figures, CliError> {
    let (address, child) = start_bare().await?;
    let work = Workload { read_share: 0.0, ..plan.work };
    let plan = Plan {
        work,
        targets: vec![address],
        processes: child.id().into_iter().collect(),
        metrics: Vec::new(),
        ..plan.clone()
    };
    let moving = Moving::over("measuring a bare server", plan.load.warm_up + plan.load.window);
    let measured = on_one_thread(move || async move { bench::measure_http(&plan).await }).await;
    drop((child, moving));
    Ok(Figures { protocol: "bare".to_string(), ..measured?? })
}

async fn start_bare() -> Result<(String, Child), CliError> {
    let address = free_address()?;
    let child = Command::new(std::env::current_exe()?)
        .args(["bench", "--serve-bare", &address, "--exit-with-parent"])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(&address).await.is_ok() {
            return Ok((address, child));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(CliError::failed("the bare server did not start within 5 s"))
}

/// The other mode: how long writes wait when the leader is lost.
async fn lose_leaders(
    args: &BenchArgs,
    (blow, losses): (Blow, u16),
    mut own: Own,
    expectations: &[Expectation],
    output: &mut Output,
) -> Result<(), CliError> {
    let plan = FailoverPlan {
        writers: usize::from(args.clients.first().copied().unwrap_or(64)),
        losses: usize::from(losses),
        blow,
        value_bytes: usize::try_from(args.size).unwrap_or(usize::MAX),
        burners: usize::from(args.burn),
    };
    let measured = failover::measure(&mut own.fleet, plan).await;
    own.fleet.stop().await;
    let mut row = serde_json::to_value(measured?).unwrap_or(Value::Null);
    let (all_hold, verdicts) = judge(&mut row, expectations);
    output.record(&row)?;
    if output.format() != Format::Json {
        verdicts.iter().try_for_each(|line| output.line(line))?;
    }
    if all_hold { Ok(()) } else { Err(CliError::Checks) }
}

/// Whether a row keeps all bounds, and the verdicts in words; they are added to the row too.
fn judge(row: &mut Value, expectations: &[Expectation]) -> (bool, Vec<String>) {
    let judged: Vec<(bool, String)> = expectations.iter().map(|one| one.judge(row)).collect();
    if !expectations.is_empty() {
        let bounds = expectations.iter().zip(&judged);
        row["expect"] = bounds.map(|(one, (holds, _))| json!({"bound": one.text, "ok": holds})).collect();
    }
    (judged.iter().all(|(holds, _)| *holds), judged.into_iter().map(|(_, words)| words).collect())
}

fn report(rows: &[Figures], expectations: &[Expectation], output: &mut Output) -> Result<(), CliError> {
    let mut items: Vec<Value> =
        rows.iter().map(|row| serde_json::to_value(row).unwrap_or(Value::Null)).collect();
    let mut all_hold = true;
    let mut verdicts = Vec::new();
    for item in items.iter_mut().filter(|item| item["protocol"] != "bare") {
        let (hold, words) = judge(item, expectations);
        all_hold &= hold;
        verdicts.extend(words.into_iter().map(|words| format!("{words}  at {} clients", item["clients"])));
    }
    let headers = [
        "PROTOCOL",
        "CLIENTS",
        "OPS/S",
        "PUTS/S",
        "P50",
        "P99",
        "P999",
        "CPU/OP",
        "LOAD CPU",
        "SYNCS/OP",
        "DISK B/OP",
        "ERRORS",
        "OF BARE",
        "OF FLOOR",
    ];
    let table: Vec<Vec<String>> = rows.iter().map(cells).collect();
    output.list(&headers, &table, &items)?;
    if output.format() != Format::Json {
        verdicts.iter().try_for_each(|line| output.line(line))?;
    }
    for row in rows.iter().filter(|row| row.errors > 0) {
        for (why, count) in &row.causes {
            eprintln!("{} of {} clients: {count} x {why}", row.protocol, row.clients);
        }
    }
    if all_hold { Ok(()) } else { Err(CliError::Checks) }
}

fn cells(row: &Figures) -> Vec<String> {
    let maybe = |number: Option<f64>, digits: usize| {
        number.map_or("-".to_string(), |number| format!("{number:.digits$}"))
    };
    let millis = |micros: u64| format!("{:.2} ms", micros as f64 / 1e3);
    vec![
        row.protocol.clone(),
        row.clients.to_string(),
        format!("{:.0}", row.ops_per_s),
        format!("{:.0}", row.puts_per_s),
        millis(row.p50_us),
        millis(row.p99_us),
        millis(row.p999_us),
        maybe(row.server_cpu_us_per_op, 1) + " us",
        format!("{:.1} us", row.generator_cpu_us_per_op),
        maybe(row.syncs_per_op, 3),
        maybe(row.disk_bytes_per_op, 0),
        row.errors.to_string(),
        maybe(row.of_bare, 2),
        maybe(row.of_floor, 2),
    ]
}
