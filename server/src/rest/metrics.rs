//! `GET /metrics`: the numbers of this node for Prometheus.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::input::Parameters;
use crate::admin::Health;
use crate::edge::{Access, Caller, Edge, EdgeError, account};
use crate::metrics::{self, CONTENT_TYPE, NodeFigures};

/// `GET /metrics`
pub(super) async fn metrics(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    let state = edge.state();
    let tables = edge.read_figures().into_iter().map(|(id, figures)| {
        let table = account::table(&state, id);
        (table.keyspace, table.table, figures)
    });
    let mut figures = edge.admin().figures();
    figures.tables = tables.collect();
    let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let (requests, bytes) = edge.in_flight();
    let settings = edge.settings();
    figures.in_flight = (count(requests), count(bytes));
    figures.in_flight_max = (count(settings.in_flight_max), count(settings.in_flight_bytes_max));
    figures.node.serves = figures.node.serves && !edge.is_leaving();
    Ok(page(metrics::write(figures, edge.meter().counted())))
}

/// The same of a node that is no member yet.
pub(super) fn starting(health: &Health) -> Response {
    page(metrics::write_starting(NodeFigures { name: health.node.clone(), ..NodeFigures::default() }))
}

fn page(written: Result<String, fmt::Error>) -> Response {
    match written {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
