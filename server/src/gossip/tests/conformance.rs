//! Gossip keeps the promises of a membership.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::membership::conformance::{self, Harness};

use super::*;

/// Three nodes on the loopback, of which the first is looked at.
struct Cluster {
    net: Net,
    runtime: tokio::runtime::Runtime,
    nodes: BTreeMap<NodeId, Gossip>,
    generation: u64,
}

impl Cluster {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let net = Net::udp();
        let nodes = runtime.block_on(net.cluster(3));
        let nodes = (1..).map(NodeId).zip(nodes).collect();
        Self { net, runtime, nodes, generation: 1 }
    }
}

impl Harness for Cluster {
    fn membership(&self) -> &dyn Membership {
        &self.nodes[&NodeId(1)]
    }

    fn nodes(&self) -> (NodeId, [NodeId; 2]) {
        (NodeId(1), [NodeId(2), NodeId(3)])
    }

    fn kill(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn revive(&mut self, node: NodeId) {
        self.generation += 1;
        let seed = self.nodes[&NodeId(1)].address();
        self.nodes.insert(node, self.net.start(node.0, self.generation, &[seed]));
    }

    fn settle(&mut self) {
        let running: BTreeSet<u16> = self.nodes.keys().map(|node| node.0).collect();
        let first = &self.nodes[&NodeId(1)];
        self.runtime.block_on(self.net.until(|| found(first) == running, "what happened is noticed"));
    }
}

#[test]
fn gossip_keeps_the_promises_of_a_membership() {
    assert_eq!(conformance::check(Cluster::new), Ok(()));
}
