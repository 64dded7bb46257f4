//! The names of nodes: people know a node by its name, and so does everything a client is told.

use cube_replication::catalog::ClusterState;
use cube_storage::model::NodeId;

/// Names as of one state of the cluster.
#[derive(Clone, Copy)]
pub struct Names<'a>(&'a ClusterState);

impl<'a> Names<'a> {
    /// The names in a state.
    pub fn new(state: &'a ClusterState) -> Self {
        Self(state)
    }

    /// The state that the names are of.
    pub fn state(&self) -> &'a ClusterState {
        self.0
    }

    /// A node's name, also after it left. A node that this state has not heard of is told by its number, and who chose a
    /// timestamp in place of a node by what it is.
    pub fn of(&self, node: NodeId) -> String {
        if node == NodeId::CLIENT {
            return "client".to_owned();
        }
        self.0.topology.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// The names of many.
    pub fn all(&self, nodes: &[NodeId]) -> Vec<String> {
        nodes.iter().map(|node| self.of(*node)).collect()
    }
}
