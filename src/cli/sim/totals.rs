//! What many histories came to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::cli::{CliError, Format, Output};
use crate::sim::{Intervals, Scenario, Summary, Violation};

/// From so many histories on, every kind of fault of a scenario must have taken effect.
const COVERAGE_FROM: u64 = 500;
/// In so many histories of a hundred, writes must have been acknowledged while something was wrong.
const SERVED_PERCENT_MIN: u64 = 80;
/// In so many of a hundred somebody must have been elected amid the faults, if there are faults that end a leader.
const ELECTED_PERCENT_MIN: u64 = 40;
/// The faults and deeds that may end a leader.
const UNSEAT: &[&str] = &[
    "kill",
    "kill_leader",
    "power_cut",
    "blackout",
    "pause",
    "partition",
    "reject",
    "disk_stuck",
    "disk_error",
    "transfer",
];

/// Sums over histories.
#[derive(Debug, Default)]
pub struct Totals {
    histories: u64,
    steps: u64,
    virtual_time: Duration,
    faults: BTreeMap<&'static str, u64>,
    begun: BTreeMap<&'static str, u64>,
    elections: u64,
    elections_amid: u64,
    acknowledged: u64,
    acknowledged_under_fault: u64,
    /// Histories in which writes were acknowledged while something was wrong.
    served: u64,
    /// Histories in which somebody was elected amid the faults.
    elected: u64,
    reads: u64,
    unknown: u64,
    leaders_killed: u64,
    moved: u64,
    settled: u64,
    intervals: Intervals,
    installed: u64,
    met: BTreeMap<&'static str, u64>,
    /// Histories in which a majority was well for long enough to be judged while things went wrong.
    judged: u64,
    states_lost: u64,
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
        for (kind, count) in &one.begun {
            *self.begun.entry(kind).or_default() += count;
        }
        self.elections += one.elections;
        self.elections_amid += one.elections_amid;
        self.elected += u64::from(one.elections_amid > 0);
        self.acknowledged += one.acknowledged;
        self.acknowledged_under_fault += one.acknowledged_under_fault;
        self.served += u64::from(one.acknowledged_under_fault > 0);
        self.reads += one.reads;
        self.unknown += one.unknown;
        self.leaders_killed += one.leaders_killed;
        self.moved += one.moved;
        self.settled += one.settled;
        self.intervals.due += one.intervals.due;
        self.intervals.settled += one.intervals.settled;
        self.intervals.waiting += one.intervals.waiting;
        self.intervals.lost += one.intervals.lost;
        self.intervals.doubled += one.intervals.doubled;
        self.installed += one.installed;
        for (bound, times) in &one.met {
            *self.met.entry(bound).or_default() += times;
        }
        self.judged += u64::from(one.judged_amid > 0);
        self.states_lost += one.states_lost;
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
                "faults_by_kind": self.faults, "begun_by_kind": self.begun, "elections": self.elections,
                "elections_amid_faults": self.elections_amid, "acknowledged_writes": self.acknowledged,
                "acknowledged_under_fault": self.acknowledged_under_fault, "states_lost": self.states_lost,
                "bounds_met": self.met, "reads": self.reads, "unknown": self.unknown,
                "leaders_killed": self.leaders_killed,
                "claims_and_adjustments": self.moved, "settled_intervals": self.settled, "snapshots_installed": self.installed,
                "intervals": {
                    "due": self.intervals.due, "settled": self.intervals.settled, "waiting": self.intervals.waiting,
                    "lost": self.intervals.lost, "doubled": self.intervals.doubled,
                },
                "projected_documents": self.projected, "database_failures": self.database_failures,
                "slowest_recovery": slowest, "seconds": took.as_secs_f64(),
                "histories_per_second": per_second, "virtual_hours_per_minute": virtual_hours,
                "fingerprint": (histories == 1).then(|| format!("{:016x}", self.fingerprint)),
            }))?);
        }
        output.line(&format!(
            "{histories} histories, {} failed: {faults} faults, {} leaders killed, {} elections ({} amid faults), {} writes \
             acknowledged ({} under a fault, {} unknown), {} reads, {} claims and adjustments, {} intervals settled, {} \
             snapshots installed, {} states lost, {} documents projected",
            u64::from(failed.is_some()),
            self.leaders_killed,
            self.elections,
            self.elections_amid,
            self.acknowledged,
            self.acknowledged_under_fault,
            self.unknown,
            self.reads,
            self.moved,
            self.settled,
            self.installed,
            self.states_lost,
            self.projected
        ))?;
        let Intervals { due, settled, waiting, lost, doubled } = self.intervals;
        output.line(&format!(
            "intervals, over {} kills of a leader: {due} ended, {settled} of them settled, {waiting} about to be, {lost} lost, \
             {doubled} payments doubled",
            self.leaders_killed
        ))?;
        let felt = |kind: &str| self.faults.get(kind).copied().unwrap_or(0);
        let kinds: Vec<String> =
            self.begun.iter().map(|(kind, begun)| format!("{kind} {} of {begun}", felt(kind))).collect();
        output.line(&format!("faults that took effect: {}", kinds.join(", ")))?;
        let met: Vec<String> = self.met.iter().map(|(bound, times)| format!("{bound} {times}")).collect();
        output.line(&format!("bounds that were met: {}", met.join(", ")))?;
        output.line(&format!(
            "of {} histories, {} served writes under a fault, {} elected a leader amid faults, in {} a majority was well for long \
             enough to be judged amid them",
            self.histories, self.served, self.elected, self.judged
        ))?;
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
        if self.histories < COVERAGE_FROM {
            return Ok(());
        }
        let vacuous =
            |what: String| Err(CliError::failed(format!("vacuity: in {} histories {what}", self.histories)));
        let missing: Vec<&str> =
            scenario.weights.keys().copied().filter(|kind| !self.faults.contains_key(kind)).collect();
        if !missing.is_empty() {
            return vacuous(format!("there was never {}, or it hit nobody", missing.join(", ")));
        }
        if self.served * 100 < self.histories * SERVED_PERCENT_MIN {
            return vacuous(format!("only {} served writes while something was wrong", self.served));
        }
        let unseats = scenario.weights.keys().any(|kind| UNSEAT.contains(kind));
        if unseats && self.elected * 100 < self.histories * ELECTED_PERCENT_MIN {
            return vacuous(format!("only {} elected a leader amid faults", self.elected));
        }
        Ok(())
    }
}
