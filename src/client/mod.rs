//! The HTTP client: several endpoints, retries, and honest outcomes.
//!
//! One [`Call`] is tried on one endpoint after another, with growing pauses, until it has an answer or its time is over.
//! What is decided on the way is decided by [`crate::calls::Plan`], which the simulator runs too; here is its shell: HTTP,
//! the clock, the dice.
//!
//! A write carries one `Idempotency-Key` through all its tries, so that a try whose answer was lost can be repeated
//! without happening twice; within a [`Session`] it carries its sequence instead. When even that leaves it open whether the
//! write happened, the error says so ([`ClientError::outcome`] is `unknown`): it never guesses.

pub mod attempt;
pub mod error;
pub mod events;
pub mod membership;
pub mod native;
pub mod session;
pub mod snapshot;
pub mod verify;
pub mod watch;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::calls::{Endpoints, Guard, Heard, Kind, Next, Plan, Verdict};
use crate::network::tls;
use crate::types::Micros;

use attempt::{Attempt, Problem, attempt};
pub use error::{ClientError, Outcome, Tried};
pub use membership::NewSuperNode;
pub use session::Session;
pub use verify::VerifyWish;
pub use watch::PrefixWatch;

/// Items asked for at once; the nodes' own limit.
const PAGE_ITEMS: usize = 1_000;
/// Time to connect to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where and for how long to try.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Base URLs of nodes, such as `http://127.0.0.1:7400`.
    pub endpoints: Vec<String>,
    /// For one call, all tries together.
    pub timeout: Duration,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// The certificate of the authority that vouches for the nodes, for `https` endpoints; without it, the public ones do.
    pub ca: Option<PathBuf>,
    /// Sent with every request: the span of the caller's that it is part of (W3C Trace Context). What is no header is left out.
    pub traceparent: Option<String>,
}

/// Talks to a cluster.
pub struct Client {
    http: reqwest::Client,
    options: Options,
    /// Where the plans' time begins.
    origin: Instant,
    /// What the calls so far have shown of the endpoints.
    endpoints: Mutex<Endpoints>,
}

/// Headers of one try.
type Stamp = Vec<(&'static str, String)>;

/// One request, whichever node answers it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path, its segments encoded by [`segment`].
    pub path: String,
    /// Query parameters.
    pub query: Vec<(&'static str, String)>,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// The JSON body.
    pub body: Option<String>,
    /// How to find out whether a write happened whose answer was lost.
    pub find_out: Option<String>,
    /// Added to the time limit: how long the node itself was asked to wait.
    pub wait: Duration,
}

impl Call {
    /// A read.
    pub fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path)
    }

    /// Any request.
    pub fn new(method: Method, path: impl Into<String>) -> Call {
        Call {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            find_out: None,
            wait: Duration::ZERO,
        }
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Call {
        self.query.push((name, value.to_string()));
        self
    }

    /// Adds a query parameter, if there is a value.
    pub fn query_if(self, name: &'static str, value: Option<impl ToString>) -> Call {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    fn set_query(&mut self, name: &'static str, value: String) {
        self.query.retain(|(known, _)| *known != name);
        self.query.push((name, value));
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Call {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: &Value) -> Call {
        self.body = Some(body.to_string());
        self
    }

    /// Says how to find out whether a write happened whose answer was lost.
    pub fn find_out(mut self, command: impl Into<String>) -> Call {
        self.find_out = Some(command.into());
        self
    }

    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

/// What a node answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status, 2xx or 304.
    pub status: u16,
    /// The node that answered.
    pub node: String,
    /// The leader it knows of.
    pub leader: Option<String>,
    /// The JSON body; null when there is none.
    pub body: Value,
}

impl Answer {
    /// The body as a type.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let Answer { node, body, .. } = self;
        serde_json::from_value(body)
            .map_err(|error| ClientError::failed(format!("{node} answered something unexpected: {error}")))
    }
}

/// A list, read to its end.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The items, in order.
    pub items: Vec<Value>,
    /// The node that gave the last page.
    pub node: String,
    /// Who leads, as that node knows it.
    pub leader: Option<String>,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    next: Value,
}

/// Encodes a path segment: everything but letters, digits and `-._~` becomes `%XX`, the slash included.
pub fn segment(text: &str) -> Result<String, ClientError> {
    // Every URL library folds these two away, however they are written.
    if text.is_empty() || text == "." || text == ".." {
        return Err(ClientError::usage(format!("'{text}' cannot stand in a URL"), "choose another name"));
    }
    Ok(text
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect())
}

