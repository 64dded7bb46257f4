//! How this node and its cluster fare.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::error::ErrorBody;
use super::input::Parameters;
use super::metrics;
use crate::admin::{ClusterHealth, Health, NodeView, Readiness, TopologyView};
use crate::edge::{Access, Caller, Code, Edge, EdgeError};

/// What `GET /api/v1/health` answers.
#[derive(Serialize)]
struct HealthDocument<'a> {
    status: &'static str,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    reasons: &'a [String],
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'a>>,
}

/// What `GET /livez` answers.
#[derive(Serialize)]
pub(super) struct LiveDocument {
    status: &'static str,
}

/// What `GET /api/v1/cluster/nodes` answers.
#[derive(Serialize)]
pub(super) struct NodesDocument {
    nodes: Vec<NodeView>,
}

/// `GET /livez`: the process lives and answers. It asks nothing else, so that a node in trouble is not killed for it.
pub(super) async fn livez() -> Json<LiveDocument> {
    Json(LiveDocument { status: "ALIVE" })
}

/// `GET /readyz`: whether traffic should come here, and what is missing if not.
pub(super) async fn readyz(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, EdgeError> {
    admit(&edge, &uri)?;
    Ok(ready_answer(&edge.health()))
}

fn ready_answer(health: &Health) -> Response {
    let ready = Readiness::of(health);
    let status = if ready.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

/// `GET /api/v1/cluster/health`: how the cluster fares, and what would break if one more node died.
pub(super) async fn whole(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<ClusterHealth>, EdgeError> {
    admit(&edge, &uri)?;
    Ok(Json(edge.cluster_health()))
}

/// `GET /api/v1/health`: whether the node serves.
pub(super) async fn health(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, EdgeError> {
    admit(&edge, &uri)?;
    Ok(health_answer(&edge.health()))
}

fn health_answer(health: &Health) -> Response {
    let document = |status, error| HealthDocument {
        status,
        node: &health.node,
        state: health.state.as_deref(),
        reasons: &health.reasons,
        warnings: &health.warnings,
        error,
    };
    if health.serves() {
        return Json(document("SERVING", None)).into_response();
    }
    let error = EdgeError::new(Code::NotServing, health.reasons.join("; "));
    let body = Json(document("NOT_SERVING", Some((&error).into())));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// What there is before the node is a member: that it lives, and to everything else why it does not serve.
pub(super) fn starting(health: Arc<dyn Fn() -> Health + Send + Sync>) -> Router {
    let told = Arc::clone(&health);
    let numbers = move || std::future::ready(metrics::starting(&told()));
    let waits = Arc::clone(&health);
    let not_ready = move || std::future::ready(ready_answer(&waits()));
    let not_serving = move || std::future::ready(health_answer(&health()));
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(not_ready))
        .route("/metrics", get(numbers))
        .fallback(not_serving)
}

/// `GET /api/v1/cluster/nodes`
pub(super) async fn nodes(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<NodesDocument>, EdgeError> {
    admit(&edge, &uri)?;
    Ok(Json(NodesDocument { nodes: edge.admin().nodes() }))
}

/// `GET /api/v1/cluster/topology`
pub(super) async fn topology(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<TopologyView>, EdgeError> {
    admit(&edge, &uri)?;
    Ok(Json(edge.admin().topology()))
}

fn admit(edge: &Edge, uri: &Uri) -> Result<(), EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)
}
