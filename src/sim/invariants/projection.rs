//! MongoDB equals the ledger up to its checkpoint at all times, and wholly after quiescence.
//!
//! After every change of a document: it is what the ledger says, byte for byte; what is immutable was not there before;
//! a member only becomes newer; an interval comes after its evidence and its payments; the checkpoint only grows and
//! never runs ahead of what it covers. After a power cut of MongoDB: all of that still, and nothing that was acknowledged
//! is gone. When the cluster agrees on a checkpoint, MongoDB holds it for good.
//!
//! What the ledger says is read from the node that is the first to apply an entry (all others agree with it, see `state`).

use std::collections::BTreeMap;

use bson::raw::RawDocumentBuf;

use crate::database::documents::{
    self, ELECTIONS, INTERVALS, MEMBERS, OBSERVATIONS, PROJECTION, REWARDS, id_key, id_text, read_member,
    read_projection,
};
use crate::database::feed::{Batch, Feed};
use crate::ledger::records::{Checkpoint, Interval, Member};
use crate::types::{Index, MemberId, Term};

use crate::sim::mongodb::{Change, Collection, Tables};

/// Records read from the ledger at once: more than one entry can make.
const PAGE: usize = 1_000_000;

/// Watches a MongoDB.
#[derive(Debug, Default)]
pub struct Watch {
    /// How far the ledger is known.
    known: Index,
    /// Everything the ledger has recorded by then.
    head: Checkpoint,
    /// The immutable documents, by collection.
    truth: BTreeMap<&'static str, Collection>,
    intervals: BTreeMap<u64, Facts>,
    /// Every value that each member ever had, by index.
    members: BTreeMap<MemberId, BTreeMap<Index, Member>>,
    /// The checkpoint that MongoDB has for good.
    durable: Checkpoint,
}

/// What an interval refers to.
#[derive(Debug)]
struct Facts {
    last_seq: u64,
    observations: Vec<Vec<u8>>,
}

fn number(id: u64) -> Vec<u8> {
    documents::id_number_key(id)
}

fn failed<T>(what: impl std::fmt::Display) -> Result<T, String> {
    Err(format!("MongoDB equals the ledger: {what}"))
}

impl Watch {
    /// A node has applied the entry at `index`.
    pub fn applied(&mut self, feed: &dyn Feed, index: Index) -> Result<(), String> {
        if index <= self.known {
            return Ok(());
        }
        self.known = index;
        let batch = feed.next(&self.head, PAGE).map_err(|error| error.to_string())?;
        for interval in &batch.intervals {
            let Interval { id, last_seq, .. } = interval;
            let of = batch.observations.iter().filter(|one| one.interval == *id);
            let observations = of.map(|one| id_key(&documents::observation(one))).collect();
            self.intervals.insert(id.0, Facts { last_seq: *last_seq, observations });
        }
        for (collection, documents) in immutable(&batch) {
            let truth = self.truth.entry(collection).or_default();
            truth.extend(documents.into_iter().map(|document| (id_key(&document), document)));
        }
        for member in batch.members {
            self.members.entry(member.id.clone()).or_default().insert(member.index, member);
        }
        self.head = batch.upto;
        Ok(())
    }

    /// A document has changed.
    pub fn changed(&self, tables: &Tables, change: &Change) -> Result<(), String> {
        let Change { collection, before, after, .. } = change;
        let Some(after) = after else {
            return failed(format!("a document of {collection} is deleted"));
        };
        match *collection {
            PROJECTION => {
                let to = checkpoint(after)?;
                let from = before.as_ref().map(checkpoint).transpose()?.unwrap_or_default();
                if !to.covers(&from) {
                    return failed(format!("the checkpoint goes back from {from:?} to {to:?}"));
                }
                self.covered(tables, &from, &to)
            }
            MEMBERS => self.member(before.as_ref(), after),
            _ => self.record(tables, collection, before.as_ref(), after),
        }
    }

