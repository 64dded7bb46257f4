//! The dirty marks of all targets, under one folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirtyError, DirtyMarks, DirtyTotals};
use crate::files::{Files, FilesError, escape_name, unescape_name};
use crate::model::Version;

const SUFFIX: &str = ".marks";

/// The dirty marks that a node keeps for others.
#[derive(Debug)]
pub struct DirtyStore {
    files: Arc<dyn Files>,
    root: PathBuf,
    horizon: Version,
    targets: Mutex<BTreeMap<String, Arc<DirtyMarks>>>,
}

/// What opening the store found.
#[derive(Debug)]
pub struct OpenedDirty {
    /// The store, with the targets whose marks could be opened. Of one whose marks were damaged, everything is marked,
    /// which its totals count as [`super::Cause::Corrupt`].
    pub store: DirtyStore,
    /// Targets whose marks could not be opened, and why. Nobody knows what was marked for them; asking for one tries
    /// again.
    pub failed: Vec<(String, DirtyError)>,
    /// Files that this store has not made. They are left alone.
    pub foreign: Vec<PathBuf>,
}

impl DirtyStore {
    /// Opens all marks under `root`, which is created if it is missing (its parent folder must exist). `horizon` is no
    /// less than any version this node has seen: it is what damaged marks are marked with.
    pub fn open(files: Arc<dyn Files>, root: &Path, horizon: Version) -> Result<OpenedDirty, FilesError> {
        if files.create_folder(root)? {
            files.sync_folder(root.parent().unwrap_or(Path::new("")))?;
        }
        let (mut failed, mut foreign, mut targets) = (Vec::new(), Vec::new(), BTreeMap::new());
        for entry in files.list(root)?.into_iter().filter(|entry| !entry.is_folder) {
            if entry.name.strip_suffix(".new").and_then(unescape_name).is_some() {
                // A crash came before it was whole, and nothing was marked in it.
                if let Err(error) = files.remove(&root.join(&entry.name)) {
                    tracing::warn!(%error, "an unfinished file of dirty marks stays");
                }
                continue;
            }
            let path = root.join(&entry.name);
            let Some(target) = entry.name.strip_suffix(SUFFIX).and_then(unescape_name) else {
                foreign.push(path);
                continue;
            };
            match DirtyMarks::open(Arc::clone(&files), path, &target, horizon) {
                Ok(marks) => drop(targets.insert(target, Arc::new(marks))),
                Err(error) => failed.push((target, error)),
            }
        }
        let store = Self { files, root: root.to_owned(), horizon, targets: Mutex::new(targets) };
        Ok(OpenedDirty { store, failed, foreign })
    }

    /// The marks of a target. The first [`DirtyMarks::sync`] sets the space of its first marks aside, so it is to be done for
    /// every member as soon as it is known, not when the disk is full.
    pub fn target(&self, target: &str) -> Result<Arc<DirtyMarks>, DirtyError> {
        let mut targets = self.targets.lock();
        if let Some(marks) = targets.get(target) {
            return Ok(marks.clone());
        }
        let path = self.root.join(format!("{}{SUFFIX}", escape_name(target)?));
        let marks = Arc::new(DirtyMarks::open(Arc::clone(&self.files), path, target, self.horizon)?);
        targets.insert(target.to_owned(), marks.clone());
        Ok(marks)
    }

    /// The marks of all targets that were asked for or have a file.
    pub fn targets(&self) -> Vec<Arc<DirtyMarks>> {
        self.targets.lock().values().cloned().collect()
    }

    /// Drops the marks of a target that left the cluster, and says what they were.
    pub fn remove_target(&self, target: &str) -> Result<DirtyTotals, DirtyError> {
        let marks = self.target(target)?;
        let totals = marks.totals();
        let _syncing = marks.log.lock();
        marks.state.lock().removed = true;
        let removed = match self.files.remove(&marks.path) {
            Err(FilesError::NotFound { .. }) => Ok(()),
            other => other.and_then(|()| self.files.sync_folder(&self.root)),
        };
        removed.map_err(|source| DirtyError::Files { target: target.to_owned(), source })?;
        self.targets.lock().remove(target);
        Ok(totals)
    }

    /// What is marked for each target.
    pub fn totals(&self) -> BTreeMap<String, DirtyTotals> {
        self.targets().iter().map(|marks| (marks.target().to_owned(), marks.totals())).collect()
    }
}
