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
use crate::edge::{Access, Caller, Edge, EdgeError, Names, account};

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
    let (hints, state) = (edge.admin().hints(), edge.state());
    let named = edge.read_figures().into_iter().map(|(id, figures)| {
        let table = account::table(&state, id);
        (format!("{}.{}", table.keyspace, table.table), figures)
    });
    let figures: BTreeMap<String, ReadFigures> = named.collect();
    let mut lines = hints.lines();
    lines.extend(figures.iter().map(|(table, figures)| line(table, figures)));
    let wanted = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if wanted.is_some_and(|wanted| wanted.starts_with("text/plain")) {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        return Ok(([(header::CONTENT_TYPE, kind)], text).into_response());
    }
    let reads = figures.iter().map(|(table, figures)| (table.clone(), figures.into())).collect();
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

/// What people look for first.
fn line(table: &str, figures: &ReadFigures) -> String {
    let ReadFigures { stale_reads, hedges_sent, hedges_helped, blocking_repairs, chance_repairs, .. } = figures;
    let repaired = blocking_repairs.repaired.saturating_add(chance_repairs.repaired);
    let failed = blocking_repairs.failed.saturating_add(chance_repairs.failed);
    format!(
        "Reads of {table}: {stale_reads} stale answers, {repaired} rows repaired, {failed} repairs failed, {hedges_sent} \
         hedges of which {hedges_helped} helped"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_one_table_what_its_reads_came_upon() {
        let repairs = Repairs { repaired: 2, failed: 1, ..Repairs::default() };
        let figures = ReadFigures {
            stale_reads: 4,
            hedges_sent: 9,
            hedges_helped: 3,
            blocking_repairs: repairs,
            chance_repairs: repairs,
            ..ReadFigures::default()
        };
        let told = "Reads of a.b: 4 stale answers, 4 rows repaired, 2 repairs failed, 9 hedges of which 3 helped";
        assert_eq!(line("a.b", &figures), told);
    }
}