    fn record(
        &self,
        tables: &Tables,
        collection: &'static str,
        before: Option<&RawDocumentBuf>,
        after: &RawDocumentBuf,
    ) -> Result<(), String> {
        let id = id_text(after);
        if before.is_some() {
            return failed(format!("{collection} {id}: an immutable document is changed"));
        }
        match self.truth.get(collection).and_then(|truth| truth.get(&id_key(after))) {
            None => return failed(format!("{collection} {id}: not in the ledger")),
            Some(truth) if truth != after => return failed(format!("{collection} {id}: differs")),
            Some(_) => {}
        }
        if collection == INTERVALS {
            let id = documents::read_interval(after).map_err(|error| error.to_string())?.id.0;
            self.interval_is_whole(tables, id)?;
        }
        Ok(())
    }

    /// Who finds an interval finds its evidence and its payments.
    fn interval_is_whole(&self, tables: &Tables, id: u64) -> Result<(), String> {
        let Some(facts) = self.intervals.get(&id) else {
            return failed(format!("interval {id} is not in the ledger"));
        };
        let observations = tables.collection(OBSERVATIONS);
        if let Some(missing) = facts.observations.iter().find(|key| !observations.contains_key(*key)) {
            return failed(format!("interval {id} is there without its observation {missing:?}"));
        }
        let rewards = tables.collection(REWARDS);
        match (1..=facts.last_seq).rev().find(|seq| !rewards.contains_key(&number(*seq))) {
            Some(missing) => failed(format!("interval {id} is there without movement {missing}")),
            None => Ok(()),
        }
    }

    fn member(&self, before: Option<&RawDocumentBuf>, after: &RawDocumentBuf) -> Result<(), String> {
        let after = read_member(after).map_err(|error| error.to_string())?;
        let known = self.members.get(&after.id).and_then(|values| values.get(&after.index));
        if known != Some(&after) {
            return failed(format!(
                "member {} at index {} is {known:?}, not {after:?}",
                after.id, after.index
            ));
        }
        let before = before.map(|before| read_member(before)).transpose();
        match before.map_err(|error| error.to_string())? {
            Some(before) if before.index >= after.index => {
                failed(format!("member {} goes back from {} to {}", after.id, before.index, after.index))
            }
            _ => Ok(()),
        }
    }

    /// Everything after `from` and up to `to` is there.
    fn covered(&self, tables: &Tables, from: &Checkpoint, to: &Checkpoint) -> Result<(), String> {
        if !self.head.covers(to) {
            return failed(format!(
                "the checkpoint {to:?} is beyond the ledger, which ends at {:?}",
                self.head
            ));
        }
        let rewards = tables.collection(REWARDS);
        if let Some(missing) =
            (from.rewards + 1..=to.rewards).find(|seq| !rewards.contains_key(&number(*seq)))
        {
            return failed(format!("the checkpoint covers movement {missing}, which is missing"));
        }
        let intervals = tables.collection(INTERVALS);
        for id in from.intervals.0 + 1..=to.intervals.0 {
            if !intervals.contains_key(&number(id)) {
                return failed(format!("the checkpoint covers interval {id}, which is missing"));
            }
            self.interval_is_whole(tables, id)?;
        }
        let present = tables.collection(ELECTIONS);
        for (key, election) in self.truth.get(ELECTIONS).into_iter().flatten() {
            let term = Term(documents::read_election(election).map_err(|error| error.to_string())?.term.0);
            if term > from.elections && term <= to.elections && !present.contains_key(key) {
                return failed(format!(
                    "the checkpoint covers the election of term {term}, which is missing"
                ));
            }
        }
        // A member that has changed since may still be shown as it was.
        let last = self.members.values().filter_map(|values| values.last_key_value());
        for (_, member) in last.filter(|(index, _)| **index <= to.members) {
            let shown = tables.collection(MEMBERS).get(&id_key(&documents::member(member)));
            if shown != Some(&documents::member(member)) {
                let (id, index) = (&member.id, member.index);
                return failed(format!(
                    "the checkpoint covers member {id} as of {index}, which is not there"
                ));
            }
        }
        Ok(())
    }

    /// MongoDB has made all that it holds durable.
    pub fn synced(&mut self, tables: &Tables) -> Result<(), String> {
        self.durable = shown(tables)?;
        Ok(())
    }

