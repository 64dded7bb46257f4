//! Merkle sums: what lets two replicas find where they differ without listing what they hold.
//!
//! Per table and partition a tree of fixed shape over token order: fan-out 16, depth 3, hence 4,096 leaves. A row adds
//! a keyed 128-bit hash of (key, version, record checksum) to its leaf, modulo 2^128, so one write costs one
//! subtraction and one addition wherever it falls, and the order of writes never shows. An inner node is the sum of
//! its children. Leaves are persisted with the rows they cover, in the same batch, and only where rows are; inner nodes
//! are kept in memory and summed up from the leaves on first use.
//!
//! Invariant: a leaf is the sum over exactly the records in its token range, tombstones and expired rows included.

mod tree;
mod young;

use std::fmt;
use std::hash::Hasher;

use bytes::BufMut;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

pub use self::tree::Tree;
pub(crate) use self::young::{Young, YoungChange, sums};
use crate::keyspace::KeyRange;
use crate::model::{PartitionBits, PartitionId, TableId, Token, Version};

/// Children of an inner node, as a power of two.
const FAN_OUT_BITS: u8 = 4;
/// Children of an inner node.
pub const FAN_OUT: u16 = 1 << FAN_OUT_BITS;
/// Levels below the root.
pub const DEPTH: u8 = 3;
/// Leaves of one tree, as a power of two.
const LEAF_BITS: u8 = FAN_OUT_BITS * DEPTH;
/// Leaves of one tree.
pub const LEAVES_PER_PARTITION: u32 = 1 << LEAF_BITS;

/// A leaf of a table's trees: the top bits of the tokens it covers, partition first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeafId(pub u32);

impl fmt::Debug for LeafId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf {}/{}", self.partition(), self.0 % LEAVES_PER_PARTITION)
    }
}

impl LeafId {
    /// The leaf a token falls into.
    pub const fn of(token: Token, bits: PartitionBits) -> Self {
        Self((token.0 >> (64 - bits.bits() - LEAF_BITS)) as u32)
    }

    /// The partition whose tree it belongs to.
    pub const fn partition(self) -> PartitionId {
        PartitionId((self.0 >> LEAF_BITS) as u16)
    }

    /// The first leaf of a partition, and the first of the next.
    pub const fn of_partition(partition: PartitionId) -> (Self, Self) {
        let first = (partition.0 as u32) << LEAF_BITS;
        (Self(first), Self(first + LEAVES_PER_PARTITION))
    }

    /// The first and the last token it covers.
    pub const fn tokens(self, bits: PartitionBits) -> (Token, Token) {
        let shift = 64 - bits.bits() - LEAF_BITS;
        let first = (self.0 as u64) << shift;
        (Token(first), Token(first | ((1 << shift) - 1)))
    }

    /// Its place among the leaves of its partition.
    pub const fn in_partition(self) -> u16 {
        (self.0 % LEAVES_PER_PARTITION) as u16
    }

    /// The leaf at a place among those of a partition.
    pub const fn at(partition: PartitionId, place: u16) -> Self {
        Self(((partition.0 as u32) << LEAF_BITS) | (place as u32 % LEAVES_PER_PARTITION))
    }

    /// Its parent's place among the inner nodes right above the leaves.
    const fn parent(self) -> u16 {
        ((self.0 % LEAVES_PER_PARTITION) >> FAN_OUT_BITS) as u16
    }
}

/// A node of one partition's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeIndex {
    /// 0 for the root, 3 for leaves.
    pub level: u8,
    /// Its place among the nodes of its level.
    pub index: u16,
}

/// The sum of some rows and their number, as a leaf persists it and an inner node keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeafSum {
    /// Row hashes, added modulo 2^128.
    pub sum: u128,
    /// How many rows; negative only in a difference.
    pub rows: i64,
}

impl LeafSum {
    /// No rows.
    pub const ZERO: Self = Self { sum: 0, rows: 0 };
    /// Bytes of an encoded sum.
    pub const ENCODED_LEN: usize = 24;

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { sum: self.sum.wrapping_add(other.sum), rows: self.rows.wrapping_add(other.rows) }
    }

    /// This without the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self { sum: self.sum.wrapping_sub(other.sum), rows: self.rows.wrapping_sub(other.rows) }
    }

    /// Whether no row is in it.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The sum as it is persisted.
    pub fn encode(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        let mut rest = out.as_mut_slice();
        rest.put_u128(self.sum);
        rest.put_i64(self.rows);
        out
    }

    /// Reads back what [`LeafSum::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, rest) = bytes.split_first_chunk::<16>()?;
        let rows = <[u8; 8]>::try_from(rest).ok()?;
        Some(Self { sum: u128::from_be_bytes(*sum), rows: i64::from_be_bytes(rows) })
    }
}

