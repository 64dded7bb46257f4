//! Hints over HTTP: how many wait for whom, how their replay stands, and steering it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use serde::{Deserialize, Serialize};

use super::body::read_json_or_default;
use super::input::Parameters;
use crate::admin::{HintOrder, HintsView};
use crate::edge::{Access, Caller, Edge, EdgeError};

/// The longest body of an order: a name, and what stands around it.
const ORDER_BYTES_MAX: usize = 4 << 10;

/// Whom an order is for; all, if it does not say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderBody {
    node: Option<String>,
}

/// What an order is answered with.
#[derive(Serialize)]
pub(super) struct OrderDocument {
    success: bool,
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// `GET /api/v1/replication/hints`
pub(super) async fn hints(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<HintsView>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    Ok(Json(edge.admin().hints()))
}

/// `POST /api/v1/replication/hints/replay`
pub(super) async fn replay(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<OrderDocument>, EdgeError> {
    steer(&edge, request, HintOrder::Replay, "hints are delivered now").await
}

/// `POST /api/v1/replication/hints/pause`
pub(super) async fn pause(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<OrderDocument>, EdgeError> {
    steer(&edge, request, HintOrder::Pause, "hints are kept and not delivered").await
}

/// `POST /api/v1/replication/hints/resume`
pub(super) async fn resume(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<OrderDocument>, EdgeError> {
    steer(&edge, request, HintOrder::Resume, "hints are delivered again").await
}

async fn steer(
    edge: &Edge,
    request: Request,
    order: HintOrder,
    message: &'static str,
) -> Result<Json<OrderDocument>, EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Steer)?;
    let OrderBody { node } = read_json_or_default(request, ORDER_BYTES_MAX).await?;
    edge.admin().steer_hints(order, node.as_deref())?;
    Ok(Json(OrderDocument { success: true, message, node }))
}
