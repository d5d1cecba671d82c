//! Ten thousand movements a second: how long until MongoDB vouches for each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super_node::bench::BenchError;

use crate::ledger::Ledger;
use crate::mongod::Mongod;
use crate::rate::{Projector, checkpoint};
use crate::{LAG_MAX, failed, verdict};

/// Movements per second.
const RATE: usize = 10_000;
/// How many times a second movements come.
const STEPS: u32 = 10;
/// What is written before it counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often the checkpoint is looked at: what a lag may be told too long.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A projector that does not catch up at all ends the measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a second's movements are made of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Adjustments by hand: a movement each.
    Adjustments,
    /// Settlements: each movement with an observation and a changed member.
    Settlements,
}

pub async fn measure(server: &Mongod, window: Duration) -> Result<(), BenchError> {
    for (kind, what) in [
        (Kind::Adjustments, "movements by hand"),
        (Kind::Settlements, "movements of settlements, each with an observation and a changed member"),
    ] {
        let mut lags = watch(server, kind, window).await?;
        lags.sort();
        let at = |share: f64| lags[((lags.len() - 1) as f64 * share).round() as usize];
        let (p50, p99, longest) = (at(0.5), at(0.99), at(1.0));
        println!(
            "lag at {RATE} {what} a second: p50 {} ms, p99 {} ms, longest {} ms; asked for p99 below {} ms: {}",
            p50.as_millis(),
            p99.as_millis(),
            longest.as_millis(),
            LAG_MAX.as_millis(),
            verdict(p99 < LAG_MAX)
        );
    }
    Ok(())
}

/// The lag of the last movement of each step.
async fn watch(server: &Mongod, kind: Kind, window: Duration) -> Result<Vec<Duration>, BenchError> {
    let directory = tempfile::tempdir().map_err(failed)?;
    let per_step = RATE / STEPS as usize;
    let mut ledger = Ledger::new(directory.path(), per_step)?;
    let database = server.client().await.database("lag");
    database.drop().await.map_err(failed)?;
    let projector = Projector::start(server, "lag", &ledger);
    let (applied, mut steps) = tokio::sync::mpsc::unbounded_channel();
    let begun = Instant::now();
    // Applying blocks, as it does on a node's own thread.
    let pay = std::thread::Builder::new().name("apply".to_string()).spawn(move || {
        for step in 0.. {
            let due = begun + Duration::from_secs(1) / STEPS * step;
            if due > begun + WARM_UP + window {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            match kind {
                Kind::Adjustments => ledger.adjust(per_step),
                Kind::Settlements => ledger.settle(),
            }
            if applied.send((ledger.records(), Instant::now())).is_err() {
                break;
            }
        }
        ledger
    });
    let pay = pay.map_err(failed)?;
    let (mut waiting, mut lags, mut more) = (VecDeque::new(), Vec::new(), true);
    while more || !waiting.is_empty() {
        loop {
            match steps.try_recv() {
                Ok(step) => {
                    waiting.push_back(step);
                    projector.news();
                }
                Err(error) => {
                    more &= error != tokio::sync::mpsc::error::TryRecvError::Disconnected;
                    break;
                }
            }
        }
        let reached = checkpoint(&database).await?;
        let now = Instant::now();
        while let Some((_, at)) = waiting.pop_front_if(|(seq, _): &mut (u64, Instant)| *seq <= reached) {
            if at > begun + WARM_UP {
                lags.push(now - at);
            }
        }
        if let Some((seq, _)) = waiting.front().filter(|(_, at)| at.elapsed() > PATIENCE) {
            let error = projector.error().unwrap_or_default();
            return Err(BenchError::Node(format!("movement {seq} did not arrive in {PATIENCE:?}: {error}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    projector.stop().await?;
    let _ledger = pay.join().map_err(|_panicked| BenchError::Node("applying panicked".to_string()))?;
    database.drop().await.map_err(failed)?;
    Ok(lags)
}
