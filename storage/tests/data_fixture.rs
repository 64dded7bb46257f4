//! A data directory as format 1 was first written keeps opening: every row, leaf and note of it.
//!
//! The directory under `fixtures/data-v1` is committed and only ever added to. `make_the_fixture` wrote it.

#![cfg(feature = "rocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::clock::{Bound, BoundKeeper};
use cube_storage::engine::{Engine, Recovery, RocksEngine, RocksOptions};
use cube_storage::merkle::{LeafId, LeafSum, MerkleKey};
use cube_storage::model::{
    Batch, Epoch, Expiry, Hlc, Mutation, NodeId, Origin, PartitionBits, PartitionId, PlacementId, Record, RowKey,
    TableId, Version,
};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{
    Identity, PartitionState, RangeState, ScrubBounds, ScrubPlace, Store, StoreOptions, SyncPolicy, SyncState,
    TableOptions, UnsyncedCause,
};

const INDEXED: TableId = TableId(1);
const PLAIN: TableId = TableId(7);
const PLACEMENT: PlacementId = PlacementId(3);
const KEY: MerkleKey = MerkleKey(*b"fixture merkle!!");
const BOUND: Hlc = Hlc::new(1_800_000_010_000, 0);

/// Set by whoever wants the fixture of a new format written.
const WRITE: &str = "CUBE_WRITE_FIXTURES";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-v1")
}

fn open(dir: &Path) -> (Arc<RocksEngine>, Arc<Store>) {
    let engine = Arc::new(RocksEngine::open(dir, &RocksOptions::default()).unwrap());
    let identity = Identity { bits: PartitionBits::new(4).unwrap(), merkle_key: KEY };
    let store = Arc::new(Store::open(engine.clone(), identity, StoreOptions::default()).unwrap());
    (engine, store)
}

fn version(ms: u64, counter: u16, node: u16) -> Version {
    Version::new(Hlc::new(1_800_000_000_000 + ms, counter), NodeId(node))
}

/// A row of every kind there is.
fn rows() -> Vec<(TableId, RowKey, Record)> {
    let mut rows = Vec::new();
    for table in [INDEXED, PLAIN] {
        rows.push((table, RowKey::of("user:alice"), Record::value(version(1, 0, 1), "Alice Johnson")));
        rows.push((table, RowKey::of("user_alice"), Record::value(version(2, 0, 2), "")));
        rows.push((table, RowKey::of("deleted"), Record::tombstone(version(3, 7, 1))));
        rows.push((table, RowKey::of("ends"), Record::expiring(version(4, 0, 3), "soon", Expiry(1_900_000_000_000))));
        rows.push((table, RowKey::of(&b"zero\0byte\xff"[..]), Record::value(version(5, 0, 1), &b"\0\xff"[..])));
        rows.push((table, RowKey::of("large"), Record::value(version(6, 0, 1), vec![7; 10_000])));
        for sort in 0..20_u8 {
            rows.push((
                table,
                RowKey::with_sort("node-1", vec![sort]),
                Record::value(version(7, sort.into(), 1), vec![sort]),
            ));
        }
    }
    rows
}

fn partition_state() -> PartitionState {
    PartitionState { epoch: Epoch(12), sync: SyncState::Synced }
}

const FLOOR_AT: PartitionId = PartitionId(5);
const RANGE: RangeState =
    RangeState { floor: Hlc::new(1_700_000_000_000, 0), synced_through: Hlc::new(1_700_000_000_500, 0) };

/// Writes the fixture where there is none: run by hand, once for every format. It never writes over one.
#[test]
fn make_the_fixture() {
    if std::env::var_os(WRITE).is_none() || fixture().exists() {
        return;
    }
    let (engine, store) = open(&fixture());
    let options = TableOptions { placement: PLACEMENT, prefix_index: true, sync: SyncPolicy::Sync };
    store.put_table(INDEXED, options).unwrap();
    let sync = SyncPolicy::Interval { every_ms: 250 };
    store.put_table(PLAIN, TableOptions { prefix_index: false, sync, ..options }).unwrap();
    store.set_partitions(PLACEMENT, store.bits().all().map(|partition| (partition, partition_state()))).unwrap();
    store.set_sync(PLACEMENT, PartitionId(2), SyncState::Unsynced(UnsyncedCause::Operator)).unwrap();
    store.keep(Bound::Readings, BOUND).unwrap();
    for (half, (table, key, record)) in rows().into_iter().enumerate() {
        if half == 30 {
            engine.flush().unwrap();
        }
        let mutation = Mutation { table, key, record, claim: None };
        store.apply(Batch { origin: Origin::Client, mutations: vec![mutation] }).unwrap();
    }
    store.begin_proof(INDEXED, FLOOR_AT).unwrap();
    store.end_proof(INDEXED, FLOOR_AT, RANGE.synced_through).unwrap();
    store.raise_floor(INDEXED, FLOOR_AT, RANGE.floor).unwrap();
    drop((engine, store));
    for entry in fs::read_dir(fixture().join("rocks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "LOCK" || name.starts_with("LOG") || name.starts_with("OPTIONS") {
            fs::remove_file(path).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_directory_of_format_1_opens_with_all_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    let (engine, store) = open(dir.path());
    assert_eq!(engine.recovery(), Recovery::Complete);

    let mut leaves: std::collections::BTreeMap<(TableId, LeafId), LeafSum> = std::collections::BTreeMap::new();
    for (table, key, record) in rows() {
        let (header, held) = store.get_with_header(table, &key).unwrap().unwrap_or_else(|| panic!("{key} is gone"));
        assert_eq!(held, record, "{key}");
        let data_key = cube_storage::keyspace::data_key(table, &key);
        let sum = leaves.entry((table, LeafId::of(key.token(), store.bits()))).or_default();
        *sum = sum.plus(KEY.row(&data_key, header.version, header.checksum));
    }
    let stored: std::collections::BTreeMap<(TableId, LeafId), LeafSum> = [INDEXED, PLAIN]
        .into_iter()
        .flat_map(|table| {
            let all = store.leaves(table, LeafId(0), LeafId(u32::MAX)).unwrap();
            all.into_iter().map(move |(leaf, sum)| ((table, leaf), sum))
        })
        .collect();
    assert_eq!(stored, leaves);

    let page = store.scan(&ScanRequest::all(INDEXED, Scope::Prefix("user".into()), store.limits())).unwrap();
    assert_eq!(
        page.rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>(),
        [RowKey::of("user:alice"), RowKey::of("user_alice")]
    );
    assert_eq!(store.partition(PLACEMENT, PartitionId(0)), partition_state());
    let marked = PartitionState { sync: SyncState::Unsynced(UnsyncedCause::Operator), ..partition_state() };
    assert_eq!(store.partition(PLACEMENT, PartitionId(2)), marked);
    assert_eq!(store.range_state(INDEXED, FLOOR_AT), RANGE);
    assert_eq!(store.kept(Bound::Readings).unwrap(), Some(BOUND));
    assert_eq!(store.table(PLAIN).unwrap().sync, SyncPolicy::Interval { every_ms: 250 });
    for table in [INDEXED, PLAIN] {
        let all = ScrubBounds { rows_max: usize::MAX, bytes_max: usize::MAX };
        let mut place = Some(ScrubPlace::from(LeafId(0)));
        while let Some(from) = place {
            let step = store.scrub_step(table, &from, all).unwrap();
            assert_eq!(step.damaged, []);
            place = step.next;
        }
    }
}
