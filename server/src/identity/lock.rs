//! One process at a time in a folder: an advisory lock on a file in it, which the system gives back however the
//! process ends. The file names the process that holds it, and stays.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// The file that is locked.
pub(super) const LOCK_FILE: &str = "lock";

/// A folder that belongs to this process until the lock is dropped.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread is just starting holds it as well, until it has
        // become what it is to be.
        let _closed_anyway = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Why a folder cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {holder}: stop that one, or use another directory", dir.display())]
    Held {
        /// The folder.
        dir: PathBuf,
        /// The process id that the holder left in the lock file.
        holder: String,
    },
    /// The lock file cannot be created or locked.
    #[error("{} cannot be locked: {error}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl DirLock {
    /// Takes the folder, which exists.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let failed = |error| LockError::Io { path: path.clone(), error };
        // Not truncated on opening: the holder's number must stay readable.
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // A holder that has not written its number yet is still a holder.
                let _unreadable = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "unknown" } else { holder }.to_owned();
                return Err(LockError::Held { dir: dir.to_owned(), holder });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let name_holder = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        };
        name_holder(&mut file).map_err(failed)?;
        Ok(Self { file })
    }
}
