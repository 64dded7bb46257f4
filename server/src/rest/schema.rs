//! Keyspaces and tables over HTTP. What is shown comes from this node's copy of the schema; changes go through the
//! cluster's agreement.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use cube_replication::catalog::{ClusterState, UnknownName};
use serde::Serialize;

use super::body::read_json_or_default;
use super::input::{Parameters, PathParts};
use crate::admin::options::{KeyspaceForm, TableForm};
use crate::admin::{Changed, KeyspaceView, TableView, check_name};
use crate::edge::{Access, Caller, Edge, EdgeError, unknown_name};

/// The longest document of a keyspace or a table: names and numbers.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Where the names stand in `keyspaces/{ks}/tables/{t}`.
const KEYSPACE_PLACE: usize = 1;
const TABLE_PLACE: usize = 3;

/// What `GET /api/v1/keyspaces` answers.
#[derive(Serialize)]
pub(super) struct KeyspacesDocument {
    keyspaces: Vec<KeyspaceView>,
}

/// What a change is answered. `GET` shows the result.
#[derive(Serialize)]
pub(super) struct ChangeDocument {
    success: bool,
    message: String,
    /// Whether it made a difference.
    changed: bool,
}

type Changing = Result<(StatusCode, Json<ChangeDocument>), EdgeError>;

/// `GET /api/v1/keyspaces`
pub(super) async fn list(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<KeyspacesDocument>, EdgeError> {
    admit(&edge, &uri, Access::Observe)?;
    let state = edge.state();
    let keyspaces = state.schema.keyspaces.iter().map(|(name, space)| KeyspaceView::of(&state, name, space));
    Ok(Json(KeyspacesDocument { keyspaces: keyspaces.collect() }))
}

/// `GET /api/v1/keyspaces/{ks}`
pub(super) async fn get_keyspace(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<KeyspaceView>, EdgeError> {
    admit(&edge, &uri, Access::Observe)?;
    let keyspace = keyspace_of(&uri)?;
    let state = edge.state();
    let found = state.schema.keyspaces.get(&keyspace).map(|space| KeyspaceView::of(&state, &keyspace, space));
    found.map(Json).ok_or_else(|| unknown_name(UnknownName::Keyspace { keyspace }))
}

/// `GET /api/v1/keyspaces/{ks}/tables/{t}`
pub(super) async fn get_table(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<TableView>, EdgeError> {
    admit(&edge, &uri, Access::Observe)?;
    let (keyspace, table) = table_of(&uri)?;
    show_table(&edge.state(), &keyspace, &table).map(Json)
}

fn show_table(state: &ClusterState, keyspace: &str, table: &str) -> Result<TableView, EdgeError> {
    let target = state.schema.find(keyspace, table).map_err(unknown_name)?;
    Ok(TableView::of(keyspace, table, &target.table))
}

/// `PUT /api/v1/keyspaces/{ks}`
pub(super) async fn create_keyspace(State(edge): State<Arc<Edge>>, request: Request) -> Changing {
    admit(&edge, request.uri(), Access::ChangeSchema)?;
    let keyspace = keyspace_of(request.uri())?;
    check_name("keyspace", &keyspace)?;
    let options = read_json_or_default::<KeyspaceForm>(&edge, request, BODY_BYTES_MAX).await?.options(edge.sync())?;
    let changed = edge.admin().create_keyspace(&keyspace, options).await?;
    Ok(created(format!("Keyspace {keyspace}"), changed))
}

/// `PATCH /api/v1/keyspaces/{ks}`
pub(super) async fn alter_keyspace(State(edge): State<Arc<Edge>>, request: Request) -> Changing {
    admit(&edge, request.uri(), Access::ChangeSchema)?;
    let keyspace = keyspace_of(request.uri())?;
    let change = read_json_or_default::<KeyspaceForm>(&edge, request, BODY_BYTES_MAX).await?.change()?;
    let changed = edge.admin().alter_keyspace(&keyspace, change).await?;
    Ok(altered(format!("Keyspace {keyspace}"), changed))
}

/// `DELETE /api/v1/keyspaces/{ks}`
pub(super) async fn drop_keyspace(State(edge): State<Arc<Edge>>, uri: Uri) -> Changing {
    admit(&edge, &uri, Access::ChangeSchema)?;
    let keyspace = keyspace_of(&uri)?;
    edge.admin().drop_keyspace(&keyspace).await?;
    Ok(done(format!("Keyspace {keyspace} dropped"), Changed::Yes))
}

/// `PUT /api/v1/keyspaces/{ks}/tables/{t}`
pub(super) async fn create_table(State(edge): State<Arc<Edge>>, request: Request) -> Changing {
    admit(&edge, request.uri(), Access::ChangeSchema)?;
    let (keyspace, table) = table_of(request.uri())?;
    check_name("table", &table)?;
    let options = read_json_or_default::<TableForm>(&edge, request, BODY_BYTES_MAX).await?.options()?;
    let changed = edge.admin().create_table(&keyspace, &table, options).await?;
    Ok(created(format!("Table {keyspace}.{table}"), changed))
}

/// `PATCH /api/v1/keyspaces/{ks}/tables/{t}`
pub(super) async fn alter_table(State(edge): State<Arc<Edge>>, request: Request) -> Changing {
    admit(&edge, request.uri(), Access::ChangeSchema)?;
    let (keyspace, table) = table_of(request.uri())?;
    let change = read_json_or_default::<TableForm>(&edge, request, BODY_BYTES_MAX).await?.change()?;
    let changed = edge.admin().alter_table(&keyspace, &table, change).await?;
    Ok(altered(format!("Table {keyspace}.{table}"), changed))
}

/// `DELETE /api/v1/keyspaces/{ks}/tables/{t}`
pub(super) async fn drop_table(State(edge): State<Arc<Edge>>, uri: Uri) -> Changing {
    admit(&edge, &uri, Access::ChangeSchema)?;
    let (keyspace, table) = table_of(&uri)?;
    edge.admin().drop_table(&keyspace, &table).await?;
    Ok(done(format!("Table {keyspace}.{table} dropped"), Changed::Yes))
}

fn admit(edge: &Edge, uri: &Uri, access: Access<'_>) -> Result<(), EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, access)
}

fn keyspace_of(uri: &Uri) -> Result<String, EdgeError> {
    PathParts::of(uri.path()).name(KEYSPACE_PLACE)
}

fn table_of(uri: &Uri) -> Result<(String, String), EdgeError> {
    let path = PathParts::of(uri.path());
    Ok((path.name(KEYSPACE_PLACE)?, path.name(TABLE_PLACE)?))
}

fn created(what: String, changed: Changed) -> (StatusCode, Json<ChangeDocument>) {
    match changed {
        Changed::Yes => (StatusCode::CREATED, done(format!("{what} created"), changed).1),
        Changed::No => done(format!("{what} exists with these options"), changed),
    }
}

fn altered(what: String, changed: Changed) -> (StatusCode, Json<ChangeDocument>) {
    match changed {
        Changed::Yes => done(format!("{what} altered"), changed),
        Changed::No => done(format!("{what} has these options already"), changed),
    }
}

fn done(message: String, changed: Changed) -> (StatusCode, Json<ChangeDocument>) {
    (StatusCode::OK, Json(ChangeDocument { success: true, message, changed: changed == Changed::Yes }))
}
