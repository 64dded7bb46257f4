//! Records of RocksDB's logs whose type became one of recycled logs. RocksDB alone would read them for ever, or take
//! them for the end of the log in silence; here they are damage like any other.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;

use cube_storage::engine::{Durability, Engine, EngineError, Reader, Recovery, RocksEngine, Space};

use crate::common::disks::RocksDisk;

/// The types that a flipped bit must not turn a record into; `db/log_format.h` of RocksDB.
const TYPES: [u8; 6] = [5, 6, 7, 8, 11, 131];
const WRITES: usize = 200;
/// Larger than a block of the log now and then, so that there are records of all kinds.
const LARGE: usize = 34_000;

fn write(engine: &RocksEngine, durability: Durability, n: usize) {
    let value = vec![7; if n % 100 == 20 { LARGE } else { 500 }];
    engine.write(durability, &mut |writes| writes.put(Space::Data, key(n).as_bytes(), &value)).unwrap();
}

fn key(n: usize) -> String {
    format!("row {n:05}")
}

/// How many writes can be read, from the first on: none behind one that is not there.
fn writes_left(engine: &RocksEngine) -> usize {
    let is_there = |n: &usize| engine.get(Space::Data, key(*n).as_bytes()).unwrap().is_some();
    let left = (0..2 * WRITES).take_while(is_there).count();
    assert!(!(left..2 * WRITES).any(|n| is_there(&n)), "a write is there without the one before it");
    left
}

/// A database whose writes are all in its log, each of them synced.
fn filled() -> RocksDisk {
    let disk = RocksDisk::new();
    let engine = disk.engine();
    (0..WRITES).for_each(|n| write(&engine, Durability::Synced, n));
    disk
}

