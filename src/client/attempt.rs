//! One try of one call on one endpoint.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::calls::Word;
use crate::config::value::show_duration;
use crate::network::tls;

use super::error::{ClientError, Outcome, Tried};
use super::{Answer, Call};

/// What came of a try.
pub(super) enum Attempt {
    /// An answer.
    Answered(Answer),
    /// The node said no.
    Refused {
        /// Its name, if it told.
        node: Option<String>,
        /// Why.
        problem: Problem,
    },
    /// No answer.
    Lost {
        /// In few words.
        why: String,
        /// Whether the request may have reached the node.
        sent: bool,
    },
}

/// The parts of a node's `application/problem+json` that matter here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Problem {
    #[serde(default)]
    pub(super) title: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) status: u16,
    pub(super) code: String,
    #[serde(default)]
    pub(super) retryable: bool,
    pub(super) outcome: Option<Outcome>,
    /// Present when the replicated state refused the request, for good.
    #[serde(default)]
    pub(super) index: Option<u64>,
    pub(super) leader_url: Option<String>,
    pub(super) hint: Option<String>,
}

impl Problem {
    /// What it says about a write.
    pub(super) fn word(&self) -> Word {
        match (self.outcome, self.index) {
            (Some(Outcome::NotApplied), Some(_)) => Word::RefusedForGood,
            (Some(Outcome::NotApplied), None) => Word::ThisTryDidNothing,
            _ => Word::Unknown,
        }
    }

    /// As it stands in the list of what was tried.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.status, self.code)
    }

    /// What the user gets to see.
    pub(super) fn into_error(self, tried: Vec<Tried>, call: &Call) -> ClientError {
        let message = match (self.title.is_empty(), self.detail.is_empty()) {
            (false, false) => format!("{}: {}", self.title, self.detail),
            (false, true) => self.title,
            _ => self.detail,
        };
        ClientError {
            code: self.code,
            message,
            // One node that answered tells nothing that the message does not.
            tried: if self.retryable { tried } else { Vec::new() },
            outcome: call.is_write().then(|| self.outcome.unwrap_or(Outcome::Unknown)),
            retryable: self.retryable,
            hint: self.hint,
        }
    }

    /// An answer that is not from a super-node, such as a proxy's error page.
    fn foreign(status: StatusCode) -> Problem {
        Problem {
            title: "unexpected answer".to_string(),
            detail: format!("status {status} without an explanation; is this a super-node?"),
            status: status.as_u16(),
            code: "failed".to_string(),
            retryable: status.is_server_error(),
            outcome: Some(if status.is_server_error() { Outcome::Unknown } else { Outcome::NotApplied }),
            index: None,
            leader_url: None,
            hint: None,
        }
    }
}

/// Sends the call once. `stamp`: headers of this try.
pub(super) async fn attempt(
    http: &reqwest::Client,
    endpoint: &str,
    call: &Call,
    stamp: &[(&'static str, String)],
    token: Option<&str>,
    limit: Duration,
) -> Attempt {
    let mut request = http.request(call.method.clone(), format!("{endpoint}{}", call.path)).timeout(limit);
    if !call.query.is_empty() {
        request = request.query(&call.query);
    }
    // Lets the node say in time that nothing has happened, instead of leaving us in doubt.
    request = request.header("super-node-timeout", (limit * 9 / 10).as_millis().to_string());
    for (name, value) in call.headers.iter().chain(stamp) {
        request = request.header(*name, value);
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = &call.body {
        request = request.header("content-type", "application/json").body(body.clone());
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return lost(&error, limit),
    };
    let status = response.status();
    let header = |name: &str| {
        let text = response.headers().get(name)?.to_str().ok()?;
        (!text.is_empty()).then(|| text.to_string())
    };
    let (node, leader) = (header("super-node-id"), header("super-node-leader"));
    let bytes = match response.bytes().await {
        Ok(bytes) => bytes,
        Err(error) => return lost(&error, limit),
    };
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        let node = node.unwrap_or_else(|| super::label(endpoint));
        let body = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
        return match body {
            Ok(body) => Attempt::Answered(Answer { status: status.as_u16(), node, leader, body }),
            Err(_) => Attempt::Refused { node: None, problem: Problem::foreign(status) },
        };
    }
    let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem::foreign(status));
    Attempt::Refused { node, problem }
}

fn lost(error: &reqwest::Error, limit: Duration) -> Attempt {
    // Nothing was sent if the connection was never made, or the request could not even be built.
    let sent = !error.is_connect() && !error.is_builder();
    Attempt::Lost { why: describe(error, limit), sent }
}

/// A transport error in few words.
pub(super) fn describe(error: &reqwest::Error, limit: Duration) -> String {
    if error.is_timeout() {
        return format!(
            "timeout {}",
            show_duration(Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(0)))
        );
    }
    let mut source = std::error::Error::source(error);
    let mut last = None;
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            if let Some(why) = tls::explain(io) {
                return why;
            }
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => return "refused".to_string(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => {
                    return "reset".to_string();
                }
                _ => {}
            }
        }
        last = Some(inner.to_string());
        source = inner.source();
    }
    last.unwrap_or_else(|| error.to_string())
}
