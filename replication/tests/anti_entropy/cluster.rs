//! A cluster of replicas in one thread, each with its worker, and nothing that moves unless the test says so.

mod replacing;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_replication::anti_entropy::schedule::Pace;
use cube_replication::anti_entropy::{AntiEntropy, AntiEntropyWorker, Parts, Settings};
use cube_replication::catalog::{Catalog, ClusterState, Keyspace, Schema, Table, TableSettings};
use cube_replication::clock::NodeClock;
use cube_replication::lifecycle::adopt;
use cube_replication::membership::Scripted;
use cube_replication::repair::{FOLDER, RepairRunner, RepairSessions, RepairSettings, Repairs, RepairsParts};
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

use super::counting::{Counting, Exchanged};
use super::pair::{TABLE, plant, rows};

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const GRACE_MS: u64 = 60_000;
pub(crate) const HORIZON_MS: u64 = 2_000;
/// The time of a message, where time passes by rounds.
pub(crate) const ROUND_MS: usize = 5;

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
    pub(crate) catalog: Arc<Catalog>,
    /// Where its repairs are kept.
    pub(crate) files: Arc<SimulatedFiles>,
    pub(crate) repairs: Arc<Repairs>,
    worker: AntiEntropyWorker,
    runner: RepairRunner,
    sessions: RepairSessions,
    replica: Arc<Replica>,
    view: Arc<Scripted>,
    is_up: bool,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// Of all nodes together, whatever became of them.
    pub(crate) exchanged: Arc<Exchanged>,
    time: Arc<Time>,
    network: InProcess,
    settings: Settings,
}

