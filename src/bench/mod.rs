//! Load, and what is measured under it: `super-node bench`, and the side-by-side in `benches/`.
//!
//! A closed loop: each client sends its next operation when the one before it is answered. After a warm-up, what is
//! answered within the window counts. All clients share one thread, so that the generator costs little beside the
//! servers that it shares the machine with; what it costs is reported too.
//!
//! | module | what it is |
//! |---|---|
//! | [`load`] | the closed loop and its tally |
//! | [`work`] | the operations: keys, values, the mix |
//! | [`http`] | one HTTP/1.1 connection, without a library's conveniences |
//! | [`native`] | clients that share framed connections |
//! | [`usage`] | CPU time and disk bytes of processes, syncs of nodes |
//! | [`bare`] | an HTTP server of the same stack that does nothing: the ceiling |
//! | [`cluster`] | who leads, and a fresh cluster of children |
//! | [`failover`] | how long writes wait when the leader is lost |
//! | [`floor`] | what one write cannot beat on this machine |
//! | [`figures`] | the measured row, and what is expected of it |

pub mod bare;
pub mod cluster;
pub mod failover;
pub mod figures;
pub mod floor;
pub mod http;
pub mod load;
pub mod native;
pub mod usage;
pub mod work;

use std::time::Duration;

use crate::client::ClientError;
use crate::client::native::Connection;
use figures::Figures;
use load::{Load, closed_loop};
use usage::Usage;
use work::{Author, Workload};

/// Something kept a measurement from being taken.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// A node did not do what was asked.
    #[error("{0}")]
    Node(String),
}

impl From<ClientError> for BenchError {
    fn from(error: ClientError) -> BenchError {
        BenchError::Node(error.to_string())
    }
}

/// One row to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configured name of the cluster.
    pub cluster: String,
    /// Framed connections that the clients share.
    pub connections: usize,
    /// How many clients, each with one operation under way.
    pub clients: usize,
    /// What they ask for.
    pub work: Workload,
    /// How long they run before and while it counts.
    pub load: Load,
    /// Where they connect (`host:port`), in turn.
    pub targets: Vec<String>,
    /// The servers' processes, if they are known.
    pub processes: Vec<u32>,
    /// Where the servers' metrics are (`host:port`), if they have any.
    pub metrics: Vec<String>,
}

/// Measures one row over HTTP.
pub async fn measure_http(plan: &Plan) -> Result<Figures, BenchError> {
    let mut callers = Vec::new();
    for (number, author) in Author::several(plan.clients, plan.work).into_iter().enumerate() {
        let target = &plan.targets[number % plan.targets.len()];
        callers.push(http::Client::new(target, author));
    }
    let (begun, tally, ended) =
        closed_loop(callers, plan.load, || Usage::sample(&plan.processes, &plan.metrics)).await;
    Ok(Figures::new("http", plan.clients, plan.work, &tally, &ended?.since(&begun?)))
}

/// Measures one row over framed connections.
pub async fn measure_native(plan: &Plan) -> Result<Figures, BenchError> {
    let mut connections = Vec::new();
    for number in 0..plan.connections.clamp(1, plan.clients) {
        let target = &plan.targets[number % plan.targets.len()];
        let opened = Connection::open(target, &plan.cluster).await;
        connections.push(opened.map_err(|error| BenchError::Node(format!("{target}: {error:?}")))?);
    }
    let authors = Author::several(plan.clients, plan.work).into_iter().enumerate();
    let callers = authors
        .map(|(number, author)| native::Client::new(connections[number % connections.len()].clone(), author));
    let (begun, tally, ended) =
        closed_loop(callers.collect(), plan.load, || Usage::sample(&plan.processes, &plan.metrics)).await;
    Ok(Figures::new("native", plan.clients, plan.work, &tally, &ended?.since(&begun?)))
}

/// Runs `work` on one thread of its own, which all of its tasks share.
pub async fn on_one_thread<T, F, M>(make: M) -> Result<T, BenchError>
where
    T: Send + 'static,
    F: Future<Output = T>,
    M: FnOnce() -> F + Send + 'static,
{
    let (result, ended) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("load".to_string());
    let refused = |source| BenchError::System { what: "start the load thread".to_string(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    thread
        .spawn(move || {
            let local = tokio::task::LocalSet::new();
            let value = runtime.block_on(local.run_until(async { make().await }));
            // Whoever waited may have been interrupted.
            let _nobody_waits = result.send(value);
            drop(local);
            runtime.shutdown_timeout(Duration::from_secs(1));
        })
        .map_err(refused)?;
    ended.await.map_err(|_panicked| BenchError::Node("the load thread panicked".to_string()))
}
