//! Anti-entropy and scrub over HTTP: how replicas stand, and having everything verified now.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::body::read_json_or_default;
use super::input::Parameters;
use crate::admin::{ReplicationView, ScrubView};
use crate::edge::{Access, Caller, DEFAULT_KEYSPACE, Edge, EdgeError};

/// The longest body of an order that says nothing.
const ORDER_BYTES_MAX: usize = 4 << 10;

/// An order without anything to choose.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderBody {}

/// What `POST /api/v1/replication/scrub` answers.
#[derive(Serialize)]
pub(super) struct ScrubDocument {
    success: bool,
    message: &'static str,
    scrub: ScrubView,
}

/// `GET /api/v1/replication/status`
pub(super) async fn status(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<ReplicationView>, EdgeError> {
    let parameters = Parameters::parse(uri.query(), &["keyspace", "table"])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    let (keyspace, table) = (parameters.text("keyspace")?, parameters.text("table")?);
    let table = match (&keyspace, &table) {
        (Some(keyspace), Some(table)) => Some((keyspace.as_str(), table.as_str())),
        // As the shell writes it: keyspace.table, or the table alone.
        (None, Some(table)) => Some(table.split_once('.').unwrap_or((DEFAULT_KEYSPACE, table))),
        (Some(_), None) => return Err(EdgeError::invalid("keyspace says where table is: name a table as well")),
        (None, None) => None,
    };
    Ok(Json(edge.admin().replication(table)?))
}

/// `GET /api/v1/replication/scrub`
pub(super) async fn scrub(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<ScrubView>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    Ok(Json(edge.admin().scrub()))
}

/// `POST /api/v1/replication/scrub`
pub(super) async fn scrub_now(
    State(edge): State<Arc<Edge>>,
    request: Request,
) -> Result<(StatusCode, Json<ScrubDocument>), EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Steer)?;
    let OrderBody {} = read_json_or_default(&edge, request, ORDER_BYTES_MAX).await?;
    let scrub = edge.admin().scrub_now();
    let message = "everything this node holds is verified now; GET this path tells how far it is";
    Ok((StatusCode::ACCEPTED, Json(ScrubDocument { success: true, message, scrub })))
}
