//! Real super-node processes on free loopback ports, for tests. Everything is killed and removed on drop; if the test
//! itself is killed, the kernel kills its nodes.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_super-node");

/// Patience for anything that should happen soon; a busy machine needs it, a healthy cluster does not.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that were given away: the system may offer one again before it is listened on.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A TCP and UDP port that was free a moment ago, and that no other caller in this process was given.
pub fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = tcp.local_addr().expect("an address").port();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}

/// Where a node runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address of all its listeners.
    pub host: String,
    /// The network namespace of its process; `None`: that of the test.
    pub namespace: Option<String>,
}

impl Place {
    pub fn loopback() -> Place {
        Place { host: "127.0.0.1".to_string(), namespace: None }
    }

    /// A command that runs the binary here, and that the kernel kills when the test's thread ends, however it ends:
    /// a process that survives its test would disturb the next one. Asking the kernel from inside a child takes
    /// `unsafe`, so a small program of util-linux asks; where it is missing, only `Drop` kills.
    fn command(&self) -> Command {
        let mut words: Vec<&str> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace]);
        }
        if on_path("setpriv") {
            words.extend(["setpriv", "--pdeathsig", "KILL"]);
        }
        words.push(BINARY);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }
}

/// Whether a program can be called by its name.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// One node of a cluster under test.
pub struct Node {
    pub id: String,
    pub place: Place,
    pub client_port: u16,
    pub peer_port: u16,
    pub agent_port: u16,
    pub directory: PathBuf,
    /// The client URL of a running cluster that it joins; `None`: it is one of the first.
    pub join: Option<String>,
    /// Whose place it takes when it joins.
    pub replaces: Option<String>,
    child: Option<Child>,
}

impl Node {
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.place.host, self.client_port)
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }
}

/// How a cluster is set up.
#[derive(Clone)]
pub struct Setup {
    pub nodes: usize,
    /// Environment on top of fast intervals: `("SUPER_NODE_RAFT__ELECTION", "1s..2s")`.
    pub environment: Vec<(String, String)>,
    /// Where the nodes run; those beyond the list run on loopback.
    pub places: Vec<Place>,
    /// Where the data directories are made; `None`: where temporary files are.
    pub root: Option<PathBuf>,
}

impl Setup {
    pub fn nodes(nodes: usize) -> Setup {
        let mut setup = Setup { nodes, environment: Vec::new(), places: Vec::new(), root: None };
        setup.set("SUPER_NODE_LEDGER__INTERVAL", "2s");
        setup.set("SUPER_NODE_LEDGER__PING", "150ms");
        setup.set("SUPER_NODE_LEDGER__PING_TIMEOUT", "100ms");
        setup
    }

