//! A rehearsal: recorded evidence judged again, by another policy or by the same.
//!
//! Every report stays in the state, so an interval can be judged again at any time. With the policy that judged it, the
//! result must be what was settled, byte for byte: that shows that a rehearsal is the real thing. With another policy the
//! difference per member is what an operator wants to see before it is activated. What no interval made (claims,
//! adjustments) is taken as it was.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::codec;
use crate::types::{Amount, IntervalId, MemberId};

use super::accounts::{self, Book};
use super::blocks::{self, Gather};
use super::evidence::{CutRecord, Docket};
use super::hearing::{self, Brief};
use super::judge::{self, Judgement, Subject};
use super::keys;
use super::keyspace::{Direction, KeyspaceError, MemoryKeyspace, Reader};
use super::observers::CORRELATED_FORGIVEN;
use super::policy::Revision;
use super::query;
use super::records::{Interval, MemberStatus, Movement, Totals, Verdict};
use super::retention;
use super::rules;
use super::settle::{self, Settled, Sums};
use super::standing::Standing;
use super::table;
use super::verify;

/// Which intervals to judge again, and by which policy.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The first.
    pub from: IntervalId,
    /// The last; intervals that are not settled are left out.
    pub to: IntervalId,
    /// The policy; `None`: each interval's own.
    pub revision: Option<Revision>,
}

/// How an account came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Sum of its rewards, micro-points.
    pub rewarded: i128,
    /// Sum of its penalties, positive.
    pub penalised: i128,
    /// What it held at the end.
    pub balance: Amount,
    /// How it stood at the end.
    pub status: MemberStatus,
    /// Its strikes at the end.
    pub strikes: u32,
}

/// One member, as it was and as it would have been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The member.
    pub member: MemberId,
    /// What is on record.
    pub recorded: Account,
    /// What the rehearsal came to.
    pub rehearsed: Account,
    /// By how much the balance would be larger, micro-points.
    pub difference: i128,
}

/// What a rehearsal came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rehearsal {
    /// The first interval.
    pub from: IntervalId,
    /// The last interval.
    pub to: IntervalId,
    /// How many were judged again.
    pub intervals: u64,
    /// Whether every record came out byte for byte as it was settled.
    pub identical: bool,
    /// Intervals whose verdict would have been another.
    pub verdicts_changed: Vec<IntervalId>,
    /// Every member that was judged, by name.
    pub members: Vec<Difference>,
}

/// Judges again.
///
/// # Errors
/// When the state cannot be read, or lacks what its own records name.
pub fn rehearse(reader: &dyn Reader, wish: &Wish) -> Result<Rehearsal, KeyspaceError> {
    let trimmed = retention::trimmed(reader)?;
    let from = wish.from.max(trimmed.through.next());
    let mut stage = Stage {
        reader,
        revision: wish.revision.as_ref(),
        book: Book::default(),
        correlated: hearing::correlated_before(reader, from)?,
        players: BTreeMap::new(),
        identical: true,
        verdicts_changed: Vec::new(),
    };
    let before = query::interval(reader, IntervalId(from.0 - 1))?;
    stage.book.totals.records = before.map_or(trimmed.totals.records, |before| before.last_seq);
    let mut id = from;
    while id <= wish.to {
        let Some(record) = query::interval(reader, id)? else { break };
        stage.play(&record)?;
        id = id.next();
    }
    let members = stage.players.into_iter().map(|(member, player)| player.difference(member)).collect();
    Ok(Rehearsal {
        from,
        to: IntervalId(id.0 - 1),
        intervals: id.0 - from.0,
        identical: stage.identical,
        verdicts_changed: stage.verdicts_changed,
        members,
    })
}

/// A member on both stages.
#[derive(Debug, Clone)]
struct Player {
    recorded: Account,
    rehearsed: Account,
    standing: Standing,
    left: bool,
}

impl Player {
    /// As it stood before its first interval.
    fn new(first: Option<&Judgement>) -> Player {
        let standing = first.map(|first| first.before).unwrap_or_default();
        let account = Account {
            rewarded: 0,
            penalised: 0,
            balance: first.map_or(Amount::ZERO, |first| first.balance_before),
            status: standing.status,
            strikes: standing.strikes,
        };
        Player { recorded: account, rehearsed: account, standing, left: false }
    }

