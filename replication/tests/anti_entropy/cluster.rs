//! A cluster of replicas in one thread, each with its worker, and nothing that moves unless the test says so.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_replication::anti_entropy::schedule::Pace;
use cube_replication::anti_entropy::{AntiEntropy, AntiEntropyWorker, Parts, Settings};
use cube_replication::catalog::{Catalog, ClusterState, Keyspace, Schema, Table, TableSettings};
use cube_replication::clock::NodeClock;
use cube_replication::lifecycle::adopt;
use cube_replication::membership::Scripted;
use cube_replication::replica::Replica;
use cube_replication::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};
use cube_replication::transport::{Delivery, InProcess};
use cube_replication::worker::Worker;
use cube_storage::clock::Clock;
use cube_storage::dirty::DirtyStore;
use cube_storage::engine::MemoryEngine;
use cube_storage::files::SimulatedFiles;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Hlc, NodeId, PartitionBits, PlacementId, Record, RowKey, Version};
use cube_storage::{Identity, Store, StoreOptions, SyncPolicy};

use super::pair::{TABLE, plant, rows};

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const GRACE_MS: u64 = 60_000;
pub(crate) const HORIZON_MS: u64 = 2_000;

/// Time that passes when the test says so.
#[derive(Default)]
pub(crate) struct Time(AtomicU64);

