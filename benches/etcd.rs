//! etcd and super-node side by side: three nodes of each on one machine and one disk, the same load, windows in turn.
//!
//! ```text
//! cargo bench --bench etcd -- --seconds 5 --rounds 3 --clients 1,64,256
//! ```
//!
//! etcd is spoken to over gRPC, as its own clients do it: HTTP/2 with requests multiplexed over up to 32
//! connections. Without an `etcd` on the PATH only super-node is measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::Parser;
use h2::client::SendRequest;
use super_node::bench::figures::Figures;
use super_node::bench::floor::Floor;
use super_node::bench::load::{Caller, Done, Load, closed_loop};
use super_node::bench::usage::Usage;
use super_node::bench::work::{Author, Operation, Workload};
use super_node::bench::{BenchError, Plan, cluster, measure_http, measure_native, on_one_thread};
use super_node::cli::output;
use super_node::local::{Fleet, free_address};

/// Connections that etcd's clients spread over.
const ETCD_CONNECTIONS_MAX: usize = 32;

/// etcd and super-node side by side.
#[derive(Debug, Parser)]
struct Args {
    /// Clients, one row each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256])]
    clients: Vec<usize>,
    /// Windows of each kind and row; medians are printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of a window.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Length of a value in bytes.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Where the data goes: the disk to be measured.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BenchError> {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system("start tokio"))?;
    runtime.block_on(compare(&args))
}

fn system(what: &str) -> impl Fn(std::io::Error) -> BenchError {
    let what = what.to_string();
    move |source| BenchError::System { what: what.clone(), source }
}

