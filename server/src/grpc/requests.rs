//! The messages of `cube.v1.Kv` as requests of the coordinator, and what came of them as messages: the same for a call of
//! its own (`kv.rs`) and for one among many (`session.rs`).

use std::collections::HashSet;

use bytes::Bytes;
use cube_proto::v1::{self, partition_result, row_result};
use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, Explained, ReadRequest, ReadRow, RequestError, WriteRequest, Written};
use cube_storage::model::RowKey;
use tonic::metadata::MetadataMap;

use super::convert::{self, Common, Time};
use super::explained::explained;
use super::status::detail;
use crate::edge::{Edge, EdgeError, Names, explain};

/// Makes requests of the messages of one call.
pub(super) struct Requests<'a> {
    pub(super) edge: &'a Edge,
    /// The call's own deadline is among these.
    pub(super) metadata: &'a MetadataMap,
}

impl<'a> Requests<'a> {
    fn write_time(&self, timeout_ms: u32) -> Time<'a> {
        Time { timeout_ms, metadata: self.metadata, usual_ms: self.edge.settings().write_timeout_ms }
    }

    fn read_time(&self, timeout_ms: u32) -> Time<'a> {
        Time { timeout_ms, metadata: self.metadata, usual_ms: self.edge.settings().read_timeout_ms }
    }

    pub(super) fn put(&self, message: v1::PutRequest) -> Result<WriteRequest, EdgeError> {
        let v1::PutRequest { keyspace, table, key, value, level, timeout_ms, ttl_ms, timestamp_ms, seen, explain } =
            message;
        let Common { table, terms } = Common::read(keyspace, table, level, &self.write_time(timeout_ms), explain)?;
        let rows = vec![(convert::row_key(key), convert::put(value, ttl_ms))];
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        Ok(WriteRequest { table, rows, terms, timestamp, seen, condition: None })
    }

    pub(super) fn delete(&self, message: v1::DeleteRequest) -> Result<WriteRequest, EdgeError> {
        let v1::DeleteRequest { keyspace, table, key, level, timeout_ms, timestamp_ms, seen, explain } = message;
        let Common { table, terms } = Common::read(keyspace, table, level, &self.write_time(timeout_ms), explain)?;
        let rows = vec![(convert::row_key(key), Change::Delete)];
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        Ok(WriteRequest { table, rows, terms, timestamp, seen, condition: None })
    }

    pub(super) fn batch_put(&self, message: v1::BatchPutRequest) -> Result<WriteRequest, EdgeError> {
        let v1::BatchPutRequest { keyspace, table, rows, level, timeout_ms, timestamp_ms, seen, explain } = message;
        let Common { table, terms } = Common::read(keyspace, table, level, &self.write_time(timeout_ms), explain)?;
        let rows = rows.into_iter().map(|row| (convert::row_key(row.key), convert::put(row.value, row.ttl_ms)));
        let rows = rows.collect();
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        Ok(WriteRequest { table, rows, terms, timestamp, seen, condition: None })
    }

    pub(super) fn batch_delete(&self, message: v1::BatchDeleteRequest) -> Result<WriteRequest, EdgeError> {
        let v1::BatchDeleteRequest { keyspace, table, keys, level, timeout_ms, timestamp_ms, seen, explain } = message;
        let Common { table, terms } = Common::read(keyspace, table, level, &self.write_time(timeout_ms), explain)?;
        let rows = keys.into_iter().map(|key| (convert::row_key(Some(key)), Change::Delete)).collect();
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        Ok(WriteRequest { table, rows, terms, timestamp, seen, condition: None })
    }

    pub(super) fn get(&self, message: v1::GetRequest) -> Result<ReadRequest, EdgeError> {
        let v1::GetRequest { keyspace, table, key, level, timeout_ms, explain } = message;
        let Common { table, terms } = Common::read(keyspace, table, level, &self.read_time(timeout_ms), explain)?;
        Ok(ReadRequest { table, keys: vec![convert::row_key(key)], terms })
    }

    pub(super) fn batch_get(&self, message: v1::BatchGetRequest) -> Result<ReadRequest, EdgeError> {
        let v1::BatchGetRequest { keyspace, table, keys, level, timeout_ms, explain } = message;
        let Common { table, terms } = Common::read(keyspace, table, level, &self.read_time(timeout_ms), explain)?;
        let keys = keys.into_iter().map(|key| convert::row_key(Some(key))).collect();
        Ok(ReadRequest { table, keys, terms })
    }
}

/// The partition keys in the order they first appear, as the coordinator groups by them.
pub(super) fn partitions_of(rows: &[(RowKey, Change)]) -> Vec<Bytes> {
    let mut seen = HashSet::with_capacity(rows.len());
    rows.iter().map(|(key, _)| &key.partition).filter(|partition| seen.insert(*partition)).cloned().collect()
}

/// What came of a batch of writes: for each of these partition keys, in their order.
pub(super) fn batch_written(
    partitions: Vec<Bytes>,
    results: Vec<Result<Written, RequestError>>,
    level: Level,
    names: &Names<'_>,
) -> v1::BatchWriteReply {
    let account = results.iter().find_map(Explained::account).cloned();
    let outcome = |result| match result {
        Ok(written) => {
            partition_result::Outcome::Written(convert::written(Written { account: None, ..written }, level, names))
        }
        Err(error) => partition_result::Outcome::Error(detail(&explain(error, names))),
    };
    let results = partitions
        .into_iter()
        .zip(results)
        .map(|(partition, result)| v1::PartitionResult { partition, outcome: Some(outcome(result)) });
    v1::BatchWriteReply { results: results.collect(), explained: explained(account.as_ref(), names) }
}

/// What was found of many rows, in their order.
pub(super) fn batch_read(found: Vec<Result<ReadRow, RequestError>>, names: &Names<'_>) -> v1::BatchGetReply {
    let account = found.iter().find_map(Explained::account).cloned();
    let outcome = |row| match row {
        Ok(row) => row_result::Outcome::Row(convert::read_row(ReadRow { account: None, ..row }, names)),
        Err(error) => row_result::Outcome::Error(detail(&explain(error, names))),
    };
    let rows = found.into_iter().map(|row| v1::RowResult { outcome: Some(outcome(row)) }).collect();
    v1::BatchGetReply { rows, explained: explained(account.as_ref(), names) }
}
