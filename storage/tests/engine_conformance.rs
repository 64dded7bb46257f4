//! One suite for all engines: what a store may rely on holds for RocksDB and for the memory that stands in for it, so
//! that what is proven on one holds on the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use cube_storage::engine::{Direction, Durability, Engine, EngineError, Reader, Recovery, Space, Writes};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::LeafSum;
use proptest::prelude::*;

use crate::common::cases;
use crate::common::disks::{Disk, MemoryDisk};
use crate::common::observe::pairs;

/// Runs each function on every engine.
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
    a_new_engine_is_empty_and_complete,
    the_key_spaces_are_apart,
    a_batch_is_written_in_the_order_of_its_calls,
    many_keys_are_read_each_at_its_place,
    a_scan_keeps_to_its_range_in_both_directions,
    a_scan_ends_where_the_visitor_breaks,
    a_removed_range_takes_its_keys_and_no_others,
    a_removed_range_without_an_end_reaches_to_the_last_key,
    a_snapshot_holds_still,
    sums_add_up_from_nothing_to_nothing,
    what_is_written_is_there_after_reopening,
    engine_and_map_hold_the_same_after_any_writes,
);

fn write(engine: &dyn Engine, fill: impl Fn(&mut dyn Writes)) {
    engine.write(Durability::Synced, &mut |writes| fill(writes)).unwrap();
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange { start: start.to_vec(), end: end.to_vec() }
}

fn keys_of(reader: &dyn Reader, space: Space, range: &KeyRange, direction: Direction) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let visited = reader.scan(space, range, direction, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    });
    visited.unwrap();
    keys
}

fn multi_get(reader: &dyn Reader, space: Space, keys: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut values = vec![Some(b"not told".to_vec()); keys.len()];
    reader.multi_get(space, keys, &mut |place, value| values[place] = value.unwrap().map(<[u8]>::to_vec));
    values
}

fn a_new_engine_is_empty_and_complete(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    assert_eq!(engine.recovery(), Recovery::Complete);
    for space in Space::ALL {
        assert_eq!(engine.get(space, b"k"), Ok(None));
        assert_eq!(pairs(engine.as_ref(), space), vec![]);
    }
}

fn the_key_spaces_are_apart(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    write(engine.as_ref(), |writes| {
        for space in Space::ALL {
            writes.put(space, b"k", &LeafSum { sum: space as u128, rows: 1 }.encode());
        }
    });
    for space in Space::ALL {
        let value = LeafSum { sum: space as u128, rows: 1 }.encode();
        assert_eq!(engine.get(space, b"k").unwrap().as_deref(), Some(&value[..]));
    }
    write(engine.as_ref(), |writes| writes.delete(Space::Data, b"k"));
    assert_eq!(engine.get(Space::Data, b"k"), Ok(None));
    assert!(engine.get(Space::Keys, b"k").unwrap().is_some());
}

fn a_batch_is_written_in_the_order_of_its_calls(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    write(engine.as_ref(), |writes| {
        writes.put(Space::Data, b"b", b"1");
        writes.put(Space::Data, b"b", b"2");
        writes.put(Space::Data, b"c", b"1");
        writes.delete(Space::Data, b"c");
        writes.put(Space::Data, b"d", b"1");
        writes.delete_range(Space::Data, &range(b"d", b"f"));
        writes.put(Space::Data, b"e", b"1");
    });
    assert_eq!(
        pairs(engine.as_ref(), Space::Data),
        vec![(b"b".to_vec(), b"2".to_vec()), (b"e".to_vec(), b"1".to_vec())]
    );
}

fn many_keys_are_read_each_at_its_place(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    write(engine.as_ref(), |writes| {
        for key in [b"a", b"c", b"e"] {
            writes.put(Space::Data, key, &key.repeat(3));
        }
    });
    let value = |key: &[u8]| Some(key.repeat(3));
    let sorted: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    assert_eq!(multi_get(engine.as_ref(), Space::Data, &sorted), [value(b"a"), None, value(b"c"), None, value(b"e")]);
    let unsorted: [&[u8]; 5] = [b"e", b"a", b"x", b"a", b"c"];
    let expected = [value(b"e"), value(b"a"), None, value(b"a"), value(b"c")];
    assert_eq!(multi_get(engine.as_ref(), Space::Data, &unsorted), expected);
    assert_eq!(multi_get(engine.snapshot().as_ref(), Space::Data, &unsorted), expected);
    assert_eq!(multi_get(engine.as_ref(), Space::Data, &[]), []);
}

