//! Scrub: re-derives the Merkle leaves from the rows, a little at a time, and verifies every record on the way.
//!
//! What does not add up is damage: it is reported with its range, and its partition is marked unsynced and heals. Rows
//! and leaves are read from one snapshot, so writes under way never look like damage.

use std::ops::ControlFlow;

use crate::engine::{Direction, EngineError, Reader, Space};
use crate::error::{DamagedRange, StoreError};
use crate::forest::{leaf_rows, read_leaves};
use crate::keyspace::{KeyRange, decode_data_key, tokens_of_range};
use crate::merkle::{LEAVES_PER_PARTITION, LeafId, LeafSum, decode_leaf_key, leaf_range};
use crate::model::{RecordHeader, TableId};
use crate::reach::{Failure, Reach};
use crate::store::Store;

/// What one step of the scrub saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Rows verified.
    pub rows: usize,
    /// What was found damaged.
    pub damaged: Vec<DamagedRange>,
    /// Where the next step begins; nothing when the table is done.
    pub next: Option<LeafId>,
}

impl Store {
    /// Scrubs a table from a leaf on, until about `rows_max` rows are verified; a leaf is never left half way.
    pub fn scrub_step(&self, table: TableId, from: LeafId, rows_max: usize) -> Result<Scrubbed, StoreError> {
        self.tables.read().get(table)?;
        let snapshot = self.engine.snapshot();
        let end = LeafId(u32::from(self.bits.partitions()) * LEAVES_PER_PARTITION);
        let mut step = Step { store: self, reader: snapshot.as_ref(), table, end, rows: 0, damaged: Vec::new() };
        let mut next = step.next_used(from)?;
        while let Some(leaf) = next
            && step.rows + step.damaged.len() < rows_max.max(1)
        {
            let behind = step.scrub(leaf)?;
            next = step.next_used(behind)?;
        }
        let Step { rows, damaged, .. } = step;
        for damaged in &damaged {
            // The step names it; the error is for reads.
            self.damaged(damaged.clone());
        }
        Ok(Scrubbed { rows, damaged, next })
    }
}

struct Step<'a> {
    store: &'a Store,
    reader: &'a dyn Reader,
    table: TableId,
    /// The leaf behind the last.
    end: LeafId,
    rows: usize,
    damaged: Vec<DamagedRange>,
}

