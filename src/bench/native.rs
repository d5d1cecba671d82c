//! Clients of a closed loop that share connections of the framed protocol.

use std::time::Duration;

use crate::client::native::{CallError, Connection};
use crate::ledger::command::KvOperation;
use crate::network::native as wire;

use super::load::{Caller, Done};
use super::work::{Author, Operation};

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One client of a closed loop.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    author: Author,
}

impl Client {
    /// Asks over a connection, which others may share, for what the author makes up.
    pub fn new(connection: Connection, author: Author) -> Client {
        Client { connection, author }
    }
}

impl Caller for Client {
    async fn call(&mut self) -> Result<Done, String> {
        let operation = self.author.draw();
        let done = match &operation {
            Operation::Put { .. } => Done::Wrote(1),
            Operation::Batch { keys, .. } => Done::Wrote(keys.len() as u64),
            Operation::Get { .. } => Done::Read,
        };
        match self.connection.call(encode(&operation), None, TIMEOUT).await {
            Ok(wire::Done::Absent) => Err("absent".to_string()),
            Ok(_) => Ok(done),
            Err(CallError::Refused(refusal)) => Err(refusal.code),
            Err(CallError::NotSent(why) | CallError::Lost(why)) => Err(why),
        }
    }
}

/// An operation as it goes over the wire.
pub fn encode(operation: &Operation<'_>) -> wire::Operation {
    match operation {
        Operation::Put { key, value } => {
            wire::Operation::Put { key: (*key).to_string(), value: (*value).to_string(), if_revision: None }
        }
        Operation::Batch { keys, value } => wire::Operation::Batch {
            operations: keys
                .iter()
                .map(|key| KvOperation::Put { key: key.clone(), value: (*value).to_string() })
                .collect(),
        },
        Operation::Get { key } => {
            wire::Operation::Get { key: (*key).to_string(), level: wire::Level::Linearizable }
        }
    }
}
