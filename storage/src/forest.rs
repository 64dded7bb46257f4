//! The Merkle trees of a node in memory: inner nodes only, each tree summed up from its leaves when it is first asked
//! for, and kept true by every commit.
//!
//! Invariant: a tree that is here equals the sum of its persisted leaves at every moment that no commit is under way.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::dead::Dead;
use crate::engine::{Direction, EngineError, Reader, Space};
use crate::error::{DamagedRange, StoreError};
use crate::keyspace::{KeyRange, token_range};
use crate::merkle::{LeafId, LeafSum, NodeIndex, Tree, Young, YoungChange, decode_leaf_key, leaf_range};
use crate::model::{Hlc, PartitionBits, PartitionId, TableId};
use crate::store::Store;

#[derive(Default)]
pub(crate) struct Forest {
    trees: BTreeMap<(TableId, PartitionId), Tree>,
    /// Changes that the trees hold already and comparisons leave out.
    young: Young,
    /// From which purge floors on there is something to purge.
    pub(crate) dead: Dead,
}

impl Forest {
    /// Takes a committed change into its tree, if that is here.
    pub(crate) fn add(&mut self, table: TableId, leaf: LeafId, delta: LeafSum) {
        if let Some(tree) = self.trees.get_mut(&(table, leaf.partition())) {
            tree.add(leaf, delta);
        }
    }

    /// Notes one committed change of a row apart, where anybody compares.
    pub(crate) fn note_young(&mut self, change: YoungChange) {
        if self.trees.contains_key(&(change.table, change.leaf.partition())) {
            self.young.add(change);
        }
    }

    /// The changes above a horizon.
    pub(crate) fn young_above(&mut self, horizon: Hlc) -> Vec<YoungChange> {
        self.young.above(horizon)
    }

    /// A tree that is here.
    pub(crate) fn tree(&self, table: TableId, partition: PartitionId) -> Option<&Tree> {
        self.trees.get(&(table, partition))
    }

    pub(crate) fn forget(&mut self, table: TableId, partition: PartitionId) {
        self.trees.remove(&(table, partition));
        self.young.forget(|of, leaf| of == table && leaf.partition() == partition);
        self.dead.forget(|of, at| (of, at) == (table, partition));
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn forget_table(&mut self, table: TableId) {
        self.trees.retain(|&(of, _), _| of != table);
        self.young.forget(|of, _| of == table);
        self.dead.forget(|of, _| of == table);
    }
}

impl Store {
    /// The sum of all rows of a partition of a table.
    pub fn root(&self, table: TableId, partition: PartitionId) -> Result<LeafSum, StoreError> {
        self.with_tree(table, partition, Tree::root)
    }

    /// The inner nodes of a level (0 is the root) that have rows, in order.
    pub fn nodes(
        &self,
        table: TableId,
        partition: PartitionId,
        level: u8,
    ) -> Result<Vec<(NodeIndex, LeafSum)>, StoreError> {
        self.with_tree(table, partition, |tree| tree.level(level))
    }

    /// The leaves from `from` up to but without `to` that have rows, in order.
    pub fn leaves(&self, table: TableId, from: LeafId, to: LeafId) -> Result<Vec<(LeafId, LeafSum)>, StoreError> {
        self.tables.read().get(table)?;
        read_leaves(self.engine.as_ref(), table, from, to).map_err(|error| self.leaf_error(table, from, to, error))
    }

    fn with_tree<T>(
        &self,
        table: TableId,
        partition: PartitionId,
        look: impl FnOnce(&Tree) -> T,
    ) -> Result<T, StoreError> {
        self.tables.read().get(table)?;
        if let Some(tree) = self.forest.lock().trees.get(&(table, partition)) {
            return Ok(look(tree));
        }
        // No commit runs between reading the leaves and taking the tree in, so none is missed or counted twice.
        let commit = self.commit.lock();
        let (from, to) = LeafId::of_partition(partition);
        let leaves = match read_leaves(self.engine.as_ref(), table, from, to) {
            Ok(leaves) => leaves,
            Err(error) => {
                drop(commit);
                return Err(self.leaf_error(table, from, to, error));
            }
        };
        let mut tree = Tree::default();
        for (leaf, sum) in leaves {
            tree.add(leaf, sum);
        }
        let mut forest = self.forest.lock();
        Ok(look(forest.trees.entry((table, partition)).or_insert(tree)))
    }

    /// Leaves that cannot be read are damage of the rows they sum up: what these should be is not known any more.
    pub(crate) fn leaf_error(&self, table: TableId, from: LeafId, to: LeafId, error: EngineError) -> StoreError {
        match error {
            EngineError::Corruption { detail } => {
                self.damaged(DamagedRange::of_rows(table, leaf_rows(table, from, to, self.bits), detail))
            }
            error => error.into(),
        }
    }
}

/// The rows under the leaves from `from` up to but without `to`.
pub(crate) fn leaf_rows(table: TableId, from: LeafId, to: LeafId, bits: PartitionBits) -> KeyRange {
    let last = LeafId(to.0.saturating_sub(1));
    token_range(table, from.tokens(bits).0, last.tokens(bits).1)
}

/// The leaves of a range that have rows.
pub(crate) fn read_leaves(
    reader: &dyn Reader,
    table: TableId,
    from: LeafId,
    to: LeafId,
) -> Result<Vec<(LeafId, LeafSum)>, EngineError> {
    let mut leaves = Vec::new();
    let mut unreadable = None;
    reader.scan(Space::Merkle, &leaf_range(table, from, to), Direction::Forward, &mut |key, value| match (
        decode_leaf_key(key),
        LeafSum::decode(value),
    ) {
        (Some((_, leaf)), Some(sum)) => {
            if !sum.is_zero() {
                leaves.push((leaf, sum));
            }
            ControlFlow::Continue(())
        }
        _ => {
            unreadable = Some(format!("the Merkle leaf {} does not read back", key.escape_ascii()));
            ControlFlow::Break(())
        }
    })?;
    match unreadable {
        Some(detail) => Err(EngineError::Corruption { detail }),
        None => Ok(leaves),
    }
}