fn a_scan_keeps_to_its_range_in_both_directions(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    let keys: [&[u8]; 6] = [b"", b"a", b"a\0", b"b", b"\xff", b"\xff\xff"];
    write(engine.as_ref(), |writes| keys.iter().for_each(|key| writes.put(Space::Data, key, b"")));
    let bounds: [&[u8]; 8] = [b"", b"a", b"a\0", b"aa", b"b", b"\xff", b"\xff\xff", b"\xff\xff\xff"];
    for start in bounds {
        for end in bounds {
            let range = range(start, end);
            let inside = keys.iter().filter(|key| **key >= start && (end.is_empty() || **key < end));
            let mut inside: Vec<Vec<u8>> = inside.map(|key| key.to_vec()).collect();
            assert_eq!(keys_of(engine.as_ref(), Space::Data, &range, Direction::Forward), inside, "{range:?}");
            inside.reverse();
            assert_eq!(keys_of(engine.as_ref(), Space::Data, &range, Direction::Backward), inside, "{range:?}");
        }
    }
}

fn a_scan_ends_where_the_visitor_breaks(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    write(engine.as_ref(), |writes| (b'a'..=b'e').for_each(|key| writes.put(Space::Data, &[key], b"")));
    for (direction, expected) in [(Direction::Forward, b"abc"), (Direction::Backward, b"edc")] {
        let mut seen = Vec::new();
        let scanned = engine.scan(Space::Data, &range(b"", b""), direction, &mut |key, _| {
            seen.push(key[0]);
            if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(scanned, Ok(()));
        assert_eq!(seen, expected);
    }
}

fn a_removed_range_takes_its_keys_and_no_others(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    let all = |writes: &mut dyn Writes| (b'a'..=b'e').for_each(|key| writes.put(Space::Data, &[key], b""));
    for (start, end, left) in [
        (&b"b"[..], &b"d"[..], "ade"),
        (b"", b"c", "cde"),
        (b"b\0", b"c\0", "abde"),
        (b"c", b"c", "abcde"),
        (b"d", b"b", "abcde"),
        (b"x", b"y", "abcde"),
    ] {
        write(engine.as_ref(), all);
        write(engine.as_ref(), |writes| writes.delete_range(Space::Data, &range(start, end)));
        let keys: Vec<u8> = keys_of(engine.as_ref(), Space::Data, &range(b"", b""), Direction::Forward).concat();
        assert_eq!(keys, left.as_bytes(), "{start:?}..{end:?}");
    }
    // Nothing of it comes back, and the engine goes on.
    drop(engine);
    let engine = disk.open().unwrap();
    assert_eq!(keys_of(engine.as_ref(), Space::Data, &range(b"", b""), Direction::Backward).concat(), b"edcba");
}

fn a_removed_range_without_an_end_reaches_to_the_last_key(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    let last: &[u8] = &[0xff; 9];
    write(engine.as_ref(), |writes| {
        writes.put(Space::Data, b"a", b"");
        writes.put(Space::Data, last, b"");
        writes.put(Space::Keys, last, b"");
    });
    write(engine.as_ref(), |writes| {
        writes.put(Space::Data, &[0xff; 20], b"");
        writes.delete_range(Space::Data, &range(b"b", b""));
        writes.put(Space::Data, b"c", b"");
    });
    assert_eq!(keys_of(engine.as_ref(), Space::Data, &range(b"", b""), Direction::Forward).concat(), b"ac");
    assert!(engine.get(Space::Keys, last).unwrap().is_some());
}

fn a_snapshot_holds_still(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    write(engine.as_ref(), |writes| {
        writes.put(Space::Data, b"a", b"old");
        writes.put(Space::Data, b"b", b"old");
        writes.add(b"leaf", LeafSum { sum: 1, rows: 1 });
    });
    let snapshot = engine.snapshot();
    write(engine.as_ref(), |writes| {
        writes.put(Space::Data, b"a", b"new");
        writes.delete(Space::Data, b"b");
        writes.put(Space::Data, b"c", b"new");
        writes.add(b"leaf", LeafSum { sum: 1, rows: 1 });
    });
    assert_eq!(snapshot.get(Space::Data, b"a").unwrap().as_deref(), Some(&b"old"[..]));
    let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
    let old = || Some(b"old".to_vec());
    assert_eq!(multi_get(snapshot.as_ref(), Space::Data, &keys), [old(), old(), None]);
    let everything = range(b"", b"");
    assert_eq!(keys_of(snapshot.as_ref(), Space::Data, &everything, Direction::Forward).concat(), b"ab");
    assert_eq!(keys_of(snapshot.as_ref(), Space::Data, &everything, Direction::Backward).concat(), b"ba");
    let leaf = snapshot.get(Space::Merkle, b"leaf").unwrap().unwrap();
    assert_eq!(LeafSum::decode(&leaf), Some(LeafSum { sum: 1, rows: 1 }));
    drop(snapshot);
    assert_eq!(keys_of(engine.as_ref(), Space::Data, &everything, Direction::Forward).concat(), b"ac");
}

fn sums_add_up_from_nothing_to_nothing(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    let sum = |engine: &dyn Engine| LeafSum::decode(&engine.get(Space::Merkle, b"leaf").unwrap().unwrap()).unwrap();
    let one = LeafSum { sum: u128::MAX - 3, rows: 1 };
    let two = LeafSum { sum: 77, rows: 5 };
    write(engine.as_ref(), |writes| {
        writes.add(b"leaf", one);
        writes.add(b"leaf", two);
    });
    assert_eq!(sum(engine.as_ref()), LeafSum { sum: 73, rows: 6 }, "modulo 2^128");
    write(engine.as_ref(), |writes| writes.add(b"leaf", LeafSum::ZERO.minus(two)));
    assert_eq!(sum(engine.as_ref()), one);
    drop(engine);
    let engine = disk.open().unwrap();
    assert_eq!(sum(engine.as_ref()), one, "after reopening");
    write(engine.as_ref(), |writes| writes.add(b"leaf", LeafSum::ZERO.minus(one)));
    assert_eq!(sum(engine.as_ref()), LeafSum::ZERO);
    write(engine.as_ref(), |writes| {
        writes.delete(Space::Merkle, b"leaf");
        writes.add(b"leaf", two);
    });
    assert_eq!(sum(engine.as_ref()), two, "a removed sum begins at zero");
    write(engine.as_ref(), |writes| {
        writes.delete_range(Space::Merkle, &range(b"l", b"m"));
        writes.add(b"leaf", one);
    });
    assert_eq!(sum(engine.as_ref()), one, "and so does one of a removed range");
}

fn what_is_written_is_there_after_reopening(disk: &dyn Disk) {
    let engine = disk.open().unwrap();
    engine.write(Durability::Synced, &mut |writes| writes.put(Space::Data, b"synced", b"1")).unwrap();
    engine.write(Durability::Buffered, &mut |writes| writes.put(Space::Data, b"buffered", b"1")).unwrap();
    assert!(engine.get(Space::Data, b"buffered").unwrap().is_some(), "a buffered write is seen");
    engine.sync().unwrap();
    drop(engine);
    let engine = disk.open().unwrap();
    assert_eq!(engine.recovery(), Recovery::Complete);
    assert_eq!(keys_of(engine.as_ref(), Space::Data, &range(b"", b""), Direction::Forward).len(), 2);
}

/// A call of [`Writes`] on the data and the sums.
#[derive(Clone, Debug)]
enum Call {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(KeyRange),
    Add(Vec<u8>, LeafSum),
    DeleteSums(KeyRange),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0x00, b'a', 0xff]), 0..4)
}

