//! Log lines of long-running commands: to stderr, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};

use super::CliError;

/// Begins to log. The driver of MongoDB and the HTTP stack speak up only from warnings on, unless the filter names them.
pub fn init(settings: &LogSettings) -> Result<(), CliError> {
    let quiet = "mongodb=warn,hyper=warn,reqwest=warn,h2=warn";
    let filter = EnvFilter::try_new(format!("{quiet},{}", settings.level)).map_err(|error| {
        CliError::usage(format!("log.level: {error}"), "such as info, or super_node=debug,info")
    })?;
    // A line that cannot be written, as on a full disk, is lost. To say so on stderr would end the process: it is the same
    // file.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(super::progress::beside)
        .log_internal_errors(false);
    let result = match settings.format {
        LogFormat::Text => builder.with_target(false).with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    result.map_err(|error| CliError::failed(format!("cannot log: {error}")))
}
