//! What a write on a full disk could not note of its partitions goes with the next write: a restart afterwards knows no
//! less than the process before it did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use cube_storage::engine::{EngineError, Space};
use cube_storage::model::{Epoch, Hlc, Mutation, Outcome, PartitionId, PlacementId, RowKey, TableId};
use cube_storage::{PartitionState, Store, StoreError, SyncState, TableOptions, UnsyncedCause};

use crate::common::disks::MemoryDisk;
use crate::common::{at, client, format, mark_all_synced, open_store, put};

const TABLE: TableId = TableId(1);
const PLACEMENT: PlacementId = PlacementId(0);
const DAMAGED: SyncState = SyncState::Unsynced(UnsyncedCause::DamagedData);

fn open(disk: &MemoryDisk) -> Store {
    open_store(Arc::new(disk.0.clone()))
}

fn fresh() -> (MemoryDisk, Store) {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    (disk, store)
}

fn fill_up(disk: &MemoryDisk) {
    disk.0.fail_with(EngineError::NoSpace { detail: "full".into() });
}

fn row(name: &'static str, millis: u64) -> Mutation {
    put(TABLE, RowKey::of(name), at(millis), "v")
}

fn partition_of(name: &'static str) -> PartitionId {
    common::bits().partition_of(RowKey::of(name).token())
}

fn assert_full<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Engine(EngineError::NoSpace { .. }))), "{result:?}");
}

/// Proven through 10, then told an older write for which there was no space.
fn with_failed_older_write() -> (MemoryDisk, Store) {
    let (disk, store) = fresh();
    let partition = partition_of("k");
    store.begin_proof(TABLE, partition).unwrap();
    assert!(store.end_proof(TABLE, partition, Hlc::new(10, 0)).unwrap());
    fill_up(&disk);
    assert_full(store.apply(client(vec![row("k", 7)])));
    disk.0.heal();
    (disk, store)
}

#[test]
fn an_older_write_that_is_retried_takes_the_proof_back_durably() {
    let (disk, store) = with_failed_older_write();
    assert_eq!(store.apply(client(vec![row("k", 7)])).unwrap(), [Outcome::Applied]);
    drop(store);
    disk.0.crash();
    let store = open(&disk);
    assert!(store.get(TABLE, &RowKey::of("k")).unwrap().is_some());
    let synced_through = store.range_state(TABLE, partition_of("k")).synced_through;
    assert_eq!(synced_through, Hlc(Hlc::new(7, 0).0 - 1), "a floor up to the old proof would cover the row");
}

#[test]
fn a_note_that_failed_does_not_outlive_a_newer_one() {
    let (disk, store) = with_failed_older_write();
    let (partition, horizon) = (partition_of("k"), Hlc::new(9, 0));
    store.begin_proof(TABLE, partition).unwrap();
    assert!(store.end_proof(TABLE, partition, horizon).unwrap());
    store.apply(client(vec![row("k", 20)])).unwrap();
    drop(store);
    assert_eq!(open(&disk).range_state(TABLE, partition).synced_through, horizon);
}

#[test]
fn a_note_that_failed_goes_with_its_table() {
    let (disk, store) = with_failed_older_write();
    store.drop_table(TABLE).unwrap();
    store.put_table(TABLE, TableOptions::default()).unwrap();
    drop(store);
    assert_eq!(open(&disk).range_state(TABLE, partition_of("k")).synced_through, Hlc(0));
}

/// A row of a partition in sync, damaged on disk, and nothing remembered of it.
fn with_a_damaged_row() -> (MemoryDisk, Store) {
    let (disk, store) = fresh();
    mark_all_synced(&store, PLACEMENT);
    store.apply(client(vec![row("k", 5)])).unwrap();
    drop(store);
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &RowKey::of("k")), 3, 1));
    let store = open(&disk);
    fill_up(&disk);
    (disk, store)
}

/// What was damaged may have been newer, up to the bound that was noted with it.
fn assert_taken(outcomes: Vec<Outcome>) {
    assert!(matches!(outcomes[..], [Outcome::LostUpTo(lost)] if lost >= at(5).hlc), "{outcomes:?}");
}

fn assert_marked_after_restart(disk: &MemoryDisk, store: Store) {
    drop(store);
    disk.0.crash();
    let store = open(disk);
    assert_eq!(store.get(TABLE, &RowKey::of("k")).unwrap().unwrap().version, at(9), "the evidence is gone");
    assert_eq!(store.partition(PLACEMENT, partition_of("k")).sync, DAMAGED);
}

