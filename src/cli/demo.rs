//! `demo`: a whole cluster on this machine that tells its story. Here: its flags.

use std::path::PathBuf;

use clap::Args;

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How many super-nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub nodes: u8,
    /// How many fleet agents
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub agents: u16,
    /// Keep it running so long after the story; without it, it ends with the story
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Project the ledger into this MongoDB [env: MONGODB_URI]
    #[arg(long, value_name = "URI")]
    pub mongodb: Option<String>,
    /// Shorter waits between the chapters
    #[arg(long)]
    pub fast: bool,
    /// Keep the data directories here instead of in a temporary directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}
