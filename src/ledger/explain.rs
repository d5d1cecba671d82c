//! Why a member was paid what it was paid: the pings, who saw them, the formula, the result.

use serde::Serialize;

use crate::types::{Amount, IntervalId, MemberId, NodeId};

use super::accounts::Book;
use super::blocks;
use super::budget::Grants;
use super::command::{ObserverHealth, Row};
use super::evidence::{self, CutRecord};
use super::hearing;
use super::judge::{self, Case, Judged, Judgement, Subject};
use super::keyspace::{KeyspaceError, Reader};
use super::maintenance;
use super::observers::CORRELATED_FORGIVEN;
use super::policy::{Policy, PolicyKind, Revision};
use super::query;
use super::records::{Interval, MemberStatus, Observation, Totals, Verdict};
use super::score::{self, HALF_PPM, LATENCY_FULL_US, LATENCY_HALF_US, MISS_FREE_PPM, Score, WHOLE_PPM};
use super::{keys, rules, table};

/// What one expected observer saw.
#[derive(Debug, Clone, Serialize)]
pub struct Witness {
    /// Who.
    pub observer: NodeId,
    /// Whether its report counted.
    pub used: bool,
    /// Why not; empty when used.
    pub why: String,
    /// How well it was itself; `None` when nothing of its report came.
    pub health: Option<ObserverHealth>,
    /// Its row about the member; `None` when it has none.
    pub row: Option<Row>,
}

/// One member's payment in one interval, laid open.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The interval's record.
    pub interval: Interval,
    /// The member.
    pub member: MemberId,
    /// The policy it was judged by.
    pub policy: Policy,
    /// The evidence, per observer.
    pub evidence: Vec<Witness>,
    /// The arithmetic with every intermediate value; `None` without enough evidence.
    pub score: Option<Score>,
    /// What was recorded; `None` in a void interval.
    pub observation: Option<Observation>,
    /// Whether computing it again from the evidence gives exactly what was recorded.
    pub agrees: bool,
    /// The same in lines for people.
    pub lines: Vec<String>,
}

/// Explains a payment. `None` when the interval is not settled, or when nobody saw the member in it.
pub fn explain(
    reader: &dyn Reader,
    interval: IntervalId,
    member: &MemberId,
) -> Result<Option<Explanation>, KeyspaceError> {
    let Some(record) = query::interval(reader, interval)? else { return Ok(None) };
    let revision = rules::revision(reader, record.policy)?;
    let cut: CutRecord = table::expect(reader, &keys::cut(interval))?;
    let policy = revision.policy.clone();
    let evidence = witnesses(reader, &record, member)?;
    let judgement = query::judgement(reader, interval, member)?;
    let seen_by_nobody = evidence.iter().all(|witness| witness.row.is_none());
    if judgement.is_none() && seen_by_nobody {
        return Ok(None);
    }
    let mut lines = heading(&record, member, &policy, &evidence);
    if !record.reason.is_empty() {
        lines.push(format!("{}: {}", record.verdict.as_str(), record.reason));
    }
    let (score, observation, agrees) = match judgement {
        None => {
            let void = record.verdict == Verdict::Void;
            lines.push(if void {
                "the interval is void: nobody was paid, penalised or struck".to_string()
            } else {
                "DAMAGED: there are reports on the member and no observation".to_string()
            });
            (None, None, void)
        }
        Some(judgement) => {
            let strikes_count = record.verdict == Verdict::Settled
                || hearing::correlated_before(reader, interval)? >= CORRELATED_FORGIVEN;
            let case = Case {
                interval,
                policy: &policy,
                version: cut.version,
                verdict: record.verdict,
                strikes_count,
                index: record.index,
                term: record.term,
                at: record.settled_at,
            };
            let grants = grants(reader, &record, &revision)?;
            let judged = judge_again(reader, &record, &case, &grants, &judgement)?;
            let agrees = judged.judgement == judgement;
            match &judged.score {
                None => lines.push(format!(
                    "no observer made at least half of {} pings: no score, nothing paid, nobody struck",
                    policy.pings_per_interval()
                )),
                Some(score) => arithmetic(&case, score, &mut lines),
            }
            budget(&revision, &grants, &judged, &mut lines);
            outcome(&case, &judged, agrees, &mut lines);
            (judged.score, Some(judgement.observation), agrees)
        }
    };
    let member = member.clone();
    Ok(Some(Explanation { interval: record, member, policy, evidence, score, observation, agrees, lines }))
}

fn witnesses(
    reader: &dyn Reader,
    record: &Interval,
    member: &MemberId,
) -> Result<Vec<Witness>, KeyspaceError> {
    let heads = evidence::heads(reader, record.id)?;
    let witness = |observer: &super::records::Observer| {
        Ok(Witness {
            observer: observer.id.clone(),
            used: observer.used,
            why: observer.why.clone(),
            health: heads.get(&observer.id).map(|head| head.health),
            row: evidence::row(reader, record.id, &observer.id, member)?,
        })
    };
    record.observers.iter().map(witness).collect()
}

