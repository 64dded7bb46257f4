//! What is shown of a worker.

use serde::{Deserialize, Serialize};

/// What a worker does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkerState {
    /// It steps, or is about to.
    Running,
    /// It has nothing to do.
    Idle,
    /// It has work, and waits for its share of a budget.
    Throttled,
    /// Its last step failed; it is tried again.
    BackingOff,
    /// An operator asked it to wait.
    Paused,
    /// It steps no more: it is done, or was asked to stop.
    Stopped,
}

/// A worker, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: WorkerState,
    /// When it last got on: a step that found something to do and did it.
    pub last_progress_ms: Option<u64>,
    /// Steps so far, failed ones too.
    pub steps: u64,
    /// Steps that failed.
    pub errors: u64,
    /// Steps that failed since the last one that did not.
    pub consecutive_errors: u32,
    /// What was wrong the last time something was.
    pub last_error: Option<String>,
    /// When it is due; nothing while it is paused or stopped.
    pub next_run_ms: Option<u64>,
}
