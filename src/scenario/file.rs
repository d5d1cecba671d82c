//! Scenario files: the course's format, JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Most requests of one scenario.
const REQUESTS_MAX: u64 = 100_000;
/// Longest time, in seconds, that a file may ask for anywhere.
const SECONDS_MAX: f64 = 3_600.0;

/// What happens to the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The leader dies.
    KillLeader,
    /// Somebody else dies.
    KillNonLeader,
    /// The replicas are parted; the leader is in the majority.
    PartEasy,
    /// The replicas are parted; anybody may be in the majority.
    PartHard,
    /// They are together again.
    PartEnd,
}

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// What.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// When, in seconds from the end of `start_wait`.
    pub time: f64,
}

/// A scenario. Keys that are not known are passed over: the course's files may have more.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Scenario {
    /// For how long clients ask, in seconds, not counting the two waits.
    pub lifetime: f64,
    /// How many replicas there are, 3 to 21.
    #[serde(default = "default_replicas")]
    pub replicas: usize,
    /// How many requests clients make, evenly spread over the lifetime.
    #[serde(default = "default_requests")]
    pub requests: u64,
    /// Which fraction of them reads.
    #[serde(default = "default_mix")]
    pub mix: f64,
    /// Seconds from the start to the first request.
    #[serde(default = "default_start_wait")]
    pub start_wait: f64,
    /// Seconds from the end of the lifetime to the end.
    #[serde(default = "default_end_wait")]
    pub end_wait: f64,
    /// With which probability a message between replicas is lost.
    #[serde(default)]
    pub drops: f64,
    /// The seed of all chance.
    #[serde(default)]
    pub seed: Option<u64>,
    /// More messages between replicas than this are a failure.
    #[serde(default)]
    pub max_packets: Option<u64>,
    /// What happens meanwhile.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Limits, as fractions: of a name with `get` or `put` in it, the part of these requests that may stay unanswered.
    #[serde(default)]
    pub tests: BTreeMap<String, Value>,
    /// Tiers by figure, each to be stayed below: `total_msgs`, `failures`, `duplicates`, `median_latency` (milliseconds).
    #[serde(default)]
    pub benchmarks: BTreeMap<String, Vec<f64>>,
}

fn default_replicas() -> usize {
    5
}

fn default_requests() -> u64 {
    500
}

fn default_mix() -> f64 {
    0.8
}

fn default_start_wait() -> f64 {
    5.0
}

fn default_end_wait() -> f64 {
    2.0
}

/// The file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not JSON, or a key is missing or has another type.
    #[error("not a scenario: {0}")]
    Json(#[from] serde_json::Error),
    /// A value is out of range.
    #[error("\"{key}\" is {found}: allowed are {allowed}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        found: f64,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl Scenario {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is not JSON of that shape, or a value is out of range.
    pub fn parse(text: &str) -> Result<Scenario, FileError> {
        let mut scenario: Scenario = serde_json::from_str(text)?;
        let within = |key, found: f64, least: f64, most: f64, allowed| {
            if found >= least && found <= most {
                Ok(())
            } else {
                Err(FileError::OutOfRange { key, found, allowed })
            }
        };
        within("lifetime", scenario.lifetime, 0.1, SECONDS_MAX, "0.1 to 3600 seconds")?;
        within("start_wait", scenario.start_wait, 0.0, SECONDS_MAX, "0 to 3600 seconds")?;
        within("end_wait", scenario.end_wait, 0.0, SECONDS_MAX, "0 to 3600 seconds")?;
        within("replicas", scenario.replicas as f64, 3.0, 21.0, "3 to 21")?;
        within("requests", scenario.requests as f64, 1.0, REQUESTS_MAX as f64, "1 to 100000")?;
        within("mix", scenario.mix, 0.0, 1.0, "0 to 1")?;
        within("drops", scenario.drops, 0.0, 1.0, "0 to 1")?;
        for event in &scenario.events {
            within("time", event.time, 0.0, SECONDS_MAX, "0 to 3600 seconds")?;
        }
        scenario.events.sort_by(|left, right| left.time.total_cmp(&right.time));
        Ok(scenario)
    }

    /// The whole length of a run.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.start_wait + self.lifetime + self.end_wait)
    }

    /// Which part of the gets (or puts) may stay unanswered: half, unless the file says otherwise.
    pub fn unanswered_max(&self, kind: &str) -> f64 {
        let named = self.tests.iter().filter(|(name, _)| name.to_ascii_lowercase().contains(kind));
        named
            .filter_map(|(_, limit)| limit.as_f64())
            .fold(None, |least: Option<f64>, limit| Some(least.map_or(limit, |least| least.min(limit))))
            .unwrap_or(0.5)
    }

    /// Fewer messages between replicas than this cannot have replicated all puts.
    pub fn messages_min(&self) -> f64 {
        self.requests as f64 * self.replicas as f64 * (1.0 - self.mix) * 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_leaves_out_has_the_defaults_of_the_course() {
        let scenario = Scenario::parse(
            r#"{"lifetime": 30, "events": [{"type": "part_end", "time": 9},
            {"type": "kill_leader", "time": 2.5}], "unheard_of": [1]}"#,
        );
        let scenario = scenario.expect("a scenario");
        assert_eq!((scenario.replicas, scenario.requests, scenario.mix), (5, 500, 0.8));
        assert_eq!(scenario.length(), Duration::from_secs(37));
        assert_eq!(scenario.events[0].kind, EventKind::KillLeader, "in order of time");
        assert_eq!((scenario.unanswered_max("get"), scenario.unanswered_max("put")), (0.5, 0.5));
        // 500 requests, a fifth of them puts, half of 5 replicas.
        assert!((scenario.messages_min() - 250.0).abs() < 1e-9);
    }

    #[test]
    fn a_file_that_is_no_scenario_names_what_is_wrong() {
        for (text, named) in [
            ("{}", "lifetime"),
            (r#"{"lifetime": 0}"#, "\"lifetime\" is 0: allowed are 0.1 to 3600 seconds"),
            (r#"{"lifetime": 9, "replicas": 2}"#, "\"replicas\" is 2: allowed are 3 to 21"),
            (r#"{"lifetime": 9, "drops": 1.5}"#, "\"drops\" is 1.5"),
            (r#"{"lifetime": 9, "events": [{"type": "flood", "time": 1}]}"#, "flood"),
        ] {
            let error = Scenario::parse(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
