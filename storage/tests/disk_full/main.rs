//! A full disk: below the reserve clients are refused while the node can still heal, reads go on, and writes resume when
//! space returns. And when the reserve did not help and the device is really full, nothing that was acknowledged is
//! lost, reads go on, the engine opens again, and goes on by itself once there is space.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod device;
mod kept;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_storage::engine::{Engine, EngineError, RocksEngine};
use cube_storage::model::{Batch, Hlc, Origin, PartitionId, PlacementId, RowKey, TableId};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::space::{FileSystemSpace, Reserve, SpaceProbe};
use cube_storage::{Store, StoreError, StoreOptions, SyncState, TableOptions};

use crate::common::disks::MemoryDisk;
use crate::common::{at, batch, client, delete, identity, put};

const TABLE: TableId = TableId(1);
const RESERVE: Reserve = Reserve { client_bytes: 1_000, upkeep_bytes: 200 };

/// A device whose space a test sets.
#[derive(Clone)]
struct Gauge(Arc<AtomicU64>);

impl SpaceProbe for Gauge {
    fn available_bytes(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed))
    }
}

fn gauged() -> (Store, impl Fn(u64)) {
    let gauge = Gauge(Arc::new(AtomicU64::new(1 << 30)));
    let options = StoreOptions { reserve: RESERVE, space: Box::new(gauge.clone()), ..StoreOptions::default() };
    let store = Store::open(Arc::new(MemoryDisk::default().0), identity(), options).unwrap();
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store.apply(client(vec![put(TABLE, RowKey::of("k"), at(1), "v")])).unwrap();
    (store, move |bytes| gauge.0.store(bytes, Ordering::Relaxed))
}

fn row(millis: u64) -> cube_storage::model::Mutation {
    put(TABLE, RowKey::of("k"), at(millis), "v")
}

fn assert_refused(store: &Store, batch: Batch, available: u64, reserve: u64) {
    let refused = store.apply(batch).unwrap_err();
    assert_eq!(refused, StoreError::DiskFull { available_bytes: available, reserve_bytes: reserve });
    let message = refused.to_string();
    assert!(message.contains(&available.to_string()) && message.contains(&reserve.to_string()), "{message}");
}

fn assert_reads_go_on(store: &Store) {
    assert!(store.get(TABLE, &RowKey::of("k")).is_ok());
    assert!(store.scan(&ScanRequest::all(TABLE, Scope::Prefix("".into()), store.limits())).is_ok());
    assert!(store.root(TABLE, PartitionId(0)).is_ok());
}

#[test]
fn below_the_first_reserve_clients_are_refused_and_the_node_goes_on_healing() {
    let (store, set_available) = gauged();
    set_available(1_000);
    assert!(store.apply(client(vec![row(2)])).is_ok(), "exactly the reserve is left");
    set_available(999);
    assert_refused(&store, client(vec![row(3)]), 999, 1_000);
    assert_refused(&store, client(vec![delete(TABLE, RowKey::of("x"), at(3)), row(3)]), 999, 1_000);
    assert_reads_go_on(&store);
    store.apply(client(vec![delete(TABLE, RowKey::of("k"), at(4))])).unwrap();
    store.apply(batch(Origin::Hint, vec![row(5)])).unwrap();
    store.apply(batch(Origin::Replica { floor: Hlc(0) }, vec![row(6)])).unwrap();
    set_available(1_001);
    assert!(store.apply(client(vec![row(7)])).is_ok(), "and so do clients when space returns");
}

#[test]
fn below_the_second_reserve_only_what_frees_or_marks_goes_on() {
    let (store, set_available) = gauged();
    store.apply(client(vec![delete(TABLE, RowKey::of("dead"), at(2))])).unwrap();
    set_available(199);
    assert_refused(&store, client(vec![row(3)]), 199, 1_000);
    for refused in [
        client(vec![delete(TABLE, RowKey::of("k"), at(3))]),
        batch(Origin::Hint, vec![row(3)]),
        batch(Origin::Replica { floor: Hlc(0) }, vec![row(3)]),
    ] {
        assert_refused(&store, refused, 199, 200);
    }
    assert_reads_go_on(&store);
    let partition = store.bits().partition_of(RowKey::of("dead").token());
    store.begin_proof(TABLE, partition).unwrap();
    assert!(store.end_proof(TABLE, partition, Hlc::new(9, 0)).unwrap());
    store.raise_floor(TABLE, partition, Hlc::new(9, 0)).unwrap();
    assert_eq!(store.purge_step(TABLE, partition, None, 10).unwrap().removed, 1);
    store.set_sync(PlacementId(0), partition, SyncState::Synced).unwrap();
    set_available(200);
    store.apply(batch(Origin::Hint, vec![row(20)])).unwrap();
}