/// What the tries of one call have shown so far, in words.
#[derive(Default)]
struct Progress {
    tried: Vec<Tried>,
    problem: Option<Problem>,
    /// Why a write may have happened, once a try's answer was lost.
    in_doubt: Option<String>,
}

impl Client {
    /// A client for these endpoints.
    pub fn new(options: Options) -> Result<Client, ClientError> {
        let traceparent = options.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let http = tls::http(options.ca.as_deref())
            .map_err(|error| ClientError::usage(error.what, error.hint))?
            .connect_timeout(CONNECT_TIMEOUT.min(options.timeout))
            .redirect(reqwest::redirect::Policy::none())
            // Loopback and cluster addresses are not for a proxy.
            .no_proxy()
            .user_agent(concat!("super-node/", env!("CARGO_PKG_VERSION")))
            .default_headers(
                traceparent
                    .into_iter()
                    .map(|value| (HeaderName::from_static("traceparent"), value))
                    .collect(),
            )
            .build()
            .map_err(|error| ClientError::failed(format!("cannot set up HTTP: {error}")))?;
        let endpoints = Mutex::new(Endpoints::new(options.endpoints.iter().cloned()));
        Ok(Client { http, options, origin: Instant::now(), endpoints })
    }

    /// Where this client may ask.
    pub fn endpoints(&self) -> &[String] {
        &self.options.endpoints
    }

    /// Sends a call until it has an answer or its time is over.
    pub async fn send(&self, call: Call) -> Result<Answer, ClientError> {
        if !call.is_write() {
            return self.run(&call, Kind::Read, &Vec::new).await;
        }
        let key = random_key();
        self.run(&call, Kind::Write(Guard::Key), &|| vec![("idempotency-key", key.clone())]).await
    }

    /// Opens a session with its first write.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// Carries out the plan of a call. `stamp` gives the headers of each try.
    async fn run(
        &self,
        call: &Call,
        kind: Kind,
        stamp: &(dyn Fn() -> Stamp + Send + Sync),
    ) -> Result<Answer, ClientError> {
        let mut plan = Plan::new(kind, self.now(), self.options.timeout, call.wait);
        let mut progress = Progress::default();
        loop {
            let next = plan.next(&self.known_endpoints(), self.now(), rand::rng().random());
            let (endpoint, limit) = match next {
                Next::Try { endpoint, limit } => (endpoint, limit),
                Next::Pause(span) => {
                    tokio::time::sleep(span).await;
                    continue;
                }
                Next::Over(verdict) => return Err(self.conclude(call, verdict, progress)),
            };
            let token = self.options.token.as_deref();
            let attempt = attempt(&self.http, &endpoint, call, &stamp(), token, limit).await;
            let heard = heard(&attempt);
            plan.heard(&mut self.known_endpoints(), &endpoint, self.now(), &heard);
            match attempt {
                Attempt::Answered(answer) => return Ok(answer),
                other => progress.note(&endpoint, other, call.is_write()),
            }
        }
    }

    fn now(&self) -> Micros {
        Micros::default().after(self.origin.elapsed())
    }

    fn known_endpoints(&self) -> MutexGuard<'_, Endpoints> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to tell of a call that was not answered.
    fn conclude(&self, call: &Call, verdict: Verdict, progress: Progress) -> ClientError {
        let Progress { tried, problem, in_doubt } = progress;
        match (verdict, problem, in_doubt) {
            (Verdict::Unknown, Some(problem), _) if !problem.retryable => {
                let error = problem.into_error(tried, call);
                ClientError { outcome: Some(Outcome::Unknown), ..error }
            }
            (Verdict::Unknown, _, why) => {
                ClientError::unknown(why.unwrap_or_default(), tried, call.find_out.clone())
            }
            (_, Some(problem), _) => problem.into_error(tried, call),
            (_, None, _) => ClientError::unreachable(self.options.timeout, tried, call.is_write()),
        }
    }

    /// Fetches a list page by page, up to `limit` items if there is one.
    pub async fn pages(&self, call: Call, limit: Option<usize>) -> Result<Vec<Value>, ClientError> {
        Ok(self.listing(call, limit).await?.items)
    }

