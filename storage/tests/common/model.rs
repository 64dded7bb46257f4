//! The model of one node: a map of rows by a total order, and the few numbers that the write path checks.
//!
//! It is written from the design's rules and as plainly as they can be said, so that what it disagrees with is wrong.

use std::collections::{BTreeMap, BTreeSet};

use cube_storage::model::{
    Batch, Body, Epoch, Hlc, Mutation, Origin, Outcome, PartitionBits, PartitionId, PlacementId, Record, RowKey,
    TableId,
};
use cube_storage::{RangeState, TableOptions};

use super::format;

/// The bytes of an engine's three key spaces of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spaces {
    pub(crate) data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) keys: BTreeSet<Vec<u8>>,
    pub(crate) merkle: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a node should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) bits: PartitionBits,
    pub(crate) tables: BTreeMap<TableId, TableOptions>,
    pub(crate) rows: BTreeMap<(TableId, RowKey), Record>,
    pub(crate) epochs: BTreeMap<(PlacementId, PartitionId), Epoch>,
    pub(crate) ranges: BTreeMap<(TableId, PartitionId), RangeState>,
    /// The oldest version that arrived since a proof was begun; forgotten when the node restarts.
    pub(crate) proofs: BTreeMap<(TableId, PartitionId), Hlc>,
}

/// The order among all records of a row: the greatest is kept.
pub(crate) fn rank(record: &Record) -> impl Ord + use<> {
    let (deletes, value, endless, end) = match &record.body {
        Body::Tombstone => (true, Vec::new(), false, 0),
        Body::Value { value, expiry } => (false, value.to_vec(), expiry.is_none(), expiry.map_or(0, |e| e.0)),
    };
    (record.version, deletes, value, endless, end)
}

/// Whether purge at `floor` takes this record.
pub(crate) fn purgeable(record: &Record, floor: Hlc) -> bool {
    let over = match &record.body {
        Body::Tombstone => true,
        Body::Value { expiry, .. } => expiry.is_some_and(|expiry| expiry.0 <= floor.millis()),
    };
    over && record.version.hlc <= floor
}

impl Model {
    pub(crate) fn new(bits: PartitionBits) -> Self {
        Self {
            bits,
            tables: BTreeMap::new(),
            rows: BTreeMap::new(),
            epochs: BTreeMap::new(),
            ranges: BTreeMap::new(),
            proofs: BTreeMap::new(),
        }
    }

    pub(crate) fn partition_of(&self, key: &RowKey) -> PartitionId {
        self.bits.partition_of(key.token())
    }

    pub(crate) fn range(&self, table: TableId, partition: PartitionId) -> RangeState {
        self.ranges.get(&(table, partition)).copied().unwrap_or_default()
    }

