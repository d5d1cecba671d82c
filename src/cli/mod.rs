//! The command line: one file per subcommand.
//!
//! Data goes to stdout, messages to stderr. A command returns a [`CliError`] and never prints one itself; [`main`]
//! renders it and turns it into the exit code.

pub mod add;
pub mod agent;
pub mod bench;
pub mod certs;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod election;
pub mod error;
pub mod events;
mod examples;
pub mod explain;
pub mod export;
pub mod interval;
pub mod kv;
pub mod leader;
pub mod ledger;
pub mod log;
pub mod logging;
pub mod man;
pub mod member;
pub mod output;
pub mod policy;
pub mod profile;
mod progress;
pub mod recover;
pub mod replica;
pub mod scenario;
pub mod signals;
pub mod sim;
pub mod snapshot;
pub mod start;
pub mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::client::{Client, Options};
use crate::config::load::read_dotenv;
use crate::config::value::{http_url, parse_duration};

pub use error::CliError;
pub use output::{Format, Output};

/// The name of the program.
const PROGRAM: &str = "super-node";
/// How long the end of a command waits for threads that read or write.
const BLOCKING_END_MAX: Duration = Duration::from_millis(200);
/// Where commands ask unless told otherwise.
const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:7400";

/// `super-node …`
#[derive(Debug, Parser)]
#[command(name = "super-node", version, about, max_term_width = 110)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// How to print: table, json or plain [default: table on a terminal, else plain]
    #[arg(short = 'o', long = "output", global = true, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Client URLs of nodes, separated by commas [env: SUPER_NODE_ENDPOINTS] [default: http://127.0.0.1:7400]
    #[arg(long, global = true, value_name = "URL,URL")]
    pub endpoints: Option<String>,
    /// How long to try, such as 500ms or 5s [env: SUPER_NODE_TIMEOUT] [default: 5s]
    #[arg(long, global = true, value_name = "TIME")]
    pub timeout: Option<String>,
    /// File with the token that the nodes ask for [env: SUPER_NODE_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate (PEM) of the authority that vouches for the nodes, for https [env: SUPER_NODE_CA] [default: public ones]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// No colours [env: NO_COLOR]
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine and let it tell its story
    Demo(demo::DemoArgs),
    /// Run one super-node; without flags, a one-node cluster on loopback
    Start(start::StartArgs),
    /// Run a fleet member that answers pings
    Agent(agent::AgentArgs),
    /// Show nodes, roles, term, leader, lag, members, projection
    Status(status::StatusArgs),
    /// Read and write the shared dictionary
    Kv {
        /// What to do.
        #[command(subcommand)]
        command: kv::KvCommand,
    },
    /// Add two integers through the replicated log
    Add(add::AddArgs),
    /// The members of the fleet, and which super-nodes vote
    Member {
        /// What to do.
        #[command(subcommand)]
        command: member::MemberCommand,
    },
    /// Who leads the super-nodes
    Leader {
        /// What to do.
        #[command(subcommand)]
        command: leader::LeaderCommand,
    },
    /// Balances, rewards and penalties, and whether they are sound
    Ledger {
        /// What to do.
        #[command(subcommand)]
        command: ledger::LedgerCommand,
    },
    /// Settled intervals and the evidence behind each payment
    Interval {
        /// What to do.
        #[command(subcommand)]
        command: interval::IntervalCommand,
    },
    /// By which rules intervals are judged, and what other rules would have come to
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Why each election happened, who voted, how long nobody led
    Election {
        /// What to do.
        #[command(subcommand)]
        command: election::ElectionCommand,
    },
    /// The event stream of a node
    Events(events::EventsArgs),
    /// Look for a while at what a node's threads are busy with
    Profile(profile::ProfileArgs),
    /// Put load on a cluster, or on one of its own, and measure it
    Bench(bench::BenchArgs),
    /// Run the deterministic simulator
    Sim(sim::SimArgs),
    /// Save the whole state as a file, check such a file, make data directories from it
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        command: snapshot::SnapshotCommand,
    },
    /// Look into the Raft log
    Log {
        /// What to do.
        #[command(subcommand)]
        command: log::LogCommand,
    },
    /// Make a cluster of its last survivor, when a majority is gone for good
    Recover(recover::RecoverArgs),
    /// Find what is wrong with this machine's set-up and with the running nodes, and say what to do
    Doctor(Box<doctor::DoctorArgs>),
    /// What the word in brackets at the end of an error means, and what to do
    Explain(explain::ExplainArgs),
    /// Be a replica of the course's key-value store, behind its simulator
    Replica(replica::ReplicaArgs),
    /// Run replicas of the course protocol through scenarios, and judge them
    Scenario {
        /// What to do.
        #[command(subcommand)]
        command: scenario::ScenarioCommand,
    },
    /// Make the certificates of a cluster: an authority, and what it says of each super-node
    Certs(certs::CertsArgs),
    /// Print a script that teaches a shell to complete this command line
    Completions(completions::CompletionsArgs),
    /// Print or write the manual pages
    Man(man::ManArgs),
    /// Check or show the configuration
    Config {
        /// What to do.
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
}

