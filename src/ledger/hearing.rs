//! An interval before it is judged: its reports, who of the observers counts, what becomes of it as a whole. Settlement,
//! verification and rehearsal all begin here, so that they cannot differ.

use std::collections::BTreeSet;

use crate::types::{Amount, IntervalId, MemberId};

use super::budget::Grants;
use super::evidence::{self, CutRecord, Docket, Evidence};
use super::judge::{self, Case, Subject};
use super::keyspace::{KeyspaceError, Reader};
use super::observers::{self, CORRELATED_FORGIVEN, Question, Ruling};
use super::policy::Revision;
use super::query;
use super::records::{Observer, Verdict};
use super::retention;

/// What stands in the log about an interval.
#[derive(Debug)]
pub struct Brief {
    /// What was fixed at its cut.
    pub cut: CutRecord,
    observers: Vec<Observer>,
    evidence: Evidence,
    excused: BTreeSet<String>,
}

/// The reports that count, and what follows from them for the interval as a whole.
#[derive(Debug)]
pub struct Hearing<'a> {
    /// Who counts, and the verdict.
    pub ruling: Ruling,
    /// What they saw. Empty when the interval is void.
    pub docket: Docket<'a>,
    excused: &'a BTreeSet<String>,
}

impl Brief {
    /// Reads the reports on an interval.
    pub fn load(reader: &dyn Reader, interval: IntervalId, cut: CutRecord) -> Result<Brief, KeyspaceError> {
        let heads = evidence::heads(reader, interval)?;
        let observers = observers::by_themselves(&cut.observers, &heads);
        let evidence = Evidence::load(reader, interval, &observers)?;
        let excused = super::maintenance::excused(reader, interval)?;
        Ok(Brief { cut, observers, evidence, excused })
    }

    /// Hears the reports by the rules of a policy. `correlated_before`: see [`correlated_before`].
    pub fn hear(&self, revision: &Revision, correlated_before: u64) -> Result<Hearing<'_>, KeyspaceError> {
        let mut docket = self.evidence.docket()?;
        let question = Question {
            cut: &self.cut,
            expected: revision.policy.pings_per_interval(),
            excused: &self.excused,
            correlated_before,
        };
        let ruling = observers::rule(&question, self.observers.clone(), &mut docket);
        if ruling.verdict == Verdict::Void {
            docket.clear();
        }
        Ok(Hearing { ruling, docket, excused: &self.excused })
    }
}

impl Hearing<'_> {
    /// Whether a member is in announced maintenance.
    pub fn is_excused(&self, member: &MemberId) -> bool {
        self.excused.contains(member.as_str())
    }

    /// How the budget of an interval is shared. `subjects`: all members that may have earned something, in order.
    pub fn grants(&mut self, case: &Case<'_>, revision: &Revision, subjects: &[Subject<'_>]) -> Grants {
        if revision.budget <= Amount::ZERO {
            return Grants::Whole;
        }
        let mut earned = Vec::new();
        for subject in subjects {
            let seen = self.docket.take(subject.member.as_str());
            earned.push((subject.member.clone(), judge::earned(case, subject, &seen)));
        }
        self.docket.rewind();
        Grants::share(revision.budget, earned)
    }
}

/// How many intervals right before this one were correlated, in a row; no more are counted than matter.
pub fn correlated_before(reader: &dyn Reader, interval: IntervalId) -> Result<u64, KeyspaceError> {
    let mut before = 0;
    while before < CORRELATED_FORGIVEN && before + 1 < interval.0 {
        let id = IntervalId(interval.0 - 1 - before);
        let record = query::interval(reader, id)?;
        if record.is_none() {
            let trimmed = retention::trimmed(reader)?;
            let more = if id == trimmed.through { trimmed.correlated } else { 0 };
            return Ok((before + more).min(CORRELATED_FORGIVEN));
        }
        if record.is_none_or(|record| record.verdict != Verdict::Correlated) {
            break;
        }
        before += 1;
    }
    Ok(before)
}
