//! The HTTP front door: JSON in and out, as `docs/rest-api.md` says.
//!
//! `routes.rs` has every call with its path and what is said of it, of which `openapi/` makes the router and the
//! document. `data.rs` reads and writes rows, `batch.rs` many at once, `scan.rs` lists them, `stats.rs` and `metrics.rs`
//! have numbers, `schema.rs` keyspaces and tables, `cluster.rs` tells how node and cluster fare; `dto.rs` and
//! `batch_documents.rs` hold the documents, `input.rs` and `body.rs` read what comes in. Every error has the one shape
//! `{"error":{"code","message","details"}}`, also where there is no such path or method.

mod batch;
mod batch_documents;
mod body;
mod cluster;
mod config;
mod data;
mod dto;
mod error;
mod explained;
mod hints;
mod input;
mod leaving;
mod metrics;
mod openapi;
mod parent;
mod range;
mod repair;
mod replication;
mod routes;
mod scan;
mod schema;
mod serve;
mod stats;
mod text;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{Method, Uri};
use axum::middleware::map_response_with_state;
use axum::response::Response;
use axum::{Extension, Router};

use self::body::BodyTime;
pub use self::serve::serve;
use crate::admin::Health;
use crate::edge::{Code, Edge, EdgeError};

/// Everything there is over HTTP.
pub fn router(edge: Arc<Edge>) -> Router {
    openapi::router(routes::table())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(map_response_with_state(Arc::clone(&edge), count))
        .with_state(edge)
}

/// The same with another time for bodies.
pub fn with_body_time(router: Router, time: Duration) -> Router {
    router.layer(Extension(BodyTime(time)))
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
    let message = format!("there is nothing at {}: GET /docs shows all calls", uri.path());
    EdgeError::new(Code::NotFound, message)
}

async fn no_such_method(method: Method, uri: Uri) -> EdgeError {
    EdgeError::new(Code::MethodNotAllowed, format!("{method} is nothing that can be done with {}", uri.path()))
}
