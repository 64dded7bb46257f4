//! The trace that a request over HTTP is part of, by its header `traceparent`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use cube_replication::coordinator::Terms;
use cube_replication::trace::TraceContext;

use crate::edge::Edge;
use crate::traces::{TRACEPARENT, parent_of};

/// The span of the client, if its request is traced.
#[derive(Clone, Copy)]
pub(super) struct Parent(Option<TraceContext>);

impl Parent {
    /// The terms of its request.
    pub(super) fn of(self, terms: Terms) -> Terms {
        Terms { trace: self.0, ..terms }
    }
}

impl FromRequestParts<Arc<Edge>> for Parent {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, edge: &Arc<Edge>) -> Result<Self, Infallible> {
        let given = edge.traces().and_then(|_| parts.headers.get(TRACEPARENT)?.to_str().ok());
        Ok(Self(given.and_then(parent_of)))
    }
}
