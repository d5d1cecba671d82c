//! `election list|show`.

use clap::Subcommand;
use serde_json::Value;

use crate::client::{Call, Client};

use super::output::{cell, field};
use super::{CliError, Output};

/// `election …`
#[derive(Debug, Subcommand)]
pub enum ElectionCommand {
    /// Won elections, newest last
    List {
        /// Only after this term
        #[arg(long, value_name = "TERM")]
        after: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// One election
    Show {
        /// The term it was won in.
        term: u64,
    },
}

/// Runs it.
pub async fn run(command: ElectionCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        ElectionCommand::List { after, limit } => {
            let items = client.pages(Call::get("/v1/elections").query_if("after", after), limit).await?;
            let row = |item: &Value| {
                let votes = match item.get("votes") {
                    Some(Value::Array(votes)) => votes.iter().map(cell).collect::<Vec<_>>().join(" "),
                    _ => "-".to_string(),
                };
                vec![
                    field(item, "term"),
                    field(item, "at"),
                    field(item, "leader"),
                    field(item, "previous"),
                    field(item, "reason"),
                    votes,
                    field(item, "leaderless_ms"),
                ]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            let headers = ["TERM", "AT", "LEADER", "PREVIOUS", "REASON", "VOTES", "LEADERLESS_MS"];
            Ok(output.list(&headers, &rows, &items)?)
        }
        ElectionCommand::Show { term } => {
            Ok(output.record(&client.send(Call::get(format!("/v1/elections/{term}"))).await?.body)?)
        }
    }
}
