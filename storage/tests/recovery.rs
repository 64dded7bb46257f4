//! Opening after damage: a write-ahead log, or a table file, that is not what it was is noticed and never taken for a
//! torn end; no partition of the node counts until it is healed; and the node opens all the same.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::engine::{Engine, EngineError, Recovery, RocksEngine};
use cube_storage::model::{Outcome, PlacementId, RowKey, TableId};
use cube_storage::{Store, SyncState, TableOptions, UnsyncedCause};

use crate::common::disks::{Disk, RocksDisk};
use crate::common::{at, client, mark_all_synced, observe, open_store, put, synced_partitions};

const TABLE: TableId = TableId(1);
const PLACEMENT: PlacementId = PlacementId(0);
const ROWS: u64 = 200;

fn key(n: u64) -> RowKey {
    RowKey::of(format!("row {n}"))
}

fn open(disk: &RocksDisk) -> (Arc<RocksEngine>, Store) {
    let engine = disk.engine();
    let store = open_store(Arc::<RocksEngine>::clone(&engine));
    (engine, store)
}

/// A store whose notes are in table files, and whose rows are all in the log, one synced write each.
fn filled() -> RocksDisk {
    let disk = RocksDisk::new();
    let (engine, store) = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    mark_all_synced(&store, PLACEMENT);
    engine.flush().unwrap();
    write_rows(&store);
    disk
}

fn write_rows(store: &Store) {
    for n in 0..ROWS {
        store.apply(client(vec![put(TABLE, key(n), at(n + 1), vec![7; 500])])).unwrap();
    }
}

