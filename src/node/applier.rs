//! Applies committed entries to the state, one transaction a batch, and tells what changed.
//!
//! Runs on its own thread in a real node and inline in a simulated one. The applied index and the configuration
//! are written in the same transaction as the effects of the entries, so that a crash leaves both or neither.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::codec;
use crate::ledger::apply::{Happening, apply_within};
use crate::ledger::command::{Applied, Envelope};
use crate::ledger::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use crate::ledger::limits::Limits;
use crate::raft::{Base, Configuration, Entry, Payload};
use crate::types::{Index, Term};

use super::facts::Facts;
use super::fleet::Concerned;
use super::frame::SnapshotChunk;
use super::ports::StateStore;
use super::snapshot::{Received, WantPart};
use super::spool::Spool;

/// Reserved key: last applied position and the configuration as of then.
pub const APPLIED_KEY: &[u8] = b"\0applied";
/// [`super::core::Bounds::snapshot_part_bytes`], as a rule.
pub const SNAPSHOT_PART_BYTES: usize = 1 << 20;
/// Most snapshot transfers at a time; the oldest is dropped for a new one.
const EXPORTS_MAX: usize = 7;
/// What a founding is flushed into. With less room the flush waits, as all others do on a full disk.
const FOUNDING_ROOM: u64 = 1 << 20;

/// What a batch did.
#[derive(Debug)]
pub struct AppliedBatch {
    /// The last applied position.
    pub upto: Base,
    /// The answers, by position, with the term of the entry.
    pub answers: BTreeMap<Index, (Term, Option<Applied>)>,
    /// What happened, in order; keys of the dictionary that were written are left out.
    pub happenings: Vec<Happening>,
    /// The replicated state as the node needs to see it, if anything of it changed.
    pub facts: Option<Facts>,
    /// The configurations that it applied, in order, with their positions.
    pub configurations: Vec<(Index, Configuration)>,
}

/// Where a state stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// Last applied position.
    pub applied: Base,
    /// The configuration as of then; `None` before any was applied.
    pub configuration: Option<Configuration>,
}

/// Reads where a state stands; a fresh one stands before the log.
pub fn standing(reader: &dyn Reader) -> Result<Standing, KeyspaceError> {
    match reader.get(APPLIED_KEY)? {
        None => Ok(Standing { applied: Base::default(), configuration: None }),
        Some(bytes) => codec::decode(&bytes)
            .map_err(|error| KeyspaceError::Damaged { key: "applied".to_string(), why: error.to_string() }),
    }
}

struct Export {
    view: Box<dyn Reader + Send>,
    standing: Standing,
}

/// See the module's head.
pub struct Applier {
    store: Arc<dyn StateStore>,
    limits: Limits,
    standing: Standing,
    /// Oldest first.
    exports: VecDeque<(u64, Export)>,
    /// The snapshot that is arriving.
    spool: Box<dyn Spool>,
}

/// What became of a part of a received snapshot.
#[derive(Debug)]
pub enum Intake {
    /// It waits for those that are still to come.
    Kept,
    /// It was the last: the state is replaced.
    Replaced(Box<Facts>),
    /// It could not be kept, for want of room; or it was the last, and the whole is not what was announced, or not ahead of
    /// this state. All parts are dropped.
    Refused,
}

impl Applier {
    /// Begins where the store stands.
    pub fn new(store: Arc<dyn StateStore>) -> Result<Applier, KeyspaceError> {
        Applier::within(store, Limits::REAL)
    }

    /// As [`Applier::new`], for a simulated cluster with limits of its own.
    pub fn within(store: Arc<dyn StateStore>, limits: Limits) -> Result<Applier, KeyspaceError> {
        let standing = standing(store.view()?.as_ref())?;
        let spool = store.spool();
        Ok(Applier { store, limits, standing, exports: VecDeque::new(), spool })
    }

    /// Where the state stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Records the configuration that a node begins with, durably, unless one is recorded: who founds a cluster is
    /// asked once, and afterwards only the log changes it.
    pub fn found(&mut self, configuration: &Configuration) -> Result<(), KeyspaceError> {
        if self.standing.configuration.is_some() {
            return Ok(());
        }
        let founded = Standing { configuration: Some(configuration.clone()), ..self.standing.clone() };
        self.store.update(&mut |space| space.put(APPLIED_KEY, &codec::encode(&founded)))?;
        self.store.flush()?;
        self.standing = founded;
        Ok(())
    }

    /// The facts as they are now.
    pub fn facts(&self) -> Result<Facts, KeyspaceError> {
        Facts::read(self.store.view()?.as_ref(), &Concerned::All)
    }

