//! `snapshot save|restore|inspect`: the whole state as one file, from a running cluster or from a data directory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::snapshot::FetchError;
use crate::config::value::{self, Raw};
use crate::node::ports::{StateStore as _, StorageError};
use crate::server::ServerError;
use crate::storage::DataDirectory;
use crate::storage::recover::{self, Examined};
use crate::storage::snapshot::{Head, SnapshotWriter};
use crate::types::NodeId;

use super::progress::Progress;
use super::{CliError, Environment, Global, Output};

/// Where a restored node that nobody has an address for is reached.
const PEER_DEFAULT: &str = "127.0.0.1:7401";

/// `snapshot …`
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save everything the cluster has acknowledged into a file
    Save {
        /// The file; must not exist.
        file: PathBuf,
        /// Of this data directory, whose node does not run, instead of a running cluster
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Of what the node has applied, even if nobody leads
        #[arg(long, conflicts_with = "data_dir")]
        stale: bool,
    },
    /// Make the data directory of a node from a file
    Restore {
        /// The file.
        file: PathBuf,
        /// The directory; must not exist, or be empty
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The node
        #[arg(long, value_name = "ID")]
        id: NodeId,
        /// All voters of the restored cluster with their peer addresses [default: the node alone]
        #[arg(long, value_name = "ID=ADDRESS,…")]
        peers: Option<String>,
    },
    /// Check every checksum of a file and print what is in it
    Inspect {
        /// The file.
        file: PathBuf,
    },
}

/// Runs it.
pub async fn run(
    command: SnapshotCommand,
    global: &Global,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        SnapshotCommand::Save { file, data_dir: None, stale } => {
            let client = global.client(environment)?;
            let draft = Draft::create(&file)?;
            let mut progress = Progress::new("saving");
            let (mut out, mut done) = (BufWriter::with_capacity(1 << 20, draft.open()?), 0_u64);
            let fetched = client
                .snapshot(stale, &mut |piece| {
                    done += piece.len() as u64;
                    progress.at(done, 0);
                    out.write_all(piece)
                })
                .await;
            let endpoint = fetched.map_err(|error| match error {
                FetchError::Client(error) => CliError::Client(error),
                FetchError::Keep(error) => draft.failed(&error),
            })?;
            drop(progress);
            draft.sync(out)?;
            let examined = tokio::task::block_in_place(|| draft.keep())?;
            Ok(output.record(&saved(&file, &endpoint, &examined))?)
        }
        SnapshotCommand::Save { file, data_dir: Some(directory), .. } => {
            let examined = tokio::task::block_in_place(|| save_offline(&directory, &file))?;
            Ok(output.record(&saved(&file, &directory.display().to_string(), &examined))?)
        }
        SnapshotCommand::Inspect { file } => {
            let examined = tokio::task::block_in_place(|| examine(&file))?;
            Ok(output.record(&described(&examined))?)
        }
        SnapshotCommand::Restore { file, data_dir, id, peers } => {
            let restored = tokio::task::block_in_place(|| restore(&file, &data_dir, &id, peers.as_deref()))?;
            Ok(output.record(&restored)?)
        }
    }
}

fn storage(error: StorageError) -> CliError {
    CliError::Server(ServerError::Storage(error))
}

/// A file in the making. What is left of one that was not finished is removed.
struct Draft<'f> {
    file: &'f Path,
    path: PathBuf,
}

