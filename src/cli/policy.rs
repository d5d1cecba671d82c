//! `policy show|set|simulate`: by which rules intervals are judged.

use std::io::Read as _;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::client::{Call, Client};

use super::output::{Format, field, points};
use super::progress::Moving;
use super::{CliError, Output};

/// `policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// The policy in force, and the revisions that are to come
    Show {
        /// This revision instead
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Set the next revision
    Set {
        /// TOML or JSON with what is to change, such as `reward = 8000000` or `interval = "60s"`; - for stdin
        file: String,
        /// The first interval that it judges [default: as soon as it may]
        #[arg(long, value_name = "INTERVAL")]
        activate_at: Option<u64>,
    },
    /// Judge recorded intervals by another policy, and print what would have been different for whom
    Simulate {
        /// As for `set`; without it each interval is judged again by its own policy, which must change nothing
        file: Option<String>,
        /// The first interval [default: about the last day]
        #[arg(long, value_name = "INTERVAL")]
        from: Option<u64>,
        /// The last interval [default: the newest]
        #[arg(long, value_name = "INTERVAL")]
        to: Option<u64>,
    },
}

/// Reads a table of settings: JSON, else TOML.
fn read_table(file: &str) -> Result<Map<String, Value>, CliError> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|found| text = found)
    };
    let hint = "give a file with lines such as reward = 8000000, or - for stdin";
    read.map_err(|error| CliError::usage(format!("{file}: {error}"), hint))?;
    if let Ok(Value::Object(table)) = serde_json::from_str(&text) {
        return Ok(table);
    }
    toml::from_str(&text).map_err(|error| {
        CliError::usage(format!("{file} is neither JSON nor TOML: {}", error.to_string().trim_end()), hint)
    })
}

/// Runs it.
pub async fn run(command: PolicyCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        PolicyCommand::Show { revision } => {
            let call = Call::get("/v1/policy").query_if("revision", revision);
            Ok(output.record(&client.send(call).await?.body)?)
        }
        PolicyCommand::Set { file, activate_at } => {
            let mut table = read_table(&file)?;
            if let Some(activate_at) = activate_at {
                table.insert("activate_at".to_string(), json!(activate_at));
            }
            let call = Call::new(Method::PUT, "/v1/policy")
                .body(&Value::Object(table))
                .find_out("super-node policy show".to_string());
            Ok(output.record(&client.send(call).await?.body)?)
        }
        PolicyCommand::Simulate { file, from, to } => {
            let mut table = file.as_deref().map(read_table).transpose()?.unwrap_or_default();
            let own = table.is_empty();
            for (name, value) in [("from", from), ("to", to)] {
                if let Some(value) = value {
                    table.insert(name.to_string(), json!(value));
                }
            }
            let call = Call::new(Method::POST, "/v1/policy:simulate").body(&Value::Object(table));
            let waiting = Moving::waiting("rehearsing");
            let answer = client.send(call).await;
            drop(waiting);
            rehearsed(&answer?.body, own, output)
        }
    }
}

fn rehearsed(answer: &Value, own: bool, output: &mut Output) -> Result<(), CliError> {
    let identical = answer.get("identical") == Some(&Value::Bool(true));
    if output.format() == Format::Json {
        output.json(answer)?;
    } else {
        let empty = Vec::new();
        let members = answer.get("members").and_then(Value::as_array).unwrap_or(&empty);
        let row = |item: &Value| {
            let (was, would) = (&item["recorded"], &item["rehearsed"]);
            vec![
                field(item, "member"),
                points(was, "rewarded"),
                points(would, "rewarded"),
                points(was, "penalised"),
                points(would, "penalised"),
                points(was, "balance"),
                points(would, "balance"),
                points(item, "difference"),
                field(was, "status"),
                field(would, "status"),
            ]
        };
        let rows: Vec<_> = members.iter().map(row).collect();
        let headers = [
            "MEMBER",
            "REWARDED",
            "WOULD BE",
            "PENALISED",
            "WOULD BE",
            "BALANCE",
            "WOULD BE",
            "DIFFERENCE",
            "STATUS",
            "WOULD BE",
        ];
        output.list(&headers, &rows, members)?;
    }
    let (from, to) = (field(answer, "from"), field(answer, "to"));
    let word = if identical { "come out byte for byte as they were settled" } else { "come out differently" };
    eprintln!("intervals {from} to {to} {word}");
    if own && !identical {
        let why = format!("intervals {from} to {to} do not follow from their own evidence and policy");
        return Err(CliError::Damaged(why));
    }
    Ok(())
}
