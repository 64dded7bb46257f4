//! Files in memory, on a disk that does what disks do at the worst moment.
//!
//! Everything is kept twice: as the process sees it, and as the medium holds it. A sync carries one file, or the names
//! of one folder, from the first to the second; [`SimulatedFiles::crash`] throws the first away, except for a part of
//! what was under way that a seed chooses. Clones share the disk, as a disk outlives the process that wrote it. The
//! same calls with the same seeds give the same bytes.

mod disk;
mod file;
mod inode;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::disk::{Disk, Node};
use self::file::SimulatedFile;
use super::{Access, Entry, File, Files, FilesError};

/// A simulated disk.
#[derive(Clone, Default)]
pub struct SimulatedFiles {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    disk: Disk,
    /// How often the machine went down: handles from before are of no use after.
    crashes: u64,
    capacity_bytes: Option<u64>,
    failing_syncs: u32,
    /// How many more changes the disk takes before the power goes.
    changes_left: Option<u64>,
    unwritable: BTreeSet<PathBuf>,
    unreadable: Vec<(PathBuf, Range<u64>)>,
}

impl fmt::Debug for SimulatedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedFiles")
    }
}

impl SimulatedFiles {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loss of power. What was not synced is gone, but for a part that the seed chooses: some of the writes, the first
    /// bytes of a torn one, garbage where a file was being extended; some of the changes of names, in their order.
    /// Files that are open belong to the process that died, and fail.
    pub fn crash(&self, seed: u64) {
        let mut shared = self.shared.lock();
        shared.crashes += 1;
        shared.changes_left = None;
        shared.disk.crash(seed);
    }

    /// Makes the power go in the middle of things: after `changes` more writes, syncs and changes of names, each fails
    /// and changes nothing, until [`SimulatedFiles::crash`] says what is left.
    pub fn fail_after(&self, changes: u64) {
        self.shared.lock().changes_left = Some(changes);
    }

    /// Lets all files together hold this many bytes; `None` for as many as memory takes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.lock().capacity_bytes = bytes;
    }

    /// Bytes that all files together hold.
    pub fn used_bytes(&self) -> u64 {
        self.shared.lock().disk.used_bytes()
    }

    /// Makes the next `count` syncs fail. What they were to make durable is given up, as the page cache does it: some
    /// of it has reached the medium and some has not, and no later sync will try again.
    pub fn fail_syncs(&self, count: u32) {
        self.shared.lock().failing_syncs = count;
    }

    /// Flips one bit of a file, on the medium too. Whether there is such a byte.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        self.shared.lock().disk.file_mut(path).is_some_and(|inode| inode.flip(offset, bit))
    }

    /// Cuts a file off behind the back of who wrote it. Whether it was longer.
    pub fn cut(&self, path: &Path, len: u64) -> bool {
        self.shared.lock().disk.file_mut(path).is_some_and(|inode| inode.cut(len))
    }

    /// Overwrites bytes of a file behind the back of who wrote it. Whether there are such bytes.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> bool {
        self.shared.lock().disk.file_mut(path).is_some_and(|inode| inode.overwrite(offset, bytes))
    }

    /// Makes every read that touches these bytes of a file fail.
    pub fn fail_reads(&self, path: &Path, bytes: Range<u64>) {
        self.shared.lock().unreadable.push((path.to_owned(), bytes));
    }

    /// Ends [`SimulatedFiles::fail_reads`].
    pub fn heal_reads(&self) {
        self.shared.lock().unreadable.clear();
    }

    /// Takes, or gives back, the right to change the names in a folder.
    pub fn set_unwritable(&self, folder: &Path, unwritable: bool) {
        let mut shared = self.shared.lock();
        if unwritable {
            shared.unwritable.insert(folder.to_owned());
        } else {
            shared.unwritable.remove(folder);
        }
    }

    fn handle(&self, shared: &mut Shared, path: &Path, inode: u64, access: Access) -> Arc<dyn File> {
        let (files, crashes, path) = (self.clone(), shared.crashes, path.to_owned());
        let open = shared.disk.inode_mut(inode).handle();
        Arc::new(SimulatedFile { files, crashes, path, inode, access, _open: open })
    }
}

