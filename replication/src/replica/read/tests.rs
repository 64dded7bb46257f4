//! Reads of a partition that is marked and cleared by another thread in the middle of them.

use std::ops::Bound;
use std::sync::Arc;

use cube_storage::clock::SystemClock;
use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, MemoryEngine, Reader, Recovery, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Batch, Hlc, Mutation, NodeId, PartitionBits, Version};
use cube_storage::scan::ScanRequest;
use cube_storage::{Identity, PartitionState, Store, StoreOptions, SyncPolicy, TableOptions, UnsyncedCause};
use parking_lot::Mutex;

use super::*;
use crate::clock::NodeClock;

type Interruption = Box<dyn FnOnce() + Send>;

/// An engine under which something else happens just before the next row is read.
#[derive(Clone, Default)]
struct Interrupted {
    engine: MemoryEngine,
    next: Arc<Mutex<Option<Interruption>>>,
}

impl Interrupted {
    fn interrupt(&self) {
        let next = self.next.lock().take();
        if let Some(happen) = next {
            happen();
        }
    }
}

impl Reader for Interrupted {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        self.interrupt();
        self.engine.get(space, key)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.interrupt();
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

impl Engine for Interrupted {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.interrupt();
        self.engine.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        self.engine.write(durability, fill)
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
        self.engine.space_debt_bytes()
    }

    fn view_in_memory(&self, space: Space, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError> {
        self.interrupt();
        self.engine.view(space, key, visit).map(|()| true)
    }
}

const TABLE: TableId = TableId(1);
const PLACEMENT: PlacementId = PlacementId(0);

fn keys() -> [RowKey; 2] {
    [RowKey::of("k"), RowKey::with_sort("k", "other")]
}

/// A replica that holds two rows of one partition, and the engine under it.
fn replica() -> (Replica, Interrupted, PartitionId) {
    let engine = Interrupted::default();
    let bits = PartitionBits::DEFAULT;
    let identity = Identity { bits, merkle_key: MerkleKey([3; 16]) };
    let store = Arc::new(Store::open(Arc::new(engine.clone()), identity, StoreOptions::default()).unwrap());
    store.put_table(TABLE, TableOptions { placement: PLACEMENT, prefix_index: false, sync: SyncPolicy::Sync }).unwrap();
    let partition = bits.partition_of(Token::of(b"k"));
    let held = PartitionState { epoch: Epoch(4), sync: SyncState::Synced };
    store.set_partitions(PLACEMENT, [(partition, held)]).unwrap();
    for key in keys() {
        let record = Record::value(Version::new(Hlc(9), NodeId(1)), "v");
        store.apply(Batch::of(Mutation { table: TABLE, key, record, claim: None })).unwrap();
    }
    let clock = NodeClock::new(NodeId(1), Arc::new(SystemClock::new(0)), Arc::clone(&store), 1_000).unwrap();
    (Replica::new(NodeId(1), store, Arc::new(clock)), engine, partition)
}

/// Has the partition marked and cleared in the middle of the next read.
fn clear_meanwhile(replica: &Replica, engine: &Interrupted, partition: PartitionId) {
    let store = Arc::clone(replica.store());
    let clear: Interruption = Box::new(move || {
        store.set_sync(PLACEMENT, partition, SyncState::Unsynced(UnsyncedCause::Operator)).unwrap();
        while store.clear_step(TABLE, partition, 10).unwrap().next.is_some() {}
    });
    *engine.next.lock() = Some(clear);
}

fn read(replica: &Replica, keys: &[RowKey], want: Want) -> Vec<Result<Found, Refusal>> {
    let rows = keys.iter().map(|key| (key.clone(), Epoch(4))).collect();
    replica.read(&ReadRows { table: TABLE, rows, want }).unwrap()
}

fn page(replica: &Replica) -> Result<ReplyBody, Refusal> {
    let scope = Scope::Partition { key: "k".into(), from: Bound::Unbounded, to: Bound::Unbounded };
    let page = ScanRequest::all(TABLE, scope, replica.store().limits());
    replica.scan(&ScanRows { page, claim: Some(Epoch(4)) })
}

#[test]
fn rows_that_are_cleared_while_they_are_read_are_never_told_to_be_absent() {
    let unsynced = || Refusal::Unsynced(UnsyncedCause::Operator);
    for want in [Want::Record, Want::Header] {
        for rows in [&keys()[..1], &keys()] {
            let (replica, engine, partition) = replica();
            assert!(read(&replica, rows, want).iter().all(|found| found.as_ref().is_ok_and(|f| f.header.is_some())));
            clear_meanwhile(&replica, &engine, partition);
            let told = read(&replica, rows, want);
            assert!(engine.next.lock().is_none(), "it happened");
            assert_eq!(told, vec![Err(unsynced()); rows.len()], "{want:?}");
        }
    }
    let (replica, engine, partition) = replica();
    assert!(matches!(page(&replica), Ok(ReplyBody::Page { rows, .. }) if rows.len() == 2));
    clear_meanwhile(&replica, &engine, partition);
    assert_eq!(page(&replica), Err(unsynced()));
}

#[test]
fn a_map_that_is_fenced_while_rows_are_read_is_not_answered() {
    let (replica, engine, partition) = replica();
    let store = Arc::clone(replica.store());
    *engine.next.lock() = Some(Box::new(move || store.fence(PLACEMENT, partition, Epoch(5)).unwrap()));
    assert_eq!(read(&replica, &keys()[..1], Want::Record), [Err(Refusal::Fenced(Epoch(5)))]);
}

fn read_at_once(replica: &Replica, keys: &[RowKey], want: Want) -> Option<Vec<Result<Found, Refusal>>> {
    let rows = keys.iter().map(|key| (key.clone(), Epoch(4))).collect();
    Some(replica.read_at_once(&ReadRows { table: TABLE, rows, want })?.unwrap())
}

#[test]
fn what_is_read_at_once_is_what_is_read_otherwise_and_more_than_a_row_is_not() {
    for want in [Want::Record, Want::Header] {
        let (replica, engine, partition) = replica();
        for rows in [&keys()[..1], &[RowKey::of("k-2")]] {
            assert_eq!(read_at_once(&replica, rows, want), Some(read(&replica, rows, want)));
        }
        assert_eq!(read_at_once(&replica, &keys(), want), None);
        clear_meanwhile(&replica, &engine, partition);
        let unsynced = Refusal::Unsynced(UnsyncedCause::Operator);
        assert_eq!(read_at_once(&replica, &keys()[..1], want), Some(vec![Err(unsynced)]), "{want:?}");
        assert!(engine.next.lock().is_none(), "it happened");
    }
}
