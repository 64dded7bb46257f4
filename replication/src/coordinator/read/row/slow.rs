//! What one row's read does about replicas that are asked and do not answer: by chance all are asked, and past a slow one's
//! usual time another.
//!
//! Whoever is asked on top counts like those asked first, once each: the level is met by the first that answer.

use cube_storage::model::NodeId;

use super::{Phase, Row, Step};
use crate::messages::Want;
use crate::quorum::{State, ask};

impl Row {
    /// Asks those that the level does not need, as far as it reaches.
    pub(in crate::coordinator::read) fn ask_rest(&mut self) -> Vec<(NodeId, Want)> {
        let rest = |node: &NodeId| !self.asked.contains(node) && self.is_in_reach(*node);
        let rest: Vec<NodeId> = self.candidates.iter().copied().filter(rest).collect();
        self.asked.extend(&rest);
        self.is_watched = true;
        rest.into_iter().map(|node| (node, Want::Header)).collect()
    }

    /// Whether all were asked.
    pub(in crate::coordinator::read) fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// Whoever was asked by this map.
    pub(in crate::coordinator::read) fn asked(&self) -> &[NodeId] {
        &self.asked
    }

    /// A level of one data center asks, hedges and repairs nobody outside.
    fn is_in_reach(&self, node: NodeId) -> bool {
        !self.level.is_local() || self.is_near(node)
    }

    /// Whether a replica is in the coordinator's data center.
    pub(in crate::coordinator::read) fn is_near(&self, node: NodeId) -> bool {
        let sets = self.read_sets.iter().chain(self.write_sets.iter());
        sets.into_iter().any(|set| set.slot_of(node).and(set.in_data_center(&self.local)).count() > 0)
    }

    /// These have let it wait for longer than they usually do: asks others, where that helps.
    pub(in crate::coordinator::read) fn on_slow(&mut self, slow: &[NodeId]) -> Step {
        if self.phase != Phase::Asking {
            return Step::Nothing;
        }
        let fresh = slow.iter().filter(|node| self.is_awaited(**node) && !self.slow.contains(node));
        let fresh: Vec<NodeId> = fresh.copied().collect();
        if fresh.is_empty() {
            return Step::Nothing;
        }
        self.slow.extend(fresh);
        if self.tracker.state() == State::Met {
            // Only the record is waited for: another holder may have it.
            return self.compare();
        }
        // Those that are late may still answer: they are only liked least.
        let is_late = |node: &NodeId| self.slow.contains(node) && !self.has_told(*node);
        let mut liked = self.candidates.clone();
        liked.sort_by_key(is_late);
        let Ok(chosen) = ask(self.level, &self.read_sets, &self.local, &liked) else { return Step::Nothing };
        let more: Vec<NodeId> = chosen.into_iter().filter(|node| !self.asked.contains(node)).collect();
        let Some(first) = more.first().copied() else { return Step::Nothing };
        self.asked.extend(&more);
        self.hedged.extend(&more);
        let brings = self.awaiting.is_some_and(|awaiting| self.slow.contains(&awaiting));
        if brings {
            self.awaiting = Some(first);
        }
        let wanted = |node| if brings && node == first { Want::Record } else { Want::Header };
        Step::Ask(more.into_iter().map(|node| (node, wanted(node))).collect())
    }

    fn has_told(&self, node: NodeId) -> bool {
        self.heard.iter().any(|heard| heard.node == node)
    }

    fn is_awaited(&self, node: NodeId) -> bool {
        self.fetching.contains(&node) || (self.asked.contains(&node) && !self.has_told(node))
    }

    /// The newest record is known: whether it would not be yet without those that were asked past slow ones.
    pub(super) fn judge_hedge(&mut self) {
        self.hedge_helped = self.slow.iter().any(|node| self.is_awaited(*node))
            && self.hedged.iter().any(|node| self.has_told(*node) && !self.fetching.contains(node));
    }
}
