//! `GET /v1/events`: server-sent events with `id`, `event` and `data`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, stream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::node::events::{EventLog, NodeEvent};

use super::ApiState;
use super::extract::Params;
use super::problem::Problem;

/// A reader of the event log: what it remembers, then what comes, each event once and in order.
pub(super) struct Reading {
    log: Arc<EventLog>,
    backlog: VecDeque<NodeEvent>,
    live: Receiver<NodeEvent>,
    last: u64,
    kind: Option<String>,
    follow: bool,
    stopping: CancellationToken,
}

impl Reading {
    pub(super) fn new(
        log: Arc<EventLog>,
        after: u64,
        kind: Option<String>,
        stopping: CancellationToken,
    ) -> Reading {
        let (mut past, mut live) = log.subscribe(after);
        let mut last = after;
        // Numbers begin anew when the process restarts. A reader that knows a number which does not exist yet read
        // from an earlier run: it gets everything of this one.
        if after > 0 && past.is_empty() && log.subscribe(after - 1).0.is_empty() {
            (past, live) = log.subscribe(0);
            last = 0;
        }
        Reading { log, backlog: past.into(), live, last, kind, follow: true, stopping }
    }

    /// The next event; `None` at the end of the node. Nothing is lost when it is cancelled.
    pub(super) async fn next(&mut self) -> Option<NodeEvent> {
        loop {
            let event = match self.backlog.pop_front() {
                Some(event) => event,
                None if !self.follow => return None,
                None => tokio::select! {
                    () = self.stopping.cancelled() => return None,
                    event = self.live.recv() => match event {
                        Ok(event) => event,
                        Err(RecvError::Closed) => return None,
                        Err(RecvError::Lagged(_)) => {
                            // Too slow for the live channel; the history still has what was missed.
                            let (past, live) = self.log.subscribe(self.last);
                            (self.backlog, self.live) = (past.into(), live);
                            continue;
                        }
                    },
                },
            };
            if event.id <= self.last {
                continue;
            }
            self.last = event.id;
            if self.kind.as_ref().is_none_or(|kind| *kind == event.kind) {
                return Some(event);
            }
        }
    }
}

fn last_event_id(headers: &HeaderMap, params: &Params) -> Result<u64, Problem> {
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().trim());
    match header {
        // A browser that has seen nothing sends an empty one.
        None | Some("") => Ok(params.parsed("after")?.unwrap_or(0)),
        Some(text) => {
            text.parse().map_err(|_| Problem::bad_request(format!("Last-Event-ID: {text} is not a number")))
        }
    }
}

/// Resumes after `Last-Event-ID` (or `?after=`); `?type=` keeps one kind; `?follow=false` ends after what is remembered.
pub async fn stream(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let params = Params::parse(&uri, &["type", "after", "follow"])?;
    let after = last_event_id(&headers, &params)?;
    let kind = params.get("type").filter(|kind| !kind.is_empty()).map(str::to_string);
    let mut reading = Reading::new(state.handle.events.clone(), after, kind, state.stopping.clone());
    reading.follow = params.truth("follow", true)?;
    let events = stream::unfold(reading, async |mut reading| {
        let event = reading.next().await?;
        let data = serde_json::to_string(&event).expect("events are plain data");
        let sent =
            Event::default().id(event.id.to_string()).event(event.kind.replace(['\r', '\n'], " ")).data(data);
        Some((Ok(sent), reading))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(state.http.keep_alive)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UnixMillis;

    fn publish(log: &EventLog, count: u64) {
        for number in 0..count {
            let kind = if number % 2 == 0 { "even" } else { "odd" };
            log.publish(UnixMillis(0), kind, String::new(), serde_json::Value::Null);
        }
    }

    async fn ids(reading: &mut Reading, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(reading.next().await.expect("an event").id);
        }
        ids
    }

    #[tokio::test]
    async fn a_slow_reader_misses_nothing() {
        let log = Arc::new(EventLog::default());
        publish(&log, 3);
        let mut reading = Reading::new(log.clone(), 1, None, CancellationToken::new());
        // More than the live channel holds.
        publish(&log, 3_000);
        assert_eq!(ids(&mut reading, 3_002).await, (2..=3_003).collect::<Vec<u64>>());
    }

    #[tokio::test]
    async fn a_number_of_an_earlier_run_starts_over_and_a_kind_is_kept() {
        let log = Arc::new(EventLog::default());
        publish(&log, 4);
        let mut reading = Reading::new(log.clone(), 77, Some("odd".to_string()), CancellationToken::new());
        assert_eq!(ids(&mut reading, 2).await, [2, 4]);
        let mut current = Reading::new(log.clone(), 4, None, CancellationToken::new());
        publish(&log, 1);
        assert_eq!(ids(&mut current, 1).await, [5]);
    }

    #[tokio::test]
    async fn stopping_ends_the_stream() {
        let stopping = CancellationToken::new();
        let mut reading = Reading::new(Arc::default(), 0, None, stopping.clone());
        stopping.cancel();
        assert_eq!(reading.next().await, None);
    }
}
