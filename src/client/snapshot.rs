//! Fetching a snapshot of the whole state.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;

use super::attempt::{self, Problem};
use super::error::{ClientError, Tried};
use super::{Client, label};

/// A node that sends nothing for so long is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Fetching failed.
#[derive(Debug)]
pub enum FetchError {
    /// The cluster gave none, or not a whole one.
    Client(ClientError),
    /// What came could not be kept.
    Keep(io::Error),
}

impl Client {
    /// Asks one endpoint after the other for a snapshot, and hands what comes of it to `keep`, piece by piece. Returns the
    /// endpoint that gave it. Whether it is whole is for its reader to see: its format says. `stale`: of what the node has
    /// applied, whether or not anybody leads.
    pub async fn snapshot(
        &self,
        stale: bool,
        keep: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<String, FetchError> {
        let mut tried = Vec::new();
        let mut refused = None;
        for endpoint in self.endpoints() {
            let mut request = self.http.get(format!("{endpoint}/v1/snapshot"));
            request = request.query(&[("level", if stale { "stale" } else { "linearizable" })]);
            if let Some(token) = &self.options.token {
                request = request.bearer_auth(token);
            }
            let what = match tokio::time::timeout(self.options.timeout, request.send()).await {
                Err(_elapsed) => format!("timeout {:?}", self.options.timeout),
                Ok(Err(error)) => attempt::describe(&error, self.options.timeout),
                Ok(Ok(response)) if !response.status().is_success() => {
                    let status = response.status();
                    let body = response.bytes().await.unwrap_or_default();
                    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
                    let what = problem.as_ref().map_or(status.to_string(), Problem::shown);
                    refused = problem.or(refused);
                    what
                }
                Ok(Ok(response)) => {
                    let mut pieces = response.bytes_stream();
                    loop {
                        match tokio::time::timeout(SILENCE_MAX, pieces.next()).await {
                            Ok(Some(Ok(piece))) => keep(&piece).map_err(FetchError::Keep)?,
                            Ok(None) => return Ok(endpoint.clone()),
                            Ok(Some(Err(_))) | Err(_) => {
                                // What was kept so far is of no use to another node's snapshot.
                                let text = format!("{} stopped in the middle of it", label(endpoint));
                                return Err(FetchError::Client(ClientError::failed(text)));
                            }
                        }
                    }
                }
            };
            tried.push(Tried { name: label(endpoint), endpoint: endpoint.clone(), what });
        }
        Err(FetchError::Client(match refused {
            Some(problem) => problem.into_error(tried, &super::Call::get("/v1/snapshot")),
            None => ClientError::unreachable(self.options.timeout, tried, false),
        }))
    }
}
