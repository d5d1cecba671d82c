//! What must hold after every step of every history; one file per property (`safety.md` of the design).
//!
//! Every breach is told as `name: what happened`; [`NAMES`] lists the names.

pub mod acknowledged;
pub mod configuration;
pub mod election;
pub mod fresh;
pub mod lease;
pub mod ledger;
pub mod linearizable;
pub mod log;
pub mod once;
pub mod projection;
pub mod promise;
pub mod state;
pub mod stuck;

use crate::ledger::apply::Happening;
use crate::node::applier::AppliedBatch;
use crate::node::frame::Frame;
use crate::node::io::Notice;
use crate::raft::{Base, Configuration, Entry, Event, HardState, Persist, Status};
use crate::types::{Index, Micros, NodeId};

use super::host::Host;

/// The names of all invariants, as they begin the text of a breach.
pub const NAMES: &[&str] = &[
    "election safety",
    "leader completeness",
    "elected by a quorum",
    "log matching",
    "leader append-only",
    "committed entries never change",
    "committed on a quorum",
    "committed in its own term",
    "acknowledged and gone",
    "counted and not there",
    "configuration in force",
    "joint consensus",
    "one change at a time",
    "no change before the first commit",
    "lease outlived",
    "lease promised",
    "read asks afresh",
    "one vote a term",
    "terms never go back",
    "order of counters",
    "counters never go back",
    "said before it is durable",
    "applied twice",
    "refused and applied",
    "acknowledged and not committed",
    "unknown without reason",
    "replicas agree",
    "settled in order",
    "settled once",
    "paid once",
    "conservation",
    "ledger",
    "MongoDB equals the ledger",
    "linearizability",
    "durability",
    "recovery",
    "storage",
    "a stuck leader gives way",
    "a healthy disk is not blamed",
    "liveness",
    "no rest",
    "works under the fault",
    "assertion",
    "unexpected error",
    "vacuity",
];

/// Watches a whole history.
#[derive(Debug, Default)]
pub struct Watch {
    acknowledged: acknowledged::Watch,
    election: election::Watch,
    log: log::Watch,
    state: state::Watch,
    ledger: ledger::Watch,
    once: once::Watch,
    promises: lease::Promises,
    fresh: fresh::Watch,
    founded: configuration::Founded,
    stuck: stuck::Watch,
}

impl Watch {
    /// A node hands something to its disk.
    pub fn issued(&mut self, hosts: &[Host], host: &Host, batch: &Persist) -> Result<(), String> {
        configuration::issued(&self.founded, hosts, host, batch, &self.log)?;
        self.log.issued(host, batch)
    }

    /// A node's disk holds what it was given, or is found to hold it at a start.
    pub fn durable(&mut self, node: &NodeId, hard_state: &HardState) -> Result<(), String> {
        self.election.durable(node, hard_state)
    }

    /// After every step of a host. `before`: the configuration that was in force when the step began. `now`: the
    /// world's time.
    pub fn after_step(
        &mut self,
        hosts: &[Host],
        host: &Host,
        status: &Status,
        before: &Configuration,
        now: Micros,
    ) -> Result<(), String> {
        configuration::is_in_force(&self.founded, hosts, host, status, &self.log)?;
        self.acknowledged.after_step(hosts, host, status)?;
        let committed = self.log.last_committed();
        self.log.after_step(hosts, host, status, before)?;
        self.stuck.after_step(host, status, host.clock.monotonic(now))?;
        if self.log.last_committed() > committed {
            lease::is_over(hosts, host, status, now)?;
        }
        self.election.after_step(host, status, &self.log)
    }

    /// A node lets entries be applied: it holds them committed.
    pub fn committed(&mut self, node: &NodeId, entries: &[Entry]) -> Result<(), String> {
        self.log.committed(node, entries)
    }

    /// A node hears something from another, before it acts on it. `now`: the world's time.
    pub fn heard(&mut self, host: &Host, from: &NodeId, frame: &Frame, now: Micros) {
        self.fresh.heard(host, from, frame);
        self.promises.heard(host, from, frame, now);
    }

    /// A node says something to another. `now`: the world's time.
    pub fn said(&mut self, host: &Host, to: &NodeId, frame: &Frame, now: Micros) -> Result<(), String> {
        self.acknowledged.said(host, frame);
        self.fresh.said(host, to, frame)?;
        self.promises.said(host, to, frame, now)?;
        promise::kept(host, to, frame)
    }

    /// A node has applied one entry.
    pub fn applied(&mut self, host: &Host, entry: &Entry, batch: &AppliedBatch) -> Result<(), String> {
        let AppliedBatch { answers, happenings, .. } = batch;
        self.once.applied(entry, answers.get(&entry.index).and_then(|(_, answer)| answer.as_ref()))?;
        for happening in happenings {
            if let Happening::IntervalSettled { interval, .. } = happening {
                self.ledger.settled_at(host, *interval, entry.index)?;
            }
        }
        self.state.at(host, entry.index)
    }

    /// A client heard that its write was done.
    pub fn acknowledged(&mut self, value: Option<u64>, index: Index) -> Result<(), String> {
        self.once.acknowledged(value, index, self.log.last_committed())
    }

    /// A client heard that its write was not done and never will be.
    pub fn refused(&mut self, value: Option<u64>) -> Result<(), String> {
        self.once.refused(value)
    }

    /// A node's state was replaced by a snapshot.
    pub fn installed(&mut self, host: &Host, base: Base) -> Result<(), String> {
        self.ledger.forget(&host.id);
        self.founded.installed(&host.id);
        self.state.at(host, base.index)
    }

    /// A node told something. `now`: the world's time.
    pub fn notice(&mut self, host: &Host, notice: &Notice, now: Micros) -> Result<(), String> {
        if let Notice::Raft(Event::DiskDegraded { pending }) = notice {
            stuck::is_to_blame(host, *pending, now)?;
        }
        if let Notice::Raft(Event::BecameLeader { term, votes, .. }) = notice {
            self.election.won(host, *term, votes)?;
        }
        Ok(())
    }

    /// A machine lost everything it had and will be somebody new under its old name.
    pub fn wiped(&mut self, node: &NodeId) {
        self.acknowledged.forget(node);
        self.log.forget(node);
        self.election.forget(node);
        self.ledger.forget(node);
        self.fresh.forget(node);
        self.promises.forget(node);
        self.founded.forget(node);
    }

    /// Elections won so far.
    pub fn elections(&self) -> u64 {
        self.election.count()
    }

    /// Positions committed so far.
    pub fn last_committed(&self) -> Index {
        self.log.last_committed()
    }

    /// The configuration that was committed last, if one was.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.log.configuration()
    }

    /// At the end of a history: whole ledgers.
    pub fn at_end(&self, host: &Host) -> Result<(), String> {
        self.ledger.at_end(host)
    }
}
