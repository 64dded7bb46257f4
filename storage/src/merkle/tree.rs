//! The inner nodes of one partition's tree, in memory.
//!
//! Only the lowest of them are kept, those right above the leaves: every write changes one, while those above are asked
//! for rarely and are sums of at most 256. Memory follows the rows: a node without rows takes a bit.

use super::{DEPTH, FAN_OUT_BITS, LeafId, LeafSum, NodeIndex};

/// The level right above the leaves.
const LOWEST: u8 = DEPTH - 1;
/// Nodes of that level.
const LOWEST_NODES: usize = 1 << (FAN_OUT_BITS * LOWEST);

/// The inner nodes of one partition's tree.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree {
    /// Which nodes have rows, a bit for each.
    present: [u64; LOWEST_NODES / 64],
    /// Their sums, in their order.
    sums: Vec<LeafSum>,
}

impl Tree {
    /// Takes a change of a leaf in.
    pub fn add(&mut self, leaf: LeafId, delta: LeafSum) {
        let node = leaf.parent();
        let place = self.place(node);
        if !self.has(node) {
            self.flip(node);
            self.sums.insert(place, LeafSum::ZERO);
        }
        let Some(sum) = self.sums.get_mut(place) else { return };
        *sum = sum.plus(delta);
        if sum.is_zero() {
            self.flip(node);
            self.sums.remove(place);
        }
    }

    /// The sum of all rows of the partition.
    pub fn root(&self) -> LeafSum {
        self.sums.iter().fold(LeafSum::ZERO, |sum, node| sum.plus(*node))
    }

    /// The inner nodes of a level (0 is the root) that have rows, in order; none of the level of the leaves.
    pub fn level(&self, level: u8) -> Vec<(NodeIndex, LeafSum)> {
        let Some(above) = LOWEST.checked_sub(level) else { return Vec::new() };
        let mut nodes: Vec<(NodeIndex, LeafSum)> = Vec::new();
        let lowest = (0..LOWEST_NODES as u16).filter(|&node| self.has(node));
        for (node, &sum) in lowest.zip(&self.sums) {
            let index = NodeIndex { level, index: node >> (FAN_OUT_BITS * above) };
            match nodes.last_mut() {
                Some((last, total)) if *last == index => *total = total.plus(sum),
                _ => nodes.push((index, sum)),
            }
        }
        nodes
    }

    fn has(&self, node: u16) -> bool {
        self.present.get(usize::from(node / 64)).is_some_and(|bits| bits & (1 << (node % 64)) != 0)
    }

    fn flip(&mut self, node: u16) {
        if let Some(bits) = self.present.get_mut(usize::from(node / 64)) {
            *bits ^= 1 << (node % 64);
        }
    }

    /// Where the sum of a node stands: behind those of the nodes before it.
    fn place(&self, node: u16) -> usize {
        let (word, bit) = (usize::from(node / 64), node % 64);
        let within = self.present.get(word).map_or(0, |bits| (bits & ((1 << bit) - 1)).count_ones());
        let before: u32 = self.present.iter().take(word).map(|bits| bits.count_ones()).sum();
        (before + within) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;
    use crate::merkle::{LEAVES_PER_PARTITION, MerkleKey};
    use crate::model::{Hlc, NodeId, Version};

    const KEY: MerkleKey = MerkleKey(*b"0123456789abcdef");

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn every_level_of_a_tree_sums_to_the_same(rows in prop::collection::vec((0u32..LEAVES_PER_PARTITION, 0u64..9), 0..60)) {
            let mut tree = Tree::default();
            let mut total = LeafSum::ZERO;
            for (leaf, hlc) in &rows {
                let row = KEY.row(b"k", Version::new(Hlc(*hlc), NodeId(0)), *leaf);
                tree.add(LeafId(*leaf), row);
                total = total.plus(row);
            }
            for level in 0..DEPTH {
                let nodes = tree.level(level);
                prop_assert!(nodes.is_sorted_by_key(|(index, _)| *index));
                let sum = nodes.into_iter().fold(LeafSum::ZERO, |sum, (_, node)| sum.plus(node));
                prop_assert_eq!(sum, total);
            }
            prop_assert_eq!(tree.root(), total);
            for (leaf, hlc) in &rows {
                tree.add(LeafId(*leaf), LeafSum::ZERO.minus(KEY.row(b"k", Version::new(Hlc(*hlc), NodeId(0)), *leaf)));
            }
            prop_assert_eq!(tree, Tree::default(), "a tree without rows holds no nodes");
        }
    }

    #[test]
    fn the_trees_of_a_million_rows_take_little_memory_for_each_leaf_that_has_rows() {
        const PARTITIONS: u64 = 256;
        const ROWS: u64 = 1_000_000;
        const BYTES_PER_LEAF_MAX: usize = 24;
        let mut trees = vec![Tree::default(); PARTITIONS as usize];
        let mut leaves = std::collections::BTreeSet::new();
        for n in 0..ROWS {
            let token = xxhash_rust::xxh3::xxh3_64(&n.to_be_bytes());
            let (partition, leaf) = (token % PARTITIONS, (token >> 32) as u32 % LEAVES_PER_PARTITION);
            leaves.insert((partition, leaf));
            trees[partition as usize].add(LeafId(leaf), LeafSum { sum: u128::from(token), rows: 1 });
        }
        let sums = |tree: &Tree| tree.sums.capacity() * size_of::<LeafSum>();
        let bytes: usize = trees.iter().map(|tree| size_of::<Tree>() + sums(tree)).sum();
        println!("{bytes} bytes for {} leaves with rows", leaves.len());
        assert!(bytes <= BYTES_PER_LEAF_MAX * leaves.len(), "{bytes} bytes for {} leaves", leaves.len());
    }
}
