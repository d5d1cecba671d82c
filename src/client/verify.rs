//! Asking a node whether its ledger is sound, and hearing how far it has come: a long ledger takes a while.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;

use super::error::Tried;
use super::{Answer, Client, ClientError, attempt, label};

/// A node that says nothing for so long is given up. One interval of a large fleet is checked in far less.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Longest line, in bytes, that is believed.
const LINE_BYTES_MAX: usize = 8 << 20;

/// What to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyWish {
    /// Begin at the newest record.
    pub newest_first: bool,
    /// End after so many intervals; only from the newest on.
    pub intervals: Option<u64>,
    /// Compare MongoDB, too.
    pub mongodb: bool,
}

impl Client {
    /// Has a node check its ledger. `progress` hears how many of how many records are done. The first node that answers
    /// does it; if it falls silent in the middle, that is an error: another node's ledger is another answer.
    pub async fn verify(
        &self,
        wish: VerifyWish,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Answer, ClientError> {
        let mut tried = Vec::new();
        for endpoint in &self.options.endpoints {
            match self.open_check(endpoint, wish).await {
                Ok(response) => return read(response, endpoint, progress).await,
                Err(Refused::No(error)) => return Err(*error),
                Err(Refused::Unreachable(why)) => {
                    tried.push(Tried { endpoint: endpoint.clone(), name: label(endpoint), what: why });
                }
            }
        }
        Err(ClientError::unreachable(self.options.timeout, tried, false))
    }

    async fn open_check(&self, endpoint: &str, wish: VerifyWish) -> Result<reqwest::Response, Refused> {
        let from = if wish.newest_first { "newest" } else { "oldest" };
        let mut request = self
            .http
            .get(format!("{endpoint}/v1/ledger/verify"))
            .query(&[("from", from), ("progress", "true")])
            .query(&[("mongodb", wish.mongodb)]);
        if let Some(intervals) = wish.intervals {
            request = request.query(&[("intervals", intervals)]);
        }
        if let Some(token) = &self.options.token {
            request = request.bearer_auth(token);
        }
        let unreachable = |why: String| Refused::Unreachable(why);
        let response = tokio::time::timeout(self.options.timeout, request.send())
            .await
            .map_err(|_elapsed| unreachable(format!("timeout {:?}", self.options.timeout)))?
            .map_err(|error| unreachable(attempt::describe(&error, self.options.timeout)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body: Value = response.json().await.unwrap_or(Value::Null);
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_string);
        let mut error = ClientError::failed(text("detail").unwrap_or_else(|| status.to_string()));
        error.code = text("code").unwrap_or(error.code);
        error.hint = text("hint");
        Err(Refused::No(Box::new(error)))
    }
}

enum Refused {
    /// Another node may answer.
    Unreachable(String),
    /// The question is wrong, wherever it is asked.
    No(Box<ClientError>),
}

async fn read(
    response: reqwest::Response,
    endpoint: &str,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Answer, ClientError> {
    let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_string);
    let node = header("super-node-id").unwrap_or_else(|| label(endpoint));
    let (status, leader) = (response.status().as_u16(), header("super-node-leader"));
    let broken = |why: &str| ClientError::failed(format!("{node} did not finish its check: {why}"));
    let (mut chunks, mut line) = (response.bytes_stream(), Vec::new());
    loop {
        let chunk = match tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
            Err(_elapsed) => return Err(broken("it fell silent")),
            Ok(None) => return Err(broken("the connection ended")),
            Ok(Some(chunk)) => chunk.map_err(|error| broken(&error.to_string()))?,
        };
        for byte in chunk {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let value: Value = serde_json::from_slice(&line).map_err(|error| broken(&error.to_string()))?;
            line.clear();
            let number = |name: &str| value.get(name).and_then(Value::as_u64);
            match number("done").zip(number("total")) {
                Some((done, total)) => progress(done, total),
                None => return Ok(Answer { status, node, leader, body: value }),
            }
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(broken("a line without an end"));
        }
    }
}
