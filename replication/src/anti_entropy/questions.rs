//! What nodes ask each other to find and mend differences, and what is answered.
//!
//! Every question is bounded by whoever asks it and every answer by whoever gives it: an answer may cover only the first
//! of what was asked, and whoever asked comes back for the rest.

use cube_storage::merkle::{LeafId, LeafSum};
use cube_storage::model::{Epoch, Hlc, NodeId, PartitionId, Record, RowKey, TableId};
use cube_storage::{Children, HeaderPage, Piece, RowDigest, TreeNodes, UnsyncedCause};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// A tree: the rows of a table in one partition.
pub type Tree = (TableId, PartitionId);

/// What two replicas compare first: the sum of all rows of a tree together with its purge floor and the map by which it is
/// held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDigest(pub [u8; 16]);

impl RootDigest {
    /// The digest of a tree.
    pub fn of(root: LeafSum, floor: Hlc, epoch: Epoch) -> Self {
        let bytes = [root.encode().as_slice(), &floor.0.to_be_bytes(), &epoch.0.to_be_bytes()].concat();
        Self(xxh3_128(&bytes).to_be_bytes())
    }
}

/// Half of a sum: two that differ differ in it, but for one time in 2^64, and the root is compared whole.
pub type ShortSum = [u8; 8];

/// The children of an inner node that have rows: a bit for each, and their sums in order.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChildSums {
    /// Which children have rows.
    pub present: u16,
    /// Their sums, from the lowest bit on.
    pub sums: Vec<ShortSum>,
}

impl ChildSums {
    /// What is told of some children.
    pub fn of(children: &Children) -> Self {
        let present =
            children.iter().fold(0, |bits, (child, _)| bits | 1_u16.checked_shl((*child).into()).unwrap_or(0));
        Self { present, sums: children.iter().map(|(_, sum)| short(*sum)).collect() }
    }

    /// Which children differ from those of another node.
    pub fn differing(&self, other: &Self) -> impl Iterator<Item = u16> {
        let (mine, theirs) = (self.each(), other.each());
        (0..16_u16)
            .zip(mine.into_iter().zip(theirs))
            .filter(|(_, (mine, theirs))| mine != theirs)
            .map(|(child, _)| child)
    }

    fn each(&self) -> [Option<ShortSum>; 16] {
        let (mut each, mut sums) = ([None; 16], self.sums.iter());
        for (child, sum) in each.iter_mut().enumerate() {
            if self.present & (1 << child) != 0 {
                *sum = sums.next().copied();
            }
        }
        each
    }
}

fn short(sum: LeafSum) -> ShortSum {
    (sum.sum as u64).to_be_bytes()
}

