//! The rows that are damaged, every way to read them, and how a damaged partition is made whole.

use std::collections::BTreeMap;

use cube_storage::engine::{Engine, Space};
use cube_storage::model::{Hlc, Origin, Outcome, PartitionId, PlacementId, Record, RowKey, TableId, Token};
use cube_storage::scan::{Row, ScanRequest, Scope};
use cube_storage::{DamagedRange, Store, StoreError, SyncState, TableOptions};

use crate::common::disks::Disk;
use crate::common::model::Model;
use crate::common::{at, batch, bits, client, format, mark_all_synced, observe, open_store, synced_partitions};

pub(crate) const TABLE: TableId = TableId(1);
pub(crate) const PLACEMENT: PlacementId = PlacementId(0);

pub(crate) type Rows = BTreeMap<RowKey, Record>;

pub(crate) fn open(disk: &dyn Disk) -> Store {
    open_store(disk.open().unwrap())
}

/// Rows of many partition keys, and some with many sort keys, whose values are now and then in a blob file.
pub(crate) fn rows() -> Rows {
    let plain = (0..2_000).map(|n| RowKey::of(format!("row {n}")));
    let sorted =
        (0..5).flat_map(|n| (0..60).map(move |sort| RowKey::with_sort(format!("many {n}"), format!("{sort}"))));
    plain.chain(sorted).enumerate().map(|(n, key)| (key, record(n))).collect()
}

pub(crate) fn record(n: usize) -> Record {
    let len = if n.is_multiple_of(97) { 2_500 } else { 30 + n % 50 };
    let mut value = format!("value {n} ").into_bytes();
    value.resize(value.len() + len, (n % 251) as u8);
    Record::value(at(n as u64 + 1), value)
}

pub(crate) fn fill(store: &Store, rows: &Rows) {
    store.put_table(TABLE, TableOptions::default()).unwrap();
    mark_all_synced(store, PLACEMENT);
    let rows: Vec<_> = rows.iter().collect();
    for chunk in rows.chunks(500) {
        let mutations = chunk.iter().map(|(key, record)| cube_storage::model::Mutation {
            table: TABLE,
            key: (*key).clone(),
            record: (*record).clone(),
            claim: None,
        });
        store.apply(client(mutations.collect())).unwrap();
    }
}

pub(crate) fn covers(damaged: &[DamagedRange], key: &RowKey) -> bool {
    let data_key = format::data_key(TABLE, key);
    damaged.iter().any(|damaged| damaged.space == Space::Data && damaged.range.contains(&data_key))
}

pub(crate) fn all(scope: Scope, backward: bool, rows_max: usize) -> ScanRequest {
    ScanRequest { table: TABLE, scope, backward, rows_max, bytes_max: 1 << 20, resume: None }
}

/// All pages of a scan, and all that they named as damaged.
pub(crate) fn scan_all(store: &Store, mut request: ScanRequest) -> Result<(Vec<Row>, Vec<DamagedRange>), StoreError> {
    let (mut rows, mut damaged) = (Vec::new(), Vec::new());
    loop {
        let page = store.scan(&request)?;
        rows.extend(page.rows);
        damaged.extend(page.damaged);
        match page.next {
            None => return Ok((rows, damaged)),
            next => request.resume = next,
        }
    }
}

pub(crate) fn everything() -> Scope {
    Scope::Tokens(Token(0), Token(u64::MAX))
}

/// What reading a damaged store must never do, however it is read.
pub(crate) struct Reading<'a> {
    pub(crate) store: &'a Store,
    pub(crate) rows: &'a Rows,
    /// The partitions that counted when the store was opened. Elsewhere rows may have gone with a file that was replaced.
    pub(crate) counted: Vec<PartitionId>,
    /// All rows lie in one layer of files. Else rows that can be read alone may lie between others that cannot, and a
    /// scan passes over them together.
    pub(crate) one_layer: bool,
}

impl<'a> Reading<'a> {
    pub(crate) fn of(store: &'a Store, rows: &'a Rows) -> Self {
        Self { store, rows, counted: synced_partitions(store, PLACEMENT), one_layer: true }
    }

    fn may_be_gone(&self, key: &RowKey) -> bool {
        !self.counted.contains(&bits().partition_of(key.token()))
    }

    /// Point reads: a row is what was written, or is named as damaged. The rows that are.
    pub(crate) fn by_key(&self) -> Vec<RowKey> {
        let mut unreadable = Vec::new();
        for (key, expected) in self.rows {
            match self.store.get(TABLE, key) {
                Ok(Some(found)) => assert_eq!(found, *expected, "a wrong value of {key}"),
                Ok(None) => assert!(self.may_be_gone(key), "{key} is told to be absent"),
                Err(StoreError::Corrupt(damaged)) => {
                    assert!(covers(std::slice::from_ref(&*damaged), key), "{damaged} does not cover {key}");
                    unreadable.push(key.clone());
                }
                Err(error) => panic!("{key}: {error}"),
            }
        }
        unreadable
    }

    /// Batched reads tell the same as single ones.
    pub(crate) fn by_many_keys(&self, unreadable: &[RowKey]) {
        let keys: Vec<RowKey> = self.rows.keys().cloned().collect();
        for (key, found) in keys.iter().zip(self.store.get_many(TABLE, &keys)) {
            match found {
                Ok(None) => assert!(self.may_be_gone(key), "{key} is told to be absent"),
                Ok(Some(found)) => assert_eq!(found, self.rows[key], "a wrong value of {key}"),
                Err(StoreError::Corrupt(damaged)) => {
                    assert!(unreadable.contains(key), "{key} is readable alone, but {damaged}");
                }
                Err(error) => panic!("{key}: {error}"),
            }
        }
    }

