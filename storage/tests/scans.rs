//! Scans against the model: whatever the scope, the direction and the size of the pages, a scan returns exactly the
//! rows it names, each once and in order; what is written between two pages never makes it miss or repeat a row; and a
//! page token of another scan, or of nobody, is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::engine::Engine;
use cube_storage::model::{Invalid, Limits, Record, RowKey, TableId, Token};
use cube_storage::scan::{Page, PageToken, Row, ScanRequest, Scope};
use cube_storage::{Store, StoreError, TableOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::disks::MemoryDisk;
#[cfg(feature = "rocks")]
use crate::common::disks::{RocksDisk, flush_and_compact};
use crate::common::inputs::{PARTITION_KEYS, SORT_KEYS};
use crate::common::{at, cases, client, inputs, open_store, put};

const TABLE: TableId = TableId(3);
const NEIGHBOUR: TableId = TableId(4);
const UNINDEXED: TableId = TableId(5);

fn open(engine: Arc<dyn Engine>) -> Store {
    let store = open_store(engine);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store.put_table(NEIGHBOUR, TableOptions::default()).unwrap();
    store.put_table(UNINDEXED, TableOptions { prefix_index: false, ..TableOptions::default() }).unwrap();
    store
}

type Rows = BTreeMap<RowKey, Record>;

fn rows() -> impl Strategy<Value = Rows> {
    prop::collection::btree_map(inputs::row_key(), inputs::record(), 0..60)
}

fn fill(store: &Store, rows: &Rows) {
    for table in [TABLE, NEIGHBOUR] {
        let mutations = rows.iter().map(|(key, record)| cube_storage::model::Mutation {
            table,
            key: key.clone(),
            record: record.clone(),
            claim: None,
        });
        store.apply(client(mutations.collect())).unwrap();
    }
}

fn bound() -> impl Strategy<Value = Bound<Bytes>> {
    let sort = || prop::sample::select(SORT_KEYS.to_vec()).prop_map(Bytes::from_static);
    prop_oneof![sort().prop_map(Bound::Included), sort().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn token() -> impl Strategy<Value = Token> {
    let of_a_row = prop::sample::select(PARTITION_KEYS.to_vec()).prop_map(Token::of);
    prop_oneof![3 => of_a_row, 1 => any::<u64>().prop_map(Token), 1 => Just(Token(0)), 1 => Just(Token(u64::MAX))]
}

fn scope() -> impl Strategy<Value = Scope> {
    let key = prop::sample::select(PARTITION_KEYS.to_vec()).prop_map(Bytes::from_static);
    let prefix = prop::sample::select(vec![&b""[..], b"a", b"a\0", b"user", b"user:", b"\xff", b"\0", b"nobody"]);
    prop_oneof![
        (key, bound(), bound()).prop_map(|(key, from, to)| Scope::Partition { key, from, to }),
        prefix.prop_map(|prefix| Scope::Prefix(Bytes::from_static(prefix))),
        (token(), token()).prop_map(|(first, last)| Scope::Tokens(first, last)),
    ]
}

#[derive(Clone, Debug)]
struct Wanted {
    scope: Scope,
    backward: bool,
    /// Rows and bytes of each page, in turn.
    pages: Vec<(usize, usize)>,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let rows_max = prop_oneof![3 => 1usize..5, 1 => Just(100)];
    let bytes_max = prop_oneof![1 => 1usize..300, 1 => Just(5_000), 2 => Just(1 << 20)];
    (scope(), any::<bool>(), prop::collection::vec((rows_max, bytes_max), 1..5))
        .prop_map(|(scope, backward, pages)| Wanted { scope, backward, pages })
}

fn within(scope: &Scope, key: &RowKey) -> bool {
    match scope {
        Scope::Partition { key: partition, from, to } => {
            key.partition == partition && std::ops::RangeBounds::contains(&(from.clone(), to.clone()), &key.sort)
        }
        Scope::Prefix(prefix) => key.partition.starts_with(prefix),
        Scope::Tokens(first, last) => (first..=last).contains(&&key.token()),
    }
}

/// The rows of a scan, in its order.
fn expected(rows: &Rows, wanted: &Wanted) -> Vec<Row> {
    let inside = rows.iter().filter(|(key, _)| within(&wanted.scope, key));
    let mut inside: Vec<Row> = inside.map(|(key, record)| Row { key: key.clone(), record: record.clone() }).collect();
    if matches!(wanted.scope, Scope::Tokens(..)) {
        inside.sort_by_key(|row| (row.key.token(), row.key.clone()));
    }
    if wanted.backward {
        inside.reverse();
    }
    inside
}

fn request(wanted: &Wanted, page: usize, resume: Option<PageToken>) -> ScanRequest {
    let (rows_max, bytes_max) = wanted.pages[page % wanted.pages.len()];
    ScanRequest { table: TABLE, scope: wanted.scope.clone(), backward: wanted.backward, rows_max, bytes_max, resume }
}

fn assert_bounded(page: &Page, request: &ScanRequest) {
    assert!(page.rows.len() <= request.rows_max);
    let bytes = |row: &Row| row.key.len_bytes() + row.record.value_len();
    let total: usize = page.rows.iter().map(bytes).sum();
    assert!(total <= request.bytes_max || page.rows.len() == 1, "{total} bytes in {} rows", page.rows.len());
    assert!(page.next.is_none() || !page.rows.is_empty(), "a page gets on");
}

/// All rows of a scan, page by page; `between` is called after each.
fn scan_all(store: &Store, wanted: &Wanted, mut between: impl FnMut(&[Row])) -> Vec<Row> {
    let (mut rows, mut resume, mut pages) = (Vec::new(), None, 0);
    loop {
        let request = request(wanted, pages, resume);
        let page = store.scan(&request).unwrap();
        assert_bounded(&page, &request);
        assert_eq!(page.damaged, []);
        rows.extend(page.rows);
        match page.next {
            None => return rows,
            next => resume = next,
        }
        between(&rows);
        pages += 1;
    }
}

fn check_scans(store: &Store, rows: &Rows, wanted: &Wanted) {
    fill(store, rows);
    assert_eq!(scan_all(store, wanted, |_| {}), expected(rows, wanted));
}

#[test]
fn a_scan_returns_exactly_its_rows_once_and_in_order() {
    let mut runner = TestRunner::new(cases(1_000));
    let ran = runner.run(&(rows(), wanted()), |(rows, wanted)| {
        check_scans(&open(Arc::new(MemoryDisk::default().0)), &rows, &wanted);
        Ok(())
    });
    ran.unwrap();
}

#[cfg(feature = "rocks")]
#[test]
fn a_scan_returns_exactly_its_rows_on_rocksdb() {
    let disk = RocksDisk::new();
    let engine = disk.engine();
    let store = open(Arc::<cube_storage::engine::RocksEngine>::clone(&engine));
    let mut runner = TestRunner::new(cases(60));
    let ran = runner.run(&(rows(), prop::collection::vec(wanted(), 1..6), any::<bool>()), |(rows, wanted, flushed)| {
        for table in [TABLE, NEIGHBOUR] {
            let options = store.table(table).unwrap();
            store.drop_table(table).unwrap();
            store.put_table(table, options).unwrap();
        }
        fill(&store, &rows);
        if flushed {
            flush_and_compact(&engine);
        }
        for wanted in &wanted {
            assert_eq!(scan_all(&store, wanted, |_| {}), expected(&rows, wanted));
        }
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn writes_between_pages_make_a_scan_neither_miss_nor_repeat_a_row() {
    let mut runner = TestRunner::new(cases(300));
    let late = prop::collection::vec((inputs::row_key(), 1u64..100), 8);
    let ran = runner.run(&(rows(), wanted(), late), |(rows, wanted, late)| {
        let store = open(Arc::new(MemoryDisk::default().0));
        fill(&store, &rows);
        let (mut late, mut covered) = (late.into_iter(), 0);
        let seen = scan_all(&store, &wanted, |seen| {
            covered = seen.len();
            if let Some((key, millis)) = late.next() {
                store.apply(client(vec![put(TABLE, key, at(1_000 + millis), "late")])).unwrap();
            }
        });
        let mut keys: Vec<&RowKey> = seen.iter().map(|row| &row.key).collect();
        for row in expected(&rows, &wanted) {
            prop_assert_eq!(seen.iter().filter(|seen| seen.key == row.key).count(), 1);
        }
        let in_order = |key: &&RowKey| match wanted.scope {
            Scope::Tokens(..) => (Some(key.token()), (*key).clone()),
            _ => (None, (*key).clone()),
        };
        if wanted.backward {
            keys.reverse();
        }
        prop_assert!(keys.is_sorted_by_key(in_order));
        keys.dedup();
        prop_assert_eq!(keys.len(), seen.len());
        Ok(())
    });
    ran.unwrap();
}

/// A store with rows that every scope of [`scopes`] finds some of.
fn filled() -> (Store, Vec<ScanRequest>) {
    let store = open(Arc::new(MemoryDisk::default().0));
    let sorts: Vec<RowKey> = (0..9).map(|n| RowKey::with_sort("user:alice", format!("{n}"))).collect();
    let others = (0..9).map(|n| RowKey::of(format!("user:{n}")));
    let mutations = sorts.into_iter().chain(others).map(|key| put(TABLE, key, at(1), "v"));
    store.apply(client(mutations.collect())).unwrap();
    let alice = |from, to| Scope::Partition { key: "user:alice".into(), from, to };
    let scopes = [
        alice(Bound::Unbounded, Bound::Unbounded),
        alice(Bound::Included("0".into()), Bound::Unbounded),
        alice(Bound::Unbounded, Bound::Excluded("9".into())),
        Scope::Prefix("user".into()),
        Scope::Prefix("user:".into()),
        Scope::Tokens(Token(0), Token(u64::MAX)),
        Scope::Tokens(Token(1), Token(u64::MAX)),
    ];
    let requests = scopes.into_iter().flat_map(|scope| {
        [false, true].map(|backward| ScanRequest {
            rows_max: 2,
            backward,
            ..ScanRequest::all(TABLE, scope.clone(), &Limits::default())
        })
    });
    (store, requests.collect())
}

#[test]
fn a_page_token_of_another_scan_is_refused() {
    let (store, requests) = filled();
    let tokens: Vec<PageToken> = requests.iter().map(|request| store.scan(request).unwrap().next.unwrap()).collect();
    for (of, token) in tokens.iter().enumerate() {
        for (place, request) in requests.iter().enumerate() {
            let resumed = store.scan(&ScanRequest { resume: Some(token.clone()), ..request.clone() });
            if of == place {
                assert!(!resumed.unwrap().rows.is_empty());
            } else {
                assert_eq!(resumed, Err(StoreError::Invalid(Invalid::PageToken)), "{of} given to {place}");
            }
        }
        let elsewhere = ScanRequest { table: NEIGHBOUR, resume: Some(token.clone()), ..requests[of].clone() };
        assert_eq!(store.scan(&elsewhere), Err(StoreError::Invalid(Invalid::PageToken)));
    }
}

#[test]
fn a_malformed_page_token_is_refused_or_resumes_inside_the_scan() {
    let (store, requests) = filled();
    let mut runner = TestRunner::new(cases(2_000));
    let change = prop_oneof![
        any::<Vec<u8>>().prop_map(Err),
        (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(Ok),
    ];
    let ran = runner.run(&(prop::sample::select(requests), change), |(request, change)| {
        let valid = store.scan(&request).unwrap().next.unwrap().0;
        let token = match change {
            Err(bytes) => bytes,
            Ok((at, byte, cut)) => {
                let mut bytes = valid.to_vec();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                if cut {
                    bytes.truncate(at);
                }
                bytes
            }
        };
        match store.scan(&ScanRequest { resume: Some(PageToken(token.into())), ..request.clone() }) {
            Err(error) => prop_assert_eq!(error, StoreError::Invalid(Invalid::PageToken)),
            Ok(page) => prop_assert!(page.rows.iter().all(|row| within(&request.scope, &row.key))),
        }
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn a_table_without_index_is_not_scanned_by_prefix() {
    let store = open(Arc::new(MemoryDisk::default().0));
    let request = ScanRequest::all(UNINDEXED, Scope::Prefix("user".into()), &Limits::default());
    let refused = store.scan(&request).unwrap_err();
    assert_eq!(refused, StoreError::Invalid(Invalid::NoPrefixIndex { table: UNINDEXED }));
    assert!(refused.to_string().contains("prefix_index"), "{refused}");
}

#[test]
fn a_page_of_impossible_size_is_refused_with_the_limits() {
    let (store, requests) = filled();
    let limits = Limits::default();
    for (rows_max, bytes_max, said) in [
        (0, 1, "a page has 1 to 10000 rows, and not 0"),
        (1, 0, "a page has 1 to 4194304 bytes, and not 0"),
        (limits.page_rows_max + 1, 1, "a page has 1 to 10000 rows, and not 10001"),
        (1, limits.page_bytes_max + 1, "a page has 1 to 4194304 bytes, and not 4194305"),
    ] {
        let refused = store.scan(&ScanRequest { rows_max, bytes_max, ..requests[0].clone() }).unwrap_err();
        assert!(matches!(refused, StoreError::Invalid(Invalid::Page { .. })), "{refused}");
        assert_eq!(refused.to_string(), said);
    }
}

#[test]
fn a_row_larger_than_the_page_comes_alone() {
    let store = open(Arc::new(MemoryDisk::default().0));
    let rows = ["a", "b", "c"].map(|key| put(TABLE, RowKey::of(key), at(1), vec![7; 5_000]));
    store.apply(client(rows.to_vec())).unwrap();
    let wanted = Wanted { scope: Scope::Prefix(Bytes::new()), backward: false, pages: vec![(10, 100)] };
    let first = store.scan(&request(&wanted, 0, None)).unwrap();
    assert_eq!(first.rows.len(), 1);
    assert_eq!(scan_all(&store, &wanted, |_| {}).len(), 3);
}