    /// The same, with who answered and who leads.
    pub async fn listing(&self, call: Call, limit: Option<usize>) -> Result<Listing, ClientError> {
        let mut items: Vec<Value> = Vec::new();
        let listing = self
            .each_page(call, limit, &mut |page| {
                items.extend(page);
                Ok::<_, ClientError>(())
            })
            .await?;
        Ok(Listing { items, ..listing })
    }

    /// The same, one page after the other: a list of any length in little memory. The answer holds no items.
    pub async fn each_page<E: From<ClientError>>(
        &self,
        call: Call,
        limit: Option<usize>,
        visit: &mut (dyn FnMut(Vec<Value>) -> Result<(), E> + Send),
    ) -> Result<Listing, E> {
        let mut listing = Listing::default();
        let mut call = call.query("limit", "");
        let mut seen = 0;
        loop {
            let left = limit.map_or(PAGE_ITEMS, |limit| limit.saturating_sub(seen));
            if left == 0 {
                return Ok(listing);
            }
            call.set_query("limit", left.min(PAGE_ITEMS).to_string());
            let answer = self.send(call.clone()).await?;
            (listing.node, listing.leader) = (answer.node.clone(), answer.leader.clone());
            let page: Page = answer.read()?;
            seen += page.items.len();
            visit(page.items)?;
            match page.next {
                Value::Null => return Ok(listing),
                Value::String(next) => call.set_query("after", next),
                next => call.set_query("after", next.to_string()),
            }
        }
    }

    /// Asks one endpoint once, without retries.
    pub async fn ask(&self, endpoint: &str, call: &Call) -> Result<Answer, ClientError> {
        let (token, limit) = (self.options.token.as_deref(), self.options.timeout);
        let attempt = attempt(&self.http, endpoint, call, &[], token, limit).await;
        let may_have_happened = matches!(attempt, Attempt::Lost { sent: true, .. }) && call.is_write();
        match attempt {
            Attempt::Answered(answer) => Ok(answer),
            other => {
                let mut progress = Progress::default();
                progress.note(endpoint, other, call.is_write());
                let verdict = if may_have_happened { Verdict::Unknown } else { Verdict::NotApplied };
                Err(self.conclude(call, verdict, progress))
            }
        }
    }
}

/// What an attempt means to the plan.
fn heard(attempt: &Attempt) -> Heard {
    match attempt {
        Attempt::Answered(_) => Heard::Answer,
        Attempt::Refused { problem, .. } => Heard::No {
            retryable: problem.retryable,
            word: problem.word(),
            leader: problem.leader_url.clone(),
        },
        Attempt::Lost { sent, .. } => Heard::Silence { sent: *sent },
    }
}

impl Progress {
    /// Remembers what came of the last try on an endpoint, for the report.
    fn note(&mut self, endpoint: &str, attempt: Attempt, write: bool) {
        match attempt {
            Attempt::Answered(_) => {}
            Attempt::Refused { node, problem } => {
                self.tried(endpoint, node.as_deref(), problem.shown());
                if problem.outcome == Some(Outcome::Unknown) && write {
                    self.in_doubt = Some(problem.detail.clone());
                }
                self.problem = Some(problem);
            }
            Attempt::Lost { why, sent } => {
                if sent && write {
                    self.in_doubt = Some(format!("{} {why}", label(endpoint)));
                }
                self.tried(endpoint, None, why);
            }
        }
    }

    fn tried(&mut self, endpoint: &str, node: Option<&str>, what: String) {
        match self.tried.iter_mut().find(|tried| tried.endpoint == endpoint) {
            Some(tried) => {
                tried.what = what;
                if let Some(node) = node {
                    tried.name = node.to_string();
                }
            }
            None => {
                let name = node.map_or_else(|| label(endpoint), str::to_string);
                self.tried.push(Tried { endpoint: endpoint.to_string(), name, what });
            }
        }
    }
}

/// An endpoint in few words.
fn label(endpoint: &str) -> String {
    endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).to_string()
}

/// 128 random bits as text.
fn random_key() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("a/b c?ä%").expect("usable"), "a%2Fb%20c%3F%C3%A4%25");
        assert!(segment("..").is_err());
        assert!(segment("").is_err());
    }

    #[test]
    fn keys_differ() {
        assert_ne!(random_key(), random_key());
        assert_eq!(random_key().len(), 32);
    }
}