    /// Applies entries in order. Those that a snapshot has covered meanwhile are skipped; `None` if all were. An
    /// error is final: the process must stop.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Option<AppliedBatch>, KeyspaceError> {
        let covered = entries.partition_point(|entry| entry.index <= self.standing.applied.index);
        let entries = &entries[covered..];
        if entries.is_empty() {
            return Ok(None);
        }
        let mut next = self.standing.clone();
        let mut answers = BTreeMap::new();
        let mut happenings = Vec::new();
        let mut facts = None;
        self.store.update(&mut |space| {
            // The store may run this again from the start; nothing of an earlier run may stay.
            next = self.standing.clone();
            answers.clear();
            happenings.clear();
            for entry in entries {
                assert!(entry.index == next.applied.index.next(), "entries are applied in order, each once");
                let answer = apply_entry(space, entry, self.limits, &mut next, &mut happenings)?;
                answers.insert(entry.index, (entry.term, answer));
            }
            space.put(APPLIED_KEY, &codec::encode(&next))?;
            // Most batches only write keys of the dictionary, of which the node's duties know nothing.
            facts = if happenings.is_empty() {
                None
            } else {
                Some(Facts::read(space, &Concerned::by(&happenings))?)
            };
            Ok(())
        })?;
        self.standing = next;
        if happenings.iter().any(gives_identity) && self.store.room().is_none_or(|room| room >= FOUNDING_ROOM)
        {
            // At once: whoever is told of the cluster's identity, or is killed a moment later, finds it on the disk too.
            // Without it a node cannot tell its own cluster from another of the same name.
            self.store.flush()?;
        }
        let configurations = entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Configuration(configuration) => Some((entry.index, configuration.clone())),
            Payload::Noop | Payload::Command(_) => None,
        });
        let configurations = configurations.collect();
        Ok(Some(AppliedBatch { upto: self.standing.applied, answers, happenings, facts, configurations }))
    }

    /// Makes everything applied so far durable and returns the position.
    pub fn flush(&mut self) -> Result<Index, KeyspaceError> {
        self.store.flush()?;
        Ok(self.standing.applied.index)
    }

    /// Ends a transfer.
    pub fn close_export(&mut self, transfer: u64) {
        self.exports.retain(|(open, _)| *open != transfer);
    }

    /// One part of a transfer; the first freezes the view that all parts come from. `None` if the transfer is
    /// unknown (closed, or dropped for a newer one).
    pub fn export(&mut self, want: &WantPart) -> Result<Option<SnapshotChunk>, KeyspaceError> {
        let open =
            |exports: &VecDeque<(u64, Export)>| exports.iter().position(|(open, _)| *open == want.transfer);
        if want.part == 0 && open(&self.exports).is_none() {
            let view = self.store.view()?;
            let standing = standing(view.as_ref())?;
            while self.exports.len() >= EXPORTS_MAX {
                self.exports.pop_front();
            }
            self.exports.push_back((want.transfer, Export { view, standing }));
        }
        let Some((_, export)) = open(&self.exports).and_then(|at| self.exports.get(at)) else {
            return Ok(None);
        };
        let after = want.after.as_deref();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut rows, mut bytes, mut last) = (Vec::new(), 0, true);
        export.view.scan(from, Bound::Unbounded, Direction::Forward, &mut |key, value| {
            if bytes >= want.bytes {
                last = false;
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok(Some(SnapshotChunk {
            transfer: want.transfer,
            base: export.standing.applied,
            configuration: export
                .standing
                .configuration
                .clone()
                .unwrap_or_else(|| want.configuration.clone()),
            part: want.part,
            last,
            checksum: rows_checksum(&rows),
            rows,
        }))
    }

    /// Takes a part of a received snapshot; the last one replaces the state, durably. The rows carry their own standing: if
    /// that is not the announced one, or not ahead of this state, nothing is changed.
    pub fn install(&mut self, received: &mut Received) -> Result<Intake, KeyspaceError> {
        if received.is_first() {
            self.spool.clear()?;
        }
        if let Err(error) = self.spool.push(std::mem::take(&mut received.rows)) {
            tracing::warn!("a part of a snapshot could not be kept: {error}");
            self.spool.clear()?;
            return Ok(Intake::Refused);
        }
        if !received.last {
            return Ok(Intake::Kept);
        }
        let replaced = self.replace(received.base)?;
        self.spool.clear()?;
        Ok(replaced.map_or(Intake::Refused, |facts| Intake::Replaced(Box::new(facts))))
    }

    /// Replaces the state by what was spooled.
    fn replace(&mut self, base: Base) -> Result<Option<Facts>, KeyspaceError> {
        // The smallest of all keys.
        let first = self.spool.rows()?.next().transpose()?;
        let carried = first.filter(|(key, _)| key == APPLIED_KEY);
        let carried = carried.and_then(|(_, value)| codec::decode::<Standing>(&value).ok());
        let announced = carried.is_some_and(|standing| standing.applied == base);
        if !announced || base.index <= self.standing.applied.index {
            return Ok(None);
        }
        self.store.replace(&mut self.spool.rows()?)?;
        let view = self.store.view()?;
        self.standing = standing(view.as_ref())?;
        Facts::read(view.as_ref(), &Concerned::All).map(Some)
    }
}

/// CRC-32 over the rows of a snapshot part.
pub fn rows_checksum(rows: &[(Vec<u8>, Vec<u8>)]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for (key, value) in rows {
        hasher.update(&(key.len() as u64).to_be_bytes());
        hasher.update(key);
        hasher.update(&(value.len() as u64).to_be_bytes());
        hasher.update(value);
    }
    hasher.finalize()
}

fn apply_entry(
    space: &mut dyn Keyspace,
    entry: &Entry,
    limits: Limits,
    standing: &mut Standing,
    happenings: &mut Vec<Happening>,
) -> Result<Option<Applied>, KeyspaceError> {
    standing.applied = Base { index: entry.index, term: entry.term };
    match &entry.payload {
        Payload::Noop => Ok(None),
        Payload::Configuration(configuration) => {
            standing.configuration = Some(configuration.clone());
            Ok(None)
        }
        Payload::Command(bytes) => {
            let envelope: Envelope = codec::decode(bytes).map_err(|error| KeyspaceError::Damaged {
                key: format!("log entry {}", entry.index),
                why: error.to_string(),
            })?;
            let outcome = apply_within(space, entry.index, entry.term, &envelope, limits)?;
            // A written key is data, not news: nobody is told.
            let news = |happening: &Happening| !matches!(happening, Happening::KvChanged { .. });
            happenings.extend(outcome.happenings.into_iter().filter(news));
            Ok(Some(outcome.applied))
        }
    }
}

/// Whether the cluster has got an identity, or another one.
fn gives_identity(happening: &Happening) -> bool {
    matches!(happening, Happening::GenesisDone { .. } | Happening::ClusterRecovered(_))
}
