//! A cluster in one thread. Nothing moves unless the test says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cube_replication::catalog::{ClusterState, Hedge, Keyspace, Schema, Table, TableSettings};
use cube_replication::consistency::Level;
use cube_replication::coordinator::{
    Change, RangePage, RangeRequest, ReadRequest, ReadRow, RequestError, Settings, TableName, Terms, WriteRequest,
    Written,
};
use cube_replication::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};
use cube_replication::transport::{Delivery, InProcess};
use cube_storage::SyncPolicy;
use cube_storage::model::{Limits, NodeId, PartitionBits, PlacementId, Record, RowKey, TableId, Version};
use parking_lot::Mutex;

use super::node::{Node, SharedTime, TestClock};

pub(crate) const BITS: PartitionBits = match PartitionBits::new(2) {
    Some(bits) => bits,
    None => PartitionBits::DEFAULT,
};
pub(crate) const TABLE_ID: TableId = TableId(4);
pub(crate) const PLACEMENT: PlacementId = PlacementId(0);
/// Wall time at which every test begins.
pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const TIMEOUT_MS: u32 = 1_000;

pub(crate) type WriteResult = Result<Vec<Result<Written, RequestError>>, RequestError>;
pub(crate) type ReadResult = Result<Vec<Result<ReadRow, RequestError>>, RequestError>;
pub(crate) type RangeResult = Result<RangePage, RequestError>;

/// What a request is told, when it is.
pub(crate) struct Told<T>(Arc<Mutex<Option<T>>>);

impl<T: Send + 'static> Told<T> {
    pub(crate) fn new() -> (Self, Box<dyn FnOnce(T) + Send>) {
        let told = Arc::new(Mutex::new(None));
        let teller = Arc::clone(&told);
        let done = Box::new(move |result| {
            let before = teller.lock().replace(result);
            assert!(before.is_none(), "told twice");
        });
        (Self(told), done)
    }

    /// What it was told, if it was.
    pub(crate) fn now(&self) -> Option<T> {
        self.0.lock().take()
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) state: ClusterState,
    pub(crate) network: InProcess,
    time: Arc<SharedTime>,
    bounds: (Settings, Limits),
}

/// Time enough for a test, and the usual bounds.
pub(crate) fn settings() -> Settings {
    Settings { write_timeout_ms: TIMEOUT_MS, read_timeout_ms: TIMEOUT_MS, ..Settings::default() }
}

pub(crate) fn n(node: u16) -> NodeId {
    NodeId(node)
}

impl Cluster {
    /// Nodes such as `a0 a1 b2`, data center and id, which must count up. All are replicas of everything, but for those
    /// written in brackets, which only coordinate.
    pub(crate) fn of(written: &str) -> Self {
        Self::with(written, Settings { in_flight_max: 100, ..settings() })
    }

    pub(crate) fn with(written: &str, settings: Settings) -> Self {
        Self::bounded(written, settings, Limits::default())
    }

    /// The same, with limits of its own.
    pub(crate) fn bounded(written: &str, settings: Settings, limits: Limits) -> Self {
        Self::start(initial_state(written, QUIET), settings, limits)
    }

    /// The same, with a table that is read like this.
    pub(crate) fn of_table(written: &str, read_repair_percent: u8, hedge: Hedge) -> Self {
        let table = TableSettings { read_repair_percent, hedge, ..QUIET };
        Self::start(initial_state(written, table), settings(), Limits::default())
    }

    fn start(state: ClusterState, settings: Settings, limits: Limits) -> Self {
        let time = Arc::new(SharedTime::default());
        let network = InProcess::new(TestClock::new(&time), Delivery::Pumped, 1_000);
        let ids: Vec<NodeId> = state.topology.members().keys().copied().collect();
        let start = |id| (id, Node::start(id, &state, &time, &network, (settings, limits)));
        let nodes = ids.into_iter().map(start).collect();
        Self { nodes, state, network, time, bounds: (settings, limits) }
    }

    /// Ends a node and starts it again.
    pub(crate) fn restart(&mut self, node: u16) {
        let before = self.nodes.remove(&n(node)).unwrap();
        let (engine, machine) = (before.engine.clone(), before.machine.clone());
        let started = Node::start_on(engine, n(node), &self.state, machine, &self.network, self.bounds);
        self.nodes.insert(n(node), started);
    }

    pub(crate) fn node(&self, node: u16) -> &Node {
        &self.nodes[&n(node)]
    }

    /// Cuts a node off, and has everybody believe that it is dead.
    pub(crate) fn kill(&self, node: u16) {
        self.network.disconnect(n(node));
        self.nodes.values().for_each(|other| other.view.kill(n(node)));
    }

    /// Brings it back.
    pub(crate) fn revive(&self, node: u16) {
        self.network.connect(n(node), self.node(node).gate.clone());
        self.nodes.values().for_each(|other| other.view.revive(n(node)));
    }

    /// From now on a node hears and does not answer.
    pub(crate) fn deafen(&self, node: u16) {
        *self.node(node).gate.lets_through.lock() = 0;
    }

    /// Delivers and commits until nothing moves.
    pub(crate) fn settle(&self) {
        loop {
            let delivered = self.network.deliver() > 0;
            let committed = self.nodes.values().any(|node| node.store.run_pending());
            if !delivered && !committed {
                return;
            }
        }
    }

    /// Lets time pass, and what is overdue end.
    pub(crate) fn pass_ms(&self, ms: u64) {
        self.settle();
        self.time.pass_ms(ms);
        self.settle();
        self.nodes.values().for_each(|node| node.coordinator.tick());
        self.settle();
    }

