//! The scrub finds what is damaged, at its pace or at once, and what it finds is counted by nobody any more.

use std::sync::Arc;

use cube_replication::anti_entropy::scrub::{Scrub, ScrubSettings, ScrubWorker};
use cube_replication::worker::{Step, Worker};
use cube_storage::engine::{Durability, Engine, MemoryEngine, Space};
use cube_storage::model::{PartitionBits, PlacementId, Record, RowKey};
use cube_storage::{ScrubBounds, Store, SyncState, UnsyncedCause};

use super::pair::{TABLE, plant, store, version};

const CYCLE_MS: u64 = 1_000_000;
const SETTINGS: ScrubSettings = ScrubSettings { enabled: true, cycle_ms: CYCLE_MS };

fn some_rows() -> (Arc<Store>, MemoryEngine) {
    let (store, engine) = store(PartitionBits::new(2).unwrap());
    plant(&store, (0..5_000u32).map(|n| (RowKey::of(n.to_be_bytes().to_vec()), Record::value(version(5), "v"))));
    (store, engine)
}

/// Steps whenever a step is due; until when.
fn run(worker: &mut ScrubWorker, mut now_ms: u64, mut goes_on: impl FnMut() -> bool) -> u64 {
    while goes_on() {
        match worker.step(now_ms).unwrap() {
            Step::Idle { until_ms } | Step::Throttled { until_ms } => now_ms = until_ms,
            Step::Busy | Step::Done => {}
        }
    }
    now_ms
}

fn damage(store: &Store, engine: &MemoryEngine, key: &RowKey) {
    let data_key = cube_storage::keyspace::data_key(TABLE, key);
    let mut bytes = store.get(TABLE, key).unwrap().unwrap().encode(&data_key).to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    engine.write(Durability::Synced, &mut |writes| writes.put(Space::Data, &data_key, &bytes)).unwrap();
}

#[test]
fn a_cycle_takes_the_time_that_is_set_and_verifies_every_row_once() {
    let (store, _) = some_rows();
    let scrub = Scrub::from(None, SETTINGS);
    let mut worker = ScrubWorker::new(store, scrub.clone());
    let end_ms = run(&mut worker, 0, || scrub.status().cycles < 1);
    assert_eq!(scrub.status().rows, 5_000);
    assert!((CYCLE_MS / 2..=CYCLE_MS).contains(&end_ms), "{end_ms} ms");
    let end_ms = run(&mut worker, end_ms, || scrub.status().cycles < 3);
    assert!((2 * CYCLE_MS..=3 * CYCLE_MS).contains(&end_ms), "{end_ms} ms");
    assert_eq!((scrub.status().rows, scrub.status().damaged), (15_000, 0));
}

#[test]
fn a_flipped_bit_is_found_on_demand_and_its_partition_is_not_counted_any_more() {
    let (store, engine) = some_rows();
    let key = RowKey::of(77u32.to_be_bytes().to_vec());
    damage(&store, &engine, &key);
    let scrub = Scrub::from(None, SETTINGS);
    let mut worker = ScrubWorker::new(store.clone(), scrub.clone());
    scrub.hurry();
    let end_ms = run(&mut worker, 0, || scrub.status().hurries);
    assert!(end_ms < 1_000, "{end_ms} ms");
    assert_eq!((scrub.status().cycles, scrub.status().damaged), (1, 1));
    let partition = store.bits().partition_of(key.token());
    assert_eq!(store.partition(PlacementId(0), partition).sync, SyncState::Unsynced(UnsyncedCause::DamagedData));
}

#[test]
fn a_scrub_goes_on_where_it_was_before_a_restart() {
    let (store, _) = some_rows();
    let scrub = Scrub::from(None, SETTINGS);
    let mut worker = ScrubWorker::new(store.clone(), scrub.clone());
    run(&mut worker, 0, || scrub.status().rows < 2_500);
    let before = scrub.status();
    let resumed = Scrub::from(before.at, SETTINGS);
    let mut worker = ScrubWorker::new(store, resumed.clone());
    run(&mut worker, 0, || resumed.status().cycles < 1);
    assert_eq!(before.rows + resumed.status().rows, 5_000);
}

