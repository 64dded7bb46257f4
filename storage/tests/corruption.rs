//! Damage on the disk: a flipped byte, wherever it is, is reported as corruption with the keys it covers and is never
//! returned as a value; all other rows stay readable; the partition stops counting, durably; and clearing it makes it
//! whole again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;

use cube_storage::engine::{Engine, Space};
use cube_storage::model::{Outcome, PartitionId, PlacementId, Record, RowKey, TableId, Token};
use cube_storage::scan::{Row, ScanRequest, Scope};
use cube_storage::{DamagedRange, Store, StoreError, SyncState, TableOptions, UnsyncedCause};

use crate::common::disks::{Disk, MemoryDisk};
use crate::common::model::Model;
use crate::common::{at, bits, client, format, mark_all_synced, observe, open_store, put, synced_partitions};

const TABLE: TableId = TableId(1);
const PLACEMENT: PlacementId = PlacementId(0);

type Rows = BTreeMap<RowKey, Record>;

fn open(disk: &dyn Disk) -> Store {
    open_store(disk.open().unwrap())
}

/// Rows of many partition keys, and some with many sort keys, whose values are now and then in a blob file.
fn rows() -> Rows {
    let plain = (0..2_000).map(|n| RowKey::of(format!("row {n}")));
    let sorted =
        (0..5).flat_map(|n| (0..60).map(move |sort| RowKey::with_sort(format!("many {n}"), format!("{sort}"))));
    plain.chain(sorted).enumerate().map(|(n, key)| (key, record(n))).collect()
}

fn record(n: usize) -> Record {
    let len = if n.is_multiple_of(97) { 2_500 } else { 30 + n % 50 };
    let mut value = format!("value {n} ").into_bytes();
    value.resize(value.len() + len, (n % 251) as u8);
    Record::value(at(n as u64 + 1), value)
}

