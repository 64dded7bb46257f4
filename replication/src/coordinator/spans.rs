//! The spans of a traced request: one of what is coordinated for it, and below it one of each question to a replica. They
//! hang on the ledger of the request, which knows of every message.

use std::sync::Arc;

use cube_storage::model::NodeId;

use super::Coordinator;
use super::explain::{Kind, Ledger};
use super::request::Terms;
use crate::messages::Reply;
use crate::trace::{OpenSpan, SpanKind};
use crate::transport::PeerError;

impl Coordinator {
    /// The span of what is coordinated from here on, if the request is traced.
    pub(super) fn coordinating(&self, kind: Kind, terms: &Terms) -> Option<OpenSpan> {
        let name = match kind {
            Kind::Read => "cube.coordinate.read",
            Kind::Range => "cube.coordinate.range",
            Kind::Scan => "cube.coordinate.scan",
            Kind::Write => "cube.coordinate.write",
        };
        let (asked, tracer) = terms.trace.zip(self.tracer.get())?;
        let span = OpenSpan::below(Arc::clone(tracer), asked, (name, SpanKind::Internal));
        span.tell("cube.level", terms.level.name());
        Some(span)
    }
}

impl Ledger {
    /// A replica is about to be asked: the span of it, if the request is traced.
    pub(super) fn ask_span(&self, to: NodeId) -> Option<Box<OpenSpan>> {
        let span = self.span.as_ref()?.child(("cube.ask", SpanKind::Client));
        let name = self.state.topology.member(to).map_or_else(|| to.to_string(), |member| member.name.clone());
        span.tell("cube.replica", name);
        // Hardly any request has one, and all are moved with what waits for their answers.
        Some(Box::new(span))
    }
}

/// What went wrong with a message.
pub(super) fn wrong_with(result: &Result<Reply, PeerError>) -> Option<String> {
    match result {
        Ok(Reply { body: Ok(_), .. }) => None,
        Ok(Reply { body: Err(refusal), .. }) => Some(refusal.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
