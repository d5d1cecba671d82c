//! `demo`: a whole cluster on this machine that tells its story.

mod story;
mod teller;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::{CliError, Environment, Output};
use crate::config::value::{self, Raw};
use crate::database::mongo;
use crate::local::{Fleet, Setup};
use story::Story;
use teller::Teller;

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How many super-nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub nodes: u8,
    /// How many fleet agents
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub agents: u16,
    /// Keep it running so long after the story; without it, it ends with the story
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Run beside this MongoDB, in a new database, and check that it equals the ledger [without URI: MONGODB_URI]
    #[arg(long, value_name = "URI", num_args = 0..=1, default_missing_value = "")]
    pub mongodb: Option<String>,
    /// Judge every 2 s instead of every 5 s, so that rewards and penalties come within seconds
    #[arg(long)]
    pub fast: bool,
    /// Keep the data directories here instead of in a temporary directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// The database that a cluster projects into unless it is told otherwise, and the one that the documents name.
const DATABASE: &str = "super_node";

/// Runs the story. `true`: every check held.
pub async fn run(
    args: &DemoArgs,
    output: Output,
    no_colour: bool,
    environment: &Environment,
) -> Result<bool, CliError> {
    let begun = Instant::now();
    let mongodb = mongodb_beside(args, environment).await?;
    let temporary = match &args.keep {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("super-node-demo-").tempdir()?),
    };
    let directory: PathBuf = match (&args.keep, &temporary) {
        (Some(keep), _) => fresh(keep)?,
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => return Err(CliError::failed("no directory")),
    };
    let (interval, ping) = if args.fast { (2_000, 150) } else { (5_000, 400) };
    let mut variables = vec![
        ("SUPER_NODE_LEDGER__INTERVAL", format!("{interval}ms")),
        ("SUPER_NODE_LEDGER__PING", format!("{ping}ms")),
        ("SUPER_NODE_LEDGER__PING_TIMEOUT", format!("{ping}ms")),
    ];
    if let Some((uri, database)) = &mongodb {
        variables.push(("MONGODB_URI", uri.clone()));
        variables.push(("SUPER_NODE_MONGODB__DATABASE", database.clone()));
    }
    let setup = Setup {
        program: std::env::current_exe()?,
        nodes: usize::from(args.nodes),
        environment: variables,
        temporary: temporary.is_some(),
    };
    let mut fleet = Fleet::new(setup, &directory)?;
    let mut teller = Teller::new(output, no_colour);
    let mut preface = vec![
        "super-node demo: a fleet supervisor, replicated, on this machine.".to_string(),
        format!(
            "Everything runs in {} and on loopback; Ctrl-C ends it and leaves {}.",
            directory.display(),
            if temporary.is_some() { "nothing behind" } else { "its data and logs there" }
        ),
    ];
    if let Some((_, database)) = &mongodb {
        preface.push(format!("MongoDB beside it: database {database}, which stays there for you to query."));
    }
    teller.preface(&preface)?;
    let told = {
        let mut story = Story {
            fleet: &mut fleet,
            teller: &mut teller,
            begun,
            agents: usize::from(args.agents),
            mongodb: mongodb.map(|(_, database)| database),
        };
        tokio::select! {
            told = story.tell() => told,
            interrupted = interrupted() => interrupted,
        }
    };
    let told = match (told, args.seconds) {
        (Ok(()), Some(seconds)) => {
            teller.aside(&format!("the cluster goes on for {seconds} s; Ctrl-C ends it"))?;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(seconds)) => Ok(()),
                interrupted = interrupted() => interrupted,
            }
        }
        (told, _) => told,
    };
    fleet.stop().await;
    match told {
        Ok(()) => Ok(teller.end(None)?),
        Err(CliError::Interrupted) => Err(CliError::Interrupted),
        Err(error) => {
            let text = error.render().unwrap_or_default();
            let text = text.trim().trim_start_matches("error: ");
            Ok(teller.end(Some(text))?)
        }
    }
}

/// Ctrl-C, or a polite request to end.
async fn interrupted() -> Result<(), CliError> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminated.recv() => {}
    }
    Err(CliError::Interrupted)
}

/// The MongoDB that is asked for, if it answers (without it the story could not end well), and the database to use: a
/// projection belongs to one cluster, so one that holds anything already is left alone.
///
/// Only the flag counts: whoever has `MONGODB_URI` set for other purposes did not ask the demo to write there.
async fn mongodb_beside(
    args: &DemoArgs,
    environment: &Environment,
) -> Result<Option<(String, String)>, CliError> {
    let uri = match args.mongodb.as_deref() {
        None => return Ok(None),
        Some("") => environment
            .get("MONGODB_URI")
            .ok_or_else(|| CliError::usage("--mongodb: no URI", "give one, or set MONGODB_URI"))?
            .to_string(),
        Some(uri) => uri.to_string(),
    };
    let shown = value::redact_uri(&uri);
    value::mongodb_uri(&Raw::Text(uri.clone())).map_err(|problem| {
        CliError::usage(format!("--mongodb: \"{shown}\" {}", problem.what), problem.hint)
    })?;
    let unused = mongo::is_unused(&uri, DATABASE).await.map_err(|error| {
        CliError::failed(format!(
            "--mongodb: {shown} does not answer ({error}); start it, correct the URI, or leave --mongodb out"
        ))
    })?;
    let database =
        if unused { DATABASE.to_string() } else { format!("{DATABASE}_demo_{:08x}", rand::random::<u32>()) };
    Ok(Some((uri, database)))
}

/// A new or empty directory: a story needs a fresh cluster, and what is in the directory might be somebody's.
fn fresh(directory: &Path) -> Result<PathBuf, CliError> {
    let refused =
        |why: &str| CliError::usage(format!("--keep {}: {why}", directory.display()), "name a new directory");
    let failed = |error: std::io::Error| refused(&error.to_string());
    std::fs::create_dir_all(directory).map_err(failed)?;
    if std::fs::read_dir(directory).map_err(failed)?.next().is_some() {
        return Err(refused("the directory is not empty"));
    }
    std::fs::canonicalize(directory).map_err(failed)
}
