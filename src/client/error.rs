//! What the client says when a call failed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::value::show_duration;

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

/// What came of the last try on one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The endpoint.
    pub endpoint: String,
    /// The node's name if it told, else host and port.
    pub name: String,
    /// `refused`, `503 no_leader`, `timeout 2s`, ….
    pub what: String,
}

/// A call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    /// The node's code, or one of the client's own: `unreachable`, `unknown`, `usage`, `failed`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What was tried, one entry per endpoint.
    pub tried: Vec<Tried>,
    /// For a write: whether it happened.
    pub outcome: Option<Outcome>,
    /// Whether trying again later may help.
    pub retryable: bool,
    /// What to do.
    pub hint: Option<String>,
}

impl std::error::Error for ClientError {}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ClientError {
    fn new(code: &str, message: impl Into<String>) -> ClientError {
        ClientError {
            code: code.to_string(),
            message: message.into(),
            tried: Vec::new(),
            outcome: None,
            retryable: false,
            hint: None,
        }
    }

    /// The call itself makes no sense.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> ClientError {
        ClientError { hint: Some(hint.into()), ..ClientError::new("usage", message) }
    }

    /// A node answered, and knows of no leader.
    pub fn no_leader(message: impl Into<String>) -> ClientError {
        let hint = Some("super-node status --local".to_string());
        ClientError { hint, retryable: true, ..ClientError::new("no_leader", message) }
    }

    /// Something that has no better name.
    pub fn failed(message: impl Into<String>) -> ClientError {
        ClientError::new("failed", message)
    }

    /// Nobody answered.
    pub(super) fn unreachable(timeout: Duration, tried: Vec<Tried>, write: bool) -> ClientError {
        ClientError {
            tried,
            outcome: write.then_some(Outcome::NotApplied),
            retryable: true,
            hint: Some("is super-node running? --endpoints (SUPER_NODE_ENDPOINTS) says where".to_string()),
            ..ClientError::new("unreachable", format!("no node answered within {}", show_duration(timeout)))
        }
    }

    /// A write's answer was lost, and no retry brought it back.
    pub(super) fn unknown(why: String, tried: Vec<Tried>, find_out: Option<String>) -> ClientError {
        ClientError {
            tried,
            outcome: Some(Outcome::Unknown),
            retryable: true,
            hint: find_out,
            ..ClientError::new("unknown", format!("outcome unknown: {why}"))
        }
    }
}
