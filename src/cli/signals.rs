//! How long-running commands are asked to stop: SIGINT, SIGTERM, and for children of the demo the end of standard input.

use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;

/// A token that is cancelled when the process is asked to stop.
pub fn stop_token(with_parent: bool) -> Result<CancellationToken, CliError> {
    let refused = |error| CliError::failed(format!("cannot listen for signals: {error}"));
    let mut interrupted = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(refused)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            () = parent_gone(), if with_parent => {}
        }
        token.cancel();
    });
    Ok(stop)
}

/// Standard input is a pipe that the parent holds open and never writes to.
async fn parent_gone() {
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut nothing).await.is_ok_and(|bytes| bytes > 0) {}
}
