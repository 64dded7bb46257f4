//! The scrub of a leaf that no single step takes in: bounded steps, writes in between and meanwhile, and a sum that is
//! exact all the same. What does not add up is found, and nothing else is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cube_storage::engine::{Durability, Engine, Space};
use cube_storage::merkle::{LeafId, LeafSum};
use cube_storage::model::{Mutation, PlacementId, RowKey, TableId};
use cube_storage::{ScrubBounds, ScrubPlace, Scrubbed, Store, SyncState, TableOptions, UnsyncedCause};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[cfg(feature = "rocks")]
use crate::common::disks::RocksDisk;
use crate::common::disks::{Disk, MemoryDisk};
use crate::common::{at, bits, cases, client, delete, format, observe, open_store, put};

const TABLE: TableId = TableId(5);
/// Rows of one partition key, and so of one leaf.
const HOT_ROWS: u16 = 40;

fn hot(row: u16) -> RowKey {
    RowKey::with_sort("hot", row.to_be_bytes().to_vec())
}

fn leaf() -> LeafId {
    LeafId::of(hot(0).token(), bits())
}

fn open(disk: &dyn Disk) -> (Arc<dyn Engine>, Store) {
    let engine = disk.open().unwrap();
    let store = open_store(Arc::clone(&engine));
    store.put_table(TABLE, TableOptions::default()).unwrap();
    (engine, store)
}

/// Something that happens between two steps of the scrub.
#[derive(Clone, Debug)]
enum Happens {
    /// Rows of the hot leaf, each of them deleted or with a value of so many bytes.
    Writes(Vec<(u16, Option<usize>)>),
    /// Another leaf.
    WriteElsewhere(u16),
    /// Proves everything equal, and purges so many rows of what is deleted.
    Purge(usize),
    /// Empties the partition, in steps of so many rows, and leaves it at the first.
    Clear(usize),
    Recreate,
    Reopen,
    Scrub,
}

fn happens() -> impl Strategy<Value = Happens> {
    let write = (0..HOT_ROWS, prop_oneof![1 => Just(None), 4 => (0usize..600).prop_map(Some)]);
    prop_oneof![
        10 => prop::collection::vec(write, 1..6).prop_map(Happens::Writes),
        2 => any::<u16>().prop_map(Happens::WriteElsewhere),
        2 => (1usize..30).prop_map(Happens::Purge),
        1 => (1usize..30).prop_map(Happens::Clear),
        1 => Just(Happens::Recreate),
        1 => Just(Happens::Reopen),
        20 => Just(Happens::Scrub),
    ]
}

fn bounds() -> impl Strategy<Value = ScrubBounds> {
    (1usize..8, 50usize..3_000).prop_map(|(rows_max, bytes_max)| ScrubBounds { rows_max, bytes_max })
}

struct Run<'a> {
    disk: &'a dyn Disk,
    engine: Arc<dyn Engine>,
    store: Store,
    bounds: ScrubBounds,
    place: ScrubPlace,
    /// Of the last write.
    millis: u64,
}

impl<'a> Run<'a> {
    fn new(disk: &'a dyn Disk, bounds: ScrubBounds) -> Self {
        let (engine, store) = open(disk);
        let mut run = Self { disk, engine, store, bounds, place: LeafId(0).into(), millis: 1 };
        run.write((0..HOT_ROWS).map(|row| (hot(row), Some(20))));
        run
    }

    fn write(&mut self, rows: impl IntoIterator<Item = (RowKey, Option<usize>)>) {
        self.millis += 1;
        let version = at(self.millis);
        let mutation = |(key, len): (RowKey, Option<usize>)| -> Mutation {
            match len {
                Some(len) => put(TABLE, key, version, vec![b'v'; len]),
                None => delete(TABLE, key, version),
            }
        };
        self.store.apply(client(rows.into_iter().map(mutation).collect())).unwrap();
    }

    fn scrub(&mut self) -> Scrubbed {
        let step = self.store.scrub_step(TABLE, &self.place, self.bounds).unwrap();
        assert!(step.rows <= self.bounds.rows_max, "a step is bounded");
        self.place = step.next.clone().unwrap_or_else(|| LeafId(0).into());
        step
    }

    /// One cycle from the beginning.
    fn scrub_all(&mut self) -> Scrubbed {
        observe::scrub_bounded(&self.store, TABLE, self.bounds).unwrap()
    }

