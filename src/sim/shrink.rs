//! Makes a failure small: leaves out faults, operations and peculiarities as long as the same invariant breaks
//! (Zeller and Hildebrandt's delta debugging, 2002, in its plainest form).

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Violation, run_plan};
use super::plan::{Plan, Tight};

/// Shortest span that an act is cut to, in milliseconds.
const SPAN_MIN_MS: u64 = 50;

/// A peculiarity of a history that can be left out as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trait {
    /// Monotonic clocks that run fast or slow.
    Drift,
    /// Wall clocks that are off.
    Skew,
    /// Leases.
    Lease,
    /// Nodes that prefer not to lead.
    Reluctant,
    /// MongoDB.
    Database,
    /// Crashes at the worst moments.
    WorstMoments,
    /// Bounds that are tighter than outside.
    Tight,
}

impl Trait {
    /// All of them.
    pub const ALL: [Trait; 7] = [
        Trait::Database,
        Trait::Drift,
        Trait::Skew,
        Trait::Lease,
        Trait::Reluctant,
        Trait::WorstMoments,
        Trait::Tight,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Trait::Drift => "drift",
            Trait::Skew => "skew",
            Trait::Lease => "lease",
            Trait::Database => "database",
            Trait::Reluctant => "reluctant",
            Trait::WorstMoments => "worst-moments",
            Trait::Tight => "tight",
        }
    }
}

/// What of a plan is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reduction {
    /// Acts by number, each with the span that it is shortened to, if it is; `None`: all.
    pub acts: Option<BTreeMap<u32, Option<u64>>>,
    /// Operations by number; `None`: all.
    pub operations: Option<BTreeSet<u32>>,
    /// What is left out as a whole.
    pub without: BTreeSet<Trait>,
}

impl Reduction {
    /// What is left of a plan.
    pub fn of(&self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        if let Some(kept) = &self.acts {
            plan.acts.retain(|act| kept.contains_key(&act.number));
            for act in &mut plan.acts {
                if let Some(Some(span)) = kept.get(&act.number) {
                    act.for_ms = act.for_ms.min(*span);
                }
            }
        }
        if let Some(kept) = &self.operations {
            plan.operations = Some(kept.clone());
        }
        for left_out in &self.without {
            match left_out {
                Trait::Drift => plan.drift_ppm.clear(),
                Trait::Skew => plan.skew_ms.clear(),
                Trait::Lease => plan.lease_ms = None,
                Trait::Database => plan.database = false,
                Trait::Reluctant => plan.reluctant.clear(),
                Trait::WorstMoments => plan.worst_moments = false,
                Trait::Tight => plan.tight = Tight::default(),
            }
        }
        plan
    }

    /// The options of the command line that say the same, each with a space before it.
    pub fn options(&self) -> String {
        let mut options = String::new();
        if let Some(acts) = &self.acts {
            let list = acts.iter().map(|(number, span)| match span {
                Some(span) => format!("{number}:{span}"),
                None => number.to_string(),
            });
            options += &format!(" --acts {}", or_none(list.collect()));
        }
        if let Some(operations) = &self.operations {
            options += &format!(" --operations {}", or_none(operations.iter().map(u32::to_string).collect()));
        }
        if !self.without.is_empty() {
            let list: Vec<&str> = self.without.iter().map(|left_out| left_out.name()).collect();
            options += &format!(" --without {}", list.join(","));
        }
        options
    }
}

fn or_none(list: Vec<String>) -> String {
    if list.is_empty() { "none".to_string() } else { list.join(",") }
}

/// A failure, made small.
#[derive(Debug)]
pub struct Shrunk {
    /// What is kept of the plan.
    pub reduction: Reduction,
    /// How it fails now.
    pub violation: Violation,
    /// How many histories were run for this.
    pub runs: u32,
}

struct Shrinker<'p> {
    plan: &'p Plan,
    best: Reduction,
    violation: Violation,
    runs: u32,
    runs_max: u32,
    told: &'p mut dyn FnMut(u32),
}

/// Makes a failure of a plan small, with at most so many runs. `told` hears of each run.
pub fn shrink(plan: &Plan, violation: &Violation, runs_max: u32, told: &mut dyn FnMut(u32)) -> Shrunk {
    let best = Reduction::default();
    let mut shrinker = Shrinker { plan, best, violation: violation.clone(), runs: 0, runs_max, told };
    shrinker.acts();
    shrinker.operations();
    // What could not go while others were there may go now.
    shrinker.acts();
    shrinker.traits();
    shrinker.spans();
    Shrunk { reduction: shrinker.best, violation: shrinker.violation, runs: shrinker.runs }
}

impl Shrinker<'_> {
    /// Whether the same invariant breaks with less; if so, that is the best from now on.
    fn works(&mut self, reduction: Reduction) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        (self.told)(self.runs);
        match run_plan(&reduction.of(self.plan), false).verdict {
            Err(found) if found.invariant() == self.violation.invariant() => {
                self.best = reduction;
                self.violation = found;
                true
            }
            _ => false,
        }
    }

    /// Leaves out ever smaller parts of a list.
    fn list<T: Clone>(&mut self, mut kept: Vec<T>, with: impl Fn(&Reduction, &[T]) -> Reduction) {
        if kept.is_empty() || self.works(with(&self.best, &[])) {
            return;
        }
        let mut size = kept.len().div_ceil(2);
        loop {
            let mut from = 0;
            while from < kept.len() {
                let mut fewer = kept.clone();
                fewer.drain(from..(from + size).min(kept.len()));
                if self.works(with(&self.best, &fewer)) {
                    kept = fewer;
                } else {
                    from += size;
                }
            }
            if size == 1 {
                return;
            }
            size = size.div_ceil(2);
        }
    }

    fn acts(&mut self) {
        let kept: Vec<u32> = self.best.of(self.plan).acts.iter().map(|act| act.number).collect();
        self.list(kept, |best, kept| {
            let acts = kept.iter().map(|number| (*number, None)).collect();
            Reduction { acts: Some(acts), ..best.clone() }
        });
    }

    fn operations(&mut self) {
        let begun = run_plan(&self.best.of(self.plan), false).operations;
        self.list(begun, |best, kept| Reduction {
            operations: Some(kept.iter().copied().collect()),
            ..best.clone()
        });
    }

    fn traits(&mut self) {
        for left_out in Trait::ALL {
            let mut fewer = self.best.clone();
            fewer.without.insert(left_out);
            if fewer.of(self.plan) != self.best.of(self.plan) {
                self.works(fewer);
            }
        }
    }

    fn spans(&mut self) {
        let acts = self.best.of(self.plan).acts;
        for act in acts {
            let mut span = act.for_ms / 2;
            while span >= SPAN_MIN_MS {
                let mut shorter = self.best.clone();
                let all = || self.plan.acts.iter().map(|act| (act.number, None)).collect();
                shorter.acts.get_or_insert_with(all).insert(act.number, Some(span));
                if !self.works(shorter) {
                    break;
                }
                span /= 2;
            }
        }
    }
}
