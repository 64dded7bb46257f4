//! Rows over HTTP: by key with `put`, `get` and `delete`, and as resources below their table.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use cube_replication::coordinator::{Change, ReadRequest, TableName, WriteRequest};
use cube_storage::model::RowKey;

use super::body::{body_bytes_max, read_json};
use super::dto::{PutDocument, ReadAnswer, RowDocument, RowWrite, WriteAnswer};
use super::input::{Parameters, PathParts};
use super::parent::Parent;
use crate::edge::{Caller, Edge, EdgeError, Names, table_name, terms};

const STORED: &str = "Value stored successfully";
const DELETED: &str = "Value deleted successfully";

/// Where the key stands in `get/{key}` and `delete/{key}`.
const KEY_PLACE: usize = 1;
/// Where keyspace, table and key stand in `keyspaces/{ks}/tables/{t}/rows/{key}`.
const KEYSPACE_PLACE: usize = 1;
const TABLE_PLACE: usize = 3;
const ROW_PLACE: usize = 5;

/// `POST /api/v1/put`
pub(super) async fn put(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    request: Request,
) -> Result<Json<WriteAnswer>, EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    let document: PutDocument = read_json(&edge, request, body_bytes_max(edge.limits())).await?;
    let table = table_name(document.keyspace.clone(), document.table.clone());
    let (key, row) = document.read()?;
    write(&edge, parent, (table, key), row, STORED).await
}

/// `GET /api/v1/get/{key}`
pub(super) async fn get(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    uri: Uri,
) -> Result<Json<ReadAnswer>, EdgeError> {
    let parameters = Parameters::parse(uri.query(), &["cl", "keyspace", "table", "sort", "explain"])?;
    let row = by_key(&uri, &parameters)?;
    read(&edge, parent, row, &parameters).await
}

/// `DELETE /api/v1/delete/{key}`
pub(super) async fn delete(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    uri: Uri,
) -> Result<Json<WriteAnswer>, EdgeError> {
    let parameters = Parameters::parse(uri.query(), &["cl", "keyspace", "table", "sort", "timestamp", "explain"])?;
    let at = by_key(&uri, &parameters)?;
    let row = deletion(&parameters)?;
    write(&edge, parent, at, row, DELETED).await
}

/// `PUT /api/v1/keyspaces/{ks}/tables/{t}/rows/{key}[/{sort}]`
pub(super) async fn put_row(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    request: Request,
) -> Result<Json<WriteAnswer>, EdgeError> {
    let at = by_path(request.uri())?;
    let parameters = Parameters::parse(request.uri().query(), &["cl", "explain"])?;
    let document: RowDocument = read_json(&edge, request, body_bytes_max(edge.limits())).await?;
    let mut row = document.read()?;
    row.level = match (row.level, parameters.level()?) {
        (Some(_), Some(_)) => return Err(EdgeError::invalid("cl is given twice: in the body and in the query")),
        (body, query) => body.or(query),
    };
    row.explain |= parameters.flag("explain")?;
    write(&edge, parent, at, row, STORED).await
}

/// `GET /api/v1/keyspaces/{ks}/tables/{t}/rows/{key}[/{sort}]`
pub(super) async fn get_row(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    uri: Uri,
) -> Result<Json<ReadAnswer>, EdgeError> {
    let row = by_path(&uri)?;
    let parameters = Parameters::parse(uri.query(), &["cl", "explain"])?;
    read(&edge, parent, row, &parameters).await
}

/// `DELETE /api/v1/keyspaces/{ks}/tables/{t}/rows/{key}[/{sort}]`
pub(super) async fn delete_row(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    uri: Uri,
) -> Result<Json<WriteAnswer>, EdgeError> {
    let at = by_path(&uri)?;
    let parameters = Parameters::parse(uri.query(), &["cl", "timestamp", "explain"])?;
    let row = deletion(&parameters)?;
    write(&edge, parent, at, row, DELETED).await
}

fn by_key(uri: &Uri, parameters: &Parameters) -> Result<(TableName, RowKey), EdgeError> {
    let key = PathParts::of(uri.path()).everything_from(KEY_PLACE)?;
    let sort = parameters.bytes("sort").unwrap_or_default();
    let table = table_name(parameters.text("keyspace")?, parameters.text("table")?);
    Ok((table, RowKey::with_sort(key, sort)))
}

fn by_path(uri: &Uri) -> Result<(TableName, RowKey), EdgeError> {
    let path = PathParts::of(uri.path());
    let table = TableName { keyspace: path.name(KEYSPACE_PLACE)?, table: path.name(TABLE_PLACE)? };
    let (key, sort) = path.row_from(ROW_PLACE)?;
    Ok((table, RowKey::with_sort(key, sort)))
}

fn deletion(parameters: &Parameters) -> Result<RowWrite, EdgeError> {
    Ok(RowWrite {
        change: Change::Delete,
        level: parameters.level()?,
        timestamp: parameters.timestamp()?,
        explain: parameters.flag("explain")?,
    })
}

async fn write(
    edge: &Edge,
    parent: Parent,
    (table, key): (TableName, RowKey),
    row: RowWrite,
    message: &'static str,
) -> Result<Json<WriteAnswer>, EdgeError> {
    let terms = parent.of(terms(row.level, None, row.explain));
    let level = terms.level;
    let request = WriteRequest {
        table,
        rows: vec![(key.clone(), row.change)],
        terms,
        timestamp: row.timestamp,
        seen: None,
        condition: None,
    };
    let written = edge.write_one(Caller::Anonymous, request).await?;
    Ok(Json(WriteAnswer::of(message, &key, level, &written, &Names::new(&edge.state()))))
}

async fn read(
    edge: &Edge,
    parent: Parent,
    (table, key): (TableName, RowKey),
    parameters: &Parameters,
) -> Result<Json<ReadAnswer>, EdgeError> {
    let terms = parent.of(terms(parameters.level()?, None, parameters.flag("explain")?));
    let level = terms.level;
    let request = ReadRequest { table, keys: vec![key.clone()], terms };
    let row = edge.read_one(Caller::Anonymous, request).await?;
    Ok(Json(ReadAnswer::of(&key, level, &row, &Names::new(&edge.state()))))
}
