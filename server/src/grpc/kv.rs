//! The calls of `cube.v1.Kv`, each three steps: read the message, ask the edge, write the answer.

use std::sync::Arc;

use cube_proto::v1::kv_server::Kv;
use cube_proto::v1::{self, partition_result, row_result};
use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, ReadRequest, RequestError, WriteRequest, Written};
use cube_storage::model::RowKey;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::convert::{self, Common, Time};
use super::status::detail;
use crate::edge::{Caller, Edge, Names, explain};

/// Answers for rows.
pub(super) struct KvService {
    edge: Arc<Edge>,
}

impl KvService {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }

    fn write_time<'a>(&self, timeout_ms: u32, metadata: &'a MetadataMap) -> Time<'a> {
        Time { timeout_ms, metadata, usual_ms: self.edge.settings().write_timeout_ms }
    }

    fn read_time<'a>(&self, timeout_ms: u32, metadata: &'a MetadataMap) -> Time<'a> {
        Time { timeout_ms, metadata, usual_ms: self.edge.settings().read_timeout_ms }
    }

    async fn write_one(&self, request: WriteRequest) -> Result<Response<v1::WriteReply>, Status> {
        let level = request.terms.level;
        let written = self.edge.write_one(Caller::Anonymous, request).await?;
        Ok(Response::new(convert::written(written, level, &Names::new(&self.edge.state()))))
    }

    async fn write_many(&self, request: WriteRequest) -> Result<Response<v1::BatchWriteReply>, Status> {
        let (level, partitions) = (request.terms.level, partitions_of(&request.rows));
        let results = self.edge.write(Caller::Anonymous, request).await?;
        let state = self.edge.state();
        let names = Names::new(&state);
        let results = partitions.into_iter().zip(results).map(|(partition, result)| v1::PartitionResult {
            partition,
            outcome: Some(outcome_of(result, level, &names)),
        });
        Ok(Response::new(v1::BatchWriteReply { results: results.collect() }))
    }
}

/// The partition keys in the order they first appear, as the coordinator groups by them.
fn partitions_of(rows: &[(RowKey, Change)]) -> Vec<bytes::Bytes> {
    let mut seen = std::collections::HashSet::with_capacity(rows.len());
    rows.iter().map(|(key, _)| &key.partition).filter(|partition| seen.insert(*partition)).cloned().collect()
}

fn outcome_of(result: Result<Written, RequestError>, level: Level, names: &Names<'_>) -> partition_result::Outcome {
    match result {
        Ok(written) => partition_result::Outcome::Written(convert::written(written, level, names)),
        Err(error) => partition_result::Outcome::Error(detail(&explain(error, names))),
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let v1::PutRequest { keyspace, table, key, value, level, timeout_ms, ttl_ms, timestamp_ms, seen, explain } =
            message;
        let Common { table, terms } =
            Common::read(keyspace, table, level, &self.write_time(timeout_ms, &metadata), explain)?;
        let rows = vec![(convert::row_key(key), convert::put(value, ttl_ms))];
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        self.write_one(WriteRequest { table, rows, terms, timestamp, seen, condition: None }).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let v1::DeleteRequest { keyspace, table, key, level, timeout_ms, timestamp_ms, seen, explain } = message;
        let Common { table, terms } =
            Common::read(keyspace, table, level, &self.write_time(timeout_ms, &metadata), explain)?;
        let rows = vec![(convert::row_key(key), Change::Delete)];
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        self.write_one(WriteRequest { table, rows, terms, timestamp, seen, condition: None }).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let v1::GetRequest { keyspace, table, key, level, timeout_ms, explain } = message;
        let Common { table, terms } =
            Common::read(keyspace, table, level, &self.read_time(timeout_ms, &metadata), explain)?;
        let keys = vec![convert::row_key(key)];
        let row = self.edge.read_one(Caller::Anonymous, ReadRequest { table, keys, terms }).await?;
        Ok(Response::new(convert::read_row(row)))
    }

    async fn range(&self, request: Request<v1::RangeRequest>) -> Result<Response<v1::RangeReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let (whole, page) = convert::range(message, &metadata, &self.edge)?;
        let found = self.edge.range(Caller::Anonymous, page).await?;
        Ok(Response::new(convert::range_page(&whole, found)))
    }

    async fn batch_put(&self, request: Request<v1::BatchPutRequest>) -> Result<Response<v1::BatchWriteReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let v1::BatchPutRequest { keyspace, table, rows, level, timeout_ms, timestamp_ms, seen, explain } = message;
        let Common { table, terms } =
            Common::read(keyspace, table, level, &self.write_time(timeout_ms, &metadata), explain)?;
        let rows = rows.into_iter().map(|row| (convert::row_key(row.key), convert::put(row.value, row.ttl_ms)));
        let rows = rows.collect();
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        self.write_many(WriteRequest { table, rows, terms, timestamp, seen, condition: None }).await
    }

    async fn batch_delete(
        &self,
        request: Request<v1::BatchDeleteRequest>,
    ) -> Result<Response<v1::BatchWriteReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let v1::BatchDeleteRequest { keyspace, table, keys, level, timeout_ms, timestamp_ms, seen, explain } = message;
        let Common { table, terms } =
            Common::read(keyspace, table, level, &self.write_time(timeout_ms, &metadata), explain)?;
        let rows = keys.into_iter().map(|key| (convert::row_key(Some(key)), Change::Delete)).collect();
        let (timestamp, seen) = (convert::timestamp(timestamp_ms), convert::seen(seen)?);
        self.write_many(WriteRequest { table, rows, terms, timestamp, seen, condition: None }).await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let v1::BatchGetRequest { keyspace, table, keys, level, timeout_ms, explain: explained } = message;
        let Common { table, terms } =
            Common::read(keyspace, table, level, &self.read_time(timeout_ms, &metadata), explained)?;
        let keys = keys.into_iter().map(|key| convert::row_key(Some(key))).collect();
        let found = self.edge.read(Caller::Anonymous, ReadRequest { table, keys, terms }).await?;
        let state = self.edge.state();
        let names = Names::new(&state);
        let rows = found.into_iter().map(|row| v1::RowResult {
            outcome: Some(match row {
                Ok(row) => row_result::Outcome::Row(convert::read_row(row)),
                Err(error) => row_result::Outcome::Error(detail(&explain(error, &names))),
            }),
        });
        Ok(Response::new(v1::BatchGetReply { rows: rows.collect() }))
    }
}
