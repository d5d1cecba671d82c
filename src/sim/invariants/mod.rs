//! What must hold after every step of every history; one file per property (`safety.md` of the design).

pub mod election;
pub mod ledger;
pub mod linearizable;
pub mod log;
pub mod projection;
pub mod promise;
pub mod state;

use crate::ledger::apply::Happening;
use crate::node::frame::Frame;
use crate::node::io::Notice;
use crate::raft::{Base, Entry};
use crate::types::{Index, NodeId};

use super::host::Host;

/// Watches a whole history.
#[derive(Debug, Default)]
pub struct Watch {
    election: election::Watch,
    log: log::Watch,
    state: state::Watch,
    ledger: ledger::Watch,
}

impl Watch {
    /// After every step of a host.
    pub fn after_step(&mut self, host: &Host) -> Result<(), String> {
        self.log.after_step(host)?;
        self.election.after_step(host, self.log.last_committed())
    }

    /// A node lets entries be applied: it holds them committed.
    pub fn committed(&mut self, hosts: &[Host], node: &NodeId, entries: &[Entry]) -> Result<(), String> {
        let known = self.log.last_committed();
        entries
            .iter()
            .filter(|entry| entry.index > known)
            .try_for_each(|entry| promise::on_a_majority(hosts, entry))?;
        self.log.committed(node, entries)
    }

    /// A node says something to another.
    pub fn said(&mut self, host: &Host, to: &NodeId, frame: &Frame) -> Result<(), String> {
        promise::kept(host, to, frame)
    }

    /// A node has applied one entry.
    pub fn applied(&mut self, host: &Host, index: Index, happenings: &[Happening]) -> Result<(), String> {
        for happening in happenings {
            if let Happening::IntervalSettled { interval, .. } = happening {
                self.ledger.settled_at(&host.id, *interval, index)?;
            }
        }
        self.state.at(&host.id, index, host.state.digest())
    }

    /// A node's state was replaced by a snapshot.
    pub fn installed(&mut self, host: &Host, base: Base) -> Result<(), String> {
        self.ledger.forget(&host.id);
        self.state.at(&host.id, base.index, host.state.digest())
    }

    /// A node told something.
    pub fn notice(&mut self, node: &NodeId, notice: &Notice) -> Result<(), String> {
        self.election.notice(notice);
        self.ledger.notice(node, notice)
    }

    /// Elections won so far.
    pub fn elections(&self) -> u64 {
        self.election.won()
    }

    /// Positions committed so far.
    pub fn last_committed(&self) -> Index {
        self.log.last_committed()
    }

    /// At the end of a history: whole ledgers.
    pub fn at_end(&self, host: &Host) -> Result<(), String> {
        self.ledger.at_end(host)
    }
}
