//! Mistakes in what a coordinator believes of other nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use cube_storage::model::NodeId;
use parking_lot::Mutex;

use crate::membership::Membership;

/// A view in which nobody who was dead comes back.
pub(in crate::sim) struct NeverRevived {
    view: Arc<dyn Membership>,
    dead: Mutex<BTreeSet<NodeId>>,
}

impl NeverRevived {
    pub(in crate::sim) fn new(view: Arc<dyn Membership>) -> Self {
        Self { view, dead: Mutex::default() }
    }
}

impl Membership for NeverRevived {
    fn is_alive(&self, node: NodeId) -> bool {
        let mut dead = self.dead.lock();
        if !self.view.is_alive(node) {
            dead.insert(node);
        }
        !dead.contains(&node)
    }
}
