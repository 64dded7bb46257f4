//! Whole small clusters: real datagrams on the loopback, or the in-memory network where links have to be cut.

mod conformance;
mod faults;
mod growth;
mod large;
mod liveness;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::transport::{Transport, UdpTransport};
use cube_replication::membership::Membership;
use cube_storage::clock::{Clock, SystemClock};
use cube_storage::model::NodeId;

use super::{Addresses, Gossip, GossipSettings, Hints, OwnFn, OwnReport, Timing};
use crate::identity::ClusterId;

/// Far beyond anything that is expected, for machines that do much else.
const DEADLINE_MS: u64 = 60_000;

const CLUSTER: ClusterId = ClusterId(7);

/// The network nodes are started on.
struct Net {
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    cluster: ClusterId,
    timing: Timing,
}

impl Net {
    fn udp() -> Self {
        Self::on(Arc::new(UdpTransport))
    }

    fn on(transport: Arc<dyn Transport>) -> Self {
        Self { transport, clock: Arc::new(SystemClock::new(0)), cluster: CLUSTER, timing: Timing::default() }
    }

    fn start(&self, node: u16, generation: u64, seeds: &[SocketAddr]) -> Gossip {
        self.start_with(node, generation, seeds.iter().map(SocketAddr::to_string).collect())
    }

    fn start_with(&self, node: u16, generation: u64, seeds: Vec<String>) -> Gossip {
        let settings = self.settings(node, generation, seeds);
        Gossip::start_on(settings, Arc::new(move || report_of(node)), Arc::clone(&self.transport)).unwrap()
    }

    fn start_reporting(&self, node: u16, seeds: &[SocketAddr], own: OwnFn) -> Gossip {
        let settings = self.settings(node, 1, seeds.iter().map(SocketAddr::to_string).collect());
        Gossip::start_on(settings, own, Arc::clone(&self.transport)).unwrap()
    }

    fn settings(&self, node: u16, generation: u64, seeds: Vec<String>) -> GossipSettings {
        GossipSettings {
            cluster: self.cluster,
            me: NodeId(node),
            name: format!("node-{node}"),
            generation,
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: ([127, 0, 0, 1], 0).into(),
            seeds,
            clock: Arc::clone(&self.clock),
            timing: self.timing.clone(),
        }
    }

    /// Nodes 1 to `count`, of which the first is the seed of the others, all of them knowing each other.
    async fn cluster(&self, count: u16) -> Vec<Gossip> {
        let first = self.start(1, 1, &[]);
        let seed = first.address();
        let nodes: Vec<Gossip> =
            std::iter::once(first).chain((2..=count).map(|node| self.start(node, 1, &[seed]))).collect();
        for node in &nodes {
            self.until(|| found(node).len() == usize::from(count), "all nodes know each other").await;
        }
        nodes
    }

    /// Waits until something is so; gives the time it took.
    async fn until(&self, is_so: impl Fn() -> bool, what: &str) -> u64 {
        let started_ms = self.clock.monotonic_ms();
        loop {
            let waited_ms = self.clock.monotonic_ms() - started_ms;
            if is_so() {
                return waited_ms;
            }
            assert!(waited_ms < DEADLINE_MS, "not within {DEADLINE_MS} ms: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The nodes that were heard and found alive.
fn found(node: &Gossip) -> BTreeSet<u16> {
    node.watch().borrow().iter().map(|node| node.0).collect()
}

fn report_of(node: u16) -> OwnReport {
    OwnReport {
        addresses: Addresses { peer: format!("127.0.0.1:{node}"), ..Addresses::default() },
        state: "READY".into(),
        hints: Hints { total: 3, per_target: [(NodeId(node + 1), 3)].into(), ..Hints::default() },
        ..OwnReport::default()
    }
}
