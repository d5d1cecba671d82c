//! What a failure of MongoDB means, and how it is told without telling secrets.

use std::fmt;

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::ledger::keyspace::KeyspaceError;

/// A key exists already.
pub const DUPLICATE_KEY: i32 = 11_000;

/// What to do about a failure. None of them ends the projector: the ledger keeps the backlog, and the next try
/// reconciles through the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself: a server that is away, slow, or changing its primary. Tried again soon.
    Retry,
    /// Somebody must do something: a wrong password, a missing right, a foreign database. Tried again slowly.
    Operator,
    /// Our own request is wrong, or our state is. Tried again slowly, and worth a report.
    Bug,
}

/// The projection cannot go on for now.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The driver or the server refused.
    #[error("MongoDB: {}", driver_text(.0))]
    Driver(#[from] Error),
    /// No answer within the bound.
    #[error("MongoDB: no answer to {action} within {seconds} s")]
    Timeout {
        /// What was asked.
        action: &'static str,
        /// The bound.
        seconds: u64,
    },
    /// The server reported a failed write in an otherwise successful answer.
    #[error("MongoDB: {action}: {message} (code {code})")]
    Write {
        /// What was asked.
        action: &'static str,
        /// The server's code.
        code: i32,
        /// The server's word.
        message: String,
    },
    /// The settings cannot be used.
    #[error("MongoDB settings: {0}")]
    Settings(String),
    /// The database holds another cluster's projection.
    #[error(
        "database '{database}' holds the projection of cluster '{found}', this is '{expected}': give this \
         cluster its own [mongodb] database, or drop that database if it is not needed any more"
    )]
    WrongCluster {
        /// The database.
        database: String,
        /// Whose it is: name and identity.
        found: String,
        /// Who we are.
        expected: String,
    },
    /// Somebody made an index that ours collides with.
    #[error(
        "index '{name}' on collection '{collection}' already exists with another definition ({message}): \
         drop it with db.{collection}.dropIndex(\"{name}\") or rename it; super-node does not drop what it \
         did not make"
    )]
    IndexConflict {
        /// The collection.
        collection: String,
        /// The index.
        name: String,
        /// The server's word.
        message: String,
    },
    /// A document under one of our ids is not what the ledger says.
    #[error(
        "document {id} in collection '{collection}' differs from the ledger: it was changed by hand or \
         belongs to another cluster; remove it, or project into an empty database"
    )]
    Differs {
        /// The collection.
        collection: &'static str,
        /// The id, printable.
        id: String,
    },
    /// The local ledger no longer holds what MongoDB lacks.
    #[error(
        "MongoDB lacks {what} from {from} on, and the ledger here begins at {first}: restore the database \
         from a backup"
    )]
    Gap {
        /// `ledger records` or `intervals`.
        what: &'static str,
        /// The first that is missing.
        from: u64,
        /// The first that is left.
        first: u64,
    },
    /// The checkpoint document went away while it was in use.
    #[error("the projection document of cluster '{0}' has disappeared; it is made again")]
    ClaimLost(String),
    /// The checkpoint document is not readable.
    #[error("the projection document cannot be read: {0}")]
    Unreadable(String),
    /// The applied state could not be read.
    #[error(transparent)]
    Ledger(#[from] KeyspaceError),
}

impl ProjectionError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            ProjectionError::Driver(error) => classify(error),
            ProjectionError::Timeout { .. } | ProjectionError::ClaimLost(_) => Class::Retry,
            ProjectionError::Write { code, .. } => classify_code(*code),
            ProjectionError::Settings(_)
            | ProjectionError::WrongCluster { .. }
            | ProjectionError::IndexConflict { .. }
            | ProjectionError::Differs { .. }
            | ProjectionError::Gap { .. }
            | ProjectionError::Unreadable(_) => Class::Operator,
            ProjectionError::Ledger(_) => Class::Bug,
        }
    }
}

