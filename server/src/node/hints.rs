//! The replay of hints in a node: its worker, and what gossip and operators tell it.

use std::sync::Arc;

use cube_replication::catalog::Catalog;
use cube_replication::clock::NodeClock;
use cube_replication::handoff::{
    HINTS, HintReceiver, HintReplay, HintWorker, HintedHandoff, ReceiverParts, ReplayParts, SteerError,
};
use cube_replication::membership::Membership;
use cube_replication::replica::Replica;
use cube_replication::transport::PeerTransport;
use cube_replication::worker::Workers;
use cube_storage::model::NodeId;

use super::NodeError;
use super::bell::Bell;
use super::member::Member;
use super::seams;
use crate::admin::{AdminError, HintOrder, HintsView};
use crate::gossip::Gossip;
use crate::peer::GrpcTransport;

/// The parts of a member that a replay stands on.
pub(super) struct Start<'a> {
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

/// Lets hints in, and begins to deliver those that are kept here.
pub(super) fn start(start: Start<'_>) -> Result<Arc<HintReplay>, NodeError> {
    let Start { me, handoff, catalog, gossip, transport, replica, clock, workers, bell } = start;
    let receiver = Arc::new(HintReceiver::new(ReceiverParts {
        handoff: Arc::clone(handoff),
        store: Arc::clone(replica.store()),
        clock: Arc::clone(clock),
    }));
    replica.receive_hints(Arc::clone(&receiver));
    let replay = HintReplay::new(ReplayParts {
        me,
        handoff: Arc::clone(handoff),
        catalog: Arc::clone(catalog),
        membership: Arc::clone(gossip) as Arc<dyn Membership>,
        transport: Arc::clone(transport) as Arc<dyn PeerTransport>,
        replica: Arc::clone(replica),
        receiver,
        clock: Arc::clone(clock),
        wake: seams::waker(workers, clock, bell, HINTS),
    });
    let worker = HintWorker::new(Arc::clone(&replay));
    workers.begin(Box::new(worker)).map_err(|error| NodeError::Failed(error.to_string()))?;
    let told = Arc::downgrade(&replay);
    gossip.on_change(move |node, alive| {
        if let Some(replay) = told.upgrade() {
            replay.on_alive(node, alive);
        }
    });
    Ok(replay)
}

impl Member {
    pub(super) fn hints_view(&self) -> HintsView {
        HintsView::of(&self.hint_replay.status())
    }

    pub(super) fn steer_hints(&self, order: HintOrder, node: Option<&str>) -> Result<(), AdminError> {
        let steered = match order {
            HintOrder::Replay => self.hint_replay.replay_now(node),
            HintOrder::Pause => self.hint_replay.pause(node, true),
            HintOrder::Resume => self.hint_replay.pause(node, false),
        };
        steered.map_err(|error| match error {
            SteerError::UnknownTarget { .. } => AdminError::Invalid { reason: error.to_string() },
            SteerError::NotKept(_) => AdminError::Conflict { reason: error.to_string() },
        })
    }
}
