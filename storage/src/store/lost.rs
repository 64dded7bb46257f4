//! What the store does about keys that the engine lost with a damaged file: it marks the partitions they were in, before
//! anything is served, and makes its key index whole again from the rows, which needs nobody else.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::engine::{Direction, LostRange, Space};
use crate::error::{DamagedRange, StoreError};
use crate::forest::leaf_rows;
use crate::keyspace::{KeyRange, after, decode_data_key, table_range};
use crate::merkle::{LEAVES_PER_PARTITION, LeafId, leaf_key};
use crate::model::TableId;
use crate::scan::index_key;
use crate::store::Store;
use crate::table::TableOptions;

/// Rows whose index entries are written together, or looked up.
const INDEX_STEP_ROWS: usize = 4096;

impl Store {
    /// Marks the partitions that something was lost from.
    pub(super) fn mark_lost(&self) -> Result<(), StoreError> {
        for (lost, table, _, range) in self.lost_of_tables() {
            let rows = match lost.space {
                Space::Data => range,
                Space::Merkle => self.rows_of_leaves(table, &range),
                // The index only finds rows, and without its notes an engine does not open.
                Space::Keys | Space::Meta => continue,
            };
            let damaged = DamagedRange::of_rows(table, rows, &lost.detail);
            self.mark_damaged(&damaged)?;
            self.damage.report(damaged);
        }
        Ok(())
    }

    /// Makes the key indexes fit the rows that are left.
    pub(super) fn mend_index(&self) -> Result<(), StoreError> {
        let (mut torn_rows, mut torn_index) = (BTreeSet::new(), BTreeSet::new());
        for (lost, table, ..) in self.lost_of_tables().filter(|(_, _, options, _)| options.prefix_index) {
            match lost.space {
                Space::Data => torn_rows.insert(table),
                Space::Keys => torn_index.insert(table),
                Space::Merkle | Space::Meta => continue,
            };
        }
        torn_index.into_iter().try_for_each(|table| self.restore_index(table))?;
        torn_rows.into_iter().try_for_each(|table| self.sweep_index(table))
    }

    /// What was lost, with each table that it reaches into.
    fn lost_of_tables(&self) -> impl Iterator<Item = (&LostRange, TableId, TableOptions, KeyRange)> {
        self.engine.lost().iter().flat_map(|lost| {
            let tables = self.tables().into_iter();
            tables.filter_map(move |(table, options)| {
                let range = lost.range.within(&table_range(table))?;
                Some((lost, table, options, range))
            })
        })
    }

    /// The rows under the leaves that a range of leaf keys of a table names.
    fn rows_of_leaves(&self, table: TableId, leaves: &KeyRange) -> KeyRange {
        let all = LeafId(u32::from(self.bits.partitions()) * LEAVES_PER_PARTITION);
        let first_behind = |key: &[u8]| {
            let mut low = 0;
            let mut high = all.0;
            // Leaf keys are in the order of the leaves.
            while low < high {
                let middle = low + (high - low) / 2;
                if leaf_key(table, LeafId(middle)).as_slice() < key { low = middle + 1 } else { high = middle }
            }
            LeafId(low)
        };
        let from = first_behind(&leaves.start);
        let to = if leaves.end.is_empty() { all } else { first_behind(&leaves.end) };
        leaf_rows(table, from, to.max(LeafId(from.0 + 1)).min(all), self.bits)
    }

    /// Writes the index entries of all rows of a table. Those that are there stay as they are.
    fn restore_index(&self, table: TableId) -> Result<(), StoreError> {
        tracing::warn!(%table, "the key index was damaged and is restored from the rows");
        let mut left = Some(table_range(table));
        while let Some(range) = left.take() {
            let mut rows = Vec::new();
            self.engine.scan(Space::Data, &range, Direction::Forward, &mut |key, _| {
                rows.push(key.to_vec());
                if rows.len() < INDEX_STEP_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            let keys = rows.iter().filter_map(|row| Some(index_key(table, &decode_data_key(row)?.2)));
            let keys: Vec<Vec<u8>> = keys.collect();
            self.write_changes(&mut self.commit.lock(), [], &mut |writes| {
                keys.iter().for_each(|key| writes.put(Space::Keys, key, &[]));
            })?;
            if let Some(last) = rows.last().filter(|_| rows.len() == INDEX_STEP_ROWS) {
                left = Some(KeyRange { start: after(last), end: range.end });
            }
        }
        Ok(())
    }

    /// Removes the index entries of rows that are gone.
    fn sweep_index(&self, table: TableId) -> Result<(), StoreError> {
        let mut step = self.sweep_index_step(table, None, INDEX_STEP_ROWS)?;
        while let Some(next) = step.next {
            step = self.sweep_index_step(table, Some(&next), INDEX_STEP_ROWS)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::keyspace::tokens_of_range;
    use crate::merkle::MerkleKey;
    use crate::model::{PartitionBits, Token};
    use crate::store::{Identity, StoreOptions};

    #[test]
    fn lost_leaves_name_the_rows_they_sum_up() {
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([0; 16]) };
        let store = Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap();
        let table = TableId(7);
        let tokens = |range: &KeyRange| {
            let rows = store.rows_of_leaves(table, range);
            tokens_of_range(table, &rows).unwrap()
        };
        let of = |from: u32, to: u32| (LeafId(from).tokens(store.bits()).0, LeafId(to).tokens(store.bits()).1);
        let key = |leaf: u32| leaf_key(table, LeafId(leaf)).to_vec();
        assert_eq!(tokens(&KeyRange { start: key(5), end: key(9) }), of(5, 8));
        assert_eq!(tokens(&KeyRange { start: key(5), end: after(&key(9)) }), of(5, 9));
        assert_eq!(tokens(&KeyRange { start: after(&key(5)), end: key(9) }), of(6, 8));
        assert_eq!(tokens(&KeyRange { start: after(&key(5)), end: key(6) }), of(6, 6), "at least one");
        assert_eq!(tokens(&table_range(table)), (Token(0), Token(u64::MAX)));
    }
}
