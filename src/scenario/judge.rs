//! What came of a run: the course's checks, our own, and the grades of the performance.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::sim::invariants::linearizable::{self, is_linearizable};
use crate::types::Micros;

use super::course::Course;
use super::operations::{Answer, Asked, Operation};

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must be so.
    pub name: &'static str,
    /// Whether it is.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
}

/// How well a figure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Not below any tier.
    None,
    /// Below the widest tier.
    Part,
    /// Below the middle one.
    Full,
    /// Below the narrowest.
    Bonus,
}

impl Grade {
    /// The grade of a figure: tiers are to be stayed below.
    fn of(figure: f64, tiers: &[f64]) -> Grade {
        let mut tiers = tiers.to_vec();
        tiers.sort_by(f64::total_cmp);
        let missed = tiers.iter().filter(|tier| figure >= **tier).count();
        match missed {
            0 => Grade::Bonus,
            _ if missed >= tiers.len() => Grade::None,
            1 => Grade::Full,
            _ => Grade::Part,
        }
    }

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Grade::None => "none",
            Grade::Part => "part",
            Grade::Full => "full",
            Grade::Bonus => "bonus",
        }
    }
}

/// What was counted and measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Messages between replicas.
    pub total_msgs: u64,
    /// Failed and unanswered requests.
    pub failures: u64,
    /// Second answers.
    pub duplicates: u64,
    /// Over all answers, in milliseconds.
    pub median_latency: f64,
    /// Gets sent, repetitions included.
    pub gets: u64,
    /// Puts sent, repetitions included.
    pub puts: u64,
    /// Answers that sent the client elsewhere.
    pub redirects: u64,
}

/// The judgement of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// What must be so.
    pub checks: Vec<Check>,
    /// What was counted.
    pub figures: Figures,
    /// How well each figure did that the scenario has tiers for.
    pub grades: BTreeMap<String, Grade>,
    /// What happened to the replicas.
    pub story: Vec<String>,
}

impl Judgement {
    /// Whether every check holds and no grade is below `least`.
    pub fn passes(&self, least: Grade) -> bool {
        self.checks.iter().all(|check| check.ok) && self.grades.values().all(|grade| *grade >= least)
    }

    /// What does not hold, in words.
    pub fn failures(&self, least: Grade) -> Vec<String> {
        let checks = self.checks.iter().filter(|check| !check.ok);
        let checks = checks.map(|check| format!("{}: {}", check.name, check.seen));
        let grades = self.grades.iter().filter(|(_, grade)| **grade < least);
        let grades = grades.map(|(name, grade)| {
            format!("{name}: {} ({}, wanted {})", self.figure(name), grade.as_str(), least.as_str())
        });
        checks.chain(grades).collect()
    }

    fn figure(&self, name: &str) -> f64 {
        figure(&self.figures, name).unwrap_or_default()
    }
}

fn figure(figures: &Figures, name: &str) -> Option<f64> {
    Some(match name {
        "total_msgs" => figures.total_msgs as f64,
        "failures" => figures.failures as f64,
        "duplicates" => figures.duplicates as f64,
        "median_latency" => figures.median_latency,
        _ => return None,
    })
}

