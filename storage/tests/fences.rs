//! The fences and marks that the write path checks, on both engines: epochs and purge floors never go back, proofs are
//! taken back by what is older, marks are durable before they count, a damaged log is never mistaken for a whole one,
//! and a store that failed to write writes nothing more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::sync::Arc;

use cube_storage::clock::{Clock, HybridClock, SystemClock};
use cube_storage::engine::EngineError;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Batch, Epoch, Hlc, Invalid, Mutation, NodeId, Origin, Outcome, PartitionBits, PartitionId, PlacementId, RowKey,
    TableId, Version,
};
use cube_storage::{
    DeadLook, Identity, PartitionState, RangeState, Store, StoreError, StoreOptions, SyncState, TableOptions,
    UnsyncedCause,
};

use crate::common::disks::{Disk, MemoryDisk};
use crate::common::gate::GatedEngine;
use crate::common::{
    at, batch, bits, client, delete, identity, mark_all_synced, open_store, pause, put, synced_partitions,
};

const TABLE: TableId = TableId(1);
const ELSEWHERE: TableId = TableId(2);
const PLACEMENT: PlacementId = PlacementId(0);
const OTHER_PLACEMENT: PlacementId = PlacementId(1);

macro_rules! on_every_engine {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::MemoryDisk::default()); })+
        }
        #[cfg(feature = "rocks")]
        mod rocks {
            $(#[test] fn $name() { super::$name(&super::common::disks::RocksDisk::new()); })+
        }
    };
}

on_every_engine!(
    an_epoch_never_goes_back_and_outlives_a_restart,
    a_write_that_counts_by_an_older_map_is_refused_and_others_are_not,
    a_floor_rises_to_the_proof_and_outlives_a_restart,
    below_the_floor_a_client_is_refused_and_an_equal_replica_is_heard,
    an_older_version_takes_the_proof_back_in_the_same_write,
    a_proof_under_way_does_not_outlive_a_restart,
    clearing_a_partition_takes_its_proof_and_keeps_its_floor,
    what_nobody_declared_in_sync_is_not_and_marks_outlive_a_restart,
    a_client_is_told_up_to_where_a_partition_may_have_lost_what_is_newer,
    a_loss_reaches_up_to_the_clock_where_the_bound_was_lost_as_well,
    a_directory_of_another_cluster_is_refused,
    the_clock_never_gives_a_reading_twice_across_restarts,
    a_tables_options_outlive_a_restart_and_its_index_is_fixed,
);

fn open(disk: &dyn Disk) -> Arc<Store> {
    let store = open_store(disk.open().unwrap());
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store.put_table(ELSEWHERE, TableOptions { placement: OTHER_PLACEMENT, ..TableOptions::default() }).unwrap();
    Arc::new(store)
}

/// A key whose row falls into a partition.
fn key_in(partition: PartitionId) -> RowKey {
    let keys = (0..).map(|n| RowKey::of(format!("key{n}")));
    keys.into_iter().find(|key| bits().partition_of(key.token()) == partition).unwrap()
}

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);

fn claiming(table: TableId, partition: PartitionId, millis: u64, claim: u64) -> Mutation {
    Mutation { claim: Some(Epoch(claim)), ..put(table, key_in(partition), at(millis), "v") }
}

fn outcome(store: &Store, mutation: Mutation) -> Outcome {
    store.apply(Batch::of(mutation)).unwrap()[0]
}

fn an_epoch_never_goes_back_and_outlives_a_restart(disk: &dyn Disk) {
    let store = open(disk);
    store.fence(PLACEMENT, P0, Epoch(5)).unwrap();
    store.fence(PLACEMENT, P0, Epoch(5)).unwrap();
    let behind = StoreError::EpochBehind { placement: PLACEMENT, partition: P0, present: Epoch(5), asked: Epoch(4) };
    assert_eq!(store.fence(PLACEMENT, P0, Epoch(4)), Err(behind.clone()));
    let older = PartitionState { epoch: Epoch(4), sync: SyncState::Synced };
    assert_eq!(store.set_partitions(PLACEMENT, [(P1, older), (P0, older)]), Err(behind));
    assert_eq!(store.partition(PLACEMENT, P1), PartitionState::default(), "all or nothing");
    drop(store);
    let store = open(disk);
    assert_eq!(store.partition(PLACEMENT, P0).epoch, Epoch(5));
    assert_eq!(store.partition(PLACEMENT, P1).epoch, Epoch(0));
    assert_eq!(store.partition(OTHER_PLACEMENT, P0).epoch, Epoch(0));
    assert!(store.fence(PLACEMENT, P0, Epoch(4)).is_err());
}

