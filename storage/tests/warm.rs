//! After a start the rows that are there are remembered in the background, so that overwriting them reads nothing; what is
//! remembered is never older than what the engine holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cube_storage::clock::{Clock, SystemClock};
use cube_storage::engine::{EngineError, Space};
use cube_storage::model::{Mutation, Outcome, RowKey, TableId};
use cube_storage::{ApplyWorker, Store, StoreError, StoreOptions, TableOptions, WarmPlace};

#[cfg(feature = "rocks")]
use crate::common::disks::RocksDisk;
use crate::common::disks::{Disk, MemoryDisk};
use crate::common::gate::PATIENCE;
use crate::common::{at, client, format, identity, observe, open_store, pause, put};

const TABLE: TableId = TableId(1);
/// Several steps.
const ROWS: u32 = 2_000;

fn open(disk: &dyn Disk) -> Store {
    let store = open_store(disk.open().unwrap());
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store
}

fn row(n: u32) -> RowKey {
    RowKey::of(format!("row {n}"))
}

fn rows(millis: u64) -> Vec<Mutation> {
    (0..ROWS).map(|n| put(TABLE, row(n), at(millis), "v")).collect()
}

fn warm_up(store: &Store) -> usize {
    let (mut place, mut steps) = (Some(WarmPlace::default()), 0);
    while let Some(from) = place {
        place = store.warm_step(from).unwrap();
        steps += 1;
    }
    steps
}

/// Lets no row be read by its key.
fn fail_reads(disk: &MemoryDisk) {
    disk.0.fail_reads_with(EngineError::Io { detail: "unplugged".into() });
}

#[test]
fn rows_that_were_there_at_the_start_are_overwritten_without_being_read() {
    let disk = MemoryDisk::default();
    open(&disk).apply(client(rows(1))).unwrap();
    let store = open(&disk);
    fail_reads(&disk);
    store.apply(client(rows(2))).unwrap_err();
    assert!(warm_up(&store) > 1, "in bounded steps");
    assert_eq!(store.apply(client(rows(2))).unwrap(), vec![Outcome::Applied; ROWS as usize]);
    assert_eq!(store.apply(client(rows(1))).unwrap(), vec![Outcome::Superseded(at(2)); ROWS as usize]);
    disk.0.heal();
    assert_eq!(observe::scrub(&store, TABLE, 100).unwrap().damaged, []);
}

#[test]
fn a_node_does_it_by_itself() {
    let disk = MemoryDisk::default();
    open(&disk).apply(client(rows(1))).unwrap();
    let store = Arc::new(open(&disk));
    fail_reads(&disk);
    let clock = SystemClock::new(0);
    let _worker = ApplyWorker::start(Arc::clone(&store), Arc::new(SystemClock::new(0))).unwrap();
    while store.apply(client(rows(2))).is_err() {
        assert!(u128::from(clock.monotonic_ms()) < PATIENCE.as_millis(), "it never came");
        pause(Duration::from_millis(5));
    }
}

#[test]
fn a_damaged_row_that_is_read_again_and_again_is_forgotten_alone() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.apply(client(rows(1))).unwrap();
    let [damaged, sound] = [0, 1].map(|n| rows(2).swap_remove(n));
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &damaged.key), 3, 1));
    for _ in 0..3 {
        assert!(matches!(store.get(TABLE, &damaged.key), Err(StoreError::Corrupt(_))));
    }
    fail_reads(&disk);
    assert_eq!(store.apply(client(vec![sound])), Ok(vec![Outcome::Applied]), "it is still remembered");
    store.apply(client(vec![damaged.clone()])).unwrap_err();
    disk.0.heal();
    assert!(store.apply(client(vec![damaged])).unwrap().iter().all(Outcome::holds));
}

#[test]
fn no_more_is_remembered_than_there_is_room_for() {
    let disk = MemoryDisk::default();
    open(&disk).apply(client(rows(1))).unwrap();
    for recent_rows_max in [0, 600] {
        let options = StoreOptions { recent_rows_max, ..StoreOptions::default() };
        let store = Store::open(disk.open().unwrap(), identity(), options).unwrap();
        assert!(warm_up(&store) <= recent_rows_max / 256 + 1);
        assert_eq!(store.apply(client(rows(1))).unwrap(), vec![Outcome::Present; ROWS as usize]);
    }
}

/// Writes every row again and again while all of them are taken in. Were an old header ever kept, the row would be taken
/// from its leaf as it was before, and the leaf would not match.
fn warm_up_beside_a_writer(disk: &dyn Disk) {
    open(disk).apply(client(rows(1))).unwrap();
    let store = open(disk);
    let done = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut millis = 2;
            while !done.load(Ordering::Relaxed) {
                let some = (0..ROWS).filter(|n| (u64::from(*n) + millis).is_multiple_of(7));
                store.apply(client(some.map(|n| put(TABLE, row(n), at(millis), "w")).collect())).unwrap();
                millis += 1;
            }
            millis
        });
        let warmed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| warm_up(&store)));
        // The writer is joined whatever happened.
        done.store(true, Ordering::Relaxed);
        assert!(warmed.is_ok());
        writer.join().unwrap()
    });
    let outcomes = store.apply(client(rows(last + 1))).unwrap();
    assert_eq!(outcomes, vec![Outcome::Applied; ROWS as usize]);
    assert_eq!(observe::scrub(&store, TABLE, 100).unwrap().damaged, []);
}

#[test]
fn what_is_written_meanwhile_is_not_forgotten() {
    for _ in 0..20 {
        warm_up_beside_a_writer(&MemoryDisk::default());
    }
}

#[cfg(feature = "rocks")]
#[test]
fn what_is_written_meanwhile_is_not_forgotten_on_rocksdb() {
    warm_up_beside_a_writer(&RocksDisk::new());
}
