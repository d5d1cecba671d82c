//! `doctor`: what is wrong with a set-up, and what to do about it.
//!
//! Two looks: at this machine as the configuration describes it (ports, disk, directory, open files, MongoDB, the way to
//! the peers), and at the running nodes, each of which tells of itself (`GET /v1/doctor`) and is compared with the others.
//! What is looked at is gathered first; what it means is decided by functions without side effects, in `local` and `online`.

mod local;
mod online;

use clap::Args;
use serde_json::json;

use super::progress::Moving;
use super::start::SettingsArgs;
use super::{CliError, Environment, Global, Output};

/// `doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The settings of the node of this machine.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Look at running nodes only
    #[arg(long)]
    pub online: bool,
    /// Look at this machine only
    #[arg(long, conflicts_with = "online")]
    pub offline: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Ok,
    /// It works, and will not for long, or not well.
    Warn,
    /// It does not work.
    Fail,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// What was looked at, in one word.
    check: &'static str,
    /// Where.
    subject: String,
    /// What was found.
    what: String,
    /// What to do; empty when nothing is to be done.
    remedy: String,
}

impl Finding {
    fn ok(check: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Finding {
        let (subject, what) = (subject.into(), what.into());
        Finding { level: Level::Ok, check, subject, what, remedy: String::new() }
    }

    fn bad(
        level: Level,
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { level, check, subject: subject.into(), what: what.into(), remedy: remedy.into() }
    }
}

/// Runs it.
pub async fn run(
    args: DoctorArgs,
    global: &Global,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut findings = Vec::new();
    let waiting = Moving::waiting("looking");
    if !args.online {
        let settings = args.settings.load().map_err(CliError::Config)?.settings;
        findings.extend(local::look(&settings).await);
    }
    if !args.offline {
        // Whoever names endpoints expects nodes there; otherwise it is no fault that none runs.
        let named = global.endpoints.is_some() || environment.get("SUPER_NODE_ENDPOINTS").is_some();
        let expected = named || args.online;
        findings.extend(online::look(&global.client(environment)?, expected).await);
    }
    drop(waiting);
    let items: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({ "level": finding.level.name(), "check": finding.check, "subject": finding.subject,
                "what": finding.what, "remedy": finding.remedy })
        })
        .collect();
    let row = |finding: &Finding| {
        let Finding { level, check, subject, what, remedy } = finding;
        vec![level.name().to_string(), check.to_string(), subject.clone(), what.clone(), remedy.clone()]
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    output.list(&["", "CHECK", "WHERE", "FOUND", "REMEDY"], &rows, &items)?;
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    match failed {
        0 => Ok(()),
        1 => Err(CliError::failed("1 finding needs you")),
        many => Err(CliError::failed(format!("{many} findings need you"))),
    }
}
