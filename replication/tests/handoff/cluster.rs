//! Nodes with the real handoff on simulated disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_replication::catalog::{Catalog, ClusterState, Keyspace, Schema, Table};
use cube_replication::clock::NodeClock;
use cube_replication::handoff::{
    HandoffCounts, HandoffParts, HandoffSettings, HintKeeper, HintReceiver, HintReplay, HintWorker, HintedHandoff,
    Kept, Missed, NotKept, ReceiverParts, ReplayParts, TargetStatus,
};
use cube_replication::lifecycle::adopt;
use cube_replication::membership::Scripted;
use cube_replication::messages::{Features, PROTOCOL, Refusal, ReplyBody, Request, RequestBody};
use cube_replication::replica::Replica;
use cube_replication::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};
use cube_replication::transport::{Delivery, InProcess};
use cube_replication::worker::Worker as _;
use cube_storage::clock::Clock;
use cube_storage::engine::MemoryEngine;
use cube_storage::files::SimulatedFiles;
use cube_storage::merkle::{LeafId, MerkleKey};
use cube_storage::model::{
    Hlc, Limits, Mutation, NodeId, PartitionBits, PlacementId, Record, RowKey, TableId, Version,
};
use cube_storage::{Identity, Store, StoreOptions, SyncPolicy};
use parking_lot::Mutex;

pub(crate) const TABLE: TableId = TableId(4);
const START_MS: u64 = 1_800_000_000_000;

pub(crate) fn n(node: u16) -> NodeId {
    NodeId(node)
}

pub(crate) fn at(counter: u64) -> Version {
    Version::new(Hlc(counter), n(0))
}

pub(crate) fn row(key: &str, record: Record) -> Mutation {
    Mutation { table: TABLE, key: RowKey::of(key.to_owned()), record, claim: None }
}

pub(crate) fn value(key: &str, counter: u64) -> Mutation {
    row(key, Record::value(at(counter), "value"))
}

/// Four nodes; those of `replicas` hold everything, and those of `left` have left.
pub(crate) fn state(replicas: &[u16], left: &[u16]) -> ClusterState {
    let bits = PartitionBits::DEFAULT;
    let mut topology = Topology::new(bits);
    for id in 0..4 {
        let member = Member {
            id: n(id),
            name: format!("node-{id}"),
            data_center: "a".into(),
            rack: "r".into(),
            weight: 1,
            state: MemberState::Ready,
            addresses: Addresses::default(),
        };
        topology = topology.after(&TopologyChange::Join(member)).unwrap();
    }
    for id in left {
        let change = TopologyChange::SetState { node: n(*id), state: MemberState::Left };
        topology = topology.after(&change).unwrap();
    }
    let placement = PlacementId(0);
    let rows: Vec<NodeId> = replicas.iter().map(|id| n(*id)).collect();
    let assignment = Assignment::from_rows(bits.all().map(|_| rows.clone()));
    let strategy = Strategy::Simple { replicas: rows.len() as u8 };
    let topology = topology.after(&TopologyChange::AddPlacement { placement, strategy, assignment }).unwrap();
    let tables = [("kv".to_owned(), Table { id: TABLE, prefix_index: true, settings: Default::default() })].into();
    let keyspace = Keyspace { placement, sync: SyncPolicy::Sync, tables };
    ClusterState { topology, schema: Schema { keyspaces: [("default".to_owned(), keyspace)].into() } }
}

#[derive(Default)]
struct Time(AtomicU64);

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
    pub(crate) handoff: Arc<HintedHandoff>,
    pub(crate) replay: Arc<HintReplay>,
    pub(crate) files: SimulatedFiles,
    pub(crate) view: Arc<Scripted>,
    pub(crate) catalog: Arc<Catalog>,
    replica: Arc<Replica>,
    worker: Mutex<HintWorker>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) network: InProcess,
    time: Arc<Time>,
}

type Told = Arc<Mutex<Option<Result<Kept, NotKept>>>>;

impl Cluster {
    /// Four nodes, of which the first three hold everything.
    pub(crate) fn new() -> Self {
        Self::with(HandoffSettings::default(), Limits::default())
    }

    pub(crate) fn with(settings: HandoffSettings, limits: Limits) -> Self {
        let time = Arc::new(Time::default());
        let network = InProcess::new(time.clone(), Delivery::Pumped, 1_000);
        let mut cluster = Self { nodes: BTreeMap::new(), network, time };
        for id in 0..4 {
            let files = SimulatedFiles::new();
            let node = cluster.start(n(id), files, settings, limits);
            cluster.nodes.insert(n(id), node);
        }
        cluster
    }

