//! A cluster of real processes on this machine, for the demo and for benchmarks: children on free loopback ports, in
//! one directory, gone with their parent.
//!
//! Each child's standard input is a pipe that the parent holds open; a child ends when it closes, and removes the
//! temporary directory. So even a parent that is killed with -9 leaves nothing behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::client::{Client, ClientError, Options};

/// How long one call may take, all tries together.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How the cluster is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program to start.
    pub program: PathBuf,
    /// How many super-nodes.
    pub nodes: usize,
    /// Variables for the super-nodes, such as `SUPER_NODE_LEDGER__INTERVAL`.
    pub environment: Vec<(&'static str, String)>,
    /// Whether the directory goes when the parent ends.
    pub temporary: bool,
}

/// One super-node.
pub struct NodeProcess {
    /// Its name.
    pub id: String,
    /// Its client URL.
    pub url: String,
    peer: String,
    agents: String,
    client: String,
    child: Option<Child>,
}

impl NodeProcess {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }
}

/// All processes of a cluster.
pub struct Fleet {
    /// The super-nodes.
    pub nodes: Vec<NodeProcess>,
    agents: BTreeMap<String, Child>,
    setup: Setup,
    directory: PathBuf,
}

impl Fleet {
    /// Prepares a fleet in a directory; nothing runs yet.
    pub fn new(setup: Setup, directory: &Path) -> io::Result<Fleet> {
        fs::create_dir_all(directory)?;
        let mut nodes = Vec::new();
        for number in 1..=setup.nodes {
            let (client, peer, agents) = (free_address()?, free_address()?, free_address()?);
            let url = format!("http://{client}");
            nodes.push(NodeProcess { id: format!("n{number}"), url, peer, agents, client, child: None });
        }
        Ok(Fleet { nodes, agents: BTreeMap::new(), setup, directory: directory.to_path_buf() })
    }

    /// Starts a super-node.
    pub fn start_node(&mut self, at: usize) -> io::Result<()> {
        let peers: Vec<String> = self.nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        let node = &self.nodes[at];
        let mut command = self.command(&node.id)?;
        command
            .args(["start", "--id", &node.id])
            .arg("--data-dir")
            .arg(self.directory.join(&node.id))
            .args(["--listen", &node.client, "--peer-listen", &node.peer, "--agents-listen", &node.agents])
            .args(["--peers", &peers.join(",")]);
        for (variable, value) in &self.setup.environment {
            command.env(variable, value);
        }
        self.tie_to_parent(&mut command);
        self.nodes[at].child = Some(command.spawn()?);
        Ok(())
    }

    /// Starts an agent.
    pub fn start_agent(&mut self, id: &str) -> io::Result<()> {
        let urls: Vec<&str> = self.nodes.iter().map(|node| node.url.as_str()).collect();
        let mut command = self.command(id)?;
        command.args(["agent", "--id", id, "--join", &urls.join(","), "--listen", "127.0.0.1:0"]);
        self.tie_to_parent(&mut command);
        let child = command.spawn()?;
        self.agents.insert(id.to_string(), child);
        Ok(())
    }

    /// The child ends with this process, however it ends.
    fn tie_to_parent(&self, command: &mut Command) {
        command.arg("--exit-with-parent");
        if self.setup.temporary {
            command.arg("--remove-with-parent").arg(&self.directory);
        }
    }

    /// The program, without the settings of whoever runs it, with its output in a file.
    fn command(&self, name: &str) -> io::Result<Command> {
        let log =
            File::options().create(true).append(true).open(self.directory.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.setup.program);
        for (variable, _) in std::env::vars_os() {
            let ours = variable
                .to_str()
                .is_some_and(|name| name.starts_with("SUPER_NODE_") || name == "MONGODB_URI");
            if ours {
                command.env_remove(variable);
            }
        }
        // A directory of its own also keeps a `.env` of the caller out.
        command.current_dir(&self.directory).stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    /// kill -9 of a super-node.
    pub async fn kill_node(&mut self, at: usize) -> io::Result<()> {
        match self.nodes[at].child.take() {
            Some(mut child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// kill -9 of an agent.
    pub async fn kill_agent(&mut self, id: &str) -> io::Result<()> {
        match self.agents.remove(id) {
            Some(mut child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// Freezes a super-node, or lets it go on.
    pub fn freeze(&self, at: usize, frozen: bool) -> io::Result<()> {
        let pid = self.nodes[at].pid().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
        let signal = if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(pid, signal).map_err(io::Error::from)
    }

    /// A child that ended by itself, with the end of its log.
    pub fn dead_child(&mut self) -> Option<String> {
        let nodes = self.nodes.iter_mut().filter_map(|node| Some((node.id.clone(), node.child.as_mut()?)));
        let agents = self.agents.iter_mut().map(|(id, child)| (id.clone(), child));
        for (id, child) in nodes.chain(agents) {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(self.directory.join(format!("{id}.log"))).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Some(format!("{id} ended by itself ({status}): {}", last.join(" / ")));
            }
        }
        None
    }

    /// Ends everything.
    pub async fn stop(&mut self) {
        let nodes = self.nodes.iter_mut().filter_map(|node| node.child.take());
        let agents = std::mem::take(&mut self.agents).into_values();
        let mut children: Vec<Child> = nodes.chain(agents).collect();
        // All at once, then one after the other: they die in parallel.
        for child in &mut children {
            let _already_dead = child.start_kill();
        }
        for mut child in children {
            let _reaped = child.wait().await;
        }
    }

    /// A client of all running super-nodes.
    pub fn client(&self) -> Result<Client, ClientError> {
        let running = self.nodes.iter().filter(|node| node.is_running());
        self.client_of(running.map(|node| node.url.clone()).collect())
    }

    /// A client of one super-node.
    pub fn client_at(&self, at: usize) -> Result<Client, ClientError> {
        self.client_of(vec![self.nodes[at].url.clone()])
    }

    fn client_of(&self, endpoints: Vec<String>) -> Result<Client, ClientError> {
        Client::new(Options { endpoints, timeout: CALL_TIMEOUT, ..Options::default() })
    }
}

/// A loopback address that was free for TCP and UDP a moment ago.
pub fn free_address() -> io::Result<String> {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.to_string());
        }
    }
}
