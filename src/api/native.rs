//! The framed protocol on the client listener: see `docs/native-protocol.md`.
//!
//! One task per connection. It takes every request that has arrived, hands all of them to the node, and writes all
//! answers that are ready in one piece. The node answers under the client's own numbers, so a request costs no task and no
//! timer of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::ledger::command::{
    Answer, Applied, Command, IDEMPOTENCY_KEY_BYTES_MAX, KvOperation, Once, Request,
};
use crate::ledger::query;
use crate::metrics::ResultLabel;
use crate::network::native::{
    self, Credentials, Done, IN_FLIGHT_MAX, Level, NativeError, Offer, Operation, Outcome,
    PROTOCOL_WITH_TOKEN, Reader, Refusal, Response, Welcome, greet, seal,
};
use crate::network::tls::{ReadHalf, WriteHalf};
use crate::node::handle::{Failure, Numbered, Reply};
use crate::types::Index;

use super::extract::{compact_json, usable_idempotency_key};
use super::guard::{self, Role};
use super::problem::Problem;
use super::{ApiState, kv, unexpected};

/// How often overdue requests are looked for; so much later than asked may an answer be that there is none.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a write to a client may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests taken before answers are written, and answers written at once.
const STEP: usize = 256;
/// Answers of this size are written before more are gathered.
const OUT_BYTES_MAX: usize = 1 << 20;

/// Serves one connection whose first bytes are the preface, to its end.
pub(super) async fn serve(state: ApiState, stream: (ReadHalf, WriteHalf), client: SocketAddr) {
    let count = |result: &str| {
        state.metrics.native_connections.get_or_create(&ResultLabel { result: result.to_string() }).inc();
    };
    let stopping = state.stopping.clone();
    let end = tokio::select! {
        () = stopping.cancelled() => return,
        end = converse(&state, stream, client) => end,
    };
    match end {
        Ok(()) | Err(End::Wire(NativeError::Closed)) => count("closed"),
        Err(End::Wire(NativeError::Slow)) => count("slow"),
        Err(End::Wire(NativeError::Io(_))) => count("lost"),
        Err(End::Wire(NativeError::Malformed(why))) => {
            count("malformed");
            tracing::debug!(%client, "closed a native connection that makes no sense: {why}");
        }
        Err(End::Refused(why)) => {
            count("refused");
            tracing::debug!(%client, "refused a native connection: {why}");
        }
    }
}

/// Why a connection ended.
enum End {
    Wire(NativeError),
    Refused(String),
}

impl From<NativeError> for End {
    fn from(error: NativeError) -> End {
        End::Wire(error)
    }
}

async fn converse(
    state: &ApiState,
    (reader, mut writer): (ReadHalf, WriteHalf),
    client: SocketAddr,
) -> Result<(), End> {
    let mut reader = Reader::new(reader);
    reader.skip_preface().await?;
    let Offer { hello, oldest } = reader.client_hello().await?;
    let (cluster, node) = {
        let status = state.handle.status.borrow();
        (status.cluster.clone(), status.id.clone())
    };
    // Who offers older versions as well cannot know yet whether its token would be understood.
    let mut token = None;
    if (PROTOCOL_WITH_TOKEN..=native::PROTOCOL).contains(&oldest) {
        let Credentials { token: shown } = reader.hello().await?;
        token = Some(shown);
    }
    let agreed = match native::common_protocol(oldest, hello.protocol) {
        Ok(_) if hello.cluster != cluster => {
            let theirs = &hello.cluster;
            Err(format!(
                "{node} belongs to cluster {cluster:?}, not {theirs:?}: check the address and the name"
            ))
        }
        Ok(protocol) => match state.guard.role(token.as_deref()) {
            Ok(role) => Ok((protocol, role)),
            Err(problem) => Err(problem.detail),
        },
        Err(why) => Err(format!("{node}: {why}")),
    };
    let (protocol, role) = match agreed {
        Ok(agreed) => agreed,
        Err(reason) => {
            greet(&mut writer, &[], &Welcome::Refused { reason: reason.clone() }).await?;
            // Best effort: the client reads the reason, then the end.
            let _gone_already = writer.shutdown().await;
            return Err(End::Refused(reason));
        }
    };
    reader.lift_limit();
    let in_flight_max = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
    greet(&mut writer, &[], &Welcome::Ready { protocol, node, in_flight_max }).await?;
    tracing::debug!(%client, software = %hello.software, "native connection");
    let requests = |result: &str| {
        state.metrics.native_requests.get_or_create(&ResultLabel { result: result.to_string() }).clone()
    };
    let (writes, written) = mpsc::unbounded_channel();
    let (reads, readable) = mpsc::unbounded_channel();
    let conversation = Conversation {
        state: state.clone(),
        role,
        writes,
        reads,
        under_way: BTreeMap::new(),
        out: Vec::new(),
        answered: requests("answered"),
        refused: requests("refused"),
    };
    Ok(conversation.run(reader, writer, written, readable).await?)
}