/// The key of the row hashes, drawn once per cluster: without it nobody can make two rows cancel out.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleKey(pub [u8; 16]);

impl fmt::Debug for MerkleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MerkleKey(..)")
    }
}

/// A row's data key in 16 bytes, as good as unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64, u64);

impl MerkleKey {
    /// What names a row within this process. Nobody who lacks the key can make two rows share one.
    pub fn fingerprint(&self, data_key: &[u8]) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(data_key);
        let hash = hasher.finish128();
        Fingerprint(hash.h1, hash.h2)
    }

    /// What one row adds to its leaf.
    pub fn row(&self, data_key: &[u8], version: Version, checksum: u32) -> LeafSum {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(data_key);
        hasher.write(&version.hlc.0.to_le_bytes());
        hasher.write(&((u64::from(version.node.0) << 32) | u64::from(checksum)).to_le_bytes());
        LeafSum { sum: hasher.finish128().as_u128(), rows: 1 }
    }
}

/// The engine key of a leaf.
pub fn leaf_key(table: TableId, leaf: LeafId) -> [u8; 8] {
    let mut key = [0; 8];
    let mut rest = key.as_mut_slice();
    rest.put_u32(table.0);
    rest.put_u32(leaf.0);
    key
}

/// The leaf that an engine key names.
pub fn decode_leaf_key(key: &[u8]) -> Option<(TableId, LeafId)> {
    let (table, leaf) = key.split_first_chunk::<4>()?;
    let leaf = <[u8; 4]>::try_from(leaf).ok()?;
    Some((TableId(u32::from_be_bytes(*table)), LeafId(u32::from_be_bytes(leaf))))
}

/// The engine keys of the leaves from `from` up to but without `to`.
pub fn leaf_range(table: TableId, from: LeafId, to: LeafId) -> KeyRange {
    KeyRange { start: leaf_key(table, from).to_vec(), end: leaf_key(table, to).to_vec() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;
    use crate::model::{Hlc, NodeId};

    const KEY: MerkleKey = MerkleKey(*b"0123456789abcdef");

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn leaves_split_partitions_and_cover_their_tokens(token in any::<u64>(), bits in 0u8..=12) {
            let bits = PartitionBits::new(bits).unwrap();
            let token = Token(token);
            let leaf = LeafId::of(token, bits);
            prop_assert_eq!(leaf.partition(), bits.partition_of(token));
            let (first, last) = leaf.tokens(bits);
            prop_assert!(first <= token && token <= last);
            prop_assert_eq!(LeafId::of(first, bits), leaf);
            prop_assert_eq!(LeafId::of(last, bits), leaf);
            let (from, to) = LeafId::of_partition(leaf.partition());
            prop_assert!(from <= leaf && leaf < to);
            prop_assert_eq!(decode_leaf_key(&leaf_key(TableId(3), leaf)), Some((TableId(3), leaf)));
        }

        #[test]
        fn a_sum_reads_back_as_written(sum in any::<u128>(), rows in any::<i64>()) {
            let sum = LeafSum { sum, rows };
            prop_assert_eq!(LeafSum::decode(&sum.encode()), Some(sum));
            prop_assert_eq!(LeafSum::ZERO.plus(sum).minus(sum), LeafSum::ZERO);
        }
    }

    #[test]
    fn key_version_and_checksum_each_change_the_hash() {
        let version = Version::new(Hlc(5), NodeId(1));
        let base = KEY.row(b"a", version, 1).sum;
        for other in [
            KEY.row(b"b", version, 1),
            KEY.row(b"a", Version::new(Hlc(6), NodeId(1)), 1),
            KEY.row(b"a", Version::new(Hlc(5), NodeId(2)), 1),
            KEY.row(b"a", version, 2),
            MerkleKey([0; 16]).row(b"a", version, 1),
        ] {
            assert_ne!(other.sum, base);
        }
    }
}
