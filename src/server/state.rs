//! The applied state at the start: one that is damaged, missing, or older than the log can bring up is set aside, and
//! comes back by itself, from the log or from the leader.

use crate::config::Settings;
use crate::node::applier::{self, Standing};
use crate::node::facts::Facts;
use crate::node::fleet::Concerned;
use crate::node::ports::{StateStore as _, StorageError};
use crate::raft::{Payload, Recovered};
use crate::storage::State;
use crate::storage::directory::DataDirectory;
use crate::types::Index;

use super::ServerError;

/// Opens the state of a node whose log holds `recovered`.
///
/// # Errors
/// Damage, if there is nothing and nobody to have the state from.
pub(super) fn open(
    directory: &mut DataDirectory,
    recovered: &Recovered,
    settings: &Settings,
) -> Result<State, ServerError> {
    let path = directory.path().join("state.redb").display().to_string();
    let damage = match directory.open_state() {
        Ok(state) => match unfit(&state, recovered) {
            None => return Ok(state),
            Some(why) => StorageError::Damaged { path, offset: 0, why },
        },
        Err(damage @ StorageError::Damaged { .. }) => damage,
        Err(other) => return Err(other.into()),
    };
    let source = match source(recovered, settings) {
        Ok(source) => source,
        Err(why) => {
            let StorageError::Damaged { path, offset, why: found } = damage else {
                return Err(damage.into());
            };
            return Err(StorageError::Damaged { path, offset, why: format!("{found}; {why}") }.into());
        }
    };
    let aside = directory.set_state_aside(&damage.to_string())?;
    tracing::warn!(
        event = "state_set_aside",
        "{damage}; it was moved to {}, and {source}; the log and the votes are whole",
        aside.display()
    );
    Ok(directory.open_state()?)
}

/// What is wrong with a state that could be opened, as far as that shows without reading all of it.
fn unfit(state: &State, recovered: &Recovered) -> Option<String> {
    let read = || {
        let view = state.view()?;
        let standing: Standing = applier::standing(view.as_ref())?;
        Facts::read(view.as_ref(), &Concerned::All).map(|_| standing)
    };
    match read() {
        Ok(standing) if standing.configuration.is_none() => {
            // A new one: for the log to fill, or to be fetched.
            None
        }
        Ok(standing) if standing.applied.index < recovered.base.index => Some(format!(
            "the state ends at index {}, and the log begins only after {}",
            standing.applied.index, recovered.base.index
        )),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Where the state can be had from, in words, or why it cannot.
fn source(recovered: &Recovered, settings: &Settings) -> Result<&'static str, &'static str> {
    if recovered.base.index == Index(0) {
        return if recovered.entries.is_empty() {
            Err("and the log is empty, so nothing is lost: remove the data directory and start anew")
        } else {
            Ok("is made again from the log, which goes back to the beginning")
        };
    }
    let in_log = recovered.entries.iter().any(|entry| match &entry.payload {
        Payload::Configuration(configuration) => configuration.all_nodes().len() > 1,
        Payload::Noop | Payload::Command(_) => false,
    });
    if in_log || settings.cluster.peers.len() > 1 || settings.cluster.join.is_some() {
        Ok("will be fetched from the leader")
    } else {
        Err(
            "no other super-node is known that could send it: if there are others, start with --join and the client \
             URL of one of them; otherwise restore a backup",
        )
    }
}
