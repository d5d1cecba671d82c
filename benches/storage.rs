//! What the storage costs, beside the raw limit of the same disk in the same run.
//!
//! ```sh
//! cargo bench --bench storage                       # everything; needs about 12 GB below the temporary directory
//! cargo bench --bench storage -- appends reopen     # some of it
//! cargo bench --bench storage -- --dir /mnt/data --history 10000,1000000 history
//! ```
//!
//! Each row says what was measured, what was asked for, and whether that was reached. `docs/performance.md` explains the
//! rows.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use super_node::codec;
use super_node::ledger::command::{Command, Envelope, Request};
use super_node::ledger::keys;
use super_node::local::free_address;
use super_node::node::applier::{APPLIED_KEY, Applier, Standing};
use super_node::node::ports::{LogStore as _, StateStore};
use super_node::raft::{Base, Configuration, Entry, HardState, Payload, Persist};
use super_node::storage::{Disk, Log, LogOptions, RealDisk, State, StateOptions};
use super_node::types::{Index, Term, UnixMillis};

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Time for one side of one comparison.
const ROUND: Duration = Duration::from_millis(1_500);
/// Comparisons of each kind; the median counts.
const ROUNDS: usize = 5;
/// Entries of the log that is opened again, and keys of the node whose memory is measured.
const MILLION: u64 = 1_000_000;
/// Writes for one measurement of throughput.
const WRITES: u64 = 320_000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What was asked for on the command line.
struct Wish {
    directory: PathBuf,
    parts: Vec<String>,
    history: Vec<u64>,
}

fn wish() -> Result<Wish> {
    let mut wish = Wish {
        directory: std::env::temp_dir(),
        parts: Vec::new(),
        history: vec![10_000, MILLION, 10 * MILLION],
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--dir" => wish.directory = PathBuf::from(value()?),
            "--history" => {
                wish.history = value()?.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?
            }
            part if ["appends", "reopen", "node", "history"].contains(&part) => wish.parts.push(word),
            other => return Err(format!("{other}: not one of appends, reopen, node, history").into()),
        }
    }
    Ok(wish)
}

fn main() -> Result<()> {
    let wish = wish()?;
    let wants = |part: &str| wish.parts.is_empty() || wish.parts.iter().any(|wanted| wanted == part);
    let directory = tempfile::Builder::new().prefix("storage-bench").tempdir_in(&wish.directory)?;
    println!("| measured | result | asked for | |\n|---|---|---|---|");
    if wants("appends") {
        for entries in [1, 8, 64, 512] {
            appends(directory.path(), entries)?;
        }
    }
    if wants("reopen") {
        reopen(directory.path())?;
    }
    if wants("node") {
        node(directory.path())?;
    }
    if wants("history") {
        history(directory.path(), &wish.history)?;
    }
    Ok(())
}

