//! Taking rows out: purge of what is dead everywhere, clearing a partition that is to be copied anew, and sweeping
//! index entries that point nowhere.
//!
//! All go in bounded steps under the same lock as `apply`, and keep rows, key index and leaves in step. A leaf whose
//! last row goes is removed with it.

use std::ops::ControlFlow;

use crate::engine::{Direction, EngineError, Space, Writes};
use crate::error::{DamagedRange, StoreError};
use crate::forest::read_leaves;
use crate::keyspace::{KeyRange, after, data_key, decode_data_key, decode_index_key, table_range, token_range};
use crate::merkle::{LeafId, LeafSum, leaf_key, leaf_range};
use crate::model::{Hlc, PartitionId, RecordHeader, TableId};
use crate::partition::{Partitions, RangeState, SyncState};
use crate::scan::index_key;
use crate::scrub::RowChange;
use crate::store::{Commit, Store};

/// How far a pass has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Rows, or index entries, looked at in this step.
    pub examined: usize,
    /// How many of them were removed.
    pub removed: usize,
    /// Where the next step begins; nothing when the pass is done.
    pub next: Option<RemovalCursor>,
}

/// Where a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalCursor(pub(crate) Vec<u8>);

struct Victim {
    data_key: Vec<u8>,
    /// What the row adds to its leaf; nothing is known of an unreadable one.
    header: Option<RecordHeader>,
}

/// What a step found in a range.
struct Found {
    examined: usize,
    victims: Vec<Victim>,
    next: Option<RemovalCursor>,
    /// Rows that were read and are damaged.
    damaged_rows: Vec<DamagedRange>,
    /// Reading ended in damage, with what the engine says.
    damage: Option<String>,
}

impl Store {
    /// Removes what the partition's purge floor says is dead everywhere: deletions, and ended values, no younger than
    /// the floor. Looks at `rows_max` rows at the most.
    pub fn purge_step(
        &self,
        table: TableId,
        partition: PartitionId,
        from: Option<&RemovalCursor>,
        rows_max: usize,
    ) -> Result<Removed, StoreError> {
        let options = self.tables.read().get(table)?;
        let mut commit = self.commit.lock();
        let floor = self.range_state(table, partition).floor;
        let mut range = self.rows_of(table, partition);
        if let Some(cursor) = from {
            range.start.clone_from(&cursor.0);
        }
        // A damaged row is no victim: it is marked, and healed.
        let dead = |header: Option<&RecordHeader>| header.is_some_and(|header| header.is_purgeable(floor));
        let Found { examined, victims, next, damaged_rows, damage } = self.find(table, &range, rows_max, dead)?;
        self.purge(&mut commit, table, options.prefix_index, &victims)?;
        drop(commit);
        for damaged in damaged_rows {
            // Purge goes on behind it; the error is for reads.
            self.damaged(damaged);
        }
        match damage {
            None => Ok(Removed { examined, removed: victims.len(), next }),
            Some(detail) => Err(self.damaged(DamagedRange::of_rows(table, range, detail))),
        }
    }

    /// Removes everything of a partition that is not in sync, `rows_max` rows at a time, readable or not. Its purge
    /// floor stays, so that what was purged elsewhere does not come back by way of this replica; its proof goes.
    ///
    /// Each step begins at the partition's start, so rows that are written meanwhile go too: whoever clears copies
    /// afterwards. Index entries of rows that could not be read may be left: see [`Store::sweep_index_step`].
    pub fn clear_step(&self, table: TableId, partition: PartitionId, rows_max: usize) -> Result<Removed, StoreError> {
        let options = self.tables.read().get(table)?;
        let mut commit = self.commit.lock();
        if self.partition(options.placement, partition).sync == SyncState::Synced {
            return Err(StoreError::ClearOfSynced { table, partition });
        }
        self.forget_proof(&mut commit, table, partition)?;
        let range = self.rows_of(table, partition);
        let found = self.find(table, &range, rows_max, |_| true)?;
        // What cannot be read goes with the whole range, once all before it is gone.
        let goes_on = found.next.is_some() || (found.damage.is_some() && !found.victims.is_empty());
        self.write(&mut commit, &range, &mut |writes| {
            fill_index_removal(writes, table, options.prefix_index, &found.victims);
            if goes_on {
                self.fill_cleared(writes, table, partition, &found);
            } else {
                let (from, to) = LeafId::of_partition(partition);
                writes.delete_range(Space::Data, &range);
                writes.delete_range(Space::Merkle, &leaf_range(table, from, to));
            }
        })?;
        self.forest.lock().forget(table, partition);
        // Marked it is already.
        found.damaged_rows.into_iter().for_each(|damaged| self.damage.report(damaged));
        let next = goes_on.then(|| found.next.unwrap_or(RemovalCursor(range.start)));
        Ok(Removed { examined: found.examined, removed: found.victims.len(), next })
    }

