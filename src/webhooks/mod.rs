//! Webhooks: what happens is told to receivers over HTTP, signed, at least once.
//!
//! There are two kinds of news. *Decisions* (an election, a void interval, a suspension, …) stand in the replicated ledger;
//! the leader reads them there after a cursor that is itself replicated ([`crate::ledger::webhooks`]), so none is left out by
//! a crash or a change of leader. *Sights* (a member is silent, a chain does not fit) are known to one node only, and wait in
//! its memory. `docs/webhooks.md` states what is guaranteed of each.
//!
//! * [`kinds`] names what can be told.
//! * [`decisions`] derives news from the ledger, with the same id on every node and at every try.
//! * [`sights`] keeps what this node saw.
//! * [`delivery`] is one HTTP request: signed, bounded, judged; [`patience`] says when it is tried again.
//! * [`courier`] serves one hook while this node runs.

pub mod courier;
pub mod decisions;
pub mod delivery;
pub mod kinds;
pub mod patience;
pub mod sights;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::ledger::records::Genesis;
use crate::types::UnixMillis;

pub use kinds::Kind;

/// Digits of the cluster's identity in front of every id: two clusters of one name do not mix.
const IDENTITY_DIGITS: usize = 8;

/// One receiver, as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name: the cursor in the ledger is kept under it.
    pub name: String,
    /// Where to post. May hold a secret in its path: shown only as [`Hook::place`].
    pub url: String,
    /// The key of the signature. Never shown.
    pub secret: Vec<u8>,
    /// What it is told.
    pub kinds: BTreeSet<Kind>,
    /// How long one try may take.
    pub timeout: Duration,
    /// How old news may be when a try fails and it is given up.
    pub age_max: Duration,
    /// The authority that vouches for the receiver; `None`: the public ones.
    pub ca: Option<PathBuf>,
}

impl Hook {
    /// Scheme, host and port of the receiver: what may be shown of the URL.
    pub fn place(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("http", self.url.as_str()));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}")
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.name)
            .field("place", &self.place())
            .field("kinds", &self.kinds)
            .field("timeout", &self.timeout)
            .field("age_max", &self.age_max)
            .finish_non_exhaustive()
    }
}

/// What a receiver is told; the body of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct News {
    /// The same for the same occurrence, on every node and at every try.
    pub id: String,
    /// What kind of thing happened.
    pub kind: Kind,
    /// When: log time for decisions, the node's clock for sights.
    pub at: UnixMillis,
    /// The configured name of the cluster.
    pub cluster: String,
    /// The facts.
    pub data: Value,
}

impl News {
    /// `about`: what tells this occurrence from all others of its kind.
    pub fn new(genesis: &Genesis, kind: Kind, about: &str, at: UnixMillis, data: Value) -> News {
        let identity: String = genesis.identity.chars().take(IDENTITY_DIGITS).collect();
        let id = format!("{identity}-{}-{about}", kind.as_str());
        News { id, kind, at, cluster: genesis.cluster.clone(), data }
    }
}

#[cfg(test)]
mod tests;
