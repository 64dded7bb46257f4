//! RocksDB as the store opens it (same options, same column families), used directly.
//!
//! A write puts the batch's values under the store's data keys into the family `data`, in one write batch, with the log
//! synced. It neither reads before, nor knows of versions, checksums, an index of keys, or sums.

use std::path::Path;

use bytes::Bytes;
use cube_storage::engine::Space;
use cube_storage::keyspace::encode_data_key;
use cube_storage::model::RowKey;
use rocksdb::{ColumnFamily, DB, WaitForCompactOptions, WriteBatch, WriteOptions};

use super::{Subject, TABLE, rocks_options};
use crate::Result;

/// A bare RocksDB.
pub struct Bare {
    db: DB,
}

impl Bare {
    /// Opens or makes one.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self { db: rocks_options().open_bare(dir)? })
    }

    fn data(&self) -> Result<&ColumnFamily> {
        self.db.cf_handle(Space::Data.name()).ok_or_else(|| "there is no column family of data".into())
    }

    /// Visits every row in the order of the data keys, and counts those whose partition keys begin with `prefix`: what
    /// a prefix scan is without an index of keys.
    pub fn count_by_full_scan(&self, prefix: &[u8]) -> Result<usize> {
        const KEY_START: usize = 4 + 8;
        let mut rows = self.db.raw_iterator_cf(self.data()?);
        rows.seek_to_first();
        let mut count = 0;
        while let Some((key, _)) = rows.item() {
            count += usize::from(key.get(KEY_START..).is_some_and(|key| key.starts_with(prefix)));
            rows.next();
        }
        rows.status()?;
        Ok(count)
    }
}

impl Subject for Bare {
    fn write(&self, rows: Vec<(RowKey, Bytes)>) -> Result<()> {
        let data = self.data()?;
        let mut batch = WriteBatch::default();
        let mut data_key = Vec::new();
        for (key, value) in rows {
            data_key.clear();
            encode_data_key(TABLE, &key, &mut data_key);
            batch.put_cf(data, &data_key, &value);
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.db.write_opt(batch, &options)?)
    }

    fn read(&self, key: &RowKey) -> Result<usize> {
        let mut data_key = Vec::new();
        encode_data_key(TABLE, key, &mut data_key);
        let value = self.db.get_cf(self.data()?, data_key)?;
        Ok(value.ok_or("a row is missing")?.len())
    }

    fn settle(&self) -> Result<()> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        Ok(self.db.wait_for_compact(&options)?)
    }

    fn disk_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for property in ["rocksdb.total-sst-files-size", "rocksdb.total-blob-file-size"] {
            bytes += self.db.property_int_value_cf(self.data()?, property)?.unwrap_or_default();
        }
        Ok(bytes)
    }
}
