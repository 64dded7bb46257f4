//! A page of a table and the time that nodes take: past a node's usual time others are asked for its partitions.

use std::sync::Arc;

use cube_storage::model::NodeId;

use super::{Operation, Stage, State};
use crate::catalog::Hedge;

/// A piece takes longer than a row: before this nobody is late.
const PATIENCE_MS_MIN: u64 = 100;

/// A node that was asked and has not answered.
pub(super) struct Waiting {
    pub(super) node: NodeId,
    pub(super) sent_ms: u64,
    pub(super) is_late: bool,
}

impl Operation {
    /// When this operation looks at the time next.
    pub(super) fn next_look_ms(&self, state: &State) -> u64 {
        let late = state.waiting.iter().filter(|waiting| !waiting.is_late);
        let late_ms = late.filter_map(|waiting| self.late_ms(waiting)).min();
        late_ms.map_or(self.gather_until_ms, |late_ms| late_ms.min(self.gather_until_ms))
    }

    fn late_ms(&self, waiting: &Waiting) -> Option<u64> {
        let hedge = self.target.table.settings.hedge;
        let patience_ms = self.coordinator.peers.patience_ms(hedge, waiting.node)?;
        let least_ms = if hedge == Hedge::P99 { PATIENCE_MS_MIN } else { 0 };
        Some(waiting.sent_ms.saturating_add(patience_ms.max(least_ms)))
    }

    /// Asks others where a node is late, and gives up on pieces when their part of the time is over.
    pub(super) fn look_at_the_time(self: &Arc<Self>, now_ms: u64) {
        self.change(|state, actions| {
            let mut late = Vec::new();
            for waiting in state.waiting.iter_mut().filter(|waiting| !waiting.is_late) {
                if self.late_ms(waiting).is_some_and(|late_ms| late_ms <= now_ms) {
                    waiting.is_late = true;
                    late.push(waiting.node);
                    self.coordinator.peers.hold_back(waiting.node, now_ms);
                }
            }
            let Some(Stage::Gathering(page)) = &mut state.stage else { return };
            page.on_late(&late);
            if now_ms >= self.gather_until_ms {
                page.give_up();
                return self.merge(state, actions);
            }
            self.go_on(state, actions);
            self.ledger.iter().for_each(|ledger| actions.asks.iter().for_each(|(node, _)| ledger.hedged(*node)));
            if !actions.asks.is_empty() {
                self.counters.hedge_sent();
            }
            self.deadline.wake_at(self.next_look_ms(state));
        });
    }
}
