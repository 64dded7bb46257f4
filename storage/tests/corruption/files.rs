//! Flipped bits in the files of RocksDB.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::engine::{Engine, EngineError, Recovery, RocksEngine, Space};
use cube_storage::model::{Outcome, Record, RowKey};
use cube_storage::scan::Scope;
use cube_storage::{Store, StoreError};

use crate::common::disks::{Disk, RocksDisk, flush_and_compact};
use crate::common::random::Random;
use crate::common::{at, bits, client, open_store, put, synced_partitions};
use crate::reading::*;

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
    let store =
        match Store::open(Arc::<RocksEngine>::clone(&engine) as _, crate::common::identity(), Default::default()) {
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

/// Flips of each kind; more with `CUBE_FLIPS`, and others with `CUBE_FLIP_SEED` or whenever fresh cases are asked for.
fn seeds(kind: u64, flips: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let first = kind * 1_000_000 + number("CUBE_FLIP_SEED").unwrap_or_else(|| crate::common::seed(0) % 900_000);
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
        Store::open(engine, crate::common::identity(), Default::default()).map(drop)
    };
    for _ in 0..3 {
        let Err(error) = refused(&template.disk) else { panic!("opened without its notes") };
        assert!(matches!(error, StoreError::Engine(EngineError::Unusable { .. })), "{error}");
        assert!(error.to_string().contains("empty data directory"), "{error}");
    }
}
