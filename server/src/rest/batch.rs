//! Many rows with one request: `POST /api/v1/batch/{put,delete,get}`, and the same below a table.
//!
//! Invariant: a batch that was carried out is answered 200, with what came of each row in the order they were sent; a row
//! that failed has the error that it would have had alone, and says so. Rows of one partition key are written together,
//! so they share their fate.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use bytes::Bytes;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, Explained as Told, ReadRequest, ReadRow, TableName, Terms, WriteRequest};
use cube_storage::model::{Hlc, RowKey};
use serde::Serialize;

use super::batch_documents::{KeysDocument, RowsDocument};
use super::body::{batch_body_bytes_max, read_json};
use super::dto::{RowRead, RowWritten, sort_of};
use super::explained::Explained;
use super::input::{Parameters, PathParts};
use super::parent::Parent;
use super::text::Encoding;
use crate::edge::{Caller, Details, Edge, EdgeError, Names, explain, stopped_while_writing, table_name, terms};

/// Where keyspace and table stand in `keyspaces/{ks}/tables/{t}/batch/put`.
const KEYSPACE_PLACE: usize = 1;
const TABLE_PLACE: usize = 3;

/// The fields that all batches share.
#[derive(Default)]
pub(super) struct Common {
    pub(super) keyspace: Option<String>,
    pub(super) table: Option<String>,
    pub(super) level: Option<Level>,
    pub(super) timestamp: Option<Hlc>,
    pub(super) explain: bool,
}

/// What a batch is answered.
#[derive(Serialize)]
pub(super) struct BatchAnswer<T> {
    /// Whether nothing failed.
    success: bool,
    count: usize,
    level: &'static str,
    results: Vec<RowAnswer<T>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<Explained>,
}

/// What came of a row.
#[derive(Serialize)]
struct RowAnswer<T> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(flatten)]
    outcome: Outcome<T>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<T> {
    Done(T),
    Failed { error: RowError },
}

/// The error of one row.
#[derive(Serialize)]
struct RowError {
    code: &'static str,
    message: String,
    status: u16,
    details: Box<Details>,
}

/// `POST /api/v1/batch/put`
pub(super) async fn put(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    request: Request,
) -> Result<Json<BatchAnswer<RowWritten>>, EdgeError> {
    let of_path = table_of_path(&request)?;
    let document: RowsDocument = read_json(&edge, request, batch_body_bytes_max(edge.limits())).await?;
    let (common, rows) = document.read()?;
    write(&edge, (of_path, parent), common, rows).await
}

/// `POST /api/v1/batch/delete`
pub(super) async fn delete(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    request: Request,
) -> Result<Json<BatchAnswer<RowWritten>>, EdgeError> {
    let of_path = table_of_path(&request)?;
    let document: KeysDocument = read_json(&edge, request, batch_body_bytes_max(edge.limits())).await?;
    let (common, keys) = document.read()?;
    let rows = keys.into_iter().map(|key| (key, Change::Delete)).collect();
    write(&edge, (of_path, parent), common, rows).await
}

/// `POST /api/v1/batch/get`
pub(super) async fn get(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    request: Request,
) -> Result<Json<BatchAnswer<RowRead>>, EdgeError> {
    let of_path = table_of_path(&request)?;
    let document: KeysDocument = read_json(&edge, request, batch_body_bytes_max(edge.limits())).await?;
    let (common, keys) = document.read()?;
    if common.timestamp.is_some() {
        return Err(EdgeError::invalid("timestamp is a field of writes"));
    }
    let (table, terms) = common.at(of_path, parent)?;
    let level = terms.level;
    let found = edge.read(Caller::Anonymous, ReadRequest { table, keys: keys.clone(), terms }).await?;
    let state = edge.state();
    let names = Names::new(&state);
    let explained = found.iter().find_map(Told::account).map(|account| Explained::of(account, &names));
    let results = keys.iter().zip(found).map(|(key, row)| match row {
        Ok(row) => read_answer(key, &row, &names),
        Err(error) => RowAnswer::failed(key, explain(error, &names)),
    });
    Ok(Json(BatchAnswer::of(level, results.collect(), explained)))
}

