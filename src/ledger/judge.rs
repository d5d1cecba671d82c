//! One member, one interval: from what the observers saw to the movements. Pure: `apply` runs it on the real book,
//! `verify` and `explain` run it again on their own and compare.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis, Version};

use super::accounts::{self, Book, Posting};
use super::budget::Grants;
use super::policy::Policy;
use super::records::{MemberStatus, Movement, MovementKind, Observation, Verdict};
use super::score::{self, Score, Seen};
use super::standing::{Standing, StandingChange};

/// What is stored for a member and an interval: the public observation, and what it started from, so that it can be
/// re-derived by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Evidence and result.
    pub observation: Observation,
    /// The standing before the interval was settled.
    pub before: Standing,
    /// The balance before it.
    pub balance_before: Amount,
    /// What the member would have been paid without a budget.
    pub earned: Amount,
    /// The ledger sequence of its first movement; 0 if there is none.
    pub first_seq: u64,
}

impl Judgement {
    /// The sequences of its movements: reward, then penalty, each only if it was made.
    pub fn seqs(&self) -> std::ops::Range<u64> {
        let Observation { reward, penalty, .. } = self.observation;
        let made = u64::from(reward != Amount::ZERO) + u64::from(penalty != Amount::ZERO);
        self.first_seq..self.first_seq + made
    }
}

/// What all members of an interval have in common.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The interval.
    pub interval: IntervalId,
    /// Its policy.
    pub policy: &'a Policy,
    /// What members' versions are compared with.
    pub version: Option<Version>,
    /// What becomes of the interval as a whole.
    pub verdict: Verdict,
    /// Whether strikes are given and cooldowns pass.
    pub strikes_count: bool,
    /// The settling entry.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Log time of the settlement.
    pub at: UnixMillis,
}

/// A member before it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name.
    pub member: &'a MemberId,
    /// How it stands.
    pub standing: Standing,
    /// What it holds.
    pub balance: Amount,
    /// Whether it has left; then it is judged for the time it was there.
    pub left: bool,
    /// Whether it is in announced maintenance.
    pub excused: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Judged {
    /// To be stored.
    pub judgement: Judgement,
    /// The standing afterwards.
    pub after: Standing,
    /// The balance afterwards.
    pub balance: Amount,
    /// The arithmetic; `None` without enough evidence.
    pub score: Option<Score>,
    /// What changed about its status.
    pub change: Option<StandingChange>,
    /// Reward, then penalty; each only if it is not zero.
    pub movements: Vec<Movement>,
    /// Movements that would not fit into 64 bits. They were not made.
    pub refused: Vec<(MovementKind, Amount)>,
}

/// What a member would be paid without a budget.
pub fn earned(case: &Case<'_>, subject: &Subject<'_>, seen: &[(NodeId, Seen)]) -> Amount {
    if subject.excused || !subject.standing.is_paid() {
        return Amount::ZERO;
    }
    let counted: Vec<Seen> = seen.iter().map(|(_, seen)| *seen).collect();
    let score = score::score(case.policy, case.version, &counted).unwrap_or(None);
    score.map_or(Amount::ZERO, |score| score.reward)
}

/// Judges one member and appends its movements to the book.
pub fn judge(
    case: &Case<'_>,
    book: &mut Book,
    grants: &Grants,
    subject: Subject<'_>,
    seen: &[(NodeId, Seen)],
) -> Judged {
    let counted: Vec<Seen> = seen.iter().map(|(_, seen)| *seen).collect();
    let mut refused = Vec::new();
    let score = score::score(case.policy, case.version, &counted).unwrap_or_else(|score::Overflow| {
        refused.push((MovementKind::Reward, case.policy.reward));
        None
    });
    let counts = score.as_ref().filter(|_| !subject.excused);
    let (after, change) = subject.standing.after(case.policy, counts, case.strikes_count);
    let is_paid = subject.standing.is_paid();
    let mut judged = Judged {
        judgement: Judgement {
            observation: observe(case, &subject, seen, score.as_ref(), after),
            before: subject.standing,
            balance_before: subject.balance,
            earned: counts.filter(|_| is_paid).map_or(Amount::ZERO, |score| score.reward),
            first_seq: 0,
        },
        after,
        balance: subject.balance,
        score: None,
        change,
        movements: Vec::new(),
        refused,
    };
    if let Some(score) = counts {
        pay(case, book, grants, subject.member, score, &mut judged);
        if subject.standing.is_fined() && case.verdict != Verdict::Correlated {
            fine(case, book, subject.member, score, &mut judged);
        }
    }
    judged.judgement.first_seq = judged.movements.first().map_or(0, |movement| movement.seq);
    judged.score = score;
    judged
}

