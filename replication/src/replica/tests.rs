//! Rows of one partition key under a clock that goes on while they are judged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use cube_storage::clock::Clock;
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Epoch, Hlc, PartitionBits, PlacementId, Record, RowKey, TableId, Version};
use cube_storage::{Identity, PartitionState, StoreOptions, TableOptions};

use super::*;

const TABLE: TableId = TableId(1);
const MAX_DRIFT_MS: u64 = 1_000;
const ROWS: usize = 5;

/// A millisecond passes with each reading.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn wall_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }
}

/// A replica whose partitions are all like this.
fn replica(held: PartitionState) -> Replica {
    let bits = PartitionBits::DEFAULT;
    let identity = Identity { bits, merkle_key: MerkleKey([3; 16]) };
    let store = Arc::new(Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap());
    store.put_table(TABLE, TableOptions::default()).unwrap();
    let all = bits.all().map(|partition| (partition, held));
    store.set_partitions(PlacementId(0), all).unwrap();
    let clock = NodeClock::new(NodeId(1), Arc::new(Ticking::default()), Arc::clone(&store), MAX_DRIFT_MS).unwrap();
    Replica::new(NodeId(1), store, Arc::new(clock))
}

/// Rows of two partition keys, those of the first before those of the other.
fn rows(version: Version, claim: Epoch) -> Vec<Mutation> {
    let of_key = |partition: &'static str| {
        (0..ROWS).map(move |sort| {
            let (key, record) = (RowKey::with_sort(partition, format!("{sort}")), Record::value(version, "v"));
            Mutation { table: TABLE, key, record, claim: Some(claim) }
        })
    };
    of_key("first").chain(of_key("other")).collect()
}

/// Whether each row was taken.
fn taken(replica: &Replica, version: Version) -> Vec<bool> {
    let (heard, hear) = mpsc::channel();
    let mutations = rows(version, Epoch(4));
    let write = WriteRows { origin: Origin::Client, mutations, stamp: Stamp::New, seen: None, condition: None };
    replica.write(write, replica.clock.limit(1_000), Box::new(move |reply| heard.send(reply.body).unwrap()));
    replica.store.run_pending();
    match hear.try_recv().unwrap() {
        Ok(ReplyBody::Wrote(outcomes)) => outcomes.iter().map(Outcome::holds).collect(),
        Ok(ReplyBody::WroteSome(each)) => {
            each.iter().map(|row| row.as_ref().is_ok_and(|outcome| outcome.holds())).collect()
        }
        Err(_) => vec![false; 2 * ROWS],
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
fn whoever_knows_nothing_of_losses_is_told_of_something_newer() {
    let replica = replica(PartitionState { epoch: Epoch(4), sync: SyncState::Unsynced(UnsyncedCause::DamagedData) });
    let lost = Hlc::new(500, 0);
    replica.store.started_at(lost);
    let told = |features| {
        let mutations = rows(Version::new(Hlc::new(40, 0), NodeId(2)), Epoch(4));
        let write = WriteRows { origin: Origin::Client, mutations, stamp: Stamp::New, seen: None, condition: None };
        let (heard, hear) = mpsc::channel();
        let request = Request {
            protocol: PROTOCOL,
            features,
            from: NodeId(2),
            clock: Hlc::default(),
            time_left_ms: 1_000,
            explain: false,
            trace: None,
            body: RequestBody::Write(write),
        };
        replica.handle(request, Box::new(move |reply| heard.send(reply.body).unwrap()));
        replica.store.run_pending();
        hear.try_recv().unwrap()
    };
    assert_eq!(told(Features::LOSSES), Ok(ReplyBody::Wrote(vec![Outcome::LostUpTo(lost); 2 * ROWS])));
    let newer = Outcome::Superseded(Version::new(lost, NodeId(u16::MAX)));
    assert_eq!(told(Features::default()), Ok(ReplyBody::Wrote(vec![newer; 2 * ROWS])));
}

/// Writes rows of versions of all moments around the one after which the replica judges differently.
fn check_all(held: PartitionState, ahead_ms: u64, node: NodeId) {
    let mut differ = 0;
    for moment_ms in 0..4 * ROWS as u64 {
        let replica = replica(held);
        let taken = taken(&replica, Version::new(Hlc::new(ahead_ms + moment_ms, 0), node));
        let (first, other) = taken.split_at(ROWS);
        for rows in [first, other] {
            assert!(rows.iter().all(|row| *row == rows[0]), "{moment_ms} ms: torn apart, {taken:?}");
        }
        differ += usize::from(first[0] != other[0]);
    }
    assert!(differ > 0, "no moment lay between two judgements");
}

#[test]
fn rows_of_one_partition_key_pass_the_bound_of_drift_together_or_not_at_all() {
    let held = PartitionState { epoch: Epoch(4), sync: SyncState::Synced };
    check_all(held, MAX_DRIFT_MS, NodeId(2));
}

#[test]
fn rows_of_one_partition_key_are_ahead_of_the_clock_of_a_new_replica_together_or_not_at_all() {
    let held = PartitionState { epoch: Epoch(4), sync: SyncState::Unsynced(UnsyncedCause::New) };
    check_all(held, 0, NodeId::CLIENT);
}
