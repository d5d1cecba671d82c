//! `scenario`: replicas of the course protocol under clients, crashes, partitions and loss.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::scenario::{
    Grade, Judgement, Scenario, built_in, find, in_real_time, in_virtual_time, judge, junit,
};

use super::{CliError, Format, Output};

/// `scenario`
#[derive(Debug, Clone, Subcommand)]
pub enum ScenarioCommand {
    /// The scenarios that come with the program
    List,
    /// Run scenarios; exits with 1 if a check fails
    Run(RunArgs),
}

/// `scenario run`
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = HELP)]
pub struct RunArgs {
    /// A built-in scenario (simple-1), a family (crash), all, or a file in the course's format
    #[arg(value_name = "NAME|FILE|all")]
    pub what: String,
    /// The seed of all chance [default: the file's, or 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Run each scenario with so many seeds, counted up from the first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub seeds: u64,
    /// Run in real time over UDP, with processes of this program, instead of in virtual time
    #[arg(long)]
    pub real: bool,
    /// Run in real time with replicas of this program, started as PROG PORT ID PEER…
    #[arg(long, value_name = "PROG")]
    pub replica: Option<PathBuf>,
    /// What every graded figure must reach
    #[arg(long, value_name = "GRADE", value_enum, default_value_t = Require::Full)]
    pub require: Require,
    /// Write the results as JUnit
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

const HELP: &str = "\
In virtual time the replicas are this program's own, in this process: 30 seconds take a moment, and the same seed gives the \
same history. In real time the seed decides what clients ask, what is lost and who is killed, but not how fast anybody is.

Checked is what the course checks, that the answers are linearizable, and that the protocol is kept. Graded is what \
the file has benchmarks for.";

/// What every graded figure must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Require {
    /// Nothing: only the checks count.
    None,
    /// Below the widest tier.
    Part,
    /// Below the middle tier.
    Full,
    /// Below the narrowest tier.
    Bonus,
}

impl Require {
    fn grade(self) -> Grade {
        match self {
            Require::None => Grade::None,
            Require::Part => Grade::Part,
            Require::Full => Grade::Full,
            Require::Bonus => Grade::Bonus,
        }
    }

    fn name(self) -> &'static str {
        self.grade().as_str()
    }
}

/// One run and what came of it.
struct Run {
    name: String,
    seed: u64,
    judgement: Judgement,
    took: Duration,
    command: String,
}

/// Lists or runs.
pub async fn run(command: ScenarioCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        ScenarioCommand::List => list(output),
        ScenarioCommand::Run(args) => {
            let stop = Arc::new(AtomicBool::new(false));
            let (work, flag, least) = (args.clone(), stop.clone(), args.require.grade());
            let runs = tokio::task::spawn_blocking(move || run_all(&work, &flag));
            tokio::pin!(runs);
            let ended = tokio::select! {
                ended = &mut runs => Some(ended),
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(ended) = ended else {
                // The processes are ended before this one is.
                stop.store(true, Ordering::Relaxed);
                let _interrupted = runs.await;
                return Err(CliError::Interrupted);
            };
            let runs = ended.map_err(|error| CliError::failed(format!("the run broke off: {error}")))??;
            if let Some(file) = &args.junit {
                write_junit(file, &runs, least)?;
            }
            tell(&runs, least, output)
        }
    }
}

fn list(output: &mut Output) -> Result<(), CliError> {
    let (mut rows, mut items) = (Vec::new(), Vec::new());
    for (name, scenario) in built_in() {
        let kind = |event: &crate::scenario::Event| format!("{:?} at {} s", event.kind, event.time);
        let events: Vec<String> = scenario.events.iter().map(kind).collect();
        rows.push(vec![
            name.to_string(),
            scenario.replicas.to_string(),
            scenario.requests.to_string(),
            format!("{}%", scenario.mix * 100.0),
            format!("{}%", scenario.drops * 100.0),
            events.join(", "),
        ]);
        items.push(json!({
            "name": name, "replicas": scenario.replicas, "requests": scenario.requests, "mix": scenario.mix,
            "drops": scenario.drops, "events": events,
        }));
    }
    Ok(output.list(&["NAME", "REPLICAS", "REQUESTS", "GETS", "LOST", "EVENTS"], &rows, &items)?)
}

fn chosen(what: &str) -> Result<Vec<(String, Scenario)>, CliError> {
    let found = find(what);
    if !found.is_empty() {
        return Ok(found.into_iter().map(|(name, scenario)| (name.to_string(), scenario)).collect());
    }
    let text = std::fs::read_to_string(what).map_err(|error| {
        CliError::usage(
            format!("'{what}' is no built-in scenario, and cannot be read as a file: {error}"),
            "super-node scenario list names the built-in ones",
        )
    })?;
    let scenario = Scenario::parse(&text)
        .map_err(|error| CliError::usage(format!("{what}: {error}"), "see scenarios/course/ for examples"))?;
    Ok(vec![(what.to_string(), scenario)])
}