/// The variables that commands read besides the configuration: the environment, and `.env` below it.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    rows: BTreeMap<String, String>,
}

impl Environment {
    /// Of this process.
    pub fn read() -> Result<Environment, CliError> {
        let mut rows = read_dotenv().map_err(CliError::Config)?;
        rows.extend(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        Ok(Environment { rows })
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.rows.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl Global {
    /// A client for the endpoints.
    pub fn client(&self, environment: &Environment) -> Result<Client, CliError> {
        let (endpoints, source) = match (&self.endpoints, environment.get("SUPER_NODE_ENDPOINTS")) {
            (Some(flag), _) => (flag.as_str(), "--endpoints"),
            (None, Some(variable)) => (variable, "SUPER_NODE_ENDPOINTS"),
            (None, None) => (ENDPOINT_DEFAULT, "the default"),
        };
        let url = |text: &str| {
            http_url(text).map_err(|problem| {
                CliError::usage(format!("{source}: \"{}\" {}", text.trim(), problem.what), problem.hint)
            })
        };
        let endpoints = endpoints.split(',').map(url).collect::<Result<Vec<_>, _>>()?;
        let timeout = self.timeout(environment)?;
        let token = self.token_file(environment).map(|path| read_token(&path)).transpose()?;
        // As other tools do that are started within a trace.
        let traceparent = environment.get("TRACEPARENT").map(str::to_string);
        Ok(Client::new(Options { endpoints, timeout, token, ca: self.ca(environment), traceparent })?)
    }

    /// The file with the token to show, if there is one.
    pub fn token_file(&self, environment: &Environment) -> Option<PathBuf> {
        self.token_file.clone().or_else(|| environment.get("SUPER_NODE_TOKEN_FILE").map(PathBuf::from))
    }

    /// The certificate of the authority that is trusted, if one is named.
    pub fn ca(&self, environment: &Environment) -> Option<PathBuf> {
        self.ca.clone().or_else(|| environment.get("SUPER_NODE_CA").map(PathBuf::from))
    }

    fn timeout(&self, environment: &Environment) -> Result<Duration, CliError> {
        let (text, source) = match (&self.timeout, environment.get("SUPER_NODE_TIMEOUT")) {
            (Some(flag), _) => (flag.as_str(), "--timeout"),
            (None, Some(variable)) => (variable, "SUPER_NODE_TIMEOUT"),
            (None, None) => return Ok(Duration::from_secs(5)),
        };
        let span = parse_duration(text).map_err(|problem| {
            CliError::usage(format!("{source}: \"{text}\" {}", problem.what), problem.hint)
        })?;
        if span.is_zero() || span > Duration::from_secs(3_600) {
            return Err(CliError::usage(
                format!("{source}: \"{text}\" is out of range"),
                "allowed: more than 0, up to 1h",
            ));
        }
        Ok(span)
    }
}

fn read_token(path: &std::path::Path) -> Result<String, CliError> {
    crate::config::token_in(path)
        .map_err(|why| CliError::usage(format!("--token-file {why}"), "give a file that holds one token"))
}

/// What the command line is parsed by, with the examples at the end of each help.
pub fn command() -> clap::Command {
    examples::add_to(Cli::command(), "")
}

fn parse(arguments: Vec<std::ffi::OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Parses the arguments, runs the command, prints what went wrong, and says how the process should end.
pub fn main() -> ExitCode {
    let cli = match parse(replica::as_named(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for and go to stdout with 0; mistakes go to stderr with 2.
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed pipe is the reader's choice and no failure of ours.
            let _printed = error.print();
            return ExitCode::from(code);
        }
    };
    let mut output = Output::stdout(cli.global.output);
    let result = match &cli.command {
        // It reads no settings and needs no runtime: it is to be there at once.
        Command::Replica(args) => replica::run(args),
        _ => Environment::read().and_then(|environment| run(cli, &environment, &mut output)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(text) = error.render() {
                eprint!("{text}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs one command to its end.
pub fn run(cli: Cli, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(async {
        // These know for themselves how to stop; the others are simply left.
        match &cli.command {
            Command::Start(args) => return start::run(args, &cli.global, environment).await,
            Command::Agent(args) => return agent::run(args.clone(), &cli.global, environment).await,
            Command::Scenario { command } => return scenario::run(command.clone(), output).await,
            Command::Demo(args) => {
                let output = Output::stdout(cli.global.output);
                return match demo::run(args, output, cli.global.no_color, environment).await {
                    Ok(true) => Ok(()),
                    // Whoever closed the pipe did not hear the end of the story: not every check was made.
                    Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                        Err(CliError::Checks)
                    }
                    Ok(false) => Err(CliError::Checks),
                    Err(error) => Err(error),
                };
            }
            _ => {}
        }
        tokio::select! {
            result = dispatch(cli, environment, output) => result,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|error| CliError::failed(format!("cannot listen for Ctrl-C: {error}")))?;
                Err(CliError::Interrupted)
            }
        }
    });
    // A thread that waits for standard input would be waited for, for ever.
    runtime.shutdown_timeout(BLOCKING_END_MAX);
    result
}

async fn dispatch(cli: Cli, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    // These need no cluster, and must not fail for its lack.
    match cli.command {
        Command::Config { command } => return config::run(command, output),
        Command::Certs(args) => return certs::run(&args, output),
        Command::Completions(args) => return completions::run(&args, output),
        Command::Explain(args) => return explain::run(&args, output),
        Command::Man(args) => return man::run(&args, output),
        Command::Sim(args) => return tokio::task::block_in_place(|| sim::run_command(&args, output)),
        Command::Bench(args) => return bench::run(args, &cli.global, environment, output).await,
        Command::Snapshot { command } => {
            return snapshot::run(command, &cli.global, environment, output).await;
        }
        Command::Log { command } => return log::run(command, &cli.global, environment, output).await,
        Command::Doctor(args) => return doctor::run(*args, &cli.global, environment, output).await,
        Command::Recover(args) => return recover::run(args, &cli.global, environment, output).await,
        _ => {}
    }
    let client = cli.global.client(environment)?;
    match cli.command {
        Command::Status(args) => status::run(args, &client, cli.global.no_color, output).await,
        Command::Kv { command } => kv::run(command, &client, output).await,
        Command::Add(args) => add::run(args, &client, output).await,
        Command::Member { command } => member::run(command, &client, output).await,
        Command::Leader { command } => leader::run(command, &client, output).await,
        Command::Ledger { command } => ledger::run(command, &client, output).await,
        Command::Interval { command } => interval::run(command, &client, output).await,
        Command::Policy { command } => policy::run(command, &client, output).await,
        Command::Election { command } => election::run(command, &client, output).await,
        Command::Events(args) => events::run(args, &client, output).await,
        Command::Profile(args) => profile::run(args, &client, output).await,
        // Taken care of before.
        Command::Config { .. }
        | Command::Certs(_)
        | Command::Completions(_)
        | Command::Explain(_)
        | Command::Man(_)
        | Command::Bench(_)
        | Command::Snapshot { .. }
        | Command::Log { .. }
        | Command::Recover(_)
        | Command::Doctor(_)
        | Command::Sim(_)
        | Command::Start(_)
        | Command::Replica(_)
        | Command::Scenario { .. }
        | Command::Agent(_)
        | Command::Demo(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
