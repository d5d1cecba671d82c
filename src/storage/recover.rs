//! Operators' work on data directories: a directory from a snapshot, and a cluster from its last survivor.
//!
//! Both take something for the truth that no majority has confirmed. So both write down what they did where it cannot be
//! overlooked (`ledger::recoveries`), and give the cluster another identity, by which the nodes that were left behind are
//! refused from then on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::codec;
use crate::codec::Hash;
use crate::ledger::command::{Command, Envelope, Request};
use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::query;
use crate::ledger::recoveries::{self, Recovery, RecoveryAct, RecoveryKind};
use crate::node::applier::{APPLIED_KEY, Applier, Standing, standing};
use crate::node::ports::{LogStore as _, StateStore, StorageError};
use crate::raft::{Base, Configuration, Entry, HardState, Payload, Persist, Recovered};
use crate::types::{Index, NodeId, Term, UnixMillis, Version};

use super::directory::DataDirectory;
use super::disk::RealDisk;
use super::log::{Log, io_error};
use super::snapshot::{Head, Row, SnapshotReader, Sums};
use super::state::State;

/// What a whole snapshot file holds; every checksum was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// What it says about itself.
    pub head: Head,
    /// What was counted.
    pub sums: Sums,
    /// SHA-256 of the file; names it.
    pub hash: Hash,
    /// SHA-256 of the replicated rows: equal on all nodes that have applied the same entries, whichever node saved it and
    /// when.
    pub state_digest: Hash,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Hears of progress: bytes done, and bytes in all.
pub type Progress<'p> = &'p mut dyn FnMut(u64, u64);

/// A directory that was made from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The snapshot.
    pub snapshot: Examined,
    /// What is on record about it.
    pub recovery: Recovery,
    /// The incarnation of the new directory.
    pub incarnation: String,
}

fn open_snapshot(path: &Path) -> Result<(SnapshotReader<BufReader<File>>, u64), StorageError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| io_error("open", name.clone(), source))?;
    let bytes = file.metadata().map_err(|source| io_error("look at", name.clone(), source))?.len();
    Ok((SnapshotReader::open(&name, BufReader::with_capacity(1 << 20, file))?, bytes))
}

/// Reads a snapshot file to its end.
///
/// # Errors
/// As [`SnapshotReader::open`].
pub fn examine(path: &Path, progress: Progress<'_>) -> Result<Examined, StorageError> {
    let (mut reader, file_bytes) = open_snapshot(path)?;
    let mut digest = Sha256::new();
    while let Some(rows) = reader.next_rows()? {
        // Where a node's state stands, and under which configuration it began, is its own note.
        for (key, value) in rows.iter().filter(|(key, _)| key != APPLIED_KEY) {
            for part in [key, value] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
        }
        progress(reader.offset(), file_bytes);
    }
    let hash = reader.hash().expect("it has been read to its end");
    let state_digest = Hash(digest.finalize().into());
    Ok(Examined { head: reader.head().clone(), sums: reader.sums(), hash, state_digest, file_bytes })
}

/// The rows of a file, for a store to take in; stops at the first error, and keeps it.
struct Rows<'p> {
    reader: SnapshotReader<BufReader<File>>,
    waiting: std::vec::IntoIter<Row>,
    error: Option<StorageError>,
    bytes: u64,
    progress: Progress<'p>,
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            if let Some(row) = self.waiting.next() {
                return Some(row);
            }
            match self.reader.next_rows() {
                Ok(Some(rows)) => self.waiting = rows.into_iter(),
                Ok(None) => return None,
                Err(error) => {
                    self.error = Some(error);
                    return None;
                }
            }
            (self.progress)(self.reader.offset(), self.bytes);
        }
    }
}

/// Makes a data directory for `node` out of a snapshot, in which `voters` (with their peer addresses) are the cluster. Each
/// of them is restored from the same file with the same voters: then they agree, and nobody else agrees with them.
///
/// # Errors
/// [`StorageError::Refused`] when there is something at `path` already, or `node` is none of the voters; otherwise as
/// [`examine`]. Nothing is left at `path` then.
pub fn restore(
    file: &Path,
    path: &Path,
    node: &NodeId,
    voters: &BTreeMap<NodeId, String>,
    progress: Progress<'_>,
) -> Result<Restored, StorageError> {
    let refused = |text: String| Err(StorageError::Refused(text));
    if !voters.contains_key(node) {
        return refused(format!("'{node}' is none of the voters: name it among --peers"));
    }
    if fs::read_dir(path).map_or(path.exists(), |mut files| files.next().is_some()) {
        return refused(format!(
            "{} exists and is not empty: a snapshot is restored into a new directory only; move it away, or use \
             another --data-dir",
            path.display()
        ));
    }
    // Wholly checked before anything is made of it.
    let snapshot = examine(file, progress)?;
    let draft = draft_of(path);
    let failed = |action, path: &Path| {
        let path = path.display().to_string();
        move |source| io_error(action, path, source)
    };
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(failed("remove", &draft))?;
    }
    let made = fill(file, &draft, &snapshot, node, voters, progress);
    let (recovery, incarnation) = match made {
        Ok(made) => made,
        Err(error) => {
            // What is left of it is removed by the next attempt.
            let _best_effort = fs::remove_dir_all(&draft);
            return Err(error);
        }
    };
    fs::rename(&draft, path).map_err(failed("rename", &draft))?;
    let parent = parent_of(path);
    File::open(&parent).and_then(|parent| parent.sync_all()).map_err(failed("sync directory", &parent))?;
    Ok(Restored { snapshot, recovery, incarnation })
}

