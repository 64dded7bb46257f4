//! The calls for many rows at once, of a table that the body names or the path.

use axum::routing::post;

use super::call;
use crate::edge::Code;
use crate::rest::batch;
use crate::rest::openapi::Answer::Json;
use crate::rest::openapi::Route;

const TABLE_BATCH: [&str; 3] = [
    "/api/v1/keyspaces/{keyspace}/tables/{table}/batch/put",
    "/api/v1/keyspaces/{keyspace}/tables/{table}/batch/delete",
    "/api/v1/keyspaces/{keyspace}/tables/{table}/batch/get",
];
/// What may go wrong with a batch of writes, beside what is told of its rows.
const BATCH_WRITING: &[Code] = &[
    Code::UnknownLevel,
    Code::EmptyKey,
    Code::InvalidTtl,
    Code::TimestampTooFarAhead,
    Code::UnknownKeyspace,
    Code::UnknownTable,
    Code::TimestampTooOld,
    Code::KeyTooLarge,
    Code::ValueTooLarge,
    Code::BatchTooLarge,
    Code::Overloaded,
    Code::Unavailable,
    Code::NoReplicas,
    Code::CannotStamp,
    Code::NotServing,
    Code::ShuttingDown,
    Code::WriteUnknown,
];
/// What may go wrong with a batch of reads, beside what is told of its rows.
const BATCH_READING: &[Code] = &[
    Code::UnknownLevel,
    Code::LevelNotForReading,
    Code::EmptyKey,
    Code::UnknownKeyspace,
    Code::UnknownTable,
    Code::KeyTooLarge,
    Code::BatchTooLarge,
    Code::Overloaded,
    Code::Unavailable,
    Code::NoReplicas,
    Code::NotServing,
    Code::ShuttingDown,
];

/// All of them.
pub(super) fn batches() -> Vec<Route> {
    let of = |path, handler, name, summary| call("post", path, handler, name, "Rows", summary);
    let put = |path, name| {
        let route = of(path, post(batch::put), name, "Writes many rows");
        route.takes("BatchRows").answers(&[(200, Json("BatchWritten"))]).fails(BATCH_WRITING)
    };
    let delete = |path, name| {
        let route = of(path, post(batch::delete), name, "Deletes many rows");
        route.takes("BatchDeleteKeys").answers(&[(200, Json("BatchWritten"))]).fails(BATCH_WRITING)
    };
    let get = |path, name| {
        let route = of(path, post(batch::get), name, "Reads many rows");
        route.takes("BatchGetKeys").answers(&[(200, Json("BatchRead"))]).fails(BATCH_READING)
    };
    let [put_at, delete_at, get_at] = TABLE_BATCH;
    vec![
        put("/api/v1/batch/put", "batchPut"),
        delete("/api/v1/batch/delete", "batchDelete"),
        get("/api/v1/batch/get", "batchGet"),
        put(put_at, "batchPutRows"),
        delete(delete_at, "batchDeleteRows"),
        get(get_at, "batchGetRows"),
    ]
}
