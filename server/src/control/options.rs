//! The times and sizes of the control plane, and why they are what they are.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::error::OpenError;
use super::wire::{SNAPSHOT_CHUNK_BYTES, as_ms};

/// What may be chosen. The defaults suit every cluster; tests choose shorter times.
///
/// A follower asks for votes when it has heard nothing for `election_max` and then a time between `election_min` and
/// `election_max`: 4.5 to 6 s. So neither a leader nor a follower whose disk takes seconds for an fsync costs the
/// cluster its leader. It may be slow, because no request waits for Raft; only changes of the hard state do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlOptions {
    /// How often a leader says that it lives, and how long it waits for one answer before it sends again.
    pub heartbeat: Duration,
    /// See above.
    pub election_min: Duration,
    /// See above.
    pub election_max: Duration,
    /// Entries after which a snapshot replaces the log before it.
    pub snapshot_after_entries: u64,
    /// Entries that are kept behind a snapshot, so that a follower that was away for a moment needs no snapshot.
    pub entries_kept: u64,
    /// How often the leader looks at moves and voters while there is something to do about them.
    pub tick: Duration,
    /// How often it looks when there was nothing to do: changes of the state and reports wake it at once.
    pub rest: Duration,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election_min: Duration::from_millis(1_500),
            election_max: Duration::from_millis(3_000),
            snapshot_after_entries: 1_000,
            entries_kept: 500,
            tick: Duration::from_millis(200),
            rest: Duration::from_secs(1),
        }
    }
}

/// How long one part of a snapshot may take; the last one is answered when all of it is on the receiver's disk.
const SNAPSHOT_PART_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries in one message to a follower.
const ENTRIES_PER_MESSAGE_MAX: u64 = 256;

impl ControlOptions {
    /// A leader that no majority answered for so long is most likely cut off from it.
    pub(super) fn quorum_fresh(&self) -> Duration {
        self.election_max
    }

    pub(super) fn raft(&self) -> Result<Config, OpenError> {
        let config = Config {
            cluster_name: "cube".to_owned(),
            heartbeat_interval: as_ms(self.heartbeat),
            election_timeout_min: as_ms(self.election_min),
            election_timeout_max: as_ms(self.election_max),
            install_snapshot_timeout: as_ms(SNAPSHOT_PART_TIMEOUT),
            max_payload_entries: ENTRIES_PER_MESSAGE_MAX,
            // A follower that is further behind gets a snapshot. It must be more than what a snapshot leaves behind.
            replication_lag_threshold: self.snapshot_after_entries.saturating_mul(2),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            max_in_snapshot_log_to_keep: self.entries_kept,
            // Removing entries one by one would be a write for each.
            purge_batch_size: self.entries_kept.div_ceil(4).max(1),
            ..Config::default()
        };
        config.validate().map_err(|error| OpenError::Options { reason: error.to_string() })
    }
}
