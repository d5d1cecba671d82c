//! What the histories of a run have in common; may be read from a file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::plan::{DRIFT_PPM_MAX, KINDS};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// What it is about.
    pub name: String,
    /// Super-nodes: one of these, by the seed. Not empty.
    pub nodes: Vec<u32>,
    /// How many clients read and write.
    pub clients: u32,
    /// For how long things go wrong.
    pub faults_for: Duration,
    /// Shortest and longest time between two faults, in milliseconds.
    pub pause_ms: (u64, u64),
    /// Within which time after healing the cluster must be live again.
    pub live_within: Duration,
    /// The lease of leaders, in the histories that have one.
    pub lease: Option<Duration>,
    /// How many histories of a hundred have leases.
    pub lease_percent: u64,
    /// Most nodes that prefer not to lead.
    pub reluctant: u32,
    /// Most that a monotonic clock is off, in parts per million.
    pub drift_ppm: i64,
    /// How many histories of a hundred have a MongoDB.
    pub database_percent: u64,
    /// Whether hosts also crash by themselves at the worst moments.
    pub worst_moments: bool,
    /// How often each kind of fault is drawn beside the others; a kind that is missing never is.
    pub weights: BTreeMap<&'static str, u64>,
    /// How long a kind of fault lasts, shortest and longest, in milliseconds, where that differs from what is usual.
    pub spans_ms: BTreeMap<&'static str, (u64, u64)>,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            name: String::new(),
            nodes: vec![1, 3, 3, 3, 3, 5, 5, 5],
            clients: 4,
            faults_for: Duration::from_secs(12),
            pause_ms: (50, 1_200),
            live_within: Duration::from_secs(15),
            lease: Some(Duration::from_millis(200)),
            lease_percent: 35,
            reluctant: 2,
            drift_ppm: 5_000,
            database_percent: 50,
            worst_moments: true,
            weights: KINDS
                .iter()
                .filter(|kind| kind.weight > 0)
                .map(|kind| (kind.name, kind.weight))
                .collect(),
            spans_ms: BTreeMap::new(),
        }
    }
}

/// A scenario file is wrong. The text names the key and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScenarioError(pub String);

/// A scenario as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    name: Option<String>,
    nodes: Option<OneOrMany>,
    clients: Option<u32>,
    seconds: Option<u64>,
    pause_ms: Option<(u64, u64)>,
    live_within: Option<u64>,
    lease_ms: Option<u64>,
    lease_percent: Option<u64>,
    reluctant: Option<u32>,
    drift_ppm: Option<i64>,
    database_percent: Option<u64>,
    worst_moments: Option<bool>,
    only: Option<Vec<String>>,
    without: Option<Vec<String>>,
    weights: BTreeMap<String, u64>,
    spans_ms: BTreeMap<String, (u64, u64)>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Scenario {
    /// Reads a scenario from TOML.
    ///
    /// # Errors
    /// Which key is wrong, why, and what to write instead.
    pub fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        let written: Written = toml::from_str(text).map_err(|error| ScenarioError(error.to_string()))?;
        let mut scenario = Scenario::default();
        let common = Scenario::default();
        scenario.name = written.name.unwrap_or_default();
        scenario.nodes = match written.nodes {
            None => common.nodes,
            Some(OneOrMany::One(nodes)) => vec![nodes],
            Some(OneOrMany::Many(nodes)) => nodes,
        };
        if scenario.nodes.is_empty() || scenario.nodes.iter().any(|nodes| !(1..=7).contains(nodes)) {
            return wrong(
                "nodes",
                "is not a number of nodes",
                "write 3, or a list such as [3, 5]; 1 to 7 each",
            );
        }
        scenario.clients = within("clients", written.clients.unwrap_or(common.clients), 1, 64)?;
        let seconds = within("seconds", written.seconds.unwrap_or(12), 1, 3_600)?;
        scenario.faults_for = Duration::from_secs(seconds);
        let live_within = within("live_within", written.live_within.unwrap_or(15), 1, 3_600)?;
        scenario.live_within = Duration::from_secs(live_within);
        scenario.pause_ms = written.pause_ms.unwrap_or(common.pause_ms);
        if scenario.pause_ms.0 > scenario.pause_ms.1 || scenario.pause_ms.1 == 0 {
            return wrong(
                "pause_ms",
                "is not a range",
                "write the shortest and the longest, such as [50, 1200]",
            );
        }
        // The election timeout begins at 300 ms. What clocks may drift apart is for the core to take off.
        let lease = within("lease_ms", written.lease_ms.unwrap_or(200), 0, 280)?;
        scenario.lease = (lease > 0).then(|| Duration::from_millis(lease));
        scenario.lease_percent =
            within("lease_percent", written.lease_percent.unwrap_or(common.lease_percent), 0, 100)?;
        scenario.reluctant = within("reluctant", written.reluctant.unwrap_or(common.reluctant), 0, 7)?;
        scenario.drift_ppm =
            within("drift_ppm", written.drift_ppm.unwrap_or(common.drift_ppm), 0, DRIFT_PPM_MAX)?;
        scenario.database_percent =
            within("database_percent", written.database_percent.unwrap_or(common.database_percent), 0, 100)?;
        scenario.worst_moments = written.worst_moments.unwrap_or(common.worst_moments);
        scenario.weights = weights(written.only, written.without, written.weights)?;
        for (name, span) in written.spans_ms {
            let kind = known("spans_ms", &name)?;
            let lasts = KINDS.iter().any(|known| known.name == kind && known.is_fault());
            if !lasts || span.0 > span.1 || span.1 > 60_000 {
                let why = if lasts { "is not a range" } else { "is done at once" };
                let remedy =
                    "write the shortest and the longest of a fault, such as [20, 120]; at most 60000";
                return wrong(&format!("spans_ms.{kind}"), why, remedy);
            }
            scenario.spans_ms.insert(kind, span);
        }
        Ok(scenario)
    }

    /// How many histories of a million have leases.
    pub fn lease_share_ppm(&self) -> u64 {
        self.lease_percent * 10_000
    }
}

