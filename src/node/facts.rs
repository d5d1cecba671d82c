//! What a node needs to know of the replicated state to do its duties: read once per applied batch.

use std::collections::BTreeMap;

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::policy::Policy;
use crate::ledger::query;
use crate::ledger::records::{Checkpoint, Genesis, IntervalState, Totals};
use crate::ledger::retention;
use crate::types::{IntervalId, NodeId, Term, Version};

use super::fleet::{Concerned, News};

/// How many elections past the checkpoint are counted for the projection's lag.
const LAG_ELECTIONS_MAX: usize = 1_000;

/// An interval that is cut and not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub id: IntervalId,
    /// The super-nodes that should report.
    pub expected: Vec<NodeId>,
    /// Those whose whole report is in the log.
    pub reported: Vec<NodeId>,
}

impl Waiting {
    /// Whether a majority of the observers has reported.
    pub fn has_majority(&self) -> bool {
        self.reported.len() * 2 > self.expected.len()
    }
}

/// The replicated state, as the node's duties see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Who this cluster is; `None` before the first command.
    pub genesis: Option<Genesis>,
    /// The policy in force.
    pub policy: Policy,
    /// The interval counters; `None` before the first command.
    pub interval: Option<IntervalState>,
    /// The members, as far as they may have changed.
    pub members: News,
    /// Intervals that are cut and not settled, oldest first.
    pub waiting: Vec<Waiting>,
    /// The ledger's sums.
    pub totals: Totals,
    /// How far the projection has come.
    pub checkpoint: Checkpoint,
    /// Records that are not projected.
    pub projection_lag: u64,
    /// The term of the last recorded election.
    pub last_election: Option<Term>,
    /// The data directories that super-nodes are bound to.
    pub incarnations: BTreeMap<NodeId, String>,
    /// The versions that super-nodes have stated.
    pub versions: BTreeMap<NodeId, Version>,
    /// The last interval that was forgotten.
    pub trimmed: IntervalId,
}

impl Facts {
    /// Reads the facts; of the members only those concerned.
    pub fn read(reader: &dyn Reader, concerned: &Concerned) -> Result<Facts, KeyspaceError> {
        let genesis = query::genesis(reader)?;
        let interval = query::interval_state(reader)?;
        let totals = query::totals(reader)?;
        let checkpoint = query::checkpoint(reader)?;
        let mut waiting = Vec::new();
        if let Some(state) = interval {
            let mut id = state.next_settle;
            while id < state.open {
                let reports = query::reports(reader, id)?;
                let expected = reports.iter().map(|report| report.observer.clone()).collect();
                let complete = reports.into_iter().filter(|report| report.complete);
                waiting.push(Waiting {
                    id,
                    expected,
                    reported: complete.map(|report| report.observer).collect(),
                });
                id = id.next();
            }
        }
        let elections = query::elections(reader, checkpoint.elections, LAG_ELECTIONS_MAX)?.len() as u64;
        let settled = interval.map_or(0, |state| state.next_settle.0 - 1);
        let projection_lag = totals.records.saturating_sub(checkpoint.rewards)
            + settled.saturating_sub(checkpoint.intervals.0)
            + elections;
        Ok(Facts {
            genesis,
            policy: query::policy(reader)?.unwrap_or_default(),
            interval,
            members: News::read(reader, concerned)?,
            waiting,
            totals,
            checkpoint,
            projection_lag,
            incarnations: query::incarnations(reader)?,
            versions: query::versions(reader)?,
            trimmed: retention::trimmed(reader)?.through,
            last_election: query::last_election(reader)?.map(|election| election.term),
        })
    }
}
