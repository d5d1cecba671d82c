//! Reading the event stream of a node.

use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::calls::PAUSE_MAX;
use crate::node::events::NodeEvent;

use super::error::{ClientError, Tried};
use super::{Client, attempt, label};

/// A node sends a sign of life at least this often (`http.keep_alive` is at most 5 minutes).
const SILENCE_MAX: Duration = Duration::from_secs(330);
/// Largest event, in bytes, that is believed.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Go on after the remembered events.
    pub follow: bool,
    /// Only events of this kind.
    pub kind: Option<String>,
    /// Only events after this number.
    pub after: u64,
}

impl Client {
    /// Hands every event to `visit` until it breaks, or, without `follow`, until the remembered ones are over. A lost
    /// connection is taken up again on the same node: numbers mean nothing on another.
    pub async fn events(
        &self,
        mut wish: Wish,
        visit: &mut (dyn FnMut(NodeEvent) -> ControlFlow<()> + Send),
    ) -> Result<(), ClientError> {
        let mut endpoint: Option<String> = None;
        let mut tried: Vec<Tried> = Vec::new();
        let mut deadline = Instant::now() + self.options.timeout;
        loop {
            let candidates =
                endpoint.clone().map_or_else(|| self.options.endpoints.clone(), |known| vec![known]);
            for candidate in candidates {
                match self.read_stream(&candidate, &mut wish, visit).await {
                    Ok(ControlFlow::Break(())) => return Ok(()),
                    Ok(ControlFlow::Continue(())) => {
                        endpoint = Some(candidate);
                        deadline = Instant::now() + self.options.timeout;
                        break;
                    }
                    Err(why) => {
                        tried.retain(|tried| tried.endpoint != candidate);
                        tried.push(Tried { name: label(&candidate), endpoint: candidate, what: why });
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(ClientError::unreachable(self.options.timeout, tried, false));
            }
            tokio::time::sleep(PAUSE_MAX / 2).await;
        }
    }

    /// Reads one connection. `Continue` when it ended and should be taken up again.
    async fn read_stream(
        &self,
        endpoint: &str,
        wish: &mut Wish,
        visit: &mut (dyn FnMut(NodeEvent) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>, String> {
        let mut request = self.http.get(format!("{endpoint}/v1/events"));
        request = request.query(&[("follow", wish.follow.to_string())]).header("last-event-id", wish.after);
        if let Some(kind) = &wish.kind {
            request = request.query(&[("type", kind)]);
        }
        if let Some(token) = &self.options.token {
            request = request.bearer_auth(token);
        }
        let response = tokio::time::timeout(self.options.timeout, request.send()).await;
        let response = match response {
            Err(_elapsed) => return Err(format!("timeout {:?}", self.options.timeout)),
            Ok(Err(error)) => return Err(attempt::describe(&error, self.options.timeout)),
            Ok(Ok(response)) if !response.status().is_success() => return Err(response.status().to_string()),
            Ok(Ok(response)) => response,
        };
        let (mut parser, mut chunks) = (Parser::default(), response.bytes_stream());
        loop {
            let chunk = match tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) if !wish.follow => return Ok(ControlFlow::Break(())),
                Ok(None | Some(Err(_))) | Err(_) => return Ok(ControlFlow::Continue(())),
            };
            for data in parser.feed(&chunk) {
                let event: NodeEvent =
                    serde_json::from_str(&data).map_err(|error| format!("bad event: {error}"))?;
                wish.after = event.id;
                if visit(event).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
}

/// Cuts a stream into the `data` of its events (WHATWG HTML, section 9.2).
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    data: String,
}

impl Parser {
    fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in chunk {
            if byte != b'\n' {
                if self.line.len() + self.data.len() < EVENT_BYTES_MAX {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                if !self.data.is_empty() {
                    events.push(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_out_of_any_chunks() {
        let text = b": hello\n\nid: 1\nevent: a\ndata: {\"x\":\ndata: 1}\n\ndata:two\r\n\r\n";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let events: Vec<String> = text.chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events, ["{\"x\":\n1}", "two"]);
        }
    }
}