fn run_all(args: &RunArgs, stop: &AtomicBool) -> Result<Vec<Run>, CliError> {
    let mut runs = Vec::new();
    for (name, scenario) in chosen(&args.what)? {
        let first = args.seed.or(scenario.seed).unwrap_or(1);
        for seed in (0..args.seeds).map(|number| first.wrapping_add(number)) {
            let begun = Instant::now();
            let course = if args.real || args.replica.is_some() {
                play_for_real(args, &scenario, seed, stop)?
            } else {
                in_virtual_time(&scenario, seed)
            };
            if stop.load(Ordering::Relaxed) {
                return Ok(runs);
            }
            let command = command_of(args, &name, seed);
            runs.push(Run {
                name: name.clone(),
                seed,
                judgement: judge(&course),
                took: begun.elapsed(),
                command,
            });
        }
    }
    Ok(runs)
}

fn play_for_real(
    args: &RunArgs,
    scenario: &Scenario,
    seed: u64,
    stop: &AtomicBool,
) -> Result<crate::scenario::Course, CliError> {
    let failed = |error: std::io::Error| {
        let program = args.replica.as_deref().unwrap_or(Path::new("this program"));
        CliError::failed(format!("cannot run replicas of {}: {error}", program.display()))
    };
    match &args.replica {
        Some(program) => in_real_time(scenario, seed, program, &[], stop).map_err(failed),
        None => {
            let program = std::env::current_exe().map_err(failed)?;
            in_real_time(scenario, seed, &program, &["replica"], stop).map_err(failed)
        }
    }
}

/// What runs this again.
fn command_of(args: &RunArgs, name: &str, seed: u64) -> String {
    let mut command = format!("super-node scenario run {name} --seed {seed}");
    match &args.replica {
        Some(program) => command.push_str(&format!(" --replica {}", program.display())),
        None if args.real => command.push_str(" --real"),
        None => {}
    }
    if args.require != Require::Full {
        command.push_str(&format!(" --require {}", args.require.name()));
    }
    command
}

fn tell(runs: &[Run], least: Grade, output: &mut Output) -> Result<(), CliError> {
    let (rows, items): (Vec<_>, Vec<_>) = runs.iter().map(|run| (row(run, least), item(run, least))).unzip();
    let headers = ["SCENARIO", "SEED", "MESSAGES", "FAILURES", "DUPLICATES", "MEDIAN MS", "CHECKS", "RESULT"];
    output.list(&headers, &rows, &items)?;
    let failed: Vec<&Run> = runs.iter().filter(|run| !run.judgement.passes(least)).collect();
    if output.format() != Format::Json {
        for run in &failed {
            eprintln!("{} with seed {} failed", run.name, run.seed);
            run.judgement.failures(least).iter().for_each(|failure| eprintln!("  {failure}"));
            run.judgement.story.iter().for_each(|event| eprintln!("  {event}"));
            eprintln!("  reproduce: {}", run.command);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(CliError::Checks) }
}

fn row(run: &Run, least: Grade) -> Vec<String> {
    let Judgement { checks, figures, grades, .. } = &run.judgement;
    let graded = |name: &str, figure: String| match grades.get(name) {
        Some(grade) => format!("{figure} {}", grade.as_str()),
        None => figure,
    };
    let held = checks.iter().filter(|check| check.ok).count();
    vec![
        run.name.clone(),
        run.seed.to_string(),
        graded("total_msgs", figures.total_msgs.to_string()),
        graded("failures", figures.failures.to_string()),
        graded("duplicates", figures.duplicates.to_string()),
        graded("median_latency", format!("{:.3}", figures.median_latency)),
        format!("{held} of {}", checks.len()),
        if run.judgement.passes(least) { "passed" } else { "FAILED" }.to_string(),
    ]
}

fn item(run: &Run, least: Grade) -> Value {
    json!({
        "scenario": run.name,
        "seed": run.seed,
        "passed": run.judgement.passes(least),
        "failures": run.judgement.failures(least),
        "checks": run.judgement.checks,
        "figures": run.judgement.figures,
        "grades": run.judgement.grades,
        "story": run.judgement.story,
        "seconds": run.took.as_secs_f64(),
        "command": run.command,
    })
}

fn write_junit(file: &Path, runs: &[Run], least: Grade) -> Result<(), CliError> {
    let cases: Vec<_> = runs
        .iter()
        .map(|run| (format!("{} seed {}", run.name, run.seed), run.judgement.clone(), run.took.as_secs_f64()))
        .collect();
    std::fs::write(file, junit(&cases, least))
        .map_err(|error| CliError::failed(format!("cannot write {}: {error}", file.display())))
}