fn row(what: &str, result: &str, asked: &str, reached: Option<bool>) {
    let verdict = match reached {
        None => "",
        Some(true) => "PASS",
        Some(false) => "FAIL",
    };
    println!("| {what} | {result} | {asked} | {verdict} |");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes that no file system can shrink.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

/// The disk of the log, counting.
struct Counting {
    disk: RealDisk,
    syncs: Arc<AtomicU64>,
}

impl Disk for Counting {
    fn locate(&self, name: &str) -> String {
        self.disk.locate(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.disk.read(name)
    }
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.disk.create(name)
    }
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(name, offset, bytes)
    }
    fn fill(&mut self, name: &str, offset: u64, bytes: u64) -> io::Result<()> {
        self.disk.fill(name, offset, bytes)
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync(name)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn room(&self) -> Option<u64> {
        self.disk.room()
    }
    fn sync_directory(&mut self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

/// So many entries after `last`.
fn entries(last: u64, count: usize, payload: &Bytes) -> Vec<Entry> {
    let entry =
        |index| Entry { term: Term(1), index: Index(index), payload: Payload::Command(payload.clone()) };
    (last + 1..).take(count).map(entry).collect()
}

/// Synced writes of `bytes` bytes per second, one after the other, into a file that was filled with zeros before: what the
/// disk allows.
fn raw(directory: &Path, bytes: usize) -> Result<f64> {
    const FILE_BYTES: usize = 256 << 20;
    let path = directory.join("raw");
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    for at in (0..FILE_BYTES as u64).step_by(4 << 10) {
        file.write_all_at(&[0; 4 << 10], at)?;
    }
    file.sync_all()?;
    let block = noise(7, bytes);
    let (begun, mut at, mut writes) = (Instant::now(), 0_u64, 0_u32);
    while begun.elapsed() < ROUND && (at as usize) + bytes <= FILE_BYTES {
        file.write_all_at(&block, at)?;
        file.sync_data()?;
        at += bytes as u64;
        writes += 1;
    }
    let rate = f64::from(writes) / begun.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(rate)
}

/// Appends per second to the log, and syncs per append.
fn logged(directory: &Path, count: usize) -> Result<(f64, f64)> {
    let path = directory.join("log");
    fs::create_dir(&path)?;
    let syncs = Arc::new(AtomicU64::new(0));
    let disk = Counting { disk: RealDisk::open(&path)?, syncs: Arc::clone(&syncs) };
    let mut log = Log::open(disk, LogOptions::default())?.log;
    log.append(&[persist(1, Some(Term(1)), Vec::new())])?;
    let payload = Bytes::from(noise(9, VALUE_BYTES));
    syncs.store(0, Ordering::Relaxed);
    let (begun, mut last, mut appends) = (Instant::now(), 0, 0_u32);
    while begun.elapsed() < ROUND {
        log.append(&[persist(2 + u64::from(appends), None, entries(last, count, &payload))])?;
        last += count as u64;
        appends += 1;
    }
    let rate = f64::from(appends) / begun.elapsed().as_secs_f64();
    drop(log);
    fs::remove_dir_all(&path)?;
    Ok((rate, syncs.load(Ordering::Relaxed) as f64 / f64::from(appends)))
}

fn persist(seq: u64, term: Option<Term>, entries: Vec<Entry>) -> Persist {
    Persist { seq, hard_state: term.map(|term| HardState { term, vote: None }), base: None, entries }
}

fn appends(directory: &Path, count: usize) -> Result<()> {
    let (mut raws, mut logs, mut syncs) = (Vec::new(), Vec::new(), 0.0);
    // What a record holds besides the values is the log's cost, not the disk's: the raw write is of the values alone.
    for _ in 0..ROUNDS {
        raws.push(raw(directory, count * VALUE_BYTES)?);
        let (rate, per_append) = logged(directory, count)?;
        logs.push(rate);
        syncs = per_append;
    }
    let (raw, log) = (median(raws), median(logs));
    let result = format!(
        "{log:.0}/s ({:.0} us), raw {raw:.0}/s ({:.0} us), {syncs:.2} syncs each: {:.0} %",
        1e6 / log,
        1e6 / raw,
        100.0 * log / raw
    );
    let goal = count == 64;
    row(
        &format!("synced appends of {count} entries of {VALUE_BYTES} B"),
        &result,
        if goal { "85 %" } else { "" },
        goal.then_some(log >= 0.85 * raw),
    );
    Ok(())
}

fn reopen(directory: &Path) -> Result<()> {
    let path = directory.join("reopen");
    fs::create_dir(&path)?;
    let mut log = Log::open(RealDisk::open(&path)?, LogOptions::default())?.log;
    log.append(&[persist(1, Some(Term(1)), Vec::new())])?;
    let payload = Bytes::from(noise(9, VALUE_BYTES));
    for batch in 0..MILLION / 1_000 {
        log.append(&[persist(2 + batch, None, entries(batch * 1_000, 1_000, &payload))])?;
    }
    drop(log);
    let mut times = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let opened = Log::open(RealDisk::open(&path)?, LogOptions::default())?;
        times.push(begun.elapsed().as_secs_f64());
        assert_eq!(opened.recovered.entries.len() as u64, MILLION, "it holds what was written");
    }
    fs::remove_dir_all(&path)?;
    let time = median(times);
    row("opening a log of 1 000 000 entries", &format!("{time:.2} s"), "1 s", Some(time < 1.0));
    Ok(())
}

/// A one-node cluster as a process of its own; ends with this value.
struct Node {
    child: Child,
    url: String,
    directory: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Node {
    fn start(directory: &Path) -> Result<Node> {
        let (client, peer, agents) = (free_address()?, free_address()?, free_address()?);
        let data = directory.join("node");
        let log = File::create(directory.join("node.log"))?;
        let child = Process::new(env!("CARGO_BIN_EXE_super-node"))
            .args(["start", "--id", "n1", "--listen", &client, "--peer-listen", &peer])
            .args(["--agents-listen", &agents, "--data-dir"])
            .arg(&data)
            .env_remove("MONGODB_URI")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Node { child, url: format!("http://{client}"), directory: data })
    }

    /// A line of a file of the process below `/proc`, in its own unit.
    fn proc(&self, file: &str, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        Ok(number.ok_or(format!("no {name} in {file}"))?.parse()?)
    }

    fn resident_mib(&self) -> Result<f64> {
        Ok(self.proc("status", "VmRSS:")? as f64 / 1_024.0)
    }
}

fn bytes_below(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes +=
            if entry.file_type()?.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// Memory, idle and with a million keys, and what a write costs on disk over all files.
fn node(directory: &Path) -> Result<()> {
    let node = Node::start(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let http = super_node::network::tls::http(None)?.no_proxy().build()?;
    runtime.block_on(async {
        let begun = Instant::now();
        while http.get(format!("{}/readyz", node.url)).send().await.map_or(true, |ready| !ready.status().is_success()) {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err::<(), Box<dyn std::error::Error>>("the node does not become ready".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let idle = node.resident_mib()?;
        row("memory of an idle node", &format!("{idle:.1} MiB"), "40 MiB", Some(idle < 40.0));
        // JSON text of exactly that many bytes.
        let value = "x".repeat(VALUE_BYTES - 2);
        let (written, begun) = (node.proc("io", "write_bytes:")?, Instant::now());
        for batch in 0..MILLION / 1_000 {
            let put = |number: u64| {
                serde_json::json!({ "op": "put", "key": format!("key{number:08}"), "value": value })
            };
            let operations: Vec<_> = (batch * 1_000..(batch + 1) * 1_000).map(put).collect();
            let body = serde_json::json!({ "operations": operations });
            let answer = http.post(format!("{}/v1/kv:batch", node.url)).json(&body).send().await?;
            if !answer.status().is_success() {
                return Err(format!("a batch was refused: {}", answer.text().await?).into());
            }
        }
        let rate = MILLION as f64 / begun.elapsed().as_secs_f64();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let values = (MILLION as usize * VALUE_BYTES) as f64;
        let full = node.resident_mib()?;
        row("memory at 1 000 000 keys of 256 B", &format!("{full:.0} MiB (filled at {rate:.0} keys/s)"), "", None);
        let (moved, kept) = (node.proc("io", "write_bytes:")? - written, bytes_below(&node.directory)?);
        let (moved, kept) = (moved as f64 / values, kept as f64 / values);
        row("bytes written per byte of value, all files", &format!("{moved:.2} x"), "2.5 x", Some(moved < 2.5));
        row("bytes kept on disk per byte of value, all files", &format!("{kept:.2} x"), "2.5 x", Some(kept < 2.5));
        Ok(())
    })
}

/// Writes per second through log and state, over a state that holds so many records of history.
fn history(directory: &Path, sizes: &[u64]) -> Result<()> {
    let mut rates = BTreeMap::new();
    for &records in sizes {
        let path = directory.join("history");
        fs::create_dir(&path)?;
        let state = Arc::new(State::open(&path.join("state.redb"), &StateOptions::default())?);
        let begun = Instant::now();
        state.replace(&mut history_rows(records).map(Ok))?;
        let filled = begun.elapsed();
        let rate = throughput(&path, &state)?;
        rates.insert(records, rate);
        let size = state.bytes() as f64 / f64::from(1 << 20);
        let what = format!("writes with {records} records of history");
        row(
            &what,
            &format!("{rate:.0}/s (state of {size:.0} MiB, filled in {:.0} s)", filled.as_secs_f64()),
            "",
            None,
        );
        drop(state);
        fs::remove_dir_all(&path)?;
    }
    let (slowest, fastest) = rates
        .values()
        .fold((f64::MAX, 0.0_f64), |(slowest, fastest), rate| (slowest.min(*rate), fastest.max(*rate)));
    let apart = 100.0 * (1.0 - slowest / fastest);
    row("throughput over all sizes of history", &format!("{apart:.0} % apart"), "20 %", Some(apart <= 20.0));
    Ok(())
}

/// Rows of the size of a movement, and the standing of a node that applied one entry for each, in order.
fn history_rows(records: u64) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let standing = Standing {
        applied: Base { index: Index(records), term: Term(1) },
        configuration: Some(Configuration::default()),
    };
    let movement = |seq| (keys::numbered(keys::MOVEMENT_TABLE, seq), noise(seq, 180));
    std::iter::once((APPLIED_KEY.to_vec(), codec::encode(&standing))).chain((1..=records).map(movement))
}

/// The path of a write in a node: the log on one thread, the state on another, flushed once a second on a third.
fn throughput(path: &Path, state: &Arc<State>) -> Result<f64> {
    let logs = path.join("log");
    fs::create_dir(&logs)?;
    let mut log = Log::open(RealDisk::open(&logs)?, LogOptions::default())?.log;
    let mut applier = Applier::new(Arc::clone(state) as Arc<dyn StateStore>)?;
    let base = applier.standing().applied;
    log.append(&[Persist { base: Some(base), ..persist(1, Some(Term(1)), Vec::new()) }])?;
    let (durable, applied) = std::sync::mpsc::sync_channel::<Vec<Entry>>(64);
    let value = serde_json::to_string(&"x".repeat(VALUE_BYTES - 2))?;
    let leader = "n1".parse().map_err(|_| "a valid name")?;
    let envelope = |number: u64| {
        let key = format!("key{:07}", number % MILLION);
        let command = Command::KvPut { key, value: value.clone(), if_revision: None };
        let (at, term) = (UnixMillis(1), Term(1));
        codec::encode(&Envelope {
            at,
            term,
            leader: std::clone::Clone::clone(&leader),
            request: Request::new(command),
        })
    };
    let done = Arc::new(AtomicU64::new(0));
    let flusher = {
        let (state, done) = (Arc::clone(state), Arc::clone(&done));
        std::thread::spawn(move || -> std::result::Result<(), String> {
            while done.load(Ordering::Acquire) == 0 {
                std::thread::sleep(Duration::from_secs(1));
                state.flush().map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    };
    let applying = std::thread::spawn(move || -> std::result::Result<(), String> {
        while let Ok(entries) = applied.recv() {
            applier.apply(&entries).map_err(|error| error.to_string())?;
        }
        applier.flush().map(|_| ()).map_err(|error| error.to_string())
    });
    let begun = Instant::now();
    for batch in 0..WRITES / 64 {
        let entry = |number: u64| Entry {
            term: Term(1),
            index: Index(base.index.0 + number + 1),
            payload: Payload::Command(envelope(number).into()),
        };
        let entries: Vec<Entry> = (batch * 64..(batch + 1) * 64).map(entry).collect();
        log.append(&[persist(2 + batch, None, entries.clone())])?;
        durable.send(entries)?;
    }
    drop(durable);
    applying.join().map_err(|_| "the applier panicked")??;
    let rate = WRITES as f64 / begun.elapsed().as_secs_f64();
    done.store(1, Ordering::Release);
    flusher.join().map_err(|_| "the flusher panicked")??;
    Ok(rate)
}
