//! What property tests draw from: few keys that are easily mistaken for one another, few versions that meet often, and
//! every kind of record.

use bytes::Bytes;
use cube_storage::model::{Body, Expiry, Hlc, Mutation, NodeId, Record, RowKey, TableId, Version};
use proptest::prelude::*;

/// Partition keys in which zeros, escapes, ends and prefixes meet.
pub(crate) const PARTITION_KEYS: [&[u8]; 14] = [
    b"a",
    b"a\0",
    b"a\0\x01",
    b"a\0\xff",
    b"a\x01",
    b"ab",
    b"\0",
    b"\0\0",
    b"\x01",
    b"\xff",
    b"\xff\xff",
    b"user:alice",
    b"user_alice",
    b"user:alice\0",
];

/// Sort keys alike.
pub(crate) const SORT_KEYS: [&[u8]; 7] = [b"", b"\0", b"\0\x01", b"\0\xff", b"a", b"\xff", b"\xff\xff"];

pub(crate) fn row_key() -> impl Strategy<Value = RowKey> {
    let partition = prop::sample::select(PARTITION_KEYS.to_vec());
    let sort = prop_oneof![2 => Just(&b""[..]), 1 => prop::sample::select(SORT_KEYS.to_vec())];
    (partition, sort).prop_map(|(partition, sort)| RowKey::with_sort(partition, sort))
}

/// The latest millisecond of a drawn version.
pub(crate) const MILLIS_MAX: u64 = 8;

pub(crate) fn version() -> impl Strategy<Value = Version> {
    (1..=MILLIS_MAX, 0u16..2, 1u16..3)
        .prop_map(|(millis, counter, node)| Version::new(Hlc::new(millis, counter), NodeId(node)))
}

/// Values: none, short ones that differ, and now and then one that goes into a blob file.
fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => prop::sample::select(vec![&b""[..], b"a", b"b", b"\0", b"\xff"]).prop_map(Bytes::from_static),
        1 => (any::<u8>(), 2_000_usize..6_000).prop_map(|(byte, len)| Bytes::from(vec![byte; len])),
    ]
}

pub(crate) fn body() -> impl Strategy<Value = Body> {
    let expiry = prop_oneof![
        3 => Just(None),
        2 => (1..=MILLIS_MAX).prop_map(|millis| Some(Expiry(millis))),
        1 => Just(Some(Expiry(u64::MAX))),
    ];
    prop_oneof![
        1 => Just(Body::Tombstone),
        3 => (value(), expiry).prop_map(|(value, expiry)| Body::Value { value, expiry }),
    ]
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    (version(), body()).prop_map(|(version, body)| Record { version, body })
}

pub(crate) fn mutation(tables: Vec<TableId>) -> impl Strategy<Value = Mutation> {
    (prop::sample::select(tables), row_key(), record()).prop_map(|(table, key, record)| Mutation {
        table,
        key,
        record,
        claim: None,
    })
}
