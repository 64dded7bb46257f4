//! Removing the rows of partitions that this node does not hold any more.
//!
//! When it may be done: the change is complete (the map is stable and leaves this node out), its fence is durable here, so
//! no request of an older map is taken any more, and [`REMOVE_AFTER_MS`] have passed since, so that whoever was answered by
//! the old map has long had its answer. What the rows were needed for is elsewhere by then: everything that was
//! acknowledged by quorum was copied to the new replicas before reads moved to them, hints hold the rows they are about,
//! and a partition that is not held is marked unsynced, so nobody reads or copies it from here. A node that becomes a
//! replica again clears the partition anyhow, before its fence rises, in the same worker.
//!
//! It is done in bounded steps (`Store::clear_step`: rows, key index and leaves), each of which leaves a state to go on
//! from. Nothing is remembered of it on disk: behind a restart, clearing what is empty costs a write for each table.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId};
use cube_storage::{Store, StoreError, SyncState};

use super::adopt::clear;
use crate::catalog::ClusterState;
use crate::topology::Step;

/// How long rows stay after the change: more than twice the usual time of a request.
pub(super) const REMOVE_AFTER_MS: u64 = 5_000;
/// Rows removed in one step.
const REMOVE_ROWS_PER_STEP: usize = 1_024;
/// Partitions looked at in one step: each takes a durable write for every table.
const REMOVE_PARTITIONS_PER_STEP: usize = 4;

/// How far a partition's removal has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// Not before this time.
    DueAt(u64),
    Done,
}

/// What is left of partitions that are not held any more.
#[derive(Default)]
pub(super) struct Leftovers(BTreeMap<(PlacementId, PartitionId, Epoch), Removal>);

/// What a step did.
#[derive(Default)]
pub(super) struct RemoveStep {
    pub(super) rows: u64,
    /// There is more that is due.
    pub(super) goes_on: bool,
    pub(super) error: Option<StoreError>,
}

impl Leftovers {
    /// Removes some of what is due.
    pub(super) fn remove_some(
        &mut self,
        store: &Arc<Store>,
        me: NodeId,
        state: &ClusterState,
        now_ms: u64,
    ) -> RemoveStep {
        self.look(store, me, state, now_ms);
        let mut step = RemoveStep::default();
        let mut rows_left = REMOVE_ROWS_PER_STEP;
        let is_due = |removal: &Removal| matches!(removal, Removal::DueAt(due_ms) if *due_ms <= now_ms);
        let mut due = self.0.iter_mut().filter(|(_, removal)| is_due(removal));
        for (&(placement, partition, _), removal) in due.by_ref().take(REMOVE_PARTITIONS_PER_STEP) {
            let before = rows_left;
            let cleared = clear(store, placement, partition, &mut rows_left);
            step.rows += (before - rows_left) as u64;
            match cleared {
                Ok(true) => *removal = Removal::Done,
                Ok(false) => {
                    step.goes_on = true;
                    return step;
                }
                Err(error) => {
                    tracing::warn!(%error, %partition, "what is left of a partition is not removed");
                    step.error.get_or_insert(error);
                }
            }
        }
        step.goes_on = due.next().is_some() && step.error.is_none();
        step
    }

    /// Which partitions are left behind by this state.
    fn look(&mut self, store: &Store, me: NodeId, state: &ClusterState, now_ms: u64) {
        let known = std::mem::take(&mut self.0);
        for (placement, maps) in state.topology.placements() {
            for (partition, map) in maps.partitions() {
                let held = store.partition(placement, partition);
                let is_left = matches!(map.step(), Step::Stable { replicas } if !replicas.contains(me))
                    && held.epoch == map.epoch()
                    && held.sync != SyncState::Synced;
                if is_left {
                    let key = (placement, partition, map.epoch());
                    let removal = known.get(&key).copied().unwrap_or(Removal::DueAt(now_ms + REMOVE_AFTER_MS));
                    self.0.insert(key, removal);
                }
            }
        }
    }
}
