//! `sim`: the deterministic simulator, for everybody.

mod failure;
mod totals;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::sim::cuts::every_cut;
use crate::sim::shrink::{Reduction, Trait};
use crate::sim::{Plan, Scenario, Summary, Violation, generate, run, run_plan};

use super::{CliError, Output};

use totals::Totals;

/// `sim`
#[derive(Debug, Clone, Args)]
#[command(after_long_help = HELP)]
pub struct SimArgs {
    /// Run this one history; with --verbose, print all that happens in it
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "from"])]
    pub seed: Option<u64>,
    /// Run histories 0 to N-1 (or from --from)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u64,
    /// Super-nodes in every history [default: by the scenario and the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    pub nodes: Option<u32>,
    /// What histories are to be like: a TOML file, as in scenarios/
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Run the history of a plan that was written down, as in tests/treasure/
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "from", "nodes", "scenario"])]
    pub plan: Option<PathBuf>,
    /// Run every directed cut on 3 and on 5 nodes, and every pair on 3, instead of random histories
    #[arg(long, conflicts_with_all = ["seed", "seeds", "scenario", "plan", "nodes"])]
    pub cuts: bool,
    /// Of the plan, only these acts: 3,7:500 (number 7 shortened to 500 ms), or none
    #[arg(long, value_name = "LIST")]
    pub acts: Option<String>,
    /// Only these operations of clients, by number, before the faults end; or none
    #[arg(long, value_name = "LIST")]
    pub operations: Option<String>,
    /// Leave out: database, drift, skew, lease, reluctant, worst-moments, tight
    #[arg(long, value_name = "LIST")]
    pub without: Option<String>,
    /// Write the plan to a file; after a failure, the small one; of many histories, only that of a failure
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Do not make a failure small
    #[arg(long)]
    pub no_shrink: bool,
    /// Print every line of the trace, each frame and each write
    #[arg(long)]
    pub verbose: bool,
}

const HELP: &str = "\
A failure is made small: faults, operations and peculiarities are left out as long as the same invariant breaks. \
What is printed then is the trace of the small history, only the lines that matter (--verbose: all of them), and the \
command that runs it again, such as

  super-node sim --seed 762 --acts 3,9:500 --operations 12,40 --without drift

The numbers of acts are those after the # in the trace. The same seed, program and options give the same history, byte \
for byte. --save keeps it as a plan: a file that does not change its meaning when the program draws other plans \
from the same seed.";

/// Runs it; prints the seed and the command that reproduces a failure.
pub fn run_command(args: &SimArgs, output: &mut Output) -> Result<(), CliError> {
    let scenario = match &args.scenario {
        None => Scenario::default(),
        Some(file) => read_scenario(file)?,
    };
    simulate(args, &scenario, output)
}

fn read(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|error| {
        CliError::usage(format!("cannot read {}: {error}", file.display()), "check the path")
    })
}

fn read_scenario(file: &Path) -> Result<Scenario, CliError> {
    let wrong =
        |error| CliError::usage(format!("{}: {error}", file.display()), "see scenarios/ for examples");
    Scenario::parse(&read(file)?).map_err(wrong)
}

fn read_plan(file: &Path) -> Result<Plan, CliError> {
    let wrong =
        |error| CliError::usage(format!("{}: {error}", file.display()), "see tests/treasure/ for examples");
    Plan::parse(&read(file)?).map_err(wrong)
}

/// Runs the histories of a scenario.
pub(super) fn simulate(args: &SimArgs, scenario: &Scenario, output: &mut Output) -> Result<(), CliError> {
    let mut scenario = scenario.clone();
    if let Some(nodes) = args.nodes {
        scenario.nodes = vec![nodes];
    }
    let reduction = reduction(args)?;
    if let Some(file) = &args.plan {
        return one(args, &read_plan(file)?, &reduction, output);
    }
    if let Some(seed) = args.seed {
        return one(args, &generate(seed, &scenario), &reduction, output);
    }
    if reduction != Reduction::default() {
        let hint = "add --seed N or --plan FILE";
        return Err(CliError::usage("--acts, --operations and --without are about one history", hint));
    }
    if args.cuts {
        let plans = every_cut(args.from);
        let number = plans.len() as u64;
        return many(
            args,
            number,
            &|at| {
                let plan = &plans[usize::try_from(at).expect("few plans")];
                run_plan(plan, false).verdict.map_err(Box::new)
            },
            &|at| plans[usize::try_from(at).expect("few plans")].clone(),
            None,
            output,
        );
    }
    if args.seeds == 0 {
        return Err(CliError::usage("--seeds 0 runs nothing", "give at least 1"));
    }
    let from = args.from;
    many(
        args,
        args.seeds,
        &|at| run(from.saturating_add(at), &scenario),
        &|at| generate(from.saturating_add(at), &scenario),
        Some(&scenario),
        output,
    )
}

