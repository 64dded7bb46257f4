//! A damaged row, leaf or index entry.

use std::ops::Bound;

use cube_storage::engine::{Engine, Space};
use cube_storage::model::{Outcome, RowKey};
use cube_storage::scan::Scope;
use cube_storage::{StoreError, SyncState, TableOptions, UnsyncedCause};

use crate::common::disks::MemoryDisk;
use crate::common::{at, bits, client, format, mark_all_synced, observe, put, synced_partitions};
use crate::reading::*;

fn flipped() -> (MemoryDisk, Rows, RowKey) {
    let (disk, rows) = (MemoryDisk::default(), rows());
    fill(&open(&disk), &rows);
    let key = RowKey::with_sort("many 3", "41");
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &key), 20, 5));
    (disk, rows, key)
}

#[test]
fn a_flipped_record_is_named_with_its_key_and_nothing_else_is() {
    let (disk, rows, key) = flipped();
    let store = open(&disk);
    let Err(StoreError::Corrupt(damaged)) = store.get(TABLE, &key) else { panic!("a flipped record was read") };
    let message = damaged.to_string();
    assert!(message.contains("\"many 3\"/\"41\"") && message.contains("checksum"), "{message}");
    assert_eq!(read_all(&store, &rows), std::slice::from_ref(&key));
    for backward in [false, true] {
        let (found, damaged) = scan_all(&store, all(everything(), backward, 500)).unwrap();
        assert_eq!(found.len(), rows.len() - 1, "all but the one");
        assert_eq!(damaged.len(), 1);
        let prefix = Scope::Prefix("many".into());
        let (found, damaged) = scan_all(&store, all(prefix, backward, 7)).unwrap();
        assert_eq!((found.len(), damaged.len()), (299, 1));
        let partition = Scope::Partition { key: key.partition.clone(), from: Bound::Unbounded, to: Bound::Unbounded };
        let (found, damaged) = scan_all(&store, all(partition, backward, 7)).unwrap();
        assert_eq!((found.len(), damaged.len()), (59, 1));
    }
    assert_eq!(store.damage().found(), 1, "it is counted once, however often it is read");
    assert!(covers(&store.damage().recent(), &key));
}

#[test]
fn a_partition_with_damage_does_not_count_until_it_is_healed() {
    let (disk, rows, key) = flipped();
    let partition = bits().partition_of(key.token());
    let store = open(&disk);
    assert!(store.get(TABLE, &key).is_err());
    drop(store);
    disk.0.crash();
    let store = open(&disk);
    let damaged = SyncState::Unsynced(UnsyncedCause::DamagedData);
    assert_eq!(store.partition(PLACEMENT, partition).sync, damaged, "durably, before the error was told");
    assert_eq!(synced_partitions(&store, PLACEMENT).len(), 1, "the other one does");
    clear_damaged(&store);
    assert_healed(&store, &disk.0, &rows);
    copy_again(&store, &rows);
}

#[test]
fn a_write_over_a_damaged_row_is_taken_and_marks_the_partition_in_the_same_write() {
    let (disk, _, key) = flipped();
    let store = open(&disk);
    let outcome = store.apply(client(vec![put(TABLE, key.clone(), at(1), "older than what was there")])).unwrap();
    assert!(matches!(outcome[..], [Outcome::LostUpTo(lost)] if lost > at(1).hlc), "{outcome:?}");
    disk.0.crash();
    let store = open(&disk);
    assert!(store.get(TABLE, &key).unwrap().is_some());
    assert!(!synced_partitions(&store, PLACEMENT).contains(&bits().partition_of(key.token())));
}

#[test]
fn more_damaged_rows_than_a_step_takes_are_cleared_all_the_same() {
    let (disk, rows) = (MemoryDisk::default(), rows());
    fill(&open(&disk), &rows);
    for key in rows.keys() {
        assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, key), 12, 1));
    }
    let store = open(&disk);
    let (found, damaged) = scan_all(&store, all(everything(), false, 100)).unwrap();
    assert_eq!((found.len(), damaged.len()), (0, rows.len()));
    let page = store.scan(&all(everything(), false, 100)).unwrap();
    assert_eq!(page.damaged.len(), 100, "a page is bounded by what it names, too");
    clear_damaged(&store);
    assert_healed(&store, &disk.0, &rows);
}