async fn write(
    edge: &Edge,
    (of_path, parent): (Option<TableName>, Parent),
    common: Common,
    rows: Vec<(RowKey, Change)>,
) -> Result<Json<BatchAnswer<RowWritten>>, EdgeError> {
    let timestamp = common.timestamp;
    let (table, terms) = common.at(of_path, parent)?;
    let level = terms.level;
    let keys: Vec<RowKey> = rows.iter().map(|(key, _)| key.clone()).collect();
    let request = WriteRequest { table, rows, terms, timestamp, seen: None, condition: None };
    let results = edge.write(Caller::Anonymous, request).await?;
    let state = edge.state();
    let names = Names::new(&state);
    let explained = results.iter().find_map(Told::account).map(|account| Explained::of(account, &names));
    // The coordinator tells by partition key, in the order they first appear.
    let mut told = results.into_iter().map(|result| match result {
        Ok(written) => Ok(RowWritten::of(&written, &names)),
        Err(error) => Err(explain(error, &names)),
    });
    let mut outcomes: HashMap<Bytes, Result<RowWritten, EdgeError>> = HashMap::with_capacity(told.len());
    let mut rows = Vec::with_capacity(keys.len());
    for key in &keys {
        let outcome = outcomes
            .entry(key.partition.clone())
            .or_insert_with(|| told.next().unwrap_or_else(|| Err(stopped_while_writing())));
        rows.push(match outcome {
            Ok(written) => RowAnswer::done(key, Encoding::fitting(parts(key)), written.clone()),
            Err(error) => RowAnswer::failed(key, error.clone()),
        });
    }
    Ok(Json(BatchAnswer::of(level, rows, explained)))
}

/// The table that the path names, if it names one.
fn table_of_path(request: &Request) -> Result<Option<TableName>, EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    if !request.uri().path().starts_with("/api/v1/keyspaces/") {
        return Ok(None);
    }
    let path = PathParts::of(request.uri().path());
    Ok(Some(TableName { keyspace: path.name(KEYSPACE_PLACE)?, table: path.name(TABLE_PLACE)? }))
}

impl Common {
    /// The table and the terms. A table is named once: by the path or in the body.
    fn at(self, of_path: Option<TableName>, parent: Parent) -> Result<(TableName, Terms), EdgeError> {
        let Self { keyspace, table, level, explain, .. } = self;
        let table = match of_path {
            Some(_) if keyspace.is_some() || table.is_some() => {
                return Err(EdgeError::invalid("keyspace and table stand in the path: leave them out of the body"));
            }
            Some(named) => named,
            None => table_name(keyspace, table),
        };
        Ok((table, parent.of(terms(level, None, explain))))
    }
}

impl<T> BatchAnswer<T> {
    fn of(level: Level, results: Vec<RowAnswer<T>>, explained: Option<Explained>) -> Self {
        let success = results.iter().all(|row| matches!(row.outcome, Outcome::Done(_)));
        Self { success, count: results.len(), level: level.name(), results, explained }
    }
}

impl<T> RowAnswer<T> {
    fn done(key: &RowKey, encoding: Encoding, done: T) -> Self {
        let (partition, sort) = (encoding.write(&key.partition), sort_of(key, encoding));
        Self { key: partition, sort, encoding: encoding.said(), outcome: Outcome::Done(done) }
    }

    fn failed(key: &RowKey, error: EdgeError) -> Self {
        let EdgeError { code, message, details, .. } = error;
        let encoding = Encoding::fitting(parts(key));
        let error = RowError { code: code.name(), message, status: code.http().as_u16(), details };
        let (partition, sort) = (encoding.write(&key.partition), sort_of(key, encoding));
        Self { key: partition, sort, encoding: encoding.said(), outcome: Outcome::Failed { error } }
    }
}

fn read_answer(key: &RowKey, row: &ReadRow, names: &Names<'_>) -> RowAnswer<RowRead> {
    let encoding = Encoding::fitting(parts(key).into_iter().chain(row.value().map(AsRef::as_ref)));
    RowAnswer::done(key, encoding, RowRead::of(row, encoding, names))
}

fn parts(key: &RowKey) -> [&[u8]; 2] {
    [key.partition.as_ref(), key.sort.as_ref()]
}
