//! Bad input gets a typed error that names the limit it broke, changes nothing, and is nobody else's problem.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::ops::Bound;
use std::sync::Arc;

use cube_storage::model::{Batch, Invalid, Limits, Mutation, RowKey, TableId};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{Store, StoreError, StoreOptions, TableOptions};
use parking_lot::Mutex;

use crate::common::disks::MemoryDisk;
use crate::common::{at, client, identity, put};

const TABLE: TableId = TableId(1);
const UNKNOWN: TableId = TableId(404);

fn small_limits() -> Limits {
    Limits { key_bytes_max: 10, value_bytes_max: 100, batch_bytes_max: 250, batch_rows_max: 4, ..Limits::default() }
}

fn open(limits: Limits) -> Store {
    let options = StoreOptions { limits, ..StoreOptions::default() };
    let store = Store::open(Arc::new(MemoryDisk::default().0), identity(), options).unwrap();
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store
}

fn row(key: &str, value_bytes: usize) -> Mutation {
    put(TABLE, RowKey::of(key.to_owned()), at(1), vec![7; value_bytes])
}

/// The error of a batch that is refused as a whole; its message names each of `names`.
fn refused(store: &Store, batch: Batch, names: &[&str]) -> Invalid {
    let Err(StoreError::Invalid(invalid)) = store.apply(batch) else { panic!("not refused: {names:?}") };
    let message = invalid.to_string();
    for name in names {
        assert!(message.contains(name), "{name} is not in: {message}");
    }
    assert_eq!(store.get(TABLE, &RowKey::of("fine")), Ok(None), "something of a refused batch was applied");
    invalid
}

#[test]
fn a_batch_with_bad_input_is_refused_whole_and_names_the_limit() {
    let store = open(small_limits());
    let fine = || row("fine", 1);
    let empty = refused(&store, client(vec![fine(), row("", 1)]), &["empty", "at least one byte"]);
    assert_eq!(empty, Invalid::EmptyKey);
    let only_sort = put(TABLE, RowKey::with_sort("", "s"), at(1), "v");
    assert_eq!(refused(&store, client(vec![only_sort]), &[]), Invalid::EmptyKey);

    let long = refused(&store, client(vec![fine(), row("elevenbytes", 1)]), &["11 bytes", "limit is 10"]);
    assert_eq!(long, Invalid::KeyTooLong { bytes: 11, limit: 10 });
    let together = put(TABLE, RowKey::with_sort("sixsix", "five5"), at(1), "v");
    assert_eq!(refused(&store, client(vec![together]), &[]), Invalid::KeyTooLong { bytes: 11, limit: 10 });

    let value = refused(&store, client(vec![fine(), row("k", 101)]), &["\"k\"", "101 bytes", "limit is 100"]);
    assert_eq!(value, Invalid::ValueTooLong { key: RowKey::of("k"), bytes: 101, limit: 100 });

    let much = vec![fine(), row("a", 100), row("b", 100), row("c", 50)];
    let much = refused(&store, client(much), &["258 bytes", "limit is 250", "split"]);
    assert_eq!(much, Invalid::BatchTooLong { bytes: 258, limit: 250 });

    let many = refused(&store, client(vec![fine(); 5]), &["5 rows", "limit is 4", "split"]);
    assert_eq!(many, Invalid::BatchTooManyRows { rows: 5, limit: 4 });

    let unknown = put(UNKNOWN, RowKey::of("k"), at(1), "v");
    let unknown = refused(&store, client(vec![fine(), unknown]), &["t404"]);
    assert_eq!(unknown, Invalid::UnknownTable { table: UNKNOWN });
}

#[test]
fn what_is_exactly_at_the_limit_passes() {
    let store = open(small_limits());
    let batch = vec![row("tenbytes10", 100), row("b", 100), row("c", 38)];
    assert_eq!(batch.iter().map(|m| m.key.len_bytes() + m.record.value_len()).sum::<usize>(), 250);
    assert!(store.apply(client(batch)).is_ok());
    assert!(store.apply(client(vec![row("a", 0), row("b", 0), row("c", 0), row("d", 0)])).is_ok());
    assert!(store.apply(client(vec![])).is_ok());
}

#[test]
fn the_default_limits_are_those_the_design_names() {
    let limits = Limits::default();
    const MIB: usize = 1 << 20;
    assert_eq!(limits.key_bytes_max, 4 << 10);
    assert_eq!((limits.value_bytes_max, limits.batch_bytes_max, limits.page_bytes_max), (4 * MIB, 16 * MIB, 4 * MIB));
    let store = open(limits);
    let large = Mutation { table: TABLE, ..row(&"k".repeat(4 << 10), 4 * MIB) };
    assert!(store.apply(client(vec![large])).is_ok());
}

#[test]
fn a_bad_batch_does_not_touch_those_that_wait_with_it() {
    let store = open(small_limits());
    let told = Arc::new(Mutex::new(Vec::new()));
    let unknown = put(UNKNOWN, RowKey::of("k"), at(1), "v");
    for batch in [client(vec![row("a", 1)]), client(vec![row("x", 1), unknown]), client(vec![row("b", 1)])] {
        let told = Arc::clone(&told);
        store.submit(batch, Box::new(move |result| told.lock().push(result.is_ok())));
    }
    assert!(store.run_pending());
    assert_eq!(*told.lock(), [true, false, true]);
    let there = |key: &'static str| store.get(TABLE, &RowKey::of(key)).unwrap().is_some();
    assert!(there("a") && there("b") && !there("x"));
}