/// How long repairs wait for a node that is away.
pub(crate) const GIVE_UP_MS: u64 = 5_000;

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
    /// A node of an earlier release, which knows nothing of repairs.
    pub(crate) fn make_old(&mut self, node: u16) {
        let at = usize::from(node);
        let (Node { store, shared, .. }, clock) = (&self.nodes[at], self.clock_of(node));
        let replica = Arc::new(Replica::new(NodeId(node), store.clone(), clock));
        replica.attend(shared.clone());
        self.network.connect(NodeId(node), replica.clone());
        self.nodes[at].replica = replica;
    }

    pub(crate) fn of(count: u16, settings: Settings) -> Self {
        let time = Arc::new(Time::default());
        let network = InProcess::new(time.clone(), Delivery::Pumped, 1_000);
        let (state, exchanged) = (state(count), Arc::new(Exchanged::default()));
        let mut cluster = Self { nodes: Vec::new(), exchanged, time, network, settings };
        for id in (0..count).map(NodeId) {
            let store = fresh_store(&state);
            adopt(&store, id, &state).unwrap();
            let node = cluster.node_of(id, store, state.clone());
            cluster.nodes.push(node);
        }
        cluster
    }

    fn node_of(&self, id: NodeId, store: Arc<Store>, state: ClusterState) -> Node {
        let (files, exchanged) = (Arc::new(SimulatedFiles::new()), self.exchanged.clone());
        let base = Base { id, store, catalog: Arc::new(Catalog::new(state)), files, exchanged };
        node(base, &self.time, &self.network, self.settings)
    }

    fn clock_of(&self, node: u16) -> Arc<NodeClock> {
        let store = self.nodes[usize::from(node)].store.clone();
        Arc::new(NodeClock::new(NodeId(node), self.time.clone(), store, 900_000).unwrap())
    }

    /// Lets time pass in small steps, in which everybody does what is due.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        let end_ms = self.time.monotonic_ms() + ms;
        while self.time.monotonic_ms() < end_ms {
            self.time.0.fetch_add(20, Ordering::Relaxed);
            let mut rounds = 0;
            while self.round() && rounds < 200 {
                rounds += 1;
            }
        }
    }

    /// Lets a little time pass for each of some rounds, in which messages go one way.
    pub(crate) fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.time.0.fetch_add(ROUND_MS as u64, Ordering::Relaxed);
            self.round();
        }
    }

    /// Has everybody do one step. Whether anything happened.
    fn round(&mut self) -> bool {
        let now_ms = self.time.monotonic_ms();
        let mut moved = self.network.deliver() > 0;
        for node in self.nodes.iter_mut().filter(|node| node.is_up) {
            let workers: [&mut dyn Worker; 3] = [&mut node.worker, &mut node.runner, &mut node.sessions];
            for worker in workers {
                moved |= matches!(worker.step(now_ms).unwrap(), cube_replication::worker::Step::Busy);
            }
            moved |= node.store.run_pending();
        }
        moved || self.network.pending() > 0
    }

    pub(crate) fn kill(&mut self, node: u16) {
        self.nodes[usize::from(node)].is_up = false;
        self.network.disconnect(NodeId(node));
        self.nodes.iter().for_each(|other| other.view.kill(NodeId(node)));
    }

    /// Crashes a node, and starts it anew with what was durable of its repairs. Its rows are still there.
    pub(crate) fn crash(&mut self, at: u16, seed: u64) {
        self.kill(at);
        let Node { store, catalog, files, .. } = &self.nodes[usize::from(at)];
        files.crash(seed);
        let (store, catalog, files, exchanged) =
            (store.clone(), catalog.clone(), files.clone(), self.exchanged.clone());
        let base = Base { id: NodeId(at), store, catalog, files, exchanged };
        let fresh = node(base, &self.time, &self.network, self.settings);
        for (other, _) in self.nodes.iter().enumerate().filter(|(_, other)| !other.is_up) {
            fresh.view.kill(NodeId(other as u16));
        }
        fresh.view.revive(NodeId(at));
        self.nodes[usize::from(at)] = fresh;
        self.revive(at);
    }

    /// Has a dead node be a member no more, which all others know at once.
    pub(crate) fn remove(&mut self, gone: u16) {
        let state = state_without(self.nodes.len() as u16, Some(NodeId(gone)));
        for (id, node) in (0..).map(NodeId).zip(&self.nodes).filter(|(id, _)| *id != NodeId(gone)) {
            assert!(node.catalog.advance(state.clone()));
            adopt(&node.store, id, &state).unwrap();
        }
    }

    /// Has a node join that holds nothing; some have not heard of it.
    pub(crate) fn join_empty(&mut self, unheard_by: &[u16]) {
        let id = NodeId(self.nodes.len() as u16);
        let state = state_with(self.nodes.len() as u16, id);
        for (_, node) in (0..).zip(&self.nodes).filter(|(id, _)| !unheard_by.contains(id)) {
            assert!(node.catalog.advance(state.clone()));
        }
        let node = self.node_of(id, fresh_store(&state), state);
        self.nodes.push(node);
    }

    /// Has a node hear of all who joined.
    pub(crate) fn hear(&self, node: u16) {
        let state = self.nodes.last().unwrap().catalog.current();
        assert!(self.nodes[usize::from(node)].catalog.advance(ClusterState::clone(&state)));
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

/// What a node keeps over its restart.
struct Base {
    id: NodeId,
    store: Arc<Store>,
    catalog: Arc<Catalog>,
    files: Arc<SimulatedFiles>,
    exchanged: Arc<Exchanged>,
}

fn node(base: Base, time: &Arc<Time>, network: &InProcess, settings: Settings) -> Node {
    let Base { id, store, catalog, files, exchanged } = base;
    let clock = Arc::new(NodeClock::new(id, time.clone(), store.clone(), 900_000).unwrap());
    let replica = Arc::new(Replica::new(id, store.clone(), clock.clone()));
    network.connect(id, replica.clone());
    let view = Arc::new(Scripted::new(id));
    let marks = DirtyStore::open(Arc::new(SimulatedFiles::new()), Path::new("dirty"), Version::ZERO).unwrap();
    let marks = Arc::new(marks.store);
    let (marks_of, watermark_of) = (marks.clone(), clock.clone());
    let parts = Parts {
        me: id,
        store: store.clone(),
        clock,
        catalog: catalog.clone(),
        membership: view.clone(),
        transport: Arc::new(Counting::new(network.transport(id), exchanged)),
        marks: Box::new(move || marks_of.targets()),
        watermark: Box::new(move || Some(watermark_of.peek())),
        catches_up: Box::new(|| false),
        wake: Box::new(|| ()),
    };
    let shared = AntiEntropy::new(parts, settings);
    replica.attend(shared.clone());
    let parts = RepairsParts {
        anti_entropy: shared.clone(),
        files: files.clone(),
        settings: RepairSettings { give_up_ms: GIVE_UP_MS, ..RepairSettings::default() },
        wake: Box::new(|| ()),
    };
    let repairs = Repairs::open(parts, Path::new(FOLDER)).unwrap();
    replica.work_for(repairs.clone());
    let worker = AntiEntropyWorker::new(shared.clone());
    let (runner, sessions) = (RepairRunner::new(repairs.clone()), RepairSessions::new(repairs.clone()));
    Node { store, marks, shared, catalog, files, repairs, worker, runner, sessions, replica, view, is_up: true }
}

/// A store of the cluster without any rows.
fn fresh_store(state: &ClusterState) -> Arc<Store> {
    let identity = Identity { bits: state.topology.partition_bits(), merkle_key: MerkleKey(*b"one for all test") };
    Arc::new(Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap())
}

fn member(id: NodeId) -> Member {
    Member {
        id,
        name: format!("node-{}", id.0),
        data_center: "a".into(),
        rack: "r1".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    }
}

fn state(count: u16) -> ClusterState {
    state_without(count, None)
}

/// The state of so many replicas, and of one that joined after them and holds nothing.
fn state_with(count: u16, joined: NodeId) -> ClusterState {
    let state = state(count);
    ClusterState { topology: state.topology.after(&TopologyChange::Join(member(joined))).unwrap(), ..state }
}

/// The state of so many nodes of which one may have left, so that the others are all replicas.
fn state_without(count: u16, left: Option<NodeId>) -> ClusterState {
    let bits = PartitionBits::new(2).unwrap();
    let mut topology = Topology::new(bits);
    for id in (0..count).map(NodeId) {
        topology = topology.after(&TopologyChange::Join(member(id))).unwrap();
    }
    for (node, state) in left.into_iter().flat_map(|node| [(node, MemberState::Leaving), (node, MemberState::Left)]) {
        topology = topology.after(&TopologyChange::SetState { node, state }).unwrap();
    }
    let nodes: Vec<NodeId> = (0..count).map(NodeId).filter(|node| Some(*node) != left).collect();
    let change = TopologyChange::AddPlacement {
        placement: PlacementId(0),
        strategy: Strategy::Simple { replicas: nodes.len() as u8 },
        assignment: Assignment::from_rows(bits.all().map(|_| nodes.clone())),
    };
    let settings = TableSettings { grace_ms: GRACE_MS, ..TableSettings::default() };
    let tables = [("kv".to_owned(), Table { id: TABLE, prefix_index: false, settings })].into();
    let keyspace = Keyspace { placement: PlacementId(0), sync: SyncPolicy::Sync, tables };
    let schema = Schema { keyspaces: [("default".to_owned(), keyspace)].into() };
    ClusterState { topology: topology.after(&change).unwrap(), schema }
}
