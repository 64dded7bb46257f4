//! An open file of a simulated disk: every call asks first whether the process that opened it is still alive.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::{Access, File, FilesError};
use super::{Shared, SimulatedFiles, io};

pub(super) struct SimulatedFile {
    pub(super) files: SimulatedFiles,
    pub(super) crashes: u64,
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    pub(super) access: Access,
    /// Keeps the bytes of a file that is removed while it is open.
    pub(super) _open: Arc<()>,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedFile({})", self.path.display())
    }
}

impl SimulatedFile {
    fn with<T>(
        &self,
        operation: &'static str,
        run: impl FnOnce(&mut Shared) -> Result<T, FilesError>,
    ) -> Result<T, FilesError> {
        let mut shared = self.files.shared.lock();
        if shared.crashes != self.crashes {
            return Err(io(operation, &self.path, "the process that opened the file is gone"));
        }
        run(&mut shared)
    }

    fn write(&self, operation: &'static str, offset: Option<u64>, bytes: &[u8]) -> Result<(), FilesError> {
        self.with(operation, |shared| {
            if self.access == Access::Read {
                return Err(FilesError::Denied { path: self.path.clone() });
            }
            shared.check_power(operation, &self.path)?;
            let free = shared.free_bytes();
            let inode = shared.disk.inode_mut(self.inode);
            let offset = offset.unwrap_or(inode.len());
            let growth = (offset + bytes.len() as u64).saturating_sub(inode.len());
            if growth <= free {
                inode.write(offset, bytes);
                return Ok(());
            }
            // What fits is written before the disk says that it is full.
            let fits = (bytes.len() as u64).saturating_sub(growth - free) as usize;
            if let Some(part) = bytes.get(..fits).filter(|part| !part.is_empty()) {
                inode.write(offset, part);
            }
            Err(FilesError::NoSpace { path: self.path.clone() })
        })
    }

    fn resize(&self, operation: &'static str, len: u64, grow: bool) -> Result<(), FilesError> {
        self.with(operation, |shared| {
            if self.access == Access::Read {
                return Err(FilesError::Denied { path: self.path.clone() });
            }
            shared.check_power(operation, &self.path)?;
            let free = shared.free_bytes();
            let inode = shared.disk.inode_mut(self.inode);
            if grow && len.saturating_sub(inode.len()) > free {
                return Err(FilesError::NoSpace { path: self.path.clone() });
            }
            if (grow && len > inode.len()) || (!grow && len < inode.len()) {
                inode.resize(len);
            }
            Ok(())
        })
    }
}

impl File for SimulatedFile {
    fn append(&self, bytes: &[u8]) -> Result<(), FilesError> {
        self.write("append", None, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FilesError> {
        self.write("write", Some(offset), bytes)
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FilesError> {
        self.with("read", |shared| {
            let end = offset.saturating_add(len as u64);
            let touched =
                |(path, bad): &(PathBuf, Range<u64>)| *path == self.path && bad.start < end && offset < bad.end;
            if shared.unreadable.iter().any(touched) {
                return Err(io("read", &self.path, "simulated bad sector"));
            }
            Ok(shared.disk.inode_mut(self.inode).read(offset, len))
        })
    }

    fn sync(&self) -> Result<(), FilesError> {
        self.with("sync", |shared| {
            shared.check_power("sync", &self.path)?;
            if shared.sync_fails() {
                shared.disk.give_up(self.inode);
                return Err(io("sync", &self.path, "simulated failure"));
            }
            shared.disk.inode_mut(self.inode).sync();
            Ok(())
        })
    }

    fn len(&self) -> Result<u64, FilesError> {
        self.with("stat", |shared| Ok(shared.disk.inode_mut(self.inode).len()))
    }

    fn truncate(&self, len: u64) -> Result<(), FilesError> {
        self.resize("truncate", len, false)
    }

    fn preallocate(&self, len: u64) -> Result<(), FilesError> {
        self.resize("preallocate", len, true)
    }
}
