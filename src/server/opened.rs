//! What a node stands on: log and state, on disk or in memory, and the cluster that it is to enter.
//!
//! *In memory* (`--in-memory`) the same log code runs on a disk that is a piece of memory, and nothing outlives the process.
//! Such a node draws a new incarnation at every start, as one does whose directory was lost, and so the same rules keep it
//! from harm: the cluster is bound to the incarnation that it has met, hears nothing of what comes back in that name, and
//! takes it in again only when it was removed and joins anew.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::ledger::query;
use crate::node::applier;
use crate::node::ports::{LogStore, OpenedLog, StateStore, StorageError};
use crate::raft::{Payload, Recovered};
use crate::storage::directory::{DataDirectory, Rejoin};
use crate::storage::{Disk, Log, LogOptions, MemoryDisk, MemoryState};
use crate::types::Index;

use super::join::{self, Past};
use super::{ServerError, reenter, state};

/// What a node finds when it starts.
pub(super) struct Opened {
    /// Keeps the lock; `None` in memory.
    pub directory: Option<DataDirectory>,
    /// Tells this node from an earlier one of its name.
    pub incarnation: String,
    pub log: OpenedLog<Box<dyn LogStore>>,
    pub state: Arc<dyn StateStore>,
    /// The cluster that it is to enter, if it has none.
    pub invitation: Option<join::Invitation>,
    /// How it comes back into its cluster after its log was damaged.
    pub rejoin: Option<Rejoin>,
}

/// Opens log and state; a node that joins looks at the cluster first. `None`: `stop` came meanwhile.
pub(super) async fn open(
    settings: &mut Settings,
    address: &str,
    stop: &CancellationToken,
) -> Result<Option<Opened>, ServerError> {
    let join = settings.cluster.join.clone();
    let found =
        if settings.node.in_memory { None } else { DataDirectory::identity_at(&settings.node.data_dir)? };
    let mut invitation = None;
    if let Some(url) = &join {
        let name = match &found {
            Some(identity) => identity.cluster.clone(),
            None => match join::look(std::slice::from_ref(url), settings, address, Past::None, stop).await? {
                Some(invited) => invitation.insert(invited).cluster.clone(),
                None => return Ok(None),
            },
        };
        // Whoever joins may leave it to the cluster how it is called.
        if settings.node.cluster == Settings::default().node.cluster {
            settings.node.cluster = name;
        }
    }
    let mut opened = if settings.node.in_memory {
        in_memory()?
    } else {
        match on_disk(settings, stop).await? {
            Some(opened) => opened,
            None => return Ok(None),
        }
    };
    opened.invitation = invitation;
    if let Some(rejoin) = opened.rejoin.take() {
        // It is none of the founders any more, and replaces nobody.
        settings.cluster.peers.clear();
        settings.cluster.replaces = None;
        let doors: Vec<String> = rejoin.urls.into_iter().chain(join).collect();
        settings.cluster.join = doors.first().cloned();
        opened.invitation = join::look(&doors, settings, address, Past::Unused, stop).await?;
        if let Some(invitation) = &mut opened.invitation {
            invitation.learner_only = rejoin.learner_only;
        }
        return Ok(opened.invitation.is_some().then_some(opened));
    }
    if let Some(url) = &join
        && opened.invitation.is_none()
    {
        let state = &*opened.state;
        if belongs(&opened.log.recovered, state)? {
            let genesis = query::genesis(&*state.view()?)?;
            let identity = genesis.as_ref().map(|genesis| genesis.identity.as_str());
            join::compare(url, identity, settings).await?;
        } else {
            let doors = std::slice::from_ref(url);
            opened.invitation = join::look(doors, settings, address, Past::Unused, stop).await?;
            if opened.invitation.is_none() {
                return Ok(None);
            }
        }
    }
    Ok(Some(opened))
}

async fn on_disk(settings: &Settings, stop: &CancellationToken) -> Result<Option<Opened>, ServerError> {
    let mut directory =
        DataDirectory::open(&settings.node.data_dir, &settings.node.id, &settings.node.cluster)?;
    let log = match directory.open_log() {
        Err(damage @ StorageError::Damaged { .. }) => {
            if !reenter::reenter(&mut directory, settings, damage, stop).await? {
                return Ok(None);
            }
            directory.open_log()?
        }
        opened => opened?,
    };
    let log = boxed(log);
    for note in &log.notes {
        tracing::warn!("{note}");
    }
    let state = Arc::new(state::open(&mut directory, &log.recovered, settings)?);
    let mut rejoin = directory.identity().rejoin.clone();
    if rejoin.is_some() && belongs(&log.recovered, &*state)? {
        directory.has_rejoined()?;
        rejoin = None;
    }
    let incarnation = directory.identity().incarnation.clone();
    Ok(Some(Opened { directory: Some(directory), incarnation, log, state, invitation: None, rejoin }))
}

fn in_memory() -> Result<Opened, ServerError> {
    tracing::warn!(
        event = "in_memory",
        "IN MEMORY: log and state are lost when this process ends; its name is then free only after \
         super-node member remove"
    );
    let log = boxed(Log::open(MemoryDisk::default(), LogOptions::default())?);
    let incarnation = format!("{:032x}", rand::random::<u128>());
    let state = Arc::new(MemoryState::new());
    Ok(Opened { directory: None, incarnation, log, state, invitation: None, rejoin: None })
}

fn boxed<D: Disk + Send + 'static>(opened: OpenedLog<Log<D>>) -> OpenedLog<Box<dyn LogStore>>
where
    Log<D>: LogStore,
{
    let OpenedLog { log, recovered, notes } = opened;
    OpenedLog { log: Box::new(log), recovered, notes }
}

/// Whether a directory knows of a cluster.
fn belongs(recovered: &Recovered, state: &dyn StateStore) -> Result<bool, ServerError> {
    let logged = recovered.entries.iter().any(|entry| matches!(entry.payload, Payload::Configuration(_)));
    let applied = applier::standing(&*state.view()?)?;
    let configured = applied.configuration.is_some_and(|configuration| !configuration.is_empty());
    // A log that was compacted had something to forget, even if the state is gone that would tell.
    Ok(logged || configured || recovered.base.index > Index(0))
}