/// How the interval's budget was shared: by what the stored judgements say was earned.
fn grants(reader: &dyn Reader, record: &Interval, revision: &Revision) -> Result<Grants, KeyspaceError> {
    if revision.budget <= Amount::ZERO {
        return Ok(Grants::Whole);
    }
    let prefix = keys::numbered(keys::JUDGEMENT_TABLE, record.id.0);
    let mut earned = Vec::new();
    blocks::visit(reader, &prefix, &prefix, &mut |judgement: Judgement| {
        earned.push((judgement.observation.member, judgement.earned));
        Ok(true)
    })?;
    Ok(Grants::share(revision.budget, earned))
}

/// The same judgement from the stored reports. The book begins where the stored movements do, and with empty sums: no sum
/// of all accounts is near its end.
fn judge_again(
    reader: &dyn Reader,
    record: &Interval,
    case: &Case<'_>,
    grants: &Grants,
    stored: &Judgement,
) -> Result<Judged, KeyspaceError> {
    let member = &stored.observation.member;
    let mut seen = Vec::new();
    for observer in record.observers.iter().filter(|observer| observer.used) {
        if let Some(row) = evidence::row(reader, record.id, &observer.id, member)? {
            seen.push((observer.id.clone(), evidence::seen(&row)));
        }
    }
    let records = stored.first_seq.saturating_sub(1);
    let mut book = Book { totals: Totals { records, ..Totals::default() } };
    let subject = Subject {
        member,
        standing: stored.before,
        balance: stored.balance_before,
        left: stored.observation.status == MemberStatus::Left,
        excused: maintenance::excused(reader, record.id)?.contains(member.as_str()),
    };
    Ok(judge::judge(case, &mut book, grants, subject, &seen))
}

fn kind_name(policy: &Policy) -> &'static str {
    match policy.kind {
        PolicyKind::Standard => "standard",
        PolicyKind::Classic => "classic",
    }
}

fn heading(record: &Interval, member: &MemberId, policy: &Policy, evidence: &[Witness]) -> Vec<String> {
    let n = policy.pings_per_interval();
    let mut lines = vec![
        format!(
            "interval {}, member {member}: {}, policy {} ({})",
            record.id,
            record.verdict.as_str(),
            record.policy,
            kind_name(policy)
        ),
        format!("n = {} ms / {} ms = {n} pings of a full interval", policy.interval_ms, policy.ping_ms),
    ];
    for witness in evidence {
        let name = &witness.observer;
        lines.push(match (&witness.row, witness.used) {
            (_, false) => format!("{name}: not counted ({})", witness.why),
            (None, true) if name.as_str() == member.as_str() => format!("{name}: does not judge itself"),
            (None, true) => format!("{name}: did not ping the member"),
            (Some(row), true) => witness_line(name, row, n),
        });
    }
    lines
}

fn witness_line(name: &NodeId, row: &Row, n: u64) -> String {
    let (sent, answered, missed, p90) = (row.sent, row.answered, row.missed, row.p90_us);
    let counts = format!("{name}: {sent} sent, {answered} answered, {missed} missed, p90 {p90} us");
    if !score::is_enough(sent, n) {
        return format!("{counts}: fewer than half of {n}, not scored");
    }
    let a = u64::from(answered) * u64::from(WHOLE_PPM) / u64::from(sent.max(1));
    format!("{counts}: a = {answered} * {WHOLE_PPM} / {sent} = {a}")
}

