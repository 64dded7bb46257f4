//! Whatever the store fails at, what was adopted by then is a state from which adopting again completes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, MemoryEngine, Reader, Recovery, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Batch, Hlc, Mutation, PartitionBits, Record, RowKey, TableId, Version};
use cube_storage::{Identity, StoreOptions, SyncPolicy};

use super::*;
use crate::catalog::{Keyspace, Schema, Table};
use crate::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};

const BITS: PartitionBits = PartitionBits::new(2).unwrap();
const PLACEMENT: PlacementId = PlacementId(0);
const ME: NodeId = NodeId(3);

/// An engine whose disk is full for one write.
struct FailsOnce {
    engine: MemoryEngine,
    /// Writes until then.
    until: Arc<AtomicUsize>,
}

impl Reader for FailsOnce {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        self.engine.get(space, key)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.engine.multi_get(space, keys, visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.engine.scan(space, range, direction, visit)
    }
}

impl Engine for FailsOnce {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.engine.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        match self.until.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(EngineError::NoSpace { detail: "full".into() }),
            _ => self.engine.write(durability, fill),
        }
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.engine.sync()
    }

    fn recovery(&self) -> Recovery {
        self.engine.recovery()
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        self.engine.acknowledge_recovery()
    }

    fn space_debt_bytes(&self) -> u64 {
        0
    }
}

/// Four nodes of which three are replicas, and the same on its way to another three.
fn states() -> (ClusterState, ClusterState) {
    let member = |id| Member {
        id: NodeId(id),
        name: format!("node-{id}"),
        data_center: "dc1".into(),
        rack: "r1".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    };
    let after = |topology: Topology, change| topology.after(&change).unwrap();
    let topology = (0..4).fold(Topology::new(BITS), |topology, id| after(topology, TopologyChange::Join(member(id))));
    let assignment = Assignment::from_rows(BITS.all().map(|_| vec![NodeId(0), NodeId(1), NodeId(2)]));
    let strategy = Strategy::Simple { replicas: 3 };
    let placed = after(topology, TopologyChange::AddPlacement { placement: PLACEMENT, strategy, assignment });
    let begin = |topology, partition| {
        let replicas = vec![NodeId(0), NodeId(1), ME];
        after(topology, TopologyChange::BeginMove { placement: PLACEMENT, partition, replicas })
    };
    let moving = BITS.all().take(3).fold(placed.clone(), begin);
    let schema = |tables: u32| {
        let table = |id| Table { id: TableId(id), prefix_index: true, settings: Default::default() };
        let tables = (1..=tables).map(|id| (format!("t{id}"), table(id))).collect();
        let keyspace = Keyspace { placement: PLACEMENT, sync: SyncPolicy::Sync, tables };
        Schema { keyspaces: BTreeMap::from([("ks".to_owned(), keyspace)]) }
    };
    let before = ClusterState { topology: placed, schema: schema(1) };
    (before, ClusterState { topology: moving, schema: schema(2) })
}

/// A node that adopted the first state, with rows of an earlier life in it, and how many writes its disk still takes.
fn node() -> (Arc<Store>, Arc<AtomicUsize>) {
    let until = Arc::new(AtomicUsize::new(usize::MAX));
    let engine = FailsOnce { engine: MemoryEngine::new(), until: Arc::clone(&until) };
    let identity = Identity { bits: BITS, merkle_key: MerkleKey([1; 16]) };
    let store = Arc::new(Store::open(Arc::new(engine), identity, StoreOptions::default()).unwrap());
    adopt(&store, ME, &states().0).unwrap();
    for number in 0..50u64 {
        let record = Record::value(Version::new(Hlc(number + 1), NodeId(0)), "old");
        let key = RowKey::of(format!("k{number}"));
        store.apply(Batch::of(Mutation { table: TableId(1), key, record, claim: None })).unwrap();
    }
    (store, until)
}

/// What adopting is about: tables, partitions, and how many rows each holds.
fn adopted(store: &Store) -> (Vec<TableId>, Vec<(PartitionState, usize)>) {
    let tables = store.tables().into_iter().map(|(table, _)| table).collect();
    let rows = |partition| {
        let (first, last) = BITS.tokens_of(partition);
        let scope = cube_storage::scan::Scope::Tokens(first, last);
        let page = cube_storage::scan::ScanRequest::all(TableId(1), scope, store.limits());
        store.scan(&page).unwrap().rows.len()
    };
    (tables, BITS.all().map(|partition| (store.partition(PLACEMENT, partition), rows(partition))).collect())
}

#[test]
fn whichever_write_fails_adopting_again_completes_and_no_fence_rises_before_its_partition_is_cleared() {
    let newest = states().1;
    let (whole, _) = node();
    adopt(&whole, ME, &newest).unwrap();
    let mut failures = 0;
    for writes in 0.. {
        let (store, until) = node();
        until.store(writes, Ordering::Relaxed);
        let first = adopt(&store, ME, &newest);
        until.store(usize::MAX, Ordering::Relaxed);
        for (partition, (state, rows)) in BITS.all().zip(adopted(&store).1) {
            let map = newest.topology.placement(PLACEMENT).unwrap().partition(partition).unwrap();
            let takes_writes = map.write_sets().contains(ME) && state.epoch == map.epoch();
            assert!(!takes_writes || rows == 0, "{partition} takes writes over {rows} rows of an earlier life");
            assert_ne!(state.sync, SyncState::Synced);
        }
        if first.is_ok() {
            break;
        }
        failures += 1;
        adopt(&store, ME, &newest).unwrap();
        assert_eq!(adopted(&store), adopted(&whole), "after write {writes} failed");
    }
    assert!(failures >= 5, "{failures} writes: a table, the marks, and for each partition the clearing and the fence");
}
