//! The seam to the file system under the hint log and the dirty marks, with two implementations: [`RealFiles`], and
//! [`SimulatedFiles`] whose disk loses, tears, fills and flips on demand. One conformance suite runs on both
//! (`tests/files.rs`).
//!
//! The contract is what a POSIX file system promises and not more, because that is what a crash leaves behind:
//! - written bytes are durable only after [`File::sync`] of their file, and only if no earlier sync of it failed since;
//! - a created, removed or renamed name is durable only after [`Files::sync_folder`] of its folder;
//! - a failed append may leave some of its bytes behind: the caller cuts the file back;
//! - bytes that are not being written keep their value, also when a neighbour's write is torn.
//!
//! Paths are relative to the root that the implementation was made for. A file has one writer at a time.

pub(crate) mod header;
mod name;
mod real;
mod simulated;
pub(crate) mod slots;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

pub use self::name::{ESCAPED_BYTES_MAX, NameError, escape_name, unescape_name};
pub use self::real::RealFiles;
pub use self::simulated::SimulatedFiles;

/// Why the file system could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilesError {
    /// There is nothing by this name.
    #[error("{path}: there is no such file or folder")]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// The name is taken.
    #[error("{path}: exists already")]
    Exists {
        /// What was to be created.
        path: PathBuf,
    },
    /// No space, or no quota, is left on the device.
    #[error("{path}: no space left on the device")]
    NoSpace {
        /// What was written.
        path: PathBuf,
    },
    /// This process may not do that: permissions, or a file system mounted for reading.
    #[error("{path}: cannot be written: permission denied or read-only file system")]
    Denied {
        /// What was to be changed.
        path: PathBuf,
    },
    /// The path leaves the root.
    #[error("{path}: is not below the root of the files")]
    Outside {
        /// The path given.
        path: PathBuf,
    },
    /// The disk failed otherwise.
    #[error("{path}: {operation} failed: {detail}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
}

impl FilesError {
    /// Whether space would have helped.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading alone; works on a read-only file system.
    Read,
    /// Reading and writing.
    Write,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last part of the path. Names that are not UTF-8 are not ours, and not listed.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// Folders and names.
pub trait Files: fmt::Debug + Send + Sync {
    /// Creates a file that must not exist, for reading and writing.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FilesError>;

    /// Opens a file that exists.
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FilesError>;

    /// Creates a folder in a folder that exists. Whether it was missing.
    fn create_folder(&self, path: &Path) -> Result<bool, FilesError>;

    /// What is in a folder, in the order of the names.
    fn list(&self, folder: &Path) -> Result<Vec<Entry>, FilesError>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<(), FilesError>;

    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> Result<(), FilesError>;

    /// Renames a file within its folder, replacing a file of the new name in one step.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FilesError>;

    /// Makes the names in a folder durable. The root is the empty path.
    fn sync_folder(&self, folder: &Path) -> Result<(), FilesError>;
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// Writes at the end. After an error some of the bytes may be there.
    fn append(&self, bytes: &[u8]) -> Result<(), FilesError>;

    /// Writes at an offset, growing the file if it must. After an error some of the bytes may be there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FilesError>;

    /// Up to `len` bytes from an offset: fewer only where the file ends.
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FilesError>;

    /// Makes what was written durable, with the length (`fdatasync`).
    fn sync(&self) -> Result<(), FilesError>;

    /// The length in bytes.
    fn len(&self) -> Result<u64, FilesError>;

    /// Whether it holds nothing.
    fn is_empty(&self) -> Result<bool, FilesError> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off after `len` bytes; does nothing to a shorter file.
    fn truncate(&self, len: u64) -> Result<(), FilesError>;

    /// Grows the file to `len` bytes, zeros at the end, with the space for them set aside, so that overwriting them
    /// works on a full disk. All or nothing; does nothing to a longer file.
    fn preallocate(&self, len: u64) -> Result<(), FilesError>;
}
