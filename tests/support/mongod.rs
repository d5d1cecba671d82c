//! A real mongod for a test: its own process, port and directory; it dies with the value, also on a panic.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bson::doc;
use mongodb::{Client, options::ClientOptions};

/// How long a mongod may take to be usable. Only a bound for broken machines: nothing is measured against it.
const START_MAX: Duration = Duration::from_secs(60);

/// How a server is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One server without replication.
    Standalone,
    /// A replica set of one server.
    ReplicaSet,
    /// One of several servers of a replica set, which somebody else initiates.
    Member,
    /// One server that knows nobody and demands authentication.
    AuthRequired,
}

/// A running (or killed) server.
pub struct Mongod {
    kind: Kind,
    /// WiredTiger's cache, GB.
    cache: String,
    port: u16,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Mongod {
    /// Starts a server.
    ///
    /// # Panics
    /// When no mongod can be had or started; the message says what was tried.
    pub async fn start(kind: Kind) -> Mongod {
        Mongod::start_with_cache(kind, "0.25").await
    }

    /// The same, with a cache of so many GB.
    pub async fn start_with_cache(kind: Kind, cache: &str) -> Mongod {
        let mut last_words = String::new();
        // Somebody else may take the port between the choice and the use.
        for _attempt in 0..5 {
            let port = free_port();
            let directory = tempfile::tempdir().expect("a temporary directory");
            let mut mongod = Mongod { kind, cache: cache.to_string(), port, directory, child: None };
            match mongod.launch().await {
                Ok(()) => {
                    mongod.initiate().await;
                    return mongod;
                }
                Err(words) => last_words = words,
            }
        }
        panic!("mongod did not start: {last_words}");
    }

    /// The connection string.
    pub fn uri(&self) -> String {
        match self.kind {
            Kind::ReplicaSet => format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", self.port),
            Kind::Standalone | Kind::Member | Kind::AuthRequired => {
                format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
            }
        }
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has not been killed.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// A client with short timeouts.
    pub async fn client(&self) -> Client {
        connect(&self.uri()).await
    }

    /// Kills the process as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own process");
            child.wait().expect("our own process");
        }
    }

    /// Starts a killed server again on its data and port.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "restart is for a server that was killed");
        self.launch().await.expect("mongod starts again on its own data");
        if self.kind == Kind::ReplicaSet {
            self.wait_for_primary().await;
        }
    }

    async fn launch(&mut self) -> Result<(), String> {
        let log = self.directory.path().join("log");
        let data = self.directory.path().join("db");
        std::fs::create_dir_all(&data).expect("a data directory");
        let mut command = Command::new(binary());
        command
            .arg("--dbpath")
            .arg(&data)
            .arg("--unixSocketPrefix")
            .arg(self.directory.path())
            .args(["--bind_ip", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--wiredTigerCacheSizeGB", &self.cache])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log).expect("a log file"))
            .stderr(Stdio::null());
        match self.kind {
            Kind::Standalone => {}
            Kind::ReplicaSet | Kind::Member => {
                command.args(["--replSet", "rs0"]);
            }
            Kind::AuthRequired => {
                command.arg("--auth");
            }
        }
        self.child = Some(command.spawn().expect("mongod is executable"));
        let deadline = Instant::now() + START_MAX;
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = self.child.as_mut().expect("just started").try_wait().expect("our own process");
            if ended.is_none() && text.contains("\"Waiting for connections\"") {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > deadline {
                self.kill9();
                return Err(text.lines().rev().take(3).collect::<Vec<_>>().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn initiate(&self) {
        if self.kind != Kind::ReplicaSet {
            return;
        }
        let member = doc! { "_id": 0, "host": format!("127.0.0.1:{}", self.port) };
        let command = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
        let admin = self.direct().await.database("admin");
        admin.run_command(command).await.expect("replSetInitiate");
        self.wait_for_primary().await;
    }

    async fn wait_for_primary(&self) {
        let admin = self.direct().await.database("admin");
        let deadline = Instant::now() + START_MAX;
        loop {
            let hello = admin.run_command(doc! { "hello": 1 }).await;
            if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                return;
            }
            assert!(Instant::now() < deadline, "mongod did not become primary");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn direct(&self) -> Client {
        connect(&format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)).await
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _may_have_ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// A client with short timeouts.
pub async fn connect(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.expect("a connection string");
    options.server_selection_timeout = Some(Duration::from_secs(10));
    options.connect_timeout = Some(Duration::from_secs(5));
    Client::with_options(options).expect("valid options")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn binary() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fetch-mongod.sh");
    let output =
        Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/fetch-mongod.sh runs");
    assert!(
        output.status.success(),
        "no mongod for this test: scripts/fetch-mongod.sh failed (its words are above); install MongoDB or make \
         the script's download possible"
    );
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// A server for tests that only need one: `MONGODB_URI` if it is set, else one of our own.
pub struct AnyServer {
    uri: String,
    _own: Option<Mongod>,
}

impl AnyServer {
    /// Finds or starts a server.
    pub async fn get() -> AnyServer {
        match std::env::var("MONGODB_URI") {
            Ok(uri) if !uri.is_empty() => AnyServer { uri, _own: None },
            _ => {
                let own = Mongod::start(Kind::ReplicaSet).await;
                AnyServer { uri: own.uri(), _own: Some(own) }
            }
        }
    }

    /// The connection string.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// A name for a database that no other test uses.
    pub fn database_name(&self, test: &str) -> String {
        format!("sn_{test}_{}_{}", std::process::id(), free_port())
    }
}
