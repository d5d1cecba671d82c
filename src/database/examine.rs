//! A look at a MongoDB that is to be projected into: whether it is there, lets us in, and is new enough.

use std::time::Duration;

use bson::doc;
use mongodb::Client;
use mongodb::options::ClientOptions;

use super::errors::ProjectionError;
use super::mongo::{CONNECT_TIMEOUT, SERVER_SELECTION_TIMEOUT};

/// The oldest server that the projection is tested with.
pub const SERVER_MAJOR_MIN: u32 = 6;
/// How long the look may take.
const TIMEOUT: Duration = Duration::from_secs(6);
/// Codes of a server that does not let us in: not authorised, authentication failed, authentication required.
const DENIED: [i32; 3] = [13, 18, 8_000];

/// What a look has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// All is well; the server's version.
    Well(String),
    /// Nobody answers.
    Unreachable(String),
    /// It does not let us in.
    Denied(String),
    /// It is older than [`SERVER_MAJOR_MIN`]; its version.
    TooOld(String),
    /// The connection string cannot be used.
    Unusable(String),
}

/// Looks at the server of a connection string, and whether it lets us read `database`.
pub async fn examine(uri: &str, database: &str) -> Look {
    let options = match ClientOptions::parse(uri).await {
        Ok(mut options) => {
            options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
            options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
            options
        }
        Err(error) => return Look::Unusable(text(error)),
    };
    let client = match Client::with_options(options) {
        Ok(client) => client,
        Err(error) => return Look::Unusable(text(error)),
    };
    let asked = async {
        let about = client.database("admin").run_command(doc! { "buildInfo": 1 }).await?;
        client.database(database).list_collection_names().await?;
        Ok(about.get_str("version").unwrap_or("unknown").to_string())
    };
    match tokio::time::timeout(TIMEOUT, asked).await {
        Err(_elapsed) => Look::Unreachable(format!("no answer within {TIMEOUT:?}")),
        Ok(Err(error)) => failed(error),
        Ok(Ok(version)) => judge(version),
    }
}

fn text(error: mongodb::error::Error) -> String {
    ProjectionError::from(error).to_string()
}

fn failed(error: mongodb::error::Error) -> Look {
    use mongodb::error::ErrorKind;
    let denied = match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => true,
        ErrorKind::Command(command) => DENIED.contains(&command.code),
        _ => false,
    };
    if denied {
        return Look::Denied(text(error));
    }
    let text = text(error);
    // So old that the driver does not speak with it: all that it tells is the range of the wire protocol.
    if text.contains("reports wire version") { Look::TooOld(text) } else { Look::Unreachable(text) }
}

fn judge(version: String) -> Look {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < SERVER_MAJOR_MIN) {
        Look::TooOld(version)
    } else {
        Look::Well(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_told_by_their_version() {
        assert_eq!(judge("4.4.29".to_string()), Look::TooOld("4.4.29".to_string()));
        for version in ["6.0.5", "10.1.0", "unknown"] {
            assert_eq!(judge(version.to_string()), Look::Well(version.to_string()));
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_and_a_text_that_names_none_are_told_apart() {
        let uri = "mongodb://someone:secret@127.0.0.1:1/?serverSelectionTimeoutMS=200";
        match examine(uri, "super_node").await {
            Look::Unreachable(why) => assert!(!why.contains("secret"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(examine("nonsense", "super_node").await, Look::Unusable(_)));
    }
}
