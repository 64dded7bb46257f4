//! A coordinator alone: a node that holds no data, and three replicas that answer at once without doing anything. Or one that
//! is itself the first of the three, with its data in memory: then its own part of a write is committed at once.
//!
//! What is measured with it is the coordinator's own logic: finding the replicas, stamping, sending, counting, telling.
//! No message is serialised, nothing is stored, and the client's request is made before the measurement begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cube_replication::catalog::{Catalog, ClusterState, Keyspace, Schema, Table, TableSettings};
use cube_replication::clock::NodeClock;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{
    Change, Coordinator, Parts, ReadRequest, Settings, TableName, Terms, WriteRequest,
};
use cube_replication::handoff::{HintKeeper, Kept, Missed, OnKept};
use cube_replication::lifecycle::adopt;
use cube_replication::membership::Scripted;
use cube_replication::messages::{Found, Refusal, Reply, ReplyBody, Request, RequestBody, Want};
use cube_replication::replica::Replica;
use cube_replication::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};
use cube_replication::transport::{Lane, OnReply, PeerTransport};
use cube_storage::clock::SystemClock;
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Hlc, NodeId, Outcome, PartitionBits, PlacementId, Record, RecordHeader, RowKey, TableId, Version,
};
use cube_storage::{Identity, Store, StoreOptions, SyncPolicy};

use crate::Result;

const REPLICAS: u16 = 3;
const COORDINATOR: NodeId = NodeId(REPLICAS);
/// Requests between two ticks of the clock: a busy node ticks every few milliseconds.
const TICK_EVERY: u64 = 1_024;

/// A coordinator and the count of what it was told.
pub struct Coordination {
    coordinator: Arc<Coordinator>,
    /// Its own data, where it is a replica.
    store: Option<Arc<Store>>,
    begun: u64,
    succeeded: Arc<AtomicU64>,
}

impl Coordination {
    /// A cluster of one coordinator and three replicas.
    pub fn new() -> Result<Self> {
        Self::at(COORDINATOR)
    }

    /// A cluster of three replicas, of which the first coordinates.
    pub fn on_a_replica() -> Result<Self> {
        Self::at(NodeId(0))
    }

    fn at(me: NodeId) -> Result<Self> {
        let state = cluster()?;
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([1; 16]) };
        let store = Arc::new(Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default())?);
        adopt(&store, me, &state)?;
        let machine = Arc::new(SystemClock::new(0));
        let clock = Arc::new(NodeClock::new(me, machine, Arc::clone(&store), 900_000)?);
        let parts = Parts {
            me,
            clock: Arc::clone(&clock),
            catalog: Arc::new(Catalog::new(state)),
            membership: Arc::new(Scripted::new(me)),
            transport: Arc::new(AtOnce),
            replica: Arc::new(Replica::new(me, Arc::clone(&store), clock)),
            hints: Arc::new(NoHints),
        };
        let coordinator = Coordinator::new(parts, Settings::default());
        let store = (me != COORDINATOR).then_some(store);
        Ok(Self { coordinator, store, begun: 0, succeeded: Arc::default() })
    }

    /// Carries a write out, to its end.
    pub fn write(&mut self, request: WriteRequest) {
        let succeeded = Arc::clone(&self.succeeded);
        let done = Box::new(move |result: std::result::Result<Vec<_>, _>| {
            let success = result.is_ok_and(|groups| groups.iter().all(std::result::Result::is_ok));
            succeeded.fetch_add(u64::from(success), Ordering::Relaxed);
        });
        self.coordinator.write(request, done);
        if let Some(store) = &self.store {
            while store.run_pending() {}
        }
        self.count();
    }

    /// Carries a read out, to its end.
    pub fn read(&mut self, request: ReadRequest) {
        let succeeded = Arc::clone(&self.succeeded);
        let done = Box::new(move |result: std::result::Result<Vec<_>, _>| {
            let success = result.is_ok_and(|rows| rows.iter().all(std::result::Result::is_ok));
            succeeded.fetch_add(u64::from(success), Ordering::Relaxed);
        });
        self.coordinator.read(request, done);
        self.count();
    }

    /// Whether everything that was begun has succeeded.
    pub fn all_succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Relaxed) == self.begun && self.coordinator.in_flight() == 0
    }

    fn count(&mut self) {
        self.begun += 1;
        if self.begun.is_multiple_of(TICK_EVERY) {
            self.coordinator.tick();
        }
    }
}

