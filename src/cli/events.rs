//! `events [--follow] [--type T]`.

use std::io;
use std::ops::ControlFlow;

use clap::Args;

use crate::client::Client;
use crate::client::events::Wish;
use crate::node::events::NodeEvent;

use super::output::Format;
use super::{CliError, Output};

/// `events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Only events of this type, such as leader_elected
    #[arg(long = "type", value_name = "T")]
    pub kind: Option<String>,
    /// Only after this event
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub after: u64,
}

/// Runs it.
pub async fn run(args: EventsArgs, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let wish = Wish { follow: args.follow, kind: args.kind, after: args.after };
    let mut printed: io::Result<()> = Ok(());
    let mut visit = |event: NodeEvent| {
        printed = print(&event, output);
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    client.events(wish, &mut visit).await?;
    Ok(printed?)
}

fn print(event: &NodeEvent, output: &mut Output) -> io::Result<()> {
    match output.format() {
        Format::Json => output.line(&serde_json::to_string(event).expect("events are plain data")),
        Format::Table => output.line(&format!("{}  {:<20} {}", event.at, event.kind, event.message)),
        Format::Plain => {
            let message = event.message.replace(['\t', '\n'], " ");
            output.line(&format!("{}\t{}\t{}\t{message}", event.id, event.at, event.kind))
        }
    }
}