    /// Lets time pass while everything stands still.
    pub(crate) fn stall_ms(&self, ms: u64) {
        self.time.pass_ms(ms);
    }

    /// Makes the next state of the topology. Nobody has heard of it.
    pub(crate) fn change(&mut self, change: &TopologyChange) -> ClusterState {
        self.state.topology = self.state.topology.after(change).unwrap();
        self.state.clone()
    }

    pub(crate) fn begin_write(&self, by: u16, request: WriteRequest) -> Told<WriteResult> {
        let (told, done) = Told::new();
        self.node(by).coordinator.write(request, done);
        told
    }

    pub(crate) fn begin_read(&self, by: u16, request: ReadRequest) -> Told<ReadResult> {
        let (told, done) = Told::new();
        self.node(by).coordinator.read(request, done);
        told
    }

    pub(crate) fn begin_range(&self, by: u16, request: RangeRequest) -> Told<RangeResult> {
        let (told, done) = Told::new();
        self.node(by).coordinator.range(request, done);
        told
    }

    pub(crate) fn write(&self, by: u16, request: WriteRequest) -> WriteResult {
        let told = self.begin_write(by, request);
        self.settle();
        told.now().expect("the write ends")
    }

    pub(crate) fn read(&self, by: u16, request: ReadRequest) -> ReadResult {
        let told = self.begin_read(by, request);
        self.settle();
        told.now().expect("the read ends")
    }

    pub(crate) fn range(&self, by: u16, request: RangeRequest) -> RangeResult {
        let told = self.begin_range(by, request);
        self.settle();
        told.now().expect("the page ends")
    }

    pub(crate) fn put(&self, by: u16, key: &str, value: &str, level: Level) -> Result<Written, RequestError> {
        one(self.write(by, put(key, value, level)))
    }

    pub(crate) fn get(&self, by: u16, key: &str, level: Level) -> Result<ReadRow, RequestError> {
        one(self.read(by, get(&[key], level)))
    }

    /// The value that each replica holds.
    pub(crate) fn values(&self, key: &str) -> BTreeMap<NodeId, Option<Bytes>> {
        let value = |node: &Node| node.held(&RowKey::of(key.to_owned()))?.live_value(node.clock.peek()).cloned();
        self.nodes.values().map(|node| (node.id, value(node))).collect()
    }

    /// Puts a record into one replica's store behind everybody's back.
    pub(crate) fn plant(&self, node: u16, key: RowKey, record: Record) {
        let mutation = cube_storage::model::Mutation { table: TABLE_ID, key, record, claim: None };
        self.node(node).store.apply(cube_storage::model::Batch::of(mutation)).unwrap();
    }

    /// A version of so many milliseconds after the beginning.
    pub(crate) fn version(&self, ms: u64) -> Version {
        Version::new(cube_storage::model::Hlc::new(START_MS + ms, 0), n(99))
    }
}

/// The only result of a request for one row.
pub(crate) fn one<T>(results: Result<Vec<Result<T, RequestError>>, RequestError>) -> Result<T, RequestError> {
    let mut results = results?;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

pub(crate) fn table() -> TableName {
    TableName { keyspace: "default".into(), table: "kv".into() }
}

pub(crate) fn value(value: &str) -> Change {
    Change::Put { value: Bytes::copy_from_slice(value.as_bytes()), ttl_ms: None }
}

pub(crate) fn write(rows: Vec<(RowKey, Change)>, level: Level) -> WriteRequest {
    WriteRequest { table: table(), rows, terms: Terms::at(level), timestamp: None, seen: None, condition: None }
}

pub(crate) fn put(key: &str, text: &str, level: Level) -> WriteRequest {
    write(vec![(RowKey::of(key.to_owned()), value(text))], level)
}

pub(crate) fn get(keys: &[&str], level: Level) -> ReadRequest {
    let keys = keys.iter().map(|key| RowKey::of((*key).to_owned())).collect();
    ReadRequest { table: table(), keys, terms: Terms::at(level) }
}

/// Nothing is asked that the level does not need, so that a test knows who was.
const QUIET: TableSettings = TableSettings {
    read_repair_percent: 0,
    hedge: Hedge::Off,
    grace_ms: TableSettings::GRACE_MS,
    default_ttl_ms: None,
};

fn initial_state(written: &str, settings: TableSettings) -> ClusterState {
    let mut topology = Topology::new(BITS);
    let mut replicas = Vec::new();
    for (id, word) in written.split_whitespace().enumerate() {
        let id = NodeId(id as u16);
        let bare = word.trim_matches(['(', ')']);
        assert_eq!(bare[1..], id.0.to_string(), "nodes count up");
        let holds = bare == word;
        topology = topology.after(&TopologyChange::Join(member(id, &bare[..1], u32::from(holds)))).unwrap();
        if holds {
            replicas.push(id);
        }
    }
    let strategy = Strategy::Simple { replicas: replicas.len().max(1) as u8 };
    let assignment = Assignment::from_rows(BITS.all().map(|_| replicas.clone()));
    let change = TopologyChange::AddPlacement { placement: PLACEMENT, strategy, assignment };
    let tables = [("kv".to_owned(), Table { id: TABLE_ID, prefix_index: true, settings })].into();
    let keyspace = Keyspace { placement: PLACEMENT, sync: SyncPolicy::Sync, tables };
    let schema = Schema { keyspaces: [("default".to_owned(), keyspace)].into() };
    ClusterState { topology: topology.after(&change).unwrap(), schema }
}

fn member(id: NodeId, data_center: &str, weight: u32) -> Member {
    Member {
        id,
        name: format!("node-{}", id.0),
        data_center: data_center.into(),
        rack: "r1".into(),
        weight,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    }
}
