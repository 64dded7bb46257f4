//! A million rows, on RocksDB with the options of a node: leaves, scans and scrub are right where there are many table
//! files and levels, and after a restart.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::engine::{Engine, Recovery, RocksEngine, RocksOptions};
use cube_storage::merkle::{LEAVES_PER_PARTITION, LeafId, LeafSum};
use cube_storage::model::{Mutation, Outcome, RowKey, TableId};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{Store, SyncPolicy, TableOptions};

use crate::common::{MERKLE_KEY, at, bits, client, format, observe, open_store, put};

const TABLE: TableId = TableId(1);
const ROWS: u64 = 1_000_000;
/// Rows whose keys begin alike.
const GROUP: u64 = 1_000;
const BATCH: usize = 1_000;
/// Every so many rows one is overwritten.
const OVERWRITTEN: usize = 10;

/// Neighbours are written far apart, so that table files overlap: multiplying by a prime walks through all of them.
fn nth_written(n: u64) -> u64 {
    n * 611_953 % ROWS
}

fn key(n: u64) -> RowKey {
    RowKey::of(format!("group {:04}:row {:03}", n / GROUP, n % GROUP))
}

/// Some are larger than what is kept in a file of its own.
fn value(n: u64, round: u64) -> Vec<u8> {
    let len = if n % 1_000 == 7 { 5_000 } else { 100 };
    (n ^ round).to_be_bytes().into_iter().cycle().take(len).collect()
}

fn row(n: u64, round: u64) -> Mutation {
    put(TABLE, key(n), at(1 + round), value(n, round))
}

/// The round in which a row was written last.
fn last_round(n: u64) -> u64 {
    u64::from(n.is_multiple_of(OVERWRITTEN as u64))
}

fn load(store: &Store) {
    let rows = (0..ROWS).map(|n| row(nth_written(n), 0));
    let overwritten = (0..ROWS).step_by(OVERWRITTEN).map(|n| row(n, 1));
    let mut all = rows.chain(overwritten);
    loop {
        let batch: Vec<_> = all.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let outcomes = store.apply(client(batch)).unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied));
    }
    store.sync().unwrap();
}

/// The leaves as the format's page says they are to be, from the rows alone.
fn derived_leaves() -> Vec<(LeafId, LeafSum)> {
    let mut leaves = BTreeMap::<u32, LeafSum>::new();
    for n in 0..ROWS {
        let Mutation { table, key, record, .. } = row(n, last_round(n));
        let sum = LeafSum { sum: format::row_hash(&MERKLE_KEY.0, table, &key, &record), rows: 1 };
        let leaf = leaves.entry(format::leaf(bits(), &key)).or_default();
        *leaf = leaf.plus(sum);
    }
    leaves.into_iter().map(|(leaf, sum)| (LeafId(leaf), sum)).collect()
}

fn all_leaves(store: &Store) -> Vec<(LeafId, LeafSum)> {
    let end = LeafId(u32::from(bits().partitions()) * LEAVES_PER_PARTITION);
    store.leaves(TABLE, LeafId(0), end).unwrap()
}

/// Scans one of the groups, forward or backward, in pages.
fn assert_group_is_found(store: &Store, group: u64, backward: bool) {
    let prefix = Scope::Prefix(format!("group {group:04}:").into());
    let mut request = ScanRequest { backward, rows_max: 300, ..ScanRequest::all(TABLE, prefix, store.limits()) };
    let mut found = Vec::new();
    loop {
        let page = store.scan(&request).unwrap();
        found.extend(page.rows);
        match page.next {
            Some(next) => request.resume = Some(next),
            None => break,
        }
    }
    if backward {
        found.reverse();
    }
    assert_eq!(found.len() as u64, GROUP);
    for (found, n) in found.into_iter().zip(group * GROUP..) {
        assert_eq!((found.key, &found.record), (key(n), &row(n, last_round(n)).record));
    }
}

#[test]
#[ignore = "long: a million rows take some minutes"]
fn a_million_rows_are_summed_found_and_sound_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let derived = derived_leaves();
    for is_new in [true, false] {
        let engine = Arc::new(RocksEngine::open(dir.path(), &RocksOptions::default()).unwrap());
        assert_eq!(engine.recovery(), Recovery::Complete);
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        if is_new {
            let sync = SyncPolicy::Interval { every_ms: 1_000 };
            store.put_table(TABLE, TableOptions { sync, ..TableOptions::default() }).unwrap();
            load(&store);
        }
        assert!(all_leaves(&store) == derived, "the leaves are those of the rows");
        for group in [0, 1, 417, ROWS / GROUP - 1] {
            assert_group_is_found(&store, group, false);
            assert_group_is_found(&store, group, true);
        }
        let scrubbed = observe::scrub(&store, TABLE, 10_000).unwrap();
        assert_eq!((scrubbed.rows as u64, scrubbed.damaged), (ROWS, vec![]));
    }
}
