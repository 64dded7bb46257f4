//! Reading single rows. A record is verified against its key before it is returned; one that does not check out is an
//! error that names the row, and its partition is marked unsynced so that it heals.

use crate::engine::{EngineError, Space};
use crate::error::{DamagedRange, StoreError};
use crate::keyspace::encode_data_key;
use crate::model::{Record, RecordHeader, RowKey, TableId};
use crate::store::Store;

/// Longest data key that is put together without asking for memory twice.
const KEY_BYTES_TYPICAL: usize = 96;

impl Store {
    /// The record of a row: its value, its tombstone, or nothing. Expiry is for the caller to judge.
    pub fn get(&self, table: TableId, key: &RowKey) -> Result<Option<Record>, StoreError> {
        Ok(self.get_with_header(table, key)?.map(|(_, record)| record))
    }

    /// [`Store::get`], with the header that tells the record's checksum.
    pub fn get_with_header(&self, table: TableId, key: &RowKey) -> Result<Option<(RecordHeader, Record)>, StoreError> {
        self.tables.read().get(table)?;
        self.limits.check_key(key)?;
        let mut data_key = Vec::with_capacity(KEY_BYTES_TYPICAL);
        encode_data_key(table, key, &mut data_key);
        let mut found = None;
        let viewed = self.engine.view(Space::Data, &data_key, &mut |bytes| {
            found = Some(Record::decode_with_header(&data_key, bytes));
        });
        let record = match viewed {
            Ok(()) => found.transpose().map_err(|damage| damage.to_string()),
            Err(EngineError::Corruption { detail }) => Err(detail),
            Err(error) => return Err(error.into()),
        };
        match record {
            Ok(record) => Ok(record),
            Err(detail) => Err(self.damaged(DamagedRange::of_row(table, &data_key, detail))),
        }
    }

    /// [`Store::get_with_header`] without waiting for a disk; nothing if that is not possible, or the row is damaged.
    pub fn get_in_memory(&self, table: TableId, key: &RowKey) -> Option<Option<(RecordHeader, Record)>> {
        self.read_in_memory(table, key, |data_key, bytes| Record::decode_with_header(data_key, bytes).ok())
    }

    /// [`Store::header`] without waiting for a disk; nothing if that is not possible, or the row is damaged.
    pub fn header_in_memory(&self, table: TableId, key: &RowKey) -> Option<Option<RecordHeader>> {
        self.read_in_memory(table, key, |data_key, bytes| RecordHeader::verify(data_key, bytes).ok())
    }

    fn read_in_memory<T>(
        &self,
        table: TableId,
        key: &RowKey,
        decode: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Option<Option<T>> {
        self.tables.read().get(table).ok()?;
        self.limits.check_key(key).ok()?;
        let mut data_key = Vec::with_capacity(KEY_BYTES_TYPICAL);
        encode_data_key(table, key, &mut data_key);
        let mut found = None;
        let was_there = self
            .engine
            .view_in_memory(Space::Data, &data_key, &mut |bytes| found = Some(decode(&data_key, bytes)))
            .unwrap_or(false);
        match found {
            // Damage is told, and noted, by the reading that may wait.
            Some(decoded) => decoded.map(Some),
            None => was_there.then_some(None),
        }
    }

    /// Version and checksum of a row's record, without its value: the digest that replicas compare.
    pub fn header(&self, table: TableId, key: &RowKey) -> Result<Option<RecordHeader>, StoreError> {
        self.headers(table, std::slice::from_ref(key)).pop().unwrap_or(Ok(None))
    }

    /// [`Store::header`] for many rows of a table, each with its own error.
    pub fn headers(&self, table: TableId, keys: &[RowKey]) -> Vec<Result<Option<RecordHeader>, StoreError>> {
        self.read_many(table, keys, |data_key, bytes| RecordHeader::verify(data_key, bytes).map_err(|e| e.to_string()))
    }

    /// [`Store::get`] for many rows of a table, each with its own error.
    pub fn get_many(&self, table: TableId, keys: &[RowKey]) -> Vec<Result<Option<Record>, StoreError>> {
        let rows = self.get_many_with_headers(table, keys).into_iter();
        rows.map(|row| Ok(row?.map(|(_, record)| record))).collect()
    }

    /// [`Store::get_many`], with the headers that tell the records' checksums.
    pub fn get_many_with_headers(
        &self,
        table: TableId,
        keys: &[RowKey],
    ) -> Vec<Result<Option<(RecordHeader, Record)>, StoreError>> {
        self.read_many(table, keys, |data_key, bytes| {
            Record::decode_with_header(data_key, bytes).map_err(|e| e.to_string())
        })
    }

    fn read_many<T>(
        &self,
        table: TableId,
        keys: &[RowKey],
        decode: impl Fn(&[u8], &[u8]) -> Result<T, String>,
    ) -> Vec<Result<Option<T>, StoreError>> {
        let known = self.tables.read().get(table);
        if let Err(unknown) = known {
            return keys.iter().map(|_| Err(unknown.clone().into())).collect();
        }
        let data_keys: Vec<Vec<u8>> = keys.iter().map(|key| crate::keyspace::data_key(table, key)).collect();
        let borrowed: Vec<&[u8]> = data_keys.iter().map(Vec::as_slice).collect();
        let mut rows: Vec<_> =
            keys.iter().map(|key| self.limits.check_key(key).map_err(StoreError::from).map(|()| None)).collect();
        let mut damaged = Vec::new();
        self.engine.multi_get(Space::Data, &borrowed, &mut |place, value| {
            let (Some(row @ Ok(_)), Some(data_key)) = (rows.get_mut(place), borrowed.get(place)) else { return };
            let decoded = match value {
                Ok(None) => return,
                Ok(Some(bytes)) => decode(data_key, bytes),
                Err(EngineError::Corruption { detail }) => Err(detail),
                Err(error) => return *row = Err(error.into()),
            };
            match decoded {
                Ok(decoded) => *row = Ok(Some(decoded)),
                Err(detail) => damaged.push((place, DamagedRange::of_row(table, data_key, detail))),
            }
        });
        for (place, range) in damaged {
            if let Some(row) = rows.get_mut(place) {
                *row = Err(self.damaged(range));
            }
        }
        rows
    }
}
