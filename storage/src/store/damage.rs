//! What was found damaged, and what was done: bounded, for whoever reports it.
//!
//! Invariant: rows that were found damaged are in no partition that counts as in sync, from before the error is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::engine::Space;
use crate::error::{DamagedRange, StoreError};
use crate::keyspace::tokens_of_range;
use crate::model::PartitionId;
use crate::partition::{PartitionState, Partitions, SyncState, UnsyncedCause};
use crate::store::Store;

/// Damaged places that are remembered; older ones are only counted.
const REMEMBERED_MAX: usize = 100;

/// The damaged places found since the store was opened.
#[derive(Default)]
pub struct DamageLog {
    found: AtomicU64,
    recent: Mutex<VecDeque<DamagedRange>>,
}

impl DamageLog {
    /// How many times damage was found.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// The last places found, oldest first.
    pub fn recent(&self) -> Vec<DamagedRange> {
        self.recent.lock().iter().cloned().collect()
    }

    /// Remembers a place. One that is remembered already is neither counted nor logged again, however often it is
    /// read.
    pub(crate) fn report(&self, damaged: DamagedRange) {
        let mut recent = self.recent.lock();
        if recent.iter().any(|known| known.table == damaged.table && known.range == damaged.range) {
            return;
        }
        tracing::error!(%damaged, "damaged data");
        self.found.fetch_add(1, Ordering::Relaxed);
        if recent.len() == REMEMBERED_MAX {
            recent.pop_front();
        }
        recent.push_back(damaged);
    }
}

/// What the store did since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    groups: AtomicU64,
    rows: AtomicU64,
    purged_rows: AtomicU64,
    below_floor_rows: AtomicU64,
}

impl Counters {
    /// Engine writes that committed a group of batches.
    pub fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    /// Rows that changed.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows that purge removed.
    pub fn purged_rows(&self) -> u64 {
        self.purged_rows.load(Ordering::Relaxed)
    }

    /// Rows that were refused because deletions may have been purged up to their versions.
    pub fn below_floor_rows(&self) -> u64 {
        self.below_floor_rows.load(Ordering::Relaxed)
    }

    pub(crate) fn count_below_floor(&self) {
        self.below_floor_rows.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_group(&self, rows: usize) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_purged(&self, rows: usize) {
        self.purged_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

impl Store {
    /// Reports a damaged range and marks its partitions unsynced, durably, before the error is told. Not to be called
    /// by whoever holds `commit`.
    pub(crate) fn damaged(&self, range: DamagedRange) -> StoreError {
        // The index only finds rows: those it names are as good as ever, under their keys.
        if range.space == Space::Data
            && let Err(error) = self.mark_damaged(&range)
        {
            tracing::error!(%error, %range, "the mark of a damaged range could not be made durable");
        }
        self.damage.report(range.clone());
        StoreError::Corrupt(Box::new(range))
    }

    pub(super) fn mark_damaged(&self, range: &DamagedRange) -> Result<(), StoreError> {
        let placement = self.tables.read().get(range.table)?.placement;
        let Some((first, last)) = tokens_of_range(range.table, &range.range) else { return Ok(()) };
        let mut commit = self.commit.lock();
        // What is remembered of a row that cannot be read must not keep it from being healed.
        match range.row() {
            Some(data_key) => commit.recent.forget(self.merkle_key.fingerprint(data_key)),
            None => commit.recent.clear(),
        }
        let mut partitions = self.partitions.write();
        let mut notes = Vec::new();
        for partition in self.bits.partition_of(first).0..=self.bits.partition_of(last).0 {
            let partition = PartitionId(partition);
            let state = partitions.state(placement, partition);
            if state.sync.hides_damage() {
                let state = PartitionState { sync: SyncState::Unsynced(UnsyncedCause::DamagedData), ..state };
                // Even when it cannot be noted: meanwhile it must not be counted.
                partitions.set_state(placement, partition, state);
                notes.push(Partitions::note_state(placement, partition, state));
            } else {
                partitions.found_more(placement, partition);
            }
        }
        // The next write over the damaged row takes the evidence away, so the mark may not stay behind it. Not those of
        // this range alone: a mark that failed before is made durable by whoever comes across damage next.
        commit.unnoted.extend(notes);
        if commit.unnoted.is_empty() { Ok(()) } else { self.write_notes(&mut commit, []) }
    }
}