fn call() -> impl Strategy<Value = Call> {
    let any_range = || (key(), key()).prop_map(|(start, end)| KeyRange { start, end });
    prop_oneof![
        4 => (key(), key()).prop_map(|(key, value)| Call::Put(key, value)),
        2 => key().prop_map(Call::Delete),
        1 => any_range().prop_map(Call::DeleteRange),
        2 => (key(), any::<u128>(), -2i64..3).prop_map(|(key, sum, rows)| Call::Add(key, LeafSum { sum, rows })),
        1 => any_range().prop_map(Call::DeleteSums),
    ]
}

#[derive(Default)]
struct Maps {
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    sums: BTreeMap<Vec<u8>, LeafSum>,
}

impl Maps {
    fn take(&mut self, call: &Call) {
        match call {
            Call::Put(key, value) => drop(self.data.insert(key.clone(), value.clone())),
            Call::Delete(key) => drop(self.data.remove(key)),
            Call::DeleteRange(range) => self.data.retain(|key, _| !range.contains(key)),
            Call::Add(key, delta) => {
                let sum = self.sums.entry(key.clone()).or_default();
                *sum = sum.plus(*delta);
            }
            Call::DeleteSums(range) => self.sums.retain(|key, _| !range.contains(key)),
        }
    }
}