fn fill(store: &Store, rows: &Rows) {
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

fn covers(damaged: &[DamagedRange], key: &RowKey) -> bool {
    let data_key = format::data_key(TABLE, key);
    damaged.iter().any(|damaged| damaged.space == Space::Data && damaged.range.contains(&data_key))
}

fn all(scope: Scope, backward: bool, rows_max: usize) -> ScanRequest {
    ScanRequest { table: TABLE, scope, backward, rows_max, bytes_max: 1 << 20, resume: None }
}

/// All pages of a scan, and all that they named as damaged.
fn scan_all(store: &Store, mut request: ScanRequest) -> Result<(Vec<Row>, Vec<DamagedRange>), StoreError> {
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

fn everything() -> Scope {
    Scope::Tokens(Token(0), Token(u64::MAX))
}

/// What reading a damaged store must never do, however it is read.
struct Reading<'a> {
    store: &'a Store,
    rows: &'a Rows,
    /// The partitions that counted when the store was opened. Elsewhere rows may have gone with a file that was replaced.
    counted: Vec<PartitionId>,
    /// All rows lie in one layer of files. Else rows that can be read alone may lie between others that cannot, and a
    /// scan passes over them together.
    one_layer: bool,
}

impl<'a> Reading<'a> {
    fn of(store: &'a Store, rows: &'a Rows) -> Self {
        Self { store, rows, counted: synced_partitions(store, PLACEMENT), one_layer: true }
    }

    fn may_be_gone(&self, key: &RowKey) -> bool {
        !self.counted.contains(&bits().partition_of(key.token()))
    }

    /// Point reads: a row is what was written, or is named as damaged. The rows that are.
    fn by_key(&self) -> Vec<RowKey> {
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
    fn by_many_keys(&self, unreadable: &[RowKey]) {
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
    fn by_scan(&self, unreadable: &[RowKey], backward: bool, rows_max: usize) -> Vec<DamagedRange> {
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
    fn by_prefix(&self, unreadable: &[RowKey]) {
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
    fn by_scrub(&self, unreadable: &[RowKey]) -> Vec<DamagedRange> {
        let damaged = observe::scrub(self.store, TABLE, 100).unwrap().damaged;
        for key in unreadable {
            assert!(covers(&damaged, key), "{key} is unreadable and scrub did not see it: {damaged:?}");
        }
        damaged
    }

    /// Every partition with damage does not count any more.
    fn assert_marked(&self, damaged: &[RowKey]) {
        let synced = synced_partitions(self.store, PLACEMENT);
        for key in damaged {
            let partition = bits().partition_of(key.token());
            assert!(!synced.contains(&partition), "{partition} counts, with {key} damaged");
        }
    }
}

/// Reads a damaged store in every way. What cannot be read.
fn read_all(store: &Store, rows: &Rows) -> Vec<RowKey> {
    read_all_of(&Reading::of(store, rows))
}

fn read_all_of(reading: &Reading<'_>) -> Vec<RowKey> {
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
fn clear_damaged(store: &Store) {
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
fn assert_healed(store: &Store, engine: &dyn Engine, rows: &Rows) {
    let synced = synced_partitions(store, PLACEMENT);
    let mut model = Model { tables: store.tables().into_iter().collect(), ..Model::new(bits()) };
    let left = rows.iter().filter(|(key, _)| synced.contains(&bits().partition_of(key.token())));
    model.rows = left.map(|(key, record)| ((TABLE, key.clone()), record.clone())).collect();
    observe::assert_holds(store, engine, &model, "clearing");
    assert_eq!(observe::scrub(store, TABLE, 500).unwrap().damaged, []);
}

/// Copies the rows again, as whoever heals a partition does.
fn copy_again(store: &Store, rows: &Rows) {
    let mutations = rows.iter().map(|(key, record)| cube_storage::model::Mutation {
        table: TABLE,
        key: key.clone(),
        record: record.clone(),
        claim: None,
    });
    let mutations: Vec<_> = mutations.collect();
    for chunk in mutations.chunks(1_000) {
        let outcomes = store.apply(client(chunk.to_vec())).unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied | Outcome::Present)));
    }
    mark_all_synced(store, PLACEMENT);
    let found = scan_all(store, all(everything(), false, 10_000)).unwrap();
    assert_eq!((found.0.len(), found.1), (rows.len(), vec![]));
}

fn flipped() -> (MemoryDisk, Rows, RowKey) {
    let (disk, rows) = (MemoryDisk::default(), rows());
    fill(&open(&disk), &rows);
    let key = RowKey::with_sort("many 3", "41");
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &key), 20, 5));
    (disk, rows, key)
}

#[test]
fn a_flipped_record_is_named_with_its_key_and_nothing_else_is() {
    let (disk, rows, key) = flipped();
    let store = open(&disk);
    let Err(StoreError::Corrupt(damaged)) = store.get(TABLE, &key) else { panic!("a flipped record was read") };
    let message = damaged.to_string();
    assert!(message.contains("\"many 3\"/\"41\"") && message.contains("checksum"), "{message}");
    assert_eq!(read_all(&store, &rows), std::slice::from_ref(&key));
    for backward in [false, true] {
        let (found, damaged) = scan_all(&store, all(everything(), backward, 500)).unwrap();
        assert_eq!(found.len(), rows.len() - 1, "all but the one");
        assert_eq!(damaged.len(), 1);
        let prefix = Scope::Prefix("many".into());
        let (found, damaged) = scan_all(&store, all(prefix, backward, 7)).unwrap();
        assert_eq!((found.len(), damaged.len()), (299, 1));
        let partition = Scope::Partition { key: key.partition.clone(), from: Bound::Unbounded, to: Bound::Unbounded };
        let (found, damaged) = scan_all(&store, all(partition, backward, 7)).unwrap();
        assert_eq!((found.len(), damaged.len()), (59, 1));
    }
    assert_eq!(store.damage().found(), 1, "it is counted once, however often it is read");
    assert!(covers(&store.damage().recent(), &key));
}

#[test]
fn a_partition_with_damage_does_not_count_until_it_is_healed() {
    let (disk, rows, key) = flipped();
    let partition = bits().partition_of(key.token());
    let store = open(&disk);
    assert!(store.get(TABLE, &key).is_err());
    drop(store);
    disk.0.crash();
    let store = open(&disk);
    let damaged = SyncState::Unsynced(UnsyncedCause::DamagedData);
    assert_eq!(store.partition(PLACEMENT, partition).sync, damaged, "durably, before the error was told");
    assert_eq!(synced_partitions(&store, PLACEMENT).len(), 1, "the other one does");
    clear_damaged(&store);
    assert_healed(&store, &disk.0, &rows);
    copy_again(&store, &rows);
}

#[test]
fn a_write_over_a_damaged_row_is_taken_and_marks_the_partition_in_the_same_write() {
    let (disk, _, key) = flipped();
    let store = open(&disk);
    let outcome = store.apply(client(vec![put(TABLE, key.clone(), at(1), "older than what was there")])).unwrap();
    assert_eq!(outcome, [Outcome::Applied]);
    disk.0.crash();
    let store = open(&disk);
    assert!(store.get(TABLE, &key).unwrap().is_some());
    assert!(!synced_partitions(&store, PLACEMENT).contains(&bits().partition_of(key.token())));
}

#[test]
fn more_damaged_rows_than_a_step_takes_are_cleared_all_the_same() {
    let (disk, rows) = (MemoryDisk::default(), rows());
    fill(&open(&disk), &rows);
    for key in rows.keys() {
        assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, key), 12, 1));
    }
    let store = open(&disk);
    let (found, damaged) = scan_all(&store, all(everything(), false, 100)).unwrap();
    assert_eq!((found.len(), damaged.len()), (0, rows.len()));
    let page = store.scan(&all(everything(), false, 100)).unwrap();
    assert_eq!(page.damaged.len(), 100, "a page is bounded by what it names, too");
    clear_damaged(&store);
    assert_healed(&store, &disk.0, &rows);
}

