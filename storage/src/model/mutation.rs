//! What is asked of the one write path: a batch of records for rows, where it comes from, and what came of each.

use serde::{Deserialize, Serialize};

use super::{Epoch, Hlc, Invalid, Limits, Record, RowKey, TableId, Version};

/// One record for one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutation {
    /// The row's table.
    pub table: TableId,
    /// The row.
    pub key: RowKey,
    /// What is to be kept for it, unless something newer is.
    pub record: Record,
    /// The epoch of the partition's map that the sender counts this replica by. `None` where nobody counts:
    /// hints, repair and streams are welcome under any map.
    pub claim: Option<Epoch>,
}

/// Who brings a batch, which decides how it is judged at the purge floor and when space runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A coordinator, for a client.
    Client,
    /// A coordinator that kept it while this node was away.
    Hint,
    /// Another replica (stream, repair, anti-entropy) whose purge floor for the partition is this.
    Replica {
        /// The sender's purge floor.
        floor: Hlc,
    },
}

/// Mutations that become visible and durable together. The order among them does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Who brings it.
    pub origin: Origin,
    /// The records.
    pub mutations: Vec<Mutation>,
}

impl Batch {
    /// A batch of one client's mutation.
    pub fn of(mutation: Mutation) -> Self {
        Self { origin: Origin::Client, mutations: vec![mutation] }
    }

    /// Keys and values, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.mutations.iter().map(|m| m.key.len_bytes() + m.record.encoded_len()).sum()
    }

    /// Whether the batch and all in it are within the limits.
    pub fn check(&self, limits: &Limits) -> Result<(), Invalid> {
        if self.mutations.len() > limits.batch_rows_max {
            return Err(Invalid::BatchTooManyRows { rows: self.mutations.len(), limit: limits.batch_rows_max });
        }
        let mut bytes = 0_usize;
        for mutation in &self.mutations {
            let value = mutation.record.value_len();
            limits.check_key(&mutation.key)?;
            limits.check_value(&mutation.key, value)?;
            bytes = bytes.saturating_add(mutation.key.len_bytes()).saturating_add(value);
        }
        if bytes > limits.batch_bytes_max {
            return Err(Invalid::BatchTooLong { bytes, limit: limits.batch_bytes_max });
        }
        Ok(())
    }
}

/// What came of one mutation. Durable by the time it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The record is the row's newest here.
    Applied,
    /// Exactly this record was here already, or its absence says the same (a deletion below both purge floors).
    Present,
    /// A newer version is here.
    Superseded(Version),
    /// The version is not above the partition's purge floor: a deletion of the row may have been purged, so it can
    /// only be written with a newer version.
    BelowFloor(Hlc),
    /// The partition has a newer map than the sender counted by.
    Fenced(Epoch),
    /// The row holds this record or a newer one, but its partition has lost something: that may have been newer, up to this.
    LostUpTo(Hlc),
}

impl Outcome {
    /// Whether the row holds this record or a newer one here, durably.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Applied | Self::Present | Self::Superseded(_) | Self::LostUpTo(_))
    }
}
