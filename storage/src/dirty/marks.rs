//! The marks of a target in memory, and how they become coarser.
//!
//! Invariant: no two marks cover the same row, because what a coarser mark covers is taken into it. Whatever was ever
//! marked and not cleared is covered, by a mark with at least its version.

use std::collections::{BTreeMap, BTreeSet};

use super::{DirtyRange, Generation, Mark};
use crate::model::Version;

#[derive(Debug, Default)]
pub(super) struct MarkSet {
    marks: BTreeMap<DirtyRange, (Version, Generation)>,
    /// What the file does not say yet: ranges that were marked, raised or cleared.
    unwritten: BTreeSet<DirtyRange>,
    next_generation: u64,
}

impl MarkSet {
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Mark> {
        self.marks.iter().map(|(&range, &(version, generation))| Mark { range, version, generation })
    }

    /// The marks after a range, in order.
    pub(super) fn after(&self, range: Option<DirtyRange>) -> impl Iterator<Item = Mark> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = range.map_or(Unbounded, Excluded);
        let marks = self.marks.range((from, Unbounded));
        marks.map(|(&range, &(version, generation))| Mark { range, version, generation })
    }

    /// The mark that covers a range.
    pub(super) fn covering(&self, range: DirtyRange) -> Option<Mark> {
        range.covering().find_map(|range| {
            let (version, generation) = *self.marks.get(&range)?;
            Some(Mark { range, version, generation })
        })
    }

    pub(super) fn mark(&mut self, range: DirtyRange, version: Version) {
        let generation = self.generation();
        let mark = self.covering(range);
        let range = mark.map_or(range, |mark| mark.range);
        if mark.is_none_or(|mark| mark.version < version) {
            // With a mark that was written already, the version alone grows; without one, the range.
            self.unwritten.insert(range);
        }
        let greatest = mark.map_or(version, |mark| mark.version.max(version));
        let greatest = self.take_in(range).map_or(greatest, |version| version.max(greatest));
        self.marks.insert(range, (greatest, generation));
    }

    /// Takes a mark as the file says it: it knew of all that the file says before, cleared or not.
    pub(super) fn restore(&mut self, range: DirtyRange, version: Version) {
        match self.covering(range) {
            Some(coarser) if coarser.range != range => self.mark(range, version),
            _ => {
                let generation = self.generation();
                self.take_in(range);
                self.marks.insert(range, (version, generation));
            }
        }
    }

    /// Clears a mark that is still as it was when its generation was read. Whether it was.
    pub(super) fn clear(&mut self, range: DirtyRange, generation: Generation) -> bool {
        let unchanged = self.marks.get(&range).is_some_and(|(_, present)| *present == generation);
        if unchanged {
            self.forget(range);
            self.unwritten.insert(range);
        }
        unchanged
    }

    /// Takes a mark as cleared, as the file says it.
    pub(super) fn forget(&mut self, range: DirtyRange) {
        self.marks.remove(&range);
    }

    /// Takes what the file does not say yet: each range, with the version it is marked with, or without if it is clear.
    pub(super) fn take_unwritten(&mut self) -> Vec<(DirtyRange, Option<Version>)> {
        let taken = std::mem::take(&mut self.unwritten);
        taken.into_iter().map(|range| (range, self.marks.get(&range).map(|(version, _)| *version))).collect()
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Makes marks coarser until there are at most `len`: the partitions with the most marked leaves become one mark
    /// each, then the tables with the most marks, then everything.
    pub(super) fn coarsen(&mut self, len: usize) {
        self.merge_most(len, |range| match range {
            DirtyRange::Leaf(table, leaf) => Some(DirtyRange::Partition(table, leaf.partition())),
            _ => None,
        });
        self.merge_most(len, |range| match range {
            DirtyRange::Leaf(table, _) | DirtyRange::Partition(table, _) => Some(DirtyRange::Table(table)),
            _ => None,
        });
        if self.marks.len() > len {
            self.merge(DirtyRange::Everything);
        }
    }

    fn merge_most(&mut self, len: usize, into: impl Fn(DirtyRange) -> Option<DirtyRange>) {
        let mut groups: BTreeMap<DirtyRange, usize> = BTreeMap::new();
        for range in self.marks.keys().filter_map(|range| into(*range)) {
            *groups.entry(range).or_default() += 1;
        }
        let mut groups: Vec<(DirtyRange, usize)> = groups.into_iter().filter(|(_, marks)| *marks > 1).collect();
        groups.sort_by_key(|(range, marks)| (std::cmp::Reverse(*marks), *range));
        for (range, _) in groups {
            if self.marks.len() <= len {
                return;
            }
            self.merge(range);
        }
    }

    /// Puts a mark of this range in the place of those it covers.
    fn merge(&mut self, range: DirtyRange) {
        let generation = self.generation();
        let version = self.take_in(range).unwrap_or(Version::ZERO);
        self.unwritten.insert(range);
        self.marks.insert(range, (version, generation));
    }

    /// Removes the marks that a coarser one covers, and says the greatest of their versions. The file need not be told:
    /// it comes to the same when it reads the coarser mark, and until then the finer ones must stay.
    fn take_in(&mut self, coarse: DirtyRange) -> Option<Version> {
        let mut greatest = None;
        for inside in coarse.inside().into_iter().flatten() {
            let taken: Vec<DirtyRange> = self.marks.range(inside).map(|(range, _)| *range).collect();
            for range in taken {
                greatest = greatest.max(self.marks.remove(&range).map(|(version, _)| version));
                self.unwritten.remove(&range);
            }
        }
        greatest
    }

    fn generation(&mut self) -> Generation {
        self.next_generation += 1;
        Generation(self.next_generation)
    }
}