#[test]
fn what_is_refused_for_space_does_not_take_others_with_it() {
    let (store, set_available) = gauged();
    set_available(500);
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let deletion = client(vec![delete(TABLE, RowKey::of("d"), at(2))]);
    for batch in [client(vec![row(2)]), deletion, client(vec![row(3)])] {
        let told = Arc::clone(&told);
        store.submit(batch, Box::new(move |result| told.lock().push(result.is_ok())));
    }
    while store.run_pending() {}
    assert_eq!(*told.lock(), [false, true, false]);
}

#[test]
fn a_device_that_cannot_be_asked_refuses_nobody() {
    let gone = FileSystemSpace::of(std::path::Path::new("/nowhere/at/all"));
    assert_eq!(gone.available_bytes(), None);
    let options = StoreOptions { reserve: RESERVE, space: Box::new(gone), ..StoreOptions::default() };
    let store = Store::open(Arc::new(MemoryDisk::default().0), identity(), options).unwrap();
    store.put_table(TABLE, TableOptions::default()).unwrap();
    assert!(store.apply(client(vec![row(1)])).is_ok());
    let here = tempfile::tempdir().unwrap();
    assert!(FileSystemSpace::of(here.path()).available_bytes().unwrap() > 0);
}

#[test]
fn what_is_written_but_not_flushed_or_compacted_yet_counts_as_taken() {
    let disk = common::disks::RocksDisk::new();
    let engine = disk.engine();
    let gauge = Gauge(Arc::new(AtomicU64::new(1 << 30)));
    let options = StoreOptions {
        reserve: Reserve { client_bytes: 1 << 20, upkeep_bytes: 0 },
        space: Box::new(gauge.clone()),
        ..StoreOptions::default()
    };
    let store = Store::open(Arc::<RocksEngine>::clone(&engine), identity(), options).unwrap();
    store.put_table(TABLE, TableOptions::default()).unwrap();
    for n in 0..100 {
        store.apply(client(vec![put(TABLE, RowKey::of(format!("k{n}")), at(n + 1), vec![7; 1_000])])).unwrap();
    }
    let debt = engine.space_debt_bytes();
    assert!(debt >= 100_000, "{debt}");
    gauge.0.store((1 << 20) + debt / 2, Ordering::Relaxed);
    // The engine is not asked each time.
    let refused = (0..100).find_map(|n| store.apply(client(vec![row(1_000 + n)])).err());
    let Some(StoreError::DiskFull { available_bytes, .. }) = refused else { panic!("{refused:?}") };
    assert!(available_bytes < 1 << 20, "{available_bytes}");
}

#[test]
fn a_full_disk_stops_nothing_for_good() {
    let disk = MemoryDisk::default();
    let store = common::open_store(Arc::new(disk.0.clone()));
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store.root(TABLE, PartitionId(0)).unwrap();
    disk.0.fail_with(EngineError::NoSpace { detail: "full".into() });
    assert!(matches!(store.apply(client(vec![row(1)])), Err(StoreError::Engine(EngineError::NoSpace { .. }))));
    assert_eq!(store.stopped(), None);
    disk.0.heal();
    assert!(store.apply(client(vec![row(1)])).is_ok());
}

#[test]
fn a_device_that_is_really_full_loses_nothing_and_opens_again() {
    device::on_a_small_device(device::OPENS_AGAIN);
}

#[test]
fn a_device_that_was_full_is_written_to_again_without_a_restart() {
    device::on_a_small_device(device::GOES_ON);
}

#[test]
fn what_is_kept_for_others_on_a_device_that_is_really_full_is_there_and_what_needs_no_space_goes_on() {
    device::on_a_small_device(device::KEPT);
}

/// Not a test of its own: the way into the process that has a small device to itself.
#[test]
fn child() {
    device::run_if_child();
}
