//! `ledger balances|rewards|verify`.

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use crate::client::{Call, Client};

use super::output::{field, points};
use super::{CliError, Output};

/// `ledger …`
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// What every member holds
    Balances {
        /// Only this member
        #[arg(long, value_name = "M")]
        member: Option<String>,
    },
    /// Every movement of money, newest last
    Rewards {
        /// Only this member
        #[arg(long, value_name = "M")]
        member: Option<String>,
        /// Only this kind
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Only from this time on, such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Only before this time
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// Only after this sequence number
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Recompute the hash chain and the sums of the asked node's ledger
    Verify {
        /// Also compare MongoDB with it, document by document
        #[arg(long)]
        mongodb: bool,
    },
}

/// Kinds of movements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// Earned in an interval.
    Reward,
    /// Lost in an interval.
    Penalty,
    /// Paid out.
    Claim,
    /// For claiming more than the balance.
    ClaimPenalty,
    /// By an operator.
    Adjustment,
}

/// Runs it.
pub async fn run(command: LedgerCommand, client: &Client, output: &mut Output) -> Result<(), CliError> {
    match command {
        LedgerCommand::Balances { member } => {
            let items = client.pages(Call::get("/v1/balances").query_if("member", member), None).await?;
            let row = |item: &Value| {
                vec![
                    field(item, "member"),
                    points(item, "balance"),
                    field(item, "status"),
                    field(item, "strikes"),
                ]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            Ok(output.list(&["MEMBER", "BALANCE", "STATUS", "STRIKES"], &rows, &items)?)
        }
        LedgerCommand::Rewards { member, kind, from, to, after, limit } => {
            let kind =
                kind.and_then(|kind| kind.to_possible_value()).map(|value| value.get_name().to_string());
            let call = Call::get("/v1/rewards")
                .query_if("member", member)
                .query_if("kind", kind)
                .query_if("from", from)
                .query_if("to", to)
                .query_if("after", after);
            let items = client.pages(call, limit).await?;
            let row = |item: &Value| {
                vec![
                    field(item, "seq"),
                    field(item, "at"),
                    field(item, "member"),
                    field(item, "kind"),
                    points(item, "amount"),
                    points(item, "balance"),
                    field(item, "interval"),
                    field(item, "reason"),
                ]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            let headers = ["SEQ", "AT", "MEMBER", "KIND", "AMOUNT", "BALANCE", "INTERVAL", "REASON"];
            Ok(output.list(&headers, &rows, &items)?)
        }
        LedgerCommand::Verify { mongodb } => verify(mongodb, client, output).await,
    }
}

async fn verify(mongodb: bool, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let answer =
        client.send(Call::get("/v1/ledger/verify").query_if("mongodb", mongodb.then_some(true))).await?;
    output.record(&answer.body)?;
    match answer.body.get("ok").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(CliError::Damaged(format!("the ledger of {} does not verify", answer.node))),
    }
}
