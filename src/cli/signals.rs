//! How long-running commands are asked to stop: SIGINT, SIGTERM, and for children of the demo the end of standard input.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;

/// Flags of children of the demo.
#[derive(Debug, Clone, Default, Args)]
pub struct ParentArgs {
    /// End when standard input closes
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
    /// When standard input closed, remove this directory at the end
    #[arg(long, hide = true, value_name = "DIR", requires = "exit_with_parent")]
    pub remove_with_parent: Option<PathBuf>,
}

/// When and why the process is asked to stop.
pub struct Stop {
    /// Cancelled when it is.
    pub token: CancellationToken,
    parent_gone: Arc<AtomicBool>,
    remove: Option<PathBuf>,
}

impl Stop {
    /// Removes what the parent would have removed, had it not been killed. Every child does that when it ends, so
    /// the last one leaves nothing behind.
    pub fn clean_up(&self) {
        if let Some(directory) = self.remove.as_deref().filter(|_| self.parent_gone.load(Ordering::Relaxed)) {
            remove(directory);
        }
    }
}

fn remove(directory: &Path) {
    // Others may still be writing there; they come after us.
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::debug!(%error, "cannot remove {}", directory.display());
    }
}

/// Listens for the signals, and for the end of the parent if the flags say so.
pub fn stop(parent: &ParentArgs) -> Result<Stop, CliError> {
    let with_parent = parent.exit_with_parent;
    let refused = |error| CliError::failed(format!("cannot listen for signals: {error}"));
    let mut interrupted = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(refused)?;
    if with_parent {
        wake_with_parent()?;
    }
    let stop = Stop {
        token: CancellationToken::new(),
        parent_gone: Arc::default(),
        remove: parent.remove_with_parent.clone(),
    };
    let (token, gone) = (stop.token.clone(), Arc::clone(&stop.parent_gone));
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            () = parent_gone(), if with_parent => gone.store(true, Ordering::Relaxed),
        }
        token.cancel();
    });
    Ok(stop)
}

/// The story freezes processes. One whose parent dies meanwhile must wake up to notice.
#[cfg(target_os = "linux")]
fn wake_with_parent() -> Result<(), CliError> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT)).map_err(|error| {
        CliError::failed(format!("cannot ask for a signal at the end of the parent: {error}"))
    })
}

#[cfg(not(target_os = "linux"))]
fn wake_with_parent() -> Result<(), CliError> {
    Ok(())
}

/// Standard input is a pipe that the parent holds open and never writes to.
async fn parent_gone() {
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut nothing).await.is_ok_and(|bytes| bytes > 0) {}
}