fn a_write_that_counts_by_an_older_map_is_refused_and_others_are_not(disk: &dyn Disk) {
    let store = open(disk);
    store.fence(PLACEMENT, P0, Epoch(5)).unwrap();
    assert_eq!(outcome(&store, claiming(TABLE, P0, 1, 4)), Outcome::Fenced(Epoch(5)));
    assert_eq!(store.get(TABLE, &key_in(P0)), Ok(None));
    assert_eq!(outcome(&store, claiming(TABLE, P0, 1, 5)), Outcome::Applied);
    assert_eq!(outcome(&store, claiming(TABLE, P0, 2, 6)), Outcome::Applied);
    assert_eq!(outcome(&store, put(TABLE, key_in(P0), at(3), "v")), Outcome::Applied, "nobody counts by it");
    assert_eq!(outcome(&store, claiming(TABLE, P1, 1, 4)), Outcome::Applied, "another partition");
    assert_eq!(outcome(&store, claiming(ELSEWHERE, P0, 1, 4)), Outcome::Applied, "another placement");
    let both = client(vec![claiming(TABLE, P0, 9, 4), claiming(TABLE, P1, 9, 4)]);
    assert_eq!(store.apply(both).unwrap(), [Outcome::Fenced(Epoch(5)), Outcome::Applied]);
}

fn clear(store: &Store, partition: PartitionId) {
    while store.clear_step(TABLE, partition, 100).unwrap().next.is_some() {}
}

fn lose(store: &Store, partition: PartitionId) {
    store.set_sync(PLACEMENT, partition, SyncState::Unsynced(UnsyncedCause::DamagedData)).unwrap();
}

fn a_client_is_told_up_to_where_a_partition_may_have_lost_what_is_newer(disk: &dyn Disk) {
    let store = open(disk);
    mark_all_synced(&store, PLACEMENT);
    let write = |store: &Store, partition, millis| outcome(store, put(TABLE, key_in(partition), at(millis), "v"));
    assert_eq!(write(&store, P0, 20), Outcome::Applied);
    assert_eq!(write(&store, P1, 20_000), Outcome::Applied, "what others hold does not reach further");
    lose(&store, P0);
    clear(&store, P0);
    let lost = Outcome::LostUpTo(at(20).hlc);
    assert_eq!(write(&store, P0, 15), lost);
    assert_eq!(store.get(TABLE, &key_in(P0)).unwrap().unwrap().version, at(15), "it is taken all the same");
    assert_eq!(write(&store, P0, 15), lost, "present");
    assert_eq!(write(&store, P0, 14), lost, "superseded by less than what was lost");
    let hint = batch(Origin::Hint, vec![put(TABLE, key_in(P0), at(16), "v")]);
    assert_eq!(store.apply(hint).unwrap(), [Outcome::Applied], "nobody stamps it anew");
    let by_client = |millis| put(TABLE, key_in(P0), Version::new(at(millis).hlc, NodeId::CLIENT), "v");
    assert_eq!(outcome(&store, by_client(17)), Outcome::Applied, "its client chose the timestamp");
    assert_eq!(write(&store, P0, 25), Outcome::Applied);
    assert_eq!(write(&store, P0, 18), Outcome::Superseded(at(25)), "what is held says more than what was lost");
    assert_eq!(write(&store, P1, 20_000), Outcome::Present, "it has lost nothing");
    // Once more: what was taken since may be gone as well.
    store.set_sync(PLACEMENT, P0, SyncState::Synced).unwrap();
    assert_eq!(write(&store, P0, 30), Outcome::Applied);
    lose(&store, P0);
    assert_eq!(write(&store, P0, 29), Outcome::LostUpTo(at(30).hlc));
    drop(store);
    let store = open(disk);
    let Outcome::LostUpTo(bound) = write(&store, P0, 29) else { panic!("the loss is forgotten") };
    assert!(bound >= at(30).hlc, "{bound:?}");
    assert_eq!(outcome(&store, put(TABLE, key_in(P0), at(bound.millis() + 1), "v")), Outcome::Applied);
    store.set_sync(PLACEMENT, P0, SyncState::Synced).unwrap();
    assert_eq!(write(&store, P0, 29), Outcome::Superseded(at(bound.millis() + 1)), "whole again");
}