fn wrong<T>(key: &str, why: &str, remedy: &str) -> Result<T, ScenarioError> {
    Err(ScenarioError(format!("{key}: {why}; {remedy}")))
}

fn within<T: PartialOrd + std::fmt::Display + Copy>(
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, ScenarioError> {
    if value < least || value > most {
        return wrong(key, &format!("{value} is out of bounds"), &format!("write {least} to {most}"));
    }
    Ok(value)
}

fn known(key: &str, name: &str) -> Result<&'static str, ScenarioError> {
    if let Some(kind) = KINDS.iter().find(|kind| kind.name == name) {
        return Ok(kind.name);
    }
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let likeness = |kind: &str| (strsim::jaro_winkler(name, kind) * 1e6) as u64;
    let nearest = names.iter().max_by_key(|kind| likeness(kind)).copied().unwrap_or_default();
    let remedy = format!("did you mean '{nearest}'? Known are {}", names.join(", "));
    wrong(key, &format!("'{name}' is no kind of fault"), &remedy)
}

fn weights(
    only: Option<Vec<String>>,
    without: Option<Vec<String>>,
    changed: BTreeMap<String, u64>,
) -> Result<BTreeMap<&'static str, u64>, ScenarioError> {
    let mut weights: BTreeMap<&'static str, u64> =
        KINDS.iter().map(|kind| (kind.name, kind.weight)).collect();
    if let Some(only) = only {
        let kept = only.iter().map(|name| known("only", name)).collect::<Result<Vec<_>, _>>()?;
        weights.retain(|name, _| kept.contains(name));
    }
    for name in without.unwrap_or_default() {
        weights.remove(known("without", &name)?);
    }
    for (name, weight) in changed {
        let kind = known("weights", &name)?;
        weights.insert(kind, within(&format!("weights.{kind}"), weight, 0, 1_000)?);
    }
    weights.retain(|_, weight| *weight > 0);
    if weights.is_empty() {
        return wrong("only, without, weights", "no kind of fault is left", "keep at least one");
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_differs() {
        assert_eq!(Scenario::parse("").expect("is right"), Scenario::default());
        let text = "name = 'x'\nnodes = [3, 5]\nseconds = 20\nonly = ['one_way', 'pause']\n[weights]\npause = 1\n\
                    [spans_ms]\npause = [5, 9]";
        let scenario = Scenario::parse(text).expect("is right");
        assert_eq!(scenario.nodes, [3, 5]);
        assert_eq!(scenario.faults_for, Duration::from_secs(20));
        assert_eq!(scenario.weights, BTreeMap::from([("one_way", 8), ("pause", 1)]));
        assert_eq!(scenario.spans_ms, BTreeMap::from([("pause", (5, 9))]));
    }

    #[test]
    fn a_wrong_file_is_told_with_key_and_remedy() {
        for (text, told) in [
            ("node = 3", "unknown field `node`"),
            ("nodes = 9", "nodes: is not a number of nodes; write 3"),
            ("clients = 0", "clients: 0 is out of bounds; write 1 to 64"),
            ("only = ['oneway']", "only: 'oneway' is no kind of fault; did you mean 'one_way'?"),
            ("[weights]\npause = 5000", "weights.pause: 5000 is out of bounds; write 0 to 1000"),
            (
                "[spans_ms]\nkill = [30, 20]",
                "spans_ms.kill: is not a range; write the shortest and the longest",
            ),
            ("[spans_ms]\ntransfer = [0, 20]", "spans_ms.transfer: is done at once; write"),
            ("lease_ms = 400", "lease_ms: 400 is out of bounds; write 0 to 280"),
            ("only = []", "no kind of fault is left; keep at least one"),
            ("pause_ms = [5, 1]", "pause_ms: is not a range"),
        ] {
            let error = Scenario::parse(text).expect_err("is wrong").to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
