//! What an operator sees of hinted handoff.

use std::collections::BTreeMap;

use cube_storage::dirty::DirtyTotals;
use cube_storage::hints::HintTotals;
use cube_storage::model::Hlc;

use super::pace::Incoming;
use super::replay::Progress;
use super::{HandoffCounts, HintedHandoff};

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

impl HintedHandoff {
    /// No hint that is kept has an older version; nothing where none is kept.
    pub fn oldest_hint(&self) -> Option<Hlc> {
        let of_logs = self.hints().totals().into_values().filter_map(|totals| totals.oldest_hlc).min();
        let handed_over = *self.handed_over.lock();
        of_logs.into_iter().chain(handed_over).min()
    }

    /// Hints that another node keeps from now on. Nobody's watermark may pass them before all know that it holds them, so
    /// they count as held here as well until this process ends: it is about to leave.
    pub(crate) fn note_handed_over(&self, oldest: Hlc) {
        let mut handed_over = self.handed_over.lock();
        *handed_over = Some(handed_over.map_or(oldest, |known| known.min(oldest)));
    }
}
