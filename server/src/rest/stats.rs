//! The numbers of this node, and its slow requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use cube_replication::coordinator::{ReadFigures, Repairs};
use serde::Serialize;

use super::explained::Explained;
use super::input::Parameters;
use crate::admin::HintsView;
use crate::edge::{Access, Caller, Edge, EdgeError, Names, Stats};

/// What `GET /api/v1/stats` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsDocument {
    lines: Vec<String>,
    pending_hints: u64,
    hints: HintsView,
    /// By keyspace and table, joined by a dot.
    reads: BTreeMap<String, ReadsDocument>,
}

/// What reads of a table came upon, as this node coordinated them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReadsDocument {
    digest_mismatches: u64,
    stale_reads: u64,
    chance_reads: u64,
    hedges_sent: u64,
    hedges_helped: u64,
    blocking_repairs: RepairsDocument,
    chance_repairs: RepairsDocument,
    partial_pages: u64,
}

#[derive(Serialize)]
struct RepairsDocument {
    repaired: u64,
    unneeded: u64,
    failed: u64,
    skipped: u64,
}

/// What `GET /api/v1/requests/slow` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SlowDocument {
    /// From when on a request is slow; nothing while none is recorded.
    threshold_ms: Option<u32>,
    /// The oldest first.
    requests: Vec<Explained>,
}

/// `GET /api/v1/stats`: as lines of text where that is asked for.
pub(super) async fn stats(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    let Stats { lines, hints, reads } = edge.stats();
    let wanted = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if wanted.is_some_and(|wanted| wanted.starts_with("text/plain")) {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        return Ok(([(header::CONTENT_TYPE, kind)], text).into_response());
    }
    let reads = reads.into_iter().map(|(table, figures)| (table, (&figures).into())).collect();
    Ok(Json(StatsDocument { lines, pending_hints: hints.total_hints, hints, reads }).into_response())
}

/// `GET /api/v1/requests/slow`
pub(super) async fn slow_requests(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<SlowDocument>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    let state = edge.state();
    let names = Names::new(&state);
    let requests = edge.slow_requests().iter().map(|account| Explained::of(account, &names)).collect();
    Ok(Json(SlowDocument { threshold_ms: edge.config().current().slow_ms(), requests }))
}

impl From<&ReadFigures> for ReadsDocument {
    fn from(figures: &ReadFigures) -> Self {
        Self {
            digest_mismatches: figures.digest_mismatches,
            stale_reads: figures.stale_reads,
            chance_reads: figures.chance_reads,
            hedges_sent: figures.hedges_sent,
            hedges_helped: figures.hedges_helped,
            blocking_repairs: figures.blocking_repairs.into(),
            chance_repairs: figures.chance_repairs.into(),
            partial_pages: figures.partial_pages,
        }
    }
}

impl From<Repairs> for RepairsDocument {
    fn from(Repairs { repaired, unneeded, failed, skipped }: Repairs) -> Self {
        Self { repaired, unneeded, failed, skipped }
    }
}
