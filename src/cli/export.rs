//! `ledger export`: every movement, page by page, in constant memory.

use std::io::IsTerminal as _;

use serde_json::Value;

use crate::client::{Call, Client};

use super::output::field;
use super::progress::Progress;
use super::{CliError, Output};

/// The columns, as in the documents of `rewards`.
const COLUMNS: [&str; 12] = [
    "seq",
    "at",
    "member",
    "kind",
    "amount",
    "balance",
    "interval",
    "reason",
    "index",
    "term",
    "prev_hash",
    "hash",
];

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a header line (RFC 4180).
    Csv,
    /// One JSON object per line.
    Ndjson,
}

/// Writes all movements that the call lists.
pub async fn run(
    call: Call,
    format: ExportFormat,
    client: &Client,
    output: &mut Output,
) -> Result<(), CliError> {
    if format == ExportFormat::Csv {
        output.text(&format!("{}\r\n", COLUMNS.join(",")))?;
    }
    let mut progress = Progress::counting("exporting", "records");
    let total =
        if std::io::stderr().is_terminal() && !output.is_terminal() { records(client).await? } else { 0 };
    client
        .each_page(call, None, &mut |items| {
            // On a terminal the data itself shows how far it is.
            if let Some(seq) = items.last().and_then(|item| item["seq"].as_u64())
                && total > 0
            {
                progress.at(seq, total);
            }
            let text: String = items.iter().map(|item| line(item, format)).collect();
            output.text(&text).map_err(CliError::from)
        })
        .await?;
    Ok(())
}

/// How many movements there are.
async fn records(client: &Client) -> Result<u64, CliError> {
    let status = client.send(Call::get("/v1/status")).await?.body;
    Ok(status["ledger"]["records"].as_u64().unwrap_or(0))
}

fn line(item: &Value, format: ExportFormat) -> String {
    match format {
        ExportFormat::Ndjson => format!("{item}\n"),
        ExportFormat::Csv => {
            let cells: Vec<String> = COLUMNS.iter().map(|column| cell(item, column)).collect();
            format!("{}\r\n", cells.join(","))
        }
    }
}

/// A value as a cell: nothing for null, and quoted if it has to be.
fn cell(item: &Value, column: &str) -> String {
    let text = match item.get(column) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => field(item, column),
    };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let item = json!({"seq": 7, "reason": "paid, \"twice\"", "interval": null, "member": "a"});
        assert_eq!(line(&item, ExportFormat::Csv), "7,,a,,,,,\"paid, \"\"twice\"\"\",,,,\r\n");
        assert_eq!(line(&json!({"seq": 7}), ExportFormat::Ndjson), "{\"seq\":7}\n");
    }
}
