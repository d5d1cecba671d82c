//! `status [--watch] [--local]`.

mod changes;
mod picture;
mod screen;
mod watch;

use clap::Args;
use serde_json::{Value, json};

use crate::client::{Call, Client, ClientError};
use crate::node::status::{NodeStatus, RoleName};

use super::output::{Format, table};
use super::{CliError, Output};

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// A live view, until q or Ctrl-C; where stdout is no terminal, a line or JSON object for each change
    #[arg(long, short)]
    pub watch: bool,
    /// What each endpoint says of itself, whether or not there is a leader
    #[arg(long)]
    pub local: bool,
}

/// Runs it.
pub async fn run(
    args: StatusArgs,
    client: &Client,
    no_colour: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    match (args.watch, args.local) {
        (true, _) => watch::run(args.local, client, no_colour, output).await,
        (false, true) => local(client, output).await,
        (false, false) => cluster(client, output).await,
    }
}

/// The cluster as its leader sees it, or as any node does.
async fn cluster(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let call = Call::get("/v1/status");
    let mut best = client.send(call.clone()).await?.body;
    if best.get("role").and_then(Value::as_str) != Some("leader") {
        // Only the leader knows how far the others are.
        for endpoint in client.endpoints() {
            if let Ok(answer) = client.ask(endpoint, &call).await
                && answer.body.get("role").and_then(Value::as_str) == Some("leader")
            {
                best = answer.body;
                break;
            }
        }
    }
    if output.format() == Format::Json {
        return Ok(output.json(&best)?);
    }
    let status: NodeStatus = serde_json::from_value(best)
        .map_err(|error| ClientError::failed(format!("the status cannot be read: {error}")))?;
    for line in remarks(&status) {
        output.line(&line)?;
    }
    let text = if output.format() == Format::Table { as_table(&status) } else { as_plain(&status) };
    Ok(output.line(&text)?)
}

/// What is unusual about the node that tells.
fn remarks(status: &NodeStatus) -> Vec<String> {
    let removed = status.removed.then(|| format!("{} was removed from the cluster and is idle", status.id));
    let in_memory =
        status.in_memory.then(|| format!("{} is in memory: it loses everything when it ends", status.id));
    removed.into_iter().chain(in_memory).collect()
}

/// Every endpoint's word about itself.
async fn local(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let call = Call::get("/v1/status");
    let (mut rows, mut items, mut last) = (Vec::new(), Vec::new(), None);
    for endpoint in client.endpoints() {
        let told = match client.ask(endpoint, &call).await {
            Ok(answer) => Ok(answer.body),
            Err(error) => {
                let why = in_short(&error);
                last = Some(error);
                Err(why)
            }
        };
        rows.push(local_row(endpoint, &told));
        items.push(local_item(endpoint, &told));
    }
    output.list(&LOCAL_HEADERS, &rows, &items)?;
    match last {
        Some(error) if items.iter().all(|item| item.get("status").is_none()) => Err(error.into()),
        _ => Ok(()),
    }
}

const LOCAL_HEADERS: [&str; 7] = ["ENDPOINT", "NODE", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED"];

/// Why an endpoint did not answer, in a few words.
fn in_short(error: &ClientError) -> String {
    error.tried.first().map_or_else(|| error.to_string(), |tried| tried.what.clone())
}

/// What an endpoint said of itself, or why it did not.
fn local_row(endpoint: &str, told: &Result<Value, String>) -> Vec<String> {
    let mut row = vec![endpoint.to_string()];
    match told {
        Ok(body) => {
            let names = ["id", "role", "term", "leader", "commit", "applied"];
            row.extend(names.iter().map(|name| super::output::field(body, name)));
        }
        Err(why) => row.extend(["-", why, "-", "-", "-", "-"].map(str::to_string)),
    }
    row
}

fn local_item(endpoint: &str, told: &Result<Value, String>) -> Value {
    match told {
        Ok(body) => json!({ "endpoint": endpoint, "status": body }),
        Err(why) => json!({ "endpoint": endpoint, "error": why }),
    }
}

fn role(role: RoleName) -> String {
    serde_json::to_value(role).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_string(), |value| value.to_string())
}

const NODE_HEADERS: [&str; 7] = ["NODE", "ROLE", "ADDRESS", "MATCH", "LAG", "CONTACT", "STATE"];

fn node_rows(status: &NodeStatus) -> Vec<Vec<String>> {
    let row = |node: &crate::node::status::PeerStatus| {
        vec![
            node.id.to_string(),
            if node.joining { "joining".to_string() } else { role(node.role) },
            node.address.clone(),
            or_dash(node.matched),
            or_dash(node.lag),
            node.contact_ms.map_or("-".to_string(), |millis| format!("{millis}ms")),
            if node.up { "up" } else { "down" }.to_string(),
        ]
    };
    status.nodes.iter().map(row).collect()
}

fn projection(status: &NodeStatus) -> String {
    let projection = &status.projection;
    if !projection.enabled {
        return "off".to_string();
    }
    let state = format!("checkpoint {}, {} records behind", projection.checkpoint, projection.lag_records);
    match &projection.error {
        Some(error) => format!("{state}, error: {error}"),
        None => state,
    }
}

fn as_table(status: &NodeStatus) -> String {
    let leader = status.leader.as_ref().map_or("none".to_string(), ToString::to_string);
    let nodes = table(&NODE_HEADERS, &node_rows(status));
    format!(
        "cluster {}   term {}   leader {leader}   commit {}   applied {}   (as seen by {}, {})\n\n{nodes}\n\n{}",
        status.cluster,
        status.term,
        status.commit,
        status.applied,
        status.id,
        role(status.role),
        counts(status),
    )
}

/// Members, interval, ledger, projection: a line each.
fn counts(status: &NodeStatus) -> String {
    let members = status.members;
    let mut text = format!(
        "members     {} ({} up, {} suspect, {} down, {} suspended)\n\
         interval    {} open, {} next to settle\n\
         ledger      {} records, head {}\n\
         projection  {}",
        members.total,
        members.up,
        members.suspect,
        members.down,
        members.suspended,
        status.interval.open,
        status.interval.next_settle,
        status.ledger.records,
        status.ledger.head_hash.get(..12).unwrap_or(&status.ledger.head_hash),
        projection(status),
    );
    for hook in &status.webhooks {
        text.push_str(&format!("\nwebhook     {} at {}: {}", hook.hook, hook.place, hook.in_words()));
    }
    text
}

fn as_plain(status: &NodeStatus) -> String {
    let mut lines = vec![
        format!("cluster\t{}", status.cluster),
        format!("node\t{}\t{}", status.id, role(status.role)),
        format!("term\t{}", status.term),
        format!("leader\t{}", or_dash(status.leader.as_ref())),
        format!("commit\t{}", status.commit),
        format!("applied\t{}", status.applied),
    ];
    lines.extend(node_rows(status).into_iter().map(|row| format!("peer\t{}", row.join("\t"))));
    let members = status.members;
    lines.push(format!(
        "members\t{}\t{}\t{}\t{}\t{}",
        members.total, members.up, members.suspect, members.down, members.suspended
    ));
    lines.push(format!("interval\t{}\t{}", status.interval.open, status.interval.next_settle));
    lines.push(format!("ledger\t{}\t{}", status.ledger.records, status.ledger.head_hash));
    lines.push(format!("projection\t{}", projection(status)));
    let hooks = status.webhooks.iter();
    lines.extend(hooks.map(|hook| format!("webhook\t{}\t{}\t{}", hook.hook, hook.place, hook.in_words())));
    lines.join("\n")
}