fn logs(disk: &RocksDisk) -> Vec<PathBuf> {
    let all = fs::read_dir(disk.dir.path().join("rocks")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    logs.retain(|path| fs::metadata(path).unwrap().len() > 0);
    logs
}

/// Where the records of a log begin.
fn records(log: &[u8]) -> Vec<usize> {
    let (mut records, mut at) = (Vec::new(), 0);
    while at + 7 <= log.len() {
        records.push(at);
        at += 7 + usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        if at % (32 << 10) > (32 << 10) - 7 {
            at = at.next_multiple_of(32 << 10);
        }
    }
    records
}

fn give_type(log: &PathBuf, record: usize, kind: u8) {
    let mut bytes = fs::read(log).unwrap();
    bytes[record + 6] = kind;
    fs::write(log, bytes).unwrap();
}

#[test]
fn within_the_synced_log_they_are_damage_and_what_is_before_them_is_there() {
    for kind in TYPES {
        for part in [0, 1, 5, 9] {
            let disk = filled();
            let log = logs(&disk).pop().unwrap();
            let records = records(&fs::read(&log).unwrap());
            assert!(records.len() >= WRITES, "the writes are in the log");
            give_type(&log, records[records.len() * part / 10], kind);
            let engine = disk.engine();
            assert!(matches!(engine.recovery(), Recovery::Damaged(_)), "type {kind} at {part}/10");
            let left = writes_left(&engine);
            assert!((WRITES * part / 10).abs_diff(left) <= WRITES / 20, "{left} are left of type {kind} at {part}/10");
        }
    }
}

#[test]
fn in_every_part_of_a_batch_they_are_damage() {
    let template = filled();
    let log = logs(&template).pop().unwrap();
    let bytes = fs::read(&log).unwrap();
    let parts = records(&bytes).into_iter().filter(|record| bytes[record + 6] != 1);
    let parts: Vec<_> = parts.collect();
    assert!([2, 4].iter().all(|kind| parts.iter().any(|part| bytes[part + 6] == *kind)), "a batch is in several parts");
    for part in parts {
        for kind in TYPES {
            fs::write(&log, &bytes).unwrap();
            give_type(&log, part, kind);
            let disk = RocksDisk::new();
            copy(&template, &disk);
            let engine = disk.engine();
            assert!(matches!(engine.recovery(), Recovery::Damaged(_)), "type {kind} at {part}");
            assert!(writes_left(&engine) < WRITES);
        }
    }
}

fn copy(from: &RocksDisk, to: &RocksDisk) {
    fs::create_dir(to.dir.path().join("rocks")).unwrap();
    for folder in ["", "rocks"] {
        for entry in fs::read_dir(from.dir.path().join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.dir.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}

#[test]
fn behind_what_was_synced_they_are_a_torn_end() {
    for kind in TYPES {
        for is_whole in [true, false] {
            let disk = filled();
            let log = logs(&disk).pop().unwrap();
            let synced = fs::metadata(&log).unwrap().len() as usize;
            if is_whole {
                let engine = disk.engine();
                (WRITES..WRITES + 9).for_each(|n| write(&engine, Durability::Buffered, n));
            }
            let log = if is_whole { logs(&disk).pop().unwrap() } else { log };
            if is_whole {
                let bytes = fs::read(&log).unwrap();
                let records = records(&bytes);
                give_type(&log, records[records.len() - 5], kind);
            } else {
                let torn = [&fs::read(&log).unwrap()[..synced], &[1, 2, 3, 4, 99, 0, kind, 9, 9]].concat();
                fs::write(&log, torn).unwrap();
            }
            let engine = disk.engine();
            assert_eq!(engine.recovery(), Recovery::Complete, "type {kind}: nobody was told of what is lost");
            let left = writes_left(&engine);
            assert_eq!(left, if is_whole { WRITES + 4 } else { WRITES }, "type {kind}");
        }
    }
}

#[test]
fn in_a_log_that_was_closed_they_are_damage_and_what_can_be_read_is_kept() {
    for kind in TYPES {
        let disk = filled();
        let engine = disk.engine();
        engine.write(Durability::Synced, &mut |writes| writes.put(Space::Meta, b"k", b"v")).unwrap();
        // Flushing one key space alone begins a new log, and the old one stays for the others.
        (WRITES..2 * WRITES).for_each(|n| write(&engine, Durability::Synced, n));
        engine.flush_space(Space::Meta).unwrap();
        engine.write(Durability::Synced, &mut |writes| writes.put(Space::Meta, b"k", b"w")).unwrap();
        drop(engine);
        let logs = logs(&disk);
        assert!(logs.len() >= 2, "{logs:?}");
        let records = records(&fs::read(&logs[0]).unwrap());
        give_type(&logs[0], records[records.len() / 2], kind);
        let engine = disk.engine();
        assert!(matches!(engine.recovery(), Recovery::Damaged(_)), "type {kind}");
        // What the second log holds is there, though it comes behind the damage.
        assert_eq!(engine.get(Space::Meta, b"k").unwrap().unwrap(), "w");
    }
}

#[test]
fn in_the_list_of_files_they_are_refused_and_as_its_torn_end_they_are_not() {
    let disk = filled();
    let rocks = disk.dir.path().join("rocks");
    let manifest = rocks.join(fs::read_to_string(rocks.join("CURRENT")).unwrap().trim_end());
    let whole = fs::read(&manifest).unwrap();
    for kind in TYPES {
        for record in records(&whole) {
            give_type(&manifest, record, kind);
            let error = RocksEngine::open(disk.dir.path(), &disk.options).err().unwrap();
            assert!(matches!(error, EngineError::Unusable { .. }), "type {kind} at {record}: {error}");
            fs::write(&manifest, &whole).unwrap();
        }
    }
    for kind in TYPES {
        let manifest = rocks.join(fs::read_to_string(rocks.join("CURRENT")).unwrap().trim_end());
        let torn = [&fs::read(&manifest).unwrap()[..], &[1, 2, 3, 4, 99, 0, kind, 9, 9]].concat();
        fs::write(&manifest, torn).unwrap();
        let engine = disk.engine();
        assert_eq!((engine.recovery(), writes_left(&engine)), (Recovery::Complete, WRITES), "type {kind}");
    }
}
