//! Which observers count, and what follows for the interval as a whole: who is at fault itself must not punish anybody.
//!
//! All of it is derived from the reports in the log, so every node comes to the same, and `verify` comes to it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::NodeId;

use super::command::ObserverHealth;
use super::evidence::{CutRecord, Docket, ReportHead};
use super::records::{Observer, Verdict};
use super::score::{self, HALF_PPM, Seen};

/// Nothing of its report came.
pub const WHY_ABSENT: &str = "absent";
/// Some parts of its report did not come.
pub const WHY_INCOMPLETE: &str = "incomplete";
/// It was not up for the whole interval.
pub const WHY_COLD: &str = "cold";
/// Its scheduler stood still for [`STALL_MS_MAX`] or longer.
pub const WHY_STALLED: &str = "stalled";
/// Its own health score is [`SCORE_MAX`] or more.
pub const WHY_UNHEALTHY: &str = "unhealthy";
/// It alone saw most members dark.
pub const WHY_ALONE: &str = "alone";

/// A stall of its own from which on an observer is not believed, in milliseconds.
pub const STALL_MS_MAX: u32 = 1_000;
/// A score of its own from which on an observer is not believed.
pub const SCORE_MAX: u32 = 4;
/// With fewer members than this, that one observer sees most of them dark says nothing about the observer.
pub const ALONE_MEMBERS_MIN: u64 = 4;
/// After so many correlated intervals in a row strikes are given again.
pub const CORRELATED_FORGIVEN: u64 = 5;

/// Which of the expected observers can be believed, as far as that can be told without what they saw.
pub fn by_themselves(expected: &[NodeId], heads: &BTreeMap<NodeId, ReportHead>) -> Vec<Observer> {
    expected
        .iter()
        .map(|id| {
            let why = match heads.get(id) {
                None => WHY_ABSENT,
                Some(head) if !head.is_complete() => WHY_INCOMPLETE,
                Some(head) => ill(&head.health),
            };
            Observer { id: id.clone(), used: why.is_empty(), why: why.to_string() }
        })
        .collect()
}

/// What an observer says against itself; empty: nothing.
fn ill(health: &ObserverHealth) -> &'static str {
    if !health.whole_interval {
        WHY_COLD
    } else if health.longest_stall_ms >= STALL_MS_MAX {
        WHY_STALLED
    } else if health.score >= SCORE_MAX {
        WHY_UNHEALTHY
    } else {
        ""
    }
}

/// What is known about an interval before anybody is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Who counts, and why the others do not.
    pub observers: Vec<Observer>,
    /// What becomes of the interval.
    pub verdict: Verdict,
    /// Why, in words; empty when it is settled as usual.
    pub reason: String,
    /// How many correlated intervals in a row this one makes, counted up to one more than [`CORRELATED_FORGIVEN`]; 0 if
    /// it is not one.
    pub correlated: u64,
}

impl Ruling {
    /// Whether strikes are given and cooldowns pass.
    pub fn strikes_count(&self) -> bool {
        self.verdict == Verdict::Settled || self.correlated > CORRELATED_FORGIVEN
    }
}

/// What the rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What was fixed at the cut.
    pub cut: &'a CutRecord,
    /// Pings expected of one observer in a full interval.
    pub expected: u64,
    /// Names of the members in announced maintenance: that they are dark surprises nobody.
    pub excused: &'a BTreeSet<String>,
    /// How many intervals before this one were correlated, in a row.
    pub correlated_before: u64,
}

/// Whether an observer has seen a member dark: often enough asked, and less than half answered.
fn is_dark(seen: &Seen, expected: u64) -> bool {
    score::is_enough(seen.counts.sent, expected)
        && u64::from(seen.counts.answered) * 2 < u64::from(seen.counts.sent)
}

/// Decides. `docket` holds the reports of the observers in `observers` that are used; the one who stands alone is taken
/// out of both.
pub fn rule(question: &Question<'_>, observers: Vec<Observer>, docket: &mut Docket<'_>) -> Ruling {
    let mut ruling = Ruling { observers, verdict: Verdict::Settled, reason: String::new(), correlated: 0 };
    // An observer does not see itself.
    let others = question.cut.members.saturating_sub(1);
    let mut dark: Vec<(NodeId, u64)> = docket
        .lanes()
        .map(|(observer, rows)| {
            let dark = rows.filter(|(member, seen)| {
                is_dark(seen, question.expected) && !question.excused.contains(*member)
            });
            (observer.clone(), dark.count() as u64)
        })
        .collect();
    let sees_most = |dark: u64| dark * 2 > others;
    if let Some(alone) = alone(question, &dark, docket) {
        docket.set_aside(&alone);
        dark.retain(|(observer, _)| *observer != alone);
        for observer in ruling.observers.iter_mut().filter(|observer| observer.id == alone) {
            (observer.used, observer.why) = (false, WHY_ALONE.to_string());
        }
    }
    let words: Vec<String> = dark.iter().map(|(observer, dark)| format!("{observer} {dark}")).collect();
    let words = words.join(", ");
    let (used, majority) = (dark.len(), question.cut.majority());
    if used < majority {
        ruling.verdict = Verdict::Void;
        ruling.reason =
            format!("{used} of {} observers count, and {majority} are needed", question.cut.observers.len());
    } else if dark.iter().all(|(_, dark)| sees_most(*dark)) {
        if used == 1 {
            ruling.verdict = Verdict::Void;
            ruling.reason = format!("the only observer saw most of {others} other members dark: {words}");
        } else {
            ruling.verdict = Verdict::Correlated;
            ruling.correlated = question.correlated_before.saturating_add(1);
            let strikes = if ruling.strikes_count() {
                format!("; more than {CORRELATED_FORGIVEN} in a row, so strikes are given again")
            } else {
                " and no strikes".to_string()
            };
            ruling.reason = format!(
                "every observer saw most of {others} other members dark ({words}): no penalties{strikes}"
            );
        }
    }
    ruling
}

/// The observer that alone saw most members dark while the others' median did not.
fn alone(question: &Question<'_>, dark: &[(NodeId, u64)], docket: &mut Docket<'_>) -> Option<NodeId> {
    let others = question.cut.members.saturating_sub(1);
    let mut suspects = dark.iter().filter(|(_, dark)| dark * 2 > others);
    let (suspect, _) = suspects.next()?;
    if suspects.next().is_some() || dark.len() < 2 || question.cut.members < ALONE_MEMBERS_MIN {
        return None;
    }
    let mut agreed = 0_u64;
    docket.rewind();
    while let Some(member) = docket.peek().map(str::to_string) {
        let seen = docket.take(&member);
        let mut availabilities: Vec<u32> = seen
            .iter()
            .filter(|(observer, seen)| {
                observer != suspect && score::is_enough(seen.counts.sent, question.expected)
            })
            .map(|(_, seen)| score::availability(seen))
            .collect();
        availabilities.sort_unstable();
        let excused = question.excused.contains(&member);
        let dark = score::upper_median(&availabilities).is_some_and(|median| median < HALF_PPM);
        agreed += u64::from(dark && !excused);
    }
    docket.rewind();
    (agreed * 2 <= question.cut.members).then(|| suspect.clone())
}
