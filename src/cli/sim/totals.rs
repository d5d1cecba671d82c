//! What many histories came to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::cli::{CliError, Format, Output};
use crate::sim::{Scenario, Summary, Violation};

/// From so many histories on, every kind of fault of a scenario must have happened.
const COVERAGE_FROM: u64 = 500;

/// Sums over histories.
#[derive(Debug, Default)]
pub struct Totals {
    histories: u64,
    steps: u64,
    virtual_time: Duration,
    faults: BTreeMap<&'static str, u64>,
    elections: u64,
    acknowledged: u64,
    reads: u64,
    unknown: u64,
    leaders_killed: u64,
    moved: u64,
    settled: u64,
    installed: u64,
    projected: u64,
    database_failures: u64,
    /// The longest way back to life, and whose it was.
    slowest: Option<(Duration, u64)>,
    fingerprint: u64,
}

impl Totals {
    /// One more that held.
    pub fn add(&mut self, one: &Summary) {
        self.histories += 1;
        self.steps += one.steps;
        self.virtual_time += one.virtual_time;
        for (kind, count) in &one.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.elections += one.elections;
        self.acknowledged += one.acknowledged;
        self.reads += one.reads;
        self.unknown += one.unknown;
        self.leaders_killed += one.leaders_killed;
        self.moved += one.moved;
        self.settled += one.settled;
        self.installed += one.installed;
        self.projected += one.projected;
        self.database_failures += one.database_failures;
        self.slowest = self.slowest.max(Some((one.recovery, one.seed)));
        self.fingerprint = one.fingerprint;
    }

    /// Prints them.
    pub fn report(
        &self,
        output: &mut Output,
        failed: Option<&Violation>,
        took: Duration,
    ) -> Result<(), CliError> {
        let histories = self.histories + u64::from(failed.is_some());
        let real = took.as_secs_f64().max(0.001);
        let per_second = histories as f64 / real;
        let virtual_hours = self.virtual_time.as_secs_f64() / 3_600.0 / (real / 60.0);
        let faults: u64 = self.faults.values().sum();
        if output.format() == Format::Json {
            let violations: Vec<_> = failed
                .iter()
                .map(|found| json!({"seed": found.seed, "invariant": found.invariant(), "what": found.what}))
                .collect();
            let slowest =
                self.slowest.map(|(span, seed)| json!({"seed": seed, "seconds": span.as_secs_f64()}));
            return Ok(output.json(&json!({
                "histories": histories, "failed": violations.len(), "violations": violations,
                "steps": self.steps, "virtual_seconds": self.virtual_time.as_secs(), "faults": faults,
                "faults_by_kind": self.faults, "elections": self.elections,
                "acknowledged_writes": self.acknowledged, "reads": self.reads, "unknown": self.unknown,
                "leaders_killed": self.leaders_killed,
                "claims_and_adjustments": self.moved, "settled_intervals": self.settled, "snapshots_installed": self.installed,
                "projected_documents": self.projected, "database_failures": self.database_failures,
                "slowest_recovery": slowest, "seconds": took.as_secs_f64(),
                "histories_per_second": per_second, "virtual_hours_per_minute": virtual_hours,
                "fingerprint": (histories == 1).then(|| format!("{:016x}", self.fingerprint)),
            }))?);
        }
        output.line(&format!(
            "{histories} histories, {} failed: {faults} faults, {} leaders killed, {} elections, {} writes acknowledged ({} \
             unknown), {} reads, {} claims and adjustments, {} intervals settled, {} snapshots installed, {} documents \
             projected",
            u64::from(failed.is_some()),
            self.leaders_killed,
            self.elections,
            self.acknowledged,
            self.unknown,
            self.reads,
            self.moved,
            self.settled,
            self.installed,
            self.projected
        ))?;
        let kinds: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        output.line(&format!("faults: {}", kinds.join(", ")))?;
        if let Some((span, seed)) = self.slowest {
            output.line(&format!("slowest recovery: {:.1} s, seed {seed}", span.as_secs_f64()))?;
        }
        output.line(&format!(
            "{real:.1} s: {per_second:.1} histories a second, {virtual_hours:.1} virtual hours a minute"
        ))?;
        Ok(())
    }

    /// A run that never did what its scenario says shows nothing about it.
    pub fn check_coverage(&self, scenario: &Scenario) -> Result<(), CliError> {
        let missing: Vec<&str> =
            scenario.weights.keys().copied().filter(|kind| !self.faults.contains_key(kind)).collect();
        if self.histories < COVERAGE_FROM || missing.is_empty() {
            return Ok(());
        }
        Err(CliError::failed(format!(
            "vacuity: in {} histories there was never {}",
            self.histories,
            missing.join(", ")
        )))
    }
}