    pub fn set(&mut self, name: &str, value: &str) -> &mut Setup {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Setup {
        self.set(name, value);
        self
    }
}

/// Real processes; see the module's head.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub http: reqwest::Client,
    pub directory: tempfile::TempDir,
    setup: Setup,
    agents: Vec<(String, Child)>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (id, _) in &self.agents {
                let log = std::fs::read_to_string(self.directory.path().join(format!("{id}.log")))
                    .unwrap_or_default();
                eprintln!("--- {id}\n{log}");
            }
            for node in &self.nodes {
                let log = std::fs::read_to_string(node.directory.with_extension("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(25).collect();
                eprintln!("--- {} (last lines first)\n{}", node.id, tail.join("\n"));
            }
        }
        let agents = self.agents.drain(..).map(|(_, child)| child);
        for mut child in self.nodes.iter_mut().filter_map(|node| node.child.take()).chain(agents) {
            let _already_dead = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Cluster {
    /// Starts the processes; does not wait for a leader.
    pub fn start(setup: &Setup) -> Cluster {
        let directory = match &setup.root {
            Some(root) => tempfile::tempdir_in(root),
            None => tempfile::tempdir(),
        };
        let directory = directory.expect("a temporary directory");
        let nodes = (1..=setup.nodes)
            .map(|number| Node {
                id: format!("n{number}"),
                place: setup.places.get(number - 1).cloned().unwrap_or_else(Place::loopback),
                client_port: free_port(),
                peer_port: free_port(),
                agent_port: free_port(),
                directory: directory.path().join(format!("n{number}")),
                join: None,
                replaces: None,
                child: None,
            })
            .collect();
        let http = super_node::network::tls::http(None)
            .expect("public authorities")
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .expect("an HTTP client");
        let mut cluster = Cluster { nodes, http, directory, setup: setup.clone(), agents: Vec::new() };
        for at in 0..setup.nodes {
            cluster.start_node(at);
        }
        cluster
    }

    pub fn peers(&self) -> String {
        let first = self.nodes.iter().filter(|node| node.join.is_none());
        let peers = first.map(|node| format!("{}={}:{}", node.id, node.place.host, node.peer_port));
        peers.collect::<Vec<_>>().join(",")
    }

    /// The command that starts a node, with its output not yet directed anywhere.
    pub fn command(&self, at: usize) -> Command {
        let node = &self.nodes[at];
        let host = &node.place.host;
        let mut command = node.place.command();
        command
            .args(["start", "--id", &node.id])
            .args(["--data-dir", node.directory.to_str().expect("a printable path")])
            .args(["--listen", &format!("{host}:{}", node.client_port)])
            .args(["--peer-listen", &format!("{host}:{}", node.peer_port)])
            .env("SUPER_NODE_LISTEN__AGENTS", format!("{host}:{}", node.agent_port))
            .env("SUPER_NODE_LOG__LEVEL", "debug")
            .env_remove("MONGODB_URI")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        match &node.join {
            Some(url) => command.args(["--join", url]),
            None => command.args(["--peers", &self.peers()]),
        };
        if let Some(leaver) = &node.replaces {
            command.args(["--replaces", leaver]);
        }
        for (name, value) in &self.setup.environment {
            command.env(name, value);
        }
        command
    }

    /// Changes a variable for the nodes that are started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.setup.set(name, value);
    }

    /// What the leader says of itself, if one can be asked.
    pub async fn leader_status(&self) -> Option<Value> {
        for at in (0..self.nodes.len()).filter(|at| self.nodes[*at].is_running()) {
            match self.try_get(at, "/v1/status").await {
                Some(status) if status["role"] == "leader" => return Some(status),
                _ => {}
            }
        }
        None
    }

    /// Starts one more node, which joins through another one; returns its position.
    pub fn join_node(&mut self, id: &str, through: usize) -> usize {
        let at = self.add_node(id, through);
        self.start_node(at);
        at
    }

    /// One more node, which joins through another one once it is started; returns its position.
    pub fn add_node(&mut self, id: &str, through: usize) -> usize {
        self.nodes.push(Node {
            id: id.to_string(),
            place: self.setup.places.get(self.nodes.len()).cloned().unwrap_or_else(Place::loopback),
            client_port: free_port(),
            peer_port: free_port(),
            agent_port: free_port(),
            directory: self.directory.path().join(id),
            join: Some(self.nodes[through].url()),
            replaces: None,
            child: None,
        });
        self.nodes.len() - 1
    }

    pub fn start_node(&mut self, at: usize) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.nodes[at].directory.with_extension("log"))
            .expect("a log file");
        let mut command = self.command(at);
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.nodes[at].child = Some(command.spawn().expect("super-node starts"));
    }

    /// kill -9.
    pub fn kill(&mut self, at: usize) {
        self.kill_all(&[at]);
    }

    /// kill -9 of several, before any of them is reaped.
    pub fn kill_all(&mut self, all: &[usize]) {
        let mut dying: Vec<Child> =
            all.iter().map(|at| self.nodes[*at].child.take().expect("the node runs")).collect();
        for child in &mut dying {
            child.kill().expect("it can be killed");
        }
        for child in &mut dying {
            child.wait().expect("it can be reaped");
        }
    }

