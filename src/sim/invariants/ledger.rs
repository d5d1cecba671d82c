//! Every interval is settled exactly once, in order; the ledger conserves; its chains are unbroken.

use std::collections::BTreeMap;

use crate::ledger::query;
use crate::ledger::verify::verify;
use crate::node::ports::StateStore;
use crate::types::{Index, IntervalId, NodeId};

use crate::sim::host::Host;

/// No point comes from nowhere or goes there: the balances are what the movements sum up to.
fn conservation(host: &Host) -> Result<(), String> {
    let read = || {
        let view = host.state.view()?;
        let totals = query::totals(view.as_ref())?;
        let members = query::members(view.as_ref(), None, usize::MAX)?;
        Ok((totals, members))
    };
    let (totals, members) =
        read().map_err(|error: crate::ledger::keyspace::KeyspaceError| format!("conservation: {error}"))?;
    let balances: i128 = members.iter().map(|member| i128::from(member.balance.0)).sum();
    let moved = i128::from(totals.minted.0) - i128::from(totals.burned.0) - i128::from(totals.claimed.0);
    if balances == moved {
        return Ok(());
    }
    Err(format!("conservation: the balances of {} sum up to {balances}, the movements to {moved}", host.id))
}

/// Watches the ledger.
#[derive(Debug, Default)]
pub struct Watch {
    /// The last interval that each node settled, told or not: it may be killed right after.
    settled: BTreeMap<NodeId, IntervalId>,
    /// Where each interval was settled, on whichever node applied it first.
    places: BTreeMap<IntervalId, Index>,
}

impl Watch {
    /// A node has settled an interval by the entry at `index`. A replay does it at the same place; any other place would
    /// pay a second time. And a node may see an interval again, since a restart replays what was not flushed, but never skips
    /// one and never settles one that its earlier self has not come to.
    pub fn settled_at(&mut self, host: &Host, interval: IntervalId, index: Index) -> Result<(), String> {
        let node = &host.id;
        if let Some(last) = self.settled.insert(node.clone(), interval)
            && interval.0 > last.0 + 1
        {
            return Err(format!("settled in order: {node} settles {interval} after {last}"));
        }
        let known = self.places.get(&interval).copied();
        let place = *self.places.entry(interval).or_insert(index);
        if place != index {
            return Err(format!(
                "settled once: {node} settles {interval} at {index}, though it was settled at {place}"
            ));
        }
        // All nodes agree at a position (`replicas agree`): the first to come there is looked at for all.
        if known.is_none() { conservation(host) } else { Ok(()) }
    }

    /// A snapshot may have carried a node over some intervals.
    pub fn forget(&mut self, node: &NodeId) {
        self.settled.remove(node);
    }

    /// At the end of a history: the whole ledger of a node.
    pub fn at_end(&self, host: &Host) -> Result<(), String> {
        let view = host.state.view().map_err(|error| error.to_string())?;
        let report = verify(view.as_ref(), &mut |_, _| {});
        match report.problems.first() {
            None => Ok(()),
            Some(problem) => Err(format!("ledger of {}: {problem}", host.id)),
        }
    }
}