/// The observation before any money has moved.
fn observe(
    case: &Case<'_>,
    subject: &Subject<'_>,
    seen: &[(NodeId, Seen)],
    score: Option<&Score>,
    after: Standing,
) -> Observation {
    let sum = |count: &dyn Fn(&Seen) -> u32| seen.iter().map(|(_, seen)| u64::from(count(seen))).sum();
    let by: BTreeMap<_, _> = seen.iter().map(|(node, seen)| (node.clone(), seen.counts)).collect();
    Observation {
        interval: case.interval,
        member: subject.member.clone(),
        sent: sum(&|seen| seen.counts.sent),
        answered: sum(&|seen| seen.counts.answered),
        missed: sum(&|seen| seen.counts.missed),
        availability_ppm: score.map_or(0, |score| score.availability_ppm),
        p50_us: score.map_or(0, |score| score.p50_us),
        p90_us: score.map_or(0, |score| score.p90_us),
        max_us: seen.iter().map(|(_, seen)| seen.max_us).max().unwrap_or(0),
        score_ppm: score.map_or(0, |score| score.score_ppm),
        reward: Amount::ZERO,
        penalty: Amount::ZERO,
        strikes: after.strikes,
        status: if subject.left { MemberStatus::Left } else { after.status },
        by,
        excused: subject.excused,
    }
}

fn pay(
    case: &Case<'_>,
    book: &mut Book,
    grants: &Grants,
    member: &MemberId,
    score: &Score,
    judged: &mut Judged,
) {
    let earned = judged.judgement.earned;
    let granted = grants.of(member, earned);
    if granted <= Amount::ZERO {
        return;
    }
    let limited = if granted < earned { ", its share of the budget" } else { "" };
    let reason =
        format!("availability {} ppm, score {} ppm{limited}", score.availability_ppm, score.score_ppm);
    if post(case, book, member, (MovementKind::Reward, granted), reason, judged) {
        judged.judgement.observation.reward = granted;
    }
}

fn fine(case: &Case<'_>, book: &mut Book, member: &MemberId, score: &Score, judged: &mut Judged) {
    let penalty = accounts::bearable(judged.balance, score.penalty);
    if penalty <= Amount::ZERO {
        return;
    }
    let limited = if penalty < score.penalty { ", as far as the balance floor lets it" } else { "" };
    let reason = format!("availability {} ppm{limited}", score.availability_ppm);
    // The negative of a positive amount always exists.
    let taken = Amount(-penalty.0);
    if post(case, book, member, (MovementKind::Penalty, taken), reason, judged) {
        judged.judgement.observation.penalty = penalty;
    }
}

/// Makes one movement; answers whether it was made.
fn post(
    case: &Case<'_>,
    book: &mut Book,
    member: &MemberId,
    (kind, amount): (MovementKind, Amount),
    reason: String,
    judged: &mut Judged,
) -> bool {
    let interval = Some(case.interval);
    let (index, term, at) = (case.index, case.term, case.at);
    let posting = Posting { member, kind, amount, interval, reason, index, term, at };
    match book.post(judged.balance, posting) {
        Ok(movement) => {
            judged.balance = movement.balance;
            judged.movements.push(movement);
            true
        }
        Err(score::Overflow) => {
            judged.refused.push((kind, amount));
            false
        }
    }
}
