//! `config check|show`.

use clap::Subcommand;
use serde_json::json;

use super::start::SettingsArgs;
use super::{CliError, Output};

/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Find mistakes without starting anything
    Check(SettingsArgs),
    /// Print every value and where it came from
    Show(SettingsArgs),
}

/// Runs it.
pub fn run(command: ConfigCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check(args) => {
            let settings = args.load().map_err(CliError::Config)?.settings;
            let voters = settings.cluster.peers.len().max(1);
            let report = json!({
                "ok": true,
                "id": settings.node.id,
                "cluster": settings.node.cluster,
                "super_nodes": voters,
                "client": settings.client_url(),
            });
            Ok(output.record(&report)?)
        }
        ConfigCommand::Show(args) => {
            let loaded = args.load().map_err(CliError::Config)?;
            let mut rows = Vec::new();
            let mut items = Vec::new();
            for row in &loaded.rows {
                let source = row.source.to_string();
                items.push(json!({ "key": row.key, "value": row.value, "source": source }));
                rows.push(vec![row.key.to_string(), row.value.clone(), source]);
            }
            Ok(output.list(&["KEY", "VALUE", "SOURCE"], &rows, &items)?)
        }
    }
}
