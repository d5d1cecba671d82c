//! `recover --force-new-cluster`: a cluster from its last survivor; `recover --list`: what was done so far.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::client::Call;
use crate::server::ServerError;
use crate::storage::recover::{Outlook, Survivor};

use super::output::field;
use super::{CliError, Environment, Global, Output};

/// `recover`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["force_new_cluster", "list"]))]
pub struct RecoverArgs {
    /// Make the node of this data directory the only voter of a new cluster that holds all that its log holds
    #[arg(long, requires = "data_dir")]
    pub force_new_cluster: bool,
    /// The data directory; its node must not run
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Show what operators did to a running cluster: forced new clusters, restored snapshots
    #[arg(long, conflicts_with_all = ["data_dir", "yes"])]
    pub list: bool,
}

/// Runs it.
pub async fn run(
    args: RecoverArgs,
    global: &Global,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match args.data_dir {
        Some(data_dir) => tokio::task::block_in_place(|| force(&data_dir, args.yes, output)),
        None => list(global, environment, output).await,
    }
}

async fn list(global: &Global, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let items = global.client(environment)?.pages(Call::get("/v1/recoveries"), None).await?;
    let voters = |item: &Value, name: &str| {
        let names = item.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
    };
    let row = |item: &Value| {
        vec![
            field(item, "index"),
            field(item, "at"),
            field(item, "kind"),
            field(item, "node"),
            voters(item, "previous_voters"),
            voters(item, "voters"),
        ]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    Ok(output.list(&["INDEX", "AT", "KIND", "NODE", "VOTERS BEFORE", "VOTERS AFTER"], &rows, &items)?)
}

fn force(data_dir: &std::path::Path, yes: bool, output: &mut Output) -> Result<(), CliError> {
    let storage = |error| CliError::Server(ServerError::Storage(error));
    let survivor = Survivor::open(data_dir).map_err(storage)?;
    survivor.check().map_err(storage)?;
    let outlook = survivor.outlook();
    eprintln!("{}", explanation(&outlook));
    if !yes {
        confirm(&outlook)?;
    }
    let act = survivor.found_anew().map_err(storage)?;
    eprintln!(
        "done. Start {} with this directory as usual; it leads alone. Then give the others EMPTY directories and \
         --join.",
        act.node
    );
    Ok(output.record(&json!({
        "node": act.node,
        "kind": act.kind,
        "previous_identity": act.previous_identity,
        "identity": act.identity,
        "previous_voters": act.previous_voters,
        "voters": act.voters,
        "last_index": outlook.last,
        "unconfirmed": outlook.unconfirmed,
    }))?)
}

/// What is about to happen, and what may be lost.
fn explanation(outlook: &Outlook) -> String {
    let voters: Vec<&str> = outlook.voters.iter().map(|voter| voter.as_str()).collect();
    let Outlook { node, cluster, last, applied, unconfirmed, term, .. } = outlook;
    let needed = outlook.voters.len() / 2 + 1;
    format!(
        "{node} would become the only voter of cluster '{cluster}', whose voters are {voters}.\n\
         Do this only if {needed} of them will never run again: otherwise start them instead, and nothing is lost.\n\
         \n  its log ends at entry {last} (term {term}); applied up to {applied}\n\
         \n  may be lost    whatever the others acknowledged without {node}: writes, payments, elections after entry {last}\n  \
         may appear     {unconfirmed} entries that {node} holds and never saw confirmed become final\n  \
         is refused     the other nodes and their directories, from now on: the cluster gets another identity\n  \
         MongoDB        is refused too: it may hold what was lost. Give the cluster another mongodb.database, or drop it\n  \
         is recorded    in the ledger: super-node recover --list",
        voters = voters.join(", "),
    )
}

/// Asks for the node's name.
fn confirm(outlook: &Outlook) -> Result<(), CliError> {
    let hint = "read what is above; then repeat with --yes";
    if !io::stdin().is_terminal() {
        return Err(CliError::usage("not confirmed, and nobody can be asked: stdin is no terminal", hint));
    }
    eprint!("\nType the node's name to go on: ");
    let mut answer = String::new();
    let read = io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if answer.trim() == outlook.node.as_str() => Ok(()),
        Ok(_) => Err(CliError::usage("not confirmed; nothing was changed", hint)),
        Err(error) => Err(CliError::failed(format!("cannot read the answer: {error}; nothing was changed"))),
    }
}