fn a_loss_reaches_up_to_the_clock_where_the_bound_was_lost_as_well(disk: &dyn Disk) {
    let store = open(disk);
    lose(&store, P0);
    drop(store);
    let store = open(disk);
    assert_eq!(outcome(&store, put(TABLE, key_in(P0), at(5), "v")), Outcome::Applied);
    store.started_at(at(50).hlc);
    assert_eq!(outcome(&store, put(TABLE, key_in(P0), at(6), "v")), Outcome::LostUpTo(at(50).hlc));
}

fn prove(store: &Store, partition: PartitionId, horizon: Hlc) {
    store.begin_proof(TABLE, partition).unwrap();
    assert!(store.end_proof(TABLE, partition, horizon).unwrap());
}

fn a_floor_rises_to_the_proof_and_outlives_a_restart(disk: &dyn Disk) {
    let store = open(disk);
    let (low, high) = (Hlc::new(10, 0), Hlc::new(20, 0));
    let above =
        |floor, synced_through| Err(StoreError::FloorAboveProof { table: TABLE, partition: P0, floor, synced_through });
    assert_eq!(store.raise_floor(TABLE, P0, low), above(low, Hlc(0)));
    assert!(!store.end_proof(TABLE, P0, low).unwrap(), "no proof was begun");
    prove(&store, P0, low);
    assert_eq!(store.raise_floor(TABLE, P0, high), above(high, low));
    store.raise_floor(TABLE, P0, low).unwrap();
    store.raise_floor(TABLE, P0, Hlc::new(5, 0)).unwrap();
    prove(&store, P0, Hlc::new(3, 0));
    let state = RangeState { floor: low, synced_through: low };
    assert_eq!(store.range_state(TABLE, P0), state, "neither goes back");
    drop(store);
    let store = open(disk);
    assert_eq!(store.range_state(TABLE, P0), state);
    assert_eq!(store.range_state(TABLE, P1), RangeState::default());
    assert_eq!(store.range_state(ELSEWHERE, P0), RangeState::default());
}

fn below_the_floor_a_client_is_refused_and_an_equal_replica_is_heard(disk: &dyn Disk) {
    let store = open(disk);
    let floor = Hlc::new(10, 0);
    prove(&store, P0, floor);
    store.raise_floor(TABLE, P0, floor).unwrap();
    drop(store);
    let store = open(disk);
    let old = put(TABLE, key_in(P0), at(9), "v");
    let refused = [Outcome::BelowFloor(floor)];
    assert_eq!(store.apply(client(vec![old.clone()])).unwrap(), refused);
    assert_eq!(store.apply(batch(Origin::Hint, vec![old.clone()])).unwrap(), refused);
    let behind = Origin::Replica { floor: Hlc::new(9, 0) };
    assert_eq!(store.apply(batch(behind, vec![old.clone()])).unwrap(), refused);
    assert_eq!(store.get(TABLE, &key_in(P0)), Ok(None));
    assert_eq!(store.counters().below_floor_rows(), 3, "each refusal is counted");
    let equal = Origin::Replica { floor };
    let deletion = delete(TABLE, key_in(P0), at(8));
    assert_eq!(store.apply(batch(equal, vec![deletion])).unwrap(), [Outcome::Present], "the same as absent");
    assert_eq!(store.apply(batch(equal, vec![old])).unwrap(), [Outcome::Applied]);
}

