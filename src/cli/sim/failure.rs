//! A failure, made small and told.

use std::path::Path;

use crate::cli::CliError;
use crate::sim::plan::Plan;
use crate::sim::shrink::{Reduction, Shrunk, shrink};
use crate::sim::trace::{Line, Weight};
use crate::sim::{Violation, run_plan};

use super::{SimArgs, bar};

/// Most histories that are run to make a failure small.
const RUNS_MAX: u32 = 1_500;
/// Lines of a trace that are printed without --verbose: the last ones.
const LINES_MAX: usize = 120;

/// Tells a failure: its small trace, and the command that runs it again. `given`: what the command line left of the
/// plan already.
pub fn tell(args: &SimArgs, plan: &Plan, given: &Reduction, violation: &Violation) -> Result<(), CliError> {
    let is_given = *given != Reduction::default();
    // A history that shows nothing is not made better by taking something out.
    let vacuous = violation.invariant() == "vacuity";
    let reduction = if args.no_shrink || is_given || vacuous {
        given.clone()
    } else {
        eprintln!("{violation}");
        small(plan, violation)
    };
    let small = reduction.of(plan);
    let history = run_plan(&small, true);
    let violation = history.verdict.as_ref().err().unwrap_or(violation);
    print(&history.trace, violation, args.verbose);
    if let Some(file) = &args.save {
        save(&small, file)?;
    }
    Err(CliError::Violation { what: violation.to_string(), command: command(args, plan, &reduction) })
}

fn small(plan: &Plan, violation: &Violation) -> Reduction {
    let bar = bar(u64::from(RUNS_MAX), "tries to make it small");
    let Shrunk { reduction, runs, .. } =
        shrink(plan, violation, RUNS_MAX, &mut |runs| bar.set_position(u64::from(runs)));
    bar.finish_and_clear();
    let small = reduction.of(plan);
    let operations = small.operations.as_ref().map_or("all".to_string(), |kept| kept.len().to_string());
    eprintln!(
        "made small in {runs} tries: {} of {} acts and {operations} operations are left\n",
        small.acts.len(),
        plan.acts.len()
    );
    reduction
}

fn command(args: &SimArgs, plan: &Plan, reduction: &Reduction) -> String {
    let mut command = "super-node sim".to_string();
    match (&args.plan, args.cuts, &args.save) {
        (Some(file), _, _) => command += &format!(" --plan {}", file.display()),
        (None, true, Some(file)) => return format!("{command} --plan {}", file.display()),
        (None, true, None) => return format!("{command} --cuts --from {}", plan.seed),
        (None, false, _) => command += &format!(" --seed {}", plan.seed),
    }
    if let Some(file) = &args.scenario {
        command += &format!(" --scenario {}", file.display());
    }
    if let Some(nodes) = args.nodes {
        command += &format!(" --nodes {nodes}");
    }
    command + &reduction.options()
}

/// The trace is for people, and goes where messages go.
fn print(trace: &[Line], violation: &Violation, verbose: bool) {
    let matters = |line: &&Line| {
        // What clients do matters as far as it is about the key in question.
        verbose || line.weight == Weight::Main && (line.key.is_none() || line.key == violation.key)
    };
    let lines: Vec<&Line> = trace.iter().filter(matters).collect();
    let skipped = if verbose { 0 } else { lines.len().saturating_sub(LINES_MAX) };
    if skipped > 0 {
        eprintln!("… {skipped} earlier lines (--verbose shows all)");
    }
    for line in &lines[skipped..] {
        eprintln!("{line}");
    }
}

/// Writes a plan down.
pub fn save(plan: &Plan, file: &Path) -> Result<(), CliError> {
    let text =
        plan.to_toml().map_err(|error| CliError::failed(format!("the plan cannot be written: {error}")))?;
    std::fs::write(file, text)
        .map_err(|error| CliError::failed(format!("cannot write {}: {error}", file.display())))
}