/// Judges a run that is over.
pub fn judge(course: &Course) -> Judgement {
    let figures = count(course);
    let scenario = course.scenario();
    let tiers = scenario.benchmarks.iter();
    let grades = tiers.filter_map(|(name, tiers)| {
        figure(&figures, name).map(|figure| (name.clone(), Grade::of(figure, tiers)))
    });
    let mut checks = vec![
        check("no incorrect answers", incorrect(&course.operations)),
        check("linearizable", disordered(&course.operations)),
        check("no unexpected deaths", course.deaths.clone()),
        check("the protocol is kept", course.violations.clone()),
    ];
    let puts = |operation: &&Operation| operation.asked != Asked::Get;
    let acknowledged =
        course.operations.iter().filter(puts).filter(|put| put.acknowledged().is_some()).count();
    checks.push(Check {
        name: "some put is acknowledged",
        ok: acknowledged > 0,
        seen: format!("{acknowledged} of {}", figures.puts),
    });
    for (name, kind, sent) in
        [("few gets stay unanswered", "get", figures.gets), ("few puts stay unanswered", "put", figures.puts)]
    {
        let of_kind = |operation: &&Operation| (operation.asked == Asked::Get) == (kind == "get");
        let open = course.operations.iter().filter(of_kind).filter(|one| one.answer.is_none()).count();
        let most = scenario.unanswered_max(kind) * sent as f64;
        checks.push(Check { name, ok: open as f64 <= most, seen: format!("{open} of {sent}") });
    }
    checks.push(Check {
        name: "puts are replicated",
        ok: figures.total_msgs as f64 >= scenario.messages_min(),
        seen: format!("{} messages, at least {} needed", figures.total_msgs, scenario.messages_min()),
    });
    if let Some(most) = scenario.max_packets {
        let seen = format!("{} messages, at most {most} allowed", figures.total_msgs);
        checks.push(Check { name: "not too many messages", ok: figures.total_msgs <= most, seen });
    }
    Judgement { checks, grades: grades.collect(), figures, story: course.story.clone() }
}

/// A check that lists what contradicts it.
fn check(name: &'static str, problems: Vec<String>) -> Check {
    let seen = match problems.as_slice() {
        [] => "none".to_string(),
        [first] => first.clone(),
        [first, rest @ ..] => format!("{first}; and {} more", rest.len()),
    };
    Check { name, ok: problems.is_empty(), seen }
}

fn count(course: &Course) -> Figures {
    let mut latencies = Vec::new();
    let (mut failures, mut redirects, mut gets) = (0, 0, 0);
    for operation in &course.operations {
        gets += u64::from(operation.asked == Asked::Get);
        match &operation.answer {
            None => failures += 1,
            Some((at, answer)) => {
                latencies.push(at.0 - operation.sent.0);
                failures += u64::from(*answer == Answer::Fail);
                redirects += u64::from(*answer == Answer::Redirect);
            }
        }
    }
    latencies.sort_unstable();
    let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
    Figures {
        total_msgs: course.messages,
        failures,
        duplicates: course.duplicates,
        median_latency: median as f64 / 1e3,
        gets,
        puts: course.operations.len() as u64 - gets,
        redirects,
    }
}

/// Gets whose answer is wrong, whatever else happened: a value that nobody wrote there, or that had been overwritten, by what
/// was acknowledged, before the get was asked.
fn incorrect(operations: &[Operation]) -> Vec<String> {
    let mut problems = Vec::new();
    for get in operations {
        let Some((answered, Answer::Ok(Some(value)))) = &get.answer else { continue };
        if get.asked != Asked::Get {
            continue;
        }
        let puts = || operations.iter().filter(|put| put.key == get.key && put.asked != Asked::Get);
        let before = |put: &&Operation| put.acknowledged().is_some_and(|at| at < get.sent);
        let why = if value.is_empty() {
            puts().find(before).map(|_| "nothing, after a put was acknowledged")
        } else {
            match puts().find(|put| put.asked == Asked::Put(value.clone())) {
                None => Some("what nobody wrote there"),
                Some(put) if put.sent > *answered => Some("what was written later"),
                Some(put) if matches!(put.answer, Some((_, Answer::Fail | Answer::Redirect))) => {
                    Some("a put that was said not to have happened")
                }
                Some(put) => {
                    let overwrites = |other: &Operation| put.acknowledged().is_some_and(|at| at < other.sent);
                    puts().find(|other| before(other) && overwrites(other)).map(|_| "an old value")
                }
            }
        };
        if let Some(why) = why {
            let seconds = get.sent.0 as f64 / 1e6;
            let replica = super::course::address(get.replica);
            problems.push(format!("at {seconds:.3} s {replica} answered \"{value}\" for {}: {why}", get.key));
        }
    }
    problems
}

/// Keys whose operations cannot be put into one order that respects real time. A put without an answer may have happened
/// at any time since, or never.
fn disordered(operations: &[Operation]) -> Vec<String> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut problems = Vec::new();
    for (key, operations) in keys {
        let history = history(&operations);
        if history.len() > linearizable::OPERATIONS_MAX {
            problems.push(format!("{key}: too many operations to decide"));
        } else if !is_linearizable(&history) {
            problems
                .push(format!("{key}: no order of its {} operations explains the answers", history.len()));
        }
    }
    problems
}

