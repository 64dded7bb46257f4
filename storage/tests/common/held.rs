//! Files whose syncs are counted, and held back while a test wants it so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cube_storage::files::{Access, Entry, File, Files, FilesError};
use parking_lot::{Condvar, Mutex};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Files over others.
#[derive(Debug)]
pub(crate) struct HeldSyncs {
    files: Arc<dyn Files>,
    syncs: Arc<Syncs>,
}

/// The syncs of all its files.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_held: bool,
    begun: usize,
}

impl Syncs {
    /// From now on no sync returns.
    pub(crate) fn hold(&self) {
        self.state.lock().is_held = true;
    }

    pub(crate) fn let_go(&self) {
        self.state.lock().is_held = false;
        self.changed.notify_all();
    }

    /// How many have begun.
    pub(crate) fn begun(&self) -> usize {
        self.state.lock().begun
    }

    /// Waits until more than so many have begun.
    pub(crate) fn wait_past(&self, begun: usize) {
        let mut state = self.state.lock();
        while state.begun <= begun {
            let waited = self.changed.wait_for(&mut state, PATIENCE);
            assert!(!waited.timed_out(), "no sync was begun");
        }
    }

    fn begin(&self) {
        let mut state = self.state.lock();
        state.begun += 1;
        self.changed.notify_all();
        while state.is_held {
            let waited = self.changed.wait_for(&mut state, PATIENCE);
            assert!(!waited.timed_out(), "nobody let the syncs go");
        }
    }
}

impl HeldSyncs {
    pub(crate) fn over(files: Arc<dyn Files>) -> (Arc<dyn Files>, Arc<Syncs>) {
        let syncs = Arc::new(Syncs::default());
        (Arc::new(Self { files, syncs: Arc::clone(&syncs) }), syncs)
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HeldFile { file, syncs: Arc::clone(&self.syncs) })
    }
}

impl Files for HeldSyncs {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FilesError> {
        Ok(self.file(self.files.create(path)?))
    }
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FilesError> {
        Ok(self.file(self.files.open(path, access)?))
    }
    fn create_folder(&self, path: &Path) -> Result<bool, FilesError> {
        self.files.create_folder(path)
    }
    fn list(&self, folder: &Path) -> Result<Vec<Entry>, FilesError> {
        self.files.list(folder)
    }
    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        self.files.remove(path)
    }
    fn remove_folder(&self, path: &Path) -> Result<(), FilesError> {
        self.files.remove_folder(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FilesError> {
        self.files.rename(from, to)
    }
    fn sync_folder(&self, folder: &Path) -> Result<(), FilesError> {
        self.files.sync_folder(folder)
    }
}

#[derive(Debug)]
struct HeldFile {
    file: Arc<dyn File>,
    syncs: Arc<Syncs>,
}

impl File for HeldFile {
    fn append(&self, bytes: &[u8]) -> Result<(), FilesError> {
        self.file.append(bytes)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FilesError> {
        self.file.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FilesError> {
        self.file.read_at(offset, len)
    }
    fn sync(&self) -> Result<(), FilesError> {
        self.syncs.begin();
        self.file.sync()
    }
    fn len(&self) -> Result<u64, FilesError> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> Result<(), FilesError> {
        self.file.truncate(len)
    }
    fn preallocate(&self, len: u64) -> Result<(), FilesError> {
        self.file.preallocate(len)
    }
}
