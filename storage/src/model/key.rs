//! The key of a row, the token that places it, and the partition the token falls into.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::PartitionId;

/// Where a row stands on the ring: `xxh3_64` (seed 0) of its raw partition key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u64);

impl Token {
    /// The token of a raw partition key. Clients compute the same (`proto` holds a copy and the shared test vector).
    pub fn of(partition_key: &[u8]) -> Self {
        Self(xxh3_64(partition_key))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many top bits of a token name its partition: fixed when the cluster is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PartitionBits(u8);

impl PartitionBits {
    /// 256 partitions, the default.
    pub const DEFAULT: Self = Self(8);
    /// 4096 partitions, the most.
    pub const MAX: u8 = 12;

    /// For `2^bits` partitions; `None` past [`PartitionBits::MAX`].
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= Self::MAX { Some(Self(bits)) } else { None }
    }

    /// The number of bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// How many partitions there are.
    pub const fn partitions(self) -> u16 {
        1 << self.0
    }

    /// Every partition, in token order.
    pub fn all(self) -> impl DoubleEndedIterator<Item = PartitionId> {
        (0..self.partitions()).map(PartitionId)
    }

    /// The partition a token falls into.
    pub const fn partition_of(self, token: Token) -> PartitionId {
        if self.0 == 0 { PartitionId(0) } else { PartitionId((token.0 >> (64 - self.0)) as u16) }
    }

    /// The first and the last token of a partition.
    pub const fn tokens_of(self, partition: PartitionId) -> (Token, Token) {
        if self.0 == 0 {
            return (Token(0), Token(u64::MAX));
        }
        let first = (partition.0 as u64) << (64 - self.0);
        (Token(first), Token(first | (u64::MAX >> self.0)))
    }
}

impl From<PartitionBits> for u8 {
    fn from(bits: PartitionBits) -> Self {
        bits.0
    }
}

impl TryFrom<u8> for PartitionBits {
    type Error = TooManyPartitions;

    fn try_from(bits: u8) -> Result<Self, TooManyPartitions> {
        Self::new(bits).ok_or(TooManyPartitions { bits })
    }
}

/// More partitions than there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("2^{bits} partitions are more than the most there may be, 2^{}", PartitionBits::MAX)]
pub struct TooManyPartitions {
    /// The number asked for.
    pub bits: u8,
}

/// The key of a row: a partition key, and a sort key that orders the rows of one partition key. A row without a sort
/// key has an empty one.
///
/// `Bytes` twice and nothing else: cloning a key copies no bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowKey {
    /// Places the row. Never empty in a valid key.
    pub partition: Bytes,
    /// Orders the row among those of its partition key.
    pub sort: Bytes,
}

impl RowKey {
    /// A key of a partition key alone.
    pub fn of(partition: impl Into<Bytes>) -> Self {
        Self { partition: partition.into(), sort: Bytes::new() }
    }

    /// A key with a sort key.
    pub fn with_sort(partition: impl Into<Bytes>, sort: impl Into<Bytes>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }

    /// The row's place on the ring.
    pub fn token(&self) -> Token {
        Token::of(&self.partition)
    }

    /// Bytes of both parts, as the limits count them.
    pub fn len_bytes(&self) -> usize {
        self.partition.len() + self.sort.len()
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.partition.escape_ascii())?;
        if !self.sort.is_empty() {
            write!(f, "/\"{}\"", self.sort.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same vector stands in `proto`: a change of either breaks routing by clients.
    #[test]
    fn tokens_follow_the_shared_test_vector() {
        for (key, token) in [
            ("", 0x2d06_8005_38d3_94c2),
            ("a", 0xe6c6_32b6_1e96_4e1f),
            ("user:alice", 0xf8e9_c956_3231_cbd4),
            ("user_alice", 0x30f4_c512_2a18_703b),
        ] {
            assert_eq!(Token::of(key.as_bytes()).0, token, "token of {key:?}");
        }
    }

    #[test]
    fn partitions_split_the_token_range_without_gap_or_overlap() {
        for bits in 0..=PartitionBits::MAX {
            let bits = PartitionBits::new(bits).expect("in range");
            let mut next = Some(0);
            for partition in bits.all() {
                let (first, last) = bits.tokens_of(partition);
                assert_eq!(Some(first.0), next);
                assert_eq!(bits.partition_of(first), partition);
                assert_eq!(bits.partition_of(last), partition);
                next = last.0.checked_add(1);
            }
            assert_eq!(next, None, "the last partition ends the range");
        }
        assert!(PartitionBits::new(13).is_none());
    }
}
