//! One atomic write, put together for RocksDB.

use rocksdb::{ColumnFamily, DB, WriteBatch};

use super::{KeyRange, LeafSum, Space, Writes};

/// Longer than any key: what is removed up to the end of a space when the space cannot tell its last key.
const KEY_BYTES_MAX: usize = 64 << 10;

pub(super) struct RocksWrites<'a> {
    db: &'a DB,
    pub(super) batch: WriteBatch,
    families: [&'a ColumnFamily; 4],
    /// Bytes of the longest key put so far.
    longest_key: usize,
}

impl<'a> RocksWrites<'a> {
    /// With the families in the order of [`Space::ALL`].
    pub(super) fn new(db: &'a DB, families: [&'a ColumnFamily; 4], capacity_bytes: usize) -> Self {
        Self { db, batch: WriteBatch::with_capacity_bytes(capacity_bytes), families, longest_key: 0 }
    }

    fn family(&self, space: Space) -> &'a ColumnFamily {
        let [data, keys, merkle, meta] = self.families;
        match space {
            Space::Data => data,
            Space::Keys => keys,
            Space::Merkle => merkle,
            Space::Meta => meta,
        }
    }

    /// A key behind all keys of the space, those of this batch included: RocksDB removes no range without an end.
    fn past_end(&self, family: &ColumnFamily) -> Vec<u8> {
        let mut keys = self.db.raw_iterator_cf(family);
        keys.seek_to_last();
        let last = match keys.status() {
            Ok(()) => keys.key().map_or(0, <[u8]>::len),
            Err(_) => KEY_BYTES_MAX,
        };
        vec![0xff; self.longest_key.max(last) + 1]
    }
}

impl Writes for RocksWrites<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.longest_key = self.longest_key.max(key.len());
        self.batch.put_cf(self.family(space), key, value);
    }

    fn delete(&mut self, space: Space, key: &[u8]) {
        self.batch.delete_cf(self.family(space), key);
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        let family = self.family(space);
        let end = if range.end.is_empty() { self.past_end(family) } else { range.end.clone() };
        // RocksDB logs a range that ends before it starts, and only then refuses it.
        if range.start < end {
            self.batch.delete_range_cf(family, &range.start, &end);
        }
    }

    fn add(&mut self, key: &[u8], delta: LeafSum) {
        self.longest_key = self.longest_key.max(key.len());
        self.batch.merge_cf(self.family(Space::Merkle), key, delta.encode());
    }
}