#[test]
fn a_flipped_leaf_is_found_by_scrub_with_the_rows_it_sums_up() {
    let (disk, rows) = (MemoryDisk::default(), rows());
    fill(&open(&disk), &rows);
    let key = RowKey::of("row 77");
    let leaf = format::leaf(bits(), &key);
    assert!(disk.0.flip(Space::Merkle, &format::leaf_key(TABLE, leaf), 9, 2));
    let store = open(&disk);
    let damaged = observe::scrub(&store, TABLE, 50).unwrap().damaged;
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0].detail.contains("the Merkle leaf says"), "{}", damaged[0]);
    for other in rows.keys() {
        assert_eq!(covers(&damaged, other), format::leaf(bits(), other) == leaf, "{other}");
    }
    assert!(!synced_partitions(&store, PLACEMENT).contains(&bits().partition_of(key.token())));
    assert_eq!(Reading::of(&store, &rows).by_key(), [], "the rows are as good as ever");
    clear_damaged(&store);
    assert_healed(&store, &disk.0, &rows);
}

#[test]
fn a_leaf_without_rows_and_rows_without_a_leaf_are_found_by_scrub() {
    let disk = MemoryDisk::default();
    let rows = rows();
    let store = open(&disk);
    fill(&store, &rows);
    let lost = RowKey::of("row 1");
    let leaf = format::leaf_key(TABLE, format::leaf(bits(), &lost));
    disk.0
        .write(cube_storage::engine::Durability::Synced, &mut |writes| {
            // A row that vanished, and a leaf that did.
            writes.delete(Space::Data, &format::data_key(TABLE, &RowKey::of("row 2")));
            writes.delete(Space::Merkle, &leaf);
        })
        .unwrap();
    let damaged = observe::scrub(&store, TABLE, 50).unwrap().damaged;
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(covers(&damaged, &lost) && covers(&damaged, &RowKey::of("row 2")));
}