#[test]
fn a_flipped_leaf_is_found_by_scrub_with_the_rows_it_sums_up() {
    let (disk, rows) = (MemoryDisk::default(), rows());
    fill(&open(&disk), &rows);
    let key = RowKey::of("row 77");
    let leaf = format::leaf(bits(), &key);
    assert!(disk.0.flip(Space::Merkle, &format::leaf_key(TABLE, leaf), 9, 2));
    let store = open(&disk);
    let damaged = observe::scrub(&store, TABLE, 50).unwrap().damaged;
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0].detail.contains("the Merkle leaf says"), "{}", damaged[0]);
    for other in rows.keys() {
        assert_eq!(covers(&damaged, other), format::leaf(bits(), other) == leaf, "{other}");
    }
    assert!(!synced_partitions(&store, PLACEMENT).contains(&bits().partition_of(key.token())));
    assert_eq!(Reading::of(&store, &rows).by_key(), [], "the rows are as good as ever");
    clear_damaged(&store);
    assert_healed(&store, &disk.0, &rows);
}

#[test]
fn a_leaf_without_rows_and_rows_without_a_leaf_are_found_by_scrub() {
    let disk = MemoryDisk::default();
    let rows = rows();
    let store = open(&disk);
    fill(&store, &rows);
    let lost = RowKey::of("row 1");
    let leaf = format::leaf_key(TABLE, format::leaf(bits(), &lost));
    disk.0
        .write(cube_storage::engine::Durability::Synced, &mut |writes| {
            // A row that vanished, and a leaf that did.
            writes.delete(Space::Data, &format::data_key(TABLE, &RowKey::of("row 2")));
            writes.delete(Space::Merkle, &leaf);
        })
        .unwrap();
    let damaged = observe::scrub(&store, TABLE, 50).unwrap().damaged;
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(covers(&damaged, &lost) && covers(&damaged, &RowKey::of("row 2")));
}

#[test]
fn an_index_entry_that_points_nowhere_is_passed_over_and_swept() {
    let disk = MemoryDisk::default();
    let rows = rows();
    let store = open(&disk);
    fill(&store, &rows);
    let stray = format::index_key(TABLE, &RowKey::of("row 1 that never was"));
    let write = |writes: &mut dyn cube_storage::engine::Writes| writes.put(Space::Keys, &stray, &[]);
    disk.0.write(cube_storage::engine::Durability::Synced, &mut { write }).unwrap();
    let (found, damaged) = scan_all(&store, all(Scope::Prefix("row 1".into()), false, 10)).unwrap();
    assert_eq!((found.len(), damaged), (rows.keys().filter(|key| key.partition.starts_with(b"row 1")).count(), vec![]));
    let mut from = None;
    let mut removed = 0;
    loop {
        let step = store.sweep_index_step(TABLE, from.as_ref(), 100).unwrap();
        removed += step.removed;
        match step.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    assert_eq!(removed, 1);
    assert_healed(&store, &disk.0, &rows);
}

#[test]
fn purging_marks_and_reports_a_damaged_row_and_goes_on_behind_it() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    mark_all_synced(&store, PLACEMENT);
    let key = RowKey::of("k");
    let partition = bits().partition_of(key.token());
    store.apply(client(vec![put(TABLE, key.clone(), at(1), "v")])).unwrap();
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &key), 3, 1));
    for _ in 0..2 {
        let step = store.purge_step(TABLE, partition, None, 10).unwrap();
        assert_eq!((step.examined, step.removed, step.next), (1, 0, None));
    }
    assert!(covers(&store.damage().recent(), &key));
    assert_eq!(store.damage().found(), 1, "once");
    drop(store);
    let damaged = SyncState::Unsynced(UnsyncedCause::DamagedData);
    assert_eq!(open(&disk).partition(PLACEMENT, partition).sync, damaged);
}

#[test]
fn clearing_reports_the_damaged_rows_that_it_removes() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    let key = RowKey::of("k");
    store.apply(client(vec![put(TABLE, key.clone(), at(1), "v")])).unwrap();
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &key), 3, 1));
    store.clear_step(TABLE, bits().partition_of(key.token()), 10).unwrap();
    assert!(covers(&store.damage().recent(), &key));
}

#[test]
fn sweeping_takes_no_entry_for_a_stray_when_the_disk_fails() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store.apply(client(vec![put(TABLE, RowKey::of("k"), at(1), "v")])).unwrap();
    let failure = cube_storage::engine::EngineError::Io { detail: "pulled".into() };
    disk.0.fail_reads_with(failure.clone());
    assert_eq!(store.sweep_index_step(TABLE, None, 10), Err(StoreError::Engine(failure)));
}