fn an_older_version_takes_the_proof_back_in_the_same_write(disk: &dyn Disk) {
    let store = open(disk);
    prove(&store, P0, Hlc::new(10, 0));
    prove(&store, P1, Hlc::new(10, 0));
    outcome(&store, put(TABLE, key_in(P0), at(11), "newer"));
    assert_eq!(store.range_state(TABLE, P0).synced_through, Hlc::new(10, 0));
    assert_eq!(outcome(&store, put(TABLE, key_in(P0), at(10), "older")), Outcome::Superseded(at(11)));
    assert_eq!(store.range_state(TABLE, P0).synced_through, Hlc::new(10, 0), "it changed nothing");
    let other = RowKey::with_sort(key_in(P0).partition, "another row");
    outcome(&store, put(TABLE, other, at(7), "older"));
    let lowered = Hlc(Hlc::new(7, 0).0 - 1);
    assert_eq!(store.range_state(TABLE, P0).synced_through, lowered);
    drop(store);
    let store = open(disk);
    assert_eq!(store.range_state(TABLE, P0).synced_through, lowered);
    assert_eq!(store.range_state(TABLE, P1).synced_through, Hlc::new(10, 0));
}

fn a_proof_under_way_does_not_outlive_a_restart(disk: &dyn Disk) {
    let store = open(disk);
    store.begin_proof(TABLE, P0).unwrap();
    drop(store);
    // What arrives before the proof is begun anew would be missed.
    assert!(!open(disk).end_proof(TABLE, P0, Hlc::new(1, 0)).unwrap());
}

fn clearing_a_partition_takes_its_proof_and_keeps_its_floor(disk: &dyn Disk) {
    let store = open(disk);
    let floor = Hlc::new(10, 0);
    prove(&store, P0, floor);
    store.raise_floor(TABLE, P0, floor).unwrap();
    store.begin_proof(TABLE, P0).unwrap();
    store.clear_step(TABLE, P0, 10).unwrap();
    assert!(!store.end_proof(TABLE, P0, floor).unwrap(), "what was compared is gone");
    drop(store);
    let cleared = RangeState { floor, synced_through: Hlc(0) };
    assert_eq!(open(disk).range_state(TABLE, P0), cleared);
}

fn what_nobody_declared_in_sync_is_not_and_marks_outlive_a_restart(disk: &dyn Disk) {
    let store = open(disk);
    assert_eq!(store.partition(PLACEMENT, P0).sync, SyncState::Unsynced(UnsyncedCause::New));
    mark_all_synced(&store, PLACEMENT);
    store.set_sync(PLACEMENT, P1, SyncState::Unsynced(UnsyncedCause::Operator)).unwrap();
    drop(store);
    let store = open(disk);
    assert_eq!(synced_partitions(&store, PLACEMENT), [P0]);
    assert_eq!(store.partition(PLACEMENT, P1).sync, SyncState::Unsynced(UnsyncedCause::Operator));
    assert_eq!(synced_partitions(&store, OTHER_PLACEMENT), []);
}

fn a_directory_of_another_cluster_is_refused(disk: &dyn Disk) {
    drop(open(disk));
    let open_as = |identity| Store::open(disk.open().unwrap(), identity, StoreOptions::default()).map(drop);
    let Err(refused) = open_as(Identity { bits: PartitionBits::DEFAULT, ..identity() }) else { panic!("opened") };
    let message = refused.to_string();
    assert!(message.contains("the number of partitions is 2^1 there and 2^8 here"), "{message}");
    let Err(refused) = open_as(Identity { merkle_key: MerkleKey([1; 16]), ..identity() }) else { panic!("opened") };
    assert!(refused.to_string().contains("Merkle key"), "{refused}");
    assert_eq!(open_as(identity()), Ok(()));
}

fn the_clock_never_gives_a_reading_twice_across_restarts(disk: &dyn Disk) {
    let mut last = Hlc(0);
    for restart in 0..4 {
        // The wall clock stands still, or is set back by more than the process lived.
        let wall_ms = 1_000_000 - restart * 500;
        let clock = HybridClock::new(open(disk), 60_000).unwrap();
        for _ in 0..3 {
            let now = clock.now(wall_ms).unwrap();
            assert!(now > last, "{now} after {last}");
            last = now;
        }
    }
}

