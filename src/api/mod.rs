//! HTTP: `/v1`, events, probes and metrics over a running node.
//!
//! A request is read by [`extract`], becomes a command or a read on the [`Handle`], and its answer becomes JSON. What
//! goes wrong becomes a [`Problem`]. Which requests there are stands in [`routes`], with what they take and give. `finish` wraps every answer: headers about the node, problem bodies, metrics.
//! Nothing here decides anything: writes go through the log, reads look at what was applied.

pub mod agents;
pub mod dashboard;
pub mod doctor;
pub mod events;
pub mod exposition;
pub mod extract;
pub mod guard;
pub mod history;
pub mod kv;
mod kv_watch;
mod listen;
pub mod members;
pub mod money;
mod native;
pub mod nodes;
pub mod openapi;
pub mod operations;
pub mod policy;
pub mod problem;
pub mod profile;
pub mod routes;
pub mod sessions;
pub mod snapshot;
pub mod verify;

use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::{AgentsSettings, HttpSettings};
use crate::database::errors::ProjectionError;
use crate::database::verify::ComparisonReport;
use crate::ledger::command::{Answer, Applied, Command, Request};
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::metrics::{Metrics, RouteLabels};
use crate::network::peers::Link;
use crate::network::tls::Tls;
use crate::node::handle::{Failure, Handle, ReadLevel};
use crate::node::status::{NodeStatus, RoleName};
use crate::traces::{self, Tracer};
use crate::types::{Index, NodeId};

pub use guard::Guard;
pub use listen::serve_clients;

use dashboard::ledger::Soundness;
use dashboard::recorder::Recorder;
use extract::{Params, once, patience};
use problem::{Code, Problem};

/// How long open connections may linger once the node is stopping.
const GRACE: Duration = Duration::from_secs(3);

// What every answer says about the node that gives it.
const ID: HeaderName = HeaderName::from_static("super-node-id");
const LEADER: HeaderName = HeaderName::from_static("super-node-leader");
const TERM: HeaderName = HeaderName::from_static("super-node-term");
/// W3C Trace Context: of a request, its caller's span; of an answer, the request's own, if it is followed.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const INDEX: HeaderName = HeaderName::from_static("super-node-index");

tokio::task_local! {
    /// The request at hand, for what every handler needs of its headers.
    static ASKED: Asked;
}

/// See [`ASKED`].
#[derive(Default)]
struct Asked {
    /// How long its caller waits for the answer.
    patience: Option<Duration>,
    /// What the answer says of its trace.
    traceparent: RefCell<Option<String>>,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Asked {
        // A wrong one is refused by writes, which alone depend on it.
        Asked { patience: patience(headers).ok().flatten(), ..Asked::default() }
    }
}

/// Runs what answers a request.
async fn answering(asked: Asked, answer: impl Future<Output = Response>) -> Response {
    let answer = async {
        let mut response = answer.await;
        let said = ASKED.with(|asked| asked.traceparent.take());
        let said = said.and_then(|text| HeaderValue::from_str(&text).ok());
        response.headers_mut().extend(said.map(|said| (TRACEPARENT, said)));
        response
    };
    ASKED.scope(asked, answer).await
}

/// Compares MongoDB with the ledger of this node.
pub type Compare = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<ComparisonReport, ProjectionError>> + Send>> + Send + Sync,
>;

/// What every handler needs. Cheap to clone: every request does so several times.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

struct Shared {
    parts: ApiParts,
    /// Counts what is asked most; looked up once.
    key_answered: Counter,
    /// One for each snapshot that may be under way.
    snapshots: Arc<Semaphore>,
    /// What the pages remember.
    recorder: Arc<Recorder>,
    /// One for each page that may follow this node.
    live_places: Arc<Semaphore>,
    /// What a look at the whole ledger found last.
    soundness: Arc<Mutex<Option<Soundness>>>,
}

impl From<ApiParts> for ApiState {
    fn from(parts: ApiParts) -> ApiState {
        let labels = labels(kv::ROUTE, StatusCode::OK);
        let key_answered = parts.metrics.http_requests.get_or_create(&labels).clone();
        let snapshots = Arc::new(Semaphore::new(snapshot::SNAPSHOTS_MAX));
        ApiState(Arc::new(Shared {
            parts,
            key_answered,
            snapshots,
            recorder: Arc::default(),
            live_places: Arc::new(Semaphore::new(dashboard::live::LIVE_MAX)),
            soundness: Arc::default(),
        }))
    }
}

