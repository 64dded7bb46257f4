//! A page of a range and the time that replicas take: past a replica's usual time another one is asked, as for single rows.

use std::sync::Arc;

use cube_storage::model::NodeId;

use super::{RangeOperation, State, Step};

/// A replica that was asked and has not answered.
pub(super) struct Waiting {
    pub(super) node: NodeId,
    sent_ms: u64,
    is_late: bool,
}

impl RangeOperation {
    /// These are about to be asked: the operation looks at the time when the first of them is late.
    pub(super) fn wait_for(&self, state: &mut State, nodes: &[NodeId]) {
        let sent_ms = self.coordinator.parts.clock.monotonic_ms();
        let others = nodes.iter().filter(|node| **node != self.coordinator.parts.me);
        state.waiting.extend(others.map(|node| Waiting { node: *node, sent_ms, is_late: false }));
        self.look_again(state);
    }

    fn look_again(&self, state: &State) {
        let waiting = state.waiting.iter().filter(|waiting| !waiting.is_late);
        if let Some(next_ms) = waiting.filter_map(|waiting| self.late_ms(waiting)).min() {
            self.deadline.wake_at(next_ms);
        }
    }

    fn late_ms(&self, waiting: &Waiting) -> Option<u64> {
        let patience_ms = self.coordinator.peers.patience_ms(self.target.table.settings.hedge, waiting.node)?;
        Some(waiting.sent_ms.saturating_add(patience_ms))
    }

    /// Asks another replica for the page where one is late.
    pub(super) fn look_at_the_time(self: &Arc<Self>, now_ms: u64) {
        self.change(|state| {
            let mut late = Vec::new();
            for waiting in state.waiting.iter_mut().filter(|waiting| !waiting.is_late) {
                if self.late_ms(waiting).is_some_and(|late_ms| late_ms <= now_ms) {
                    waiting.is_late = true;
                    late.push(waiting.node);
                    self.coordinator.peers.hold_back(waiting.node, now_ms);
                }
            }
            self.look_again(state);
            let step = state.page.on_slow(&late);
            if let Step::Ask(more) = &step {
                self.counters.hedge_sent();
                self.ledger.iter().for_each(|ledger| more.iter().for_each(|node| ledger.hedged(*node)));
            }
            self.take(state, step)
        });
    }
}
