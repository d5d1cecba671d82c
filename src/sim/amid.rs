//! Liveness while things go wrong: as long as a majority of the voters is well and each of it hears each other, the cluster
//! has to take writes, whatever befalls the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::types::{Micros, NodeId};

use super::clients::Clients;
use super::world::World;

/// For so long a majority must have been well, without a write, to be reproached: an election or two, and all clients
/// having asked, twice in a row, a node that reaches nobody.
const IDLE_MAX: Duration = Duration::from_secs(7);

/// See the module's head.
#[derive(Debug, Default)]
pub struct Amid {
    /// A majority of the voters that is well, and since when.
    core: Option<(BTreeSet<NodeId>, Micros)>,
    /// How often a majority had been well for long enough to be judged.
    pub judged: u64,
}

impl Amid {
    /// Looks at a world while things go wrong.
    pub fn look(&mut self, world: &World, clients: &Clients) -> Result<(), String> {
        let configuration = world.members();
        if configuration.outgoing.is_some() || !configuration.joining.is_empty() || world.network.is_stormy()
        {
            self.core = None;
            return Ok(());
        }
        let most = well_and_connected(world);
        let mut core: BTreeSet<NodeId> = most.intersection(&configuration.voters).cloned().collect();
        let is_majority = |set: &BTreeSet<NodeId>| set.len() > configuration.voters.len() / 2;
        let mut since = world.now;
        if let Some((before, began)) = self.core.take() {
            let still: BTreeSet<NodeId> = before.intersection(&core).cloned().collect();
            if is_majority(&still) {
                (core, since) = (still, began);
            }
        }
        if !is_majority(&core) {
            return Ok(());
        }
        let healthy = world.now.since(since);
        let acknowledged_at = clients.acknowledged_at.max(clients.library.acknowledged_at);
        let idle = world.now.since(acknowledged_at.max(since));
        self.judged += u64::from(healthy > IDLE_MAX);
        if idle > IDLE_MAX {
            return Err(format!(
                "works under the fault: {core:?} have been well for {} ms and hear each other, and no write was \
                 acknowledged for {} ms",
                healthy.as_millis(),
                idle.as_millis()
            ));
        }
        self.core = Some((core, since));
        Ok(())
    }
}

/// Nodes that run on a healthy disk and all hear each other: a largest group, as far as a simple search finds it.
fn well_and_connected(world: &World) -> BTreeSet<NodeId> {
    let is_well = |host: &usize| {
        let machine = &world.hosts[*host];
        let runs = machine.alive.is_some() && machine.paused.is_none() && !machine.state_lost;
        runs && !machine.trouble.is_slow_or_stuck(world.now) && machine.trouble.errors == 0
    };
    let well: Vec<usize> = (0..world.hosts.len()).filter(is_well).collect();
    let hear = |a: usize, b: usize| !world.network.is_cut(a, b) && !world.network.is_cut(b, a);
    let mut largest: Vec<usize> = Vec::new();
    for first in &well {
        let mut group = vec![*first];
        for host in &well {
            if group.iter().all(|member| member != host && hear(*member, *host)) {
                group.push(*host);
            }
        }
        if group.len() > largest.len() {
            largest = group;
        }
    }
    largest.into_iter().map(|host| world.hosts[host].id.clone()).collect()
}
