//! `log inspect`: what the Raft log of a data directory holds, read without changing anything.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Call, Client};
use crate::codec;
use crate::ledger::command::Envelope;
use crate::node::ports::StorageError;
use crate::node::status::NodeStatus;
use crate::raft::{Entry, Payload};
use crate::server::ServerError;
use crate::storage::{DataDirectory, Inspection, inspect};

use super::output::field;
use super::progress::Moving;
use super::{CliError, Environment, Global, Output};

/// Entries shown unless told otherwise.
const ENTRIES_DEFAULT: usize = 20;

/// `log …`
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Check every record and print what the log holds; without --data-dir, what running nodes say of theirs
    Inspect {
        /// The data directory of a node that does not run
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Print entries instead, the newest unless --from says where to begin
        #[arg(long, requires = "data_dir")]
        entries: bool,
        /// With --entries: the first index
        #[arg(long, value_name = "INDEX", requires = "entries")]
        from: Option<u64>,
        /// With --entries: at most so many [default: 20]
        #[arg(long, value_name = "N", requires = "entries")]
        limit: Option<usize>,
    },
}

/// Runs it.
pub async fn run(
    command: LogCommand,
    global: &Global,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let LogCommand::Inspect { data_dir, entries, from, limit } = command;
    let Some(data_dir) = data_dir else {
        return online(&global.client(environment)?, output).await;
    };
    let waiting = Moving::waiting("reading the log");
    let found = tokio::task::block_in_place(|| read(&data_dir));
    drop(waiting);
    let found = found.map_err(|error| {
        // A log that cannot be read is the answer that was asked for, with the exit code for damage.
        CliError::Server(ServerError::Storage(error))
    })?;
    let Some(found) = found else {
        let text = format!("{} has no log yet", data_dir.display());
        return Err(CliError::usage(text, "the node has never been started to its end; check --data-dir"));
    };
    if entries { show_entries(&found, from, limit, output) } else { summary(&found, output) }
}

fn read(path: &Path) -> Result<Option<Inspection>, StorageError> {
    let directory = DataDirectory::open_existing(path)?;
    if !directory.identity().log_made {
        return Ok(None);
    }
    inspect(&directory.log_disk()?, directory.salt())
}

fn summary(found: &Inspection, output: &mut Output) -> Result<(), CliError> {
    let recovered = &found.recovered;
    let counts = |wanted: fn(&Payload) -> bool| {
        recovered.entries.iter().filter(|entry| wanted(&entry.payload)).count()
    };
    let segments: Vec<Value> =
        found.segments.iter().map(|(name, bytes)| json!({ "file": name, "bytes": bytes })).collect();
    Ok(output.record(&json!({
        "term": recovered.hard_state.term,
        "vote": recovered.hard_state.vote,
        "base_index": recovered.base.index,
        "base_term": recovered.base.term,
        "last_index": recovered.last(),
        "entries": recovered.entries.len(),
        "commands": counts(|payload| matches!(payload, Payload::Command(_))),
        "configurations": counts(|payload| matches!(payload, Payload::Configuration(_))),
        "records": found.records,
        "bytes": found.segments.iter().map(|(_, bytes)| bytes).sum::<u64>(),
        "segments": segments,
        "notes": found.notes,
    }))?)
}

fn show_entries(
    found: &Inspection,
    from: Option<u64>,
    limit: Option<usize>,
    output: &mut Output,
) -> Result<(), CliError> {
    let limit = limit.unwrap_or(ENTRIES_DEFAULT);
    let entries = &found.recovered.entries;
    let begin = match from {
        Some(from) => entries.partition_point(|entry| entry.index.0 < from),
        None => entries.len().saturating_sub(limit),
    };
    let items: Vec<Value> = entries.iter().skip(begin).take(limit).map(describe).collect();
    let columns = ["index", "term", "kind", "bytes", "what"];
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|name| field(item, name)).collect()).collect();
    Ok(output.list(&["INDEX", "TERM", "KIND", "BYTES", "WHAT"], &rows, &items)?)
}

fn describe(entry: &Entry) -> Value {
    let (kind, bytes, what) = match &entry.payload {
        Payload::Noop => ("noop", 0, Value::Null),
        Payload::Configuration(configuration) => {
            ("configuration", 0, serde_json::to_value(configuration).unwrap_or_default())
        }
        Payload::Command(bytes) => {
            let what = match codec::decode::<Envelope>(bytes) {
                Ok(envelope) => format!("{:?}", envelope.request.command),
                Err(error) => error.to_string(),
            };
            ("command", bytes.len(), Value::String(shortened(what)))
        }
    };
    json!({ "index": entry.index, "term": entry.term, "kind": kind, "bytes": bytes, "what": what })
}

/// A command's first words: values may be a megabyte.
fn shortened(mut text: String) -> String {
    const CHARS_MAX: usize = 160;
    if let Some((end, _)) = text.char_indices().nth(CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What running nodes say of their logs.
async fn online(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let (mut rows, mut items, mut last) = (Vec::new(), Vec::new(), None);
    for endpoint in client.endpoints() {
        let answer = client.ask(endpoint, &Call::get("/v1/status")).await;
        match answer.and_then(|answer| answer.read::<NodeStatus>()) {
            Ok(status) => {
                let (log, commit, applied) = (status.log, status.commit, status.applied);
                let row = [status.term.to_string(), log.base_index.to_string(), log.last_index.to_string()];
                let more = [log.durable_index.to_string(), commit.to_string(), applied.to_string()];
                rows.push([status.id.to_string()].into_iter().chain(row).chain(more).collect());
                items.push(json!({ "id": status.id, "term": status.term, "base_index": log.base_index,
                    "base_term": log.base_term, "last_index": log.last_index,
                    "durable_index": log.durable_index, "commit": commit, "applied": applied }));
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if items.is_empty() => return Err(error.into()),
        Some(error) => eprintln!("{error}"),
        None => {}
    }
    Ok(output.list(&["NODE", "TERM", "BASE", "LAST", "DURABLE", "COMMIT", "APPLIED"], &rows, &items)?)
}
