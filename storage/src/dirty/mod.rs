//! Dirty marks: which ranges of which tables a target may have missed writes in, when no hint says which.
//!
//! One file per target, of a size that is set aside beforehand, so that marking works on a full disk. A mark covers a
//! Merkle leaf, a partition, a table or everything, with the greatest version that was missed there. It is made in
//! memory ([`DirtyMarks::mark`]), durable with the next [`DirtyMarks::sync`], which all that wait share, and cleared
//! only by someone who says which generation of it was repaired ([`DirtyMarks::clear`]): a write missed meanwhile gives
//! it a new one. When there is no room, marks become coarser, never fewer: what was covered stays covered.
//!
//! Invariant: after any crash, every mark that was synced and not cleared is covered by the marks that are found.
//!
//! How the file keeps it. It holds two logs of fixed-size entries (mark, clear), of which one is current; a log that is
//! full is rewritten into the other, whose first entry, written and synced last, makes it the current one. So:
//! - an entry is never overwritten while it counts, and a torn write can only hit entries that were never durable;
//! - a bad entry is either such a torn one, which says nothing, or a durable one that the disk damaged, after which
//!   nobody knows what was marked, and *everything* is. They are told apart by where they stand: an entry is durable if
//!   any later one, or the slots beside the logs, says that more entries than that were synced when it was written.
//!   The slots are written after every sync and not synced themselves, hence never more than the truth; only damage to
//!   the very last entries before a loss of power, in the moment before it, can hide behind this;
//! - a sync that fails leaves the current log unknown from there on, so the next one rewrites all marks into the other.
//!
//! Generations hold for as long as the store is open. Formats: `docs/formats-hints.md`.

mod entry;
mod error;
mod layout;
mod marks;
mod recovery;
mod store;
mod target;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::merkle::LeafId;
use crate::model::{PartitionId, TableId, Version};

pub use self::error::DirtyError;
pub use self::store::{DirtyStore, OpenedDirty};
pub use self::target::{DirtyMarks, DirtyTotals};

/// What a mark covers. Coarser ranges come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DirtyRange {
    /// Every row of every table.
    Everything,
    /// Every row of a table.
    Table(TableId),
    /// The rows of a table in a partition.
    Partition(TableId, PartitionId),
    /// The rows of a table in a Merkle leaf.
    Leaf(TableId, LeafId),
}

impl DirtyRange {
    /// The ranges that cover this one, itself included, coarsest first.
    fn covering(self) -> impl Iterator<Item = Self> {
        let (table, partition) = match self {
            Self::Everything => (None, None),
            Self::Table(table) => (Some(table), None),
            Self::Partition(table, partition) => (Some(table), Some(partition)),
            Self::Leaf(table, leaf) => (Some(table), Some(leaf.partition())),
        };
        let leaf = matches!(self, Self::Leaf(..)).then_some(self);
        let partition = table.zip(partition).map(|(table, partition)| Self::Partition(table, partition));
        [Some(Self::Everything), table.map(Self::Table), partition, leaf].into_iter().flatten()
    }

    /// The ranges, in their order, that this one covers, without itself.
    fn inside(self) -> [Option<RangeInclusive<Self>>; 2] {
        const LEAF_MAX: LeafId = LeafId(u32::MAX);
        match self {
            Self::Everything => {
                let (first, last) = (Self::Table(TableId(0)), Self::Leaf(TableId(u32::MAX), LEAF_MAX));
                [Some(first..=last), None]
            }
            Self::Table(table) => {
                let partitions = Self::Partition(table, PartitionId(0))..=Self::Partition(table, PartitionId(u16::MAX));
                [Some(partitions), Some(Self::Leaf(table, LeafId(0))..=Self::Leaf(table, LEAF_MAX))]
            }
            Self::Partition(table, partition) => {
                let (first, next) = LeafId::of_partition(partition);
                let last = LeafId(next.0.saturating_sub(1));
                [Some(Self::Leaf(table, first)..=Self::Leaf(table, last)), None]
            }
            Self::Leaf(..) => [None, None],
        }
    }

    /// Whether a row in this leaf lies inside.
    pub fn covers(self, table: TableId, leaf: LeafId) -> bool {
        Self::Leaf(table, leaf).covering().any(|range| range == self)
    }
}

/// Which state of a mark: it changes whenever something more is marked under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

/// A range in which a target may have missed writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The range.
    pub range: DirtyRange,
    /// No write that was missed there has a greater version.
    pub version: Version,
    /// To be named when it is cleared.
    pub generation: Generation,
}

/// Why a hint became a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// A cap on hints was reached.
    Cap,
    /// The hint, or the target's absence, was longer than the window.
    Window,
    /// The disk took no hint: full, failing or not writable.
    Disk,
    /// Hints or marks were damaged.
    Corrupt,
    /// Hints are switched off.
    Disabled,
    /// Hints came faster than the disk takes them, and no more may wait.
    Overload,
    /// The target refuses the row for good.
    Refused,
    /// Another node had marked it, and left.
    Handover,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Cap,
        Self::Window,
        Self::Disk,
        Self::Corrupt,
        Self::Disabled,
        Self::Overload,
        Self::Refused,
        Self::Handover,
    ];

    /// Its name, as it is shown and counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Window => "window",
            Self::Disk => "disk",
            Self::Corrupt => "corrupt",
            Self::Disabled => "disabled",
            Self::Overload => "overload",
            Self::Refused => "refused",
            Self::Handover => "handover",
        }
    }
}
