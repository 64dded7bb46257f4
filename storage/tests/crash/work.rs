//! The work that a killed process does, as numbers: which row the n-th write of a writer goes to, and what it says. The
//! process computes it forwards, the check backwards.

use bytes::Bytes;
use cube_storage::model::{
    Batch, Body, Expiry, Hlc, Mutation, NodeId, Origin, PlacementId, Record, RowKey, TableId, Version,
};
use cube_storage::{SyncPolicy, TableOptions};

pub(crate) const PLACEMENT: PlacementId = PlacementId(0);
pub(crate) const INDEXED: TableId = TableId(1);
pub(crate) const UNINDEXED: TableId = TableId(2);
/// The table that rows are purged from.
pub(crate) const PURGED: TableId = TableId(3);

pub(crate) const WRITERS: u64 = 4;
/// Rows that a writer goes round and round over.
pub(crate) const ROWS: u64 = 97;

pub(crate) const TABLES: usize = 3;

pub(crate) fn tables(sync: SyncPolicy) -> [(TableId, TableOptions); TABLES] {
    let options = TableOptions { sync, ..TableOptions::default() };
    [(INDEXED, options), (UNINDEXED, TableOptions { prefix_index: false, ..options }), (PURGED, options)]
}

/// The table that a writer writes to.
pub(crate) fn table(writer: u64) -> TableId {
    if writer.is_multiple_of(2) { INDEXED } else { UNINDEXED }
}

/// The two rows that the n-th write goes to; they share a partition key, so they are written whole or not at all.
pub(crate) fn keys(writer: u64, n: u64) -> [RowKey; 2] {
    let partition = format!("writer {writer} row {}", n % ROWS);
    ["left", "right"].map(|sort| RowKey::with_sort(partition.clone(), sort))
}

/// What the n-th write of a writer says: now and then a deletion, an end, or a value that goes into a blob file.
pub(crate) fn record(writer: u64, n: u64) -> Record {
    let version = Version::new(Hlc(n), NodeId(writer as u16));
    if n.is_multiple_of(11) {
        return Record::tombstone(version);
    }
    let len = if n.is_multiple_of(13) { 3_000 } else { 20 + n % 300 };
    let mut value = format!("{writer}:{n}:").into_bytes();
    value.resize(value.len() + len as usize, (n % 251) as u8);
    let expiry = n.is_multiple_of(7).then_some(Expiry(n));
    Record { version, body: Body::Value { value: Bytes::from(value), expiry } }
}

pub(crate) fn batch(writer: u64, n: u64) -> Batch {
    let mutations = keys(writer, n)
        .map(|key| Mutation { table: table(writer), key, record: record(writer, n), claim: None })
        .to_vec();
    Batch { origin: Origin::Client, mutations }
}

/// The row of the n-th round of purging: written, deleted, purged.
pub(crate) fn purged_key(n: u64) -> RowKey {
    RowKey::of(format!("purged {}", n % ROWS))
}