fn parent_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_path_buf()
}

/// Where a directory takes shape before it gets its name.
fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent_of(path).join(format!(".{name}.restoring"))
}

fn fill(
    file: &Path,
    draft: &Path,
    snapshot: &Examined,
    node: &NodeId,
    voters: &BTreeMap<NodeId, String>,
    progress: Progress<'_>,
) -> Result<(Recovery, String), StorageError> {
    let head = &snapshot.head;
    let mut directory = DataDirectory::open(draft, node, &head.cluster)?;
    let state = directory.open_state()?;
    let (reader, bytes) = open_snapshot(file)?;
    let mut rows = Rows { reader, waiting: Vec::new().into_iter(), error: None, bytes, progress };
    let replaced = state.replace(&mut rows.by_ref().map(Ok));
    if let Some(error) = rows.error {
        return Err(error);
    }
    let store_failed = |error| state_error(draft, error);
    replaced.map_err(store_failed)?;
    let base = Base { index: head.index, term: head.term };
    let configuration = Configuration {
        voters: voters.keys().cloned().collect(),
        addresses: voters.clone(),
        ..Configuration::default()
    };
    let act = RecoveryAct {
        kind: RecoveryKind::Restored,
        node: head.node.clone(),
        previous_identity: head.identity.clone().unwrap_or_default(),
        identity: recoveries::restored_identity(snapshot.hash, voters),
        previous_voters: head.configuration.voters.clone(),
        voters: configuration.voters.clone(),
        version: Version::current(),
    };
    // All that is written is the same on every node that is restored from this file.
    let recovery = Recovery { index: base.index, term: base.term, at: head.log_time, act };
    let standing = Standing { applied: base, configuration: Some(configuration) };
    state
        .update(&mut |space| {
            space.put(APPLIED_KEY, &codec::encode(&standing))?;
            recoveries::record(space, &recovery)
        })
        .and_then(|()| state.flush())
        .map_err(store_failed)?;
    let hard_state = HardState { term: base.term, vote: None };
    let first = Persist { seq: 1, hard_state: Some(hard_state), base: Some(base), entries: Vec::new() };
    directory.open_log()?.log.append(&[first])?;
    Ok((recovery, directory.identity().incarnation.clone()))
}

fn state_error(path: &Path, error: KeyspaceError) -> StorageError {
    let path = path.display().to_string();
    match error {
        KeyspaceError::Store(why) => io_error("write the state in", path, io::Error::other(why)),
        KeyspaceError::Damaged { key, why } => {
            StorageError::Damaged { path, offset: 0, why: format!("record at {key}: {why}") }
        }
    }
}

/// The last node of a cluster whose others are gone for good.
pub struct Survivor {
    directory: DataDirectory,
    log: Log<RealDisk>,
    recovered: Recovered,
    /// The state was replaced by a snapshot that the log does not know of yet.
    base_moved: bool,
    state: Arc<State>,
    standing: Standing,
    identity: String,
}

/// What a survivor knows, and what would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// The node.
    pub node: NodeId,
    /// The configured name of its cluster.
    pub cluster: String,
    /// What the cluster was founded with.
    pub identity: String,
    /// Who votes now, as far as it knows.
    pub voters: Vec<NodeId>,
    /// The newest term that it has seen.
    pub term: Term,
    /// The end of its log.
    pub last: Index,
    /// Applied up to here, and so known to be acknowledged.
    pub applied: Index,
    /// Entries that it holds and has not applied: they become final, though some may never have been acknowledged.
    pub unconfirmed: u64,
}

impl Survivor {
    /// Opens the directory of a node that does not run.
    ///
    /// # Errors
    /// As [`DataDirectory::open_existing`], and when log or state cannot be read.
    pub fn open(path: &Path) -> Result<Survivor, StorageError> {
        let mut directory = DataDirectory::open_existing(path)?;
        let opened = directory.open_log()?;
        let state = directory.open_state()?;
        let failed = |error| state_error(path, error);
        let view = state.view().map_err(failed)?;
        let standing = standing(&*view).map_err(failed)?;
        let genesis = query::genesis(&*view).map_err(failed)?;
        drop(view);
        let (log, mut recovered) = (opened.log, opened.recovered);
        let base_moved = recovered.agree_with(standing.applied);
        // A node that was killed soon after the founding has it in its log only.
        let logged = || recovered.entries.iter().find_map(founded_as);
        let identity = genesis.map(|genesis| genesis.identity).or_else(logged).unwrap_or_default();
        Ok(Survivor { directory, log, recovered, base_moved, state: Arc::new(state), standing, identity })
    }