    /// MongoDB has had a power cut.
    pub fn after_power_cut(&self, tables: &Tables) -> Result<(), String> {
        let now = shown(tables)?;
        if !now.covers(&self.durable) {
            return failed(format!("the checkpoint {:?} was acknowledged and is now {now:?}", self.durable));
        }
        self.covered(tables, &Checkpoint::default(), &now)
    }

    /// The cluster has agreed on a checkpoint.
    pub fn agreed(&self, on: &Checkpoint) -> Result<(), String> {
        match self.durable.covers(on) {
            true => Ok(()),
            false => {
                failed(format!("the cluster agrees on {on:?}, MongoDB has only {:?} for good", self.durable))
            }
        }
    }

    /// Whether the checkpoint has reached the end of the ledger.
    pub fn is_level(&self) -> bool {
        self.durable == self.head
    }

    /// How far MongoDB and the ledger are, in words.
    pub fn words(&self) -> String {
        format!("MongoDB has {:?}, the ledger ends at {:?}", self.durable, self.head)
    }

    /// Whether the ledger is known up to here, and no farther.
    pub fn knows(&self, index: Index) -> bool {
        self.known == index
    }

    /// A ledger that is read from the beginning is what was read entry by entry.
    pub fn whole(&self, feed: &dyn Feed) -> Result<(), String> {
        let mut after = Checkpoint::default();
        let mut counts = BTreeMap::new();
        loop {
            let batch = feed.next(&after, PAGE).map_err(|error| error.to_string())?;
            if batch.is_empty() {
                break;
            }
            for (collection, documents) in immutable(&batch) {
                *counts.entry(collection).or_insert(0) += documents.len();
                for document in documents {
                    let known = self.truth.get(collection).and_then(|truth| truth.get(&id_key(&document)));
                    if known != Some(&document) {
                        return failed(format!("{collection} {} was not recorded so", id_text(&document)));
                    }
                }
            }
            for member in &batch.members {
                let last = self.members.get(&member.id).and_then(|values| values.last_key_value());
                if last.map(|(_, member)| member) != Some(member) {
                    return failed(format!("member {} was not recorded so", member.id));
                }
            }
            after = batch.upto;
        }
        let missing = self.truth.iter().find(|(name, truth)| counts.get(*name) != Some(&truth.len()));
        match missing.filter(|(_, truth)| !truth.is_empty()) {
            Some((collection, _)) => failed(format!("the ledger has lost records of {collection}")),
            None => Ok(()),
        }
    }

    /// At the end of a history: nothing is missing, and nothing is there that should not be.
    pub fn at_end(&self, tables: &Tables) -> Result<(), String> {
        for collection in [REWARDS, INTERVALS, OBSERVATIONS, ELECTIONS] {
            let present = tables.collection(collection);
            let truth = self.truth.get(collection).map_or(0, BTreeMap::len);
            if self.truth.get(collection).is_some_and(|truth| truth != present) || truth != present.len() {
                return failed(format!("{collection} holds {} documents, not {truth}", present.len()));
            }
        }
        let last = self.members.values().filter_map(|values| values.last_key_value());
        let members: Collection = last
            .map(|(_, member)| documents::member(member))
            .map(|document| (id_key(&document), document))
            .collect();
        match tables.collection(MEMBERS) == &members {
            true => Ok(()),
            false => failed("members are not those of the ledger"),
        }
    }
}

/// The documents of a batch that never change.
fn immutable(batch: &Batch) -> [(&'static str, Vec<RawDocumentBuf>); 4] {
    [
        (REWARDS, batch.rewards.iter().map(documents::movement).collect()),
        (INTERVALS, batch.intervals.iter().map(documents::interval).collect()),
        (OBSERVATIONS, batch.observations.iter().map(documents::observation).collect()),
        (ELECTIONS, batch.elections.iter().map(documents::election).collect()),
    ]
}

fn checkpoint(document: &RawDocumentBuf) -> Result<Checkpoint, String> {
    Ok(read_projection(document).map_err(|error| error.to_string())?.checkpoint)
}

/// The checkpoint that MongoDB shows.
fn shown(tables: &Tables) -> Result<Checkpoint, String> {
    let document = tables.collection(PROJECTION).values().next();
    Ok(document.map(checkpoint).transpose()?.unwrap_or_default())
}