fn a_tables_options_outlive_a_restart_and_its_index_is_fixed(disk: &dyn Disk) {
    let store = open(disk);
    let unindexed = TableOptions { prefix_index: false, ..TableOptions::default() };
    let refused = store.put_table(TABLE, unindexed).unwrap_err();
    assert_eq!(refused, StoreError::Invalid(Invalid::PrefixIndexFixed { table: TABLE }));
    let lazy = TableOptions { sync: cube_storage::SyncPolicy::Interval { every_ms: 50 }, ..unindexed };
    store.put_table(TableId(9), lazy).unwrap();
    store.drop_table(ELSEWHERE).unwrap();
    drop(store);
    let store = open_store(disk.open().unwrap());
    assert_eq!(store.tables(), [(TABLE, TableOptions::default()), (TableId(9), lazy)]);
    let unknown = StoreError::Invalid(Invalid::UnknownTable { table: ELSEWHERE });
    assert_eq!(store.get(ELSEWHERE, &RowKey::of("k")), Err(unknown));
}

/// Whether a thread of this process, by its path below `/proc`, waits for something.
fn is_asleep(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('S')
}

#[test]
fn a_proof_begins_behind_the_writes_under_way() {
    let engine = Arc::new(GatedEngine::default());
    let store = Arc::new(open_store(Arc::<GatedEngine>::clone(&engine)));
    store.put_table(TABLE, TableOptions::default()).unwrap();
    std::thread::scope(|threads| {
        engine.close();
        let writer = threads.spawn(|| outcome(&store, put(TABLE, key_in(P0), at(5), "v")));
        engine.wait_for_a_write();
        // Between being judged and being visible: a comparison begun now would not see it, nor be told of it.
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (store, engine) = (&store, &engine);
        let (names, name) = std::sync::mpsc::channel();
        let prover = threads.spawn(move || {
            names.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            store.begin_proof(TABLE, P0).unwrap();
            let seen = store.get(TABLE, &key_in(P0)).unwrap().is_some();
            begun.send(()).unwrap();
            seen || !store.end_proof(TABLE, P0, Hlc::new(9, 0)).unwrap()
        });
        // It should wait for the write, and then it sleeps. One that does not wait has begun.
        let (thread, clock) = (name.recv().unwrap(), SystemClock::new(0));
        while has_begun.try_recv().is_err() && !is_asleep(&thread) {
            assert!(clock.monotonic_ms() < 120_000, "it neither begins nor waits");
            pause(std::time::Duration::from_millis(1));
        }
        engine.open();
        assert_eq!(writer.join().unwrap(), Outcome::Applied);
        assert!(prover.join().unwrap(), "a proof over a write that was neither seen nor noted");
    });
}

fn damaged_log(disk: &MemoryDisk) {
    disk.0.report_damaged_log("the write-ahead log ends at write 7, but write 9 had been synced");
}

const DAMAGED_LOG: SyncState = SyncState::Unsynced(UnsyncedCause::DamagedLog);

#[test]
fn after_a_damaged_log_no_partition_counts_until_it_is_declared_in_sync_again() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    mark_all_synced(&store, PLACEMENT);
    mark_all_synced(&store, OTHER_PLACEMENT);
    store.fence(PLACEMENT, P1, Epoch(3)).unwrap();
    store.set_sync(PLACEMENT, P0, SyncState::Unsynced(UnsyncedCause::Operator)).unwrap();
    drop(store);
    damaged_log(&disk);
    let store = open(&disk);
    assert_eq!(store.partition(PLACEMENT, P1), PartitionState { epoch: Epoch(3), sync: DAMAGED_LOG });
    assert_eq!(store.partition(OTHER_PLACEMENT, P0).sync, DAMAGED_LOG);
    let operator = SyncState::Unsynced(UnsyncedCause::Operator);
    assert_eq!(store.partition(PLACEMENT, P0).sync, operator, "an unsynced one keeps its cause");
    assert_eq!(outcome(&store, put(TABLE, key_in(P0), at(1), "v")), Outcome::Applied, "writes go on");
    drop(store);
    disk.0.crash();
    let store = open(&disk);
    assert_eq!(store.partition(PLACEMENT, P1).sync, DAMAGED_LOG, "durably");
    mark_all_synced(&store, PLACEMENT);
    drop(store);
    assert_eq!(synced_partitions(&open(&disk), PLACEMENT), [P0, P1], "and it is reported once");
}

#[test]
fn a_damaged_log_is_reported_until_the_marks_are_durable() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    mark_all_synced(&store, PLACEMENT);
    drop(store);
    damaged_log(&disk);
    disk.0.fail_with(EngineError::NoSpace { detail: "full".into() });
    let opened = Store::open(disk.open().unwrap(), identity(), StoreOptions::default());
    assert!(opened.is_err(), "opened without the marks");
    disk.0.heal();
    assert_eq!(synced_partitions(&open(&disk), PLACEMENT), []);
}

