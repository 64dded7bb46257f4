//! Files of format 1, as committed: they keep opening, and this build still writes them byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod hints_common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::dirty::{Cause, DirtyRange, DirtyStore};
use cube_storage::files::{Files, RealFiles};
use cube_storage::hints::{Hint, HintLimits};
use cube_storage::merkle::LeafId;
use cube_storage::model::{Expiry, Hlc, NodeId, PartitionId, Record, RowKey, TableId, Version};
use hints_common::*;

/// Set by whoever wants the fixture of a new format written.
const WRITE: &str = "CUBE_WRITE_FIXTURES";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hints-v1")
}

fn hints() -> Vec<Hint> {
    let version = |n: u64| Version::new(Hlc::new(1_700_000_000_000 + n, 3), NodeId(7));
    let hint = |n: u64, key, record| Hint {
        table: TableId(5),
        key,
        record,
        created_ms: 1_700_000_000_100 + n,
        only_copy: false,
    };
    vec![
        hint(0, RowKey::of("acknowledged"), Record::value(version(0), "gone")),
        hint(1, RowKey::of("user:alice"), Record::value(version(1), "Alice")),
        hint(2, RowKey::with_sort("node-9", &b"sandbox\x00\xff"[..]), Record::tombstone(version(2))),
        hint(3, RowKey::of("user:bob"), Record::expiring(version(3), "Bob", Expiry(1_700_000_060_000))),
        Hint { only_copy: true, ..hint(4, RowKey::of(&b"\0raw\xc7"[..]), Record::value(version(4), vec![0xc7; 700])) },
        hint(5, RowKey::of("user:alice"), Record::value(version(5), "")),
    ]
}

fn marks() -> Vec<(DirtyRange, Version)> {
    let version = |n: u64| Version::new(Hlc::new(1_700_000_000_000 + n, 0), NodeId(2));
    vec![
        (DirtyRange::Table(TableId(9)), version(4)),
        (DirtyRange::Partition(TableId(5), PartitionId(255)), version(3)),
        (DirtyRange::Leaf(TableId(5), LeafId(0)), version(1)),
        (DirtyRange::Leaf(TableId(5), LeafId(0xf_0001)), version(2)),
    ]
}

fn write_to(folder: &Path) {
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(folder));
    let limits = HintLimits { segment_bytes: 1_600, ..HintLimits::default() };
    let log = open(&files, limits).log(TARGET).unwrap();
    for hint in hints() {
        keep(&log, &[hint]);
    }
    log.acknowledge(read_all(&log).0[0].after).unwrap();

    let store = DirtyStore::open(files, Path::new("dirty"), Version::ZERO).unwrap().store;
    let target = store.target(TARGET).unwrap();
    target.mark(TableId(5), LeafId(1), Version::ZERO, Cause::Cap);
    target.sync().unwrap();
    let cleared = target.marks(None, 1)[0];
    assert!(target.clear(cleared.range, cleared.generation));
    for (range, version) in marks() {
        target.mark_range(range, version, Cause::Cap);
        target.sync().unwrap();
    }
}

fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn hints_and_marks_of_format_1_are_still_read() {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files_below(&fixture()) {
        let copy = folder.path().join(path.strip_prefix(fixture()).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(copy, bytes).unwrap();
    }
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(folder.path()));
    let log = open_log(&files);
    assert_eq!((hints_of(&log), log.damage()), (hints()[1..].to_vec(), vec![]));
    assert_eq!((log.totals().keys, log.totals().segments), (4, 3));
    keep(&log, &hints()[..1]);
    log.acknowledge(read_all(&log).1).unwrap();
    assert_eq!(file_names(&*files), [""; 0]);

    let store = DirtyStore::open(files, Path::new("dirty"), Version::ZERO).unwrap().store;
    let found: Vec<_> = store.target(TARGET).unwrap().marks(None, 10).iter().map(|m| (m.range, m.version)).collect();
    assert_eq!(found, marks());
}

#[test]
fn hints_and_marks_are_still_written_as_format_1() {
    let folder = tempfile::tempdir().unwrap();
    write_to(folder.path());
    let relative = |root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let below = |(path, bytes): (PathBuf, Vec<u8>)| (path.strip_prefix(root).unwrap().to_owned(), bytes);
        files_below(root).into_iter().map(below).collect()
    };
    let (written, committed) = (relative(folder.path()), relative(&fixture()));
    assert_eq!(written.len(), committed.len());
    for (written, committed) in written.into_iter().zip(committed) {
        assert!(written == committed, "{} has changed: a new format needs a new version", written.0.display());
    }
}

/// Makes the fixture of a new format; those that are committed are never written again.
#[test]
fn write_the_fixture() {
    if std::env::var_os(WRITE).is_none() || fixture().exists() {
        return;
    }
    fs::create_dir(fixture()).expect("the folder of fixtures can be written");
    write_to(&fixture());
}