fn check_path(path: &Path) -> Result<(), FilesError> {
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(())
    } else {
        Err(FilesError::Outside { path: path.to_owned() })
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn io(operation: &'static str, path: &Path, detail: &str) -> FilesError {
    FilesError::Io { operation, path: path.to_owned(), detail: detail.to_owned() }
}

impl Shared {
    /// Whether names may change beside `path`.
    fn check_change(&mut self, path: &Path) -> Result<(), FilesError> {
        check_path(path)?;
        self.check_power("change names", path)?;
        let folder = parent(path);
        if self.disk.node(folder) != Some(Node::Folder) {
            return Err(FilesError::NotFound { path: path.to_owned() });
        }
        if self.unwritable.contains(folder) {
            return Err(FilesError::Denied { path: path.to_owned() });
        }
        Ok(())
    }

    /// Whether the disk takes one more change.
    fn check_power(&mut self, operation: &'static str, path: &Path) -> Result<(), FilesError> {
        match &mut self.changes_left {
            Some(0) => return Err(io(operation, path, "the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// Whether a sync is one of those that fail.
    fn sync_fails(&mut self) -> bool {
        let fails = self.failing_syncs > 0;
        self.failing_syncs = self.failing_syncs.saturating_sub(1);
        fails
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.disk.used_bytes()))
    }
}

impl Files for SimulatedFiles {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FilesError> {
        let mut shared = self.shared.lock();
        shared.check_change(path)?;
        if shared.disk.node(path).is_some() {
            return Err(FilesError::Exists { path: path.to_owned() });
        }
        let inode = shared.disk.create(path);
        Ok(self.handle(&mut shared, path, inode, Access::Write))
    }

    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FilesError> {
        check_path(path)?;
        let mut shared = self.shared.lock();
        match shared.disk.node(path) {
            Some(Node::File(inode)) => Ok(self.handle(&mut shared, path, inode, access)),
            Some(Node::Folder) => Err(io("open", path, "is a folder")),
            None => Err(FilesError::NotFound { path: path.to_owned() }),
        }
    }

    fn create_folder(&self, path: &Path) -> Result<bool, FilesError> {
        let mut shared = self.shared.lock();
        match shared.disk.node(path) {
            Some(Node::Folder) => return Ok(false),
            Some(Node::File(_)) => return Err(FilesError::Exists { path: path.to_owned() }),
            None => shared.check_change(path)?,
        }
        shared.disk.rename_nodes(parent(path), vec![(path.to_owned(), Some(Node::Folder))]);
        Ok(true)
    }

    fn list(&self, folder: &Path) -> Result<Vec<Entry>, FilesError> {
        check_path(folder)?;
        let shared = self.shared.lock();
        if shared.disk.node(folder) != Some(Node::Folder) {
            return Err(FilesError::NotFound { path: folder.to_owned() });
        }
        Ok(shared.disk.list(folder))
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        let mut shared = self.shared.lock();
        shared.check_change(path)?;
        match shared.disk.node(path) {
            Some(Node::File(_)) => shared.disk.rename_nodes(parent(path), vec![(path.to_owned(), None)]),
            Some(Node::Folder) => return Err(io("remove", path, "is a folder")),
            None => return Err(FilesError::NotFound { path: path.to_owned() }),
        }
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> Result<(), FilesError> {
        let mut shared = self.shared.lock();
        shared.check_change(path)?;
        if shared.disk.node(path) != Some(Node::Folder) {
            return Err(FilesError::NotFound { path: path.to_owned() });
        }
        if !shared.disk.list(path).is_empty() {
            return Err(io("remove folder", path, "is not empty"));
        }
        shared.disk.rename_nodes(parent(path), vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FilesError> {
        let mut shared = self.shared.lock();
        shared.check_change(to)?;
        if parent(from) != parent(to) {
            return Err(io("rename", from, "leads to another folder"));
        }
        match shared.disk.node(from) {
            Some(node @ Node::File(_)) => {
                let change = vec![(from.to_owned(), None), (to.to_owned(), Some(node))];
                shared.disk.rename_nodes(parent(from), change);
                Ok(())
            }
            Some(Node::Folder) => Err(io("rename", from, "is a folder")),
            None => Err(FilesError::NotFound { path: from.to_owned() }),
        }
    }

    fn sync_folder(&self, folder: &Path) -> Result<(), FilesError> {
        check_path(folder)?;
        let mut shared = self.shared.lock();
        if shared.disk.node(folder) != Some(Node::Folder) {
            return Err(FilesError::NotFound { path: folder.to_owned() });
        }
        shared.check_power("sync folder", folder)?;
        if shared.sync_fails() {
            return Err(io("sync folder", folder, "simulated failure"));
        }
        shared.disk.sync_folder(folder);
        Ok(())
    }
}
