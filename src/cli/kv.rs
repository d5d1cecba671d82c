//! `kv get|set|delete|list|watch|batch`: the shared dictionary.

use std::io::Read as _;

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Call, Client, Listing, segment};
use crate::config::value::parse_duration;

use super::output::{Format, field, harmless, json_text};
use super::{CliError, Output};

/// How long one long poll of `kv watch` waits on the node.
const WATCH_WAIT: &str = "30s";

/// `kv …`
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Print the value of a key
    Get {
        /// The key.
        key: String,
        /// How fresh the answer must be.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Set a key; VALUE is JSON, or else a string
    Set {
        /// The key.
        key: String,
        /// JSON such as 5, true or {"a": 1}; a word that is not JSON is stored as a string.
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Only if the key has this revision; 0: only if it does not exist
        #[arg(long, value_name = "REV")]
        if_revision: Option<u64>,
    },
    /// Remove a key
    Delete {
        /// The key.
        key: String,
        /// Only if the key has this revision
        #[arg(long, value_name = "REV")]
        if_revision: Option<u64>,
    },
    /// List keys in order, and who leads (on stderr unless a table is printed)
    List {
        /// Only keys that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only keys after this one
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// How fresh the answer must be.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Print a key's value now and whenever it changes, until it is deleted; with --prefix, of all keys that begin so
    Watch {
        /// The key, or what the keys begin with.
        key: String,
        /// Watch all keys that begin with KEY, deletions included, until Ctrl-C
        #[arg(long)]
        prefix: bool,
    },
    /// Set and delete up to 1 000 keys at once, all or nothing
    Batch {
        /// JSON: {"op":"put","key":K,"value":V} and {"op":"delete","key":K}, in an array or one after another; - is stdin
        #[arg(value_name = "FILE|-")]
        file: String,
    },
}

/// How fresh a read must be.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// linearizable: sees every acknowledged write. lease: the same, from the leader's lease (raft.lease). stale: what the asked node has, without the leader
    #[arg(long, value_enum, default_value_t = Level::Linearizable)]
    pub level: Level,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Sees every write acknowledged before it began.
    Linearizable,
    /// As linearizable, where the leader holds a lease.
    Lease,
    /// What the asked node has.
    Stale,
}

impl ReadArgs {
    /// Adds the wish to a call.
    pub fn apply(&self, call: Call) -> Call {
        match self.level {
            Level::Linearizable => call,
            Level::Lease => call.query("level", "lease"),
            Level::Stale => call.query("level", "stale"),
        }
    }
}

fn path_of(key: &str) -> Result<String, CliError> {
    Ok(format!("/v1/kv/{}", segment(key)?))
}

/// The body of a `set`: the text itself where it is JSON, so that numbers keep every digit.
fn body_of(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(_) => text.to_string(),
        Err(_) => Value::String(text.to_string()).to_string(),
    }
}

fn conditional(call: Call, if_revision: Option<u64>) -> Call {
    match if_revision {
        None => call,
        Some(0) => call.header("if-none-match", "*"),
        Some(revision) => call.header("if-match", format!("\"{revision}\"")),
    }
}

/// Runs it.
pub async fn run(command: KvCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        KvCommand::Get { key, read } => {
            let answer = client.send(read.apply(Call::get(path_of(&key)?))).await?.body;
            print_entry(&answer, output)
        }
        KvCommand::Set { key, value, if_revision } => {
            let mut call =
                Call::new(Method::PUT, path_of(&key)?).find_out(format!("super-node kv get {key}"));
            call.body = Some(body_of(&value));
            let answer = client.send(conditional(call, if_revision)).await?.body;
            print_written(&answer, output)
        }
        KvCommand::Delete { key, if_revision } => {
            let call = Call::new(Method::DELETE, path_of(&key)?).find_out(format!("super-node kv get {key}"));
            let answer = client.send(conditional(call, if_revision)).await?.body;
            print_written(&answer, output)
        }
        KvCommand::List { prefix, after, limit, read } => {
            let call = read.apply(Call::get("/v1/kv").query("prefix", prefix)).query_if("after", after);
            let Listing { items, node, leader } = client.listing(call, limit).await?;
            let row = |item: &Value| {
                let value = json_text(item.get("value").unwrap_or(&Value::Null));
                vec![field(item, "key"), value, field(item, "revision")]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            output.list(&["KEY", "VALUE", "REVISION"], &rows, &items)?;
            let leader = leader.unwrap_or_else(|| "nobody".to_string());
            let words = format!("{} keys; leader: {leader}, as {node} says", items.len());
            match output.format() {
                Format::Json => {}
                Format::Table => output.line(&format!("\n{words}"))?,
                // Scripts read rows; people read this.
                Format::Plain => eprintln!("{words}"),
            }
            Ok(())
        }
        KvCommand::Watch { key, prefix: false } => watch(&key, client, output).await,
        KvCommand::Watch { key, prefix: true } => watch_prefix(&key, client, output).await,
        KvCommand::Batch { file } => batch(&file, client, output).await,
    }
}

