//! Errors as `application/problem+json` (RFC 9457).
//!
//! A handler returns a [`Problem`]; the outermost layer turns it into a body, because only there the current leader
//! and term are at hand (see `super::finish`).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::ledger::command::Rejection;
use crate::ledger::keyspace::KeyspaceError;
use crate::node::handle::Failure;
use crate::types::Index;

/// The `code` of a problem: what programs decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request itself is wrong.
    BadRequest,
    /// No valid token.
    Unauthorized,
    /// The token does not allow this.
    Forbidden,
    /// The thing does not exist.
    NotFound,
    /// A precondition did not hold. Status 412 when the request stated it (`If-Match`, `If-None-Match`), else 409.
    Conflict,
    /// The client session is not known any more.
    SessionExpired,
    /// The idempotency key is older than the answers that are remembered.
    KeyExpired,
    /// The body, or a part of it, is beyond its limit.
    TooLarge,
    /// More was claimed than the balance holds.
    InsufficientFunds,
    /// The member is suspended.
    Suspended,
    /// This node does not lead and was asked not to forward.
    NotLeader,
    /// Nobody leads, or the leader is not known.
    NoLeader,
    /// A queue is full.
    Overloaded,
    /// No answer in time.
    Timeout,
    /// The node is stopping.
    Draining,
    /// The state cannot be read.
    Damaged,
}

impl Code {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::BadRequest => "bad_request",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::Conflict => "conflict",
            Code::SessionExpired => "session_expired",
            Code::KeyExpired => "key_expired",
            Code::TooLarge => "too_large",
            Code::InsufficientFunds => "insufficient_funds",
            Code::Suspended => "suspended",
            Code::NotLeader => "not_leader",
            Code::NoLeader => "no_leader",
            Code::Overloaded => "overloaded",
            Code::Timeout => "timeout",
            Code::Draining => "draining",
            Code::Damaged => "damaged",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Code::BadRequest => "bad request",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not found",
            Code::Conflict => "conflict",
            Code::SessionExpired => "session expired",
            Code::KeyExpired => "key expired",
            Code::TooLarge => "too large",
            Code::InsufficientFunds => "insufficient funds",
            Code::Suspended => "suspended",
            Code::NotLeader => "not the leader",
            Code::NoLeader => "no leader",
            Code::Overloaded => "overloaded",
            Code::Timeout => "timeout",
            Code::Draining => "draining",
            Code::Damaged => "damaged",
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Conflict => StatusCode::CONFLICT,
            Code::SessionExpired | Code::KeyExpired => StatusCode::GONE,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::InsufficientFunds | Code::Suspended => StatusCode::UNPROCESSABLE_ENTITY,
            Code::NotLeader => StatusCode::TEMPORARY_REDIRECT,
            Code::NoLeader | Code::Overloaded | Code::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Code::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn retryable(self) -> bool {
        matches!(self, Code::NotLeader | Code::NoLeader | Code::Overloaded | Code::Timeout | Code::Draining)
    }
}

/// Whether a write happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did not and will not.
    NotApplied,
    /// It did.
    Applied,
    /// It may have, or may still.
    Unknown,
}

