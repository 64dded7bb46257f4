//! What operators see of anti-entropy: up to when replicas are equal, what was exchanged, what is purged and what keeps it
//! from being purged, and how far the scrub has come.
//!
//! Times are those of versions, in milliseconds since 1970, with their age beside them: what was written before one is
//! on all its replicas.

use std::collections::BTreeMap;

use cube_replication::anti_entropy::compare::Tally;
use serde::Serialize;

/// How the replicas of this node stand, and what it has heard of the others'.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationView {
    /// Whether this node compares its replicas with those of others.
    pub enabled: bool,
    /// What an operator must know, as that it does not.
    pub warnings: Vec<String>,
    /// The clock of this node, by which ages are told.
    pub now_ms: u64,
    /// The whole cluster: the oldest time of all nodes.
    pub cluster: ClusterSyncView,
    /// The oldest time of all replicas of this node.
    #[serde(flatten)]
    pub in_sync: SyncTime,
    /// The tables that this node holds something of.
    pub tables: Vec<TableSyncView>,
    /// Every partition of the table that was asked for, as far as this node holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<PartitionSyncView>>,
    /// Ranges that this node has marked for others, by their names: they are compared first.
    pub dirty_ranges: BTreeMap<String, u64>,
    /// What came of comparisons, by the name of the peer.
    pub peers: BTreeMap<String, PeerSyncView>,
    /// With whom replicas are compared at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparing: Option<String>,
    /// Passes over everything since the node started.
    pub passes: u64,
    /// Comparisons that came to their end since the node started.
    pub comparisons: u64,
    /// Comparisons that failed since the node started.
    pub failures: u64,
    /// Dirty ranges that were cleared since the node started.
    pub ranges_cleared: u64,
    /// What was wrong the last time something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Purging, as far as this node sees to it.
    pub purge: PurgeView,
    /// The scrub.
    pub scrub: ScrubView,
}

/// Up to when something is equal everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncTime {
    /// The time; nothing where there is no other replica, or nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_sync_as_of_ms: Option<u64>,
    /// How long ago that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_sync_age_ms: Option<u64>,
}

impl SyncTime {
    /// A time, and its age by the clock of now. The beginning of time is none: nothing was compared yet.
    pub fn of(as_of_ms: Option<u64>, now_ms: u64) -> Self {
        let as_of_ms = as_of_ms.filter(|as_of_ms| *as_of_ms > 0);
        Self { in_sync_as_of_ms: as_of_ms, in_sync_age_ms: as_of_ms.map(|as_of_ms| now_ms.saturating_sub(as_of_ms)) }
    }
}

/// What gossip tells of all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSyncView {
    /// The oldest of all.
    #[serde(flatten)]
    pub in_sync: SyncTime,
    /// By the name of the node; one that is not named has told nothing.
    pub nodes: BTreeMap<String, SyncTime>,
}

/// A table, over all its partitions that this node holds.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableSyncView {
    /// Its keyspace.
    pub keyspace: String,
    /// Its name.
    pub table: String,
    /// The oldest time.
    #[serde(flatten)]
    pub in_sync: SyncTime,
    /// Partitions that this node holds.
    pub partitions: usize,
    /// Those of them that are not in sync here: they take writes, are not counted in reads, and heal by copying.
    pub not_in_sync_here: usize,
    /// Those of them that were never compared with one of their other replicas.
    pub not_compared_yet: usize,
    /// The lowest purge floor: deletions up to it are gone.
    pub purge_floor_ms: u64,
    /// Partitions that this node sees to and that cannot be purged, by the name of the node that is in the way.
    pub purge_blocked_by: BTreeMap<String, usize>,
}

/// One partition of a table.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionSyncView {
    /// Its number.
    pub partition: u16,
    /// All its replicas, by name.
    pub replicas: Vec<String>,
    /// Why it is not in sync here, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_in_sync_here: Option<String>,
    /// The time with each other replica.
    pub with: BTreeMap<String, SyncTime>,
    /// Its purge floor.
    pub purge_floor_ms: u64,
    /// Who keeps it from being purged, if this node sees to that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub purge_blocked_by: Vec<String>,
}

/// Comparisons with one peer since this node started. What the peer began itself is told by the peer.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerSyncView {
    /// How long ago the last one came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_compared_age_ms: Option<u64>,
    /// Comparisons that came to their end.
    pub comparisons: u64,
    /// Comparisons that the peer had no time for, and that were asked for again.
    pub refused: u64,
    /// Comparisons that failed.
    pub failures: u64,
    /// What was wrong since the last one that came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What was exchanged.
    #[serde(flatten)]
    pub exchanged: Tally,
}

/// Purging of deletions and ended rows, since the node started.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PurgeView {
    /// Rounds.
    pub rounds: u64,
    /// Rows removed by them, on all replicas together.
    pub rows: u64,
    /// Partitions that the last round could not purge, by the name of the node that is in the way.
    pub blocked_by: BTreeMap<String, usize>,
    /// This node's own watermark: below it, it has no hint and no write in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<u64>,
}

/// How far the scrub has come.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubView {
    /// Whether it runs by itself.
    pub enabled: bool,
    /// `RUNNING`, `ON_DEMAND` while a full cycle that was asked for is under way, or `OFF`.
    pub state: &'static str,
    /// The time of a full cycle by itself.
    pub cycle_ms: u64,
    /// How much of the present cycle is done, in thousandths.
    pub done_permille: u16,
    /// Rows verified since the node started.
    pub rows: u64,
    /// Damaged places found since the node started. Each has its partition healed from the other replicas.
    pub damaged: u64,
    /// Cycles that came to their end since the node started. The first one begins at a place drawn at random.
    pub cycles: u64,
    /// How long ago the last one ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cycle_age_ms: Option<u64>,
    /// Damaged places that it found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cycle_damaged: Option<u64>,
}