    fn take(&mut self, happens: &Happens) {
        let partition = leaf().partition();
        match happens {
            Happens::Writes(rows) => self.write(rows.iter().map(|(row, len)| (hot(*row), *len))),
            Happens::WriteElsewhere(row) => self.write([(RowKey::of(row.to_be_bytes().to_vec()), Some(3))]),
            Happens::Purge(rows_max) => {
                let floor = at(self.millis).hlc;
                self.store.begin_proof(TABLE, partition).unwrap();
                if self.store.end_proof(TABLE, partition, floor).unwrap() {
                    self.store.raise_floor(TABLE, partition, floor).unwrap();
                }
                self.store.purge_step(TABLE, partition, None, *rows_max).unwrap();
                // Nothing below the floor is taken any more.
                self.millis += 1;
            }
            Happens::Clear(rows_max) => {
                let sync = SyncState::Unsynced(UnsyncedCause::Operator);
                self.store.set_sync(PlacementId(0), partition, sync).unwrap();
                self.store.clear_step(TABLE, partition, *rows_max).unwrap();
            }
            Happens::Recreate => {
                self.store.drop_table(TABLE).unwrap();
                self.store.put_table(TABLE, TableOptions::default()).unwrap();
            }
            Happens::Reopen => {
                // The engine is closed before it is opened again.
                (self.engine, self.store) = open(&MemoryDisk::default());
                (self.engine, self.store) = open(self.disk);
            }
            Happens::Scrub => assert_eq!(self.scrub().damaged, [], "nothing is damaged"),
        }
    }
}

fn whatever_happens(disk: &dyn Disk, bounds: ScrubBounds, all: &[Happens]) {
    let mut run = Run::new(disk, bounds);
    all.iter().for_each(|happens| run.take(happens));
    // The leaf that is under way, and then all of it.
    while run.scrub().next.is_some() {}
    let all = run.scrub_all();
    assert_eq!(all.damaged, []);
    assert_eq!(all.rows, observe::pairs(run.engine.as_ref(), Space::Data).len(), "each row once");
}

#[test]
fn whatever_changes_a_leaf_between_the_steps_is_no_damage() {
    let mut runner = TestRunner::new(cases(400));
    let ran = runner.run(&(bounds(), prop::collection::vec(happens(), 1..80)), |(bounds, all)| {
        whatever_happens(&MemoryDisk::default(), bounds, &all);
        Ok(())
    });
    ran.unwrap();
}

#[cfg(feature = "rocks")]
#[test]
fn whatever_changes_a_leaf_between_the_steps_is_no_damage_on_rocksdb() {
    let mut runner = TestRunner::new(cases(24));
    let ran = runner.run(&(bounds(), prop::collection::vec(happens(), 1..80)), |(bounds, all)| {
        whatever_happens(&RocksDisk::new(), bounds, &all);
        Ok(())
    });
    ran.unwrap();
}

/// What goes wrong behind the store's back.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// A row that was not read yet is gone.
    RowGone,
    /// The leaf says something else.
    Leaf,
    /// A record that was not read yet is not what was written.
    Record,
}

impl Run<'_> {
    fn goes_wrong(&self, wrong: Wrong) {
        let last = format::data_key(TABLE, &hot(HOT_ROWS - 1));
        let record = self.engine.get(Space::Data, &last).unwrap().unwrap();
        let write = self.engine.write(Durability::Synced, &mut |writes| match wrong {
            Wrong::RowGone => writes.delete(Space::Data, &last),
            Wrong::Leaf => writes.add(&format::leaf_key(TABLE, leaf().0), LeafSum { sum: 1, rows: 0 }),
            Wrong::Record => {
                let mut flipped = record.to_vec();
                *flipped.last_mut().unwrap() ^= 1;
                writes.put(Space::Data, &last, &flipped);
            }
        });
        write.unwrap();
    }
}

fn is_found_in_the_same_cycle(disk: &dyn Disk, bounds: ScrubBounds, wrong: Wrong, rows: &[(u16, Option<usize>)]) {
    let mut run = Run::new(disk, bounds);
    // Some pieces in.
    while run.place.leaf() != leaf() || !run.place.is_inside() {
        run.scrub();
    }
    run.scrub();
    run.goes_wrong(wrong);
    let mut damaged = Vec::new();
    for row in rows {
        run.write([(hot(row.0), row.1)]);
        damaged.extend(run.scrub().damaged);
        if run.place.leaf() != leaf() {
            break;
        }
    }
    while run.place.leaf() == leaf() {
        damaged.extend(run.scrub().damaged);
    }
    assert!(!damaged.is_empty(), "{wrong:?} is found");
    let last = format::data_key(TABLE, &hot(HOT_ROWS - 1));
    assert!(damaged.iter().all(|damaged| damaged.range.contains(&last)), "{damaged:?}");
    assert!(run.store.partition(PlacementId(0), leaf().partition()).sync != SyncState::Synced);
}

