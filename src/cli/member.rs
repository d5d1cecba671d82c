//! `member list|show|add|promote|demote|maintain|remove`: the members of the fleet, and which super-nodes vote.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Call, Client, ClientError, NewSuperNode, segment};

use super::output::{field, points};
use super::progress::Moving;
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
    /// Add an agent, or give it another address; with --super-node, add a super-node
    Add {
        /// Its name.
        id: String,
        /// Where it answers pings; of a super-node, its peer address: HOST:PORT.
        address: String,
        /// It is a super-node: it gets the log, and votes once it has caught up. Start it with --join
        #[arg(long)]
        super_node: bool,
        /// The super-node that leaves in the same change, such as a dead one
        #[arg(long, value_name = "ID", requires = "super_node")]
        replaces: Option<String>,
        /// It gets the log and never votes, unless it is promoted
        #[arg(long, requires = "super_node", conflicts_with = "replaces")]
        learner_only: bool,
    },
    /// Let a learner vote that has caught up
    Promote {
        /// Its name.
        id: String,
    },
    /// Take a super-node's vote; it goes on following as a learner
    Demote {
        /// Its name.
        id: String,
    },
    /// Announce maintenance: for these intervals the member loses nothing, and earns nothing
    Maintain {
        /// Its name.
        id: String,
        /// How many intervals, up to 60 within 30 days
        #[arg(long, value_name = "N")]
        intervals: u64,
        /// The first of them, which must not have begun [default: the one after the open one]
        #[arg(long, value_name = "INTERVAL")]
        from: Option<u64>,
    },
    /// List the agents that wait for approval
    Waiting,
    /// Let an agent in that waits
    Approve {
        /// Its name.
        id: String,
        /// What the agent says its key is; refused if another one waits under that name
        #[arg(long, value_name = "HEX")]
        fingerprint: Option<String>,
    },
    /// Send an agent away that waits; it may come again
    Refuse {
        /// Its name.
        id: String,
    },
    /// Let a member leave; its account stays. A super-node votes no more, and goes idle
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
        MemberCommand::Add { id, address, super_node: false, .. } => {
            let call = Call::new(Method::POST, "/v1/members")
                .body(&json!({ "id": id, "address": address }))
                .find_out(format!("super-node member show {id}"));
            Ok(output.record(&client.send(call).await?.body)?)
        }
        MemberCommand::Add { id, address, super_node: true, replaces, learner_only } => {
            let node = NewSuperNode { id, address, replaces, learner_only };
            changed(client.add_super_node(&node), output).await
        }
        MemberCommand::Promote { id } => changed(client.promote(&id), output).await,
        MemberCommand::Demote { id } => changed(client.demote(&id), output).await,
        MemberCommand::Maintain { id, intervals, from } => {
            let call = Call::new(Method::POST, format!("{}:maintain", path_of(&id)?))
                .body(&json!({ "intervals": intervals, "from": from }))
                .find_out(format!("repeat it: what is announced already is refused as a conflict for {id}"));
            Ok(output.record(&client.send(call).await?.body)?)
        }
        MemberCommand::Waiting => {
            let items = client.pages(Call::get("/v1/members:waiting"), None).await?;
            let columns = ["id", "address", "fingerprint", "since"];
            let rows: Vec<_> =
                items.iter().map(|item| columns.iter().map(|name| field(item, name)).collect()).collect();
            Ok(output.list(&["AGENT", "ADDRESS", "FINGERPRINT", "SINCE"], &rows, &items)?)
        }
        MemberCommand::Approve { id, fingerprint } => {
            let call = Call::new(Method::POST, format!("{}:approve", path_of(&id)?))
                .body(&json!({ "fingerprint": fingerprint }))
                .find_out(format!("super-node member show {id}"));
            Ok(output.record(&client.send(call).await?.body)?)
        }
        MemberCommand::Refuse { id } => {
            let call = Call::new(Method::POST, format!("{}:refuse", path_of(&id)?))
                .find_out("super-node member waiting");
            Ok(output.record(&client.send(call).await?.body)?)
        }
        MemberCommand::Remove { id } => changed(client.remove_member(&id), output).await,
    }
}

/// Prints what came of a change of the configuration, which may have to wait for another one.
async fn changed(
    change: impl Future<Output = Result<Answer, ClientError>>,
    output: &mut Output,
) -> Result<(), CliError> {
    let waiting = Moving::waiting("changing the configuration");
    let answer = change.await;
    drop(waiting);
    Ok(output.record(&answer?.body)?)
}