#[test]
fn a_time_to_live_that_is_none_is_refused_with_the_limit() {
    let limits = Limits { ttl_ms_max: 1_000, ..Limits::default() };
    for ttl_ms in [0, -1, i64::MIN, 1_001, i64::MAX] {
        let refused = limits.check_ttl_ms(ttl_ms).unwrap_err();
        assert_eq!(refused, Invalid::Ttl { ttl_ms, limit: 1_000 });
        let message = refused.to_string();
        assert!(message.contains(&ttl_ms.to_string()) && message.contains("limit of 1000 ms"), "{message}");
    }
    assert_eq!((limits.check_ttl_ms(1), limits.check_ttl_ms(1_000)), (Ok(1), Ok(1_000)));
    assert!(Limits::default().check_ttl_ms(i64::MAX).is_err(), "the default limit keeps expiries in range");
}

#[test]
fn reads_of_bad_keys_and_unknown_tables_are_refused_alike() {
    let store = open(small_limits());
    fn invalid<T>(invalid: Invalid) -> Result<T, StoreError> {
        Err(StoreError::Invalid(invalid))
    }
    assert_eq!(store.get(TABLE, &RowKey::of("")), invalid(Invalid::EmptyKey));
    let long = RowKey::of("elevenbytes");
    assert_eq!(store.get(TABLE, &long), invalid(Invalid::KeyTooLong { bytes: 11, limit: 10 }));
    let unknown = Invalid::UnknownTable { table: UNKNOWN };
    assert_eq!(store.get(UNKNOWN, &RowKey::of("k")), invalid(unknown.clone()));
    let many = store.get_many(TABLE, &[RowKey::of("k"), RowKey::of(""), RowKey::of("k")]);
    assert_eq!(many, [Ok(None), invalid(Invalid::EmptyKey), Ok(None)], "each has its own answer");
    let headers = store.headers(UNKNOWN, &[RowKey::of("k")]);
    assert_eq!(headers, [Err(StoreError::Invalid(unknown.clone()))]);
    let scan = |table, scope| store.scan(&ScanRequest::all(table, scope, store.limits())).map(drop);
    let of = |key: &'static str| Scope::Partition { key: key.into(), from: Bound::Unbounded, to: Bound::Unbounded };
    assert_eq!(scan(UNKNOWN, of("k")), invalid(unknown.clone()));
    assert_eq!(scan(TABLE, of("")), invalid(Invalid::EmptyKey));
    let too_long = Invalid::KeyTooLong { bytes: 11, limit: 10 };
    assert_eq!(scan(TABLE, Scope::Prefix("elevenbytes".into())), invalid(too_long));
    assert_eq!(scan(TABLE, Scope::Prefix("".into())), Ok(()), "no prefix is all rows");
    let partition = cube_storage::model::PartitionId(0);
    assert_eq!(store.root(UNKNOWN, partition).map(drop), invalid(unknown.clone()));
    assert_eq!(store.purge_step(UNKNOWN, partition, None, 1).map(drop), invalid(unknown.clone()));
    assert_eq!(store.clear_step(UNKNOWN, partition, 1).map(drop), invalid(unknown.clone()));
    assert_eq!(store.begin_proof(UNKNOWN, partition), invalid(unknown.clone()));
    let horizon = cube_storage::model::Hlc::new(1, 0);
    assert_eq!(store.end_proof(UNKNOWN, partition, horizon), invalid(unknown.clone()));
    assert_eq!(store.raise_floor(UNKNOWN, partition, horizon), invalid(unknown.clone()));
    store.put_table(UNKNOWN, TableOptions::default()).unwrap();
    assert_eq!(store.range_state(UNKNOWN, partition), cube_storage::RangeState::default(), "nothing was begun");
    store.drop_table(UNKNOWN).unwrap();
    assert_eq!(store.drop_table(UNKNOWN), invalid(unknown));
}

#[test]
fn keys_that_look_alike_are_different_rows() {
    let store = open(Limits::default());
    let keys = [
        RowKey::of("user:alice"),
        RowKey::of("user_alice"),
        RowKey::of("user:alice\0"),
        RowKey::with_sort("user:alice", "\0"),
        RowKey::with_sort("user:", "alice"),
        RowKey::with_sort("user:alice", "\x01"),
        RowKey::of("user:alice\0\x01"),
        RowKey::of("user:alice\0\u{1}\0"),
    ];
    let batch = keys.iter().map(|key| put(TABLE, key.clone(), at(1), format!("{key}")));
    store.apply(client(batch.collect())).unwrap();
    for key in &keys {
        let value = store.get(TABLE, key).unwrap().unwrap().live_value(at(1).hlc).unwrap().clone();
        assert_eq!(value, format!("{key}"));
    }
    let all = store.scan(&ScanRequest::all(TABLE, Scope::Prefix("user".into()), store.limits())).unwrap();
    assert_eq!(all.rows.len(), keys.len());
}
