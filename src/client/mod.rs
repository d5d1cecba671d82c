//! The HTTP client of the command line: several endpoints, retries, and honest outcomes.
//!
//! One [`Call`] is tried on one endpoint after another, with growing pauses, until it has an answer or its time is over.
//! A write carries one `Idempotency-Key` through all its tries, so that a try whose answer was lost can be repeated
//! without happening twice. When even that leaves it open whether the write happened, the error says so
//! ([`ClientError::outcome`] is `unknown`): it never guesses.

pub mod attempt;
pub mod error;
pub mod events;
pub mod native;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use attempt::{Attempt, Problem, attempt};
pub use error::{ClientError, Outcome, Tried};

/// First pause after all endpoints failed; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Longest pause between rounds.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Items asked for at once; the nodes' own limit.
const PAGE_ITEMS: usize = 1_000;
/// Time to connect to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where and for how long to try.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URLs of nodes, such as `http://127.0.0.1:7400`.
    pub endpoints: Vec<String>,
    /// For one call, all tries together.
    pub timeout: Duration,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<String>,
}

/// Talks to a cluster.
pub struct Client {
    http: reqwest::Client,
    options: Options,
    /// The endpoint that answered last: asked first next time.
    preferred: Mutex<Option<String>>,
}

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

/// What the tries of one call have shown so far.
#[derive(Default)]
struct Progress {
    tried: Vec<Tried>,
    problem: Option<Problem>,
    /// Why a write may have happened, once a try's answer was lost.
    in_doubt: Option<String>,
    hinted: Option<String>,
}

impl Client {
    /// A client for these endpoints.
    pub fn new(options: Options) -> Result<Client, ClientError> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(options.timeout))
            .redirect(reqwest::redirect::Policy::none())
            // Loopback and cluster addresses are not for a proxy.
            .no_proxy()
            .user_agent(concat!("super-node/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::failed(format!("cannot set up HTTP: {error}")))?;
        Ok(Client { http, options, preferred: Mutex::default() })
    }

    /// Where this client may ask.
    pub fn endpoints(&self) -> &[String] {
        &self.options.endpoints
    }

    /// Sends a call until it has an answer or its time is over.
    pub async fn send(&self, mut call: Call) -> Result<Answer, ClientError> {
        if call.is_write() {
            call = call.header("idempotency-key", random_key());
        }
        let deadline = Instant::now() + self.options.timeout + call.wait;
        let mut progress = Progress::default();
        let mut pause = PAUSE_MIN;
        loop {
            for endpoint in self.order(progress.hinted.take()) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                if let Some(result) = self.step(&endpoint, &call, left, &mut progress).await {
                    return result;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                return Err(self.give_up(&call, progress));
            }
            // Spread, so that many clients of a cluster that lost its leader do not come back at once.
            let spread = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(spread)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Fetches a list page by page, up to `limit` items if there is one.
    pub async fn pages(&self, call: Call, limit: Option<usize>) -> Result<Vec<Value>, ClientError> {
        let mut items: Vec<Value> = Vec::new();
        let mut call = call.query("limit", "");
        loop {
            let left = limit.map_or(PAGE_ITEMS, |limit| limit.saturating_sub(items.len()));
            if left == 0 {
                return Ok(items);
            }
            call.set_query("limit", left.min(PAGE_ITEMS).to_string());
            let answer = self.send(call.clone()).await?;
            let page: Page = answer.read()?;
            items.extend(page.items);
            match page.next {
                Value::Null => return Ok(items),
                Value::String(next) => call.set_query("after", next),
                next => call.set_query("after", next.to_string()),
            }
        }
    }

    /// Asks one endpoint once, without retries.
    pub async fn ask(&self, endpoint: &str, call: &Call) -> Result<Answer, ClientError> {
        let mut progress = Progress::default();
        match self.step(endpoint, call, self.options.timeout, &mut progress).await {
            Some(result) => result,
            None => Err(self.give_up(call, progress)),
        }
    }

    /// One try; `None` when another should follow.
    async fn step(
        &self,
        endpoint: &str,
        call: &Call,
        left: Duration,
        progress: &mut Progress,
    ) -> Option<Result<Answer, ClientError>> {
        // A node that hangs must not eat the time of those that would answer.
        let share = if self.options.endpoints.len() > 1 { self.options.timeout.mul_f64(0.4) } else { left };
        let limit = left.min(share.max(Duration::from_millis(250)) + call.wait);
        match attempt(&self.http, endpoint, call, self.options.token.as_deref(), limit).await {
            Attempt::Answered(answer) => {
                *self.preferred.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint.to_string());
                Some(Ok(answer))
            }
            Attempt::Refused { node, problem } if !problem.retryable => {
                progress.note(endpoint, node.as_deref(), problem.shown());
                Some(Err(problem.into_error(std::mem::take(&mut progress.tried), call)))
            }
            Attempt::Refused { node, problem } => {
                progress.note(endpoint, node.as_deref(), problem.shown());
                if problem.outcome == Some(Outcome::Unknown) && call.is_write() {
                    progress.in_doubt = Some(problem.detail.clone());
                }
                progress.hinted.clone_from(&problem.leader_url);
                progress.problem = Some(problem);
                None
            }
            Attempt::Lost { why, sent } => {
                if sent && call.is_write() {
                    progress.in_doubt = Some(format!("{} {why}", label(endpoint)));
                }
                progress.note(endpoint, None, why);
                None
            }
        }
    }

    /// Whom to ask in which order: where the leader is said to be, who answered last, then as given.
    fn order(&self, hinted: Option<String>) -> Vec<String> {
        let preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut order: Vec<String> = Vec::new();
        for endpoint in hinted.into_iter().chain(preferred).chain(self.options.endpoints.iter().cloned()) {
            if !order.contains(&endpoint) {
                order.push(endpoint);
            }
        }
        order
    }

    fn give_up(&self, call: &Call, progress: Progress) -> ClientError {
        let Progress { tried, problem, in_doubt, .. } = progress;
        if let Some(why) = in_doubt {
            return ClientError::unknown(why, tried, call.find_out.clone());
        }
        match problem {
            Some(problem) => problem.into_error(tried, call),
            None => ClientError::unreachable(self.options.timeout, tried, call.is_write()),
        }
    }
}

impl Progress {
    /// Remembers what came of the last try on an endpoint.
    fn note(&mut self, endpoint: &str, node: Option<&str>, what: String) {
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
