//! `agent`: a fleet member that answers pings.

use std::net::SocketAddr;

use clap::Args;

use crate::agent::{AgentSettings, SILENCE_DEFAULT};
use crate::config::Settings;
use crate::config::value::{self, Raw};
use crate::types::MemberId;

use super::CliError;
use super::signals::{self, ParentArgs};

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
    /// Leave the fleet when asked to stop, instead of being counted as silent from then on
    #[arg(long)]
    pub leave: bool,
    /// For children of the demo.
    #[command(flatten)]
    pub parent: ParentArgs,
}

/// Answers pings until it is asked to stop.
pub async fn run(args: AgentArgs) -> Result<(), CliError> {
    super::logging::init(&Settings::default().log)?;
    let stop = signals::stop(&args.parent)?;
    let settings = AgentSettings {
        id: args.id,
        join: args.join,
        listen: args.listen,
        advertise: args.advertise,
        cluster: None,
        silence: SILENCE_DEFAULT,
        leave: args.leave,
    };
    let result = crate::agent::run(settings, stop.token.clone()).await;
    stop.clean_up();
    result.map_err(CliError::Agent)
}

fn member(text: &str) -> Result<MemberId, String> {
    text.parse().map_err(|error: crate::types::NameError| error.to_string())
}

fn url(text: &str) -> Result<String, String> {
    value::http_url(text).map_err(|problem| format!("{}; {}", problem.what, problem.hint))
}

fn listener(text: &str) -> Result<SocketAddr, String> {
    value::listener(&Raw::Text(text.to_string()))
        .map_err(|problem| format!("{}; {}", problem.what, problem.hint))
}
