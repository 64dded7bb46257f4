//! Each request as the metrics have it: what it was, how long it took, how it ended.

use std::sync::Arc;

use cube_replication::consistency::Level;
use cube_replication::coordinator::RequestError;
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
}

impl Metered {
    /// It begins now.
    pub(super) fn begin(meter: &Arc<Meter>, operation: Operation, level: Level) -> Self {
        Self { meter: Arc::clone(meter), operation, level, since: Instant::now() }
    }

    /// It ended as a whole.
    pub(super) fn end<T>(&self, result: &Result<T, EdgeError>) {
        if let Err(error) = result {
            self.meter.failed(self.operation, error.code);
        }
        self.meter.took(self.operation, self.level, self.since.elapsed());
    }

    /// It ended with a result for each of its rows or partition keys.
    pub(super) fn end_each<T>(&self, result: &Result<Vec<Result<T, RequestError>>, EdgeError>) {
        for error in result.iter().flatten().filter_map(|each| each.as_ref().err()) {
            self.meter.failed(self.operation, code_of(error));
        }
        self.end(result);
    }
}