impl Clock for Time {
    fn wall_ms(&self) -> u64 {
        START_MS + self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct Node {
    pub(crate) store: Arc<Store>,
    pub(crate) marks: Arc<DirtyStore>,
    pub(crate) shared: Arc<AntiEntropy>,
    worker: AntiEntropyWorker,
    replica: Arc<Replica>,
    view: Arc<Scripted>,
    is_up: bool,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    time: Arc<Time>,
    network: InProcess,
}

pub(crate) fn settings() -> Settings {
    Settings {
        pace: Pace { interval_ms: 1_000, again_ms: 100 },
        horizon_ms: HORIZON_MS,
        question_timeout_ms: 1_000,
        keep_proofs_ms: 1_000,
        purge_interval_ms: 5_000,
        ..Settings::default()
    }
}

impl Cluster {
    pub(crate) fn of(count: u16, settings: Settings) -> Self {
        let time = Arc::new(Time::default());
        let network = InProcess::new(time.clone(), Delivery::Pumped, 1_000);
        let state = state(count);
        let nodes = (0..count).map(|id| node(NodeId(id), &state, &time, &network, settings)).collect();
        Self { nodes, time, network }
    }

    /// Lets time pass in small steps, in which everybody does what is due.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        let end_ms = self.time.monotonic_ms() + ms;
        while self.time.monotonic_ms() < end_ms {
            self.time.0.fetch_add(20, Ordering::Relaxed);
            let now_ms = self.time.monotonic_ms();
            for _ in 0..200 {
                let mut moved = self.network.deliver() > 0;
                for node in self.nodes.iter_mut().filter(|node| node.is_up) {
                    moved |= matches!(node.worker.step(now_ms).unwrap(), cube_replication::worker::Step::Busy);
                    moved |= node.store.run_pending();
                }
                moved |= self.network.pending() > 0;
                if !moved {
                    break;
                }
            }
        }
    }

    pub(crate) fn kill(&mut self, node: u16) {
        self.nodes[usize::from(node)].is_up = false;
        self.network.disconnect(NodeId(node));
        self.nodes.iter().for_each(|other| other.view.kill(NodeId(node)));
    }

    pub(crate) fn revive(&mut self, node: u16) {
        let at = usize::from(node);
        self.nodes[at].is_up = true;
        self.network.connect(NodeId(node), self.nodes[at].replica.clone());
        self.nodes.iter().for_each(|other| other.view.revive(NodeId(node)));
    }

    /// Now, as a version.
    pub(crate) fn now(&self) -> Version {
        Version::new(Hlc::new(self.time.wall_ms(), 0), NodeId(9))
    }

    pub(crate) fn plant(&self, nodes: &[u16], key: &str, record: Record) {
        for node in nodes {
            plant(&self.nodes[usize::from(*node)].store, [(RowKey::of(key.to_owned()), record.clone())]);
        }
    }

    pub(crate) fn held(&self, node: u16, key: &str) -> Option<Record> {
        self.nodes[usize::from(node)].store.get(TABLE, &RowKey::of(key.to_owned())).unwrap()
    }

    pub(crate) fn all_hold_the_same(&self) -> bool {
        let first = rows(&self.nodes[0].store);
        self.nodes.iter().all(|node| rows(&node.store) == first)
    }

    /// How far a node's oldest time lies back.
    pub(crate) fn age_ms(&self, node: u16) -> u64 {
        let oldest = self.nodes[usize::from(node)].shared.in_sync().unwrap();
        self.time.wall_ms().saturating_sub(oldest.millis())
    }
}

fn node(id: NodeId, state: &ClusterState, time: &Arc<Time>, network: &InProcess, settings: Settings) -> Node {
    let identity = Identity { bits: state.topology.partition_bits(), merkle_key: MerkleKey(*b"one for all test") };
    let engine = Arc::new(MemoryEngine::new());
    let store = Arc::new(Store::open(engine, identity, StoreOptions::default()).unwrap());
    adopt(&store, id, state).unwrap();
    let clock = Arc::new(NodeClock::new(id, time.clone(), store.clone(), 900_000).unwrap());
    let replica = Arc::new(Replica::new(id, store.clone(), clock.clone()));
    network.connect(id, replica.clone());
    let (view, catalog) = (Arc::new(Scripted::new(id)), Arc::new(Catalog::new(state.clone())));
    let files = Arc::new(SimulatedFiles::new());
    let marks = Arc::new(DirtyStore::open(files, Path::new("dirty"), Version::ZERO).unwrap().store);
    let (marks_of, watermark_of) = (marks.clone(), clock.clone());
    let parts = Parts {
        me: id,
        store: store.clone(),
        clock,
        catalog,
        membership: view.clone(),
        transport: network.transport(id),
        marks: Box::new(move || marks_of.targets()),
        watermark: Box::new(move || Some(watermark_of.peek())),
        wake: Box::new(|| ()),
    };
    let shared = AntiEntropy::new(parts, settings);
    replica.attend(shared.clone());
    let worker = AntiEntropyWorker::new(shared.clone());
    Node { store, marks, shared, worker, replica, view, is_up: true }
}

fn state(count: u16) -> ClusterState {
    let bits = PartitionBits::new(2).unwrap();
    let mut topology = Topology::new(bits);
    for id in (0..count).map(NodeId) {
        let member = Member {
            id,
            name: format!("node-{}", id.0),
            data_center: "a".into(),
            rack: "r1".into(),
            weight: 1,
            state: MemberState::Ready,
            addresses: Addresses::default(),
        };
        topology = topology.after(&TopologyChange::Join(member)).unwrap();
    }
    let nodes: Vec<NodeId> = (0..count).map(NodeId).collect();
    let change = TopologyChange::AddPlacement {
        placement: PlacementId(0),
        strategy: Strategy::Simple { replicas: count as u8 },
        assignment: Assignment::from_rows(bits.all().map(|_| nodes.clone())),
    };
    let settings = TableSettings { grace_ms: GRACE_MS, ..TableSettings::default() };
    let tables = [("kv".to_owned(), Table { id: TABLE, prefix_index: false, settings })].into();
    let keyspace = Keyspace { placement: PlacementId(0), sync: SyncPolicy::Sync, tables };
    let schema = Schema { keyspaces: [("default".to_owned(), keyspace)].into() };
    ClusterState { topology: topology.after(&change).unwrap(), schema }
}
