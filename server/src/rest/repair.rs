//! Repairs on demand over HTTP: asking for one, watching it, ending it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use cube_replication::repair::Asked;
use serde::{Deserialize, Serialize};

use super::body::read_json_or_default;
use super::input::{Parameters, PathParts};
use crate::admin::{RepairView, RepairsView};
use crate::edge::{Access, Caller, Edge, EdgeError};

/// The longest body: two names, and what stands around them.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Where the id stands in a path.
const ID_PLACE: usize = 2;

/// What is to be repaired; all that is not named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RepairBody {
    keyspace: Option<String>,
    table: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// What an order is answered with.
#[derive(Serialize)]
pub(super) struct RepairDocument {
    success: bool,
    message: &'static str,
    #[serde(flatten)]
    repair: RepairView,
}

/// `POST /api/v1/replication/repair`
pub(super) async fn begin(
    State(edge): State<Arc<Edge>>,
    request: Request,
) -> Result<(StatusCode, Json<RepairDocument>), EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Steer)?;
    let RepairBody { keyspace, table, dry_run } = read_json_or_default(&edge, request, BODY_BYTES_MAX).await?;
    let repair = edge.admin().begin_repair(Asked { keyspace, table, dry_run }).await?;
    let message = match dry_run {
        true => "replicas are compared, and nothing is changed; GET this path with /{repairId} tells what was found",
        false => "replicas are compared and mended; GET this path with /{repairId} tells how far it is",
    };
    Ok((StatusCode::ACCEPTED, Json(RepairDocument { success: true, message, repair })))
}

/// `GET /api/v1/replication/repair`
pub(super) async fn list(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<RepairsView>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    Ok(Json(edge.admin().repairs().await?))
}

/// `GET /api/v1/replication/repair/{id}`
pub(super) async fn show(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<RepairView>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    let id = PathParts::of(uri.path()).name(ID_PLACE)?;
    Ok(Json(edge.admin().repair(&id).await?))
}

/// `DELETE /api/v1/replication/repair/{id}`
pub(super) async fn cancel(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<RepairDocument>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Steer)?;
    let id = PathParts::of(uri.path()).name(ID_PLACE)?;
    let repair = edge.admin().cancel_repair(&id).await?;
    let message = if repair.state == "CANCELLED" { "the repair is cancelled" } else { "the repair had ended before" };
    Ok(Json(RepairDocument { success: true, message, repair }))
}