    /// What the record says of the next interval. What moved the balance in between moves both.
    fn take_record(&mut self, judgement: &Judgement) {
        let observation = &judgement.observation;
        let moved = i128::from(judgement.balance_before.0) - i128::from(self.recorded.balance.0);
        let balance = i128::from(self.rehearsed.balance.0) + moved;
        self.rehearsed.balance = Amount(i64::try_from(balance).unwrap_or(i64::MAX));
        self.recorded.rewarded += i128::from(observation.reward.0);
        self.recorded.penalised += i128::from(observation.penalty.0);
        // Both were made, so they fit.
        let after = judgement.balance_before.0 + observation.reward.0 - observation.penalty.0;
        self.recorded.balance = Amount(after);
        (self.recorded.status, self.recorded.strikes) = (observation.status, observation.strikes);
        self.left = observation.status == MemberStatus::Left;
    }

    fn difference(self, member: MemberId) -> Difference {
        let Player { recorded, rehearsed, .. } = self;
        let difference = i128::from(rehearsed.balance.0) - i128::from(recorded.balance.0);
        Difference { member, recorded, rehearsed, difference }
    }
}

struct Stage<'r> {
    reader: &'r dyn Reader,
    revision: Option<&'r Revision>,
    /// The end of the chain as recorded, with the sums as rehearsed.
    book: Book,
    correlated: u64,
    players: BTreeMap<MemberId, Player>,
    identical: bool,
    verdicts_changed: Vec<IntervalId>,
}