#[test]
fn a_partition_is_declared_in_sync_only_if_nothing_was_marked_and_no_map_came_meanwhile() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let synced = || store.partition(PLACEMENT, P0).sync == SyncState::Synced;
    store.fence(PLACEMENT, P0, Epoch(3)).unwrap();
    let (_, before) = store.partition_marks(PLACEMENT, P0);
    let (_, elsewhere) = store.partition_marks(PLACEMENT, P1);
    let operator = SyncState::Unsynced(UnsyncedCause::Operator);
    store.set_sync(PLACEMENT, P0, operator).unwrap();
    assert_eq!(store.mark_synced_if(PLACEMENT, P0, Epoch(3), before), Ok(false), "marked since");
    let (state, marks) = store.partition_marks(PLACEMENT, P0);
    assert_eq!(state, PartitionState { epoch: Epoch(3), sync: operator });
    assert_eq!(store.mark_synced_if(PLACEMENT, P0, Epoch(2), marks), Ok(false), "another map");
    assert!(!synced());
    assert_eq!(store.mark_synced_if(PLACEMENT, P0, Epoch(3), marks), Ok(false), "what it lost was counted by this map");
    store.fence(PLACEMENT, P0, Epoch(4)).unwrap();
    let (_, marks) = store.partition_marks(PLACEMENT, P0);
    assert_eq!(store.mark_synced_if(PLACEMENT, P0, Epoch(4), marks), Ok(true));
    assert!(synced());
    assert_eq!(store.partition_marks(PLACEMENT, P1).1, elsewhere, "another partition's marks are its own");
    drop(store);
    disk.0.crash();
    assert_eq!(open(&disk).partition(PLACEMENT, P0).sync, SyncState::Synced, "durably");
}

#[test]
fn what_is_found_lost_is_made_whole_only_behind_a_higher_fence_also_after_a_restart() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.fence(PLACEMENT, P0, Epoch(3)).unwrap();
    assert_eq!(store.lost_at(PLACEMENT, P0), None, "one that is new has lost nothing");
    store.set_sync(PLACEMENT, P0, SyncState::Synced).unwrap();
    store.set_sync(PLACEMENT, P0, SyncState::Unsynced(UnsyncedCause::DamagedData)).unwrap();
    store.fence(PLACEMENT, P0, Epoch(5)).unwrap();
    assert_eq!(store.lost_at(PLACEMENT, P0), Some(Epoch(3)));
    drop(store);
    let store = open(&disk);
    assert_eq!(store.lost_at(PLACEMENT, P0), Some(Epoch(5)), "it is not known any more, so the fence is taken");
    store.set_sync(PLACEMENT, P0, SyncState::Synced).unwrap();
    assert_eq!(store.lost_at(PLACEMENT, P0), None);
}

/// Everything that writes.
fn all_writes(store: &Arc<Store>) -> Vec<Result<(), StoreError>> {
    vec![
        store.apply(client(vec![put(TABLE, RowKey::of("k"), at(9), "v")])).map(drop),
        store.clear_step(TABLE, P0, 1).map(drop),
        store.fence(PLACEMENT, P0, Epoch(9)),
        store.set_sync(PLACEMENT, P0, SyncState::Synced),
        store.set_partitions(PLACEMENT, [(P0, PartitionState { epoch: Epoch(9), sync: SyncState::Synced })]),
        store.put_table(TableId(8), TableOptions::default()),
        store.drop_table(ELSEWHERE),
        cube_storage::clock::BoundKeeper::keep(store, cube_storage::clock::Bound::Readings, Hlc(1)),
    ]
}

