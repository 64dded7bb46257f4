//! The values a node stores and the names it gives them: identifiers, keys, versions, records, mutations.
//!
//! Plain data without I/O. Everything above (engine, apply, replication) speaks in these types, so that a partition
//! cannot be mistaken for a node, nor a version for a number.

mod ids;
mod key;
mod limits;
mod mutation;
mod record;
mod version;

pub use ids::{Epoch, NodeId, PartitionId, PlacementId, TableId};
pub use key::{PartitionBits, RowKey, Token, TooManyPartitions};
pub use limits::{Invalid, Limits, PageUnit};
pub use mutation::{Batch, Mutation, Origin, Outcome};
pub use record::{Body, Damage, Expiry, Record, RecordHeader};
pub use version::{Hlc, Version};
