//! The simulated agents: their keys, and the real code with which they answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::ledger::command::Command;
use crate::network::answer::{Answerer, Heard};
use crate::types::{AgentKey, MemberId, Micros, Version};

/// The key of an agent: nothing is secret in a history.
pub fn key(member: &MemberId) -> AgentKey {
    let mut key = [0; 32];
    for (byte, letter) in key.iter_mut().zip(member.as_str().bytes()) {
        *byte = letter;
    }
    AgentKey(key)
}

/// The agent's wish to be a member, granted at once.
pub fn enrol(member: MemberId, address: String) -> Command {
    let key = key(&member);
    Command::AgentEnrol { member, address, key, approved: true }
}

/// All agents that were ever pinged.
#[derive(Debug, Default)]
pub struct Fleet {
    agents: BTreeMap<MemberId, Answerer>,
}

impl Fleet {
    /// What an agent answers to a datagram.
    pub fn hear(&mut self, member: &MemberId, bytes: &[u8], now: Micros) -> Option<Vec<u8>> {
        let agent = self.agents.entry(member.clone()).or_insert_with(|| {
            let keys = [(member.clone(), key(member))].into();
            Answerer::new(Some("sim".to_string()), keys, Version::current())
        });
        match agent.hear(bytes, IpAddr::V4(Ipv4Addr::LOCALHOST), now) {
            Heard::Ping { answer } => Some(answer),
            Heard::Replayed | Heard::Limited | Heard::Junk => None,
        }
    }
}
