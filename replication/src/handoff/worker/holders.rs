//! Whom a node that leaves hands what it keeps. Plain code: who could keep it and what came of asking go in.
//!
//! All who live are fit as far as is known; one whose disk is full, or that does not know the target yet, says so only when
//! it is asked. So whoever failed last is asked last: one unfit holder costs one failure a round, and stops nobody from
//! leaving as long as another one takes things. Who takes them is asked again.

use std::collections::BTreeMap;

use cube_storage::model::NodeId;

/// What came of asking nodes to keep something.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// The failures of all, counted: whose number is the lowest has failed the longest time ago.
    failed: BTreeMap<NodeId, u64>,
    failures: u64,
}

impl Holders {
    /// Whom to ask, of those that are there.
    pub(super) fn choose(&self, there: impl Iterator<Item = NodeId>) -> Option<NodeId> {
        there.min_by_key(|node| (self.failed.get(node), *node))
    }

    /// It did not take what it was asked to keep.
    pub(super) fn failed(&mut self, node: NodeId) {
        self.failures += 1;
        self.failed.insert(node, self.failures);
    }

    /// It keeps what it was asked to.
    pub(super) fn took(&mut self, node: NodeId) {
        self.failed.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn choose(holders: &Holders) -> Option<NodeId> {
        holders.choose(THERE.into_iter())
    }

    #[test]
    fn one_that_refuses_for_good_stops_nobody() {
        let mut holders = Holders::default();
        assert_eq!(choose(&holders), Some(NodeId(1)));
        holders.failed(NodeId(1));
        for _ in 0..3 {
            assert_eq!(choose(&holders), Some(NodeId(2)), "who takes things is asked again");
            holders.took(NodeId(2));
        }
    }

    #[test]
    fn where_all_refuse_they_are_asked_in_turn() {
        let mut holders = Holders::default();
        let mut asked = Vec::new();
        for _ in 0..6 {
            let node = choose(&holders).unwrap();
            holders.failed(node);
            asked.push(node);
        }
        assert_eq!(asked, [THERE, THERE].concat());
        holders.took(NodeId(3));
        assert_eq!(choose(&holders), Some(NodeId(3)));
    }

    #[test]
    fn only_who_is_there_is_asked() {
        let mut holders = Holders::default();
        holders.failed(NodeId(2));
        assert_eq!(holders.choose([NodeId(2)].into_iter()), Some(NodeId(2)));
        assert_eq!(holders.choose([].into_iter()), None);
    }
}
