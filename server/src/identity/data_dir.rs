//! A node's data directory, opened: locked, of a known format, with an instance, and one generation older.
//!
//! ```text
//! lock        held by the process that uses the directory
//! instance    drawn at first use: the instance, the node's name, and the generation, which grows with every start
//! identity    written once: the cluster and the member
//! ```
//!
//! What else stands in it belongs to others: the stores of data, hints, marks and Raft.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::files::{Files, FilesError, RealFiles};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::lock::{DirLock, LOCK_FILE, LockError};
use super::note::{self, FORMAT, ReadFailure, UNFINISHED};
use super::{Identity, InstanceId, NoRandomness};

const INSTANCE: &str = "instance";
const IDENTITY: &str = "identity";
/// The root of a file system of its own may hold this, and is still empty.
const LOST_AND_FOUND: &str = "lost+found";

/// Why a data directory cannot be used. Starting again does not help before something is changed.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The folder cannot be created or looked at.
    #[error("the data directory {} cannot be used: {error}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// One of its files cannot be read or written.
    #[error("in the data directory {}: {error}", dir.display())]
    Files {
        /// The directory.
        dir: PathBuf,
        /// What failed.
        error: FilesError,
    },
    /// Another process has it, or it cannot be locked.
    #[error("the data directory {0}")]
    Lock(#[from] LockError),
    /// It holds what is not ours.
    #[error(
        "the data directory {} is not empty ({found}) and no node ever used it: name a new or an empty one",
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// It is another node's.
    #[error("the data directory {} belongs to {owner}: start it as {owner}, or use another directory for {asked}", dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: String,
        /// The name it was to be used under.
        asked: String,
    },
    /// A file is not what was written.
    #[error(
        "{} is damaged ({what}): restore it from a copy; or, if the cluster has the node's data elsewhere, move the \
         directory away and let this machine join as a new member: under another name, with an empty one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A newer build wrote it.
    #[error(
        "{} has format {found}, and this build of cubed reads up to format {FORMAT}: start the version that wrote it, \
         or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It has another identity already.
    #[error(
        "the data directory {} belongs to member {} of cluster {} and cannot become member {} of cluster {}: use \
         another directory",
        dir.display(), present.node, present.cluster, asked.node, asked.cluster
    )]
    OtherIdentity {
        /// The directory.
        dir: PathBuf,
        /// Which member of which cluster it is.
        present: Box<Identity>,
        /// Which it was to become.
        asked: Box<Identity>,
    },
    /// No instance can be drawn.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// What a directory remembers of its own use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Use {
    instance: InstanceId,
    name: String,
    generation: u64,
}

/// An opened data directory. While it lives, no other process gets it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    files: Arc<dyn Files>,
    present: Use,
    identity: Option<Identity>,
    _lock: DirLock,
}

impl DataDir {
    /// Opens the directory for the node of this name, and creates it if it is missing. The generation grows.
    pub fn open(path: &Path, name: &str) -> Result<Self, DataDirError> {
        create(path).map_err(|error| DataDirError::Io { dir: path.to_owned(), error })?;
        let lock = DirLock::take(path)?;
        Self::open_files(path, Arc::new(RealFiles::new(path)), lock, name)
    }

    /// The same on given files, so that tests can lose what was not synced.
    pub(super) fn open_files(
        path: &Path,
        files: Arc<dyn Files>,
        lock: DirLock,
        name: &str,
    ) -> Result<Self, DataDirError> {
        let identity: Option<Identity> = read(path, files.as_ref(), IDENTITY)?;
        let present = match read::<Use>(path, files.as_ref(), INSTANCE)? {
            Some(present) => Use { generation: present.generation.saturating_add(1), ..present },
            None if identity.is_some() => {
                let what = "it is missing, while the directory has an identity".to_owned();
                return Err(DataDirError::Damaged { path: path.join(INSTANCE), what });
            }
            None => {
                check_empty(path, files.as_ref())?;
                Use { instance: InstanceId::draw()?, name: name.to_owned(), generation: 1 }
            }
        };
        let owner = identity.as_ref().map_or(&present.name, |identity| &identity.name);
        if owner != name {
            let (owner, asked) = (owner.clone(), name.to_owned());
            return Err(DataDirError::OtherNode { dir: path.to_owned(), owner, asked });
        }
        write(path, files.as_ref(), INSTANCE, &present)?;
        Ok(Self { path: path.to_owned(), files, present, identity, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.present.name
    }

    /// Tells this directory from one that was wiped.
    pub fn instance(&self) -> InstanceId {
        self.present.instance
    }

    /// How many times the directory was opened, this one included.
    pub fn generation(&self) -> u64 {
        self.present.generation
    }

    /// Which member of which cluster it is, once that is known.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Makes it a member of a cluster, durably and for good. Being told the same twice is fine.
    pub fn establish(&mut self, identity: Identity) -> Result<(), DataDirError> {
        if identity.name != self.present.name {
            let (owner, asked) = (self.present.name.clone(), identity.name);
            return Err(DataDirError::OtherNode { dir: self.path.clone(), owner, asked });
        }
        match &self.identity {
            Some(present) if *present == identity => return Ok(()),
            Some(present) => {
                let (present, asked) = (Box::new(present.clone()), Box::new(identity));
                return Err(DataDirError::OtherIdentity { dir: self.path.clone(), present, asked });
            }
            None => {}
        }
        write(&self.path, self.files.as_ref(), IDENTITY, &identity)?;
        self.identity = Some(identity);
        Ok(())
    }
}

/// Creates the directory with those above it, and makes their names durable.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::File::open(parent)?.sync_all(),
    }
}

/// A directory without an instance is new, or was left by a crash before it had one; then it holds nothing else.
fn check_empty(path: &Path, files: &dyn Files) -> Result<(), DataDirError> {
    let unfinished = format!("{INSTANCE}{UNFINISHED}");
    let ours = [LOCK_FILE, LOST_AND_FOUND, unfinished.as_str()];
    let entries = files.list(Path::new("")).map_err(|error| DataDirError::Files { dir: path.to_owned(), error })?;
    match entries.into_iter().find(|entry| !ours.contains(&entry.name.as_str())) {
        Some(entry) => Err(DataDirError::Foreign { dir: path.to_owned(), found: entry.name }),
        None => Ok(()),
    }
}

fn read<T: serde::de::DeserializeOwned>(dir: &Path, files: &dyn Files, kind: &str) -> Result<Option<T>, DataDirError> {
    note::read(files, kind).map_err(|failure| match failure {
        ReadFailure::Files(error) => DataDirError::Files { dir: dir.to_owned(), error },
        ReadFailure::Damaged(what) => DataDirError::Damaged { path: dir.join(kind), what },
        ReadFailure::Newer(found) => DataDirError::Newer { path: dir.join(kind), found },
    })
}

fn write(dir: &Path, files: &dyn Files, kind: &str, content: &impl Serialize) -> Result<(), DataDirError> {
    note::write(files, kind, content).map_err(|error| DataDirError::Files { dir: dir.to_owned(), error })
}