/// One history, whose trace may be wanted even if it holds.
fn one(args: &SimArgs, plan: &Plan, reduction: &Reduction, output: &mut Output) -> Result<(), CliError> {
    let small = reduction.of(plan);
    let begun = Instant::now();
    let history = run_plan(&small, true);
    let took = begun.elapsed();
    match history.verdict {
        Ok(summary) => {
            if args.verbose {
                history.trace.iter().for_each(|line| eprintln!("{line}"));
            }
            if let Some(file) = &args.save {
                failure::save(&small, file)?;
            }
            let mut totals = Totals::default();
            totals.add(&summary);
            totals.report(output, None, took)
        }
        Err(violation) => failure::tell(args, plan, reduction, &violation),
    }
}

/// What became of each history, by its place.
type Results = BTreeMap<u64, Result<Summary, Box<Violation>>>;

fn many(
    args: &SimArgs,
    number: u64,
    run: &(dyn Fn(u64) -> Result<Summary, Box<Violation>> + Sync),
    plan: &dyn Fn(u64) -> Plan,
    scenario: Option<&Scenario>,
    output: &mut Output,
) -> Result<(), CliError> {
    let begun = Instant::now();
    let results = run_all(number, run);
    let took = begun.elapsed();
    let (mut totals, mut failed) = (Totals::default(), None);
    for (place, result) in results {
        match result {
            Ok(summary) => totals.add(&summary),
            Err(violation) => {
                failed.get_or_insert((place, violation));
            }
        }
    }
    let violation = failed.as_ref().map(|(_, violation)| violation.as_ref());
    totals.report(output, violation, took)?;
    match (&failed, scenario) {
        (Some((place, violation)), _) => failure::tell(args, &plan(*place), &Reduction::default(), violation),
        (None, Some(scenario)) => totals.check_coverage(scenario),
        (None, None) => Ok(()),
    }
}

/// Histories are independent: one thread a core, each takes the next. Stops early after a failure.
fn run_all(number: u64, run: &(dyn Fn(u64) -> Result<Summary, Box<Violation>> + Sync)) -> Results {
    let bar = bar(number, "histories");
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let results = Mutex::new(Results::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= number {
                        return;
                    }
                    let result = run(place);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(place, result);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A bar on the terminal; nothing elsewhere.
fn bar(length: u64, what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let template = format!("{{bar:40}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left");
    bar.set_style(ProgressStyle::with_template(&template).expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What the options leave of a plan.
fn reduction(args: &SimArgs) -> Result<Reduction, CliError> {
    let mut reduction = Reduction::default();
    if let Some(list) = &args.acts {
        let mut acts = BTreeMap::new();
        for item in items(list) {
            let (number, span) =
                item.split_once(':').map_or((item, None), |(number, span)| (number, Some(span)));
            let span = span.map(|span| parsed("--acts", span, "write 7:500 for 500 ms")).transpose()?;
            acts.insert(parsed("--acts", number, "write numbers, such as 3,7:500, or none")?, span);
        }
        reduction.acts = Some(acts);
    }
    if let Some(list) = &args.operations {
        let number = |item| parsed("--operations", item, "write numbers, such as 12,40, or none");
        reduction.operations = Some(items(list).map(number).collect::<Result<BTreeSet<u32>, _>>()?);
    }
    for item in args.without.iter().flat_map(|list| items(list)) {
        let found = Trait::ALL.into_iter().find(|left_out| left_out.name() == item);
        let hint = "known are database, drift, skew, lease, reluctant, worst-moments, tight";
        let unknown = || CliError::usage(format!("--without: '{item}' is unknown"), hint);
        reduction.without.insert(found.ok_or_else(unknown)?);
    }
    Ok(reduction)
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty() && *item != "none")
}

fn parsed<T: std::str::FromStr>(option: &str, item: &str, hint: &str) -> Result<T, CliError> {
    item.parse().map_err(|_| CliError::usage(format!("{option}: '{item}' is no number"), hint))
}
