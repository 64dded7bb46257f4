//! What an operator sees of hinted handoff.

use std::collections::BTreeMap;

use cube_storage::dirty::DirtyTotals;
use cube_storage::hints::HintTotals;

use super::HandoffCounts;
use super::pace::Incoming;
use super::replay::Progress;

/// Hints and marks for one target, and how their replay stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetStatus {
    /// What its log holds.
    pub hints: HintTotals,
    /// The age of its oldest hint.
    pub oldest_age_ms: Option<u64>,
    /// What is marked dirty for it.
    pub marks: DirtyTotals,
    /// How the replay stands.
    pub replay: Progress,
    /// How long ago the target last took something.
    pub last_progress_age_ms: Option<u64>,
    /// When the target will have taken everything, at the present speed.
    pub eta_ms: Option<u64>,
    /// What was wrong the last time something was.
    pub last_error: Option<String>,
}

/// Hinted handoff of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoffStatus {
    /// By the name of the target; those without hints and marks too, if they ever had some.
    pub targets: BTreeMap<String, TargetStatus>,
    /// The names of members that an operator wants no hints delivered to.
    pub paused: Vec<String>,
    /// What is coming to this node.
    pub incoming: Incoming,
    /// What happened since it started.
    pub counts: HandoffCounts,
    /// Whether hints are handed to others because this node leaves.
    pub handing_over: bool,
}

impl HandoffStatus {
    /// Hints for all targets.
    pub fn total_hints(&self) -> u64 {
        self.targets.values().map(|target| target.hints.keys).sum()
    }
}
