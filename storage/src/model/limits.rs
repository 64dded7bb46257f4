//! What a request may hold, and the error that names the limit it broke.

use std::fmt;

use thiserror::Error;

use super::{RowKey, TableId};

/// The most a key, a value, a batch and a page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Partition key and sort key together.
    pub key_bytes_max: usize,
    /// One value.
    pub value_bytes_max: usize,
    /// All keys and values of one batch.
    pub batch_bytes_max: usize,
    /// Mutations of one batch.
    pub batch_rows_max: usize,
    /// Keys and values of one page of a scan.
    pub page_bytes_max: usize,
    /// Rows of one page of a scan.
    pub page_rows_max: usize,
    /// The longest time to live, in milliseconds.
    pub ttl_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            key_bytes_max: 4 << 10,
            value_bytes_max: 4 * MIB,
            batch_bytes_max: 16 * MIB,
            batch_rows_max: 10_000,
            page_bytes_max: 4 * MIB,
            page_rows_max: 10_000,
            ttl_ms_max: 100 * 365 * 24 * 3600 * 1000,
        }
    }
}

/// What a page is bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageUnit {
    /// Rows.
    Rows,
    /// Bytes of keys and values.
    Bytes,
}

impl fmt::Display for PageUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
        })
    }
}

/// Why a request cannot be carried out as it stands. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A row needs a partition key.
    #[error("the key is empty: a row needs a partition key of at least one byte")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {bytes} bytes, the limit is {limit} (partition key and sort key together)")]
    KeyTooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The value is too long.
    #[error("the value of {key} has {bytes} bytes, the limit is {limit}")]
    ValueTooLong {
        /// The row.
        key: RowKey,
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The batch holds too many bytes.
    #[error("the batch has {bytes} bytes of keys and values, the limit is {limit}: split it")]
    BatchTooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The batch holds too many rows.
    #[error("the batch has {rows} rows, the limit is {limit}: split it")]
    BatchTooManyRows {
        /// Rows given.
        rows: usize,
        /// Rows allowed.
        limit: usize,
    },
    /// The time to live is not a positive duration within the limit.
    #[error("a time to live of {ttl_ms} ms is not between 1 ms and the limit of {limit} ms")]
    Ttl {
        /// Milliseconds given.
        ttl_ms: i64,
        /// Milliseconds allowed.
        limit: u64,
    },
    /// There is no such table on this node.
    #[error("there is no table {table}: it was dropped, or this node has not heard of it yet")]
    UnknownTable {
        /// The table asked for.
        table: TableId,
    },
    /// The page asked for is empty or too large.
    #[error("a page has 1 to {limit} {of}, and not {given}")]
    Page {
        /// What there would be none or too many of.
        of: PageUnit,
        /// How many were asked for.
        given: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The table keeps no index of its keys.
    #[error("table {table} keeps no prefix index (its option prefix_index is off): scan by partition key instead")]
    NoPrefixIndex {
        /// The table asked for.
        table: TableId,
    },
    /// The prefix index is a choice for the life of a table.
    #[error("whether table {table} keeps a prefix index was fixed when it was created: create another table and copy")]
    PrefixIndexFixed {
        /// The table.
        table: TableId,
    },
    /// A resume token that this database never gave, or gave for another scan.
    #[error("the page token is not valid for this scan: start the scan again without it")]
    PageToken,
    /// The bounds of a range stand the wrong way around.
    #[error(
        "the range ends before it begins: give the smaller sort key first, and ask for the reverse order by itself"
    )]
    RangeReversed,
}

impl Limits {
    /// Whether a row may have this key.
    pub fn check_key(&self, key: &RowKey) -> Result<(), Invalid> {
        if key.partition.is_empty() {
            return Err(Invalid::EmptyKey);
        }
        if key.len_bytes() > self.key_bytes_max {
            return Err(Invalid::KeyTooLong { bytes: key.len_bytes(), limit: self.key_bytes_max });
        }
        Ok(())
    }

    /// Whether the row of `key` may have a value of `bytes`.
    pub fn check_value(&self, key: &RowKey, bytes: usize) -> Result<(), Invalid> {
        if bytes > self.value_bytes_max {
            return Err(Invalid::ValueTooLong { key: key.clone(), bytes, limit: self.value_bytes_max });
        }
        Ok(())
    }

    /// A time to live as clients give it, if it is one.
    pub fn check_ttl_ms(&self, ttl_ms: i64) -> Result<u64, Invalid> {
        match u64::try_from(ttl_ms) {
            Ok(ttl) if ttl > 0 && ttl <= self.ttl_ms_max => Ok(ttl),
            _ => Err(Invalid::Ttl { ttl_ms, limit: self.ttl_ms_max }),
        }
    }

    /// Whether a page may be as large as asked for.
    pub fn check_page(&self, rows: usize, bytes: usize) -> Result<(), Invalid> {
        let bounds = [(PageUnit::Rows, rows, self.page_rows_max), (PageUnit::Bytes, bytes, self.page_bytes_max)];
        match bounds.into_iter().find(|(_, given, limit)| !(1..=*limit).contains(given)) {
            None => Ok(()),
            Some((of, given, limit)) => Err(Invalid::Page { of, given, limit }),
        }
    }
}