fn print_entry(entry: &Value, output: &mut Output) -> Result<(), CliError> {
    let value = entry.get("value").unwrap_or(&Value::Null);
    match output.format() {
        Format::Json => output.json(entry)?,
        Format::Plain => match value {
            // A terminal is commanded by what it is sent; a file or a program gets the text as it is.
            Value::String(text) if output.is_terminal() => output.line(&harmless(text))?,
            Value::String(text) => output.line(text)?,
            other => output.line(&json_text(other))?,
        },
        Format::Table => {
            let row = vec![field(entry, "key"), json_text(value), field(entry, "revision")];
            output.list(&["KEY", "VALUE", "REVISION"], &[row], &[])?;
        }
    }
    Ok(())
}

fn print_written(answer: &Value, output: &mut Output) -> Result<(), CliError> {
    match output.format() {
        Format::Json => output.json(answer)?,
        Format::Plain => output.line(&field(answer, "revision"))?,
        Format::Table => output.line(&format!(
            "{}: revision {}, log index {}, term {}",
            field(answer, "key"),
            field(answer, "revision"),
            field(answer, "index"),
            field(answer, "term")
        ))?,
    }
    Ok(())
}

async fn watch(key: &str, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let wait = parse_duration(WATCH_WAIT).expect("a constant duration");
    let mut seen = 0;
    loop {
        let mut call = Call::get(path_of(key)?).query("after", seen).query("wait", WATCH_WAIT);
        call.wait = wait;
        let answer = match client.send(call).await {
            // Not there yet: go on waiting. Once it was there, its absence is the end.
            Err(error) if error.code == "not_found" && seen == 0 => continue,
            Err(error) if error.code == "not_found" => return Ok(()),
            other => other?,
        };
        let Some(revision) = answer.body.get("revision").and_then(Value::as_u64) else { continue };
        seen = revision;
        print_entry(&answer.body, output)?;
    }
}

/// Prints every key below a prefix now and whenever it changes; one that is gone without a value.
async fn watch_prefix(prefix: &str, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let mut watch = client.watch(prefix);
    loop {
        let change = watch.next().await?;
        match output.format() {
            Format::Json => output.json(&change)?,
            _ if change.get("deleted").is_some() => {
                output.line(&format!("{}\tdeleted", field(&change, "key")))?;
            }
            _ => {
                let value = json_text(change.get("value").unwrap_or(&Value::Null));
                let (key, revision) = (field(&change, "key"), field(&change, "revision"));
                output.line(&format!("{key}\t{value}\t{revision}"))?;
            }
        }
    }
}

/// Operations in any of the ways that a file may hold them.
fn operations_of(text: &str, source: &str) -> Result<Vec<Value>, CliError> {
    const HINT: &str =
        r#"write {"op":"put","key":"a","value":1} or {"op":"delete","key":"b"}, one after another"#;
    let mut operations = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value = value.map_err(|error| CliError::usage(format!("{source} is not JSON: {error}"), HINT))?;
        match value {
            Value::Array(items) => operations.extend(items),
            Value::Object(mut fields) => match fields.shift_remove("operations") {
                Some(Value::Array(items)) => operations.extend(items),
                Some(_) => return Err(CliError::usage(format!("{source}: operations is no array"), HINT)),
                None => operations.push(Value::Object(fields)),
            },
            other => return Err(CliError::usage(format!("{source}: {other} is no operation"), HINT)),
        }
    }
    Ok(operations)
}

async fn batch(file: &str, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let (text, source) = if file == "-" {
        let mut text = String::new();
        (std::io::stdin().read_to_string(&mut text).map(|_| text), "standard input")
    } else {
        (std::fs::read_to_string(file), file)
    };
    let text = text.map_err(|error| CliError::usage(format!("{source}: {error}"), "name a file, or -"))?;
    let operations = operations_of(&text, source)?;
    // One of its keys tells: all are written, or none.
    let find_out = operations.first().map_or("super-node kv list".to_string(), |first| {
        format!("super-node kv get {}", field(first, "key"))
    });
    let call = Call::new(Method::POST, "/v1/kv:batch").body(&json!({ "operations": operations }));
    let answer = client.send(call.find_out(find_out)).await?.body;
    match output.format() {
        Format::Table => {
            let (revision, index) = (field(&answer, "revision"), field(&answer, "index"));
            let words = format!("{} operations: revision {revision}, log index {index}", operations.len());
            Ok(output.line(&words)?)
        }
        _ => print_written(&answer, output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_however_it_is_written() {
        let (put, delete) = (r#"{"op":"put","key":"a","value":1}"#, r#"{"op":"delete","key":"b"}"#);
        for text in [
            format!("{put}\n{delete}\n"),
            format!("[{put}, {delete}]"),
            format!("{{\"operations\": [{put}, {delete}]}}"),
        ] {
            let operations = operations_of(&text, "it").expect("it can be read");
            assert_eq!(json!(operations).to_string(), format!("[{put},{delete}]"), "{text}");
        }
        for text in ["{\"op\":", "5", "{\"operations\":5}"] {
            assert!(operations_of(text, "it").is_err(), "{text}");
        }
    }
}
