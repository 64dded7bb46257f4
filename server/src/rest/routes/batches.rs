//! The calls for many rows at once, of a table that the body names or the path.

use axum::routing::post;

use super::call;
use crate::rest::batch;
use crate::rest::openapi::Answer::Json;
use crate::rest::openapi::Route;

const TABLE_BATCH: [&str; 3] = [
    "/api/v1/keyspaces/{keyspace}/tables/{table}/batch/put",
    "/api/v1/keyspaces/{keyspace}/tables/{table}/batch/delete",
    "/api/v1/keyspaces/{keyspace}/tables/{table}/batch/get",
];

/// All of them.
pub(super) fn batches() -> Vec<Route> {
    let of = |path, handler, name, summary| call("post", path, handler, name, "Rows", summary);
    let put = |path, name| {
        let route = of(path, post(batch::put), name, "Writes many rows");
        route.takes("BatchRows").answers(&[(200, Json("BatchWritten"))]).writes_a_batch()
    };
    let delete = |path, name| {
        let route = of(path, post(batch::delete), name, "Deletes many rows");
        route.takes("BatchDeleteKeys").answers(&[(200, Json("BatchWritten"))]).writes_a_batch()
    };
    let get = |path, name| {
        let route = of(path, post(batch::get), name, "Reads many rows");
        route.takes("BatchGetKeys").answers(&[(200, Json("BatchRead"))]).reads_a_batch()
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
