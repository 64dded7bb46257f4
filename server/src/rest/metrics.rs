//! `GET /metrics`: the numbers of this node for Prometheus.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::input::Parameters;
use crate::admin::Health;
use crate::edge::{Access, Caller, Edge, EdgeError};
use crate::metrics::{self, CONTENT_TYPE, NodeFigures};

/// `GET /metrics`
pub(super) async fn metrics(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    Ok(page(edge.metrics_page()))
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