/// Why a request did not do what was asked.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What programs decide on.
    pub code: Code,
    /// The HTTP status.
    pub status: StatusCode,
    /// In words, for this occurrence.
    pub detail: String,
    /// Whether the write happened.
    pub outcome: Outcome,
    /// The log position at which the replicated state refused it, if that was who did, and if the same holds for every
    /// other try of the request.
    pub index: Option<Index>,
    /// What to do, if there is something.
    pub hint: Option<String>,
    /// Where the leader takes requests, if known.
    pub leader_url: Option<String>,
    /// More headers of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of a problem.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: Code,
    leader: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_url: Option<&'a str>,
    term: u64,
    retryable: bool,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Index>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Problem {
    /// A problem with the code's usual status.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        let mut headers = Vec::new();
        if code.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        Problem {
            code,
            status: code.status(),
            detail: detail.into(),
            outcome: Outcome::NotApplied,
            index: None,
            hint: None,
            leader_url: None,
            headers,
        }
    }

    /// The request itself is wrong.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(Code::BadRequest, detail)
    }

    /// The thing does not exist.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(Code::NotFound, detail)
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// The machine rejected a command at a log position. `conditional`: the request stated a precondition.
    pub fn rejected(rejection: Rejection, index: Index, conditional: bool) -> Problem {
        let index = (!rejection.leaves_other_tries_open()).then_some(index);
        let problem = match rejection {
            Rejection::Conflict(why) => {
                let mut problem = Problem::new(Code::Conflict, why);
                if conditional {
                    problem.status = StatusCode::PRECONDITION_FAILED;
                }
                problem
            }
            Rejection::Stale(why) => Problem::new(Code::Conflict, why),
            Rejection::NotFound(why) => Problem::not_found(why),
            Rejection::BadRequest(why) => Problem::bad_request(why),
            Rejection::InsufficientFunds(why) => Problem::new(Code::InsufficientFunds, why)
                .hint("super-node ledger balances shows what there is; the claim's number is still free"),
            Rejection::Suspended(why) => Problem::new(Code::Suspended, why)
                .hint("claim again when the member is active; super-node member show tells"),
            Rejection::SessionExpired(why) => Problem::new(Code::SessionExpired, why)
                .hint("open a new session; read back what earlier tries did before you repeat them there"),
            Rejection::KeyExpired(why) => Problem::new(Code::KeyExpired, why)
                .hint("read back what earlier tries did; then repeat the write under a new key, if need be"),
            Rejection::OutsideWindow(why) => {
                // Nothing was done now. But it may have been before, and the answer is forgotten.
                let mut problem = Problem::new(Code::Conflict, why);
                problem.outcome = Outcome::Unknown;
                problem.hint("a sequence belongs to one request: use the next one for another")
            }
        };
        Problem { index, ..problem }
    }

    /// A write or read did not come to an answer. Redirects are made by [`super::ApiState::failed`], which knows the
    /// leader's URL.
    pub(super) fn failed(failure: Failure) -> Problem {
        match failure {
            Failure::NoLeader | Failure::NotLeader { .. } => {
                Problem::new(Code::NoLeader, "").hint("super-node status --local")
            }
            Failure::Overloaded => Problem::new(Code::Overloaded, "this node's queue is full")
                .hint("send less at once, and retry"),
            Failure::DiskFull { node } => Problem::new(
                Code::Overloaded,
                format!("the disk of the leader {node} has less room than storage.reserve: writes are refused, reads go on"),
            )
            .hint(format!("make room on the disk of {node}; writes are taken again by themselves")),
            Failure::Superseded => {
                Problem::new(Code::NoLeader, "a new leader replaced the entry before it was committed")
                    .hint("retry: the new leader takes it")
            }
            Failure::Unknown(why) => {
                let mut problem = Problem::new(Code::Timeout, why).hint(
                    "retry with the same Idempotency-Key or session sequence, or read back whether it happened",
                );
                problem.outcome = Outcome::Unknown;
                problem
            }
            Failure::Timeout => Problem::new(Code::Timeout, "the cluster did not confirm the read in time")
                .hint("?level=stale reads what this node has"),
            Failure::Draining => {
                Problem::new(Code::Draining, "this node is stopping").hint("ask another node")
            }
            Failure::Change(error) => Problem::new(Code::Conflict, error.to_string()),
            Failure::ChangePending => {
                Problem::new(Code::Conflict, "another change of the super-nodes is under way")
                    .hint("retry when super-node status shows that it is over")
            }
            Failure::NoTarget => Problem::new(Code::Conflict, "nobody can take over"),
            Failure::TransferAborted { to } => {
                Problem::new(Code::Conflict, format!("{to} did not take over in time; the leader leads on"))
                    .hint("retry, or choose another node")
            }
            Failure::Removed => Problem::new(Code::NoLeader, "this node was removed from the cluster").hint(
                "ask another node; to bring this one back, empty its data directory and start it with --join",
            ),
            Failure::Damaged(why) => Problem::new(Code::Damaged, why).hint("super-node ledger verify"),
        }
    }

    /// The body, with what the node knows now.
    pub(super) fn body<'a>(&'a self, leader: Option<&'a str>, term: u64) -> Body<'a> {
        Body {
            kind: format!("urn:super-node:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            leader,
            leader_url: self.leader_url.as_deref(),
            term,
            retryable: self.code.retryable(),
            outcome: self.outcome,
            index: self.index,
            hint: self.hint.as_deref(),
        }
    }
}

impl From<KeyspaceError> for Problem {
    fn from(error: KeyspaceError) -> Problem {
        Problem::new(Code::Damaged, error.to_string()).hint("see the node's log; super-node ledger verify")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::ChangeError;

    #[test]
    fn a_problem_says_of_retries_and_outcome_what_the_failure_says() {
        let failures = [
            Failure::NoLeader,
            Failure::NotLeader { leader: None },
            Failure::Overloaded,
            Failure::Superseded,
            Failure::Unknown("lost".to_string()),
            Failure::Timeout,
            Failure::Draining,
            Failure::Damaged("row".to_string()),
            Failure::Change(ChangeError::AlreadyMember),
            Failure::ChangePending,
            Failure::NoTarget,
            Failure::TransferAborted { to: "n2".parse().expect("a name") },
            Failure::Removed,
            Failure::DiskFull { node: "n1".parse().expect("a name") },
        ];
        for failure in failures {
            let problem = Problem::failed(failure.clone());
            assert_eq!(problem.code.retryable(), failure.is_retryable(), "{failure}");
            assert_eq!(problem.outcome == Outcome::Unknown, failure.leaves_open(), "{failure}");
            assert_eq!(problem.index, None, "{failure}: no word of the replicated state");
        }
    }

    #[test]
    fn only_a_word_that_holds_for_every_try_carries_a_position() {
        let text = || "why".to_string();
        for (rejection, index, outcome) in [
            (Rejection::Conflict(text()), Some(Index(7)), Outcome::NotApplied),
            (Rejection::NotFound(text()), Some(Index(7)), Outcome::NotApplied),
            (Rejection::BadRequest(text()), Some(Index(7)), Outcome::NotApplied),
            (Rejection::Stale(text()), Some(Index(7)), Outcome::NotApplied),
            (Rejection::InsufficientFunds(text()), Some(Index(7)), Outcome::NotApplied),
            (Rejection::Suspended(text()), Some(Index(7)), Outcome::NotApplied),
            (Rejection::SessionExpired(text()), None, Outcome::NotApplied),
            (Rejection::KeyExpired(text()), None, Outcome::NotApplied),
            (Rejection::OutsideWindow(text()), None, Outcome::Unknown),
        ] {
            let problem = Problem::rejected(rejection.clone(), Index(7), false);
            assert_eq!((problem.index, problem.outcome), (index, outcome), "{rejection}");
        }
    }
}
