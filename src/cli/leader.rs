//! `leader show|transfer`: who leads, and who shall.

use clap::Subcommand;
use serde_json::json;

use crate::client::{Call, Client};
use crate::node::status::NodeStatus;

use super::progress::Moving;
use super::{CliError, Output};

/// `leader …`
#[derive(Debug, Subcommand)]
pub enum LeaderCommand {
    /// Show who leads, in which term, and where it takes requests
    Show,
    /// Hand the leadership over, to the given voter or to whom the leader likes
    Transfer {
        /// Who shall lead.
        #[arg(long, value_name = "ID")]
        to: Option<String>,
    },
}

/// Runs it.
pub async fn run(command: LeaderCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        LeaderCommand::Show => {
            let status: NodeStatus = client.send(Call::get("/v1/status")).await?.read()?;
            let leader = status.leader.clone().ok_or_else(|| no_leader(&status))?;
            let known = status.nodes.iter().find(|node| node.id == leader);
            Ok(output.record(&json!({
                "leader": leader,
                "term": status.term,
                "address": known.map(|node| node.address.clone()),
                "url": known.and_then(|node| node.url.clone()),
                "transfer": status.transfer,
                "seen_by": status.id,
            }))?)
        }
        LeaderCommand::Transfer { to } => {
            let waiting = Moving::waiting("handing over");
            let answer = client.transfer_leader(to.as_deref()).await;
            drop(waiting);
            Ok(output.record(&answer?.body)?)
        }
    }
}

fn no_leader(status: &NodeStatus) -> CliError {
    let message = format!("{} knows of no leader in term {}", status.id, status.term);
    crate::client::ClientError::no_leader(message).into()
}
