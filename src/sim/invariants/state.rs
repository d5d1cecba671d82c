//! Replicas agree: equal applied index, equal state digest.

use std::collections::BTreeMap;

use crate::node::applier::APPLIED_KEY;
use crate::sim::host::Host;
use crate::types::{Index, NodeId};

/// Watches states.
#[derive(Debug, Default)]
pub struct Watch {
    digests: BTreeMap<Index, (NodeId, u64)>,
}

impl Watch {
    /// A node's state stands at a position. Where it stands and under which configuration is its own note: a node that
    /// joins knows of none before it reads of one, however far it has come by then.
    pub fn at(&mut self, host: &Host, index: Index) -> Result<(), String> {
        let (node, digest) = (&host.id, host.state.digest_without(APPLIED_KEY));
        match self.digests.get(&index) {
            Some((other, known)) if *known != digest => {
                Err(format!("replicas agree: the states of {other} and {node} differ at index {index}"))
            }
            Some(_) => Ok(()),
            None => {
                self.digests.insert(index, (node.clone(), digest));
                Ok(())
            }
        }
    }
}