/// Why a tree cannot be compared at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error, Serialize, Deserialize)]
pub enum NotCompared {
    /// The table is not known there: dropped, or not heard of yet.
    #[error("the table is not known")]
    UnknownTable,
    /// The replica does not hold all it acknowledged; it heals by itself.
    #[error("the replica is not in sync ({0:?})")]
    Unsynced(UnsyncedCause),
    /// Something of it was found damaged just now.
    #[error("its data is damaged")]
    Damaged,
    /// The two work by different maps of the partition, so one of them may be no replica any more.
    #[error("it works by another map of the partition")]
    OtherMap,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Which of these trees differ from yours?
    Roots {
        /// As of when they are compared.
        horizon: Hlc,
        /// By table.
        tables: Vec<(TableId, Vec<(PartitionId, RootDigest)>)>,
    },
    /// What are the sums of these nodes' children?
    Nodes {
        /// As of when they are compared.
        horizon: Hlc,
        /// Purge floors that the asker has and that are to be taken over where they are higher.
        floors: Vec<(TableId, PartitionId, Hlc)>,
        /// The nodes.
        trees: Vec<TreeNodes>,
    },
    /// Which rows do these leaves hold?
    Leaves {
        /// The table.
        table: TableId,
        /// The leaves.
        leaves: Vec<LeafId>,
    },
    /// What are the sums of a hot leaf's rows, some at a time?
    Pieces {
        /// The table.
        table: TableId,
        /// The leaf.
        leaf: LeafId,
        /// Behind this row.
        after: Option<RowKey>,
    },
    /// Which rows does a leaf hold between two of them?
    Span {
        /// The table.
        table: TableId,
        /// The leaf.
        leaf: LeafId,
        /// Behind this row.
        after: Option<RowKey>,
        /// Up to this row, itself included.
        upto: Option<RowKey>,
    },
    /// What do these rows hold?
    Rows {
        /// The table.
        table: TableId,
        /// The rows.
        keys: Vec<RowKey>,
    },
    /// Up to where are these trees proven, and what are their floors?
    Proofs {
        /// The trees.
        trees: Vec<Tree>,
    },
    /// What releases asked before [`Question::WatermarkAmong`]. Refused: the asker may have left out a member that it has
    /// not heard of.
    Watermark,
    /// May these trees be purged up to here? Durably fenced where they may.
    Fence {
        /// Trees and the floor of each.
        floors: Vec<(TableId, PartitionId, Hlc)>,
    },
    /// All replicas have fenced these floors: purge.
    Purge {
        /// Trees and the floor of each.
        floors: Vec<(TableId, PartitionId, Hlc)>,
    },
    /// These trees were found to be equal here and there: take note of it.
    Equal {
        /// As of when.
        horizon: Hlc,
        /// The trees.
        trees: Vec<Tree>,
    },
    /// Below which version does the node hold, and will it create, no hint and no write in flight? Refused by whoever
    /// knows a member that joined later than the asker has heard of: that one is not asked, and may hold something.
    WatermarkAmong {
        /// The last member to have joined, as the asker has heard.
        last: NodeId,
    },
}

/// A tree whose root differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// The purge floor there.
    pub floor: Hlc,
    /// The map by which it is held there.
    pub epoch: Epoch,
    /// The sums right below the root.
    pub children: ChildSums,
}

/// The rows of a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeafRows {
    /// All of them.
    All(Vec<RowDigest>),
    /// Too many to list: they are to be compared in pieces.
    Hot,
}

/// A row, or nothing, as it is held under a purge floor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRow {
    /// What is held.
    pub record: Option<Record>,
    /// The purge floor of the row's tree there.
    pub floor: Hlc,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The trees that differ or cannot be compared; all others are equal.
    Roots(Vec<(TableId, PartitionId, Result<Top, NotCompared>)>),
    /// Of each tree the children of each node.
    Nodes(Vec<Result<Vec<ChildSums>, NotCompared>>),
    /// Of the first leaves that were asked for.
    Leaves(Vec<Result<LeafRows, NotCompared>>),
    /// Pieces, and whether there are more behind them.
    Pieces {
        /// The pieces.
        pieces: Vec<Piece>,
        /// Whether there are more.
        more: bool,
    },
    /// Rows, and whether there are more behind them.
    Span(HeaderPage),
    /// Of the first rows that were asked for.
    Rows(Vec<HeldRow>),
    /// Of each tree its floor and its proof; nothing of a tree that is not in sync there.
    Proofs(Vec<Option<Proof>>),
    /// Nothing older is in flight.
    Watermark(Hlc),
    /// Which of the floors are fenced durably.
    Fenced(Vec<bool>),
    /// How many rows were purged, and of how many of the first trees that were asked for.
    Purged {
        /// Rows removed.
        rows: u64,
        /// Trees that are done.
        trees: usize,
    },
    /// It is noted.
    Noted,
}

/// A tree's floor and proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Its purge floor.
    pub floor: Hlc,
    /// Up to where it was proven equal with all other replicas.
    pub synced_through: Hlc,
    /// The map of the partition that it has fenced.
    pub epoch: Epoch,
}
