//! Why the store did not do what it was asked, in terms of the request: which table and key, which limit, what to do.

use std::fmt;

use thiserror::Error;

use crate::engine::{EngineError, Space};
use crate::keyspace::{KeyRange, after, decode_data_key, decode_index_key};
use crate::model::{Epoch, Hlc, Invalid, PartitionId, PlacementId, TableId};

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The request cannot be carried out as it stands.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Too little space is left for this kind of write. Reads go on, and so will writes when space returns.
    #[error(
        "the disk is nearly full: {available_bytes} bytes are available, {reserve_bytes} are kept in reserve \
         (storage.disk_reserve); free some space or add nodes"
    )]
    DiskFull {
        /// Bytes left on the device, less what is already promised to compaction.
        available_bytes: u64,
        /// Bytes that this kind of write must leave.
        reserve_bytes: u64,
    },
    /// More is waiting to be written than the queue may hold.
    #[error("{queued_bytes} bytes are waiting to be written, the limit is {limit_bytes}: try again later")]
    Overloaded {
        /// Bytes waiting.
        queued_bytes: usize,
        /// Bytes that may wait.
        limit_bytes: usize,
    },
    /// It waited for so long that nobody waits for it any more. Nothing was written.
    #[error("the batch waited past its deadline, and was not written")]
    DeadlinePassed,
    /// An earlier write or sync failed, so what is on disk is not known: nothing is written until a restart.
    #[error("writes have stopped until the node restarts: {cause}")]
    Stopped {
        /// The failure.
        cause: String,
    },
    /// Stored bytes are not what was written. They are not returned, and the partition waits to be healed.
    #[error("damaged data in {0}")]
    Corrupt(Box<DamagedRange>),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The data directory belongs to a cluster with other fixed settings.
    #[error("the data directory was made for another cluster: {what} is {found} there and {expected} here")]
    Identity {
        /// The setting.
        what: &'static str,
        /// What the directory says.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A purge floor may only cover what was proven equal with all replicas.
    #[error(
        "{table} {partition}: a purge floor of {floor} is above {synced_through}, up to which it is proven in sync"
    )]
    FloorAboveProof {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// The floor asked for.
        floor: Hlc,
        /// What is proven.
        synced_through: Hlc,
    },
    /// A partition's map only moves forward.
    #[error("{placement} {partition} is at {present} already, {asked} is older")]
    EpochBehind {
        /// The placement.
        placement: PlacementId,
        /// The partition.
        partition: PartitionId,
        /// The epoch fenced.
        present: Epoch,
        /// The epoch asked for.
        asked: Epoch,
    },
    /// Rows of a partition that serves reads are not to be removed.
    #[error("{table} {partition} is in sync and serves reads: mark it unsynced before clearing it")]
    ClearOfSynced {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
    },
}

/// Where damage was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// The table.
    pub table: TableId,
    /// What is damaged: rows ([`Space::Data`]), or only the index that finds them by prefix ([`Space::Keys`]).
    pub space: Space,
    /// The encoded keys that cannot be trusted; a single row's range ends right behind its key.
    pub range: KeyRange,
    /// What was found.
    pub detail: String,
}

impl DamagedRange {
    /// The damage of rows.
    pub fn of_rows(table: TableId, range: KeyRange, detail: impl ToString) -> Self {
        Self { table, space: Space::Data, range, detail: detail.to_string() }
    }

    /// The damage of one row.
    pub fn of_row(table: TableId, data_key: &[u8], detail: impl ToString) -> Self {
        Self::of_rows(table, KeyRange { start: data_key.to_vec(), end: after(data_key) }, detail)
    }

    /// The data key of the row, where it is one.
    pub(crate) fn row(&self) -> Option<&[u8]> {
        (self.space == Space::Data && self.range.end == after(&self.range.start)).then_some(self.range.start.as_slice())
    }

    /// The damage of a table's index of keys.
    pub fn of_index(table: TableId, range: KeyRange, detail: impl ToString) -> Self {
        Self { table, space: Space::Keys, range, detail: detail.to_string() }
    }

    fn write_place(&self, f: &mut fmt::Formatter<'_>, key: &[u8]) -> fmt::Result {
        if self.space == Space::Keys {
            return match decode_index_key(key) {
                Some((_, row)) => write!(f, "key {row}"),
                None => write!(f, "{}", key.get(4..).unwrap_or_default().escape_ascii()),
            };
        }
        match (decode_data_key(key), key.get(4..)) {
            (Some((_, token, row)), _) => write!(f, "key {row} (token {token})"),
            (None, Some(token)) => {
                f.write_str("token ")?;
                token.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            (None, None) => f.write_str("the end of the table"),
        }
    }
}

impl fmt::Display for DamagedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = if self.space == Space::Keys { "the key index of " } else { "" };
        write!(f, "{index}{} from ", self.table)?;
        self.write_place(f, &self.range.start)?;
        f.write_str(" up to ")?;
        self.write_place(f, &self.range.end)?;
        write!(f, ": {}", self.detail)
    }
}
