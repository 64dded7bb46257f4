//! What clients ask of a coordinator, as the edge hands it over.

use bytes::Bytes;
use cube_storage::model::{Hlc, RowKey, Version};

use crate::consistency::Level;
use crate::messages::Condition;
use crate::trace::TraceContext;

/// A table by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The keyspace.
    pub keyspace: String,
    /// The table in it.
    pub table: String,
}

/// What every request says of how it is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How many replicas must have answered.
    pub level: Level,
    /// Milliseconds until it is of no use; the configured time when nothing is said.
    pub timeout_ms: Option<u32>,
    /// Whether an account of what was done is wanted.
    pub explain: bool,
    /// The span of who asks, if the request is traced.
    pub trace: Option<TraceContext>,
}

impl Terms {
    /// At a level, and otherwise as configured.
    pub fn at(level: Level) -> Self {
        Self { level, timeout_ms: None, explain: false, trace: None }
    }
}

/// What is to become of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It gets this value.
    Put {
        /// The value.
        value: Bytes,
        /// Milliseconds until it ends, if it does.
        ttl_ms: Option<i64>,
    },
    /// It is deleted.
    Delete,
}

/// Rows of one table to write. Those that share a partition key are written atomically on each replica; those that do
/// not are only sent together.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// The table.
    pub table: TableName,
    /// The rows.
    pub rows: Vec<(RowKey, Change)>,
    /// How it is to be done.
    pub terms: Terms,
    /// The client's own timestamp, instead of the coordinator's clock.
    pub timestamp: Option<Hlc>,
    /// The last version of these rows that the client saw: the write succeeds it.
    pub seen: Option<Version>,
    /// What must hold for the rows to be written.
    pub condition: Option<Condition>,
}

/// Rows of one table to read. An answer holds as many bytes of records as a batch may; rows that find no room in it say so.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The table.
    pub table: TableName,
    /// The rows.
    pub keys: Vec<RowKey>,
    /// How it is to be done.
    pub terms: Terms,
}

/// The rows of one partition key, in the order of their sort keys, to be read a page at a time.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// The table.
    pub table: TableName,
    /// The partition key.
    pub partition: Bytes,
    /// Where the sort keys begin.
    pub from: std::ops::Bound<Bytes>,
    /// Where they end.
    pub to: std::ops::Bound<Bytes>,
    /// In order, or in reverse.
    pub backward: bool,
    /// Rows on the page at the most.
    pub rows_max: usize,
    /// How it is to be done.
    pub terms: Terms,
}

/// The rows of a table whose partition keys begin alike, in the order of their keys, to be read a page at a time.
#[derive(Clone, Debug)]
pub struct PrefixRequest {
    /// The table.
    pub table: TableName,
    /// How the partition keys begin. Nothing is all rows.
    pub prefix: Bytes,
    /// In order, or in reverse.
    pub backward: bool,
    /// Rows on the page at the most.
    pub rows_max: usize,
    /// Bytes on the page at the most; as many as a page may have when nothing is said. A first row that is larger comes alone.
    pub bytes_max: Option<usize>,
    /// What the page before ended with.
    pub resume: Option<Bytes>,
    /// How it is to be done.
    pub terms: Terms,
}
