//! Adopting a newer state of the cluster: what a replica does before the new map counts for it.
//!
//! Invariants: a partition's fence rises only after everything the new map demands is durable, so the replica refuses
//! writes counted by a map it has not adopted (`replica.rs`) and an earlier life's rows are gone before the first of them
//! arrives; a partition that is not held, or not held yet, is marked unsynced before anything is removed.

use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId};
use cube_storage::{PartitionState, Store, StoreError, SyncState, UnsyncedCause};

use crate::catalog::ClusterState;
use crate::topology::{PartitionMap, Placement, Step};

/// What changed for this node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Partitions whose older maps are refused from now on.
    pub fenced: Vec<(PlacementId, PartitionId, Epoch)>,
    /// Partitions that it is to hold and does not yet: what an earlier time left of them is gone.
    pub cleared: Vec<(PlacementId, PartitionId)>,
}

/// Rows removed in one step while an earlier life is cleared.
const CLEAR_ROWS_PER_STEP: usize = 1024;
/// Partitions cleared in one step: each takes a durable write for every table, be it that it holds no row.
const CLEAR_PARTITIONS_PER_STEP: usize = 16;

/// What a node is to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It is among the first that ever held the partition: there is nothing to copy.
    Founder,
    /// It is to hold it, and takes writes while it copies.
    Newcomer,
    /// It holds it as before, or not as before but with a copy that was found complete.
    Holder,
    /// It does not hold it.
    Stranger,
}

/// Takes a state in: tables, then for every partition with a newer map what the map demands, then the fence. What fails
/// keeps nothing else from being taken in; the first failure is told.
pub fn adopt(store: &Arc<Store>, me: NodeId, state: &ClusterState) -> Result<Adopted, StoreError> {
    let mut adopted = Adopted::default();
    loop {
        let step = adopt_step(store, me, state);
        adopted.fenced.extend(step.adopted.fenced);
        adopted.cleared.extend(step.adopted.cleared);
        match step.error {
            Some(error) => return Err(error),
            None if step.is_complete => return Ok(adopted),
            None => {}
        }
    }
}

/// What one step of adopting did.
#[derive(Default)]
pub(super) struct AdoptStep {
    pub(super) adopted: Adopted,
    /// Nothing is left to be cleared.
    pub(super) is_complete: bool,
    /// The first failure. What failed is tried again by the next step.
    pub(super) error: Option<StoreError>,
}

impl AdoptStep {
    fn succeeded(&mut self, result: Result<(), StoreError>, about: &str) -> bool {
        let Err(error) = result else { return true };
        tracing::warn!(%error, "{about}");
        self.error.get_or_insert(error);
        false
    }
}

/// A partition that is to be cleared before its fence rises.
struct ToClear {
    placement: PlacementId,
    partition: PartitionId,
    epoch: Epoch,
}

/// Does a bounded part of taking a state in: the tables and all fences that can rise at once, then some of the clearing.
pub(super) fn adopt_step(store: &Arc<Store>, me: NodeId, state: &ClusterState) -> AdoptStep {
    let mut step = AdoptStep::default();
    for (table, options) in state.schema.table_options() {
        if store.table(table) != Ok(options) {
            step.succeeded(store.put_table(table, options), "a table is not taken in");
        }
    }
    let mut to_clear = Vec::new();
    for (placement, maps) in state.topology.placements() {
        fence_at_once(store, me, (placement, maps), &mut step, &mut to_clear);
    }
    clear_some(store, to_clear, &mut step);
    step
}

/// Raises the fences of a placement that need no clearing, and marks what is to be cleared, in one write.
fn fence_at_once(
    store: &Arc<Store>,
    me: NodeId,
    (placement, maps): (PlacementId, &Placement),
    step: &mut AdoptStep,
    to_clear: &mut Vec<ToClear>,
) {
    let (mut fenced, mut changes, mut newcomers) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, map) in maps.partitions() {
        let (before, epoch) = (store.partition(placement, partition), map.epoch());
        if epoch <= before.epoch {
            continue;
        }
        let sync = match role(me, map, before) {
            Role::Newcomer => {
                newcomers.push(ToClear { placement, partition, epoch });
                if before.sync == SyncState::Synced {
                    changes.push((partition, before.epoch, Some(SyncState::Unsynced(UnsyncedCause::New))));
                }
                continue;
            }
            Role::Founder => Some(SyncState::Synced),
            Role::Holder => None,
            // Its rows are removed a while later (`leftovers.rs`), or when it becomes a replica again.
            Role::Stranger => Some(SyncState::Unsynced(UnsyncedCause::New)),
        };
        changes.push((partition, epoch, sync));
        fenced.push((placement, partition, epoch));
    }
    if step.succeeded(store.fence_partitions(placement, changes), "the fences of a placement do not rise") {
        step.adopted.fenced.extend(fenced);
        to_clear.extend(newcomers);
    }
}

/// Clears partitions one after another, and raises the fence of each behind it. A partition that fails is passed over.
fn clear_some(store: &Arc<Store>, to_clear: Vec<ToClear>, step: &mut AdoptStep) {
    let (mut rows_left, mut partitions_left) = (CLEAR_ROWS_PER_STEP, CLEAR_PARTITIONS_PER_STEP);
    for ToClear { placement, partition, epoch } in to_clear {
        if rows_left == 0 || partitions_left == 0 {
            return;
        }
        let cleared = match clear(store, placement, partition, &mut rows_left) {
            Ok(false) => return,
            Ok(true) => {
                let new = SyncState::Unsynced(UnsyncedCause::New);
                store.fence_partitions(placement, [(partition, epoch, Some(new))])
            }
            Err(error) => Err(error),
        };
        if step.succeeded(cleared, "a partition is not cleared") {
            partitions_left -= 1;
            step.adopted.fenced.push((placement, partition, epoch));
            step.adopted.cleared.push((placement, partition));
        }
    }
    step.is_complete = step.error.is_none();
}

fn role(me: NodeId, map: &PartitionMap, before: PartitionState) -> Role {
    let (held_before, is_new) = match map.step() {
        Step::Stable { replicas } => (replicas.contains(me), false),
        Step::WriteBoth { old, new } => (old.contains(me), new.contains(me)),
        Step::ReadNew { old, new } => (old.contains(me) || new.contains(me), false),
    };
    match (held_before, is_new) {
        // Nobody else becomes a holder without having been found complete, and been marked in sync by that.
        (true, _) if before.sync == SyncState::Unsynced(UnsyncedCause::New) && is_stable(map) => Role::Founder,
        (true, _) => Role::Holder,
        (false, true) => Role::Newcomer,
        (false, false) => Role::Stranger,
    }
}

fn is_stable(map: &PartitionMap) -> bool {
    matches!(map.step(), Step::Stable { .. })
}

/// Removes what an earlier time left behind, as many rows as are left. Whether that is all.
pub(super) fn clear(
    store: &Arc<Store>,
    placement: PlacementId,
    partition: PartitionId,
    rows_left: &mut usize,
) -> Result<bool, StoreError> {
    for (table, options) in store.tables() {
        if options.placement != placement {
            continue;
        }
        loop {
            let rows_max = (*rows_left).max(1);
            let removed = store.clear_step(table, partition, rows_max)?;
            *rows_left = rows_left.saturating_sub(removed.removed);
            if removed.next.is_none() {
                break;
            }
            if *rows_left == 0 {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