#[test]
fn switched_off_it_verifies_nothing_until_it_is_asked_and_a_shorter_cycle_holds_at_once() {
    let (store, _) = some_rows();
    let scrub = Scrub::from(None, ScrubSettings { enabled: false, ..SETTINGS });
    let mut worker = ScrubWorker::new(store, scrub.clone());
    let mut steps = 0;
    let now_ms = run(&mut worker, 0, || {
        steps += 1;
        steps < 100
    });
    assert_eq!(scrub.status().rows, 0);
    scrub.hurry();
    let now_ms = run(&mut worker, now_ms, || scrub.status().hurries);
    assert_eq!((scrub.status().rows, scrub.status().cycle_ended_ms.is_some()), (5_000, true));
    scrub.set_settings(ScrubSettings { enabled: true, cycle_ms: 10_000 });
    let end_ms = run(&mut worker, now_ms, || scrub.status().cycles < 3);
    assert!(end_ms - now_ms <= 60_000 + 30_000, "{} ms", end_ms - now_ms);
}

#[test]
fn a_leaf_of_many_rows_is_verified_in_pieces_and_what_is_wrong_at_its_end_is_found() {
    let (store, engine) = store(PartitionBits::new(2).unwrap());
    let key = |n: u32| RowKey::with_sort("hot", n.to_be_bytes().to_vec());
    plant(&store, (0..5_000).map(|n| (key(n), Record::value(version(5), "v"))));
    let scrub = Scrub::from(None, SETTINGS);
    let mut worker = ScrubWorker::new(store.clone(), scrub.clone());
    let (mut verified, mut hlc) = (0, 5);
    let end_ms = run(&mut worker, 0, || {
        let status = scrub.status();
        assert!(status.rows - verified <= 1_000, "a step is bounded");
        verified = status.rows;
        hlc += 1;
        plant(&store, [(key(hlc as u32 % 100), Record::value(version(hlc), "written meanwhile"))]);
        status.cycles < 1
    });
    assert_eq!((scrub.status().rows, scrub.status().damaged), (5_000, 0));
    assert!(end_ms <= CYCLE_MS, "{end_ms} ms");
    damage(&store, &engine, &key(4_999));
    run(&mut worker, end_ms, || scrub.status().cycles < 2);
    assert_eq!(scrub.status().damaged, 1);
    assert_eq!(scrub.status().rows, 10_000);
}

#[test]
fn leaves_of_rows_that_were_lost_and_came_again_are_derived_anew() {
    let (store, engine) = some_rows();
    let key = RowKey::of(77u32.to_be_bytes().to_vec());
    let record = store.get(TABLE, &key).unwrap().unwrap();
    let data_key = cube_storage::keyspace::data_key(TABLE, &key);
    engine.write(Durability::Synced, &mut |writes| writes.delete(Space::Data, &data_key)).unwrap();
    plant(&store, [(key.clone(), record)]);
    let all = ScrubBounds { rows_max: usize::MAX, bytes_max: usize::MAX };
    let first = cube_storage::merkle::LeafId(0);
    let damaged = || store.scrub_step(TABLE, &first.into(), all).unwrap().damaged.len();
    assert_eq!(damaged(), 1, "the row is in its leaf twice");
    let partition = store.bits().partition_of(key.token());
    let (mut from, mut steps) = (None, 0);
    loop {
        from = store.derive_leaves_step(TABLE, partition, from, 100).unwrap();
        steps += 1;
        if from.is_none() {
            break;
        }
    }
    assert!(steps > 5, "a bounded part in each of {steps} steps");
    assert_eq!(damaged(), 0);
    let (healed, other) = (store, some_rows().0);
    let tree = [(TABLE, partition)];
    let horizon = cube_storage::model::Hlc(u64::MAX);
    assert_eq!(healed.roots_as_of(horizon, &tree), other.roots_as_of(horizon, &tree), "the tree in memory follows");
}
