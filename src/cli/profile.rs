//! `profile`: what a node's threads are busy with.

use std::time::Duration;

use serde_json::json;

use crate::api::profile::Profile;
use crate::client::{Call, Client};

use super::{CliError, Output};

/// `profile`
#[derive(Debug, Clone, clap::Args)]
pub struct ProfileArgs {
    /// For how many seconds to look
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
}

/// Looks at the first of the endpoints that answers.
pub async fn run(args: ProfileArgs, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let mut call = Call::get("/v1/profile").query("span", format!("{}s", args.seconds));
    call.wait = Duration::from_secs(args.seconds);
    let profile: Profile = client.send(call).await?.read()?;
    let rows: Vec<Vec<String>> = profile
        .threads
        .iter()
        .map(|thread| {
            vec![
                thread.name.clone(),
                thread.count.to_string(),
                format!("{:.1}", thread.cpu_percent),
                format!("{:.1}", thread.waiting_percent),
            ]
        })
        .collect();
    if output.format() == super::Format::Json {
        return Ok(output.json(&json!(profile))?);
    }
    output.list(&["THREADS", "COUNT", "CPU %", "WAITING %"], &rows, &[])?;
    let resident = profile.resident_bytes >> 20;
    eprintln!(
        "{}: {:.1} % of one processor in {:.1} s, {resident} MiB",
        profile.id, profile.cpu_percent, profile.seconds
    );
    Ok(())
}