/// A request that waits for the node.
struct UnderWay {
    deadline: Instant,
    /// The key to read when the read barrier has passed; `None`: a write.
    get: Option<String>,
    /// Whether a precondition was stated.
    conditional: bool,
}

struct Conversation {
    state: ApiState,
    role: Role,
    writes: mpsc::UnboundedSender<Numbered<Applied>>,
    reads: mpsc::UnboundedSender<Numbered<Index>>,
    under_way: BTreeMap<u64, UnderWay>,
    out: Vec<u8>,
    answered: Counter,
    refused: Counter,
}

impl Conversation {
    async fn run(
        mut self,
        mut reader: Reader<ReadHalf>,
        mut writer: WriteHalf,
        mut written: mpsc::UnboundedReceiver<Numbered<Applied>>,
        mut readable: mpsc::UnboundedReceiver<Numbered<Index>>,
    ) -> Result<(), NativeError> {
        let (mut done, mut passed) = (Vec::new(), Vec::new());
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                request = reader.next() => {
                    self.take(request?)?;
                    for _ in 1..STEP {
                        let Some(request) = reader.ready() else { break };
                        self.take(request?)?;
                    }
                }
                _ = written.recv_many(&mut done, STEP) => {}
                _ = readable.recv_many(&mut passed, STEP) => {}
                _ = look.tick() => self.give_up_overdue(),
            }
            for (id, result) in done.drain(..) {
                self.written(id, result);
            }
            for (id, result) in passed.drain(..) {
                self.readable(id, result);
                if self.out.len() >= OUT_BYTES_MAX {
                    self.flush(&mut writer).await?;
                }
            }
            self.flush(&mut writer).await?;
        }
    }

    async fn flush(&mut self, writer: &mut WriteHalf) -> Result<(), NativeError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let send = async {
            writer.write_all(&self.out).await?;
            writer.flush().await
        };
        let sent = tokio::time::timeout(WRITE_TIMEOUT, send).await;
        sent.map_err(|_elapsed| NativeError::Slow)?.map_err(NativeError::Io)?;
        self.out.clear();
        self.out.shrink_to(OUT_BYTES_MAX);
        Ok(())
    }

    /// Takes one request in. An error ends the connection.
    fn take(&mut self, request: native::Request) -> Result<(), NativeError> {
        let id = request.id;
        if self.under_way.contains_key(&id) {
            return Err(NativeError::Malformed(format!("request {id} is under way already")));
        }
        if let Err(problem) = self.begin(request) {
            self.refuse(id, problem);
        }
        Ok(())
    }

    fn begin(&mut self, request: native::Request) -> Result<(), Problem> {
        let native::Request { id, patience_ms, forward, idempotency_key, operation } = request;
        if self.under_way.len() >= IN_FLIGHT_MAX {
            return Err(Problem::failed(Failure::Overloaded));
        }
        guard::allow(self.role, if operation.is_write() { Role::Writer } else { Role::Reader })?;
        let longest = self.state.http.timeout;
        let patience = match patience_ms {
            0 => longest,
            millis => Duration::from_millis(millis.into()).min(longest),
        };
        let deadline = Instant::now() + patience;
        if let Operation::Get { key, level } = operation {
            kv::check_key(&key)?;
            match level {
                Level::Stale => self.look_up(id, &key),
                Level::Linearizable | Level::Lease => {
                    let reply = Reply::Numbered { id, to: self.reads.clone() };
                    let lease = level == Level::Lease;
                    self.begun(self.state.handle.begin_read_barrier(lease, forward, patience, reply))?;
                    self.under_way.insert(id, UnderWay { deadline, get: Some(key), conditional: false });
                }
            }
            return Ok(());
        }
        if idempotency_key.as_deref().is_some_and(|key| !usable_idempotency_key(key)) {
            return Err(Problem::bad_request(format!(
                "an idempotency key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
            )));
        }
        let (command, conditional) = command(operation)?;
        let reply = Reply::Numbered { id, to: self.writes.clone() };
        let once = idempotency_key.map_or(Once::Unguarded, Once::Key);
        let request = Request { once, command };
        self.begun(self.state.handle.begin_submit(request, forward, patience, reply))?;
        self.under_way.insert(id, UnderWay { deadline, get: None, conditional });
        Ok(())
    }

    fn begun(&self, result: Result<(), Failure>) -> Result<(), Problem> {
        result.map_err(|failure| self.problem(failure))
    }

    /// The problem of a failure, with the leader's URL where that helps.
    fn problem(&self, failure: Failure) -> Problem {
        self.state.failed(failure, &axum::http::Uri::from_static("/"))
    }

    fn written(&mut self, id: u64, result: Result<Applied, Failure>) {
        // Unknown: it was given up.
        let Some(request) = self.under_way.remove(&id) else { return };
        match result {
            Ok(applied) => {
                self.state.saw(applied.index);
                match done(applied, request.conditional) {
                    Ok(done) => self.answer(id, done),
                    Err(problem) => self.refuse(id, problem),
                }
            }
            Err(failure) => {
                let problem = self.problem(failure);
                self.refuse(id, problem);
            }
        }
    }

    fn readable(&mut self, id: u64, result: Result<Index, Failure>) {
        let Some(UnderWay { get: Some(key), .. }) = self.under_way.remove(&id) else { return };
        match result {
            Ok(_) => self.look_up(id, &key),
            Err(failure) => {
                let problem = self.problem(failure);
                self.refuse(id, problem);
            }
        }
    }

    fn look_up(&mut self, id: u64, key: &str) {
        match self.state.glance(|reader| query::kv_get(reader, key)) {
            Ok(found) => {
                let done = match found {
                    Some(entry) => Done::Found { value: entry.value, revision: entry.revision },
                    None => Done::Absent,
                };
                self.answer(id, done);
            }
            Err(problem) => self.refuse(id, problem),
        }
    }

    fn answer(&mut self, id: u64, done: Done) {
        self.answered.inc();
        seal(&Response { id, result: Ok(done) }, &mut self.out);
    }

    fn refuse(&mut self, id: u64, problem: Problem) {
        self.refused.inc();
        let result = Err(refusal(problem));
        seal(&Response { id, result }, &mut self.out);
    }

    /// Answers requests that waited longer than their askers wanted to.
    fn give_up_overdue(&mut self) {
        let now = Instant::now();
        let overdue = self.under_way.iter().filter(|(_, request)| request.deadline <= now);
        let overdue: Vec<(u64, bool)> = overdue.map(|(id, request)| (*id, request.get.is_some())).collect();
        for (id, reads) in overdue {
            self.under_way.remove(&id);
            let failure =
                if reads { Failure::Timeout } else { Failure::Unknown("no answer in time".to_string()) };
            let problem = self.problem(failure);
            self.refuse(id, problem);
        }
    }
}