impl Stage<'_> {
    /// One interval.
    fn play(&mut self, record: &Interval) -> Result<(), KeyspaceError> {
        let id = record.id;
        let cut: CutRecord = table::expect(self.reader, &keys::cut(id))?;
        let pinned = rules::revision(self.reader, cut.policy)?;
        let revision = self.revision.unwrap_or(&pinned).clone();
        let brief = Brief::load(self.reader, id, cut)?;
        let mut hearing = brief.hear(&revision, self.correlated)?;
        self.correlated = hearing.ruling.correlated.min(CORRELATED_FORGIVEN);
        let recorded = self.take_records(record)?;
        let mut judgements = Vec::new();
        let mut movements = Vec::new();
        let mut sums = Sums::default();
        if hearing.ruling.verdict != Verdict::Void {
            let case = verify::case_of(record, &revision, &brief.cut, &hearing.ruling);
            let names = self.names(&hearing.docket, &recorded, record)?;
            let subjects: Vec<Subject<'_>> = names
                .iter()
                .filter_map(|name| Some((name, self.players.get(name)?)))
                .map(|(member, player)| Subject {
                    member,
                    standing: player.standing,
                    balance: player.rehearsed.balance,
                    left: player.left,
                    excused: hearing.is_excused(member),
                })
                .collect();
            let grants = hearing.grants(&case, &revision, &subjects);
            for subject in subjects {
                let seen = hearing.docket.take(subject.member.as_str());
                let judged = judge::judge(&case, &mut self.book, &grants, subject, &seen);
                sums.add(&judged);
                if let Some(player) = self.players.get_mut(subject.member) {
                    let observation = &judged.judgement.observation;
                    player.standing = judged.after;
                    player.rehearsed.rewarded += i128::from(observation.reward.0);
                    player.rehearsed.penalised += i128::from(observation.penalty.0);
                    player.rehearsed.balance = judged.balance;
                    player.rehearsed.status = observation.status;
                    player.rehearsed.strikes = observation.strikes;
                }
                movements.extend(judged.movements);
                judgements.push(judged.judgement);
            }
        }
        if hearing.ruling.verdict != record.verdict {
            self.verdicts_changed.push(id);
        }
        let settled = Settled {
            index: record.index,
            term: record.term,
            at: record.settled_at,
            leader: record.leader.clone(),
        };
        let totals = Totals { interval_hash: record.prev_hash, ..self.book.totals };
        let again = settle::conclude(&settled, id, &brief.cut, hearing.ruling, &sums, &totals)?;
        self.identical &= self.is_as_stored(&again, judgements, movements)?;
        self.book.totals.records = record.last_seq;
        Ok(())
    }

    /// What the record has of this interval: the judgements, and what moved in between.
    fn take_records(&mut self, record: &Interval) -> Result<BTreeSet<MemberId>, KeyspaceError> {
        let prefix = keys::numbered(keys::JUDGEMENT_TABLE, record.id.0);
        let (mut names, mut payments) = (BTreeSet::new(), 0);
        let players = &mut self.players;
        blocks::visit(self.reader, &prefix, &prefix, &mut |judgement: Judgement| {
            let member = judgement.observation.member.clone();
            let seqs = judgement.seqs();
            payments += seqs.end - seqs.start;
            let player = players.entry(member.clone()).or_insert_with(|| Player::new(Some(&judgement)));
            player.take_record(&judgement);
            names.insert(member);
            Ok(true)
        })?;
        // What no interval made stands before its payments. The sums take it in as far as it fits.
        let begin = record.last_seq.saturating_sub(payments);
        while self.book.totals.records < begin {
            let seq = self.book.totals.records + 1;
            let movement = query::reward(self.reader, seq)?
                .ok_or_else(|| table::damaged(&keys::movement(seq), "missing"))?;
            let totals = accounts::tally(&self.book.totals, movement.kind, movement.amount);
            let sums = totals.unwrap_or(self.book.totals);
            self.book.totals = Totals { records: seq, head_hash: movement.hash, ..sums };
        }
        if begin > 0 {
            let last = query::reward(self.reader, begin)?.map(|last| last.hash);
            let forgotten = retention::trimmed(self.reader)?.totals.head_hash;
            self.book.totals.head_hash = last.unwrap_or(forgotten);
        }
        Ok(names)
    }

    /// Whom this interval concerns, in order: who was judged, who was seen, and who is suspended on this stage.
    fn names(
        &mut self,
        docket: &Docket<'_>,
        recorded: &BTreeSet<MemberId>,
        record: &Interval,
    ) -> Result<BTreeSet<MemberId>, KeyspaceError> {
        let mut names = BTreeSet::new();
        for (_, rows) in docket.lanes() {
            for (name, _) in rows {
                let bad = || table::damaged(name.as_bytes(), "a report has a name that is none");
                names.insert(name.parse::<MemberId>().map_err(|_| bad())?);
            }
        }
        // Only in an interval that was void is somebody seen who has not been judged yet.
        for name in names.iter().filter(|name| !recorded.contains(*name)) {
            if !self.players.contains_key(name) {
                let first = self.first_judgement(name, record.id)?;
                self.players.insert(name.clone(), Player::new(first.as_ref()));
            }
        }
        // Whom the record has as suspended it judges in every interval, unless the member has left.
        let gone = |player: &Player| player.left || player.recorded.status == MemberStatus::Suspended;
        let cools = |(name, player): &(&MemberId, &Player)| {
            player.standing.status == MemberStatus::Suspended && (recorded.contains(*name) || !gone(player))
        };
        names.extend(self.players.iter().filter(cools).map(|(name, _)| name.clone()));
        Ok(names)
    }

    /// A member's first judgement in or after an interval.
    fn first_judgement(
        &self,
        member: &MemberId,
        mut id: IntervalId,
    ) -> Result<Option<Judgement>, KeyspaceError> {
        while query::interval(self.reader, id)?.is_some() {
            let judgement = query::judgement(self.reader, id, member)?;
            if judgement.is_some() {
                return Ok(judgement);
            }
            id = id.next();
        }
        Ok(None)
    }

    /// Whether these records have the very bytes that are stored.
    fn is_as_stored(
        &self,
        interval: &Interval,
        judgements: Vec<Judgement>,
        movements: Vec<Movement>,
    ) -> Result<bool, KeyspaceError> {
        let mut again = MemoryKeyspace::default();
        let (mut judged, mut moved) = (Gather::new(), Gather::new());
        for judgement in judgements {
            let member = judgement.observation.member.clone();
            judged.push(&mut again, || keys::judgement(interval.id, &member), judgement)?;
        }
        for movement in movements {
            let seq = movement.seq;
            moved.push(&mut again, || keys::movement(seq), movement)?;
        }
        judged.store(&mut again)?;
        moved.store(&mut again)?;
        again.rows.insert(keys::interval(interval.id), codec::encode(interval));
        let prefix = keys::numbered(keys::JUDGEMENT_TABLE, interval.id.0);
        let mut stored = 0;
        let end = keys::prefix_end(&prefix);
        let from = std::ops::Bound::Included(prefix.as_slice());
        table::visit(self.reader, from, &end, Direction::Forward, &mut |_, _| {
            stored += 1;
            Ok(true)
        })?;
        let rehearsed = again.rows.keys().filter(|key| key.starts_with(&prefix)).count();
        for (key, value) in &again.rows {
            if self.reader.get(key)?.as_ref() != Some(value) {
                return Ok(false);
            }
        }
        Ok(rehearsed == stored)
    }
}
