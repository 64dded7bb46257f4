//! What the tests of the hint log share.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/held.rs"]
mod held;

use std::path::Path;
use std::sync::Arc;

use cube_storage::files::{Access, Entry, File, Files, FilesError, RealFiles, SimulatedFiles};
use cube_storage::hints::{Hint, HintLimits, HintLog, HintStore, OpenedHints, Position, ReadLimits, Stored};
use cube_storage::model::{Hlc, NodeId, Record, RowKey, TableId, Version};

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use self::cases::cases;
#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use self::held::HeldSyncs;

pub(crate) const TARGET: &str = "node-3";
pub(crate) const ROOT: &str = "hints";
pub(crate) const ALL: ReadLimits = ReadLimits { records: usize::MAX, bytes: usize::MAX };

/// A hint for a row of table 1, told apart by `id`, made at `id` milliseconds.
pub(crate) fn hint(key: &str, id: u64) -> Hint {
    let version = Version::new(Hlc::new(id, 0), NodeId(1));
    let record = Record::value(version, format!("value {id}"));
    Hint { table: TableId(1), key: RowKey::of(key.to_owned()), record, created_ms: id, only_copy: false }
}

pub(crate) fn only_copy(key: &str, id: u64) -> Hint {
    Hint { only_copy: true, ..hint(key, id) }
}

/// The `id` that a hint was made with.
pub(crate) fn id(hint: &Hint) -> u64 {
    hint.record.version.hlc.millis()
}

pub(crate) fn open(files: &Arc<dyn Files>, limits: HintLimits) -> HintStore {
    let OpenedHints { store, failed, foreign } = HintStore::open(files.clone(), Path::new(ROOT), limits).unwrap();
    assert!(failed.is_empty() && foreign.is_empty(), "{failed:?} {foreign:?}");
    store
}

pub(crate) fn open_log(files: &Arc<dyn Files>) -> Arc<HintLog> {
    open(files, HintLimits::default()).log(TARGET).unwrap()
}

/// Runs a test on a real and on a simulated file system.
pub(crate) fn on_both(test: impl Fn(Arc<dyn Files>)) {
    let folder = tempfile::tempdir().unwrap();
    test(Arc::new(RealFiles::new(folder.path())));
    test(Arc::new(SimulatedFiles::new()));
}

/// Appends, all of it let in, and syncs.
pub(crate) fn keep(log: &HintLog, hints: &[Hint]) {
    let appended = log.append(hints).unwrap();
    assert_eq!(appended.refused, [], "all are let in");
    log.sync(appended.ticket).unwrap();
}

/// Everything that is to be replayed, in small reads.
pub(crate) fn read_all(log: &HintLog) -> (Vec<Stored>, Position) {
    let mut from = log.start();
    let mut all = Vec::new();
    loop {
        let batch = log.read(from, ReadLimits { records: 7, bytes: 2000 }).unwrap();
        from = batch.next;
        if batch.hints.is_empty() {
            return (all, from);
        }
        all.extend(batch.hints);
    }
}

pub(crate) fn hints_of(log: &HintLog) -> Vec<Hint> {
    read_all(log).0.into_iter().map(|stored| stored.hint).collect()
}

pub(crate) fn ids_of(log: &HintLog) -> Vec<u64> {
    hints_of(log).iter().map(id).collect()
}

pub(crate) fn confirm_all(log: &HintLog) {
    for damage in log.damage() {
        log.confirm_damage(&damage);
    }
}

/// The names of the files of the target's log.
pub(crate) fn file_names(files: &dyn Files) -> Vec<String> {
    match files.list(&Path::new(ROOT).join(TARGET)) {
        Ok(entries) => entries.into_iter().map(|Entry { name, .. }| name).collect(),
        Err(FilesError::NotFound { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// The disk with the sync taken out: the mutant that every durability test must catch.
#[derive(Debug)]
pub(crate) struct NoSync(pub(crate) Arc<dyn Files>);

#[derive(Debug)]
struct NoSyncFile(Arc<dyn File>);

impl Files for NoSync {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FilesError> {
        Ok(Arc::new(NoSyncFile(self.0.create(path)?)))
    }
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FilesError> {
        Ok(Arc::new(NoSyncFile(self.0.open(path, access)?)))
    }
    fn create_folder(&self, path: &Path) -> Result<bool, FilesError> {
        self.0.create_folder(path)
    }
    fn list(&self, folder: &Path) -> Result<Vec<Entry>, FilesError> {
        self.0.list(folder)
    }
    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        self.0.remove(path)
    }
    fn remove_folder(&self, path: &Path) -> Result<(), FilesError> {
        self.0.remove_folder(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FilesError> {
        self.0.rename(from, to)
    }
    fn sync_folder(&self, folder: &Path) -> Result<(), FilesError> {
        self.0.sync_folder(folder)
    }
}

impl File for NoSyncFile {
    fn append(&self, bytes: &[u8]) -> Result<(), FilesError> {
        self.0.append(bytes)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FilesError> {
        self.0.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FilesError> {
        self.0.read_at(offset, len)
    }
    fn sync(&self) -> Result<(), FilesError> {
        Ok(())
    }
    fn len(&self) -> Result<u64, FilesError> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> Result<(), FilesError> {
        self.0.truncate(len)
    }
    fn preallocate(&self, len: u64) -> Result<(), FilesError> {
        self.0.preallocate(len)
    }
}