impl Step<'_> {
    fn rows_of(&self, from: LeafId, to: LeafId) -> KeyRange {
        leaf_rows(self.table, from, to, self.store.bits)
    }

    /// The first leaf from `from` on that has rows, rows that cannot be read, or a sum.
    fn next_used(&self, from: LeafId) -> Result<Option<LeafId>, StoreError> {
        if from >= self.end {
            return Ok(None);
        }
        let range = self.rows_of(from, self.end);
        let leaf_of = |key: &[u8]| decode_data_key(key).map(|(_, token, _)| LeafId::of(token, self.store.bits));
        let mut first = None;
        let read = self.reader.scan(Space::Data, &range, Direction::Forward, &mut |key, _| {
            first = leaf_of(key);
            ControlFlow::Break(())
        });
        match read {
            Ok(()) => {}
            Err(EngineError::Corruption { .. }) => {
                let Reach { in_front, damaged, .. } = self.reach(&range, &[])?;
                first = damaged
                    .and_then(|damaged| tokens_of_range(self.table, &damaged))
                    .map(|(token, _)| LeafId::of(token, self.store.bits));
                if let Some(in_front) = in_front {
                    self.reader.scan(Space::Data, &in_front, Direction::Forward, &mut |key, _| {
                        first = leaf_of(key);
                        ControlFlow::Break(())
                    })?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.stray_sum(from, first.unwrap_or(self.end))?.or(first))
    }

    fn reach(&self, range: &KeyRange, last_read: &[u8]) -> Result<Reach, StoreError> {
        let failure = Failure { space: Space::Data, range, direction: Direction::Forward, last_read };
        Ok(failure.reach(self.reader)?)
    }

    /// The first leaf of a range without rows that has a sum all the same.
    fn stray_sum(&self, from: LeafId, until: LeafId) -> Result<Option<LeafId>, StoreError> {
        let mut stray = None;
        let leaves = leaf_range(self.table, from, until);
        let read = self.reader.scan(Space::Merkle, &leaves, Direction::Forward, &mut |key, value| match (
            decode_leaf_key(key),
            LeafSum::decode(value),
        ) {
            (Some(_), Some(LeafSum::ZERO)) | (None, _) => ControlFlow::Continue(()),
            (Some((_, leaf)), _) => {
                stray = Some(leaf);
                ControlFlow::Break(())
            }
        });
        match read {
            // Sums that cannot be read are found where they should be: at leaves that have rows.
            Ok(()) | Err(EngineError::Corruption { .. }) => Ok(stray),
            Err(error) => Err(error.into()),
        }
    }

    /// Scrubs one leaf, and the rest of the leaf in which damage ends that begins here. The leaf behind.
    fn scrub(&mut self, leaf: LeafId) -> Result<LeafId, StoreError> {
        let (bits, damaged_before) = (self.store.bits, self.damaged.len());
        let mut behind = LeafId(leaf.0 + 1);
        let mut range = self.rows_of(leaf, behind);
        let mut derived = LeafSum::ZERO;
        loop {
            let (last_read, detail) = match self.verify(&range, &mut derived)? {
                None => break,
                Some(unreadable) => unreadable,
            };
            let all = KeyRange { start: range.start, end: self.rows_of(leaf, self.end).end };
            let Reach { in_front, damaged, rest } = self.reach(&all, &last_read)?;
            if let Some(in_front) = in_front
                && let Some((_, detail)) = self.verify(&in_front, &mut derived)?
            {
                self.damaged.push(DamagedRange::of_rows(self.table, in_front, detail));
            }
            let damaged = damaged.into_iter().map(|damaged| DamagedRange::of_rows(self.table, damaged, &detail));
            self.damaged.extend(damaged);
            let Some(rest) = rest else { return Ok(self.end) };
            let Some((first, _)) = tokens_of_range(self.table, &rest) else { return Ok(self.end) };
            behind = LeafId(LeafId::of(first, bits).0 + 1);
            range = KeyRange { start: rest.start, end: self.rows_of(leaf, behind).end };
        }
        if self.damaged.len() == damaged_before {
            self.compare(leaf, derived, range)?;
        }
        Ok(behind)
    }

    /// Verifies the rows of a range and sums them up. Where reading ended in damage, if it did: the last row that was
    /// read, and what the engine said.
    fn verify(&mut self, range: &KeyRange, derived: &mut LeafSum) -> Result<Option<(Vec<u8>, String)>, StoreError> {
        let mut last_read = Vec::new();
        let read = self.reader.scan(Space::Data, range, Direction::Forward, &mut |key, value| {
            self.rows += 1;
            last_read.clear();
            last_read.extend_from_slice(key);
            match RecordHeader::verify(key, value) {
                Ok(header) => *derived = derived.plus(self.store.merkle_key.row(key, header.version, header.checksum)),
                Err(damage) => self.damaged.push(DamagedRange::of_row(self.table, key, damage)),
            }
            ControlFlow::Continue(())
        });
        match read {
            Ok(()) => Ok(None),
            Err(EngineError::Corruption { detail }) => Ok(Some((last_read, detail))),
            Err(error) => Err(error.into()),
        }
    }

    /// Compares a leaf with the sum of the rows that were read of it.
    fn compare(&mut self, leaf: LeafId, derived: LeafSum, rows: KeyRange) -> Result<(), StoreError> {
        let stored = match read_leaves(self.reader, self.table, leaf, LeafId(leaf.0 + 1)) {
            Ok(leaves) => leaves.first().map(|(_, sum)| *sum).unwrap_or_default(),
            Err(EngineError::Corruption { detail }) => {
                self.damaged.push(DamagedRange::of_rows(self.table, rows, detail));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if stored != derived {
            let detail = format!(
                "the Merkle leaf says {} rows and sum {:032x}, the rows say {} and {:032x}",
                stored.rows, stored.sum, derived.rows, derived.sum
            );
            self.damaged.push(DamagedRange::of_rows(self.table, rows, detail));
        }
        Ok(())
    }
}
