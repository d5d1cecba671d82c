//! `agent`: a fleet member that answers pings. Here: its flags.

use std::net::SocketAddr;

use clap::Args;

use crate::config::value::{self, Raw};
use crate::types::MemberId;

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