fn labels(route: &str, status: StatusCode) -> RouteLabels {
    RouteLabels { route: route.to_string(), code: status.as_str().to_string() }
}

impl std::ops::Deref for ApiState {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.0.parts
    }
}

/// What an [`ApiState`] is made of.
pub struct ApiParts {
    /// The running node.
    pub handle: Handle,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// The client URL of a super-node, if known: where a redirect points to.
    pub client_url: Arc<dyn Fn(&NodeId) -> Option<String> + Send + Sync>,
    /// Compares MongoDB with the ledger, if one is configured.
    pub compare: Option<Compare>,
    /// `[http]`
    pub http: HttpSettings,
    /// `[agents]`
    pub agents: AgentsSettings,
    /// The highest position of a write that was answered here.
    pub newest: AtomicU64,
    /// Ends event streams and long polls.
    pub stopping: CancellationToken,
    /// What a node tells of its surroundings.
    pub about: Surroundings,
    /// Follows writes, if there is a collector of traces.
    pub tracer: Option<Tracer>,
    /// Who may do what.
    pub guard: Guard,
    /// Certificates, if connections are encrypted.
    pub tls: Option<Tls>,
}

/// What a node tells of its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// How it is connected with the others.
    pub links: Arc<dyn Fn() -> Vec<Link> + Send + Sync>,
    /// Where its data lies; `None` if it keeps none.
    pub data_dir: Option<PathBuf>,
    /// Its shortest election timeout, in milliseconds.
    pub election_min_ms: u64,
}

/// Everything under one roof.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for route in routes::table() {
        router = router.route(route.path, route.methods);
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(state.clone(), finish))
        .with_state(state)
}

/// Serves a router until `stopping` is cancelled, then lets open requests end for a few seconds.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stopping: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Answers are small and whole: waiting for more to send only delays them.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY refused");
        }
    });
    let patience = {
        let stopping = stopping.clone();
        async move {
            stopping.cancelled().await;
            tokio::time::sleep(GRACE).await;
        }
    };
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).into_future() => served,
        () = patience => Ok(()),
    }
}

/// How a read wants to be answered.
pub(crate) struct ReadWish {
    level: ReadLevel,
    max_stale: Option<Duration>,
    forward: bool,
    uri: Uri,
}

/// The parameters that [`ReadWish::parse`] reads.
pub(crate) const READ_PARAMETERS: [&str; 3] = ["level", "max_stale", "forward"];

impl ReadWish {
    pub(crate) fn parse(params: &Params, uri: &Uri) -> Result<ReadWish, Problem> {
        let level = match params.get("level") {
            None | Some("linearizable") => ReadLevel::Linearizable,
            Some("lease") => ReadLevel::Lease,
            Some("stale") => ReadLevel::Stale,
            Some(other) => {
                let detail = format!("level={other} is not known: linearizable, lease or stale");
                return Err(Problem::bad_request(detail));
            }
        };
        let max_stale = params.duration("max_stale", Duration::from_secs(3_600))?;
        if max_stale.is_some() && level != ReadLevel::Stale {
            return Err(Problem::bad_request("max_stale only goes with level=stale"));
        }
        Ok(ReadWish { level, max_stale, forward: params.truth("forward", true)?, uri: uri.clone() })
    }
}

impl ApiState {
    /// What the pages remember.
    pub(crate) fn recorder(&self) -> Arc<Recorder> {
        self.0.recorder.clone()
    }

    /// One for each page that may follow this node.
    pub(crate) fn live_places(&self) -> Arc<Semaphore> {
        self.0.live_places.clone()
    }

    /// What a look at the whole ledger found last.
    pub(crate) fn soundness(&self) -> Arc<Mutex<Option<Soundness>>> {
        self.0.soundness.clone()
    }