/// A QUORUM PUT of so many rows of 100 bytes, each with a partition key of its own.
pub fn put(first: u64, rows: u64) -> WriteRequest {
    put_by(rows, |row| RowKey::of(format!("sandbox-{:08}", first + row)))
}

/// The same, with one partition key for all.
pub fn put_together(first: u64, rows: u64) -> WriteRequest {
    put_by(rows, |row| RowKey::with_sort(format!("node-{first:08}"), format!("sandbox-{row:08}")))
}

fn put_by(rows: u64, key: impl Fn(u64) -> RowKey) -> WriteRequest {
    let value = Bytes::from_static(&[7; 100]);
    let row = |row| (key(row), Change::Put { value: value.clone(), ttl_ms: None });
    WriteRequest {
        table: table(),
        rows: (0..rows).map(row).collect(),
        terms: Terms::at(Level::Quorum),
        timestamp: None,
        seen: None,
        condition: None,
    }
}

/// A QUORUM GET of so many rows.
pub fn get(first: u64, rows: u64) -> ReadRequest {
    let keys = (first..first + rows).map(|row| RowKey::of(format!("sandbox-{row:08}"))).collect();
    ReadRequest { table: table(), keys, terms: Terms::at(Level::Quorum) }
}

fn table() -> TableName {
    TableName { keyspace: "default".into(), table: "kv".into() }
}

/// Replicas that have done everything before it is asked.
struct AtOnce;

impl PeerTransport for AtOnce {
    fn send(&self, to: NodeId, _: Lane, request: Request, reply: OnReply) {
        let body = match &request.body {
            RequestBody::Write(write) => ReplyBody::Wrote(vec![Outcome::Applied; write.mutations.len()]),
            RequestBody::Read(read) => ReplyBody::Rows(read.rows.iter().map(|_| Ok(found(read.want))).collect()),
            // A coordinator asks nothing else for a row.
            other => {
                let body = Err(Refusal::Unsupported(format!("{other:?}")));
                return reply(Ok(Reply { from: to, clock: request.clock, body }));
            }
        };
        reply(Ok(Reply { from: to, clock: request.clock, body: Ok(body) }));
    }
}

fn found(want: Want) -> Found {
    let record = Record::value(Version::new(Hlc(9), NodeId(0)), Bytes::from_static(&[7; 100]));
    let header = Some(RecordHeader::of(&record, 5));
    Found { header, record: (want == Want::Record).then_some(record), floor: Hlc(0) }
}

struct NoHints;

impl HintKeeper for NoHints {
    fn keep(&self, _: Missed, kept: OnKept) {
        kept(Ok(Kept::Hint));
    }
}

fn cluster() -> Result<ClusterState> {
    let mut topology = Topology::new(PartitionBits::DEFAULT);
    for id in (0..=REPLICAS).map(NodeId) {
        let member = Member {
            id,
            name: format!("node-{}", id.0),
            data_center: "dc1".into(),
            rack: "r1".into(),
            weight: u32::from(id != COORDINATOR),
            state: MemberState::Ready,
            addresses: Addresses::default(),
        };
        topology = topology.after(&TopologyChange::Join(member))?;
    }
    let replicas: Vec<NodeId> = (0..REPLICAS).map(NodeId).collect();
    let assignment = Assignment::from_rows(PartitionBits::DEFAULT.all().map(|_| replicas.clone()));
    let strategy = Strategy::Simple { replicas: 3 };
    let placed = TopologyChange::AddPlacement { placement: PlacementId(0), strategy, assignment };
    // A read that asks all replicas by chance costs more than the level does, and would be one in ten.
    let settings = TableSettings { read_repair_percent: 0, ..TableSettings::default() };
    let tables = BTreeMap::from([("kv".to_owned(), Table { id: TableId(1), prefix_index: true, settings })]);
    let keyspace = Keyspace { placement: PlacementId(0), sync: SyncPolicy::Sync, tables };
    let schema = Schema { keyspaces: BTreeMap::from([("default".to_owned(), keyspace)]) };
    Ok(ClusterState { topology: topology.after(&placed)?, schema })
}
