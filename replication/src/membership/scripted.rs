//! Membership by script: everybody is alive until a test says otherwise.

use std::collections::BTreeSet;

use cube_storage::model::NodeId;
use parking_lot::RwLock;

use super::Membership;

/// What one node believes, as it is told.
#[derive(Debug)]
pub struct Scripted {
    me: NodeId,
    dead: RwLock<BTreeSet<NodeId>>,
}

impl Scripted {
    /// The view of `me`, for whom everybody is alive.
    pub fn new(me: NodeId) -> Self {
        Self { me, dead: RwLock::default() }
    }

    /// From now on `node` is believed dead.
    pub fn kill(&self, node: NodeId) {
        self.dead.write().insert(node);
    }

    /// From now on `node` is believed alive.
    pub fn revive(&self, node: NodeId) {
        self.dead.write().remove(&node);
    }
}

impl Membership for Scripted {
    fn is_alive(&self, node: NodeId) -> bool {
        node == self.me || !self.dead.read().contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::conformance::{self, Harness};

    struct Script(Scripted);

    impl Harness for Script {
        fn membership(&self) -> &dyn Membership {
            &self.0
        }

        fn nodes(&self) -> (NodeId, [NodeId; 2]) {
            (self.0.me, [NodeId(2), NodeId(3)])
        }

        fn kill(&mut self, node: NodeId) {
            self.0.kill(node);
        }

        fn revive(&mut self, node: NodeId) {
            self.0.revive(node);
        }

        fn settle(&mut self) {}
    }

    #[test]
    fn a_script_keeps_the_promises_of_a_membership() {
        assert_eq!(conformance::check(|| Script(Scripted::new(NodeId(1)))), Ok(()));
    }

    #[test]
    fn whatever_the_script_says_a_node_believes_in_itself() {
        let view = Scripted::new(NodeId(1));
        view.kill(NodeId(1));
        assert!(view.is_alive(NodeId(1)));
    }
}
