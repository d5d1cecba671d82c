//! How commands fail: one text with what happened, what was tried, whether a write applied and what to do; one exit code.

use std::fmt::Write as _;
use std::io;

use crate::agent::AgentError;
use crate::client::{ClientError, Outcome};
use crate::config::Errors;
use crate::server::ServerError;

/// A command failed.
#[derive(Debug)]
pub enum CliError {
    /// The cluster did not do it.
    Client(ClientError),
    /// The configuration is wrong.
    Config(Errors),
    /// The command line is wrong.
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Something that has no better name.
    Failed(String),
    /// Acknowledged data cannot be read back, or is not what it should be.
    Damaged(String),
    /// Data could not be printed.
    Output(io::Error),
    /// A super-node could not start, or had to stop.
    Server(ServerError),
    /// An agent could not start, or had to stop.
    Agent(AgentError),
    /// Checks of the demo failed; they were told.
    Checks,
    /// The simulator broke an invariant.
    Violation {
        /// Which, when, in which history.
        what: String,
        /// What to run to see it again.
        command: String,
    },
    /// Ctrl-C.
    Interrupted,
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        CliError::Client(error)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        CliError::Output(error)
    }
}

impl CliError {
    /// The command line is wrong.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::Usage { message: message.into(), hint: hint.into() }
    }

    /// Something that has no better name.
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError::Failed(message.into())
    }

    /// The exit code of the interface.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Client(error) => exit_code_of(error),
            CliError::Config(_) | CliError::Usage { .. } => 2,
            CliError::Failed(_) | CliError::Checks | CliError::Violation { .. } => 1,
            CliError::Server(error) => error.exit_code(),
            CliError::Agent(error) => error.exit_code(),
            CliError::Damaged(_) => 9,
            // Whoever closed the pipe has read enough.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::Output(_) => 1,
            CliError::Interrupted => 130,
        }
    }

    /// The text for stderr; nothing when there is nothing to say.
    pub fn render(&self) -> Option<String> {
        Some(match self {
            CliError::Client(error) => render_client(error),
            CliError::Config(errors) => {
                let one = |error: &crate::config::ConfigError| {
                    format!("error: {}   [config]\n  hint: {}\n", error.message, error.hint)
                };
                errors.0.iter().map(one).collect()
            }
            CliError::Usage { message, hint } => format!("error: {message}   [usage]\n  hint: {hint}\n"),
            CliError::Failed(message) => format!("error: {message}   [failed]\n"),
            CliError::Server(ServerError::Join { code, message, hint }) => {
                format!("error: {message}   [{}]\n  hint: {hint}\n", code_name(*code))
            }
            CliError::Server(error) => format!("error: {error}   [{}]\n", code_name(error.exit_code())),
            CliError::Agent(error) => format!("error: {error}   [{}]\n", code_name(error.exit_code())),
            CliError::Checks => return None,
            CliError::Violation { what, command } => {
                format!("error: {what}   [failed]\n  reproduce: {command}\n")
            }
            CliError::Damaged(message) => format!("error: {message}   [damaged]\n"),
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            CliError::Output(error) => format!("error: cannot write the output: {error}   [failed]\n"),
            CliError::Interrupted => "interrupted\n".to_string(),
        })
    }
}

/// The word in brackets for an exit code.
fn code_name(code: u8) -> &'static str {
    match code {
        2 => "config",
        5 => "conflict",
        7 => "forbidden",
        9 => "damaged",
        _ => "failed",
    }
}

fn exit_code_of(error: &ClientError) -> u8 {
    if error.outcome == Some(Outcome::Unknown) {
        return 8;
    }
    match error.code.as_str() {
        "usage" | "bad_request" | "too_large" => 2,
        "unreachable" | "draining" => 3,
        // A read that no majority confirmed in time.
        "no_leader" | "not_leader" | "timeout" => 4,
        "conflict" | "session_expired" | "key_expired" | "insufficient_funds" | "suspended" => 5,
        "not_found" => 6,
        "unauthorized" | "forbidden" => 7,
        "damaged" => 9,
        _ => 1,
    }
}

fn render_client(error: &ClientError) -> String {
    let mut text = format!("error: {}   [{}]\n", error.message, error.code);
    let mut line = |line: String| writeln!(text, "  {line}").expect("writing to a string does not fail");
    if !error.tried.is_empty() {
        let tried: Vec<String> =
            error.tried.iter().map(|tried| format!("{} {}", tried.name, tried.what)).collect();
        line(format!("tried  {}", tried.join(" · ")));
    }
    let outcome = match error.outcome {
        None => "",
        Some(Outcome::Applied) => "write applied.",
        Some(Outcome::NotApplied) if error.retryable => "write not applied; safe to retry.",
        Some(Outcome::NotApplied) => "write not applied.",
        Some(Outcome::Unknown) => "the write may or may not have happened.",
    };
    match (outcome, &error.hint) {
        ("", None) => {}
        ("", Some(hint)) => line(format!("hint: {hint}")),
        (outcome, None) => line(outcome.to_string()),
        (outcome, Some(hint)) => line(format!("{outcome}  hint: {hint}")),
    }
    text
}
