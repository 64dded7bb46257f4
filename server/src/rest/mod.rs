//! The HTTP front door: JSON in and out, as `docs/rest-api.md` says.
//!
//! Here stand the paths. `data.rs` reads and writes rows, `scan.rs` lists them, `stats.rs` has numbers, `schema.rs` keyspaces and tables, `cluster.rs` tells how node
//! and cluster fare; `dto.rs` holds the documents, `input.rs` and `body.rs` read what comes in. Every error has the one
//! shape `{"error":{"code","message","details"}}`, also where there is no such path or method.

mod body;
mod cluster;
mod config;
mod data;
mod dto;
mod error;
mod explained;
mod hints;
mod input;
mod metrics;
mod repair;
mod replication;
mod scan;
mod schema;
mod serve;
mod stats;
mod text;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::middleware::map_response_with_state;
use axum::response::Response;
use axum::routing::{delete, get, post, put};

pub use self::serve::serve;
use crate::admin::Health;
use crate::edge::{Code, Edge, EdgeError};

/// Everything there is over HTTP.
pub fn router(edge: Arc<Edge>) -> Router {
    let rows = get(data::get_row).put(data::put_row).delete(data::delete_row);
    let table_path = "/api/v1/keyspaces/{keyspace}/tables/{table}";
    Router::new()
        .route("/livez", get(cluster::livez))
        .route("/readyz", get(cluster::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/api/v1/health", get(cluster::health))
        .route("/api/v1/put", post(data::put))
        // A key may hold slashes, encoded or not, so it is everything that follows; and it must not be empty.
        .route("/api/v1/get/{*key}", get(data::get))
        .route("/api/v1/get/", get(data::get))
        .route("/api/v1/get", get(data::get))
        .route("/api/v1/delete/{*key}", delete(data::delete))
        .route("/api/v1/delete/", delete(data::delete))
        .route("/api/v1/delete", delete(data::delete))
        .route("/api/v1/scan", get(scan::scan))
        .route("/api/v1/keyspaces", get(schema::list))
        .route(
            "/api/v1/keyspaces/{keyspace}",
            put(schema::create_keyspace)
                .get(schema::get_keyspace)
                .patch(schema::alter_keyspace)
                .delete(schema::drop_keyspace),
        )
        .route(
            table_path,
            put(schema::create_table).get(schema::get_table).patch(schema::alter_table).delete(schema::drop_table),
        )
        .route(&format!("{table_path}/rows/{{*row}}"), rows.clone())
        .route(&format!("{table_path}/rows/"), rows.clone())
        .route(&format!("{table_path}/rows"), rows)
        .route("/api/v1/config", get(config::show).patch(config::change))
        .route("/api/v1/cluster/health", get(cluster::whole))
        .route("/api/v1/cluster/nodes", get(cluster::nodes))
        .route("/api/v1/cluster/topology", get(cluster::topology))
        .route("/api/v1/replication/hints", get(hints::hints))
        .route("/api/v1/replication/hints/replay", post(hints::replay))
        .route("/api/v1/replication/hints/pause", post(hints::pause))
        .route("/api/v1/replication/hints/resume", post(hints::resume))
        .route("/api/v1/replication/repair", get(repair::list).post(repair::begin))
        .route("/api/v1/replication/repair/{id}", get(repair::show).delete(repair::cancel))
        .route("/api/v1/replication/status", get(replication::status))
        .route("/api/v1/replication/scrub", get(replication::scrub).post(replication::scrub_now))
        .route("/api/v1/stats", get(stats::stats))
        .route("/api/v1/requests/slow", get(stats::slow_requests))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(map_response_with_state(Arc::clone(&edge), count))
        .with_state(edge)
}

/// What there is over HTTP before the node can serve: whether it lives, and why it does not serve yet.
pub fn starting(health: Arc<dyn Fn() -> Health + Send + Sync>) -> Router {
    cluster::starting(health)
}

async fn count(State(edge): State<Arc<Edge>>, response: Response) -> Response {
    edge.meter().answered(response.status());
    response
}

async fn no_such_path(uri: Uri) -> EdgeError {
    let message = format!("there is nothing at {}: docs/rest-api.md lists the paths", uri.path());
    EdgeError::new(Code::NotFound, message)
}

async fn no_such_method(method: Method, uri: Uri) -> EdgeError {
    EdgeError::new(Code::MethodNotAllowed, format!("{method} is nothing that can be done with {}", uri.path()))
}