#[test]
fn after_a_failed_write_nothing_is_written_until_a_restart_and_reads_go_on() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    outcome(&store, put(TABLE, RowKey::of("k"), at(1), "v"));
    disk.0.fail_with(EngineError::Io { detail: "fsync of 000004.log: Input/output error".into() });
    let failed = store.apply(client(vec![put(TABLE, RowKey::of("k"), at(2), "w")])).unwrap_err();
    assert!(failed.to_string().contains("Input/output error"), "{failed}");
    // The disk is well again, but what it kept of the log is not known.
    disk.0.heal();
    for write in all_writes(&store) {
        let Err(StoreError::Stopped { cause }) = write else { panic!("{write:?}") };
        assert!(cause.contains("000004.log"), "{cause}");
    }
    assert!(store.stopped().unwrap().contains("000004.log"));
    assert_eq!(store.get(TABLE, &RowKey::of("k")).unwrap().unwrap().version, at(1));
    assert_eq!(store.tables().len(), 2);
    drop(store);
    let store = open(&disk);
    assert_eq!(store.stopped(), None);
    all_writes(&store).into_iter().for_each(|write| write.unwrap());
}

#[test]
fn a_failed_sync_stops_writes_too() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let lazy = TableOptions { sync: cube_storage::SyncPolicy::Interval { every_ms: 1 }, ..TableOptions::default() };
    store.put_table(TableId(9), lazy).unwrap();
    store.apply(client(vec![put(TableId(9), RowKey::of("k"), at(1), "v")])).unwrap();
    disk.0.fail_with(EngineError::Io { detail: "gone".into() });
    assert!(store.sync().is_err());
    disk.0.heal();
    assert!(all_writes(&store).into_iter().all(|write| matches!(write, Err(StoreError::Stopped { .. }))));
}

#[test]
fn a_mark_of_damage_counts_even_when_it_cannot_be_noted() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let key = key_in(P0);
    outcome(&store, put(TABLE, key.clone(), at(1), "v"));
    mark_all_synced(&store, PLACEMENT);
    assert!(disk.0.flip(cube_storage::engine::Space::Data, &common::format::data_key(TABLE, &key), 14, 3));
    disk.0.fail_with(EngineError::Io { detail: "gone".into() });
    assert!(matches!(store.get(TABLE, &key), Err(StoreError::Corrupt(_))));
    assert_eq!(synced_partitions(&store, PLACEMENT), [P1]);
}

#[test]
fn an_unreadable_disk_is_not_taken_for_an_empty_row() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    outcome(&store, put(TABLE, RowKey::of("k"), at(5), "new"));
    drop(store);
    // A store that was opened anew remembers no row.
    let store = open(&disk);
    disk.0.fail_reads_with(EngineError::Io { detail: "timed out".into() });
    let old = client(vec![put(TABLE, RowKey::of("k"), at(1), "old")]);
    assert!(matches!(store.apply(old.clone()), Err(StoreError::Engine(EngineError::Io { .. }))));
    disk.0.heal();
    assert_eq!(store.apply(old).unwrap(), [Outcome::Superseded(at(5))], "and writes did not stop");
}

#[test]
fn a_partition_in_which_nothing_dies_is_looked_through_once_and_what_comes_to_die_is_found() {
    const ROWS_MAX: usize = 8;
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let rows = (0..50).map(|n| put(TABLE, RowKey::with_sort("k", format!("{n}")), at(1), "v"));
    store.apply(client(rows.collect())).unwrap();
    let key = || RowKey::with_sort("k", "49");
    let tree = (TABLE, bits().partition_of(key().token()));
    let look = |floor: u64| {
        let (mut from, mut looks) = (None, 0);
        loop {
            looks += 1;
            match store.look_for_dead(tree, from.as_ref(), Hlc::new(floor, 0), ROWS_MAX).unwrap() {
                DeadLook::NotYet(next) => from = Some(next),
                DeadLook::Nothing => return (false, looks),
                DeadLook::Some => return (true, looks),
            }
        }
    };
    assert_eq!(look(90), (false, 50 / ROWS_MAX + 1), "a bounded part at a time");
    disk.0.fail_reads_with(EngineError::Io { detail: "nothing is to be read".into() });
    assert_eq!(look(95), (false, 1));
    disk.0.heal();
    store.apply(client(vec![put(TABLE, key(), at(93), "other")])).unwrap();
    disk.0.fail_reads_with(EngineError::Io { detail: "nothing is to be read".into() });
    assert_eq!(look(95), (false, 1), "a value without an end changes nothing");
    disk.0.heal();
    store.apply(client(vec![delete(TABLE, key(), at(97))])).unwrap();
    assert_eq!(look(96), (false, 1), "it is not dead below its version");
    assert!(look(97).0);
}