fn list(values: &[u32]) -> String {
    values.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// The formulas with their numbers, in the order in which they are evaluated.
fn arithmetic(case: &Case<'_>, score: &Score, lines: &mut Vec<String>) {
    let (policy, a) = (case.policy, score.availability_ppm);
    lines.push(format!("A = upper median({}) = {a}", list(&score.availabilities_ppm)));
    match policy.kind {
        PolicyKind::Classic => {
            let answered = if score.is_dark() { "missed" } else { "answered" };
            lines.push(format!("the turn is {answered}: A {a} against {HALF_PPM}"));
            if score.version_ppm == 0 {
                lines.push(version_line(case, score));
            }
            lines.push(format!("reward = {}", score.reward.0));
            lines.push(format!("penalty = {}", score.penalty.0));
        }
        PolicyKind::Standard => standard_arithmetic(case, score, lines),
    }
}

/// `V`, with what it was compared with if that made a difference.
fn version_line(case: &Case<'_>, score: &Score) -> String {
    match case.version {
        Some(version) if !score.versions_ppm.is_empty() => format!(
            "V = upper median({}) = {} (against version {version})",
            list(&score.versions_ppm),
            score.version_ppm
        ),
        _ => format!("V = {}", score.version_ppm),
    }
}

fn standard_arithmetic(case: &Case<'_>, score: &Score, lines: &mut Vec<String>) {
    let policy = case.policy;
    let (a, p, l, v) = (score.availability_ppm, score.p90_us, score.latency_ppm, score.version_ppm);
    let (c, s, m) = (score.share_ppm, score.score_ppm, WHOLE_PPM);
    lines.push(match score.p90s_us.as_slice() {
        [] => "p = 0 us (nobody got an answer)".to_string(),
        p90s => format!("p = lower median({}) = {p} us", list(p90s)),
    });
    lines.push(if p <= LATENCY_FULL_US {
        format!("L = {l} (p <= {LATENCY_FULL_US} us)")
    } else if p >= LATENCY_HALF_US {
        format!("L = {l} (p >= {LATENCY_HALF_US} us)")
    } else {
        let span = LATENCY_HALF_US - LATENCY_FULL_US;
        format!("L = {m} - {HALF_PPM} * ({p} - {LATENCY_FULL_US}) / {span} = {l}")
    });
    lines.push(version_line(case, score));
    let sent = score::upper_median(&score.sents).unwrap_or(0);
    lines.push(format!("C = min({m}, {sent} * {m} / {}) = {c}", score.expected));
    lines.push(if score.is_dark() {
        format!("S = 0 (A < {HALF_PPM})")
    } else {
        format!("S = {a} * {l} / {m} * {v} / {m} = {s}")
    });
    lines.push(format!("reward = {} * {s} / {m} * {c} / {m} = {}", policy.reward.0, score.reward.0));
    let miss = score.miss_ppm;
    lines.push(format!("miss = {m} - {a} = {miss}"));
    lines.push(if miss <= MISS_FREE_PPM {
        format!("penalty = 0 (miss <= {MISS_FREE_PPM})")
    } else {
        let span = WHOLE_PPM - MISS_FREE_PPM;
        let (full, is) = (policy.penalty.0, score.penalty.0);
        format!("penalty = {full} * ({miss} - {MISS_FREE_PPM}) / {span} * {c} / {m} = {is}")
    });
}

/// What the budget made of it, if it was not enough for all.
fn budget(revision: &Revision, grants: &Grants, judged: &Judged, lines: &mut Vec<String>) {
    let Grants::Shared { total, .. } = grants else { return };
    let (earned, budget) = (judged.judgement.earned, revision.budget.0);
    if earned <= Amount::ZERO {
        return;
    }
    let granted = grants.of(&judged.judgement.observation.member, earned);
    let floor = i128::from(earned.0) * i128::from(budget) / total;
    let extra = if i128::from(granted.0) > floor { " + 1 of what rounding left over" } else { "" };
    lines.push(format!(
        "budget {budget} for {total} earned by all: {} * {budget} / {total}{extra} = {}",
        earned.0, granted.0
    ));
}

/// What the standing made of it.
fn outcome(case: &Case<'_>, judged: &Judged, agrees: bool, lines: &mut Vec<String>) {
    let (before, after) = (judged.judgement.before, judged.after);
    let excused = judged.judgement.observation.excused;
    if excused {
        lines.push("announced maintenance: not paid, not penalised, not struck".to_string());
    } else if judged.score.is_some() {
        if case.verdict == Verdict::Correlated {
            let strikes = if case.strikes_count { "" } else { " and no strikes" };
            lines.push(format!("most members were dark at once: no penalties{strikes}"));
        }
        if !before.is_paid() {
            lines.push(format!("not paid: {} before the interval was settled", before.status.as_str()));
        }
        if !before.is_fined() {
            lines.push("not penalised while suspended".to_string());
        }
    }
    let status = |status: MemberStatus, remaining: u32| match status {
        MemberStatus::Suspended => format!("suspended for {remaining} more settled intervals"),
        MemberStatus::Probation => format!("on probation for {remaining} more good intervals"),
        other => other.as_str().to_string(),
    };
    lines.push(format!("strikes {} -> {}", before.strikes, after.strikes));
    lines.push(format!(
        "status {} -> {}",
        status(before.status, before.remaining),
        status(after.status, after.remaining)
    ));
    let observation = &judged.judgement.observation;
    let fine = judged.score.as_ref().map_or(Amount::ZERO, |score| score.penalty);
    let fined = before.is_fined() && !excused && case.verdict != Verdict::Correlated;
    if fined && observation.penalty < fine {
        lines.push(format!("the balance floor limits the penalty to {}", observation.penalty.0));
    }
    lines.push(format!(
        "paid {} and penalised {}: balance {} -> {} points",
        observation.reward, observation.penalty, judged.judgement.balance_before, judged.balance
    ));
    lines.push(if agrees {
        "recomputed from the evidence: equal to the record".to_string()
    } else {
        "DAMAGED: recomputed from the evidence, the result differs from the record".to_string()
    });
}