fn what_goes_wrong() -> impl Strategy<Value = (ScrubBounds, Wrong, Vec<(u16, Option<usize>)>)> {
    let bounds = (1usize..8).prop_map(|rows_max| ScrubBounds { rows_max, bytes_max: usize::MAX });
    let wrong = prop::sample::select(vec![Wrong::RowGone, Wrong::Leaf, Wrong::Record]);
    // The row that goes wrong is not written any more.
    let write = (0..HOT_ROWS - 1, prop_oneof![1 => Just(None), 4 => (0usize..600).prop_map(Some)]);
    (bounds, wrong, prop::collection::vec(write, 0..10))
}

#[test]
fn what_goes_wrong_in_the_part_of_a_leaf_that_is_left_is_found_whatever_is_written() {
    let mut runner = TestRunner::new(cases(200));
    let ran = runner.run(&what_goes_wrong(), |(bounds, wrong, rows)| {
        is_found_in_the_same_cycle(&MemoryDisk::default(), bounds, wrong, &rows);
        Ok(())
    });
    ran.unwrap();
}

#[cfg(feature = "rocks")]
#[test]
fn what_goes_wrong_in_the_part_of_a_leaf_that_is_left_is_found_on_rocksdb() {
    let mut runner = TestRunner::new(cases(12));
    let ran = runner.run(&what_goes_wrong(), |(bounds, wrong, rows)| {
        is_found_in_the_same_cycle(&RocksDisk::new(), bounds, wrong, &rows);
        Ok(())
    });
    ran.unwrap();
}

/// Scrubs again and again while another thread writes without a pause.
fn scrub_beside_a_writer(disk: &dyn Disk, cycles: usize) {
    let bounds = ScrubBounds { rows_max: 7, bytes_max: usize::MAX };
    let run = Run::new(disk, bounds);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writes = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                writes += 1;
                written.store(writes, Ordering::Relaxed);
                let row = hot((writes * 17 % u64::from(HOT_ROWS)) as u16);
                let write = if writes.is_multiple_of(5) {
                    delete(TABLE, row, at(100 + writes))
                } else {
                    put(TABLE, row, at(100 + writes), "v")
                };
                run.store.apply(client(vec![write])).unwrap();
            }
        });
        while written.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let mut damaged = Vec::new();
        for _ in 0..cycles {
            let mut place = ScrubPlace::from(leaf());
            while place.leaf() == leaf() {
                let Ok(step) = run.store.scrub_step(TABLE, &place, bounds) else { break };
                damaged.extend(step.damaged);
                let Some(next) = step.next else { break };
                place = next;
            }
        }
        // The writer is joined whatever was found.
        stop.store(true, Ordering::Relaxed);
        assert_eq!(damaged, []);
        writer.join().unwrap();
    });
}

#[test]
fn a_writer_that_never_pauses_is_no_damage() {
    scrub_beside_a_writer(&MemoryDisk::default(), 300);
}

#[cfg(feature = "rocks")]
#[test]
fn a_writer_that_never_pauses_is_no_damage_on_rocksdb() {
    scrub_beside_a_writer(&RocksDisk::new(), 50);
}

#[test]
fn a_partition_key_with_a_hundred_thousand_rows_is_scrubbed_in_bounded_steps_while_it_is_written() {
    const ROWS: u32 = 100_000;
    let row = |row: u32| RowKey::with_sort("hot", row.to_be_bytes().to_vec());
    let bounds = ScrubBounds { rows_max: 1_000, bytes_max: 64 << 10 };
    let disk = MemoryDisk::default();
    let (_, store) = open(&disk);
    let all: Vec<u32> = (0..ROWS).collect();
    for rows in all.chunks(1_000) {
        store.apply(client(rows.iter().map(|&n| put(TABLE, row(n), at(1), "value")).collect())).unwrap();
    }
    let (mut place, mut rows, mut steps) = (ScrubPlace::from(LeafId(0)), 0, 0_u64);
    loop {
        let step = store.scrub_step(TABLE, &place, bounds).unwrap();
        assert_eq!(step.damaged, []);
        assert!(step.rows <= bounds.rows_max);
        (rows, steps) = (rows + step.rows, steps + 1);
        let Some(next) = step.next else { break };
        place = next;
        // Behind the place and in front of it.
        for n in [steps as u32 % ROWS, ROWS - 1 - steps as u32 % ROWS] {
            store.apply(client(vec![put(TABLE, row(n), at(1 + steps), "another value")])).unwrap();
        }
    }
    assert_eq!(rows, ROWS as usize);
    assert!(steps > u64::from(ROWS) / 1_000, "{steps} steps");
    assert!(!store.damage().recent().iter().any(|_| true));
}
