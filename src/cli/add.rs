//! `add A B`: the replicated addition.

use clap::Args;
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, Client};

use super::output::{Format, field};
use super::{CliError, Output};

/// `add`
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct AddArgs {
    /// The first summand
    pub a: i64,
    /// The second summand
    pub b: i64,
}

/// Runs it.
pub async fn run(args: AddArgs, client: &Client, output: &mut Output) -> Result<(), CliError> {
    let AddArgs { a, b } = args;
    let call = Call::new(Method::POST, "/v1/add").body(&json!({ "a": a, "b": b }));
    // The sum changes nothing that could be read back; only the log grows.
    let answer = client.send(call.find_out(format!("repeat it: super-node add {a} {b}"))).await?.body;
    if output.format() == Format::Json {
        return Ok(output.json(&answer)?);
    }
    output.line(&format!("Leader: Node {}", field(&answer, "leader")))?;
    output.line(&format!("Operation performed on: Node {}", field(&answer, "node")))?;
    Ok(output.line(&format!("Result: {a} + {b} = {}", field(&answer, "result")))?)
}
