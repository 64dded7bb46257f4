//! Each request as the metrics and its trace have it: what it was, how long it took, how it ended.

use std::sync::Arc;

use cube_replication::consistency::Level;
use cube_replication::coordinator::RequestError;
use cube_replication::trace::OpenSpan;
use tokio::time::Instant;

use super::error::EdgeError;
use super::explain::code_of;
use crate::metrics::{Meter, Operation};

/// A request under way.
pub(super) struct Metered {
    meter: Arc<Meter>,
    operation: Operation,
    level: Level,
    since: Instant,
    /// The first span of it on this node, if it is traced.
    span: Option<Box<OpenSpan>>,
}

/// What the first span of a request on a node is called.
pub(super) const fn span_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Write => "cube.write",
        Operation::Read => "cube.read",
        Operation::Range => "cube.range",
        Operation::Scan => "cube.scan",
    }
}

impl Metered {
    /// It begins now.
    pub(super) fn begin(meter: &Arc<Meter>, operation: Operation, level: Level, span: Option<Box<OpenSpan>>) -> Self {
        Self { meter: Arc::clone(meter), operation, level, since: Instant::now(), span }
    }

    /// It ended as a whole.
    pub(super) fn end<T>(&self, result: &Result<T, EdgeError>) {
        if let Err(error) = result {
            self.meter.failed(self.operation, error.code);
        }
        self.meter.took(self.operation, self.level, self.since.elapsed());
        if let Some(span) = &self.span {
            span.end(result.as_ref().err().map(ToString::to_string));
        }
    }

    /// It ended with a result for each of its rows or partition keys.
    pub(super) fn end_each<T>(&self, result: &Result<Vec<Result<T, RequestError>>, EdgeError>) {
        for error in result.iter().flatten().filter_map(|each| each.as_ref().err()) {
            self.meter.failed(self.operation, code_of(error));
            if let Some(span) = &self.span {
                span.end(Some(error.to_string()));
            }
        }
        self.end(result);
    }
}
