//! What two replicas tell each other to find where they differ: sums as of a horizon, pieces of a hot leaf, and the
//! versions of the rows of a leaf.
//!
//! A sum as of a horizon leaves out what was written above it, as far as that is still known (`merkle/young.rs`): it may
//! hold more, never less, so a difference at or below the horizon is always seen. Everything is read in bounded pieces,
//! and every record that is listed was verified against its key: damage is an error that marks the partition, and is
//! never told to a peer as a version.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::engine::{Direction, EngineError, Space};
use crate::error::{DamagedRange, StoreError};
use crate::forest::{leaf_rows, read_leaves};
use crate::keyspace::{KeyRange, after, data_key, decode_data_key};
use crate::merkle::{DEPTH, FAN_OUT, LeafId, LeafSum, NodeIndex, Tree, YoungChange, sums};
use crate::model::{Hlc, PartitionId, RecordHeader, RowKey, TableId};
use crate::store::Store;

/// What identifies the version of a row that a replica holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDigest {
    /// The row.
    pub key: RowKey,
    /// Version, checksum, and what decides whether it is purged.
    pub header: RecordHeader,
}

/// Some rows of a leaf in their order.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeaderPage {
    /// The rows.
    pub rows: Vec<RowDigest>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// The sum of some neighbouring rows of a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The last of them; the first stands behind the last of the piece before.
    pub last: RowKey,
    /// Their sum.
    pub sum: LeafSum,
}

/// Rows of a leaf between two of them.
#[derive(Clone, Copy, Debug)]
pub struct LeafSpan<'a> {
    /// The table.
    pub table: TableId,
    /// The leaf.
    pub leaf: LeafId,
    /// Behind this row.
    pub after: Option<&'a RowKey>,
    /// Up to this row, itself included.
    pub upto: Option<&'a RowKey>,
}

/// Inner nodes of one tree whose children are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNodes {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// The level of the nodes: 0 for the root, less than the leaves'.
    pub level: u8,
    /// The nodes, by their places in the level.
    pub nodes: Vec<u16>,
}

/// The children of one node that have rows: each one's place among the node's children, and its sum.
pub type Children = Vec<(u8, LeafSum)>;

impl Store {
    /// The sums of all rows of some partitions, without what was written above the horizon.
    pub fn roots_as_of(&self, horizon: Hlc, trees: &[(TableId, PartitionId)]) -> Vec<Result<LeafSum, StoreError>> {
        // Each tree is made before the lock that all of them are then read under.
        let made: Vec<_> = trees.iter().map(|&(table, partition)| self.root(table, partition)).collect();
        let mut forest = self.forest.lock();
        let young = forest.young_above(horizon);
        let present = |tree: &(TableId, PartitionId)| forest.tree(tree.0, tree.1).map(Tree::root);
        let roots: Vec<Option<LeafSum>> = trees.iter().map(present).collect();
        drop(forest);
        let young = sums(&young, |change| Some((change.table, change.leaf.partition())));
        let young = trees.iter().map(|tree| young.get(tree).copied().unwrap_or_default());
        let sums = made.into_iter().zip(roots).zip(young);
        sums.map(|((made, present), young)| made.map(|root| present.unwrap_or(root).minus(young))).collect()
    }

    /// The children of inner nodes, in the order of the nodes, without what was written above the horizon.
    pub fn children_as_of(&self, horizon: Hlc, asked: &[TreeNodes]) -> Vec<Result<Vec<Children>, StoreError>> {
        let young = self.forest.lock().young_above(horizon);
        let of: BTreeSet<(TableId, PartitionId)> = asked.iter().map(|asked| (asked.table, asked.partition)).collect();
        let place = |change: &YoungChange| {
            of.contains(&(change.table, change.leaf.partition())).then_some((change.table, change.leaf))
        };
        let young = sums(&young, place);
        asked.iter().map(|asked| self.children_of(asked, &young)).collect()
    }

