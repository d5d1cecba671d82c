//! `interval list|show|explain`: the evidence behind a payment.

use clap::Subcommand;
use serde_json::Value;

use crate::client::{Call, Client, segment};

use super::output::{Format, cell, field, points};
use super::{CliError, Output};

/// `interval …`
#[derive(Debug, Subcommand)]
pub enum IntervalCommand {
    /// Settled intervals, newest last
    List {
        /// Only after this interval
        #[arg(long, value_name = "ID")]
        after: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// One settled interval
    Show {
        /// Its number.
        id: u64,
    },
    /// The pings, who observed, the formula and the result of one member in one interval
    Explain {
        /// The member.
        member: String,
        /// The interval's number.
        id: u64,
    },
}

/// Runs it.
pub async fn run(command: IntervalCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        IntervalCommand::List { after, limit } => {
            let items = client.pages(Call::get("/v1/intervals").query_if("after", after), limit).await?;
            let row = |item: &Value| {
                vec![
                    field(item, "id"),
                    field(item, "settled_at"),
                    field(item, "verdict"),
                    observers(item),
                    field(item, "members"),
                    points(item, "rewarded"),
                    points(item, "penalised"),
                    field(item, "leader"),
                    field(item, "term"),
                ]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            let headers = [
                "INTERVAL",
                "SETTLED",
                "VERDICT",
                "OBSERVERS",
                "MEMBERS",
                "REWARDED",
                "PENALISED",
                "LEADER",
                "TERM",
            ];
            Ok(output.list(&headers, &rows, &items)?)
        }
        IntervalCommand::Show { id } => {
            Ok(output.record(&client.send(Call::get(format!("/v1/intervals/{id}"))).await?.body)?)
        }
        IntervalCommand::Explain { member, id } => {
            let call = Call::get(format!("/v1/intervals/{id}/members/{}", segment(&member)?));
            explain(&client.send(call).await?.body, output)
        }
    }
}

/// Names of the observers whose reports counted, the others in brackets with the reason.
fn observers(interval: &Value) -> String {
    let Some(Value::Array(observers)) = interval.get("observers") else { return "-".to_string() };
    let name = |observer: &Value| {
        let id = field(observer, "id");
        if observer.get("used") == Some(&Value::Bool(true)) {
            id
        } else {
            format!("({id} {})", field(observer, "why"))
        }
    };
    observers.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn explain(answer: &Value, output: &mut Output) -> Result<(), CliError> {
    if output.format() == Format::Json {
        return Ok(output.json(answer)?);
    }
    let Some(Value::Array(lines)) = answer.pointer("/explanation/lines") else {
        return Ok(output.record(answer)?);
    };
    for line in lines {
        output.line(&cell(line))?;
    }
    Ok(())
}
