//! How fast the ledger arrives in MongoDB, beside the bare driver on the same mongod in the same run.
//!
//! ```text
//! cargo bench --bench projection                          # rate, lag, backlog: some minutes
//! cargo bench --bench projection -- rate lag              # some of it
//! cargo bench --bench projection -- --millions 1,10 growth
//! ```
//!
//! It starts a mongod of its own, a replica set of one: the one on `PATH`, else the copy that `scripts/fetch-mongod.sh` fetches.
//! `PASS` or `FAIL` says whether a row reached what was asked for (docs/performance.md has the table). Run it on a machine that
//! does nothing else; mongod, super-node and the load share its cores.

#[path = "projection/backlog.rs"]
mod backlog;
#[path = "projection/growth.rs"]
mod growth;
#[path = "projection/lag.rs"]
mod lag;
#[path = "projection/ledger.rs"]
mod ledger;
#[path = "../tests/support/mongod.rs"]
mod mongod;
#[path = "../tests/support/node.rs"]
mod node;
#[path = "projection/rate.rs"]
mod rate;
#[path = "support/reports.rs"]
mod reports;

use std::time::Duration;

use clap::Parser;
use mongod::{Kind, Mongod};
use super_node::bench::BenchError;
use super_node::database::mongo::MongoSettings;

/// How fast the ledger arrives in MongoDB.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure: rate, lag, backlog, growth. Without any: all but growth.
    rows: Vec<String>,
    /// Movements of the rate, each with an observation, in thousands.
    #[arg(long, default_value_t = 200)]
    thousands: usize,
    /// How often the rate is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long the lag is watched, seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Movements of the backlog, in thousands.
    #[arg(long, default_value_t = 1_000)]
    backlog: usize,
    /// Sizes at which growth is told, in millions of movements.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10])]
    millions: Vec<u64>,
    /// The cache of the growth's mongod, GB.
    #[arg(long, default_value = "1")]
    cache: String,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Of the bare driver's rate, what the projector must reach.
const RATE_SHARE_MIN: f64 = 0.9;
/// The lag that 99 of 100 movements must stay below.
const LAG_MAX: Duration = Duration::from_secs(1);
/// How much longer the p99 of writes may be while a backlog drains.
const CONSENSUS_SHARE_MAX: f64 = 1.5;

fn main() -> Result<(), BenchError> {
    let args = Args::parse();
    let known = ["rate", "lag", "backlog", "growth"];
    if let Some(unknown) = args.rows.iter().find(|row| !known.contains(&row.as_str())) {
        return Err(BenchError::Node(format!("'{unknown}' is not a row: use {}", known.join(", "))));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| BenchError::System { what: "start tokio".to_string(), source })?;
    runtime.block_on(measure(&args))
}

async fn measure(args: &Args) -> Result<(), BenchError> {
    let wanted = |row: &str| match args.rows.is_empty() {
        true => row != "growth",
        false => args.rows.iter().any(|one| one == row),
    };
    if wanted("rate") || wanted("lag") {
        let server = Mongod::start(Kind::ReplicaSet).await;
        if wanted("rate") {
            rate::measure(&server, args.thousands * 1_000, args.rounds).await?;
        }
        if wanted("lag") {
            lag::measure(&server, Duration::from_secs(args.seconds)).await?;
        }
    }
    if wanted("backlog") {
        backlog::measure(args.backlog * 1_000).await?;
    }
    if wanted("growth") {
        growth::measure(&args.millions, &args.cache).await?;
    }
    Ok(())
}

fn settings(server: &Mongod, database: &str) -> MongoSettings {
    MongoSettings { database: database.to_string(), ..MongoSettings::new(&server.uri()) }
}

fn verdict(good: bool) -> &'static str {
    if good { "PASS" } else { "FAIL" }
}

/// A failure of MongoDB or of the driver.
fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Node(error.to_string())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
