//! A read and the time that replicas take: every answer is remembered, and past a replica's usual time another is asked.
//!
//! No timer of its own: the operation's entry among the deadlines stands at the moment when the first of those it asked
//! is late.

use std::sync::Arc;

use cube_storage::model::NodeId;

use super::{Actions, ReadOperation, Row, State, Step};

/// A message that waits for its reply.
pub(super) struct Waiting {
    node: NodeId,
    sent_ms: u64,
    is_late: bool,
}

impl State {
    /// A message to another node is about to be sent.
    pub(super) fn wait_for(&mut self, node: NodeId, sent_ms: u64) {
        self.waiting.push(Waiting { node, sent_ms, is_late: false });
    }

    /// Its reply came.
    pub(super) fn end_wait(&mut self, node: NodeId, sent_ms: u64) {
        if let Some(place) = self.waiting.iter().position(|waiting| (waiting.node, waiting.sent_ms) == (node, sent_ms))
        {
            self.waiting.swap_remove(place);
        }
    }
}

impl ReadOperation {
    /// When the first of these is late, if anything is done then.
    pub(super) fn late_ms(&self, node: NodeId, sent_ms: u64) -> Option<u64> {
        let patience_ms = self.coordinator.peers.patience_ms(self.target.table.settings.hedge, node)?;
        Some(sent_ms.saturating_add(patience_ms))
    }

    /// Asks others for the rows that wait for a replica that is late.
    pub(super) fn look_at_the_time(self: &Arc<Self>, now_ms: u64) {
        self.change(|state, actions| {
            let (mut late, mut next_ms): (Vec<NodeId>, Option<u64>) = (Vec::new(), None);
            for waiting in state.waiting.iter_mut().filter(|waiting| !waiting.is_late) {
                match self.late_ms(waiting.node, waiting.sent_ms) {
                    Some(late_ms) if late_ms <= now_ms => {
                        waiting.is_late = true;
                        late.push(waiting.node);
                        self.coordinator.peers.hold_back(waiting.node, now_ms);
                    }
                    late_ms => next_ms = [next_ms, late_ms].into_iter().flatten().min(),
                }
            }
            if let Some(next_ms) = next_ms {
                self.deadline.wake_at(next_ms);
            }
            self.hedge(state, &late, actions);
        });
    }

    fn hedge(&self, state: &mut State, late: &[NodeId], actions: &mut Actions) {
        for place in 0..state.next.min(state.rows.len()) {
            let Some(step) = state.rows.get_mut(place).map(|row: &mut Row| row.on_slow(late)) else { continue };
            if let Step::Ask(asks) = &step {
                self.counters.hedge_sent();
                self.ledger.iter().for_each(|ledger| asks.iter().for_each(|(node, _)| ledger.hedged(*node)));
            }
            self.take(state, place, step, actions);
        }
    }
}
