//! What the node is told about its tables and partitions, and what it notes of itself. Each change is durable before
//! it counts and before the call returns.

use crate::clock::{Bound, BoundKeeper};
use crate::engine::Space;
use crate::error::StoreError;
use crate::keyspace::{KeyRange, table_range};
use crate::meta::{self, Tag};
use crate::model::{Epoch, Hlc, Invalid, PartitionId, PlacementId, TableId};
use crate::partition::{MarkGeneration, PartitionState, Partitions, RangeState, SyncState};
use crate::store::{Commit, Store};
use crate::table::{TableOptions, Tables};

impl Store {
    /// Adds a table or changes its options, except whether it keeps a prefix index: an index begun later would miss
    /// the rows there are.
    pub fn put_table(&self, table: TableId, options: TableOptions) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        if self.tables.read().get(table).is_ok_and(|present| present.prefix_index != options.prefix_index) {
            return Err(Invalid::PrefixIndexFixed { table }.into());
        }
        self.write_notes(&mut commit, [Tables::note(table, &options)])?;
        self.tables.write().insert(table, options);
        // It may be to be synced sooner than any other.
        self.queue.nudge();
        Ok(())
    }

    /// Removes a table with all its rows.
    pub fn drop_table(&self, table: TableId) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        self.tables.read().get(table)?;
        // Every space names the table first, so its range is the same in all of them.
        let range = table_range(table);
        let notes = KeyRange::prefix(Partitions::note_range_prefix(table));
        self.write(&mut commit, &range, &mut |writes| {
            for space in [Space::Data, Space::Keys, Space::Merkle] {
                writes.delete_range(space, &range);
            }
            writes.delete_range(Space::Meta, &notes);
            writes.delete(Space::Meta, &Tables::note_key(table));
        })?;
        self.tables.write().remove(table);
        self.partitions.write().forget_table(table);
        self.forest.lock().forget_table(table);
        Ok(())
    }

    /// The tables of this node.
    pub fn tables(&self) -> Vec<(TableId, TableOptions)> {
        self.tables.read().iter().collect()
    }

    /// The options of a table.
    pub fn table(&self, table: TableId) -> Result<TableOptions, StoreError> {
        Ok(self.tables.read().get(table)?)
    }

    /// What this node knows of a placement's partition.
    pub fn partition(&self, placement: PlacementId, partition: PartitionId) -> PartitionState {
        self.partitions.read().state(placement, partition)
    }

    /// What this node knows of a table's partition.
    pub fn range_state(&self, table: TableId, partition: PartitionId) -> RangeState {
        self.partitions.read().range(table, partition)
    }

    /// Refuses from now on what was counted by a map older than `epoch`.
    pub fn fence(&self, placement: PlacementId, partition: PartitionId, epoch: Epoch) -> Result<(), StoreError> {
        self.change_partition(placement, partition, |state| {
            if epoch < state.epoch {
                return Err(StoreError::EpochBehind { placement, partition, present: state.epoch, asked: epoch });
            }
            Ok(PartitionState { epoch, ..state })
        })
    }

    /// Declares a partition in sync or not.
    pub fn set_sync(&self, placement: PlacementId, partition: PartitionId, sync: SyncState) -> Result<(), StoreError> {
        self.change_partition(placement, partition, |state| Ok(PartitionState { sync, ..state }))
    }

    /// What this node knows of a placement's partition, and which of its marks it knows by now: for whoever begins to make
    /// it whole. See [`Store::mark_synced_if`].
    pub fn partition_marks(&self, placement: PlacementId, partition: PartitionId) -> (PartitionState, MarkGeneration) {
        let partitions = self.partitions.read();
        (partitions.state(placement, partition), partitions.marks(placement, partition))
    }

    /// The fence that a partition had when it was last found to have lost something; nothing when it has not. Only a copy
    /// behind a higher one can make it whole: what it acknowledged by this one, and lost, may reach the sources of a copy
    /// after they were read, be counted all the same, and then be held by one replica less than it was counted by.
    pub fn lost_at(&self, placement: PlacementId, partition: PartitionId) -> Option<Epoch> {
        self.partitions.read().lost_at(placement, partition)
    }

    /// Tells the reading that this node's clock began with.
    pub fn started_at(&self, reading: Hlc) {
        self.partitions.write().started_at(reading);
    }

    /// Declares a partition in sync if its map is still `epoch`, higher than [`Store::lost_at`], and nothing was marked since
    /// `marks`: then what made it whole speaks of all there is. Whether it did.
    pub fn mark_synced_if(
        &self,
        placement: PlacementId,
        partition: PartitionId,
        epoch: Epoch,
        marks: MarkGeneration,
    ) -> Result<bool, StoreError> {
        let mut commit = self.commit.lock();
        let (before, present) = self.partition_marks(placement, partition);
        let has_lost_since = self.lost_at(placement, partition).is_some_and(|lost_at| lost_at >= epoch);
        if before.epoch != epoch || present != marks || has_lost_since {
            return Ok(false);
        }
        if before.sync != SyncState::Synced {
            let after = PartitionState { sync: SyncState::Synced, ..before };
            self.change_states(&mut commit, placement, &[(partition, after)])?;
        }
        Ok(true)
    }

    /// Sets up many partitions of a placement at once, as when a cluster is created or a map arrives.
    pub fn set_partitions(
        &self,
        placement: PlacementId,
        states: impl IntoIterator<Item = (PartitionId, PartitionState)>,
    ) -> Result<(), StoreError> {
        let changes = states.into_iter().map(|(partition, state)| (partition, state.epoch, Some(state.sync)));
        self.fence_partitions(placement, changes)
    }

    /// Raises the fences of many partitions of a placement at once. Whether they are in sync is changed where that is
    /// given, and otherwise stays as it is at this moment: a mark that was set meanwhile is not taken away.
    pub fn fence_partitions(
        &self,
        placement: PlacementId,
        changes: impl IntoIterator<Item = (PartitionId, Epoch, Option<SyncState>)>,
    ) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        let mut states = Vec::new();
        for (partition, epoch, sync) in changes {
            let before = self.partition(placement, partition);
            if epoch < before.epoch {
                return Err(StoreError::EpochBehind { placement, partition, present: before.epoch, asked: epoch });
            }
            states.push((partition, PartitionState { epoch, sync: sync.unwrap_or(before.sync) }));
        }
        if states.is_empty() {
            return Ok(());
        }
        self.change_states(&mut commit, placement, &states)
    }

    fn change_partition(
        &self,
        placement: PlacementId,
        partition: PartitionId,
        change: impl FnOnce(PartitionState) -> Result<PartitionState, StoreError>,
    ) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        let before = self.partition(placement, partition);
        let after = change(before)?;
        // Where a note of it failed, the disk may say something else than memory does.
        if after == before && !commit.unnoted.contains_key(&Partitions::note_state(placement, partition, before).0) {
            return Ok(());
        }
        self.change_states(&mut commit, placement, &[(partition, after)])
    }

    /// Changes partitions of a placement, durably before it counts.
    fn change_states(
        &self,
        commit: &mut Commit,
        placement: PlacementId,
        states: &[(PartitionId, PartitionState)],
    ) -> Result<(), StoreError> {
        let note = |(partition, state)| Partitions::note_state(placement, partition, state);
        if let Err(error) = self.write_notes(commit, states.iter().copied().map(note)) {
            // It may have happened all the same, and must not outlive a refusal.
            let before = states.iter().map(|&(partition, _)| (partition, self.partition(placement, partition)));
            commit.unnoted.extend(before.map(note));
            return Err(error);
        }
        let mut partitions = self.partitions.write();
        states.iter().for_each(|&(partition, state)| partitions.set_state(placement, partition, state));
        Ok(())
    }

    /// Begins to watch for old versions that arrive while a partition is compared with its other replicas.
    pub fn begin_proof(&self, table: TableId, partition: PartitionId) -> Result<(), StoreError> {
        // A group under way has noted its versions already but cannot be read yet: the proof begins behind it.
        let _commit = self.commit.lock();
        self.tables.read().get(table)?;
        self.partitions.write().begin_proof(table, partition);
        Ok(())
    }

    /// Notes that a partition was found equal with all replicas as of `horizon`. Whether that still holds: something
    /// older may have arrived since [`Store::begin_proof`].
    pub fn end_proof(&self, table: TableId, partition: PartitionId, horizon: Hlc) -> Result<bool, StoreError> {
        let mut commit = self.commit.lock();
        self.tables.read().get(table)?;
        let mut partitions = self.partitions.write();
        let Some(proven) = partitions.end_proof(table, partition, horizon) else { return Ok(false) };
        let before = partitions.range(table, partition);
        let state = RangeState { synced_through: proven.max(before.synced_through), ..before };
        if let Err(error) = self.write_notes(&mut commit, [Partitions::note_range(table, partition, state)]) {
            // It may have happened all the same, and what arrives from here on would not take it back.
            commit.unnoted.extend([Partitions::note_range(table, partition, before)]);
            return Err(error);
        }
        partitions.set_range(table, partition, state);
        Ok(true)
    }

    /// Raises the purge floor of a table's partition, at most up to what is proven. A lower one than there is changes
    /// nothing.
    pub fn raise_floor(&self, table: TableId, partition: PartitionId, floor: Hlc) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        self.tables.read().get(table)?;
        let state = self.range_state(table, partition);
        if floor <= state.floor {
            return Ok(());
        }
        if floor > state.synced_through {
            let synced_through = state.synced_through;
            return Err(StoreError::FloorAboveProof { table, partition, floor, synced_through });
        }
        let state = RangeState { floor, ..state };
        self.write_notes(&mut commit, [Partitions::note_range(table, partition, state)])?;
        self.partitions.write().set_range(table, partition, state);
        Ok(())
    }
}

impl BoundKeeper for std::sync::Arc<Store> {
    fn keep(&self, of: Bound, bound: Hlc) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        self.write_notes(&mut commit, [(bound_key(of), bound.0.to_be_bytes().to_vec())])
    }

    fn kept(&self, of: Bound) -> Result<Option<Hlc>, StoreError> {
        let bound = self.engine.get(Space::Meta, &bound_key(of));
        let Some(bytes) = meta::needed(bound)? else { return Ok(None) };
        match <[u8; 8]>::try_from(bytes.as_ref()) {
            Ok(bound) => Ok(Some(Hlc(u64::from_be_bytes(bound)))),
            Err(_) => Err(crate::engine::EngineError::Unusable {
                detail: "the note of the clock's bound does not read back".into(),
            }
            .into()),
        }
    }
}

fn bound_key(of: Bound) -> Vec<u8> {
    match of {
        Bound::Readings => meta::key(Tag::ClockBound, &[]),
        Bound::Restamps => meta::key(Tag::ClockBound, &[1]),
    }
}