fn fill(writes: &mut dyn Writes, call: &Call) {
    match call {
        Call::Put(key, value) => writes.put(Space::Data, key, value),
        Call::Delete(key) => writes.delete(Space::Data, key),
        Call::DeleteRange(range) => writes.delete_range(Space::Data, range),
        Call::Add(key, delta) => writes.add(key, *delta),
        Call::DeleteSums(range) => writes.delete_range(Space::Merkle, range),
    }
}

fn assert_same(engine: &dyn Engine, maps: &Maps) {
    assert_eq!(pairs(engine, Space::Data), maps.data.clone().into_iter().collect::<Vec<_>>());
    let sums = pairs(engine, Space::Merkle).into_iter().map(|(key, sum)| (key, LeafSum::decode(&sum).unwrap()));
    assert_eq!(sums.collect::<Vec<_>>(), maps.sums.clone().into_iter().collect::<Vec<_>>());
}

fn engine_and_map_hold_the_same_after_any_writes(disk: &dyn Disk) {
    let mut runner = proptest::test_runner::TestRunner::new(cases(24));
    let batches = prop::collection::vec(prop::collection::vec(call(), 0..6), 1..8);
    let ran = runner.run(&batches, |batches| {
        // Each case begins with an empty engine, and the same one for all.
        let engine: Arc<dyn Engine> = disk.open().unwrap();
        let mut maps = Maps::default();
        write(engine.as_ref(), |writes| {
            writes.delete_range(Space::Data, &range(b"", b""));
            writes.delete_range(Space::Merkle, &range(b"", b""));
        });
        for batch in &batches {
            write(engine.as_ref(), |writes| batch.iter().for_each(|call| fill(writes, call)));
            batch.iter().for_each(|call| maps.take(call));
            assert_same(engine.as_ref(), &maps);
        }
        drop(engine);
        assert_same(disk.open().unwrap().as_ref(), &maps);
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn in_memory_a_crash_takes_what_was_not_synced_and_nothing_else() {
    let disk = MemoryDisk::default();
    let put = |key: &'static [u8]| move |writes: &mut dyn Writes| writes.put(Space::Data, key, b"1");
    let engine = disk.open().unwrap();
    engine.write(Durability::Buffered, &mut put(b"a")).unwrap();
    engine.write(Durability::Synced, &mut put(b"b")).unwrap();
    engine
        .write(Durability::Buffered, &mut |writes| {
            writes.put(Space::Data, b"a", b"2");
            writes.delete(Space::Data, b"b");
            writes.put(Space::Data, b"c", b"2");
            writes.add(b"leaf", LeafSum { sum: 1, rows: 1 });
        })
        .unwrap();
    disk.0.crash();
    let engine = disk.open().unwrap();
    let left = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"1".to_vec())];
    assert_eq!(pairs(engine.as_ref(), Space::Data), left, "a synced write makes those before it durable");
    assert_eq!(pairs(engine.as_ref(), Space::Merkle), vec![]);
    disk.0.crash();
    assert_eq!(pairs(engine.as_ref(), Space::Data), left);
}

#[test]
fn in_memory_a_failed_write_changes_nothing() {
    let disk = MemoryDisk::default();
    let engine = disk.open().unwrap();
    let error = EngineError::Io { detail: "pulled".into() };
    disk.0.fail_with(error.clone());
    let write = engine.write(Durability::Buffered, &mut |writes| writes.put(Space::Data, b"a", b"1"));
    assert_eq!((write, engine.sync()), (Err(error.clone()), Err(error)));
    assert_eq!(engine.get(Space::Data, b"a"), Ok(None));
    disk.0.heal();
    assert_eq!(engine.sync(), Ok(()));
}

#[cfg(feature = "rocks")]
mod directory {
    use super::*;
    use crate::common::disks::{RocksDisk, flush_and_compact};

    #[test]
    fn a_folder_is_open_once() {
        let disk = RocksDisk::new();
        let engine = disk.open().unwrap();
        let Err(EngineError::Locked { detail }) = disk.open() else { panic!("opened twice") };
        assert!(detail.contains("LOCK"), "{detail}");
        drop(engine);
        assert!(disk.open().is_ok());
    }

    #[test]
    fn a_newer_format_is_refused_with_both_versions() {
        let disk = RocksDisk::new();
        drop(disk.open().unwrap());
        let path = disk.dir.path().join("FORMAT");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "cube-kv data format 1\n");
        std::fs::write(&path, "cube-kv data format 7\n").unwrap();
        let Err(refused) = disk.open() else { panic!("opened a newer format") };
        assert_eq!(refused, EngineError::Format { what: "the data directory".into(), found: 7, supported: 1 });
        let message = refused.to_string();
        assert!(message.contains("format 7") && message.contains("up to 1"), "{message}");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(disk.open(), Err(EngineError::Corruption { .. })), "an unreadable one is named as such");
        std::fs::write(&path, text).unwrap();
        assert!(disk.open().is_ok());
    }

    #[test]
    fn sums_survive_flush_and_compaction() {
        let disk = RocksDisk::new();
        let engine = disk.engine();
        let mut expected = LeafSum::ZERO;
        for round in 1..5 {
            for _ in 0..3 {
                let delta = LeafSum { sum: u128::MAX / round, rows: 1 };
                engine.write(Durability::Synced, &mut |writes| writes.add(b"leaf", delta)).unwrap();
                expected = expected.plus(delta);
            }
            engine.flush().unwrap();
            let leaf = engine.get(Space::Merkle, b"leaf").unwrap().unwrap();
            assert_eq!(LeafSum::decode(&leaf), Some(expected));
        }
        flush_and_compact(&engine);
        let leaf = engine.get(Space::Merkle, b"leaf").unwrap().unwrap();
        assert_eq!(LeafSum::decode(&leaf), Some(expected));
    }

    #[test]
    fn a_value_is_told_from_memory_where_it_lies_there_and_only_there() {
        let disk = RocksDisk::new();
        let from_memory = |engine: &dyn Engine| {
            let mut shown = None;
            let was_there = engine.view_in_memory(Space::Data, b"k", &mut |value| shown = Some(value.to_vec()));
            was_there.unwrap().then_some(shown)
        };
        let engine = disk.engine();
        assert_eq!(from_memory(engine.as_ref()), Some(None), "nothing was written yet");
        engine.write(Durability::Synced, &mut |writes| writes.put(Space::Data, b"k", b"v")).unwrap();
        assert_eq!(from_memory(engine.as_ref()), Some(Some(b"v".to_vec())), "it waits to be flushed");
        engine.flush().unwrap();
        drop(engine);
        let engine = disk.engine();
        assert_eq!(from_memory(engine.as_ref()), None, "it is on the disk");
        assert_eq!(engine.get(Space::Data, b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(from_memory(engine.as_ref()), Some(Some(b"v".to_vec())), "it was read just now");
    }

    #[test]
    fn the_settings_of_the_log_are_those_that_durability_needs() {
        let disk = RocksDisk::new();
        drop(disk.open().unwrap());
        let files = std::fs::read_dir(disk.dir.path().join("rocks")).unwrap();
        let options =
            files.map(|file| file.unwrap().path()).find(|path| path.display().to_string().contains("OPTIONS"));
        let options = std::fs::read_to_string(options.unwrap()).unwrap();
        for setting in [
            "wal_recovery_mode=kPointInTimeRecovery",
            "track_and_verify_wals_in_manifest=true",
            "manual_wal_flush=false",
            "enable_pipelined_write=false",
            "unordered_write=false",
            "two_write_queues=false",
            // What is recovered is flushed before it is seen; the log's reader counts on logs that are not used again.
            "avoid_flush_during_recovery=false",
            "recycle_log_file_num=0",
        ] {
            assert!(options.contains(setting), "{setting}");
        }
    }
}