#[test]
fn an_index_entry_that_points_nowhere_is_passed_over_and_swept() {
    let disk = MemoryDisk::default();
    let rows = rows();
    let store = open(&disk);
    fill(&store, &rows);
    let stray = format::index_key(TABLE, &RowKey::of("row 1 that never was"));
    let write = |writes: &mut dyn cube_storage::engine::Writes| writes.put(Space::Keys, &stray, &[]);
    disk.0.write(cube_storage::engine::Durability::Synced, &mut { write }).unwrap();
    let (found, damaged) = scan_all(&store, all(Scope::Prefix("row 1".into()), false, 10)).unwrap();
    assert_eq!((found.len(), damaged), (rows.keys().filter(|key| key.partition.starts_with(b"row 1")).count(), vec![]));
    let mut from = None;
    let mut removed = 0;
    loop {
        let step = store.sweep_index_step(TABLE, from.as_ref(), 100).unwrap();
        removed += step.removed;
        match step.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    assert_eq!(removed, 1);
    assert_healed(&store, &disk.0, &rows);
}

#[cfg(feature = "rocks")]
mod files {
    use std::fs;
    use std::path::{Path, PathBuf};

    use std::sync::Arc;

    use cube_storage::engine::{EngineError, Recovery, RocksEngine};

    use super::*;
    use crate::common::disks::{RocksDisk, flush_and_compact};
    use crate::common::random::Random;

    /// A directory with all rows in table files, to be copied and damaged.
    struct Template {
        disk: RocksDisk,
        rows: Rows,
        one_layer: bool,
    }

    /// All rows in one layer of files.
    fn template() -> Template {
        let (disk, rows) = (RocksDisk::new(), rows());
        let engine = disk.engine();
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        fill(&store, &rows);
        flush_and_compact(&engine);
        drop((engine, store));
        Template { disk, rows, one_layer: true }
    }

    /// Every fourth row was written again, so that what it holds is in a file over the one with what it held before.
    fn layered_template() -> Template {
        let Template { disk, mut rows, .. } = template();
        let engine = disk.engine();
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        let mut mutations = Vec::new();
        for (n, (key, record)) in rows.iter_mut().enumerate().filter(|(n, _)| n % 4 == 1) {
            *record = Record::value(at(100_000 + n as u64), format!("newer {n}"));
            mutations.push(put(TABLE, key.clone(), record.version, format!("newer {n}")));
        }
        store.apply(client(mutations)).unwrap();
        engine.flush().unwrap();
        drop((engine, store));
        Template { disk, rows, one_layer: false }
    }

    fn copy_of(template: &Template) -> RocksDisk {
        let disk = RocksDisk::new();
        copy(template.disk.dir.path(), disk.dir.path());
        disk
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let target = to.join(entry.file_name().unwrap());
            if entry.is_dir() { copy(&entry, &target) } else { assert!(fs::copy(&entry, &target).is_ok()) }
        }
    }

    fn blob_files(disk: &RocksDisk) -> Vec<PathBuf> {
        let all = fs::read_dir(disk.dir.path().join("rocks")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "blob")).collect();
        files.sort();
        files
    }

    /// The table files of some key spaces.
    fn table_files(disk: &RocksDisk, spaces: &[Space]) -> Vec<PathBuf> {
        let dir = disk.dir.path().join("rocks");
        let families = Space::ALL.map(Space::name).into_iter().chain(["default"]);
        let db = rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), &dir, families, false).unwrap();
        let of_spaces = |family: &str| spaces.iter().any(|space| space.name() == family);
        let files = db.live_files().unwrap().into_iter().filter(|file| of_spaces(&file.column_family_name));
        let mut files: Vec<_> = files.map(|file| dir.join(file.name.trim_start_matches('/'))).collect();
        files.sort();
        files
    }

    fn flip(path: &Path, at: u64, bit: u64) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at as usize] ^= 1 << bit;
        fs::write(path, bytes).unwrap();
    }

    /// Reads a damaged directory in every way, restarts, heals it, and reads it again. How much could not be read; nothing
    /// when the node refused to start.
    fn read_heal_read(disk: &RocksDisk, template: &Template) -> Option<usize> {
        let rows = &template.rows;
        let engine = match RocksEngine::open(disk.dir.path(), &disk.options) {
            Ok(engine) => Arc::new(engine),
            Err(EngineError::Unusable { detail }) => {
                println!("refused: {detail}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let store = match Store::open(Arc::<RocksEngine>::clone(&engine) as _, common::identity(), Default::default()) {
            Ok(store) => store,
            Err(StoreError::Engine(EngineError::Unusable { .. })) => return None,
            Err(error) => panic!("{error}"),
        };
        let unreadable = read_all_of(&Reading { one_layer: template.one_layer, ..Reading::of(&store, rows) });
        let marked = synced_partitions(&store, PLACEMENT);
        drop((engine, store));
        // Opening replaces what cannot be read, so that nothing comes across it again.
        let engine = disk.engine();
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        assert_eq!(engine.recovery(), Recovery::Complete, "the log is whole");
        let counts = synced_partitions(&store, PLACEMENT);
        assert!(counts.iter().all(|partition| marked.contains(partition)), "a partition counts again by itself");
        assert_found_by_prefix(&store, rows);
        clear_damaged(&store);
        assert_healed(&store, engine.as_ref(), rows);
        copy_again(&store, rows);
        flush_and_compact(&engine);
        assert_healed(&store, engine.as_ref(), rows);
        drop((engine, store));
        let engine = disk.engine();
        assert_eq!((engine.recovery(), engine.lost()), (Recovery::Complete, &[][..]));
        let store = open_store(Arc::<RocksEngine>::clone(&engine));
        assert_healed(&store, engine.as_ref(), rows);
        assert_eq!(synced_partitions(&store, PLACEMENT).len(), 2);
        assert_eq!(store.apply(client(vec![put(TABLE, RowKey::of("new"), at(1), "v")])), Ok(vec![Outcome::Applied]));
        Some(unreadable.len())
    }

    /// The rows of partitions that count are all found by prefix, and nothing is named as damaged any more.
    fn assert_found_by_prefix(store: &Store, rows: &Rows) {
        let synced = synced_partitions(store, PLACEMENT);
        let (found, damaged) = scan_all(store, all(Scope::Prefix("".into()), false, 1_000)).unwrap();
        assert_eq!(damaged, []);
        let found: BTreeMap<RowKey, Record> = found.into_iter().map(|row| (row.key, row.record)).collect();
        for (key, record) in rows {
            let counts = synced.contains(&bits().partition_of(key.token()));
            match found.get(key) {
                Some(found) => assert_eq!(found, record),
                None => assert!(!counts, "{key} is not found by prefix"),
            }
        }
    }

    /// Which byte to flip, of so many.
    type Place = fn(&mut Random, u64) -> u64;

    fn anywhere(random: &mut Random, len: u64) -> u64 {
        random.below(len)
    }

    /// RocksDB's footer, which names all else.
    fn in_the_footer(random: &mut Random, len: u64) -> u64 {
        len - 1 - random.below(53)
    }

    /// The properties of the file, and the list of its blocks that are no rows.
    fn before_the_footer(random: &mut Random, len: u64) -> u64 {
        len - 54 - random.below(1_300)
    }

    /// Flips of each kind; more with `CUBE_FLIPS`, and others with `CUBE_FLIP_SEED`.
    fn seeds(kind: u64, flips: u64) -> std::ops::Range<u64> {
        let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
        let first = kind * 1_000_000 + number("CUBE_FLIP_SEED").unwrap_or_default();
        first..first + number("CUBE_FLIPS").unwrap_or(flips)
    }

    const AT_A_TIME: usize = 4;

    /// Flips bits of such files, one in each copy of a directory. How much could not be read after each.
    fn flip_at_random(
        template: &Template,
        files: impl Fn(&RocksDisk) -> Vec<PathBuf> + Sync,
        place: Place,
        seeds: std::ops::Range<u64>,
    ) -> Vec<Option<usize>> {
        let flip_one = |seed| {
            let (disk, mut random) = (copy_of(template), Random(seed));
            let files = files(&disk);
            let file = &files[random.below(files.len() as u64) as usize];
            let (place, bit) = (place(&mut random, fs::metadata(file).unwrap().len()), random.below(8));
            let what = format!("seed {seed}: bit {bit} of byte {place} of {}", file.display());
            flip(file, place, bit);
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_heal_read(&disk, template)));
            read.unwrap_or_else(|_| panic!("{what}"))
        };
        // RocksDB waits for a second after every compaction that came across the damage: some at a time.
        std::thread::scope(|threads| {
            let flip_some = |first| seeds.clone().skip(first).step_by(AT_A_TIME).map(flip_one).collect::<Vec<_>>();
            let running: Vec<_> = (0..AT_A_TIME).map(|first| threads.spawn(move || flip_some(first))).collect();
            running.into_iter().flat_map(|some| some.join().unwrap()).collect()
        })
    }

    fn some_rows_were_hit(unreadable: &[Option<usize>]) -> bool {
        unreadable.iter().flatten().any(|rows| *rows > 0)
    }

    /// Only what a node notes of itself keeps it from starting.
    fn all_opened(unreadable: &[Option<usize>]) -> bool {
        unreadable.iter().all(Option::is_some)
    }

    #[test]
    fn a_flipped_bit_of_a_table_file_is_never_a_value_and_costs_only_what_it_hits() {
        let data = |disk: &RocksDisk| table_files(disk, &[Space::Data]);
        let unreadable = flip_at_random(&template(), data, anywhere, seeds(1, 24));
        assert!(all_opened(&unreadable) && some_rows_were_hit(&unreadable), "{unreadable:?}");
    }

    #[test]
    fn a_flipped_bit_of_one_table_file_over_another_is_never_an_older_value() {
        let data = |disk: &RocksDisk| table_files(disk, &[Space::Data]);
        let unreadable = flip_at_random(&layered_template(), data, anywhere, seeds(2, 16));
        assert!(all_opened(&unreadable) && some_rows_were_hit(&unreadable), "{unreadable:?}");
    }

    #[test]
    fn a_flipped_bit_of_index_or_leaves_is_never_a_wrong_answer_and_costs_only_what_it_hits() {
        let others = |disk: &RocksDisk| table_files(disk, &[Space::Keys, Space::Merkle]);
        let unreadable = flip_at_random(&template(), others, anywhere, seeds(3, 16));
        assert!(unreadable.iter().all(|rows| *rows == Some(0)), "the rows are as good as ever: {unreadable:?}");
    }

    #[test]
    fn a_flipped_bit_of_what_describes_a_table_file_is_never_a_wrong_answer() {
        let files = |disk: &RocksDisk| table_files(disk, &[Space::Data, Space::Keys, Space::Merkle]);
        for (kind, place) in [(4, in_the_footer as Place), (5, before_the_footer)] {
            for template in [template(), layered_template()] {
                assert!(all_opened(&flip_at_random(&template, files, place, seeds(kind, 8))));
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_a_blob_file_is_never_a_value_and_costs_only_what_it_hits() {
        let unreadable = flip_at_random(&template(), blob_files, anywhere, seeds(6, 12));
        assert!(all_opened(&unreadable) && some_rows_were_hit(&unreadable), "{unreadable:?}");
    }

    #[test]
    fn a_flipped_bit_of_the_notes_is_never_another_note() {
        let notes = |disk: &RocksDisk| table_files(disk, &[Space::Meta]);
        let unreadable = flip_at_random(&layered_template(), notes, anywhere, seeds(7, 8));
        assert!(unreadable.iter().all(|rows| matches!(rows, None | Some(0))), "{unreadable:?}");
    }

    #[test]
    fn a_node_that_cannot_read_its_notes_does_not_start_and_says_what_to_do() {
        let template = template();
        let file = table_files(&template.disk, &[Space::Meta]).pop().unwrap();
        flip(&file, 20, 1);
        let refused = |disk: &RocksDisk| {
            let engine = disk.open()?;
            Store::open(engine, common::identity(), Default::default()).map(drop)
        };
        for _ in 0..3 {
            let Err(error) = refused(&template.disk) else { panic!("opened without its notes") };
            assert!(matches!(error, StoreError::Engine(EngineError::Unusable { .. })), "{error}");
            assert!(error.to_string().contains("empty data directory"), "{error}");
        }
    }
}

#[test]
fn purging_marks_and_reports_a_damaged_row_and_goes_on_behind_it() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    mark_all_synced(&store, PLACEMENT);
    let key = RowKey::of("k");
    let partition = bits().partition_of(key.token());
    store.apply(client(vec![put(TABLE, key.clone(), at(1), "v")])).unwrap();
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &key), 3, 1));
    for _ in 0..2 {
        let step = store.purge_step(TABLE, partition, None, 10).unwrap();
        assert_eq!((step.examined, step.removed, step.next), (1, 0, None));
    }
    assert!(covers(&store.damage().recent(), &key));
    assert_eq!(store.damage().found(), 1, "once");
    drop(store);
    let damaged = SyncState::Unsynced(UnsyncedCause::DamagedData);
    assert_eq!(open(&disk).partition(PLACEMENT, partition).sync, damaged);
}

#[test]
fn clearing_reports_the_damaged_rows_that_it_removes() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    let key = RowKey::of("k");
    store.apply(client(vec![put(TABLE, key.clone(), at(1), "v")])).unwrap();
    assert!(disk.0.flip(Space::Data, &format::data_key(TABLE, &key), 3, 1));
    store.clear_step(TABLE, bits().partition_of(key.token()), 10).unwrap();
    assert!(covers(&store.damage().recent(), &key));
}

#[test]
fn sweeping_takes_no_entry_for_a_stray_when_the_disk_fails() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.put_table(TABLE, TableOptions::default()).unwrap();
    store.apply(client(vec![put(TABLE, RowKey::of("k"), at(1), "v")])).unwrap();
    let failure = cube_storage::engine::EngineError::Io { detail: "pulled".into() };
    disk.0.fail_reads_with(failure.clone());
    assert_eq!(store.sweep_index_step(TABLE, None, 10), Err(StoreError::Engine(failure)));
}