    /// Removes entries of a table's key index that point nowhere, as are left where rows were lost to damage. Scans
    /// pass over them, so this is for order and not for truth.
    pub fn sweep_index_step(
        &self,
        table: TableId,
        from: Option<&RemovalCursor>,
        entries_max: usize,
    ) -> Result<Removed, StoreError> {
        self.tables.read().get(table)?;
        let mut commit = self.commit.lock();
        let mut range = table_range(table);
        if let Some(cursor) = from {
            range.start.clone_from(&cursor.0);
        }
        let (mut entries, mut next) = (Vec::new(), None);
        let read = self.engine.scan(Space::Keys, &range, Direction::Forward, &mut |key, _| {
            if entries.len() == entries_max.max(1) {
                next = Some(RemovalCursor(key.to_vec()));
                return ControlFlow::Break(());
            }
            entries.push(key.to_vec());
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            drop(commit);
            return Err(match error {
                EngineError::Corruption { detail } => self.damaged(DamagedRange::of_index(table, range, detail)),
                error => error.into(),
            });
        }
        let strays = self.strays(table, &entries)?;
        if !strays.is_empty() {
            let mut fill = |writes: &mut dyn Writes| strays.iter().for_each(|key| writes.delete(Space::Keys, key));
            self.write_changes(&mut commit, [], &mut fill)?;
        }
        Ok(Removed { examined: entries.len(), removed: strays.len(), next })
    }

    /// The index entries that have no row. One whose row is damaged has one.
    fn strays<'a>(&self, table: TableId, entries: &'a [Vec<u8>]) -> Result<Vec<&'a Vec<u8>>, EngineError> {
        let rows = entries.iter().filter_map(|entry| Some((entry, data_key(table, &decode_index_key(entry)?.1))));
        let rows: Vec<(&Vec<u8>, Vec<u8>)> = rows.collect();
        let keys: Vec<&[u8]> = rows.iter().map(|(_, data_key)| data_key.as_slice()).collect();
        let (mut strays, mut failed) = (Vec::new(), None);
        self.engine.multi_get(Space::Data, &keys, &mut |place, value| match value {
            Ok(None) => strays.extend(rows.get(place).map(|(entry, _)| *entry)),
            Ok(Some(_)) | Err(EngineError::Corruption { .. }) => {}
            Err(error) => {
                failed.get_or_insert(error);
            }
        });
        failed.map_or(Ok(strays), Err)
    }

    pub(crate) fn rows_of(&self, table: TableId, partition: PartitionId) -> KeyRange {
        let (first, last) = self.bits.tokens_of(partition);
        token_range(table, first, last)
    }

    /// Takes back, durably, what was proven of a partition that is about to lose its rows.
    fn forget_proof(&self, commit: &mut Commit, table: TableId, partition: PartitionId) -> Result<(), StoreError> {
        let mut partitions = self.partitions.write();
        partitions.cancel_proof(table, partition);
        let state = partitions.range(table, partition);
        if state.synced_through == Hlc(0) {
            return Ok(());
        }
        let state = RangeState { synced_through: Hlc(0), ..state };
        self.write_notes(commit, [Partitions::note_range(table, partition, state)])?;
        partitions.set_range(table, partition, state);
        Ok(())
    }

    fn find(
        &self,
        table: TableId,
        range: &KeyRange,
        rows_max: usize,
        dead: impl Fn(Option<&RecordHeader>) -> bool,
    ) -> Result<Found, StoreError> {
        let mut found = Found { examined: 0, victims: Vec::new(), next: None, damaged_rows: Vec::new(), damage: None };
        let read = self.engine.scan(Space::Data, range, Direction::Forward, &mut |key, value| {
            if found.examined == rows_max.max(1) {
                found.next = Some(RemovalCursor(key.to_vec()));
                return ControlFlow::Break(());
            }
            found.examined += 1;
            let header = match RecordHeader::verify(key, value) {
                Ok(header) => Some(header),
                Err(damage) => {
                    found.damaged_rows.push(DamagedRange::of_row(table, key, damage));
                    None
                }
            };
            if dead(header.as_ref()) {
                found.victims.push(Victim { data_key: key.to_vec(), header });
            }
            ControlFlow::Continue(())
        });
        match read {
            Ok(()) => {}
            Err(EngineError::Corruption { detail }) => found.damage = Some(detail),
            Err(error) => return Err(error.into()),
        }
        Ok(found)
    }

    fn purge(&self, commit: &mut Commit, table: TableId, indexed: bool, victims: &[Victim]) -> Result<(), StoreError> {
        if victims.is_empty() {
            return Ok(());
        }
        let deltas = self.leaf_deltas(victims);
        let emptied = self.emptied_leaves(table, &deltas)?;
        let changes = victims.iter().filter_map(|victim| self.removal_of(victim));
        self.write_changes(commit, changes, &mut |writes| {
            fill_index_removal(writes, table, indexed, victims);
            victims.iter().for_each(|victim| writes.delete(Space::Data, &victim.data_key));
            for (leaf, delta) in &deltas {
                let key = leaf_key(table, *leaf);
                if emptied.contains(leaf) { writes.delete(Space::Merkle, &key) } else { writes.add(&key, *delta) }
            }
        })?;
        let mut forest = self.forest.lock();
        deltas.into_iter().for_each(|(leaf, delta)| forest.add(table, leaf, delta));
        drop(forest);
        self.counters.count_purged(victims.len());
        Ok(())
    }

    /// What removing a row takes from its leaf.
    fn removal_of<'a>(&self, victim: &'a Victim) -> Option<RowChange<'a>> {
        let Victim { data_key, header } = victim;
        let ((table, token, _), header) = (decode_data_key(data_key)?, header.as_ref()?);
        let delta = LeafSum::ZERO.minus(self.merkle_key.row(data_key, header.version, header.checksum));
        Some(RowChange { table, leaf: LeafId::of(token, self.bits), data_key, delta })
    }

    /// What removing rows takes from their leaves. The rows are in token order, so those of a leaf come together.
    fn leaf_deltas(&self, victims: &[Victim]) -> Vec<(LeafId, LeafSum)> {
        let mut deltas: Vec<(LeafId, LeafSum)> = Vec::new();
        for RowChange { leaf, delta, .. } in victims.iter().filter_map(|victim| self.removal_of(victim)) {
            match deltas.last_mut() {
                Some((last, sum)) if *last == leaf => *sum = sum.plus(delta),
                _ => deltas.push((leaf, delta)),
            }
        }
        deltas
    }

    /// The leaves that hold nothing after the change. One that cannot be read is left to be added to, and found by
    /// whoever reads it.
    fn emptied_leaves(&self, table: TableId, deltas: &[(LeafId, LeafSum)]) -> Result<Vec<LeafId>, StoreError> {
        let mut emptied = Vec::new();
        for (leaf, delta) in deltas {
            match read_leaves(self.engine.as_ref(), table, *leaf, LeafId(leaf.0 + 1)) {
                Ok(present) => {
                    let present = present.first().map(|(_, sum)| *sum).unwrap_or_default();
                    if present.plus(*delta).is_zero() {
                        emptied.push(*leaf);
                    }
                }
                Err(EngineError::Corruption { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(emptied)
    }

    /// Removes a partition's rows up to the last that was found, and the leaves that are empty now. As ranges, so that
    /// the next step does not pass over each of them again.
    fn fill_cleared(&self, writes: &mut dyn Writes, table: TableId, partition: PartitionId, found: &Found) {
        let Some(last) = found.victims.last().map(|victim| victim.data_key.as_slice()) else { return };
        // What comes next is in the leaf of the row that stays first, or somewhere from the last row on.
        let first_left = found.next.as_ref().map_or(last, |next| &next.0);
        let leaf_of = |key: &[u8]| Some(LeafId::of(decode_data_key(key)?.1, self.bits));
        let Some(leaf) = leaf_of(first_left) else { return };
        let rows = KeyRange { start: self.rows_of(table, partition).start, end: after(last) };
        writes.delete_range(Space::Data, &rows);
        writes.delete_range(Space::Merkle, &leaf_range(table, LeafId::of_partition(partition).0, leaf));
        if let Some((_, delta)) = self.leaf_deltas(&found.victims).last().filter(|(of, _)| *of == leaf) {
            writes.add(&leaf_key(table, leaf), *delta);
        }
    }

    /// How many rows purge at `floor` would still have to remove from a partition: none once a pass is done. It reads all
    /// of them, so it is for tests; [`Store::look_for_dead`] tells whether there are any.
    pub fn count_purgeable(&self, table: TableId, partition: PartitionId, floor: Hlc) -> Result<usize, StoreError> {
        self.tables.read().get(table)?;
        let mut count = 0;
        self.engine.scan(Space::Data, &self.rows_of(table, partition), Direction::Forward, &mut |key, value| {
            count += usize::from(RecordHeader::verify(key, value).is_ok_and(|header| header.is_purgeable(floor)));
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }
}

fn fill_index_removal(writes: &mut dyn Writes, table: TableId, indexed: bool, victims: &[Victim]) {
    for victim in victims {
        if let (true, Some((_, _, row))) = (indexed, decode_data_key(&victim.data_key)) {
            writes.delete(Space::Keys, &index_key(table, &row));
        }
    }
}