    /// The configuration in force: the newest in its log.
    fn configuration(&self) -> Configuration {
        let logged = self.recovered.entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Configuration(configuration) => Some(configuration.clone()),
            Payload::Noop | Payload::Command(_) => None,
        });
        logged.or_else(|| self.standing.configuration.clone()).unwrap_or_default()
    }

    /// What it knows.
    pub fn outlook(&self) -> Outlook {
        let (last, applied) = (self.recovered.last(), self.standing.applied.index);
        Outlook {
            node: self.directory.identity().node.clone(),
            cluster: self.directory.identity().cluster.clone(),
            identity: self.identity.clone(),
            voters: self.configuration().all_voters().into_iter().collect(),
            term: self.recovered.hard_state.term,
            last,
            applied,
            unconfirmed: last.0 - applied.0,
        }
    }

    /// Whether there is anything to recover.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when it is the only voter already, or knows of no cluster.
    pub fn check(&self) -> Result<(), StorageError> {
        let (configuration, node) = (self.configuration(), &self.directory.identity().node);
        if configuration.all_voters().is_empty() || self.identity.is_empty() {
            let text = format!("{node} knows of no cluster: there is nothing to recover");
            return Err(StorageError::Refused(text));
        }
        if configuration.is_sole_voter(node) {
            let text = format!("{node} is the only voter already: start it as usual");
            return Err(StorageError::Refused(text));
        }
        Ok(())
    }

    /// Makes it the only voter of a new cluster, which holds all that its log holds.
    ///
    /// # Errors
    /// As [`Survivor::check`]; [`StorageError::Io`] when the directory cannot be written.
    pub fn found_anew(mut self) -> Result<RecoveryAct, StorageError> {
        self.check()?;
        let configuration = self.configuration();
        let node = self.directory.identity().node.clone();
        let act = RecoveryAct {
            kind: RecoveryKind::ForcedNewCluster,
            node: node.clone(),
            previous_identity: self.identity.clone(),
            identity: format!("{:032x}", rand::random::<u128>()),
            previous_voters: configuration.all_voters(),
            voters: [node.clone()].into(),
            version: Version::current(),
        };
        let own = configuration.addresses.get(&node).map(|address| (node.clone(), address.clone()));
        let alone = Configuration {
            voters: [node.clone()].into(),
            addresses: own.into_iter().collect(),
            ..Configuration::default()
        };
        let last = self.recovered.last();
        let term = Term(self.recovered.hard_state.term.0 + 1);
        let envelope = Envelope {
            at: wall_clock(),
            term,
            leader: node.clone(),
            request: Request::new(Command::Recovered(act.clone())),
        };
        let payloads = [Payload::Configuration(alone), Payload::Command(codec::encode(&envelope).into())];
        let entries = payloads.into_iter().zip(last.0 + 1..);
        let entries = entries.map(|(payload, index)| Entry { term, index: Index(index), payload }).collect();
        let batch = Persist {
            seq: 1,
            hard_state: Some(HardState { term, vote: Some(node) }),
            base: self.base_moved.then_some(self.standing.applied),
            entries,
        };
        self.log.append(&[batch])?;
        // The log says it; the state says it at once too, so that from its first breath the node is nobody's peer.
        let state = Arc::clone(&self.state);
        self.apply_all()
            .and_then(|()| state.update(&mut |space| recoveries::assume_identity(space, &act.identity)))
            .and_then(|()| state.flush())
            .map_err(|error| state_error(self.directory.path(), error))?;
        Ok(act)
    }

    /// All that the log holds becomes final, and the state must know at least of the founding.
    fn apply_all(&self) -> Result<(), KeyspaceError> {
        let applied = self.standing.applied.index;
        let fresh = self.recovered.entries.iter().filter(|entry| entry.index > applied).cloned();
        Applier::new(Arc::clone(&self.state) as Arc<dyn StateStore>)?.apply(&fresh.collect::<Vec<_>>())?;
        Ok(())
    }
}

/// The identity that this entry gives a cluster, if it founds one.
fn founded_as(entry: &Entry) -> Option<String> {
    let Payload::Command(bytes) = &entry.payload else { return None };
    match codec::decode::<Envelope>(bytes).ok()?.request.command {
        Command::Genesis { identity, .. } => Some(identity),
        _ => None,
    }
}

fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