/// The command of a write, checked as HTTP checks it, and whether it states a precondition.
fn command(operation: Operation) -> Result<(Command, bool), Problem> {
    let checked = |key: &str, value: String| -> Result<String, Problem> {
        kv::check_key(key)?;
        let value = compact_json(value.into())?;
        kv::check_value(key, &value)?;
        Ok(value)
    };
    Ok(match operation {
        Operation::Put { key, value, if_revision } => {
            let value = checked(&key, value)?;
            (Command::KvPut { key, value, if_revision }, if_revision.is_some())
        }
        Operation::Delete { key, if_revision } => {
            kv::check_key(&key)?;
            (Command::KvDelete { key, if_revision }, if_revision.is_some())
        }
        Operation::Batch { operations } => {
            kv::check_batch(operations.len())?;
            let check = |operation| {
                Ok(match operation {
                    KvOperation::Put { key, value } => {
                        let value = checked(&key, value)?;
                        KvOperation::Put { key, value }
                    }
                    KvOperation::Delete { key } => {
                        kv::check_key(&key)?;
                        KvOperation::Delete { key }
                    }
                })
            };
            let operations = operations.into_iter().map(check).collect::<Result<_, Problem>>()?;
            (Command::KvBatch { operations }, false)
        }
        Operation::Add { a, b } => (Command::Add { a, b }, false),
        Operation::Get { .. } => return Err(Problem::bad_request("a read is no command")),
    })
}

fn done(applied: Applied, conditional: bool) -> Result<Done, Problem> {
    match applied.answer {
        Answer::Rejected(rejection) => Err(Problem::rejected(rejection, applied.index, conditional)),
        Answer::Kv { revision } => Ok(Done::Written { revision, index: applied.index, term: applied.term }),
        Answer::Sum { result } => Ok(Done::Sum { result, index: applied.index, leader: applied.leader }),
        _ => Err(unexpected(&applied)),
    }
}

fn refusal(problem: Problem) -> Refusal {
    Refusal {
        code: problem.code.as_str().to_string(),
        retryable: problem.code.retryable(),
        outcome: match problem.outcome {
            super::problem::Outcome::NotApplied => Outcome::NotApplied,
            super::problem::Outcome::Applied => Outcome::Applied,
            super::problem::Outcome::Unknown => Outcome::Unknown,
        },
        detail: if problem.detail.is_empty() { problem.code.title().to_string() } else { problem.detail },
        index: problem.index,
        hint: problem.hint,
        leader_url: problem.leader_url,
    }
}
