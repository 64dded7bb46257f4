//! The replay of hints in a node: its worker, and what gossip and operators tell it.

use std::sync::Arc;

use cube_replication::handoff::{HINTS, HintReceiver, HintReplay, HintWorker, ReceiverParts, ReplayParts, SteerError};
use cube_replication::membership::Membership;
use cube_replication::transport::PeerTransport;

use super::NodeError;
use super::ground::Ground;
use super::member::Member;
use crate::admin::{AdminError, HintOrder, HintsView};

/// Lets hints in, and begins to deliver those that are kept here.
pub(super) fn start(ground: &Ground<'_>) -> Result<Arc<HintReplay>, NodeError> {
    let receiver = Arc::new(HintReceiver::new(ReceiverParts {
        handoff: Arc::clone(ground.handoff),
        store: Arc::clone(ground.replica.store()),
        clock: Arc::clone(ground.clock),
    }));
    ground.replica.receive_hints(Arc::clone(&receiver));
    let replay = HintReplay::new(ReplayParts {
        me: ground.me,
        handoff: Arc::clone(ground.handoff),
        catalog: Arc::clone(ground.catalog),
        membership: Arc::clone(ground.gossip) as Arc<dyn Membership>,
        transport: Arc::clone(ground.transport) as Arc<dyn PeerTransport>,
        replica: Arc::clone(ground.replica),
        receiver,
        clock: Arc::clone(ground.clock),
        wake: ground.waker(HINTS),
    });
    ground.begin(HintWorker::new(Arc::clone(&replay)))?;
    let told = Arc::downgrade(&replay);
    ground.gossip.on_change(move |node, alive| {
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
