//! What can go wrong with dirty marks. Each error names the target, and the file where there is one.

use std::path::PathBuf;

use thiserror::Error;

use crate::files::{FilesError, NameError};

/// Why marks could not be opened or made durable. Marks that were made stay in memory, and the next sync writes all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DirtyError {
    /// The target's name cannot be a file's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The file system failed.
    #[error("dirty marks of {target}: {source}")]
    Files {
        /// The node that missed writes.
        target: String,
        /// What failed, with the path.
        source: FilesError,
    },
    /// The file was written by a newer release.
    #[error(
        "dirty marks of {target}: {path} has format {found}, this build reads formats up to {supported}: start a newer \
         release"
    )]
    Format {
        /// The node that missed writes.
        target: String,
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u8,
        /// The newest format this build knows.
        supported: u8,
    },
    /// A file that was made for another node: it was renamed by hand.
    #[error("dirty marks of {target}: {path} holds the marks of {found}: move it back or remove it")]
    WrongTarget {
        /// The node whose name the file has.
        target: String,
        /// The file.
        path: PathBuf,
        /// The node it was written for.
        found: String,
    },
    /// The target was removed from the store.
    #[error("dirty marks of {target}: they were removed")]
    Removed {
        /// The node that had missed writes.
        target: String,
    },
}
