//! Adopting a newer state of the cluster: what a replica does before the new map counts for it.
//!
//! Invariants: a partition's fence rises only after everything the new map demands is durable, so the replica refuses
//! writes counted by a map it has not adopted (`replica.rs`) and an earlier life's rows are gone before the first of them
//! arrives; a partition that is not held, or not held yet, is marked unsynced before anything is removed.

use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId};
use cube_storage::{PartitionState, Store, StoreError, SyncState, UnsyncedCause};

use crate::catalog::ClusterState;
use crate::topology::{PartitionMap, Step};

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

/// Takes a state in: tables, then for every partition with a newer map what the map demands, then the fence.
pub fn adopt(store: &Arc<Store>, me: NodeId, state: &ClusterState) -> Result<Adopted, StoreError> {
    for (table, options) in state.schema.table_options() {
        if store.table(table) != Ok(options) {
            store.put_table(table, options)?;
        }
    }
    let mut adopted = Adopted::default();
    for (placement, maps) in state.topology.placements() {
        let newer =
            maps.partitions().filter(|(partition, map)| map.epoch() > store.partition(placement, *partition).epoch);
        for (partition, map) in newer {
            if adopt_map(store, me, placement, partition, map)? == Role::Newcomer {
                adopted.cleared.push((placement, partition));
            }
            adopted.fenced.push((placement, partition, map.epoch()));
        }
    }
    Ok(adopted)
}

fn adopt_map(
    store: &Arc<Store>,
    me: NodeId,
    placement: PlacementId,
    partition: PartitionId,
    map: &PartitionMap,
) -> Result<Role, StoreError> {
    let before = store.partition(placement, partition);
    let role = role(me, map, before);
    let sync = match role {
        Role::Founder => SyncState::Synced,
        Role::Holder => before.sync,
        Role::Newcomer => {
            clear(store, placement, partition, before)?;
            SyncState::Unsynced(UnsyncedCause::New)
        }
        // Its rows are removed when it becomes a replica again, or by whoever needs the room.
        Role::Stranger => SyncState::Unsynced(UnsyncedCause::New),
    };
    store.set_partitions(placement, [(partition, PartitionState { epoch: map.epoch(), sync })])?;
    Ok(role)
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

/// Removes what an earlier time left behind.
fn clear(
    store: &Arc<Store>,
    placement: PlacementId,
    partition: PartitionId,
    before: PartitionState,
) -> Result<(), StoreError> {
    if before.sync == SyncState::Synced {
        store.set_sync(placement, partition, SyncState::Unsynced(UnsyncedCause::New))?;
    }
    for (table, options) in store.tables() {
        if options.placement != placement {
            continue;
        }
        while store.clear_step(table, partition, CLEAR_ROWS_PER_STEP)?.next.is_some() {}
    }
    Ok(())
}
