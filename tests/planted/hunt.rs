//! Looks for a planted bug: runs histories from seed 0 on until one breaks an invariant. The program of the copy that
//! holds the bugs; `SUPER_NODE_PLANTED` in its environment names the one that is switched on.
//!
//! ```text
//! hunt SEEDS [SCENARIO]         prints "seed TAB invariant TAB what" and exits with 1 if something is found
//! hunt --seed SEED [SCENARIO]   runs one history and prints what happens in it
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super_node::sim::{Scenario, Violation, generate, run, run_plan};

/// The breach with the lowest seed below `seeds`, if there is one. Histories are independent: each thread takes the next.
pub fn hunt(seeds: u64, scenario: &Scenario) -> Option<Violation> {
    let (next, bound) = (AtomicU64::new(0), AtomicU64::new(seeds));
    let found = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= bound.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(violation) = run(seed, scenario) {
                        // Those below it that others are still at are finished; none above it is begun.
                        bound.fetch_min(seed, Ordering::Relaxed);
                        found.lock().expect("no thread panics here").insert(seed, *violation);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics here").pop_first().map(|(_, violation)| violation)
}

/// See the head.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let one = arguments.next_if(|argument| argument == "--seed").is_some();
    let number = arguments.next().and_then(|text| text.parse::<u64>().ok());
    let scenario = arguments.next().map_or(Ok(Scenario::default()), |file| {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        Scenario::parse(&text).map_err(|error| format!("{file}: {error}"))
    });
    let (Some(number), Ok(scenario)) = (number, &scenario) else {
        eprintln!(
            "usage: hunt SEEDS [SCENARIO] | hunt --seed SEED [SCENARIO]\n{}",
            scenario.err().unwrap_or_default()
        );
        return ExitCode::from(2);
    };
    let breach = if one {
        let history = run_plan(&generate(number, scenario), true);
        history.trace.iter().for_each(|line| println!("{line}"));
        history.verdict.err()
    } else {
        hunt(number, scenario)
    };
    let Some(breach) = breach else { return ExitCode::SUCCESS };
    let what = breach.what.replace(['\t', '\n'], " ");
    println!("{}\t{}\t{what}", breach.seed, breach.invariant());
    ExitCode::FAILURE
}
