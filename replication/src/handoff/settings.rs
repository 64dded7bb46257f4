//! What an operator chooses of hinted handoff. All of it may change while the node runs.

use cube_storage::hints::HintLimits;

/// The settings in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoffSettings {
    /// Whether hints are kept. If not, every one becomes a dirty mark; what is kept already is replayed.
    pub enabled: bool,
    /// How old a hint may grow, and how long a node may be away before what it misses is only marked.
    pub window_ms: u64,
    /// How often it is looked whether a target can be served and whether hints have expired.
    pub check_interval_ms: u64,
    /// The most that hint logs hold.
    pub limits: HintLimits,
}

impl Default for HandoffSettings {
    fn default() -> Self {
        const HOUR_MS: u64 = 3_600_000;
        Self { enabled: true, window_ms: HOUR_MS, check_interval_ms: 10_000, limits: HintLimits::default() }
    }
}
