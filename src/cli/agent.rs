//! `agent`: a fleet member that answers pings.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::agent::{AgentSettings, SILENCE_DEFAULT};
use crate::config::Settings;
use crate::config::value::{self, Raw};
use crate::types::{AgentKey, MemberId};

use super::signals::{self, ParentArgs};
use super::{CliError, Environment, Global};

/// `agent`
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// The member's name
    #[arg(long, value_name = "ID", value_parser = member)]
    pub id: MemberId,
    /// Client URLs of the cluster to join, separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, value_parser = url)]
    pub join: Vec<String>,
    /// Where to answer pings; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = listener)]
    pub listen: SocketAddr,
    /// `host:port` under which super-nodes reach it, if that is not where it listens
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<String>,
    /// File with its key, 64 hexadecimal digits; written if it does not exist. Without it the key lives as long as the process
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// File with the token that lets it in without an operator (`agents.token` of the super-nodes)
    #[arg(long, value_name = "FILE")]
    pub enrol_token_file: Option<PathBuf>,
    /// Where to show /livez and /metrics; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", value_parser = listener)]
    pub status: Option<SocketAddr>,
    /// Leave the fleet when asked to stop, instead of being counted as silent from then on
    #[arg(long)]
    pub leave: bool,
    /// For children of the demo.
    #[command(flatten)]
    pub parent: ParentArgs,
}

/// Answers pings until it is asked to stop.
pub async fn run(args: AgentArgs, global: &Global, environment: &Environment) -> Result<(), CliError> {
    super::logging::init(&Settings::default().log)?;
    let stop = signals::stop(&args.parent)?;
    let settings = AgentSettings {
        id: args.id,
        join: args.join,
        listen: args.listen,
        advertise: args.advertise,
        cluster: None,
        key: args.key_file.as_deref().map_or_else(|| Ok(AgentKey(rand::random())), key)?,
        token: args.enrol_token_file.as_deref().map(super::read_token).transpose()?,
        status: args.status,
        silence: SILENCE_DEFAULT,
        leave: args.leave,
        ca: global.ca(environment),
        bearer: global.token_file(environment).map(|file| super::read_token(&file)).transpose()?,
    };
    let result = crate::agent::run(settings, stop.token.clone()).await;
    stop.clean_up();
    result.map_err(CliError::Agent)
}

/// Reads a key, or draws one and writes it where only its owner can read it.
fn key(path: &Path) -> Result<AgentKey, CliError> {
    let refused = |why: String| {
        CliError::usage(
            format!("--key-file {}: {why}", path.display()),
            "name a file that holds \
         64 hexadecimal digits, or one that can be written and does not exist yet",
        )
    };
    match std::fs::read_to_string(path) {
        Ok(text) => AgentKey::from_hex(text.trim()).ok_or_else(|| refused("holds no key".to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = AgentKey(rand::random());
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| {
                file.write_all(format!("{}\n", key.to_hex()).as_bytes())?;
                file.sync_all()
            });
            written.map(|()| key).map_err(|error| refused(error.to_string()))
        }
        Err(error) => Err(refused(error.to_string())),
    }
}

fn member(text: &str) -> Result<MemberId, String> {
    MemberId::given(text).map_err(|error| error.to_string())
}

fn url(text: &str) -> Result<String, String> {
    value::http_url(text).map_err(|problem| format!("{}; {}", problem.what, problem.hint))
}

fn listener(text: &str) -> Result<SocketAddr, String> {
    value::listener(&Raw::Text(text.to_string()))
        .map_err(|problem| format!("{}; {}", problem.what, problem.hint))
}
