//! The disk format written down a second time, from `docs/formats.md` and not from the code under test: what the bytes
//! of a key, a record and a Merkle leaf must be.

use std::hash::Hasher;

use cube_storage::model::{Body, PartitionBits, Record, RowKey, TableId};
use siphasher::sip128::{Hasher128, SipHasher13};

fn escaped(partition: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for &byte in partition {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend([0x00, 0x01]);
    out
}

fn token(partition: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(partition)
}

/// The key of a row in `data`.
pub(crate) fn data_key(table: TableId, key: &RowKey) -> Vec<u8> {
    let token = token(&key.partition).to_be_bytes();
    [&table.0.to_be_bytes()[..], &token, &escaped(&key.partition), &key.sort].concat()
}

/// The key of a row in `keys`.
pub(crate) fn index_key(table: TableId, key: &RowKey) -> Vec<u8> {
    [&table.0.to_be_bytes()[..], &escaped(&key.partition), &key.sort].concat()
}

/// A record without its checksum, and the checksum under `data_key`.
fn record_parts(data_key: &[u8], record: &Record) -> (Vec<u8>, u32) {
    let mut out = vec![1, 0];
    out.extend(record.version.hlc.0.to_be_bytes());
    out.extend(record.version.node.0.to_be_bytes());
    match &record.body {
        Body::Tombstone => out[1] = 1,
        Body::Value { value, expiry } => {
            if let Some(expiry) = expiry {
                out[1] = 2;
                out.extend(expiry.0.to_be_bytes());
            }
            out.extend(value);
        }
    }
    let checksum = crc32fast::hash(&[data_key, &out].concat());
    (out, checksum)
}

/// The bytes of a record.
pub(crate) fn record(data_key: &[u8], record: &Record) -> Vec<u8> {
    let (mut out, checksum) = record_parts(data_key, record);
    out.extend(checksum.to_be_bytes());
    out
}

/// The number of the Merkle leaf a row falls into, counted over all partitions.
pub(crate) fn leaf(bits: PartitionBits, key: &RowKey) -> u32 {
    (token(&key.partition) >> (64 - 12 - u32::from(bits.bits()))) as u32
}

/// What a row adds to its leaf.
pub(crate) fn row_hash(merkle_key: &[u8; 16], table: TableId, key: &RowKey, row: &Record) -> u128 {
    let data_key = data_key(table, key);
    let (_, checksum) = record_parts(&data_key, row);
    let mut hasher = SipHasher13::new_with_key(merkle_key);
    let mut message = data_key;
    message.extend(row.version.hlc.0.to_le_bytes());
    message.extend(((u64::from(row.version.node.0) << 32) | u64::from(checksum)).to_le_bytes());
    hasher.write(&message);
    hasher.finish128().as_u128()
}

/// The key of a leaf in `merkle`.
pub(crate) fn leaf_key(table: TableId, leaf: u32) -> Vec<u8> {
    [table.0.to_be_bytes(), leaf.to_be_bytes()].concat()
}

/// The bytes of a leaf.
pub(crate) fn leaf_value(sum: u128, rows: i64) -> Vec<u8> {
    [&sum.to_be_bytes()[..], &rows.to_be_bytes()].concat()
}