#[test]
fn damage_that_a_read_found_on_a_full_disk_is_marked_by_the_write_that_covers_it() {
    let (disk, store) = with_a_damaged_row();
    assert!(matches!(store.get(TABLE, &RowKey::of("k")), Err(StoreError::Corrupt(_))));
    disk.0.heal();
    assert_taken(store.apply(client(vec![row("k", 9)])).unwrap());
    assert_marked_after_restart(&disk, store);
}

#[test]
fn damage_that_a_write_found_on_a_full_disk_is_marked_when_it_is_retried() {
    let (disk, store) = with_a_damaged_row();
    assert_full(store.apply(client(vec![row("k", 9)])));
    assert_eq!(store.damage().found(), 1, "told although the write failed");
    disk.0.heal();
    assert_taken(store.apply(client(vec![row("k", 9)])).unwrap());
    assert_marked_after_restart(&disk, store);
}

#[test]
fn damage_that_could_not_be_marked_is_marked_when_it_is_read_again() {
    let (disk, store) = with_a_damaged_row();
    assert!(store.get(TABLE, &RowKey::of("k")).is_err());
    disk.0.heal();
    assert!(store.get(TABLE, &RowKey::of("k")).is_err());
    drop(store);
    assert_eq!(open(&disk).partition(PLACEMENT, partition_of("k")).sync, DAMAGED);
}

/// Marked, and whole again behind a higher fence, but for the note of that: it reached the disk, and the disk was full for
/// what came next.
fn with_failed_declaration(declare: impl FnOnce(&Store, PartitionId) -> Result<(), StoreError>) -> (MemoryDisk, Store) {
    let (disk, store) = fresh();
    mark_all_synced(&store, PLACEMENT);
    let partition = partition_of("k");
    store.set_sync(PLACEMENT, partition, DAMAGED).unwrap();
    store.fence(PLACEMENT, partition, Epoch(1)).unwrap();
    disk.0.fail_behind_with(EngineError::NoSpace { detail: "full".into() });
    assert_full(declare(&store, partition));
    disk.0.heal();
    assert_eq!(store.partition(PLACEMENT, partition).sync, DAMAGED, "refused");
    (disk, store)
}

fn mark_synced(store: &Store, partition: PartitionId) -> Result<(), StoreError> {
    let (state, marks) = store.partition_marks(PLACEMENT, partition);
    store.mark_synced_if(PLACEMENT, partition, state.epoch, marks).map(|is_synced| assert!(is_synced))
}

fn fence_as_synced(store: &Store, partition: PartitionId) -> Result<(), StoreError> {
    store.fence_partitions(PLACEMENT, [(partition, Epoch(2), Some(SyncState::Synced))])
}

#[test]
fn a_partition_that_could_not_be_declared_in_sync_is_not_after_the_next_write_and_a_restart() {
    for declare in [mark_synced, fence_as_synced] {
        let (disk, store) = with_failed_declaration(declare);
        store.apply(client(vec![row("another", 5)])).unwrap();
        drop(store);
        disk.0.crash();
        let state = open(&disk).partition(PLACEMENT, partition_of("k"));
        assert_eq!(state, PartitionState { epoch: Epoch(1), sync: DAMAGED });
    }
}

#[test]
fn a_mark_that_is_in_memory_already_is_durable_when_it_is_told() {
    for declare in [mark_synced, fence_as_synced] {
        let (disk, store) = with_failed_declaration(declare);
        store.set_sync(PLACEMENT, partition_of("k"), DAMAGED).unwrap();
        drop(store);
        disk.0.crash();
        assert_eq!(open(&disk).partition(PLACEMENT, partition_of("k")).sync, DAMAGED);
    }
}

#[test]
fn a_declaration_that_is_tried_again_is_durable() {
    for declare in [mark_synced, fence_as_synced] {
        let (disk, store) = with_failed_declaration(declare);
        declare(&store, partition_of("k")).unwrap();
        store.apply(client(vec![row("another", 5)])).unwrap();
        drop(store);
        disk.0.crash();
        assert_eq!(open(&disk).partition(PLACEMENT, partition_of("k")).sync, SyncState::Synced);
    }
}
