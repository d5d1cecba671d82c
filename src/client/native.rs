//! A client that speaks frames instead of HTTP: many requests under way on one connection.
//!
//! A [`Connection`] belongs to one node and says of each request what came of it. A [`Cluster`] holds one connection to
//! each of several nodes and tries again where that is safe, as [`super::Client`] does over HTTP: a write carries one
//! idempotency key through all its tries. What to do next, and what may be said of a write in the end, is decided by
//! [`crate::calls`], as over HTTP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::calls::{Endpoints, Guard, Heard, Kind, Next, Plan, Verdict, Word};
use crate::ledger::idempotency::stamped;
use crate::network::native::{
    self, Credentials, Done, Hello, NativeError, Operation, PREFACE, PROTOCOL_MIN, PROTOCOL_WITH_TOKEN,
    Reader, Refusal, Request, Response, Welcome, greet, seal,
};
use crate::network::tls::{self, ReadHalf, TlsConnector, WriteHalf};
use crate::types::{Index, Micros};

use super::error::{ClientError, Outcome, Tried};
use super::{CONNECT_TIMEOUT, random_key};

/// Requests that wait to be written; more callers wait.
const QUEUE_MAX: usize = 1_024;
/// Requests written at once.
const STEP: usize = 256;
/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A request did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The node said no.
    Refused(Refusal),
    /// It never left. Not applied.
    NotSent(String),
    /// Its answer did not come. A write may have happened, or may still happen.
    Lost(String),
}

/// What a cluster that guards itself asks for.
#[derive(Clone, Default)]
pub struct Access {
    /// Speaks TLS; see [`tls::framed`].
    pub tls: Option<TlsConnector>,
    /// Shown to the node.
    pub token: Option<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access {{ tls: {}, token: {} }}", self.tls.is_some(), self.token.is_some())
    }
}

/// A connection to one node. Clones share it; it closes when the last is gone.
#[derive(Debug, Clone)]
pub struct Connection {
    queue: mpsc::Sender<Queued>,
}

#[derive(Debug)]
struct Queued {
    request: Request,
    answer: oneshot::Sender<Result<Done, CallError>>,
}

impl Connection {
    /// Connects to `host:port`, a node's client address. `cluster` is the configured name of the cluster that is meant.
    pub async fn open(address: &str, cluster: &str) -> Result<Connection, CallError> {
        Connection::open_with(address, cluster, &Access::default()).await
    }

    /// The same, to a node that guards itself.
    pub async fn open_with(address: &str, cluster: &str, access: &Access) -> Result<Connection, CallError> {
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.kind().to_string())?;
            native::tune(&stream).map_err(|error| error.to_string())?;
            let secured = |error| tls::explain(&error).unwrap_or_else(|| error.to_string());
            let (reader, mut writer) = match &access.tls {
                None => tls::plain(stream),
                Some(connector) => tls::connect(connector, address, stream).await.map_err(secured)?,
            };
            let software = concat!("super-node/", env!("CARGO_PKG_VERSION")).to_string();
            let protocol = if access.token.is_some() { PROTOCOL_WITH_TOKEN } else { PROTOCOL_MIN };
            let hello = Hello { protocol, cluster: cluster.to_string(), software };
            greet(&mut writer, &PREFACE, &hello).await.map_err(|error| error.to_string())?;
            if let Some(token) = access.token.clone() {
                greet(&mut writer, &[], &Credentials { token }).await.map_err(|error| error.to_string())?;
            }
            let mut reader = Reader::new(reader);
            match reader.hello().await.map_err(|error| error.to_string())? {
                Welcome::Ready { protocol, .. } if native::common_protocol(protocol, protocol).is_err() => {
                    Err(format!("the node answered in protocol {protocol}, which was not offered"))
                }
                Welcome::Ready { in_flight_max, .. } => {
                    reader.lift_limit();
                    Ok((reader, writer, in_flight_max))
                }
                Welcome::Refused { reason } => Err(reason),
            }
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opening).await;
        let opened = opened.unwrap_or_else(|_elapsed| Err(format!("timeout {CONNECT_TIMEOUT:?}")));
        let (reader, writer, in_flight_max) = opened.map_err(CallError::NotSent)?;
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let under_way_max = usize::try_from(in_flight_max).unwrap_or(usize::MAX).max(1);
        let line = Line { under_way: BTreeMap::new(), under_way_max, last_id: 0, out: Vec::new() };
        tokio::spawn(line.run(reader, writer, queued));
        Ok(Connection { queue })
    }

    /// Whether it can no longer be used.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Sends one request and waits for its answer, up to `timeout`.
    pub async fn call(
        &self,
        operation: Operation,
        idempotency_key: Option<String>,
        timeout: Duration,
    ) -> Result<Done, CallError> {
        let patience_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let request = Request { id: 0, patience_ms, forward: true, idempotency_key, operation };
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let queued = tokio::time::timeout_at(deadline, self.queue.send(Queued { request, answer })).await;
        match queued {
            Err(_elapsed) => return Err(CallError::NotSent(format!("too busy for {timeout:?}"))),
            Ok(Err(_closed)) => return Err(CallError::NotSent("the connection is closed".to_string())),
            Ok(Ok(())) => {}
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_line_gone)) => Err(CallError::Lost("the connection ended".to_string())),
            Err(_elapsed) => Err(CallError::Lost(format!("no answer within {timeout:?}"))),
        }
    }
}