/// What a server's error code means when it carries no label.
pub fn classify_code(code: i32) -> Class {
    match code {
        // Unauthorized, AuthenticationFailed, CommandNotFound, DocumentValidationFailure, and their kin: a
        // read-only role or view, a wrong option, quota and disk limits, replica set that cannot give the write concern.
        8 | 11 | 13 | 18 | 59 | 72 | 79 | 85 | 86 | 100 | 121 | 166 | 8000 | 14031 => Class::Operator,
        // Unreachable host, timeouts, interrupted or moved operations, a primary that steps down, a failed
        // write concern, a busy or closing server, snapshots and locks that were not to be had.
        6 | 7 | 24 | 46 | 50 | 64 | 89 | 91 | 112 | 133 | 134 | 189 | 202 | 246 | 251 | 262 | 290 | 384
        | 462 | 9001 | 10058 | 10107 | 11600 | 11601 | 11602 | 13388 | 13435 | 13436 => Class::Retry,
        _ => Class::Bug,
    }
}

/// What an error of the driver means. Labels decide first; some kinds carry none and are known by themselves.
pub fn classify(error: &Error) -> Class {
    const LABELS: [&str; 5] = [
        "RetryableWriteError",
        "TransientTransactionError",
        "UnknownTransactionCommitResult",
        "RetryableError",
        "SystemOverloadedError",
    ];
    if LABELS.iter().any(|label| error.contains_label(label)) {
        // An authentication that failed on the way is wrapped in a retryable error: the source tells.
        return match error.kind.as_ref() {
            ErrorKind::Authentication { .. } => Class::Operator,
            _ => Class::Retry,
        };
    }
    match error.kind.as_ref() {
        ErrorKind::ServerSelection { .. }
        | ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Shutdown => Class::Retry,
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. } => Class::Operator,
        ErrorKind::Command(command) => classify_code(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => classify_code(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => classify_concern(concern.code),
        ErrorKind::InsertMany(insert) => {
            let writes = insert.write_errors.iter().flatten().map(|write| write.code);
            match writes.filter(|code| *code != DUPLICATE_KEY).map(classify_code).next() {
                Some(class) => class,
                None => insert
                    .write_concern_error
                    .as_ref()
                    .map_or(Class::Bug, |concern| classify_concern(concern.code)),
            }
        }
        _ => Class::Bug,
    }
}

// A write concern that is not met in time may be met later; one that cannot be met is the operator's business.
fn classify_concern(code: i32) -> Class {
    match classify_code(code) {
        Class::Bug => Class::Retry,
        class => class,
    }
}

/// One line about an error of the driver, without the driver's internals.
pub fn driver_text(error: &Error) -> String {
    match error.kind.as_ref() {
        ErrorKind::InsertMany(insert) => {
            let first = insert.write_errors.iter().flatten().find(|write| write.code != DUPLICATE_KEY);
            match (first, &insert.write_concern_error) {
                (Some(write), _) => format!("insert refused: {} (code {})", write.message, write.code),
                (None, Some(concern)) => {
                    format!("write concern not met: {} (code {})", concern.message, concern.code)
                }
                (None, None) => "insert refused: duplicate key".to_string(),
            }
        }
        ErrorKind::Write(WriteFailure::WriteError(write)) => {
            format!("write refused: {} (code {})", write.message, write.code)
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => {
            format!("write concern not met: {} (code {})", concern.message, concern.code)
        }
        ErrorKind::Command(command) => {
            // A refused command is repeated in the message, with session ids that differ at every try.
            let message = command.message.split(" to execute command").next().unwrap_or_default();
            format!("{message} (code {})", command.code)
        }
        ErrorKind::ServerSelection { message, .. } => selection_text(message),
        kind => kind.to_string(),
    }
}

/// The driver tells its whole picture of the deployment; people need to know which server is what, or why not.
fn selection_text(message: &str) -> String {
    let server = |part: &str| {
        let (address, rest) = part.split_once(',')?;
        let error = rest.split_once("Error: Kind: ").map(|(_, error)| error);
        let what = match error {
            Some(error) => error.split(", labels:").next()?.trim_start_matches("I/O error: ").to_string(),
            None => {
                let kind = rest.split_once("Type: ")?.1.split([',', ' ']).next()?;
                if kind == "Unknown" { "not heard of yet".to_string() } else { format!("is {kind}") }
            }
        };
        Some(format!("{address} {what}"))
    };
    let servers: Vec<String> = message.split("Address: ").skip(1).filter_map(server).collect();
    // With servers that are too old or too new, the driver's own words say it best.
    if servers.is_empty() || message.contains("wire version") {
        return message.to_string();
    }
    format!("no server that can be used: {}", servers.join("; "))
}

/// Hides the passwords of a connection string wherever they appear in a text.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// A redactor for the secrets of a connection string.
    pub fn new(uri: &str) -> Self {
        let mut secrets = Vec::new();
        if let Some(password) = password_of(uri) {
            let plain = percent_decoded(password);
            if plain != password {
                secrets.push(plain);
            }
            secrets.insert(0, password.to_string());
        }
        Redactor { secrets }
    }

    /// `text` with every secret replaced by `***`.
    pub fn clean(&self, text: &str) -> String {
        let secrets = self.secrets.iter().filter(|secret| !secret.is_empty());
        secrets.fold(text.to_string(), |text, secret| text.replace(secret, "***"))
    }
}

/// A connection string as it may be shown: the password replaced by `***`.
pub fn redact_uri(uri: &str) -> String {
    let Some(password) = password_of(uri) else { return uri.to_string() };
    let start = password.as_ptr().addr() - uri.as_ptr().addr();
    format!("{}***{}", &uri[..start], &uri[start + password.len()..])
}

/// The part between the first `:` of the user information and its last `@`.
fn password_of(uri: &str) -> Option<&str> {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    // A password that was not percent-encoded may hold '/': the last '@' before the options ends it.
    let authority = rest.split('?').next().unwrap_or(rest);
    let (user_info, _) = authority.rsplit_once('@')?;
    user_info.split_once(':').map(|(_, password)| password)
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                plain.push(byte);
                at += 3;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_never_show() {
        for (uri, shown) in [
            ("mongodb://localhost:27017", "mongodb://localhost:27017"),
            ("mongodb://ann:s3cret@db:27017/x?w=1", "mongodb://ann:***@db:27017/x?w=1"),
            ("mongodb+srv://ann:p%40ss@db.example/", "mongodb+srv://ann:***@db.example/"),
            ("mongodb://ann:a/b@c@db", "mongodb://ann:***@db"),
            ("mongodb://ann@db", "mongodb://ann@db"),
        ] {
            assert_eq!(redact_uri(uri), shown);
        }
        let redactor = Redactor::new("mongodb://ann:p%40ss@db");
        assert_eq!(redactor.clean("p%40ss or p@ss failed"), "*** or *** failed");
        assert!(!format!("{redactor:?}").contains("ss)"));
    }

    #[test]
    fn codes_are_told_apart() {
        for (code, class) in [
            (13, Class::Operator),
            (18, Class::Operator),
            (59, Class::Operator),
            (121, Class::Operator),
            (91, Class::Retry),
            (10107, Class::Retry),
            (64, Class::Retry),
            (2, Class::Bug),
        ] {
            assert_eq!(classify_code(code), class, "{code}");
        }
    }

    /// As the driver 3.9 says it.
    #[test]
    fn servers_that_cannot_be_used_are_named_with_the_reason() {
        let refused = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: 127.0.0.1:1, \
                       Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {\"RetryableError\"}, source: \
                       None, server response: None } ] }";
        let told = "no server that can be used: 127.0.0.1:1 Connection refused (os error 111)";
        assert_eq!(selection_text(refused), told);
        let set = "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary, Set Name: rs, Servers: [ { Address: \
                   a:27017, Type: RsSecondary, Average RTT: 1ms }, { Address: b:27017, Type: Unknown } ] }";
        let told = "no server that can be used: a:27017 is RsSecondary; b:27017 not heard of yet";
        assert_eq!(selection_text(set), told);
        for kept in [
            "something new",
            "Topology: { Servers: [ { Address: a:1, Compatiblity Error: it reports wire version 2 } ] }",
        ] {
            assert_eq!(selection_text(kept), kept);
        }
    }

    #[test]
    fn kinds_without_a_label_are_known() {
        let refused: Error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
        assert_eq!(classify(&refused), Class::Retry);
        assert_eq!(classify(&Error::custom("anything")), Class::Bug);
        let timeout = ProjectionError::Timeout { action: "ping", seconds: 3 };
        assert_eq!(timeout.class(), Class::Retry);
        assert_eq!(timeout.to_string(), "MongoDB: no answer to ping within 3 s");
    }
}