    fn start(&self, id: NodeId, files: SimulatedFiles, settings: HandoffSettings, limits: Limits) -> Node {
        let state = state(&[0, 1, 2], &[]);
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([7; 16]) };
        let options = StoreOptions { limits, ..StoreOptions::default() };
        let store = Arc::new(Store::open(Arc::new(MemoryEngine::new()), identity, options).unwrap());
        adopt(&store, id, &state).unwrap();
        let clock = Arc::new(NodeClock::new(id, self.time.clone(), store.clone(), 900_000).unwrap());
        let catalog = Arc::new(Catalog::new(state));
        let handoff = HintedHandoff::open(HandoffParts {
            files: Arc::new(files.clone()),
            settings,
            bits: PartitionBits::DEFAULT,
            catalog: catalog.clone(),
            clock: clock.clone(),
            wake: Box::new(|| {}),
        });
        let handoff = Arc::new(handoff.unwrap());
        for target in 0..4 {
            handoff.marks().target(&format!("node-{target}")).unwrap().sync().unwrap();
        }
        let replica = Arc::new(Replica::new(id, store.clone(), clock.clone()));
        let parts = ReceiverParts { handoff: handoff.clone(), store: store.clone(), clock: clock.clone() };
        let receiver = Arc::new(HintReceiver::new(parts));
        replica.receive_hints(receiver.clone());
        let view = Arc::new(Scripted::new(id));
        self.network.connect(id, replica.clone());
        let replay = HintReplay::new(ReplayParts {
            me: id,
            handoff: handoff.clone(),
            catalog: catalog.clone(),
            membership: view.clone(),
            transport: self.network.transport(id),
            replica: replica.clone(),
            receiver,
            clock,
            wake: Arc::new(|| {}),
        });
        let worker = Mutex::new(HintWorker::new(replay.clone()));
        Node { store, handoff, replay, files, view, catalog, replica, worker }
    }

    /// Ends a node's process and starts another one on what its disk holds of hints.
    pub(crate) fn restart(&mut self, id: u16) {
        let files = self.nodes[&n(id)].files.clone();
        files.crash(7);
        let node = self.start(n(id), files, HandoffSettings::default(), Limits::default());
        self.nodes.insert(n(id), node);
    }

    /// A node's replica works by a state from now on.
    pub(crate) fn adopt(&self, node: u16, state: &ClusterState) {
        adopt(&self.node(node).store, NodeId(node), state).unwrap();
    }

    pub(crate) fn node(&self, id: u16) -> &Node {
        &self.nodes[&n(id)]
    }

    /// Cuts a node off, and has everybody know.
    pub(crate) fn kill(&self, id: u16) {
        self.network.disconnect(n(id));
        for (other, node) in self.nodes.iter().filter(|(other, _)| **other != n(id)) {
            node.view.kill(n(id));
            assert_ne!(*other, n(id));
            node.replay.on_alive(n(id), false);
        }
    }

    pub(crate) fn revive(&self, id: u16) {
        self.network.connect(n(id), self.node(id).replica.clone());
        for node in self.nodes.iter().filter(|(other, _)| **other != n(id)).map(|(_, node)| node) {
            node.view.revive(n(id));
            node.replay.on_alive(n(id), true);
        }
    }

    /// Keeps rows that `target` missed, on node `by`, and what came of it.
    pub(crate) fn keep(&self, by: u16, target: u16, rows: Vec<Mutation>, only_copy: bool) -> Result<Kept, NotKept> {
        let told = Told::default();
        let teller = Arc::clone(&told);
        let handoff = &self.node(by).handoff;
        let missed = Missed { target: n(target), mutations: rows, only_copy };
        handoff.keep(missed, Box::new(move |kept| *teller.lock() = Some(kept)));
        handoff.flush();
        told.lock().take().unwrap()
    }

    /// One step of a node's worker.
    pub(crate) fn step(&self, id: u16) {
        self.node(id).worker.lock().step(self.time.monotonic_ms()).unwrap();
    }

    /// What a node answers to a question of node 3.
    pub(crate) fn ask(&self, of: u16, body: RequestBody) -> Result<ReplyBody, Refusal> {
        let request = Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: n(3),
            clock: Hlc(0),
            time_left_ms: 1_000,
            explain: false,
            trace: None,
            body,
        };
        let told = Arc::new(Mutex::new(None));
        let teller = Arc::clone(&told);
        self.node(of).replica.handle(request, Box::new(move |reply| *teller.lock() = Some(reply.body)));
        self.node(of).handoff.flush();
        told.lock().take().unwrap()
    }

    /// Steps, delivers and commits until nothing moves.
    pub(crate) fn settle(&self) {
        for _ in 0..1_000 {
            for node in self.nodes.values() {
                node.worker.lock().step(self.time.monotonic_ms()).unwrap();
                node.handoff.flush();
            }
            let delivered = self.network.deliver() > 0;
            let committed = self.nodes.values().any(|node| node.store.run_pending());
            if !delivered && !committed {
                return;
            }
        }
        panic!("it never settles");
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.settle();
        self.time.0.fetch_add(ms, Ordering::Relaxed);
        self.settle();
    }

    pub(crate) fn held(&self, id: u16, key: &str) -> Option<Record> {
        self.node(id).store.get(TABLE, &RowKey::of(key.to_owned())).unwrap()
    }

    pub(crate) fn hints(&self, by: u16, target: u16) -> u64 {
        let totals = self.node(by).handoff.hints().totals();
        totals.get(&format!("node-{target}")).map_or(0, |totals| totals.records)
    }

    pub(crate) fn is_marked(&self, by: u16, target: u16, key: &str) -> bool {
        let leaf = LeafId::of(RowKey::of(key.to_owned()).token(), PartitionBits::DEFAULT);
        let marks = self.node(by).handoff.marks().target(&format!("node-{target}")).unwrap();
        marks.covering(TABLE, leaf).is_some()
    }

    pub(crate) fn counts(&self, by: u16) -> HandoffCounts {
        self.node(by).handoff.counters().snapshot()
    }

    pub(crate) fn status(&self, by: u16, target: u16) -> TargetStatus {
        self.node(by).replay.status().targets[&format!("node-{target}")].clone()
    }
}
