//! `start`: one super-node; its flags, and the settings that follow from them.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::progress::{Progress, Unit};
use super::signals::{self, ParentArgs};
use super::{CliError, Environment, Global};
use crate::config::{Errors, Inputs, Loaded, resolve};
use crate::server::{CatchUp, Watcher};

/// Flags that stand for keys of the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Configuration file (TOML); see config/super-node.toml for every key [env: SUPER_NODE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This node's name [default: n1]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Where log and state are kept [default: data/ID]
    #[arg(long, value_name = "DIR", conflicts_with = "in_memory")]
    pub data_dir: Option<String>,
    /// Keep log and state in memory: for tests and demonstrations; everything is lost when the process ends
    #[arg(long)]
    pub in_memory: bool,
    /// Where clients connect (HTTP) [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where super-nodes connect [default: 127.0.0.1:7401, or this node's address in --peers]
    #[arg(long, value_name = "ADDRESS")]
    pub peer_listen: Option<String>,
    /// Where agents and this node ping each other (UDP) [default: 127.0.0.1:7402, or the port after --peer-listen]
    #[arg(long, value_name = "ADDRESS")]
    pub agents_listen: Option<String>,
    /// Host name or IP address under which others reach this node
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// All first super-nodes of a new cluster with their peer addresses, this one included
    #[arg(long, value_name = "ID=ADDRESS,…")]
    pub peers: Option<String>,
    /// Client URL of a running cluster to join, as a learner that votes once it has caught up
    #[arg(long, value_name = "URL")]
    pub join: Option<String>,
    /// With --join: the super-node that leaves when this one votes
    #[arg(long, value_name = "ID")]
    pub replaces: Option<String>,
    /// Project the ledger into this MongoDB [env: MONGODB_URI]
    #[arg(long, value_name = "URI")]
    pub mongodb: Option<String>,
    /// Allow listeners beyond loopback without encryption [env: SUPER_NODE_INSECURE]
    #[arg(long)]
    pub insecure: bool,
}

/// `start`
#[derive(Debug, Clone, Default, Args)]
pub struct StartArgs {
    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// For children of the demo.
    #[command(flatten)]
    pub parent: ParentArgs,
}

/// Runs a super-node until it is asked to stop.
pub async fn run(args: &StartArgs, global: &Global, environment: &Environment) -> Result<(), CliError> {
    let mut settings = args.settings.load().map_err(CliError::Config)?.settings;
    if let Some(file) = global.token_file(environment) {
        settings.auth.token_file = Some(file);
    }
    super::logging::init(&settings.log)?;
    let stop = signals::stop(&args.parent)?;
    // Where nobody looks, lines in the log tell.
    let watcher = std::io::stderr().is_terminal().then(catching_up);
    let result = crate::server::run(settings, watcher, stop.token.clone()).await;
    stop.clean_up();
    result.map_err(CliError::Server)
}

/// Shows how far a node is that joins, until it is in.
fn catching_up() -> Watcher {
    let begun = Instant::now();
    let (mut shown, mut first) = (None, None);
    Box::new(move |step| {
        let (what, unit, done, total) = match step {
            CatchUp::Votes | CatchUp::Follows => return shown = None,
            CatchUp::Waiting => ("waiting for the leader", Unit::Time, 0, 0),
            CatchUp::State { bytes } => ("fetching the state", Unit::Bytes, bytes, 0),
            CatchUp::Entries { applied, commit } => {
                let first = *first.get_or_insert(applied);
                let (done, total) = (applied.saturating_sub(first), commit.saturating_sub(first));
                ("catching up", Unit::Things("entries"), done, total)
            }
            CatchUp::Stable => ("caught up, waiting to vote", Unit::Time, 0, 0),
        };
        if shown.as_ref().is_none_or(|(known, _)| *known != what) {
            // The last bar goes before the next comes.
            shown = None;
            shown = Some((what, Progress::since(begun, what, unit)));
        }
        if let Some((_, progress)) = &mut shown {
            progress.at(done, total);
        }
    })
}

impl SettingsArgs {
    /// The settings of these flags over the environment, `.env`, the file and the defaults.
    pub fn load(&self) -> Result<Loaded, Errors> {
        let mut inputs = Inputs::gather(None)?;
        let from_variable =
            || inputs.environment.get("SUPER_NODE_CONFIG").or_else(|| inputs.dotenv.get("SUPER_NODE_CONFIG"));
        let file = self
            .config
            .clone()
            .or_else(|| from_variable().filter(|path| !path.is_empty()).map(PathBuf::from));
        inputs.file = file.as_deref().map(Inputs::read_file).transpose()?;
        self.apply(&mut inputs);
        resolve(&inputs)
    }

    /// Adds the flags to the other sources.
    pub fn apply(&self, inputs: &mut Inputs) {
        let flags = [
            ("node.id", "--id", &self.id),
            ("node.data_dir", "--data-dir", &self.data_dir),
            ("listen.client", "--listen", &self.listen),
            ("listen.peer", "--peer-listen", &self.peer_listen),
            ("listen.agents", "--agents-listen", &self.agents_listen),
            ("listen.advertise", "--advertise", &self.advertise),
            ("cluster.peers", "--peers", &self.peers),
            ("cluster.join", "--join", &self.join),
            ("cluster.replaces", "--replaces", &self.replaces),
            ("mongodb.uri", "--mongodb", &self.mongodb),
        ];
        for (key, flag, value) in flags {
            if let Some(value) = value {
                inputs.flags.push((key, flag, value.clone()));
            }
        }
        if self.in_memory {
            inputs.flags.push(("node.in_memory", "--in-memory", "true".to_string()));
        }
        inputs.insecure |= self.insecure;
    }
}
