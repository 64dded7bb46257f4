//! The place of a node in its cluster over HTTP: having it leave, and draining it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::body::read_json_or_default;
use super::input::{Parameters, PathParts};
use crate::admin::{Leave, NodeView};
use crate::edge::{Access, Caller, Edge, EdgeError};

/// The longest body: a name, and what stands around it.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Where the name stands in a path.
const NAME_PLACE: usize = 2;

/// Of a node that lives there is nothing to say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecommissionBody {}

/// Of one that is gone for good.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RemoveBody {
    #[serde(default)]
    accept_loss: bool,
}

/// Of one whose place another one takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReplaceBody {
    with: Option<String>,
    #[serde(default)]
    accept_loss: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    #[serde(default)]
    undo: bool,
}

/// What it is answered with.
#[derive(Serialize)]
pub(super) struct LeavingDocument {
    success: bool,
    message: String,
    #[serde(flatten)]
    node: NodeView,
}

/// What draining is answered with.
#[derive(Serialize)]
pub(super) struct DrainDocument {
    success: bool,
    message: String,
    name: String,
}

/// `POST /api/v1/cluster/nodes/{name}/decommission`
pub(super) async fn decommission(state: State<Arc<Edge>>, request: Request) -> Result<Leaving, EdgeError> {
    let (edge, name, request) = begin(state, request)?;
    let DecommissionBody {} = read_json_or_default(&edge, request, BODY_BYTES_MAX).await?;
    leave(&edge, &name, Leave::Decommission).await
}

/// `POST /api/v1/cluster/nodes/{name}/remove`
pub(super) async fn remove(state: State<Arc<Edge>>, request: Request) -> Result<Leaving, EdgeError> {
    let (edge, name, request) = begin(state, request)?;
    let RemoveBody { accept_loss } = read_json_or_default(&edge, request, BODY_BYTES_MAX).await?;
    leave(&edge, &name, Leave::Remove { accept_loss }).await
}

/// `POST /api/v1/cluster/nodes/{name}/replace`
pub(super) async fn replace(state: State<Arc<Edge>>, request: Request) -> Result<Leaving, EdgeError> {
    let (edge, name, request) = begin(state, request)?;
    let ReplaceBody { with, accept_loss } = read_json_or_default(&edge, request, BODY_BYTES_MAX).await?;
    let with =
        with.ok_or_else(|| EdgeError::invalid("\"with\" is missing: the name of the node that takes the place"))?;
    leave(&edge, &name, Leave::Replace { with, accept_loss }).await
}

/// `POST /api/v1/cluster/nodes/{name}/drain`
pub(super) async fn drain(
    state: State<Arc<Edge>>,
    request: Request,
) -> Result<(StatusCode, Json<DrainDocument>), EdgeError> {
    let (edge, name, request) = begin(state, request)?;
    let DrainBody { undo } = read_json_or_default(&edge, request, BODY_BYTES_MAX).await?;
    edge.admin().drain(&name, undo).await?;
    let message = match undo {
        true => format!("{name} takes requests of clients again"),
        false => format!("{name} takes no more requests of clients, until that is undone or it is restarted"),
    };
    Ok((StatusCode::ACCEPTED, Json(DrainDocument { success: true, message, name })))
}

type Leaving = (StatusCode, Json<LeavingDocument>);

fn begin(State(edge): State<Arc<Edge>>, request: Request) -> Result<(Arc<Edge>, String, Request), EdgeError> {
    let uri: &Uri = request.uri();
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::ChangeMembers)?;
    let name = PathParts::of(uri.path()).name(NAME_PLACE)?;
    Ok((edge, name, request))
}

async fn leave(edge: &Edge, name: &str, how: Leave) -> Result<Leaving, EdgeError> {
    let node = edge.admin().leave(name, how).await?;
    let message = told(&node);
    Ok((StatusCode::ACCEPTED, Json(LeavingDocument { success: true, message, node })))
}

/// How far it is, for people.
pub(crate) fn told(node: &NodeView) -> String {
    let name = &node.name;
    let Some(leaving) = &node.leaving else { return format!("{name} has left the cluster") };
    let partitions = leaving.partitions;
    let what = if leaving.by == "REMOVE" { "is being removed" } else { "leaves the cluster" };
    format!(
        "{name} {what}: {partitions} partitions have yet to be moved; NODES and GET /api/v1/cluster/nodes tell how far it is"
    )
}
