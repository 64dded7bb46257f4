//! What happened to missed writes since the node started, and when that is worth a line in the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_storage::dirty::Cause;
use serde::Serialize;

/// Plain counters, for the metrics of a node. Rows, where nothing else is said.
#[derive(Debug, Default)]
pub struct HandoffCounters {
    pub(super) hinted: AtomicU64,
    marked: [AtomicU64; Cause::ALL.len()],
    pub(super) not_kept: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) replayed_bytes: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) dropped_target_left: AtomicU64,
    pub(super) dropped_not_replica: AtomicU64,
    pub(super) dropped_table: AtomicU64,
    pub(super) rerouted: AtomicU64,
    pub(super) handed_over: AtomicU64,
    pub(super) marks_handed_over: AtomicU64,
    pub(super) taken_over: AtomicU64,
}

/// The counters at one moment, under the names that operators see.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoffCounts {
    /// Kept as hints.
    pub hinted: u64,
    /// Marked dirty instead, by cause.
    pub marked: BTreeMap<&'static str, u64>,
    /// Kept neither way, which failed the write or was told to nobody else.
    pub not_kept: u64,
    /// Taken by their target.
    pub replayed: u64,
    /// Bytes of these.
    pub replayed_bytes: u64,
    /// Batches that were sent.
    pub batches: u64,
    /// Questions and batches that failed.
    pub failures: u64,
    /// Hints that grew too old and became marks.
    pub expired: u64,
    /// Hints that were found damaged and became marks.
    pub damaged: u64,
    /// Hints that were dropped because their target had left the cluster.
    pub dropped_target_left: u64,
    /// Hints that were dropped because their target was no replica of the row any more.
    pub dropped_not_replica: u64,
    /// Hints that were dropped with their table.
    pub dropped_table: u64,
    /// Only copies that went to another replica than the one they were for.
    pub rerouted: u64,
    /// Hints that were handed to another node, because this one leaves.
    pub handed_over: u64,
    /// Dirty marks that were handed to another node, because this one leaves.
    pub marks_handed_over: u64,
    /// Hints that were taken from a node that leaves.
    pub taken_over: u64,
}

impl HandoffCounters {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn add_marked(&self, cause: Cause, by: u64) {
        if let Some(place) = Cause::ALL.iter().position(|other| *other == cause)
            && let Some(counter) = self.marked.get(place)
        {
            Self::add(counter, by);
        }
    }

    /// The counters now.
    pub fn snapshot(&self) -> HandoffCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HandoffCounts {
            hinted: read(&self.hinted),
            marked: Cause::ALL.iter().zip(&self.marked).map(|(cause, count)| (cause.as_str(), read(count))).collect(),
            not_kept: read(&self.not_kept),
            replayed: read(&self.replayed),
            replayed_bytes: read(&self.replayed_bytes),
            batches: read(&self.batches),
            failures: read(&self.failures),
            expired: read(&self.expired),
            damaged: read(&self.damaged),
            dropped_target_left: read(&self.dropped_target_left),
            dropped_not_replica: read(&self.dropped_not_replica),
            dropped_table: read(&self.dropped_table),
            rerouted: read(&self.rerouted),
            handed_over: read(&self.handed_over),
            marks_handed_over: read(&self.marks_handed_over),
            taken_over: read(&self.taken_over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_counter_of_its_own() {
        let counters = HandoffCounters::default();
        for (cause, by) in Cause::ALL.into_iter().zip(1..) {
            counters.add_marked(cause, by);
        }
        let marked = counters.snapshot().marked;
        assert_eq!(marked.len(), Cause::ALL.len());
        assert!(Cause::ALL.iter().zip(1..).all(|(cause, by)| marked.get(cause.as_str()) == Some(&by)));
    }
}
