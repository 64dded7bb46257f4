//! `GET /api/v1/range/{key}`: the rows of one partition key, in the order of their sort keys.
//!
//! One answer is one page. Invariant: an answer tells of every row up to where `next` goes on.

use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use bytes::Bytes;
use cube_replication::coordinator::RangeRequest;
use serde::Serialize;

use super::explained::Explained;
use super::input::{Parameters, PathParts};
use super::parent::Parent;
use super::scan::{RowAnswer, read_token, write_token};
use super::text::Encoding;
use crate::edge::scan::PAGE_ROWS;
use crate::edge::{Caller, Edge, EdgeError, Names, page, refuse, table_name, terms};

const KNOWN: [&str; 11] =
    ["from", "after", "to", "before", "limit", "page", "backward", "cl", "keyspace", "table", "explain"];
/// Where the key stands in `range/{key}`.
const KEY_PLACE: usize = 1;

/// What a range is answered.
#[derive(Serialize)]
pub(super) struct RangeAnswer {
    success: bool,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    count: usize,
    rows: Vec<RowAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<Explained>,
}

/// `GET /api/v1/range/{key}`
pub(super) async fn range(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    uri: Uri,
) -> Result<Json<RangeAnswer>, EdgeError> {
    let parameters = Parameters::parse(uri.query(), &KNOWN)?;
    let partition = PathParts::of(uri.path()).everything_from(KEY_PLACE)?;
    let usual = PAGE_ROWS.min(edge.limits().page_rows_max);
    let whole = RangeRequest {
        table: table_name(parameters.text("keyspace")?, parameters.text("table")?),
        partition: partition.clone(),
        from: bound(&parameters, "from", "after")?,
        to: bound(&parameters, "to", "before")?,
        backward: parameters.flag("backward")?,
        rows_max: parameters.rows("limit")?.unwrap_or(usual),
        terms: parent.of(terms(parameters.level()?, None, parameters.flag("explain")?)),
    };
    let mut narrowed = whole.clone();
    if let Some(token) = parameters.bytes("page").filter(|token| !token.is_empty()) {
        page::resume(&mut narrowed, &read_token(&token)?).map_err(refuse)?;
    }
    let found = edge.range(Caller::Anonymous, narrowed).await?;
    let state = edge.state();
    let names = Names::new(&state);
    let encoding = Encoding::fitting([partition.as_ref()]);
    let rows: Vec<RowAnswer> = found.rows.iter().filter_map(|row| RowAnswer::of(row, found.as_of, &names)).collect();
    let last = found.rows.last().filter(|_| found.more);
    Ok(Json(RangeAnswer {
        success: true,
        key: encoding.write(&partition),
        encoding: encoding.said(),
        count: rows.len(),
        rows,
        next: last.map(|row| write_token(&page::token(&whole, &row.key.sort))),
        explained: found.account.as_ref().map(|account| Explained::of(account, &names)),
    }))
}

/// An end of a range: with the row there, or without.
fn bound(parameters: &Parameters, with: &'static str, without: &'static str) -> Result<Bound<Bytes>, EdgeError> {
    match (parameters.bytes(with), parameters.bytes(without)) {
        (Some(_), Some(_)) => {
            Err(EdgeError::invalid(format!("{with} and {without} are the same end: give one of them")))
        }
        (Some(sort), None) => Ok(Bound::Included(sort)),
        (None, Some(sort)) => Ok(Bound::Excluded(sort)),
        (None, None) => Ok(Bound::Unbounded),
    }
}
