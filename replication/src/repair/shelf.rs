//! The jobs of this node: those that wait or run, and the results of the last ones, in memory and on disk.
//!
//! Invariant: what is on disk is the job as it was at some moment since it was last put here; a job that is not durable
//! yet is not on the shelf.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::files::{Files, FilesError};

use super::id::RepairId;
use super::job::Job;
use super::record::{self, RecordError};

/// The folder of the records, in a node's data directory.
pub const FOLDER: &str = "repairs";
/// Jobs that ended and are kept; the oldest goes first.
pub const RESULTS_KEPT_MAX: usize = 64;

const SUFFIX: &str = ".job";
const UNFINISHED: &str = ".new";

/// The jobs.
#[derive(Debug)]
pub(super) struct Shelf {
    files: Arc<dyn Files>,
    root: PathBuf,
    jobs: BTreeMap<RepairId, Job>,
    /// Jobs that are otherwise than their records.
    unsaved: BTreeSet<RepairId>,
}

impl Shelf {
    /// Opens the folder, which is made if it is missing. A record that cannot be read becomes a job that failed.
    pub(super) fn open(files: Arc<dyn Files>, root: &Path) -> Result<Self, FilesError> {
        if files.create_folder(root)? {
            files.sync_folder(root.parent().unwrap_or(Path::new("")))?;
        }
        let mut shelf = Self { files, root: root.to_owned(), jobs: BTreeMap::new(), unsaved: BTreeSet::new() };
        for entry in shelf.files.list(root)?.into_iter().filter(|entry| !entry.is_folder) {
            let path = root.join(&entry.name);
            if entry.name.ends_with(UNFINISHED) {
                // A crash came before it was whole: the record of before stands, or the job was never told to exist.
                shelf.files.remove(&path)?;
                continue;
            }
            let Some(id) = entry.name.strip_suffix(SUFFIX).and_then(|id| id.parse::<RepairId>().ok()) else { continue };
            match record::read(&*shelf.files, &path) {
                Ok(job) if job.id == id => drop(shelf.jobs.insert(id, job)),
                Ok(_) => shelf.lose(id, &RecordError::Damaged("it is that of another repair")),
                Err(RecordError::Files(error)) => return Err(error),
                Err(error) => shelf.lose(id, &error),
            }
        }
        shelf.forget_oldest();
        Ok(shelf)
    }

    fn lose(&mut self, id: RepairId, error: &RecordError) {
        tracing::warn!(%id, %error, "a repair is lost");
        self.jobs.insert(id, Job::lost(id, error.to_string()));
    }

    /// A job.
    pub(super) fn get(&self, id: RepairId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// All jobs, newest first.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().rev()
    }

    /// The job whose turn it is.
    pub(super) fn first_active(&self) -> Option<RepairId> {
        self.jobs.values().find(|job| !job.state.is_over()).map(|job| job.id)
    }

    /// A job, to be changed.
    pub(super) fn change(&mut self, id: RepairId) -> Option<&mut Job> {
        let job = self.jobs.get_mut(&id)?;
        self.unsaved.insert(id);
        Some(job)
    }

    /// Tells what a job that runs has exchanged by now, which is not worth a write.
    pub(super) fn tell(&mut self, id: RepairId, under_way: super::job::Moved) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.state.is_over()) {
            job.under_way = under_way;
        }
    }

    /// Takes in a job whose record was written.
    pub(super) fn put(&mut self, job: Job) {
        self.jobs.insert(job.id, job);
    }

    /// What is to be written to disk, and how.
    pub(super) fn unsaved(&mut self) -> Vec<Job> {
        let ids = std::mem::take(&mut self.unsaved);
        ids.into_iter().filter_map(|id| self.jobs.get(&id).cloned()).collect()
    }

    /// A job is still otherwise than its record.
    pub(super) fn not_saved(&mut self, id: RepairId) {
        self.unsaved.insert(id);
    }

    /// Where records are written, without the shelf being held meanwhile.
    pub(super) fn writer(&self) -> Writer {
        Writer { files: Arc::clone(&self.files), root: self.root.clone() }
    }

    /// Removes results beyond those that are kept.
    pub(super) fn forget_oldest(&mut self) {
        let over: Vec<RepairId> = self.jobs.values().filter(|job| job.state.is_over()).map(|job| job.id).collect();
        for id in over.iter().take(over.len().saturating_sub(RESULTS_KEPT_MAX)) {
            let removed = self.files.remove(&path_of(&self.root, *id)).or_else(|error| match error {
                FilesError::NotFound { .. } => Ok(()),
                error => Err(error),
            });
            match removed {
                Ok(()) => drop(self.jobs.remove(id)),
                // It is tried again with the next one.
                Err(error) => tracing::warn!(%id, %error, "the result of an old repair cannot be removed"),
            }
            self.unsaved.remove(id);
        }
    }
}

fn path_of(root: &Path, id: RepairId) -> PathBuf {
    root.join(format!("{id}{SUFFIX}"))
}

/// Writes records.
#[derive(Debug)]
pub(super) struct Writer {
    files: Arc<dyn Files>,
    root: PathBuf,
}

impl Writer {
    /// Makes a job durable.
    pub(super) fn write(&self, job: &Job) -> Result<(), RecordError> {
        let path = path_of(&self.root, job.id);
        record::write(&*self.files, &path, &path.with_extension("job.new"), job)
    }
}
