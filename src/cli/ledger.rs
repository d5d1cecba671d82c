//! `ledger balances|rewards|claim|adjust|verify|export`.

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Call, Client, VerifyWish};
use crate::types::Amount;

use super::export::{self, ExportFormat};
use super::output::{field, points};
use super::progress::Progress;
use super::{CliError, Output};

/// `ledger …`
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// What every member holds
    Balances {
        /// Only this member
        #[arg(long, value_name = "M")]
        member: Option<String>,
        /// Only the N highest, highest first
        #[arg(long, value_name = "N", conflicts_with = "member")]
        top: Option<usize>,
    },
    /// Every movement of money, newest last
    Rewards {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Pay out part of a balance
    Claim {
        /// Whose.
        member: String,
        /// How many points, such as 2.5
        #[arg(allow_negative_numbers = true)]
        amount: String,
        /// The claim's number: one more than that of the last. Say it when you repeat a claim [default: the next]
        #[arg(long, value_name = "N")]
        seq: Option<u64>,
    },
    /// Move a balance by hand; the movement names operator and reason for ever
    Adjust {
        /// Whose.
        member: String,
        /// By how many points, such as 2.5 or -1
        #[arg(allow_hyphen_values = true)]
        delta: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who does it [env: USER]
        #[arg(long, value_name = "NAME")]
        operator: Option<String>,
    },
    /// Recompute hashes, sums and settlements of the asked node's ledger
    Verify {
        /// Also compare MongoDB with it, document by document
        #[arg(long)]
        mongodb: bool,
        /// Begin at the newest record instead of the oldest
        #[arg(long)]
        newest_first: bool,
        /// With --newest-first: end after so many intervals
        #[arg(long, value_name = "N", requires = "newest_first")]
        intervals: Option<u64>,
    },
    /// Write every movement, oldest first, as CSV or one JSON object per line
    Export {
        /// How to write it
        #[arg(long, value_enum, default_value = "csv")]
        format: ExportFormat,
        /// Which.
        #[command(flatten)]
        filter: Filter,
    },
}

/// Which movements.
#[derive(Debug, Args)]
pub struct Filter {
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
}

impl Filter {
    fn call(self) -> Call {
        let Filter { member, kind, from, to, after } = self;
        let kind = kind.and_then(|kind| kind.to_possible_value()).map(|value| value.get_name().to_string());
        Call::get("/v1/rewards")
            .query_if("member", member)
            .query_if("kind", kind)
            .query_if("from", from)
            .query_if("to", to)
            .query_if("after", after)
    }
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
        LedgerCommand::Balances { member, top } => {
            let call = Call::get("/v1/balances").query_if("member", member);
            let items = match top {
                None => client.pages(call, None).await?,
                Some(top) => match client.send(call.query("top", top)).await?.body["items"].take() {
                    Value::Array(items) => items,
                    _ => Vec::new(),
                },
            };
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
        LedgerCommand::Rewards { filter, limit } => {
            let items = client.pages(filter.call(), limit).await?;
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
        LedgerCommand::Claim { member, amount, seq } => claim(&member, &amount, seq, client, output).await,
        LedgerCommand::Adjust { member, delta, reason, operator } => {
            let operator = operator.or_else(|| std::env::var("USER").ok().filter(|name| !name.is_empty()));
            let operator = operator.ok_or_else(|| {
                CliError::usage("nobody says who adjusts", "give --operator NAME, or set USER")
            })?;
            let delta = amount_of(&delta)?;
            let body = json!({ "member": member, "delta": delta, "reason": reason, "operator": operator });
            let call = Call::new(Method::POST, "/v1/adjustments")
                .body(&body)
                .find_out(format!("super-node ledger rewards --member {member} --kind adjustment"));
            Ok(output.record(&client.send(call).await?.body)?)
        }
        LedgerCommand::Verify { mongodb, newest_first, intervals } => {
            verify(VerifyWish { newest_first, intervals, mongodb }, client, output).await
        }
        LedgerCommand::Export { format, filter } => export::run(filter.call(), format, client, output).await,
    }
}

fn amount_of(text: &str) -> Result<Amount, CliError> {
    Amount::from_points(text).map_err(|why| CliError::usage(why, "amounts are in points, such as 2.5"))
}

/// Claims under the number that was given, or under the next one.
async fn claim(
    member: &str,
    amount: &str,
    seq: Option<u64>,
    client: &Client,
    output: &mut Output,
) -> Result<(), CliError> {
    let amount = amount_of(amount)?;
    let seq = match seq {
        Some(seq) => seq,
        None => {
            let answer = client.send(Call::get("/v1/claims").query("member", member)).await?;
            answer.body.get("last_seq").and_then(Value::as_u64).unwrap_or(0) + 1
        }
    };
    let call = Call::new(Method::POST, "/v1/claims")
        .body(&json!({ "member": member, "seq": seq, "amount": amount }))
        .find_out(format!("repeat it with --seq {seq}: it pays once and answers with the same receipt"));
    Ok(output.record(&client.send(call).await?.body)?)
}

async fn verify(wish: VerifyWish, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let mut progress = Progress::counting("checking", "records");
    let answer = client.verify(wish, &mut |done, total| progress.at(done, total)).await?;
    drop(progress);
    output.record(&answer.body)?;
    match answer.body.get("ok").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(CliError::Damaged(format!("the ledger of {} does not verify", answer.node))),
    }
}