/// The task behind a connection.
struct Line {
    under_way: BTreeMap<u64, oneshot::Sender<Result<Done, CallError>>>,
    under_way_max: usize,
    last_id: u64,
    out: Vec<u8>,
}

impl Line {
    async fn run(
        mut self,
        mut reader: Reader<ReadHalf>,
        mut writer: WriteHalf,
        mut queued: mpsc::Receiver<Queued>,
    ) {
        let why = self.converse(&mut reader, &mut writer, &mut queued).await;
        queued.close();
        let why = why.unwrap_or_default();
        for answer in std::mem::take(&mut self.under_way).into_values() {
            // Whoever is gone has stopped waiting.
            let _gone = answer.send(Err(CallError::Lost(why.clone())));
        }
        while let Ok(Queued { answer, .. }) = queued.try_recv() {
            let _gone = answer.send(Err(CallError::NotSent(why.clone())));
        }
    }

    /// Until the connection ends (why), or nobody can send any more and all is answered (`None`).
    async fn converse(
        &mut self,
        reader: &mut Reader<ReadHalf>,
        writer: &mut WriteHalf,
        queued: &mut mpsc::Receiver<Queued>,
    ) -> Option<String> {
        let mut requests = Vec::new();
        let mut more_may_come = true;
        while more_may_come || !self.under_way.is_empty() {
            let room = self.under_way_max.saturating_sub(self.under_way.len()).min(STEP);
            tokio::select! {
                count = queued.recv_many(&mut requests, room), if more_may_come && room > 0 => {
                    more_may_come = count > 0;
                    for Queued { request, answer } in requests.drain(..) {
                        self.last_id += 1;
                        seal(&Request { id: self.last_id, ..request }, &mut self.out);
                        self.under_way.insert(self.last_id, answer);
                    }
                    let send = async {
                        writer.write_all(&self.out).await?;
                        writer.flush().await
                    };
                    let sent = tokio::time::timeout(WRITE_TIMEOUT, send).await;
                    self.out.clear();
                    match sent {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Some(error.kind().to_string()),
                        Err(_elapsed) => return Some(format!("a write took more than {WRITE_TIMEOUT:?}")),
                    }
                }
                response = reader.next() => {
                    let mut response: Option<Result<Response, NativeError>> = Some(response);
                    while let Some(result) = response {
                        match result {
                            Ok(response) => self.answered(response),
                            Err(error) => return Some(error.to_string()),
                        }
                        response = reader.ready();
                    }
                }
            }
        }
        None
    }

    fn answered(&mut self, Response { id, result }: Response) {
        if let Some(answer) = self.under_way.remove(&id) {
            let _gone = answer.send(result.map_err(CallError::Refused));
        }
    }
}

/// Several nodes of a cluster, whichever answers.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    timeout: Duration,
    access: Access,
    origin: Instant,
    endpoints: Mutex<Endpoints>,
    connections: Mutex<BTreeMap<String, Connection>>,
    /// The newest position of the log that an answer told of.
    seen: AtomicU64,
}

impl Cluster {
    /// `addresses` are client addresses (`host:port`) of nodes of the cluster `name`; `timeout` is for one call, all
    /// tries together. Connects when it is used.
    pub fn new(addresses: Vec<String>, name: &str, timeout: Duration) -> Arc<Cluster> {
        Cluster::with_access(addresses, name, timeout, Access::default())
    }

    /// The same, for a cluster that guards itself.
    pub fn with_access(
        addresses: Vec<String>,
        name: &str,
        timeout: Duration,
        access: Access,
    ) -> Arc<Cluster> {
        Arc::new(Cluster {
            name: name.to_string(),
            timeout,
            access,
            origin: Instant::now(),
            endpoints: Mutex::new(Endpoints::new(addresses)),
            connections: Mutex::default(),
            seen: AtomicU64::new(0),
        })
    }