/// The files of the database whose names end so, the largest last.
fn files(disk: &RocksDisk, suffix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(disk.dir.path().join("rocks")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = all.filter(|path| path.display().to_string().ends_with(suffix)).collect();
    files.sort_by_key(|path| fs::metadata(path).unwrap().len());
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// How many rows of [`filled`] are there; those that are have the value they were written with.
fn rows_left(store: &Store) -> u64 {
    let rows = (0..ROWS).filter_map(|n| store.get(TABLE, &key(n)).unwrap());
    let rows = rows.inspect(|row| assert_eq!(row.live_value(at(1).hlc).unwrap(), &vec![7; 500]));
    rows.count() as u64
}

fn assert_nothing_counts(disk: &RocksDisk) {
    let (_, store) = open(disk);
    assert_eq!(synced_partitions(&store, PLACEMENT), []);
    let cause = store.partition(PLACEMENT, cube_storage::model::PartitionId(0)).sync;
    assert_eq!(cause, SyncState::Unsynced(UnsyncedCause::DamagedLog));
    let outcome = store.apply(client(vec![put(TABLE, RowKey::of("new"), at(99_999), "v")])).unwrap();
    assert_eq!(outcome, [Outcome::Applied], "it takes writes");
}

#[test]
fn a_log_that_is_whole_is_complete() {
    let disk = filled();
    for _ in 0..3 {
        let (engine, store) = open(&disk);
        assert_eq!(engine.recovery(), Recovery::Complete);
        assert_eq!(rows_left(&store), ROWS);
        assert_eq!(synced_partitions(&store, PLACEMENT).len(), 2);
    }
}

#[test]
fn a_torn_end_that_nobody_was_told_of_is_no_damage() {
    let disk = filled();
    let log = files(&disk, ".log").pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    // The beginning of a record that was being written.
    bytes.extend([0x11; 300]);
    fs::write(&log, bytes).unwrap();
    let (engine, store) = open(&disk);
    assert_eq!(engine.recovery(), Recovery::Complete);
    assert_eq!(rows_left(&store), ROWS);
}

#[test]
fn a_flipped_byte_within_the_synced_log_is_damage() {
    for part in 1..10 {
        let disk = filled();
        let log = files(&disk, ".log").pop().unwrap();
        let len = fs::metadata(&log).unwrap().len() as usize;
        assert!(len > 100_000, "the rows are in the log");
        flip(&log, len * part / 10);
        let engine = disk.engine();
        let Recovery::Damaged(detail) = engine.recovery() else { panic!("taken for a torn end at {part}/10") };
        assert!(!detail.is_empty());
        drop(engine);
        assert_nothing_counts(&disk);
        let (engine, store) = open(&disk);
        assert_eq!(engine.recovery(), Recovery::Complete, "it is told once");
        assert_eq!(synced_partitions(&store, PLACEMENT), [], "and remembered");
        assert!(rows_left(&store) < ROWS);
    }
}

#[test]
fn a_log_that_ends_before_what_was_synced_is_damage() {
    for part in [0, 1, 5, 9] {
        let disk = filled();
        let log = files(&disk, ".log").pop().unwrap();
        let len = fs::metadata(&log).unwrap().len();
        cut(&log, len * part / 10);
        let (engine, store) = open(&disk);
        let Recovery::Damaged(detail) = engine.recovery() else { panic!("taken for a torn end at {part}/10") };
        assert!(detail.contains("had been synced"), "{detail}");
        assert!(rows_left(&store) <= ROWS * part / 10 + 1);
        drop((engine, store));
        assert_nothing_counts(&disk);
    }
}

#[test]
fn a_log_that_ends_too_early_is_told_of_although_files_were_replaced_meanwhile() {
    let disk = filled();
    let log = files(&disk, ".log").pop().unwrap();
    cut(&log, fs::metadata(&log).unwrap().len() * 9 / 10);
    // Copying what can be read moves the database on, past where the log had ended.
    fs::write(disk.dir.path().join("UNREADABLE"), "data something\n").unwrap();
    assert!(matches!(disk.engine().recovery(), Recovery::Damaged(_)));
    assert_nothing_counts(&disk);
}

#[test]
fn a_lost_log_is_damage() {
    let disk = filled();
    for log in files(&disk, ".log") {
        fs::remove_file(log).unwrap();
    }
    assert!(matches!(disk.engine().recovery(), Recovery::Damaged(_)));
    assert_nothing_counts(&disk);
}

#[test]
fn damage_is_told_until_it_was_acted_on() {
    let disk = filled();
    let log = files(&disk, ".log").pop().unwrap();
    cut(&log, fs::metadata(&log).unwrap().len() / 2);
    for _ in 0..3 {
        // A process that ends before the store could mark anything.
        assert!(matches!(disk.engine().recovery(), Recovery::Damaged(_)));
    }
    assert_nothing_counts(&disk);
    assert_eq!(disk.engine().recovery(), Recovery::Complete);
    let left = fs::read_dir(disk.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["FORMAT", "POSITION", "rocks"]);
}

/// Rows in a log that was closed, and others in the one after it.
fn with_older_logs() -> RocksDisk {
    let disk = RocksDisk::new();
    let (engine, store) = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    mark_all_synced(&store, PLACEMENT);
    write_rows(&store);
    // Flushing one key space alone begins a new log, and the old one stays for the others.
    engine.flush_space(cube_storage::engine::Space::Meta).unwrap();
    for n in 0..ROWS / 2 {
        store.apply(client(vec![put(TABLE, key(n), at(1_000 + n), vec![7; 500])])).unwrap();
    }
    disk
}

#[test]
fn damage_in_a_log_that_was_closed_is_damage_and_the_node_opens() {
    for (part, truncated) in [(1, false), (5, false), (5, true), (0, true), (9, true)] {
        let disk = with_older_logs();
        let logs = files(&disk, ".log");
        assert!(logs.len() >= 2, "{logs:?}");
        let log = &logs[logs.len() - 1];
        let len = fs::metadata(log).unwrap().len();
        if truncated {
            cut(log, len * part / 10)
        } else {
            flip(log, (len * part / 10) as usize)
        }
        assert!(matches!(disk.engine().recovery(), Recovery::Damaged(_)), "{part} {truncated}");
        assert_nothing_counts(&disk);
        let (_, store) = open(&disk);
        rows_left(&store);
    }
}

/// A store whose rows and notes are all in table files, and those.
fn flushed() -> (RocksDisk, Vec<PathBuf>) {
    let disk = filled();
    let (engine, store) = open(&disk);
    engine.flush().unwrap();
    drop((engine, store));
    let table_files = files(&disk, ".sst");
    (disk, table_files)
}

#[test]
fn a_lost_table_file_is_damage_and_the_node_opens_unless_it_held_its_notes() {
    let (mut opened, mut refused) = (0, 0);
    for lost in 0..flushed().1.len() {
        let (disk, table_files) = flushed();
        fs::remove_file(&table_files[lost]).unwrap();
        let engine = match RocksEngine::open(disk.dir.path(), &disk.options) {
            Ok(engine) => Arc::new(engine),
            Err(EngineError::Unusable { .. }) => {
                refused += 1;
                assert!(matches!(disk.open().err(), Some(EngineError::Unusable { .. })), "and it stays so");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(engine.recovery(), Recovery::Complete, "the log is whole");
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        opened += usize::from(!engine.lost().is_empty());
        if rows_left(&store) < ROWS {
            assert_eq!(synced_partitions(&store, PLACEMENT), [], "rows of all partitions were lost");
        }
        let counted = synced_partitions(&store, PLACEMENT);
        drop((engine, store));
        let (engine, store) = open(&disk);
        assert_eq!((engine.recovery(), engine.lost()), (Recovery::Complete, &[][..]), "it is told once");
        assert_eq!(synced_partitions(&store, PLACEMENT), counted, "and remembered");
        let outcome = store.apply(client(vec![put(TABLE, RowKey::of("new"), at(99_999), "v")])).unwrap();
        assert_eq!(outcome, [Outcome::Applied], "it takes writes");
    }
    assert!(opened >= 3 && refused >= 1, "{opened} opened, {refused} refused");
}

#[test]
fn a_list_of_files_that_is_damaged_or_missing_is_refused_with_what_to_do_and_a_torn_one_is_not() {
    let (disk, _) = flushed();
    let rocks = disk.dir.path().join("rocks");
    let current = fs::read_to_string(rocks.join("CURRENT")).unwrap();
    let manifest = rocks.join(current.trim_end());
    let whole = fs::read(&manifest).unwrap();
    let refused = |why: &str| {
        let Err(error) = disk.open() else { panic!("opened with {why}") };
        assert!(matches!(error, EngineError::Unusable { .. }), "{why}: {error}");
        assert!(error.to_string().contains("empty data directory"), "{error}");
    };
    for place in (0..whole.len()).step_by(whole.len() / 150) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        fs::write(&manifest, flipped).unwrap();
        refused(&format!("byte {place} flipped"));
    }
    fs::remove_file(&manifest).unwrap();
    refused("no list");
    fs::write(&manifest, &whole).unwrap();
    fs::remove_file(rocks.join("CURRENT")).unwrap();
    refused("nothing that names the list");
    let position = disk.dir.path().join("POSITION");
    let noted = fs::read(&position).unwrap();
    fs::remove_file(&position).unwrap();
    refused("nothing that tells of an earlier time but the files");
    fs::write(&position, noted).unwrap();
    fs::write(rocks.join("CURRENT"), "MANIFEST-999999\n").unwrap();
    refused("another name");
    fs::write(rocks.join("CURRENT"), &current).unwrap();
    // The beginning of a record that was being written when the power was lost.
    fs::write(&manifest, [&whole[..], &[0x5a, 0x11, 0x22, 0x33, 200, 0, 1, 9, 9]].concat()).unwrap();
    let (engine, store) = open(&disk);
    assert_eq!(engine.recovery(), Recovery::Complete);
    assert_eq!(rows_left(&store), ROWS);
}

#[test]
fn rows_that_are_in_the_log_alone_are_refused_too_when_nothing_tells_of_them() {
    let disk = RocksDisk::new();
    let (engine, store) = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    write_rows(&store);
    drop((engine, store));
    assert_eq!(files(&disk, ".sst"), Vec::<PathBuf>::new());
    for name in ["rocks/CURRENT", "POSITION"] {
        fs::remove_file(disk.dir.path().join(name)).unwrap();
    }
    let logs = files(&disk, ".log");
    assert!(matches!(disk.open().map(drop), Err(EngineError::Unusable { .. })));
    assert_eq!(files(&disk, ".log"), logs, "nothing was removed");
}

#[test]
fn a_damaged_position_accuses_nobody() {
    let disk = filled();
    fs::write(disk.dir.path().join("POSITION"), b"nonsense").unwrap();
    let (engine, store) = open(&disk);
    assert_eq!(engine.recovery(), Recovery::Complete);
    assert_eq!(rows_left(&store), ROWS);
    drop((engine, store));
    fs::remove_file(disk.dir.path().join("POSITION")).unwrap();
    assert!(disk.open().is_ok());
}

#[test]
fn nothing_of_a_healthy_node_is_marked_by_reading_it_all() {
    let disk = filled();
    let (engine, store) = open(&disk);
    assert_eq!(observe::scrub(&store, TABLE, 7).unwrap().rows as u64, ROWS);
    assert_eq!(store.damage().found(), 0);
    assert_eq!(engine.recovery(), Recovery::Complete);
}

#[test]
fn data_without_a_format_is_refused_and_not_taken_for_the_present_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(RocksEngine::open(dir.path(), &common::disks::small_options()).unwrap());
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    let error = RocksEngine::open(dir.path(), &common::disks::small_options()).map(drop).unwrap_err();
    assert!(error.to_string().contains("FORMAT is missing beside the data"), "{error}");
}
