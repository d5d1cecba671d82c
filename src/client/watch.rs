//! Following everything below a prefix of the shared dictionary.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, Client, ClientError};

/// How long one long poll waits on the node.
const WAIT: Duration = Duration::from_secs(30);

/// Follows the keys that begin with a prefix, through whichever node answers. A change of node loses nothing: what was seen
/// is remembered here. Between two polls a key may change several times; then only its last value is seen.
pub struct PrefixWatch<'c> {
    client: &'c Client,
    prefix: String,
    /// The revision up to which everything was seen.
    after: u64,
    /// The keys that exist, as far as was seen.
    known: BTreeSet<String>,
    ready: VecDeque<Value>,
}

/// What a node answers to a poll.
#[derive(Deserialize)]
struct News {
    items: Vec<Value>,
    keys: usize,
    revision: u64,
    more: bool,
}

impl Client {
    /// Follows the keys that begin with `prefix`; first come those that are there.
    pub fn watch(&self, prefix: &str) -> PrefixWatch<'_> {
        PrefixWatch {
            client: self,
            prefix: prefix.to_string(),
            after: 0,
            known: BTreeSet::new(),
            ready: VecDeque::new(),
        }
    }
}

impl PrefixWatch<'_> {
    /// The next change: an entry `{"key","value","revision"}`, or `{"key","deleted":true}`. Waits until there is one.
    ///
    /// # Errors
    /// When no node could answer within the client's time limit. The watch may be asked again: it goes on where it was.
    pub async fn next(&mut self) -> Result<Value, ClientError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            let mut call = Call::get("/v1/kv")
                .query("prefix", &self.prefix)
                .query("after", self.after)
                .query("keys", self.known.len())
                .query("wait", format!("{}s", WAIT.as_secs()));
            call.wait = WAIT;
            let answer = self.client.send(call).await?;
            if answer.body.is_null() {
                continue;
            }
            let News { items, keys, revision, more } = answer.read()?;
            self.known.extend(items.iter().filter_map(key_of));
            self.ready.extend(items);
            self.after = revision;
            if !more && keys != self.known.len() {
                self.find_deleted().await?;
            }
        }
    }

    /// Some keys are gone: the list says which.
    async fn find_deleted(&mut self) -> Result<(), ClientError> {
        let call = Call::get("/v1/kv").query("prefix", &self.prefix);
        let items = self.client.pages(call, None).await?;
        let present: BTreeSet<String> = items.iter().filter_map(key_of).collect();
        let gone: Vec<String> = self.known.difference(&present).cloned().collect();
        for key in gone {
            self.known.remove(&key);
            // It may have changed and then gone; what comes last is that it is gone.
            self.ready.push_back(json!({ "key": key, "deleted": true }));
        }
        Ok(())
    }
}

fn key_of(item: &Value) -> Option<String> {
    item.get("key").and_then(Value::as_str).map(str::to_string)
}