    /// Does one operation, on whichever node answers. Where it ends with an error, that says whether a write happened.
    ///
    /// A write is done at most once, however late one of its tries arrives: its key says since when it can have been used
    /// (`ledger::idempotency`). If this client has not heard of the log for so long that the cluster has forgotten answers
    /// since, it is told so on its first try; then it asks how far the log is, and tries anew.
    pub async fn call(&self, operation: Operation) -> Result<Done, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let result = self.call_once(&operation, self.timeout).await;
        let is_stale =
            |error: &ClientError| error.code == "key_expired" && error.outcome == Some(Outcome::NotApplied);
        if !matches!(&result, Err(error) if is_stale(error)) {
            return result;
        }
        let look = Operation::Add { a: 0, b: 0 };
        self.run(&look, Kind::Write(Guard::Nothing), None, left()).await?;
        self.call_once(&operation, left()).await
    }

    async fn call_once(&self, operation: &Operation, timeout: Duration) -> Result<Done, ClientError> {
        if !operation.is_write() {
            return self.run(operation, Kind::Read, None, timeout).await;
        }
        let key = stamped(Index(self.seen.load(Ordering::Relaxed)), &random_key());
        self.run(operation, Kind::Write(Guard::Key), Some(key), timeout).await
    }

    async fn run(
        &self,
        operation: &Operation,
        kind: Kind,
        key: Option<String>,
        timeout: Duration,
    ) -> Result<Done, ClientError> {
        let mut plan = Plan::new(kind, self.now(), timeout, Duration::ZERO);
        let mut progress = Progress::default();
        loop {
            let next = plan.next(&lock(&self.endpoints), self.now(), rand::rng().random());
            let (address, limit) = match next {
                Next::Try { endpoint, limit } => (endpoint, limit),
                Next::Pause(span) => {
                    tokio::time::sleep(span).await;
                    continue;
                }
                Next::Over(verdict) => return Err(self.conclude(verdict, kind != Kind::Read, progress)),
            };
            let result = self.attempt(&address, operation, key.clone(), limit).await;
            plan.heard(&mut lock(&self.endpoints), &address, self.now(), &heard(&result));
            match result {
                Ok(done) => {
                    if let Done::Written { index, .. } | Done::Sum { index, .. } = &done {
                        self.seen.fetch_max(index.0, Ordering::Relaxed);
                    }
                    return Ok(done);
                }
                Err(error) => progress.note(&address, error),
            }
        }
    }

    async fn attempt(
        &self,
        address: &str,
        operation: &Operation,
        key: Option<String>,
        limit: Duration,
    ) -> Result<Done, CallError> {
        let begun = Instant::now();
        let known = lock(&self.connections).get(address).filter(|known| !known.is_closed()).cloned();
        let connection = match known {
            Some(connection) => connection,
            None => {
                let opening = Connection::open_with(address, &self.name, &self.access);
                let opening = tokio::time::timeout(limit, opening).await;
                let opened =
                    opening.map_err(|_elapsed| CallError::NotSent(format!("timeout {limit:?}")))??;
                lock(&self.connections).insert(address.to_string(), opened.clone());
                opened
            }
        };
        connection.call(operation.clone(), key, limit.saturating_sub(begun.elapsed())).await
    }

    fn now(&self) -> Micros {
        Micros::default().after(self.origin.elapsed())
    }

    /// What to tell of a call that was not answered.
    fn conclude(&self, verdict: Verdict, write: bool, progress: Progress) -> ClientError {
        let Progress { tried, refusal, in_doubt } = progress;
        match (verdict, refusal) {
            (Verdict::Unknown, _) => ClientError::unknown(in_doubt.unwrap_or_default(), tried, None),
            (_, Some(refusal)) => refused(refusal, tried),
            (_, None) => ClientError::unreachable(self.timeout, tried, write),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the tries of one call have shown so far.
#[derive(Default)]
struct Progress {
    tried: Vec<Tried>,
    refusal: Option<Refusal>,
    /// Why a write may have happened.
    in_doubt: Option<String>,
}

impl Progress {
    /// Remembers what came of a try, for the report.
    fn note(&mut self, address: &str, error: CallError) {
        let what = match error {
            CallError::Refused(refusal) => {
                if refusal.outcome == native::Outcome::Unknown {
                    self.in_doubt = Some(refusal.detail.clone());
                }
                let code = refusal.code.clone();
                self.refusal = Some(refusal);
                code
            }
            CallError::NotSent(why) => why,
            CallError::Lost(why) => {
                self.in_doubt = Some(format!("{address}: {why}"));
                why
            }
        };
        match self.tried.iter_mut().find(|tried| tried.endpoint == address) {
            Some(tried) => tried.what = what,
            None => {
                self.tried.push(Tried { endpoint: address.to_string(), name: address.to_string(), what });
            }
        }
    }
}

/// What a try means to the plan.
fn heard(result: &Result<Done, CallError>) -> Heard {
    match result {
        Ok(_) => Heard::Answer,
        Err(CallError::Refused(refusal)) => Heard::No {
            retryable: refusal.retryable,
            word: match (refusal.outcome, refusal.index) {
                (native::Outcome::NotApplied, Some(_)) => Word::RefusedForGood,
                (native::Outcome::NotApplied, None) => Word::ThisTryDidNothing,
                _ => Word::Unknown,
            },
            leader: refusal.leader_url.as_deref().map(address_of),
        },
        Err(CallError::NotSent(_)) => Heard::Silence { sent: false },
        Err(CallError::Lost(_)) => Heard::Silence { sent: true },
    }
}

/// The address in a client URL.
fn address_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_string()
}

fn refused(refusal: Refusal, tried: Vec<Tried>) -> ClientError {
    ClientError {
        code: refusal.code,
        message: refusal.detail,
        tried,
        outcome: Some(match refusal.outcome {
            native::Outcome::NotApplied => Outcome::NotApplied,
            native::Outcome::Applied => Outcome::Applied,
            native::Outcome::Unknown => Outcome::Unknown,
        }),
        retryable: refusal.retryable,
        hint: refusal.hint,
    }
}