    /// Waits until this node's view is as fresh as the wish demands.
    pub(crate) async fn fresh(&self, wish: &ReadWish) -> Result<(), Problem> {
        if wish.level != ReadLevel::Stale {
            let lease = wish.level == ReadLevel::Lease;
            // Whoever asks with less patience must hear in time that there is no leader, not nothing.
            let asked = ASKED.try_with(|asked| asked.patience).ok().flatten();
            let timeout = asked.map_or(self.http.timeout, |asked| asked.min(self.http.timeout));
            let barrier = self.handle.read_barrier(lease, wish.forward, timeout).await;
            barrier.map_err(|failure| self.failed(failure, &wish.uri))?;
        }
        let Some(bound) = wish.max_stale else { return Ok(()) };
        let status = self.handle.status.borrow().clone();
        match staleness(&status) {
            Some(age) if age <= bound => Ok(()),
            Some(age) => Err(Problem::new(
                Code::NoLeader,
                format!("last heard of the leader {age:?} ago, more than {bound:?}"),
            )),
            None => Err(Problem::new(Code::NoLeader, "never heard of a leader")),
        }
    }

    /// Runs `work` on a consistent view, away from the threads that serve connections.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Reader) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let handle = self.handle.clone();
        let task = tokio::task::spawn_blocking(move || {
            let view = handle.view()?;
            work(&*view)
        });
        task.await.map_err(|error| Problem::new(Code::Damaged, format!("the read failed: {error}")))?
    }

    /// Runs `work`, which must be one look at one key, on the spot: that is nearly always a look into memory, and handing
    /// it to another thread would cost more.
    pub(crate) fn glance<T>(
        &self,
        work: impl FnOnce(&dyn Reader) -> Result<T, KeyspaceError>,
    ) -> Result<T, Problem> {
        Ok(self.handle.view().and_then(|view| work(&*view))?)
    }

    /// Freshness first, then [`ApiState::look`].
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        wish: &ReadWish,
        work: impl FnOnce(&dyn Reader) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.fresh(wish).await?;
        self.look(work).await
    }

    /// Sends a command through the log. `conditional`: the request stated a precondition.
    pub(crate) async fn submit(
        &self,
        command: Command,
        headers: &HeaderMap,
        uri: &Uri,
        conditional: bool,
    ) -> Result<Applied, Problem> {
        let forward = Params::parse(uri, &["forward"])?.truth("forward", true)?;
        let request = Request { once: once(headers)?, command };
        let patience = patience(headers)?.map_or(self.http.timeout, |asker| asker.min(self.http.timeout));
        let followed = self.tracer.as_ref().and_then(|tracer| {
            let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
            tracer.begin(parent, uri.path())
        });
        if let Some(followed) = &followed {
            // Outside of a request nobody wants to know.
            let _told = ASKED.try_with(|asked| asked.traceparent.replace(Some(followed.traceparent())));
        }
        let traced = followed.as_ref().map(traces::Request::traced);
        let applied = self.handle.submit_traced(request, forward, patience, traced).await;
        if let Some(followed) = followed {
            followed.end(applied.as_ref().err().map(ToString::to_string).as_deref());
        }
        let applied = applied.map_err(|failure| self.failed(failure, uri))?;
        self.saw(applied.index);
        match applied.answer {
            Answer::Rejected(rejection) => Err(Problem::rejected(rejection, applied.index, conditional)),
            _ => Ok(applied),
        }
    }

    /// A write at this position was answered here.
    fn saw(&self, index: Index) {
        self.newest.fetch_max(index.0, Ordering::Relaxed);
    }

    /// The problem of a failure: says what is known of the leader, and where it is.
    fn failed(&self, failure: Failure, uri: &Uri) -> Problem {
        let status = self.handle.status.borrow().clone();
        match &failure {
            Failure::NotLeader { leader } => {
                let leader = leader.as_ref().or(status.leader.as_ref());
                match leader.and_then(|leader| Some((leader, (self.client_url)(leader)?))) {
                    Some((leader, url)) => redirect(leader, &url, uri),
                    None => without_leader(&status, Problem::failed(failure)),
                }
            }
            Failure::NoLeader => without_leader(&status, Problem::failed(failure)),
            _ => Problem::failed(failure),
        }
    }
}

