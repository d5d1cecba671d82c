//! `sim`: the deterministic simulator, for everybody.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::sim::{Scenario, Summary, Violation, run as run_history};

use super::{CliError, Format, Output};

/// `sim`
#[derive(Debug, Clone, Args)]
pub struct SimArgs {
    /// Run this one history and print its trace
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Run histories 0 to N-1 (or from --from)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "seed")]
    pub from: u64,
    /// Super-nodes in every history [default: 1, 3 or 5 by the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub nodes: Option<u8>,
}

/// Runs it; prints the seed and the command that reproduces a failure.
pub fn run(args: &SimArgs, output: &mut Output) -> Result<(), CliError> {
    simulate(args, &Scenario { nodes: args.nodes.map(usize::from), ..Scenario::default() }, output)
}

/// Runs the histories of a scenario.
pub(super) fn simulate(args: &SimArgs, scenario: &Scenario, output: &mut Output) -> Result<(), CliError> {
    let seeds = match args.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => args.from..args.from.saturating_add(args.seeds),
    };
    if seeds.is_empty() {
        return Err(CliError::usage("--seeds 0 runs nothing", "give at least 1"));
    }
    let begun = Instant::now();
    let results = run_all(seeds.clone(), scenario);
    let histories = results.len() as u64;
    let (mut total, mut failed) = (Summary::default(), Vec::new());
    for result in results.into_values() {
        match result {
            Ok(summary) => add(&mut total, &summary),
            Err(violation) => failed.push(violation),
        }
    }
    report(output, histories, &total, &failed, begun.elapsed())?;
    match failed.first() {
        None => Ok(()),
        Some(violation) => {
            // The trace is for people, the line after it for everybody.
            for line in &violation.trace {
                eprintln!("{line}");
            }
            let nodes = args.nodes.map_or_else(String::new, |nodes| format!(" --nodes {nodes}"));
            Err(CliError::Violation {
                what: violation.to_string(),
                command: format!("super-node sim --seed {}{nodes}", violation.seed),
            })
        }
    }
}

type Results = BTreeMap<u64, Result<Summary, Box<Violation>>>;

/// Histories are independent: one thread a core, each takes the next seed. Stops early after a failure.
fn run_all(seeds: std::ops::Range<u64>, scenario: &Scenario) -> Results {
    let bar = bar(seeds.end - seeds.start);
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let results = Mutex::new(Results::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = run_history(seed, scenario);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, result);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn bar(histories: u64) -> Arc<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Arc::new(ProgressBar::hidden());
    }
    let bar = ProgressBar::new(histories);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} histories, {per_sec}, {eta} left");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(200));
    Arc::new(bar)
}

fn add(total: &mut Summary, one: &Summary) {
    total.steps += one.steps;
    total.virtual_time += one.virtual_time;
    total.faults += one.faults;
    total.elections += one.elections;
    total.acknowledged += one.acknowledged;
    total.reads += one.reads;
    total.unknown += one.unknown;
    total.settled += one.settled;
    total.projected += one.projected;
    total.database_failures += one.database_failures;
    total.trace_hash = one.trace_hash;
}

fn report(
    output: &mut Output,
    histories: u64,
    total: &Summary,
    failed: &[Box<Violation>],
    took: Duration,
) -> Result<(), CliError> {
    let per_second = histories as f64 / took.as_secs_f64().max(0.001);
    let virtual_hours = total.virtual_time.as_secs_f64() / 3_600.0 / (took.as_secs_f64().max(0.001) / 60.0);
    let violations: Vec<_> =
        failed.iter().map(|violation| json!({"seed": violation.seed, "what": violation.what})).collect();
    let value = json!({
        "histories": histories, "failed": violations.len(), "violations": violations,
        "steps": total.steps, "virtual_seconds": total.virtual_time.as_secs(), "faults": total.faults,
        "elections": total.elections, "acknowledged_writes": total.acknowledged, "reads": total.reads,
        "unknown": total.unknown, "settled_intervals": total.settled,
        "projected_documents": total.projected, "database_failures": total.database_failures,
        "seconds": took.as_secs_f64(), "histories_per_second": per_second, "virtual_hours_per_minute": virtual_hours,
        "trace_hash": (histories == 1).then(|| format!("{:016x}", total.trace_hash)),
    });
    if output.format() == Format::Json {
        return Ok(output.json(&value)?);
    }
    output.line(&format!(
        "{histories} histories, {} failed: {} faults, {} elections, {} writes acknowledged, {} reads, {} intervals settled, {} documents projected",
        violations.len(), total.faults, total.elections, total.acknowledged, total.reads, total.settled, total.projected
    ))?;
    output.line(&format!(
        "{:.1} s: {per_second:.1} histories a second, {virtual_hours:.1} virtual hours a minute",
        took.as_secs_f64()
    ))?;
    Ok(())
}
