//! Starts the couriers of the configured webhooks.

use std::sync::Arc;

use reqwest::redirect::Policy;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::metrics::Metrics;
use crate::network::tls;
use crate::node::handle::Handle;
use crate::webhooks::{Hook, courier};

use super::ServerError;

/// Each hook with the client that speaks to its receiver.
pub(super) type Hooks = Vec<(Hook, reqwest::Client)>;

/// The clients, made before anything is started: an authority that cannot be read is a mistake of the operator.
pub(super) fn clients(settings: &Settings) -> Result<Hooks, ServerError> {
    let client = |hook: &Hook| {
        let refused = |why: String| ServerError::Security(format!("webhook {}: {why}", hook.name));
        let builder = tls::http(hook.ca.as_deref()).map_err(|error| refused(error.to_string()))?;
        let version = concat!("super-node/", env!("CARGO_PKG_VERSION"));
        // No proxy of the environment: the operator configured where news goes.
        let builder = builder.redirect(Policy::none()).no_proxy().user_agent(version);
        let client = builder.build().map_err(|error| refused(error.to_string()))?;
        Ok((hook.clone(), client))
    };
    settings.webhooks.iter().map(client).collect()
}

/// One task per hook, until `stop`.
pub(super) fn start(
    hooks: Hooks,
    handle: &Handle,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut couriers = JoinSet::new();
    for (hook, client) in hooks {
        let (handle, metrics) = (handle.clone(), Arc::clone(metrics));
        couriers.spawn(courier::run(hook, client, handle, metrics, stop.child_token()));
    }
    couriers
}
