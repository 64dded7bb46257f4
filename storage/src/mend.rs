//! Deriving leaves from rows anew, once a damaged partition was copied: rows that were lost with a file are in its leaves
//! still, and when they come again they are added once more.
//!
//! Each step holds the lock that `apply` takes, so rows and leaves are those of one moment, and leaves a state in which
//! every leaf before its end is the sum of its rows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::engine::{Direction, EngineError, Space};
use crate::error::{DamagedRange, StoreError};
use crate::forest::{leaf_rows, read_leaves};
use crate::keyspace::decode_data_key;
use crate::merkle::{LeafId, LeafSum, leaf_key};
use crate::model::{PartitionId, RecordHeader, TableId};
use crate::store::Store;

impl Store {
    /// Derives the leaves of a partition anew from one of them on, until about `rows_max` rows were read; a leaf is never
    /// left half way. Where the next step begins. Rows that cannot be read are damage, and end it.
    pub fn derive_leaves_step(
        &self,
        table: TableId,
        partition: PartitionId,
        from: Option<LeafId>,
        rows_max: usize,
    ) -> Result<Option<LeafId>, StoreError> {
        self.tables.read().get(table)?;
        let mut commit = self.commit.lock();
        let (first, end) = LeafId::of_partition(partition);
        let from = from.unwrap_or(first);
        let range = leaf_rows(table, from, end, self.bits);
        let (mut derived, mut rows, mut next) = (BTreeMap::<LeafId, LeafSum>::new(), 0, None);
        let mut damaged = None;
        let read = self.engine.scan(Space::Data, &range, Direction::Forward, &mut |key, value| {
            let Some((_, token, _)) = decode_data_key(key) else { return ControlFlow::Continue(()) };
            let leaf = LeafId::of(token, self.bits);
            if rows >= rows_max.max(1) && !derived.contains_key(&leaf) {
                next = Some(leaf);
                return ControlFlow::Break(());
            }
            rows += 1;
            match RecordHeader::verify(key, value) {
                Ok(header) => {
                    let row = self.merkle_key.row(key, header.version, header.checksum);
                    let sum = derived.entry(leaf).or_default();
                    *sum = sum.plus(row);
                    ControlFlow::Continue(())
                }
                Err(damage) => {
                    damaged = Some(DamagedRange::of_row(table, key, damage));
                    ControlFlow::Break(())
                }
            }
        });
        if let Err(EngineError::Corruption { detail }) = &read {
            damaged = Some(DamagedRange::of_rows(table, range.clone(), detail));
        } else {
            read?;
        }
        if let Some(damaged) = damaged {
            drop(commit);
            return Err(self.damaged(damaged));
        }
        let stored = read_leaves(self.engine.as_ref(), table, from, next.unwrap_or(end))?;
        let stored: BTreeMap<LeafId, LeafSum> = stored.into_iter().collect();
        let wrong = |leaf: &&LeafId| {
            stored.get(leaf).copied().unwrap_or_default() != derived.get(leaf).copied().unwrap_or_default()
        };
        let leaves: Vec<LeafId> = stored.keys().chain(derived.keys()).filter(wrong).copied().collect();
        if !leaves.is_empty() {
            self.write(&mut commit, &range, &mut |writes| {
                for leaf in &leaves {
                    let key = leaf_key(table, *leaf);
                    match derived.get(leaf) {
                        Some(sum) => writes.put(Space::Merkle, &key, &sum.encode()),
                        None => writes.delete(Space::Merkle, &key),
                    }
                }
            })?;
            self.forest.lock().forget(table, partition);
        }
        Ok(next)
    }
}
