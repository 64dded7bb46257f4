//! The replay of hints in a node: its worker, and what gossip and operators tell it.

use std::sync::Arc;

use cube_replication::handoff::{HINTS, HintReceiver, HintReplay, HintWorker, ReceiverParts, ReplayParts, SteerError};
use cube_replication::membership::Membership;
use cube_replication::transport::PeerTransport;

use super::NodeError;
use super::ground::Ground;
use super::member::Member;
use super::opening::blocking;
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

    pub(super) async fn steer_hints(&self, order: HintOrder, node: Option<&str>) -> Result<(), AdminError> {
        let (replay, node) = (Arc::clone(&self.hint_replay), node.map(str::to_owned));
        // A pause is made durable.
        let steered = blocking(move || match order {
            HintOrder::Replay => replay.replay_now(node.as_deref()),
            HintOrder::Pause => replay.pause(node.as_deref(), true),
            HintOrder::Resume => replay.pause(node.as_deref(), false),
        });
        let steered = steered.await.map_err(|error| AdminError::Conflict { reason: error.to_string() })?;
        steered.map_err(|error| match error {
            SteerError::UnknownTarget { .. } => AdminError::Invalid { reason: error.to_string() },
            SteerError::Paused { .. } | SteerError::NotKept(_) => AdminError::Conflict { reason: error.to_string() },
        })
    }
}
