//! The rows that a log has hints for, counted without counting one twice.
//!
//! Invariant: `newest` holds each row of the hints that are not acknowledged, with the number of its newest hint, and
//! `rows` is the same the other way round. So a row stops counting when its last hint is acknowledged, not before.
//! Rows are known by a 128-bit hash: should two ever share one, they count as one. The cap on distinct keys bounds both
//! maps; the undo list is bounded by what is appended between two syncs.

use std::collections::{BTreeMap, HashMap, VecDeque};

#[derive(Clone, Copy, Debug)]
struct Newest {
    sequence: u64,
    created_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    newest: HashMap<u128, Newest>,
    rows: BTreeMap<u64, (u128, u64)>,
    /// How to take back the hints that are not durable, oldest first.
    undo: VecDeque<(u64, u128, Option<Newest>)>,
}

impl KeyIndex {
    pub(super) fn len(&self) -> u64 {
        self.newest.len() as u64
    }

    pub(super) fn contains(&self, row: u128) -> bool {
        self.newest.contains_key(&row)
    }

    /// When the oldest of the hints that are the newest of their row was made.
    pub(super) fn oldest_created_ms(&self) -> Option<u64> {
        self.rows.first_key_value().map(|(_, (_, created_ms))| *created_ms)
    }

    /// Takes a hint that was read from a file.
    pub(super) fn insert_durable(&mut self, row: u128, sequence: u64, created_ms: u64) {
        self.set(row, Newest { sequence, created_ms });
    }

    /// Takes a hint that was appended and may yet be lost.
    pub(super) fn insert(&mut self, row: u128, sequence: u64, created_ms: u64) {
        let before = self.set(row, Newest { sequence, created_ms });
        self.undo.push_back((sequence, row, before));
    }

    /// The hints before `sequence` are durable.
    pub(super) fn settle(&mut self, sequence: u64) {
        while self.undo.front().is_some_and(|(of, ..)| *of < sequence) {
            self.undo.pop_front();
        }
    }

    /// The hints from `sequence` on are lost, and those before `acknowledged` are no more.
    pub(super) fn roll_back(&mut self, sequence: u64, acknowledged: u64) {
        while let Some((of, row, before)) = self.undo.pop_back_if(|(of, ..)| *of >= sequence) {
            self.rows.remove(&of);
            self.newest.remove(&row);
            if let Some(before) = before.filter(|before| before.sequence >= acknowledged) {
                self.set(row, before);
            }
        }
    }

    /// The hints before `sequence` are acknowledged.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        let kept = self.rows.split_off(&sequence);
        for (row, _) in std::mem::replace(&mut self.rows, kept).into_values() {
            self.newest.remove(&row);
        }
    }

    fn set(&mut self, row: u128, newest: Newest) -> Option<Newest> {
        let before = self.newest.insert(row, newest);
        if let Some(before) = before {
            self.rows.remove(&before.sequence);
        }
        self.rows.insert(newest.sequence, (row, newest.created_ms));
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_update_leaves_the_hint_before_it_unless_that_is_acknowledged() {
        for acknowledged in [1, 2] {
            let mut index = KeyIndex::default();
            index.insert(7, 1, 100);
            index.settle(2);
            index.insert(7, 2, 200);
            index.insert(8, 3, 300);
            index.acknowledge(acknowledged);
            assert_eq!(index.len(), 2);
            index.roll_back(2, acknowledged);
            assert_eq!(index.contains(7), acknowledged == 1);
            assert!(!index.contains(8));
            assert_eq!(index.oldest_created_ms(), (acknowledged == 1).then_some(100));
        }
    }
}
