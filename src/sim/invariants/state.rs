//! Replicas agree: equal applied index, equal state digest.

use std::collections::BTreeMap;

use crate::types::{Index, NodeId};

/// Watches states.
#[derive(Debug, Default)]
pub struct Watch {
    digests: BTreeMap<Index, (NodeId, u64)>,
}

impl Watch {
    /// A node's state stands at a position.
    pub fn at(&mut self, node: &NodeId, index: Index, digest: u64) -> Result<(), String> {
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
