//! Asks a super-node where clients find it, for a node that takes part in nothing yet: one that came back and must look for
//! help before it may be heard.
//!
//! A greeting and its answer, on a connection that is closed then. No frame is sent, so the other node hears nothing that
//! consensus or health could count.

use crate::node::frame::{Hello, PROTOCOL_MIN};
use crate::types::{NodeId, Version};

use super::dial::{self, REASON_CHARS_MAX};
use super::peers::RANGES_SINCE;
use super::tls::Tls;
use super::wire::{self, GREETING_BYTES_MAX, Greeting, WireError};

/// Who asks.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// This node.
    pub id: NodeId,
    /// The configured name of the cluster.
    pub cluster: String,
    /// The data directory that the cluster knows it by.
    pub incarnation: String,
    /// What its cluster was founded with, if it knows.
    pub identity: Option<String>,
    /// The newest version of the peer protocol that it speaks.
    pub protocol_max: u16,
    /// How it secures its connections, if it does.
    pub tls: Option<Tls>,
}

impl Introduction {
    fn hello(&self, to: &NodeId, protocol: u16) -> Hello {
        Hello {
            protocol,
            cluster: self.cluster.clone(),
            from: self.id.clone(),
            to: to.clone(),
            version: Version::current(),
            // It cannot be reached.
            url: String::new(),
            incarnation: self.incarnation.clone(),
            address: String::new(),
            identity: self.identity.clone(),
        }
    }
}

/// The client URL of `node`, which listens for peers at `address`.
///
/// # Errors
/// Why it did not say, in words.
pub async fn client_url(address: &str, node: &NodeId, who: &Introduction) -> Result<String, String> {
    if who.protocol_max >= RANGES_SINCE {
        let hello = who.hello(node, who.protocol_max);
        match ask(address, who, &Greeting::Offer { oldest: PROTOCOL_MIN, hello }).await {
            // Perhaps it knows no offers, and could not say so.
            Err(Trouble::Wire(_)) => {}
            answered => return answered.map_err(|trouble| trouble.to_string()),
        }
    }
    let hello = Greeting::Hello(who.hello(node, PROTOCOL_MIN));
    ask(address, who, &hello).await.map_err(|trouble| trouble.to_string())
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Dial(#[from] dial::DialError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Refused(String),
}

async fn ask(address: &str, who: &Introduction, greeting: &Greeting) -> Result<String, Trouble> {
    let stream = dial::open(address).await?;
    let (reader, mut writer) = dial::secured(who.tls.as_ref(), address, stream).await?;
    wire::write_greeting(&mut writer, greeting).await?;
    match wire::read_greeting(&mut wire::reader(reader, GREETING_BYTES_MAX)).await? {
        Greeting::Hello(hello) => Ok(hello.url),
        Greeting::Refused { reason } => {
            Err(Trouble::Refused(reason.chars().take(REASON_CHARS_MAX).collect()))
        }
        Greeting::Former(_) | Greeting::Offer { .. } | Greeting::Bound { .. } => {
            Err(Trouble::Refused("it speaks another version of the peer protocol".to_string()))
        }
    }
}
