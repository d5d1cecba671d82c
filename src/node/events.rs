//! The event stream of a node: a bounded history in memory and its live continuation.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::types::UnixMillis;

/// How many events a node remembers; a reader that comes later starts at the oldest.
pub const EVENTS_REMEMBERED_MAX: usize = 10_000;

/// Something that happened, as this node saw it. One JSON object per line in `super-node events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Contiguous from 1 within one run of the process; the `id:` of the server-sent event.
    pub id: u64,
    /// When, by this node's wall clock.
    pub at: UnixMillis,
    /// What kind, such as `leader_elected`; the `event:` of the server-sent event.
    #[serde(rename = "type")]
    pub kind: String,
    /// In words.
    pub message: String,
    /// The facts.
    pub data: serde_json::Value,
}

/// The history and its subscribers.
#[derive(Debug)]
pub struct EventLog {
    history: Mutex<VecDeque<NodeEvent>>,
    live: broadcast::Sender<NodeEvent>,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog { history: Mutex::default(), live: broadcast::channel(1_024).0 }
    }
}

impl EventLog {
    /// Adds an event.
    pub fn publish(&self, at: UnixMillis, kind: &str, message: String, data: serde_json::Value) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let id = history.back().map_or(1, |event| event.id + 1);
        let event = NodeEvent { id, at, kind: kind.to_string(), message, data };
        if history.len() == EVENTS_REMEMBERED_MAX {
            history.pop_front();
        }
        history.push_back(event.clone());
        // Under the lock, so that nobody who reads the history and subscribes misses or repeats one.
        let _nobody_listens = self.live.send(event);
    }

    /// The remembered events after `after`, and everything from then on. A subscriber that falls more than 1 024
    /// events behind gets a `Lagged` error and should come again with the last id it saw.
    pub fn subscribe(&self, after: u64) -> (Vec<NodeEvent>, broadcast::Receiver<NodeEvent>) {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let past = history.iter().filter(|event| event.id > after).cloned().collect();
        (past, self.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_sees_each_event_once() {
        let log = EventLog::default();
        log.publish(UnixMillis(1), "a", String::new(), serde_json::Value::Null);
        log.publish(UnixMillis(2), "b", String::new(), serde_json::Value::Null);
        let (past, mut live) = log.subscribe(1);
        log.publish(UnixMillis(3), "c", String::new(), serde_json::Value::Null);
        assert_eq!(past.iter().map(|event| event.id).collect::<Vec<_>>(), [2]);
        assert_eq!(live.try_recv().expect("live event").id, 3);
    }
}