    fn children_of(
        &self,
        asked: &TreeNodes,
        young: &BTreeMap<(TableId, LeafId), LeafSum>,
    ) -> Result<Vec<Children>, StoreError> {
        let TreeNodes { table, partition, level, ref nodes } = *asked;
        let (first, next) = LeafId::of_partition(partition);
        // Whatever a peer asks for.
        let below = level.saturating_add(1);
        let mut sums: BTreeMap<u16, LeafSum> = if below < DEPTH {
            let children = self.nodes(table, partition, below)?;
            children.into_iter().map(|(NodeIndex { index, .. }, sum)| (index, sum)).collect()
        } else {
            let mut leaves = BTreeMap::new();
            for node in nodes {
                let from = LeafId::at(partition, node.saturating_mul(FAN_OUT));
                let to = LeafId(from.0 + u32::from(FAN_OUT));
                let found = self.leaves(table, from, to)?;
                leaves.extend(found.into_iter().map(|(leaf, sum)| (leaf.in_partition(), sum)));
            }
            leaves
        };
        let leaves_of_child = u32::from(FAN_OUT).pow(u32::from(DEPTH.saturating_sub(below)));
        for (&(_, leaf), delta) in young.range((table, first)..(table, next)) {
            let child = (u32::from(leaf.in_partition()) / leaves_of_child) as u16;
            let sum = sums.entry(child).or_default();
            *sum = sum.minus(*delta);
        }
        let of_node = |node: &u16| {
            let from = u32::from(*node) * u32::from(FAN_OUT);
            let children = (0..FAN_OUT).filter_map(|child| {
                let index = u16::try_from(from + u32::from(child)).ok()?;
                let sum = sums.get(&index).filter(|sum| !sum.is_zero())?;
                Some((child as u8, *sum))
            });
            children.collect()
        };
        Ok(nodes.iter().map(of_node).collect())
    }

    /// Some rows of a leaf in their order, verified: at most so many, and about so many bytes of keys.
    pub fn leaf_headers(
        &self,
        span: LeafSpan<'_>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<HeaderPage, StoreError> {
        let (mut page, mut bytes) = (HeaderPage::default(), 0);
        self.each_row(span, |key, row, header| {
            if page.rows.len() >= rows_max.max(1) || (bytes > 0 && bytes + key.len() > bytes_max) {
                page.more = true;
                return ControlFlow::Break(());
            }
            bytes += key.len();
            page.rows.push(RowDigest { key: row, header });
            ControlFlow::Continue(())
        })?;
        Ok(page)
    }

    /// The sums of a leaf's rows in pieces of so many: at most so many pieces. Whether there are more rows.
    pub fn leaf_pieces(
        &self,
        span: LeafSpan<'_>,
        rows_per_piece: i64,
        pieces_max: usize,
    ) -> Result<(Vec<Piece>, bool), StoreError> {
        let (mut pieces, mut more): (Vec<Piece>, bool) = (Vec::new(), false);
        self.each_row(span, |key, row, header| {
            let of_row = self.merkle_key.row(key, header.version, header.checksum);
            let count = pieces.len();
            match pieces.last_mut().filter(|piece| piece.sum.rows < rows_per_piece) {
                Some(piece) => *piece = Piece { last: row, sum: piece.sum.plus(of_row) },
                None if count >= pieces_max.max(1) => {
                    more = true;
                    return ControlFlow::Break(());
                }
                None => pieces.push(Piece { last: row, sum: of_row }),
            }
            ControlFlow::Continue(())
        })?;
        Ok((pieces, more))
    }

    /// Reads rows of a leaf, each verified, until there is enough.
    fn each_row(
        &self,
        span: LeafSpan<'_>,
        mut take: impl FnMut(&[u8], RowKey, RecordHeader) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let LeafSpan { table, leaf, .. } = span;
        self.tables.read().get(table)?;
        let whole = leaf_rows(table, leaf, LeafId(leaf.0 + 1), self.bits);
        let Some(range) = within(table, &whole, span) else { return Ok(()) };
        let mut damaged = None;
        let read = self.engine.scan(Space::Data, &range, Direction::Forward, &mut |key, value| {
            let Some((_, _, row)) = decode_data_key(key) else { return ControlFlow::Continue(()) };
            match RecordHeader::verify(key, value) {
                Ok(header) => take(key, row, header),
                Err(damage) => {
                    damaged = Some(DamagedRange::of_row(table, key, damage));
                    ControlFlow::Break(())
                }
            }
        });
        match (read, damaged) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(damaged)) => Err(self.damaged(damaged)),
            (Err(EngineError::Corruption { detail }), _) => {
                Err(self.damaged(DamagedRange::of_rows(table, range, detail)))
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// How many rows the leaf's persisted sum counts.
    pub fn leaf_rows_count(&self, table: TableId, leaf: LeafId) -> Result<i64, StoreError> {
        self.tables.read().get(table)?;
        let next = LeafId(leaf.0 + 1);
        let leaves = read_leaves(self.engine.as_ref(), table, leaf, next)
            .map_err(|error| self.leaf_error(table, leaf, next, error))?;
        Ok(leaves.first().map_or(0, |(_, sum)| sum.rows))
    }
}

/// The keys of a span, never past its leaf.
fn within(table: TableId, whole: &KeyRange, span: LeafSpan<'_>) -> Option<KeyRange> {
    let start = span.after.map_or_else(|| whole.start.clone(), |row| after(&data_key(table, row)));
    let end = span.upto.map_or_else(|| whole.end.clone(), |row| after(&data_key(table, row)));
    let asked = KeyRange { start, end };
    asked.within(whole).filter(|range| !range.is_empty())
}
