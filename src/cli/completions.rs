//! `completions SHELL`: a script that teaches a shell to complete the command line.

use clap::Args;
use clap_complete::Shell;

use super::{CliError, Output};

/// `completions`
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// Whose script
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, output: &mut Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), super::PROGRAM, &mut script);
    Ok(output.text(&mended(&String::from_utf8_lossy(&script)))?)
}

/// In the script for bash the generator (clap_complete 4.6) takes the hyphen of our name for the border between two commands where it
/// answers, and not where it looks for the command: subcommands of subcommands would never be completed.
fn mended(script: &str) -> String {
    script.replace("super__subcmd__node", "super__node")
}
