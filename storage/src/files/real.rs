//! Files on a real file system, below one folder.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::{Access, Entry, File, Files, FilesError};

/// Bytes of zeros written at once where a file system cannot set space aside: large enough to be quick, small enough
/// to be of no weight in memory.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The files below one folder, which exists.
#[derive(Clone, Debug)]
pub struct RealFiles {
    root: PathBuf,
}

impl RealFiles {
    /// The files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn full(&self, path: &Path) -> Result<PathBuf, FilesError> {
        if path.components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.root.join(path))
        } else {
            Err(FilesError::Outside { path: path.to_owned() })
        }
    }
}

fn failure(operation: &'static str, path: &Path, error: &io::Error) -> FilesError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => FilesError::NotFound { path },
        io::ErrorKind::AlreadyExists => FilesError::Exists { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FilesError::NoSpace { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FilesError::Denied { path },
        _ => FilesError::Io { operation, path, detail: error.to_string() },
    }
}

impl Files for RealFiles {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FilesError> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(self.full(path)?);
        let file = file.map_err(|e| failure("create", path, &e))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FilesError> {
        let file = fs::OpenOptions::new().read(true).write(access == Access::Write).open(self.full(path)?);
        let file = file.map_err(|e| failure("open", path, &e))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn create_folder(&self, path: &Path) -> Result<bool, FilesError> {
        let full = self.full(path)?;
        match fs::create_dir(&full) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && full.is_dir() => Ok(false),
            Err(e) => Err(failure("create folder", path, &e)),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<Entry>, FilesError> {
        let failed = |e: io::Error| failure("list", folder, &e);
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.full(folder)?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_folder });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        fs::remove_file(self.full(path)?).map_err(|e| failure("remove", path, &e))
    }

    fn remove_folder(&self, path: &Path) -> Result<(), FilesError> {
        fs::remove_dir(self.full(path)?).map_err(|e| failure("remove folder", path, &e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FilesError> {
        fs::rename(self.full(from)?, self.full(to)?).map_err(|e| failure("rename", from, &e))
    }

    fn sync_folder(&self, folder: &Path) -> Result<(), FilesError> {
        let handle = fs::File::open(self.full(folder)?).map_err(|e| failure("open folder", folder, &e))?;
        handle.sync_all().map_err(|e| failure("sync folder", folder, &e))
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl RealFile {
    fn fill_with_zeros(&self, mut from: u64, to: u64) -> Result<(), FilesError> {
        while from < to {
            let len = usize::try_from(to - from).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.write_at(from, ZEROS.get(..len).unwrap_or(&ZEROS))?;
            from += len as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn append(&self, bytes: &[u8]) -> Result<(), FilesError> {
        // Not O_APPEND: it would send the writes of `write_at` to the end as well.
        let end = self.len()?;
        self.file.write_all_at(bytes, end).map_err(|e| failure("append", &self.path, &e))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FilesError> {
        self.file.write_all_at(bytes, offset).map_err(|e| failure("write", &self.path, &e))
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FilesError> {
        let left = usize::try_from(self.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failure("read", &self.path, &e)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn sync(&self) -> Result<(), FilesError> {
        self.file.sync_data().map_err(|e| failure("sync", &self.path, &e))
    }

    fn len(&self) -> Result<u64, FilesError> {
        Ok(self.file.metadata().map_err(|e| failure("stat", &self.path, &e))?.len())
    }

    fn truncate(&self, len: u64) -> Result<(), FilesError> {
        if self.len()? <= len {
            return Ok(());
        }
        self.file.set_len(len).map_err(|e| failure("truncate", &self.path, &e))
    }

    fn preallocate(&self, len: u64) -> Result<(), FilesError> {
        let present = self.len()?;
        if present >= len {
            return Ok(());
        }
        let allocated = match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), present, len - present) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.fill_with_zeros(present, len),
            other => other.map_err(|e| failure("preallocate", &self.path, &e.into())),
        };
        if allocated.is_err() {
            // Some file systems leave what they could get. The error that counts is the first.
            let _ = self.file.set_len(present);
        }
        allocated
    }
}
