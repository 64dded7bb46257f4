//! What the background work of a member stands on: hints, anti-entropy and repairs are started with the same parts.

use std::sync::Arc;

use cube_replication::catalog::Catalog;
use cube_replication::clock::NodeClock;
use cube_replication::handoff::HintedHandoff;
use cube_replication::replica::Replica;
use cube_replication::worker::{Worker, Workers};
use cube_storage::model::NodeId;

use super::bell::Bell;
use super::{NodeError, seams};
use crate::gossip::Gossip;
use crate::peer::GrpcTransport;

/// The parts.
pub(super) struct Ground<'a> {
    pub(super) me: NodeId,
    pub(super) handoff: &'a Arc<HintedHandoff>,
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) gossip: &'a Arc<Gossip>,
    pub(super) transport: &'a Arc<GrpcTransport>,
    pub(super) replica: &'a Arc<Replica>,
    pub(super) clock: &'a Arc<NodeClock>,
    pub(super) workers: &'a Arc<Workers>,
    pub(super) bell: &'a Arc<Bell>,
}

impl Ground<'_> {
    /// Wakes a worker for which something came in.
    pub(super) fn waker(&self, worker: &'static str) -> Arc<dyn Fn() + Send + Sync> {
        seams::waker(self.workers, self.clock, self.bell, worker)
    }

    /// Has a worker work from now on.
    pub(super) fn begin(&self, worker: impl Worker + 'static) -> Result<(), NodeError> {
        self.workers.begin(Box::new(worker)).map_err(|error| NodeError::Failed(error.to_string()))
    }
}
