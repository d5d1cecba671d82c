//! `member list|show|add|remove`: the members of the fleet.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Call, Client, segment};

use super::output::{field, points};
use super::{CliError, Output};

/// `member …`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List all members
    List,
    /// Show one member
    Show {
        /// Its name.
        id: String,
    },
    /// Add an agent, or give it another address
    Add {
        /// Its name.
        id: String,
        /// Where it answers pings: HOST:PORT.
        address: String,
    },
    /// Let a member leave; its account stays
    Remove {
        /// Its name.
        id: String,
    },
}

fn path_of(id: &str) -> Result<String, CliError> {
    Ok(format!("/v1/members/{}", segment(id)?))
}

/// Runs it.
pub async fn run(command: MemberCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        MemberCommand::List => {
            let items = client.pages(Call::get("/v1/members"), None).await?;
            let row = |item: &Value| {
                vec![
                    field(item, "id"),
                    field(item, "kind"),
                    field(item, "address"),
                    field(item, "status"),
                    points(item, "balance"),
                    field(item, "strikes"),
                    field(item, "joined_at"),
                ]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            let headers = ["MEMBER", "KIND", "ADDRESS", "STATUS", "BALANCE", "STRIKES", "JOINED"];
            Ok(output.list(&headers, &rows, &items)?)
        }
        MemberCommand::Show { id } => Ok(output.record(&client.send(Call::get(path_of(&id)?)).await?.body)?),
        MemberCommand::Add { id, address } => {
            let call = Call::new(Method::POST, "/v1/members")
                .body(&json!({ "id": id, "address": address }))
                .find_out(format!("super-node member show {id}"));
            Ok(output.record(&client.send(call).await?.body)?)
        }
        MemberCommand::Remove { id } => {
            let call =
                Call::new(Method::DELETE, path_of(&id)?).find_out(format!("super-node member show {id}"));
            Ok(output.record(&client.send(call).await?.body)?)
        }
    }
}