impl Draft<'_> {
    fn create(file: &Path) -> Result<Draft<'_>, CliError> {
        if file.exists() {
            let text = format!("{} exists already", file.display());
            return Err(CliError::usage(text, "give the snapshot a name of its own"));
        }
        let mut path = file.as_os_str().to_os_string();
        path.push(".partial");
        Ok(Draft { file, path: PathBuf::from(path) })
    }

    fn open(&self) -> Result<File, CliError> {
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        made.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> CliError {
        CliError::failed(format!("cannot write {}: {error}; nothing was kept", self.path.display()))
    }

    fn sync(&self, out: BufWriter<File>) -> Result<(), CliError> {
        let file = out.into_inner().map_err(|error| self.failed(error.error()))?;
        file.sync_all().map_err(|error| self.failed(&error))
    }

    /// Reads it all back, and gives it its name.
    fn keep(&self) -> Result<Examined, CliError> {
        let examined = examine(&self.path)?;
        let named = || -> io::Result<()> {
            fs::rename(&self.path, self.file)?;
            let parent = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        named().map_err(|error| self.failed(&error))?;
        Ok(examined)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _gone = fs::remove_file(&self.path);
    }
}

fn save_offline(directory: &Path, file: &Path) -> Result<Examined, CliError> {
    let draft = Draft::create(file)?;
    let mut directory = DataDirectory::open_existing(directory).map_err(storage)?;
    let identity = directory.identity().clone();
    let state = directory.open_state().map_err(storage)?;
    let failed = |error| CliError::Server(ServerError::State(error));
    let view = state.view().map_err(failed)?;
    let head = Head::of(&*view, &identity.cluster, &identity.node).map_err(failed)?;
    let mut writer = SnapshotWriter::new(view, head);
    let mut out = BufWriter::with_capacity(1 << 20, draft.open()?);
    let mut progress = Progress::new("saving");
    while let Some(piece) = writer.next_piece().map_err(failed)? {
        out.write_all(&piece).map_err(|error| draft.failed(&error))?;
        progress.at(writer.sums().bytes, 0);
    }
    drop(progress);
    draft.sync(out)?;
    draft.keep()
}

fn examine(file: &Path) -> Result<Examined, CliError> {
    let mut progress = Progress::new("checking");
    recover::examine(file, &mut |done, total| progress.at(done, total)).map_err(storage)
}

fn restore(file: &Path, data_dir: &Path, id: &NodeId, peers: Option<&str>) -> Result<Value, CliError> {
    let voters = match peers {
        Some(text) => value::peers(&Raw::Text(text.to_string())).map_err(|problem| {
            CliError::usage(format!("--peers: \"{text}\" {}", problem.what), problem.hint)
        })?,
        None => {
            let head = examine(file)?.head;
            let known = head.configuration.addresses.get(id).filter(|address| !address.is_empty());
            let address = known.cloned().unwrap_or_else(|| PEER_DEFAULT.to_string());
            BTreeMap::from([(id.clone(), address)])
        }
    };
    let mut progress = Progress::new("restoring");
    let restored = recover::restore(file, data_dir, id, &voters, &mut |done, total| progress.at(done, total));
    drop(progress);
    let restored = restored.map_err(storage)?;
    let mut record = described(&restored.snapshot);
    let own = json!({ "restored": data_dir.display().to_string(), "id": id, "voters": voters,
        "new_identity": restored.recovery.act.identity, "incarnation": restored.incarnation });
    if let (Value::Object(all), Value::Object(own)) = (&mut record, own) {
        all.extend(own);
    }
    eprintln!("{}", next_steps(id, data_dir, &voters));
    Ok(record)
}

fn next_steps(id: &NodeId, data_dir: &Path, voters: &BTreeMap<NodeId, String>) -> String {
    let peers: Vec<String> = voters.iter().map(|(voter, address)| format!("{voter}={address}")).collect();
    let mut text = format!(
        "next: super-node start --id {id} --data-dir {} --peers {}",
        data_dir.display(),
        peers.join(",")
    );
    if voters.len() > 1 {
        text.push_str("\n  once the other voters are restored from this very file with the same --peers");
    }
    text
}

fn saved(file: &Path, from: &str, examined: &Examined) -> Value {
    let mut record = json!({ "saved": file.display().to_string(), "from": from });
    if let (Value::Object(all), Value::Object(more)) = (&mut record, described(examined)) {
        all.extend(more);
    }
    record
}

fn described(examined: &Examined) -> Value {
    let Examined { head, sums, hash, state_digest, file_bytes } = examined;
    json!({
        "cluster": head.cluster,
        "identity": head.identity,
        "node": head.node,
        "version": head.version.to_string(),
        "index": head.index,
        "term": head.term,
        "saved_voters": head.configuration.voters,
        "saved_learners": head.configuration.learners,
        "kv_revision": head.kv_revision,
        "ledger_records": head.records,
        "ledger_head": head.head_hash,
        "log_time": head.log_time,
        "chunks": sums.chunks,
        "rows": sums.rows,
        "row_bytes": sums.bytes,
        "file_bytes": file_bytes,
        "sha256": hash,
        "state_digest": state_digest,
    })
}