/// The operations of one key, as registers have them. What was failed or redirected is none; what was not answered and not
/// seen by anybody can be taken never to have happened.
fn history(operations: &[&Operation]) -> Vec<linearizable::Operation> {
    let read = |operation: &&&Operation| match &operation.answer {
        Some((_, Answer::Ok(Some(value)))) if operation.asked == Asked::Get => Some(value.clone()),
        _ => None,
    };
    let seen: BTreeSet<String> = operations.iter().filter_map(|operation| read(&operation)).collect();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        if let Asked::Put(value) = &operation.asked {
            numbers.insert(value, number as u64);
        }
    }
    let number = |value: &str| numbers.get(value).copied().unwrap_or(u64::MAX);
    let mut history = Vec::new();
    for operation in operations {
        let returned: Option<Micros> = operation.acknowledged();
        let action = match &operation.asked {
            Asked::Get => match read(&operation) {
                None => continue,
                Some(value) if value.is_empty() => linearizable::Action::Read(None),
                Some(value) => linearizable::Action::Read(Some(number(&value))),
            },
            Asked::Put(value) => {
                let unanswered = operation.answer.is_none();
                if returned.is_none() && !(unanswered && seen.contains(value)) {
                    continue;
                }
                linearizable::Action::Write(Some(number(value)))
            }
        };
        history.push(linearizable::Operation { invoked: operation.sent, returned, action });
    }
    history
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &str, sent: u64, answered: Option<u64>) -> Operation {
        let answer = answered.map(|at| (Micros(at), Answer::Ok(None)));
        Operation { key: "k".into(), asked: Asked::Put(value.into()), replica: 0, sent: Micros(sent), answer }
    }

    fn get(value: &str, sent: u64, answered: u64) -> Operation {
        let answer = Some((Micros(answered), Answer::Ok(Some(value.into()))));
        Operation { key: "k".into(), asked: Asked::Get, replica: 0, sent: Micros(sent), answer }
    }

    #[test]
    fn answers_are_incorrect_by_themselves_or_only_together() {
        let redirected = |sent| {
            let answer = Some((Micros(sent + 1), Answer::Redirect));
            Operation { answer, ..put("r", sent, None) }
        };
        // What happened; wrong by itself; out of order.
        for (operations, wrong, disorder) in [
            (vec![put("a", 0, Some(1)), get("a", 2, 3)], 0, 0),
            (vec![put("a", 0, Some(1)), get("", 2, 3)], 1, 1),
            (vec![put("a", 0, Some(5)), get("", 2, 3)], 0, 0),
            (vec![put("a", 0, Some(1)), put("b", 2, Some(3)), get("a", 4, 5)], 1, 1),
            (vec![get("x", 4, 5)], 1, 1),
            (vec![redirected(0), get("r", 4, 5)], 1, 1),
            // Unanswered: never, or late; but not undone.
            (vec![put("a", 0, None), get("", 2, 3), get("a", 4, 5)], 0, 0),
            (vec![put("a", 0, None), get("a", 2, 3), get("", 4, 5)], 0, 1),
            // Two puts at once may come in either order, but in one.
            (vec![put("a", 0, Some(9)), put("b", 0, Some(9)), get("a", 10, 11), get("b", 12, 13)], 0, 1),
        ] {
            assert_eq!(incorrect(&operations).len(), wrong, "{operations:?}");
            assert_eq!(disordered(&operations).len(), disorder, "{operations:?}");
        }
    }

    #[test]
    fn a_figure_must_stay_below_its_tier() {
        let tiers = [4_000.0, 2_200.0, 6_000.0];
        for (figure, grade) in [
            (2_199.0, Grade::Bonus),
            (2_200.0, Grade::Full),
            (3_999.0, Grade::Full),
            (4_000.0, Grade::Part),
            (6_000.0, Grade::None),
        ] {
            assert_eq!(Grade::of(figure, &tiers), grade, "{figure}");
        }
    }
}