    /// Scans: each row once and in order; those that are missing lie in what is named as damaged, and that reaches no
    /// further than the partition keys of what cannot be read.
    pub(crate) fn by_scan(&self, unreadable: &[RowKey], backward: bool, rows_max: usize) -> Vec<DamagedRange> {
        let (mut found, damaged) = scan_all(self.store, all(everything(), backward, rows_max)).unwrap();
        if backward {
            found.reverse();
        }
        assert!(found.is_sorted_by_key(|row| format::data_key(TABLE, &row.key)));
        let found: BTreeMap<RowKey, Record> = found.into_iter().map(|row| (row.key, row.record)).collect();
        for (key, expected) in self.rows {
            match found.get(key) {
                Some(found) => assert_eq!(found, expected, "a wrong value of {key}"),
                None if self.may_be_gone(key) => {}
                None => {
                    assert!(covers(&damaged, key), "{key} is missing and nothing says so: {damaged:?}");
                    let near = unreadable.iter().any(|unreadable| unreadable.partition == key.partition);
                    let near = near || !self.one_layer;
                    assert!(near, "{key} is left out though all of its partition key can be read: {damaged:?}");
                }
            }
        }
        damaged
    }

    /// All rows by prefix: what the index cannot find is named as damage of the index.
    pub(crate) fn by_prefix(&self, unreadable: &[RowKey]) {
        for (backward, rows_max) in [(false, 10_000), (true, 10_000), (false, 97), (true, 89)] {
            let (found, damaged) = scan_all(self.store, all(Scope::Prefix("".into()), backward, rows_max)).unwrap();
            let found: BTreeMap<RowKey, Record> = found.into_iter().map(|row| (row.key, row.record)).collect();
            for (key, expected) in self.rows {
                match found.get(key) {
                    Some(found) => assert_eq!(found, expected, "a wrong value of {key}"),
                    None if self.may_be_gone(key) => {}
                    None => {
                        let index_key = format::index_key(TABLE, key);
                        let unfound = damaged.iter().any(|d| d.space == Space::Keys && d.range.contains(&index_key));
                        assert!(unfound || covers(&damaged, key), "{key} is missing and nothing says so");
                        assert!(unfound || unreadable.contains(key), "{key} is left out though it can be read");
                    }
                }
            }
        }
    }

    /// The scrub names all that cannot be read.
    pub(crate) fn by_scrub(&self, unreadable: &[RowKey]) -> Vec<DamagedRange> {
        let damaged = observe::scrub(self.store, TABLE, 100).unwrap().damaged;
        for key in unreadable {
            assert!(covers(&damaged, key), "{key} is unreadable and scrub did not see it: {damaged:?}");
        }
        damaged
    }

    /// Every partition with damage does not count any more.
    pub(crate) fn assert_marked(&self, damaged: &[RowKey]) {
        let synced = synced_partitions(self.store, PLACEMENT);
        for key in damaged {
            let partition = bits().partition_of(key.token());
            assert!(!synced.contains(&partition), "{partition} counts, with {key} damaged");
        }
    }
}

/// Reads a damaged store in every way. What cannot be read.
pub(crate) fn read_all(store: &Store, rows: &Rows) -> Vec<RowKey> {
    read_all_of(&Reading::of(store, rows))
}

pub(crate) fn read_all_of(reading: &Reading<'_>) -> Vec<RowKey> {
    let unreadable = reading.by_key();
    reading.by_many_keys(&unreadable);
    for (backward, rows_max) in [(false, 10_000), (true, 10_000), (false, 97), (true, 89)] {
        reading.by_scan(&unreadable, backward, rows_max);
    }
    reading.by_prefix(&unreadable);
    reading.by_scrub(&unreadable);
    reading.assert_marked(&unreadable);
    unreadable
}

/// Makes each partition that does not count whole again, and empty.
pub(crate) fn clear_damaged(store: &Store) {
    for partition in bits().all() {
        if store.partition(PLACEMENT, partition).sync != SyncState::Synced {
            while store.clear_step(TABLE, partition, 300).unwrap().next.is_some() {}
        }
    }
    let mut from = None;
    while let Some(next) = store.sweep_index_step(TABLE, from.as_ref(), 300).unwrap().next {
        from = Some(next);
    }
}

/// Asserts that what is left is whole: exactly the rows of the partitions that counted, with their leaves and index.
pub(crate) fn assert_healed(store: &Store, engine: &dyn Engine, rows: &Rows) {
    let synced = synced_partitions(store, PLACEMENT);
    let mut model = Model { tables: store.tables().into_iter().collect(), ..Model::new(bits()) };
    let left = rows.iter().filter(|(key, _)| synced.contains(&bits().partition_of(key.token())));
    model.rows = left.map(|(key, record)| ((TABLE, key.clone()), record.clone())).collect();
    observe::assert_holds(store, engine, &model, "clearing");
    assert_eq!(observe::scrub(store, TABLE, 500).unwrap().damaged, []);
}

/// Copies the rows again, as whoever heals a partition does.
pub(crate) fn copy_again(store: &Store, rows: &Rows) {
    let mutations = rows.iter().map(|(key, record)| cube_storage::model::Mutation {
        table: TABLE,
        key: key.clone(),
        record: record.clone(),
        claim: None,
    });
    let mutations: Vec<_> = mutations.collect();
    for chunk in mutations.chunks(1_000) {
        let outcomes = store.apply(batch(Origin::Replica { floor: Hlc(0) }, chunk.to_vec())).unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied | Outcome::Present)));
    }
    mark_all_synced(store, PLACEMENT);
    let found = scan_all(store, all(everything(), false, 10_000)).unwrap();
    assert_eq!((found.0.len(), found.1), (rows.len(), vec![]));
}