    pub(crate) fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        self.apply_together(std::slice::from_ref(batch)).concat()
    }

    /// What comes of batches that become visible at once: what did not outlast them never was.
    pub(crate) fn apply_together(&mut self, batches: &[Batch]) -> Vec<Vec<Outcome>> {
        let mut changed = BTreeSet::new();
        let mut outcomes = Vec::new();
        for batch in batches {
            let outcome = batch.mutations.iter().map(|mutation| self.judge(batch.origin, mutation));
            outcomes.push(outcome.collect::<Vec<_>>());
            let applied = batch.mutations.iter().zip(&outcomes[outcomes.len() - 1]);
            let applied = applied.filter(|(_, outcome)| **outcome == Outcome::Applied);
            changed.extend(applied.map(|(mutation, _)| (mutation.table, mutation.key.clone())));
        }
        for row in changed {
            self.arrived(row.0, self.partition_of(&row.1), self.rows[&row].version.hlc);
        }
        outcomes
    }

    fn judge(&mut self, origin: Origin, mutation: &Mutation) -> Outcome {
        let Mutation { table, key, record, claim } = mutation;
        let partition = self.partition_of(key);
        let epoch = self.epochs.get(&(self.tables[table].placement, partition)).copied().unwrap_or(Epoch(0));
        if claim.is_some_and(|claim| claim < epoch) {
            return Outcome::Fenced(epoch);
        }
        let row = (*table, key.clone());
        let floor = self.range(*table, partition).floor;
        if let Some(held) = self.rows.get(&row) {
            if held == record {
                return Outcome::Present;
            }
            if rank(held) > rank(record) {
                return Outcome::Superseded(held.version);
            }
        }
        if record.version.hlc <= floor {
            match origin {
                Origin::Replica { floor: theirs } if theirs >= floor => {
                    if !self.rows.contains_key(&row) && purgeable(record, floor) {
                        return Outcome::Present;
                    }
                }
                _ => return Outcome::BelowFloor(floor),
            }
        }
        self.rows.insert(row, record.clone());
        Outcome::Applied
    }

    fn arrived(&mut self, table: TableId, partition: PartitionId, version: Hlc) {
        if let Some(oldest) = self.proofs.get_mut(&(table, partition)) {
            *oldest = version.min(*oldest);
        }
        if let Some(range) = self.ranges.get_mut(&(table, partition))
            && range.synced_through >= version
        {
            range.synced_through = Hlc(version.0.saturating_sub(1));
        }
    }

    pub(crate) fn begin_proof(&mut self, table: TableId, partition: PartitionId) {
        self.proofs.insert((table, partition), Hlc(u64::MAX));
    }

    pub(crate) fn end_proof(&mut self, table: TableId, partition: PartitionId, horizon: Hlc) -> bool {
        let holds = self.proofs.remove(&(table, partition)).is_some_and(|oldest| oldest > horizon);
        if holds {
            let range = self.ranges.entry((table, partition)).or_default();
            range.synced_through = horizon.max(range.synced_through);
        }
        holds
    }

    /// Whether the floor may be raised.
    pub(crate) fn raise_floor(&mut self, table: TableId, partition: PartitionId, floor: Hlc) -> bool {
        let present = self.range(table, partition);
        if floor <= present.floor {
            return true;
        }
        if floor > present.synced_through {
            return false;
        }
        self.ranges.insert((table, partition), RangeState { floor, ..present });
        true
    }

    /// Removes what is dead below the floor, and says how much that was.
    pub(crate) fn purge(&mut self, table: TableId, partition: PartitionId) -> usize {
        let floor = self.range(table, partition).floor;
        self.remove(table, partition, |record| purgeable(record, floor))
    }

    /// Removes all rows of a partition. Nothing is proven of it any more.
    pub(crate) fn clear(&mut self, table: TableId, partition: PartitionId) -> usize {
        self.proofs.remove(&(table, partition));
        if let Some(range) = self.ranges.get_mut(&(table, partition)) {
            range.synced_through = Hlc(0);
        }
        self.remove(table, partition, |_| true)
    }

    fn remove(&mut self, table: TableId, partition: PartitionId, dead: impl Fn(&Record) -> bool) -> usize {
        let (before, bits) = (self.rows.len(), self.bits);
        self.rows
            .retain(|(of, key), record| *of != table || bits.partition_of(key.token()) != partition || !dead(record));
        before - self.rows.len()
    }

    pub(crate) fn drop_table(&mut self, table: TableId) {
        self.tables.remove(&table);
        self.rows.retain(|(of, _), _| *of != table);
        self.ranges.retain(|(of, _), _| *of != table);
        self.proofs.retain(|(of, _), _| *of != table);
    }

    /// The sum of each leaf that has rows, with their number, from scratch.
    pub(crate) fn leaves(&self) -> BTreeMap<(TableId, u32), (u128, i64)> {
        let mut leaves: BTreeMap<_, (u128, i64)> = BTreeMap::new();
        for ((table, key), record) in &self.rows {
            let hash = format::row_hash(&super::MERKLE_KEY.0, *table, key, record);
            let leaf = leaves.entry((*table, format::leaf(self.bits, key))).or_default();
            *leaf = (leaf.0.wrapping_add(hash), leaf.1 + 1);
        }
        leaves
    }

    /// The bytes that an engine must hold for these rows, and no others.
    pub(crate) fn spaces(&self) -> Spaces {
        let mut spaces = Spaces::default();
        for ((table, key), record) in &self.rows {
            let data_key = format::data_key(*table, key);
            spaces.data.insert(data_key.clone(), format::record(&data_key, record));
            if self.tables[table].prefix_index {
                spaces.keys.insert(format::index_key(*table, key));
            }
        }
        for ((table, leaf), (sum, rows)) in self.leaves() {
            spaces.merkle.insert(format::leaf_key(table, leaf), format::leaf_value(sum, rows));
        }
        spaces
    }
}
