//! All hint logs of a node, under one folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::limits::Shared;
use super::{HintError, HintLimits, HintLog, HintTotals};
use crate::files::{Files, FilesError, unescape_name};

/// The hint logs of a node, one per target.
#[derive(Debug)]
pub struct HintStore {
    shared: Arc<Shared>,
    logs: Mutex<BTreeMap<String, Arc<HintLog>>>,
}

/// What opening the store found.
#[derive(Debug)]
pub struct OpenedHints {
    /// The store, with the logs that could be opened.
    pub store: HintStore,
    /// Targets whose log could not be opened, and why: whatever it holds is missing, so all of the target is to be
    /// marked dirty. Asking for such a log tries again.
    pub failed: Vec<(String, HintError)>,
    /// Folders that no log has made. They are left alone.
    pub foreign: Vec<PathBuf>,
}

impl HintStore {
    /// Opens all logs under `root`, which is created if it is missing (its parent folder must exist).
    pub fn open(files: Arc<dyn Files>, root: &Path, limits: HintLimits) -> Result<OpenedHints, FilesError> {
        if files.create_folder(root)? {
            files.sync_folder(root.parent().unwrap_or(Path::new("")))?;
        }
        let (mut failed, mut foreign, mut logs) = (Vec::new(), Vec::new(), BTreeMap::new());
        let entries = files.list(root)?;
        let shared = Arc::new(Shared::new(files, root.to_owned(), limits));
        for entry in entries.into_iter().filter(|entry| entry.is_folder) {
            let Some(target) = unescape_name(&entry.name) else {
                foreign.push(root.join(entry.name));
                continue;
            };
            match HintLog::open(shared.clone(), &target) {
                Ok(log) => drop(logs.insert(target, Arc::new(log))),
                Err(error) => failed.push((target, error)),
            }
        }
        Ok(OpenedHints { store: Self { shared, logs: Mutex::new(logs) }, failed, foreign })
    }

    /// The log of a target. A new one makes no files before its first hint.
    pub fn log(&self, target: &str) -> Result<Arc<HintLog>, HintError> {
        let mut logs = self.logs.lock();
        if let Some(log) = logs.get(target) {
            return Ok(log.clone());
        }
        let log = Arc::new(HintLog::open(self.shared.clone(), target)?);
        logs.insert(target.to_owned(), log.clone());
        Ok(log)
    }

    /// All logs, by target.
    pub fn logs(&self) -> Vec<Arc<HintLog>> {
        self.logs.lock().values().cloned().collect()
    }

    /// Drops the hints of a target that left the cluster, and says what they were. Refused while a write's only copy is
    /// among them: read and deliver those to replicas first, and acknowledge them.
    pub fn remove_target(&self, target: &str) -> Result<HintTotals, HintError> {
        let log = self.log(target)?;
        let totals = log.remove()?;
        self.logs.lock().remove(target);
        Ok(totals)
    }

    /// What each log holds.
    pub fn totals(&self) -> BTreeMap<String, HintTotals> {
        self.logs().iter().map(|log| (log.target().to_owned(), log.totals())).collect()
    }

    /// Bytes that all logs together take of the shared budget.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used_bytes()
    }

    /// The limits in force.
    pub fn limits(&self) -> HintLimits {
        self.shared.limits()
    }

    /// Changes the limits, from the next append on. What is held already stays.
    pub fn set_limits(&self, limits: HintLimits) {
        self.shared.set_limits(limits);
    }
}
