//! One entry of a log of marks.
//!
//! ```text
//! epoch u32 | index u32 | durable u32 | operation u8 | 3 zero | table u32 | leaf u32 | hlc u64 | node u16 | 2 zero |
//! crc32 u32                                                                          (40 bytes, numbers big endian)
//! ```
//!
//! The checksum is seeded with the target; epoch and index say which log and which place in it the entry was written
//! for. So what a log of before has left in its place is never taken for an entry of this one.

use bytes::BufMut;

use super::DirtyRange;
use crate::merkle::LeafId;
use crate::model::{Hlc, NodeId, PartitionId, TableId, Version};

pub(super) const ENTRY_LEN: usize = 40;

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Makes the log the current one. So many entries after it say what the log before held.
    Begin {
        count: u32,
    },
    Mark {
        range: DirtyRange,
        version: Version,
    },
    Clear {
        range: DirtyRange,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) epoch: u32,
    pub(super) index: u32,
    /// How many entries of the log were durable when this one was written; 0 in a log that is not current yet.
    pub(super) durable: u32,
    pub(super) operation: Operation,
}

const BEGIN: u8 = 0x40;
const CLEAR: u8 = 0x80;

fn encode_range(range: DirtyRange) -> (u8, u32, u32) {
    match range {
        DirtyRange::Everything => (1, 0, 0),
        DirtyRange::Table(table) => (2, table.0, 0),
        DirtyRange::Partition(table, partition) => (3, table.0, u32::from(partition.0)),
        DirtyRange::Leaf(table, leaf) => (4, table.0, leaf.0),
    }
}

fn decode_range(kind: u8, table: u32, leaf: u32) -> Option<DirtyRange> {
    Some(match kind {
        1 => DirtyRange::Everything,
        2 => DirtyRange::Table(TableId(table)),
        3 => DirtyRange::Partition(TableId(table), PartitionId(u16::try_from(leaf).ok()?)),
        4 => DirtyRange::Leaf(TableId(table), LeafId(leaf)),
        _ => return None,
    })
}

impl Entry {
    pub(super) fn encode(&self, target: &str, out: &mut Vec<u8>) {
        let start = out.len();
        let (operation, table, leaf, version) = match self.operation {
            Operation::Begin { count } => (BEGIN, 0, count, Version::ZERO),
            Operation::Mark { range, version } => {
                let (kind, table, leaf) = encode_range(range);
                (kind, table, leaf, version)
            }
            Operation::Clear { range } => {
                let (kind, table, leaf) = encode_range(range);
                (kind | CLEAR, table, leaf, Version::ZERO)
            }
        };
        out.put_u32(self.epoch);
        out.put_u32(self.index);
        out.put_u32(self.durable);
        out.put_slice(&[operation, 0, 0, 0]);
        out.put_u32(table);
        out.put_u32(leaf);
        out.put_u64(version.hlc.0);
        out.put_u16(version.node.0);
        out.put_u16(0);
        let crc = checksum(target, out.get(start..).unwrap_or_default());
        out.put_u32(crc);
    }

    /// The entry that was written for a place, if it is sound.
    pub(super) fn decode(target: &str, place: u32, bytes: &[u8]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        let (epoch, rest) = number(covered)?;
        let (index, rest) = number(rest)?;
        // First of all, for it is what tells most of an empty log at once.
        let is_here = index == place && bytes.len() == ENTRY_LEN;
        if !is_here || checksum(target, covered) != u32::from_be_bytes(*crc) {
            return None;
        }
        let (durable, rest) = number(rest)?;
        let (&[operation, ..], rest) = rest.split_first_chunk::<4>()?;
        let (table, rest) = number(rest)?;
        let (leaf, rest) = number(rest)?;
        let (hlc, rest) = rest.split_first_chunk::<8>()?;
        let (node, _) = rest.split_first_chunk::<2>()?;
        let version = Version::new(Hlc(u64::from_be_bytes(*hlc)), NodeId(u16::from_be_bytes(*node)));
        let operation = match operation {
            BEGIN => Operation::Begin { count: leaf },
            kind if kind & CLEAR != 0 => Operation::Clear { range: decode_range(kind & !CLEAR, table, leaf)? },
            kind => Operation::Mark { range: decode_range(kind, table, leaf)?, version },
        };
        // The last epochs have no next one: only damage can have written them.
        (epoch < u32::MAX - 2).then_some(Self { epoch, index, durable, operation })
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn checksum(target: &str, covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(target.as_bytes());
    crc.update(covered);
    crc.finalize()
}
