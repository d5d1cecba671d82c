//! A client that speaks frames instead of HTTP: many requests under way on one connection.
//!
//! A [`Connection`] belongs to one node and says of each request what came of it. A [`Cluster`] holds one connection to
//! each of several nodes and tries again where that is safe, as [`super::Client`] does over HTTP: a write carries one
//! idempotency key through all its tries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::network::native::{
    self, Done, Hello, NativeError, Operation, PREFACE, PROTOCOL, Reader, Refusal, Request, Response,
    Welcome, greet, seal,
};

use super::error::{ClientError, Outcome, Tried};
use super::{CONNECT_TIMEOUT, random_key};
use crate::calls::{PAUSE_MAX, PAUSE_MIN};

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
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.kind().to_string())?;
            native::tune(&stream).map_err(|error| error.to_string())?;
            let (reader, mut writer) = stream.into_split();
            let software = concat!("super-node/", env!("CARGO_PKG_VERSION")).to_string();
            let hello = Hello { protocol: PROTOCOL, cluster: cluster.to_string(), software };
            greet(&mut writer, &PREFACE, &hello).await.map_err(|error| error.to_string())?;
            let mut reader = Reader::new(reader);
            match reader.hello().await.map_err(|error| error.to_string())? {
                Welcome::Ready { in_flight_max, .. } => Ok((reader, writer, in_flight_max)),
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
        mut reader: Reader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
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
        reader: &mut Reader<OwnedReadHalf>,
        writer: &mut OwnedWriteHalf,
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
                    let sent = tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&self.out)).await;
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
    addresses: Vec<String>,
    name: String,
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: BTreeMap<String, Connection>,
    /// The address that answered last: asked first next time.
    preferred: Option<String>,
}

impl Cluster {
    /// `addresses` are client addresses (`host:port`) of nodes of the cluster `name`; `timeout` is for one call, all
    /// tries together. Connects when it is used.
    pub fn new(addresses: Vec<String>, name: &str, timeout: Duration) -> Arc<Cluster> {
        Arc::new(Cluster { addresses, name: name.to_string(), timeout, state: Mutex::default() })
    }

    /// Does one operation, on whichever node answers. Where it ends with an error, that says whether a write happened.
    pub async fn call(&self, operation: Operation) -> Result<Done, ClientError> {
        let key = operation.is_write().then(random_key);
        let deadline = Instant::now() + self.timeout;
        let (mut tried, mut in_doubt, mut refusal) = (Vec::new(), None, None);
        let mut pause = PAUSE_MIN;
        loop {
            for address in self.order(refusal.as_ref()) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // A node that hangs must not eat the time of those that would answer.
                let share = if self.addresses.len() > 1 { self.timeout.mul_f64(0.4) } else { left };
                let result = self.attempt(&address, &operation, key.clone(), left.min(share)).await;
                let what = match result {
                    Ok(done) => {
                        self.state().preferred = Some(address);
                        return Ok(done);
                    }
                    Err(CallError::Refused(no)) if !no.retryable => return Err(refused(no, tried)),
                    Err(CallError::Refused(no)) => {
                        if no.outcome == native::Outcome::Unknown && operation.is_write() {
                            in_doubt = Some(no.detail.clone());
                        }
                        let code = no.code.clone();
                        refusal = Some(no);
                        code
                    }
                    Err(CallError::NotSent(why)) => why,
                    Err(CallError::Lost(why)) => {
                        if operation.is_write() {
                            in_doubt = Some(format!("{address} {why}"));
                        }
                        why
                    }
                };
                note(&mut tried, &address, what);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                return Err(self.give_up(operation.is_write(), in_doubt, refusal, tried));
            }
            // Spread, so that many clients of a cluster that lost its leader do not come back at once.
            let spread = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(spread)).await;
            pause = (pause * 2).min(PAUSE_MAX);
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
        let known = self.state().connections.get(address).filter(|known| !known.is_closed()).cloned();
        let connection = match known {
            Some(connection) => connection,
            None => {
                let opening = tokio::time::timeout(limit, Connection::open(address, &self.name)).await;
                let opened =
                    opening.map_err(|_elapsed| CallError::NotSent(format!("timeout {limit:?}")))??;
                self.state().connections.insert(address.to_string(), opened.clone());
                opened
            }
        };
        connection.call(operation.clone(), key, limit.saturating_sub(begun.elapsed())).await
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to ask in which order: where the leader is said to be, who answered last, then as given.
    fn order(&self, refusal: Option<&Refusal>) -> Vec<String> {
        let hinted = refusal.and_then(|refusal| refusal.leader_url.as_deref());
        let hinted = hinted.map(|url| url.trim_start_matches("http://").trim_end_matches('/').to_string());
        let preferred = self.state().preferred.clone();
        let mut order: Vec<String> = Vec::new();
        for address in hinted.into_iter().chain(preferred).chain(self.addresses.iter().cloned()) {
            if !order.contains(&address) {
                order.push(address);
            }
        }
        order
    }

    fn give_up(
        &self,
        write: bool,
        in_doubt: Option<String>,
        refusal: Option<Refusal>,
        tried: Vec<Tried>,
    ) -> ClientError {
        match (in_doubt, refusal) {
            (Some(why), _) => ClientError::unknown(why, tried, None),
            (None, Some(no)) => refused(no, tried),
            (None, None) => ClientError::unreachable(self.timeout, tried, write),
        }
    }
}

fn note(tried: &mut Vec<Tried>, address: &str, what: String) {
    match tried.iter_mut().find(|tried| tried.endpoint == address) {
        Some(tried) => tried.what = what,
        None => tried.push(Tried { endpoint: address.to_string(), name: address.to_string(), what }),
    }
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
