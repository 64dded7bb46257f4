//! Changes of the last moments, kept apart from the sums that hold them already.
//!
//! Two replicas are compared as of a horizon a little in the past, so that a write which is on its way to one of them
//! does not look like a difference. What is kept here lets a sum be told without the changes above a horizon. It is
//! bounded, and what is missing from it (the beginning of a process, more changes than it holds) only makes sums hold
//! what they might leave out: then leaves look different whose rows turn out to agree.

use std::collections::{BTreeMap, VecDeque};

use super::{LeafId, LeafSum};
use crate::model::{Hlc, TableId};

/// Changes that are kept at the most, 56 bytes each: those of ten seconds at 20,000 rows a second.
const CHANGES_MAX: usize = 200_000;

/// One row's change of its leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct YoungChange {
    pub(crate) table: TableId,
    pub(crate) leaf: LeafId,
    /// The version that was written.
    pub(crate) version: Hlc,
    pub(crate) delta: LeafSum,
}

/// The last changes, in the order they were committed.
#[derive(Debug, Default)]
pub(crate) struct Young {
    changes: VecDeque<YoungChange>,
}

impl Young {
    pub(crate) fn add(&mut self, change: YoungChange) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Forgets changes of some leaves, whose rows were removed all at once.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(TableId, LeafId) -> bool) {
        self.changes.retain(|change| !is_gone(change.table, change.leaf));
    }

    /// The changes above a horizon, and the end of what nobody asks for any more: horizons grow. They are only copied,
    /// because every commit waits for whoever asks; summing them up takes ten times as long.
    pub(crate) fn above(&mut self, horizon: Hlc) -> Vec<YoungChange> {
        while self.changes.front().is_some_and(|change| change.version <= horizon) {
            self.changes.pop_front();
        }
        self.changes.iter().filter(|change| change.version > horizon).copied().collect()
    }
}

/// What changes added to each place, as `place` tells it; those without one are left out.
pub(crate) fn sums<P: Ord>(changes: &[YoungChange], place: impl Fn(&YoungChange) -> Option<P>) -> BTreeMap<P, LeafSum> {
    let mut sums: BTreeMap<P, LeafSum> = BTreeMap::new();
    for change in changes {
        if let Some(place) = place(change) {
            let sum = sums.entry(place).or_default();
            *sum = sum.plus(change.delta);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(leaf: u32, version: u64) -> YoungChange {
        let delta = LeafSum { sum: u128::from(version), rows: 1 };
        YoungChange { table: TableId(1), leaf: LeafId(leaf), version: Hlc(version), delta }
    }

    #[test]
    fn only_changes_above_the_horizon_are_told_and_those_of_a_leaf_together() {
        let mut young = Young::default();
        [change(1, 5), change(1, 9), change(2, 7), change(3, 7), change(1, 8)]
            .into_iter()
            .for_each(|change| young.add(change));
        let above = sums(&young.above(Hlc(6)), |change| (change.leaf < LeafId(3)).then_some(change.leaf));
        assert_eq!(above.get(&LeafId(1)), Some(&LeafSum { sum: 17, rows: 2 }));
        assert_eq!(above.get(&LeafId(2)), Some(&LeafSum { sum: 7, rows: 1 }));
        assert!(!above.contains_key(&LeafId(3)), "it is not asked for");
        young.forget(|_, leaf| leaf == LeafId(1));
        assert_eq!(young.above(Hlc(0)).len(), 2);
        assert_eq!(young.above(Hlc(7)).len(), 0);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut young = Young::default();
        (0..CHANGES_MAX as u64 + 5).for_each(|version| young.add(change(3, version + 1)));
        assert_eq!(young.changes.len(), CHANGES_MAX);
    }
}