    /// A signal by name: `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, at: usize, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.nodes[at].pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{signal}");
    }

    /// Waits for a node to end by itself and returns its exit code.
    pub fn wait_exit(&mut self, at: usize) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let child = self.nodes[at].child.as_mut().expect("the node runs");
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                self.nodes[at].child = None;
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} did not end by itself", self.nodes[at].id);
    }

    pub fn log_of(&self, at: usize) -> String {
        std::fs::read_to_string(self.nodes[at].directory.with_extension("log")).unwrap_or_default()
    }

    pub fn start_agent(&mut self, id: &str) {
        let urls = self.nodes.iter().map(Node::url).collect::<Vec<_>>().join(",");
        let log = std::fs::File::create(self.directory.path().join(format!("{id}.log"))).expect("a log file");
        let child = Place::loopback()
            .command()
            .args(["agent", "--id", id, "--join", &urls, "--listen", "127.0.0.1:0"])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        self.agents.push((id.to_string(), child));
    }

    pub fn kill_agent(&mut self, id: &str) {
        let at = self.agents.iter().position(|(name, _)| name == id).expect("the agent runs");
        let (_, mut child) = self.agents.remove(at);
        child.kill().expect("it can be killed");
        child.wait().expect("it can be reaped");
    }

    /// Whether a node that was started has ended by itself; it can be started again.
    pub fn has_ended(&mut self, at: usize) -> bool {
        let child = &mut self.nodes[at].child;
        let ended =
            child.as_mut().is_some_and(|child| child.try_wait().expect("it can be waited for").is_some());
        if ended {
            *child = None;
        }
        ended
    }

    /// A command of the binary against this cluster's running nodes.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let running = self.nodes.iter().filter(|node| node.is_running());
        let urls = running.map(Node::url).collect::<Vec<_>>().join(",");
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env("SUPER_NODE_ENDPOINTS", urls)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs such a command.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_command(arguments).output().expect("the command runs")
    }

    /// The JSON that a command prints with `-o json`; it must succeed.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        let output = self.cli(&all);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// GET that must give JSON.
    pub async fn get(&self, at: usize, path: &str) -> Value {
        let url = format!("{}{path}", self.nodes[at].url());
        let answer = self.http.get(&url).send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{url}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
    }

    /// GET that may fail in any way.
    pub async fn try_get(&self, at: usize, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.nodes[at].url());
        let answer = self.http.get(&url).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        answer.json().await.ok()
    }

    /// PUT of a key; the revision if it was acknowledged.
    pub async fn try_put(&self, at: usize, key: &str, value: &Value) -> Option<u64> {
        let url = format!("{}/v1/kv/{key}", self.nodes[at].url());
        let answer = self.http.put(&url).json(value).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        answer.json::<Value>().await.ok()?["revision"].as_u64()
    }

    /// PUT that must succeed within the patience, retried as a careful client does.
    pub async fn put(&self, at: usize, key: &str, value: &Value) -> u64 {
        let begun = Instant::now();
        loop {
            if let Some(revision) = self.try_put(at, key, value).await {
                return revision;
            }
            assert!(begun.elapsed() < PATIENCE, "{key} could not be written through {}", self.nodes[at].id);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until some running node leads and every running node knows it; returns its position and term.
    pub async fn leader(&self) -> (usize, u64) {
        self.leader_after(0).await
    }

    /// The same, in a term after `term`.
    pub async fn leader_after(&self, term: u64) -> (usize, u64) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut leaders = Vec::new();
            let mut all = true;
            for at in (0..self.nodes.len()).filter(|at| self.nodes[*at].is_running()) {
                match self.try_get(at, "/v1/status").await {
                    Some(status) if status["term"].as_u64() > Some(term) && status["leader"].is_string() => {
                        leaders.push((status["leader"].clone(), status["term"].as_u64()));
                    }
                    _ => all = false,
                }
            }
            leaders.dedup();
            if let ([(leader, Some(found))], true) = (&leaders[..], all) {
                let at = self.nodes.iter().position(|node| Some(node.id.as_str()) == leader.as_str());
                if let Some(at) = at.filter(|at| self.nodes[*at].is_running()) {
                    return (at, *found);
                }
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        panic!("no leader after term {term} within {PATIENCE:?}");
    }

    /// Waits until a question is answered with something.
    pub async fn wait_for<T, F: Future<Output = Option<T>>>(&self, what: &str, ask: impl Fn() -> F) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// All items of a paged list, first to last.
pub async fn all_items(cluster: &Cluster, at: usize, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut after = String::new();
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let page = cluster.get(at, &format!("{path}{separator}limit=1000{after}")).await;
        items.extend(page["items"].as_array().expect("items").iter().cloned());
        match &page["next"] {
            Value::Null => return items,
            next => {
                after = format!("&after={}", next.as_str().map_or_else(|| next.to_string(), str::to_string))
            }
        }
    }
}

/// All files below a directory, sorted.
pub fn files_under(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
