//! A measured row, and what is expected of it.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::config::value::parse_duration;

use super::load::Tally;
use super::usage::Usage;
use super::work::Workload;

/// One measured row. What could not be known is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// What was spoken.
    pub protocol: String,
    /// How many clients.
    pub clients: usize,
    /// Length of a value.
    pub value_bytes: usize,
    /// Entries in one write.
    pub batch: usize,
    /// How many of the operations read, from 0 to 1.
    pub mix: f64,
    /// The window, seconds.
    pub seconds: f64,
    /// Answered operations per second.
    pub ops_per_s: f64,
    /// Entries written per second.
    pub puts_per_s: f64,
    /// Reads per second.
    pub reads_per_s: f64,
    /// Median latency, microseconds. So are the others.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Longest.
    pub max_us: u64,
    /// CPU time of all servers per operation, microseconds.
    pub server_cpu_us_per_op: Option<f64>,
    /// CPU time of the load generator per operation, microseconds.
    pub generator_cpu_us_per_op: f64,
    /// Syncs of all logs per operation.
    pub syncs_per_op: Option<f64>,
    /// Bytes that all servers sent to the disk per operation.
    pub disk_bytes_per_op: Option<f64>,
    /// Operations that failed.
    pub errors: u64,
    /// Why, with counts.
    pub causes: std::collections::BTreeMap<String, u64>,
    /// Of the bare server's operations per second, if it was measured in the same run.
    pub of_bare: Option<f64>,
    /// The median latency in relation to the floor, if that was measured in the same run.
    pub of_floor: Option<f64>,
}

impl Figures {
    /// Of a window in which so much was used.
    pub fn new(protocol: &str, clients: usize, work: Workload, tally: &Tally, used: &Usage) -> Figures {
        let seconds = tally.window.as_secs_f64();
        let ops = tally.latency.len();
        let per_op = |amount: f64| amount / (ops.max(1) as f64);
        let micros = |span: Duration| per_op(span.as_secs_f64() * 1e6);
        Figures {
            protocol: protocol.to_string(),
            clients,
            value_bytes: work.value_bytes,
            batch: work.batch,
            mix: work.read_share,
            seconds,
            ops_per_s: ops as f64 / seconds,
            puts_per_s: tally.written as f64 / seconds,
            reads_per_s: tally.reads as f64 / seconds,
            p50_us: tally.latency.value_at_quantile(0.5),
            p99_us: tally.latency.value_at_quantile(0.99),
            p999_us: tally.latency.value_at_quantile(0.999),
            max_us: tally.latency.max(),
            server_cpu_us_per_op: used.servers.map(micros),
            generator_cpu_us_per_op: micros(used.generator),
            syncs_per_op: used.syncs.map(|syncs| per_op(syncs as f64)),
            disk_bytes_per_op: used.disk_bytes.map(|bytes| per_op(bytes as f64)),
            errors: tally.errors.values().sum(),
            causes: tally.errors.clone(),
            of_bare: None,
            of_floor: None,
        }
    }
}

/// What is compared with a bound.
const NAMES: [(&str, &str); 17] = [
    ("ops", "ops_per_s"),
    ("puts", "puts_per_s"),
    ("reads", "reads_per_s"),
    ("p50", "p50_us"),
    ("p99", "p99_us"),
    ("p999", "p999_us"),
    ("max", "max_us"),
    ("cpu", "server_cpu_us_per_op"),
    ("syncs", "syncs_per_op"),
    ("disk", "disk_bytes_per_op"),
    ("errors", "errors"),
    ("of_bare", "of_bare"),
    ("kills", "kills"),
    ("median", "median_us"),
    ("lost", "lost"),
    ("elections", "elections_beyond_kills"),
    ("of_floor", "of_floor"),
];

/// One bound: `puts>=20000`, `p99<=10ms`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// As it was written.
    pub text: String,
    field: &'static str,
    at_least: bool,
    bound: f64,
}

impl Expectation {
    /// Reads bounds that are separated by commas.
    pub fn parse_all(text: &str) -> Result<Vec<Expectation>, String> {
        text.split(',').map(|one| Expectation::parse(one.trim())).collect()
    }

    fn parse(text: &str) -> Result<Expectation, String> {
        let (name, at_least, bound) = match (text.split_once(">="), text.split_once("<=")) {
            (Some((name, bound)), None) => (name.trim(), true, bound.trim()),
            (None, Some((name, bound))) => (name.trim(), false, bound.trim()),
            _ => return Err(format!("\"{text}\" is not of the form NAME>=NUMBER or NAME<=NUMBER")),
        };
        let field = NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
        let field = field.ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("\"{name}\" is not measured; known: {}", known.join(", "))
        })?;
        let number = match bound.parse::<f64>() {
            Ok(number) => number,
            Err(_) if field.contains("_us") => {
                let span =
                    parse_duration(bound).map_err(|problem| format!("\"{bound}\" {}", problem.what))?;
                span.as_secs_f64() * 1e6
            }
            Err(_) => return Err(format!("\"{bound}\" is not a number")),
        };
        Ok(Expectation { text: text.to_string(), field, at_least, bound: number })
    }

    /// Whether a measured row keeps the bound; `None` if the row does not say.
    pub fn holds(&self, row: &Value) -> Option<bool> {
        let measured = row.get(self.field)?.as_f64()?;
        Some(if self.at_least { measured >= self.bound } else { measured <= self.bound })
    }

    /// The verdict on a row in words, and whether it is good. What was not measured is not good.
    pub fn judge(&self, row: &Value) -> (bool, String) {
        let measured = row.get(self.field).and_then(Value::as_f64);
        let shown = measured.map_or("not measured".to_string(), |number| format!("{number:.2}"));
        let holds = self.holds(row) == Some(true);
        let word = if holds { "PASS" } else { "FAIL" };
        (holds, format!("{word}  {}  ({} = {shown})", self.text, self.field))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_are_judged() {
        let row = json!({"puts_per_s": 20_000.5, "p99_us": 9_000, "syncs_per_op": null});
        let cases = [
            ("puts>=20000", true),
            ("puts>=20001", false),
            ("p99<=10ms", true),
            ("p99<=8ms", false),
            ("p99<=9000", true),
            ("syncs<=1", false),
            ("lost<=0", false),
        ];
        for (text, good) in cases {
            let expectations = Expectation::parse_all(text).expect(text);
            assert_eq!(expectations[0].judge(&row).0, good, "{text}");
        }
        assert_eq!(Expectation::parse_all("puts>=1, p99<=2ms").expect("two").len(), 2);
    }

    #[test]
    fn bounds_that_make_no_sense_are_refused() {
        for text in ["", "puts", "puts>20", "puts>=x", "quality>=9", "p99<=1x", "puts<=10ms"] {
            assert!(Expectation::parse_all(text).is_err(), "{text}");
        }
    }
}