fn redirect(leader: &NodeId, url: &str, uri: &Uri) -> Problem {
    let mut problem = Problem::new(Code::NotLeader, format!("{leader} leads"));
    let target = format!("{url}{}", uri.path_and_query().map_or("/", |path| path.as_str()));
    if let Ok(location) = HeaderValue::from_str(&target) {
        problem.headers.push((header::LOCATION, location));
    }
    problem.leader_url = Some(url.to_string());
    problem
}

fn without_leader(status: &NodeStatus, mut problem: Problem) -> Problem {
    let reachable = status.voters.iter().filter(|voter| {
        **voter == status.id || status.nodes.iter().any(|node| node.id == **voter && node.up)
    });
    problem.detail = format!(
        "{} of {} voters reachable, {} is {} in term {}",
        reachable.count(),
        status.voters.len(),
        status.id,
        role_name(status.role),
        status.term
    );
    problem
}

/// The name of a role as JSON has it.
pub fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Leader => "leader",
        RoleName::Follower => "follower",
        RoleName::Candidate => "candidate",
        RoleName::Learner => "learner",
    }
}

/// How long ago this node last heard of the leader; zero on the leader itself.
fn staleness(status: &NodeStatus) -> Option<Duration> {
    let leader = status.leader.as_ref()?;
    if *leader == status.id {
        return Some(Duration::ZERO);
    }
    let millis = status.nodes.iter().find(|node| node.id == *leader)?.contact_ms?;
    Some(Duration::from_millis(millis))
}

/// An answer that the machine never gives to this command.
fn unexpected(applied: &Applied) -> Problem {
    Problem::new(Code::Damaged, format!("the machine answered {:?} to another command", applied.answer))
}

/// A page of a list. `next` is passed as `after`; null at the end.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    items: Vec<T>,
    next: Option<Value>,
}

impl<T> Page<T> {
    /// Of up to `limit + 1` items: the last one only tells that there is more.
    pub(crate) fn new(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> Value) -> Page<T> {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Page { items, next }
    }

    /// The same page with other items.
    pub(crate) fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next: self.next }
    }
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found(format!("no such path: {}", uri.path())).hint("see / for the paths that exist")
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let mut problem = Problem::bad_request(format!("{method} is not a method of {}", uri.path()));
    problem.status = StatusCode::METHOD_NOT_ALLOWED;
    problem
}

/// The outermost layer: problem bodies, headers about the node, metrics.
async fn finish(State(state): State<ApiState>, request: HttpRequest, next: Next) -> Response {
    let started = Instant::now();
    let route =
        request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_string();
    let page = dashboard::wants_page(request.uri().path(), request.method(), request.headers());
    let mut response = next.run(request).await;
    if page {
        response = dashboard::explain(&state, response);
    }
    finished(&state, &route, started, response)
}

/// What [`finish`] does with an answer to a request of this route.
fn finished(state: &ApiState, route: &str, started: Instant, mut response: Response) -> Response {
    let (id, leader, term) = {
        let status = state.handle.status.borrow();
        (status.id.clone(), status.leader.clone(), status.term)
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let kept = response.headers_mut().remove(header::ALLOW);
        response =
            (problem.status, Json(problem.body(leader.as_ref().map(NodeId::as_str), term.0))).into_response();
        let media = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        response.headers_mut().extend(kept.map(|allow| (header::ALLOW, allow)));
        response.headers_mut().extend(problem.headers);
    }
    // A write that another node ordered may not be applied here yet; its answer must not name an older position.
    let applied = state.handle.applied.borrow().0.max(state.newest.load(Ordering::Relaxed));
    let name = |name: &str| HeaderValue::from_str(name).expect("names are visible ASCII");
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(ID, name(id.as_str()));
    headers.insert(LEADER, name(leader.as_ref().map_or("", NodeId::as_str)));
    headers.insert(TERM, HeaderValue::from(term.0));
    headers.insert(INDEX, HeaderValue::from(applied));
    if route == kv::ROUTE && response.status() == StatusCode::OK {
        state.0.key_answered.inc();
    } else {
        state.metrics.http_requests.get_or_create(&labels(route, response.status())).inc();
    }
    state.metrics.http_request_seconds.observe(started.elapsed().as_secs_f64());
    response
}