async fn compare(args: &Args) -> Result<(), BenchError> {
    let place = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("super-node-bench-").tempdir_in(place);
    let directory = directory.map_err(system("make a directory"))?;
    let floor = {
        let path = directory.path().to_path_buf();
        let measured = tokio::task::spawn_blocking(move || Floor::measure(&path)).await;
        measured
            .map_err(|_panicked| BenchError::Node("the floor".to_string()))?
            .map_err(system("sync files"))?
    };
    println!(
        "one sync, three files in parallel: {:.0} us; one round trip: {:.0} us",
        floor.sync_us, floor.round_trip_us
    );
    let etcd = Etcd::start(&directory.path().join("etcd")).await?;
    if etcd.is_none() {
        println!("no etcd on the PATH (Debian: apt-get install etcd-server): only super-node is measured");
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_super-node"));
    let mut fleet = cluster::start(program, 3, directory.path()).await?;
    let mut rows = Vec::new();
    for &clients in &args.clients {
        let mut measured: [Vec<Figures>; 3] = Default::default();
        for _ in 0..args.rounds {
            if let Some(etcd) = &etcd {
                measured[0].push(measure_etcd(etcd, args, clients).await?);
            }
            let plan = plan(&fleet, args, clients).await?;
            let twin = plan.clone();
            measured[1].push(on_one_thread(move || async move { measure_http(&plan).await }).await??);
            measured[2].push(on_one_thread(move || async move { measure_native(&twin).await }).await??);
        }
        let theirs = Row::of(&measured[0]);
        for figures in measured {
            rows.extend(Row::of(&figures).map(|row| row.cells(theirs.as_ref(), &floor)));
        }
    }
    let headers = [
        "WHAT",
        "CLIENTS",
        "PUTS/S",
        "x ETCD",
        "P50",
        "P99",
        "of ETCD'S",
        "CPU/PUT",
        "LOAD CPU",
        "SYNCS/PUT",
        "OF FLOOR",
        "ERRORS",
    ];
    println!("{}", output::table(&headers, &rows));
    fleet.stop().await;
    Ok(())
}

fn load(args: &Args) -> (Workload, Load) {
    let window = Duration::from_secs_f64(args.seconds);
    let work = Workload { value_bytes: args.size, read_share: 0.0, batch: 1 };
    (work, Load { warm_up: Duration::from_secs(1), window })
}

async fn plan(fleet: &Fleet, args: &Args, clients: usize) -> Result<Plan, BenchError> {
    let found = cluster::find(&fleet.client()?).await?;
    let (work, load) = load(args);
    Ok(Plan {
        connections: clients.div_ceil(64),
        clients,
        work,
        load,
        targets: vec![found.leader],
        processes: fleet.nodes.iter().filter_map(|node| node.pid()).collect(),
        metrics: found.all,
        cluster: found.name,
    })
}

/// Medians of the windows of one row.
struct Row {
    figures: Figures,
}

impl Row {
    fn of(figures: &[Figures]) -> Option<Row> {
        let median = |pick: fn(&Figures) -> f64| {
            let mut numbers: Vec<f64> = figures.iter().map(pick).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
        };
        let first = figures.first()?.clone();
        Some(Row {
            figures: Figures {
                puts_per_s: median(|one| one.puts_per_s),
                p50_us: median(|one| one.p50_us as f64) as u64,
                p99_us: median(|one| one.p99_us as f64) as u64,
                server_cpu_us_per_op: Some(median(|one| one.server_cpu_us_per_op.unwrap_or(0.0))),
                generator_cpu_us_per_op: median(|one| one.generator_cpu_us_per_op),
                syncs_per_op: first.syncs_per_op.map(|_| median(|one| one.syncs_per_op.unwrap_or(0.0))),
                errors: figures.iter().map(|one| one.errors).sum(),
                ..first
            },
        })
    }

    fn cells(&self, etcd: Option<&Row>, floor: &Floor) -> Vec<String> {
        let row = &self.figures;
        let ratio = |pick: fn(&Figures) -> f64| {
            etcd.map_or("-".to_string(), |etcd| format!("{:.2}", pick(row) / pick(&etcd.figures)))
        };
        let millis = |micros: u64| format!("{:.2} ms", micros as f64 / 1e3);
        let of_floor = row.p50_us as f64 / floor.write_us();
        vec![
            row.protocol.clone(),
            row.clients.to_string(),
            format!("{:.0}", row.puts_per_s),
            ratio(|one| one.puts_per_s),
            millis(row.p50_us),
            millis(row.p99_us),
            ratio(|one| one.p99_us as f64),
            row.server_cpu_us_per_op.map_or("-".to_string(), |cpu| format!("{cpu:.1} us")),
            format!("{:.1} us", row.generator_cpu_us_per_op),
            row.syncs_per_op.map_or("-".to_string(), |syncs| format!("{syncs:.3}")),
            if row.clients == 1 { format!("{of_floor:.2}") } else { "-".to_string() },
            row.errors.to_string(),
        ]
    }
}

/// Three etcd processes, gone when this is dropped.
struct Etcd {
    children: Vec<Child>,
    clients: Vec<String>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already is as dead as it should be.
            let _already_dead = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Etcd {
    /// `None`: there is no etcd here.
    async fn start(directory: &Path) -> Result<Option<Etcd>, BenchError> {
        let mut etcd = Etcd { children: Vec::new(), clients: Vec::new() };
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(free_address().map_err(system("find a port"))?);
            etcd.clients.push(free_address().map_err(system("find a port"))?);
        }
        let all: Vec<String> =
            peers.iter().enumerate().map(|(at, peer)| format!("e{at}=http://{peer}")).collect();
        for (at, (client, peer)) in etcd.clients.iter().zip(&peers).enumerate() {
            let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("e{at}"), "--data-dir"]).arg(directory.join(format!("e{at}")));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-token", "side-by-side"]);
            command.args(["--quota-backend-bytes", "8589934592", "--log-level", "error", "--logger", "zap"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            match command.spawn() {
                Ok(child) => etcd.children.push(child),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(system("start etcd")(error)),
            }
        }
        etcd.wait().await?;
        Ok(Some(etcd))
    }

    async fn wait(&self) -> Result<(), BenchError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Ok(leader) = self.leader().await
                && let Ok(mut grpc) = Grpc::connect(&leader).await
                && grpc.put(b"ready", b"yes").await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(BenchError::Node("etcd took no write within 30 s".to_string()))
    }

    /// The client address of the member that leads.
    async fn leader(&self) -> Result<String, BenchError> {
        for client in &self.clients {
            let Ok(mut grpc) = Grpc::connect(client).await else { continue };
            let Ok(status) = grpc.call("/etcdserverpb.Maintenance/Status", Bytes::new()).await else {
                continue;
            };
            // StatusResponse: 1 header { 2 member_id }, 4 leader.
            let header = field(&status, 1).and_then(Field::bytes).unwrap_or_default();
            let (own, leader) =
                (field(&header, 2).and_then(Field::number), field(&status, 4).and_then(Field::number));
            if own.is_some() && own == leader {
                return Ok(client.clone());
            }
        }
        Err(BenchError::Node("no etcd member leads".to_string()))
    }

    fn processes(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

/// gRPC over one HTTP/2 connection, as far as two calls need it. Clones share the connection.
#[derive(Clone)]
struct Grpc {
    requests: SendRequest<Bytes>,
    address: String,
}

impl Grpc {
    async fn connect(address: &str) -> Result<Grpc, String> {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (requests, connection) =
            h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // Its end shows in the requests.
            let _ended = connection.await;
        });
        Ok(Grpc { requests, address: address.to_string() })
    }

    /// `etcdserverpb.PutRequest`: 1 key, 2 value.
    async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        for (number, bytes) in [(1, key), (2, value)] {
            put_varint(&mut message, number << 3 | 2);
            put_varint(&mut message, bytes.len() as u64);
            message.put_slice(bytes);
        }
        self.call("/etcdserverpb.KV/Put", message.freeze()).await.map(|_| ())
    }

    async fn call(&mut self, path: &str, message: Bytes) -> Result<Bytes, String> {
        let text = |error: h2::Error| error.to_string();
        let request = http::Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).map_err(|error| error.to_string())?);
        body.put_slice(&message);
        let mut requests = self.requests.clone().ready().await.map_err(text)?;
        let (response, mut stream) = requests.send_request(request, false).map_err(text)?;
        stream.send_data(body.freeze(), true).map_err(text)?;
        let mut response = response.await.map_err(text)?.into_body();
        let mut answer = BytesMut::new();
        while let Some(part) = response.data().await {
            let part = part.map_err(text)?;
            response.flow_control().release_capacity(part.len()).map_err(text)?;
            answer.extend_from_slice(&part);
        }
        let trailers = response.trailers().await.map_err(text)?;
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        match status.map(http::HeaderValue::as_bytes) {
            Some(b"0") if answer.len() >= 5 => {
                answer.advance(5);
                Ok(answer.freeze())
            }
            other => Err(format!("grpc-status {other:?}")),
        }
    }
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn get_varint(bytes: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A field of a protobuf message.
enum Field {
    Number(u64),
    Bytes(Bytes),
}

impl Field {
    fn number(self) -> Option<u64> {
        match self {
            Field::Number(number) => Some(number),
            Field::Bytes(_) => None,
        }
    }

    fn bytes(self) -> Option<Bytes> {
        match self {
            Field::Bytes(bytes) => Some(bytes),
            Field::Number(_) => None,
        }
    }
}

/// The first field of this number; only the two kinds that are needed are understood.
fn field(message: &Bytes, wanted: u64) -> Option<Field> {
    let mut rest = message.clone();
    loop {
        let tag = get_varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Field::Number(get_varint(&mut rest)?),
            2 => {
                let length = usize::try_from(get_varint(&mut rest)?).ok()?;
                Field::Bytes(if length <= rest.len() { rest.split_to(length) } else { return None })
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(value);
        }
    }
}

/// One client of the closed loop.
struct EtcdClient {
    connection: Grpc,
    author: Author,
}

impl Caller for EtcdClient {
    async fn call(&mut self) -> Result<Done, String> {
        match self.author.draw() {
            Operation::Put { key, value } => {
                let value = value.trim_matches('"');
                self.connection.put(key.as_bytes(), value.as_bytes()).await.map(|()| Done::Wrote(1))
            }
            other => Err(format!("not measured here: {other:?}")),
        }
    }
}

async fn measure_etcd(etcd: &Etcd, args: &Args, clients: usize) -> Result<Figures, BenchError> {
    let leader = etcd.leader().await?;
    let processes = etcd.processes();
    let (work, load) = load(args);
    let measured = on_one_thread(move || async move {
        let mut connections = Vec::new();
        for _ in 0..clients.min(ETCD_CONNECTIONS_MAX) {
            connections.push(Grpc::connect(&leader).await.map_err(BenchError::Node)?);
        }
        let authors = Author::several(clients, work).into_iter().enumerate();
        let callers = authors.map(|(number, author)| EtcdClient {
            connection: connections[number % connections.len()].clone(),
            author,
        });
        let sample = async || Usage::sample(&processes, &[]).await;
        let (begun, tally, ended) = closed_loop(callers.collect(), load, sample).await;
        Ok::<_, BenchError>(Figures::new("etcd", clients, work, &tally, &ended?.since(&begun?)))
    });
    measured.await?
}
