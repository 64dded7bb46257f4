//! `GET /api/v1/scan`: the rows of a table whose keys begin alike.
//!
//! One answer is gathered from as many pages as it takes, up to the rows, the bytes and the time of an answer. Invariant:
//! an answer tells of every row up to where `next` goes on, or says in which partitions it does not.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use cube_replication::coordinator::{PrefixPage, PrefixRequest};
use cube_storage::model::Hlc;
use cube_storage::scan::Row;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::dto::{VersionDocument, sort_of};
use super::explained::Explained;
use super::input::Parameters;
use super::parent::Parent;
use super::text::Encoding;
use crate::edge::scan::{PAGE_BYTES, PAGE_ROWS, Scan};
use crate::edge::{Caller, Code, Edge, EdgeError, Names, refuse, table_name, terms};

const KNOWN: [&str; 8] = ["prefix", "limit", "page", "cl", "keyspace", "table", "backward", "explain"];

/// What a scan is answered.
#[derive(Serialize)]
pub(super) struct ScanAnswer {
    success: bool,
    prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    count: usize,
    results: Results,
    rows: Vec<RowAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partial: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explained: Vec<Explained>,
}

/// Keys and their values, of the rows that can be told so.
#[derive(Default)]
struct Results(Vec<(String, String)>);

impl Serialize for Results {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RowAnswer {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort: Option<String>,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    version: VersionDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

/// `GET /api/v1/scan`
pub(super) async fn scan(
    State(edge): State<Arc<Edge>>,
    parent: Parent,
    uri: Uri,
) -> Result<Json<ScanAnswer>, EdgeError> {
    let parameters = Parameters::parse(uri.query(), &KNOWN)?;
    let usual = PAGE_ROWS.min(edge.limits().page_rows_max);
    let limit = parameters.rows("limit")?.unwrap_or(usual);
    edge.limits().check_page(limit, 1).map_err(refuse)?;
    let terms = parent.of(terms(parameters.level()?, None, parameters.flag("explain")?));
    let time = Duration::from_millis(edge.settings().read_timeout_ms.into());
    let request = PrefixRequest {
        table: table_name(parameters.text("keyspace")?, parameters.text("table")?),
        prefix: parameters.bytes("prefix").unwrap_or_default(),
        backward: parameters.flag("backward")?,
        // Where most rows are deleted, more are looked at than are told.
        rows_max: limit.max(usual),
        bytes_max: Some(PAGE_BYTES.min(edge.limits().page_bytes_max)),
        resume: parameters
            .bytes("page")
            .filter(|token| !token.is_empty())
            .map(|token| read_token(&token))
            .transpose()?,
        terms,
    };
    let mut answer = ScanAnswer::of(&request.prefix);
    let bytes_max = edge.limits().page_bytes_max;
    let scan = Scan::new(Arc::clone(&edge), Caller::Anonymous, request, u64::try_from(limit).ok())?;
    gather(scan, &mut answer, bytes_max, Instant::now() + time, &edge).await?;
    Ok(Json(answer))
}

/// Takes pages until the answer is full, or its time is over.
async fn gather(
    mut scan: Scan,
    answer: &mut ScanAnswer,
    bytes_max: usize,
    until: Instant,
    edge: &Edge,
) -> Result<(), EdgeError> {
    let mut bytes = 0usize;
    loop {
        let begins = scan.resume().cloned();
        let is_first = answer.next.is_none();
        let page = match scan.next_page().await {
            None => return Ok(()),
            Some(Ok(page)) => page,
            // What was found is whole up to here; whoever goes on is told of the error.
            Some(Err(error)) if is_first => return Err(error),
            Some(Err(_)) => return Ok(()),
        };
        if !page.partial.is_empty() && !is_first {
            // The next answer begins with it, and it may be whole by then.
            answer.next = begins.as_ref().map(write_token);
            return Ok(());
        }
        answer.next = page.next.as_ref().map(write_token);
        answer.partial = page.partial.iter().map(|partition| partition.0).collect();
        bytes = bytes
            .saturating_add(page.live().map(|(key, value)| key.partition.len() + key.sort.len() + value.len()).sum());
        answer.take(page, &Names::new(&edge.state()));
        let is_full = bytes.saturating_add(PAGE_BYTES) > bytes_max;
        if is_full || scan.is_over() || !answer.partial.is_empty() || Instant::now() >= until {
            return Ok(());
        }
    }
}

pub(super) fn write_token(token: &Bytes) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

pub(super) fn read_token(written: &[u8]) -> Result<Bytes, EdgeError> {
    let message = "page is the \"next\" of an answer to this scan, and this is none";
    let token = URL_SAFE_NO_PAD.decode(written).or_else(|_| URL_SAFE.decode(written));
    Ok(token.map_err(|_| EdgeError::new(Code::InvalidPageToken, message))?.into())
}

impl ScanAnswer {
    fn of(prefix: &Bytes) -> Self {
        let encoding = Encoding::fitting([prefix.as_ref()]);
        Self {
            success: true,
            prefix: encoding.write(prefix),
            encoding: encoding.said(),
            count: 0,
            results: Results::default(),
            rows: Vec::new(),
            next: None,
            partial: Vec::new(),
            explained: Vec::new(),
        }
    }

    fn take(&mut self, page: PrefixPage, names: &Names<'_>) {
        for row in &page.rows {
            let Some(told) = RowAnswer::of(row, page.as_of, names) else { continue };
            if told.sort.is_none() && told.encoding.is_none() {
                self.results.0.push((told.key.clone(), told.value.clone()));
            }
            self.rows.push(told);
        }
        self.count = self.rows.len();
        self.explained.extend(page.account.iter().map(|account| Explained::of(account, names)));
    }
}

impl RowAnswer {
    pub(super) fn of(row: &Row, as_of: Hlc, names: &Names<'_>) -> Option<Self> {
        let value = row.record.live_value(as_of)?;
        let encoding = Encoding::fitting([row.key.partition.as_ref(), row.key.sort.as_ref(), value.as_ref()]);
        Some(Self {
            key: encoding.write(&row.key.partition),
            sort: sort_of(&row.key, encoding),
            value: encoding.write(value),
            encoding: encoding.said(),
            version: VersionDocument::of(row.record.version, names),
            expires_at: row.record.expiry().map(|expiry| expiry.0),
        })
    }
}
