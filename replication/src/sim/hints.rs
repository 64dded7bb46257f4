//! Hints in the simulator: the real keeper on a simulated disk, flushed a moment after it is woken, so that a crash may
//! come before.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::files::FilesError;
use cube_storage::hints::{HintLimits, ReadLimits};
use cube_storage::model::{NodeId, RowKey, TableId, Version};

use super::control::member_name;
use super::event::Event;
use super::mutants::Mutant;
use super::time::Schedule;
use crate::handoff::{HandoffParts, HintKeeper, HintedHandoff, Kept, Missed, OnKept, Wake};

/// One process's hints.
pub(super) struct SimHints {
    handoff: HintedHandoff,
    mutant: Option<Mutant>,
}

/// Few enough that some runs reach the cap: then what is missed is marked.
const KEYS_MAX: u64 = 6;

impl SimHints {
    pub(super) fn open(parts: HandoffParts, mutant: Option<Mutant>) -> Result<Arc<Self>, FilesError> {
        let limits = HintLimits { keys_max: KEYS_MAX, ..HintLimits::default() };
        Ok(Arc::new(Self { handoff: HintedHandoff::open(HandoffParts { limits, ..parts })?, mutant }))
    }

    /// What wakes the flush.
    pub(super) fn wake(node: NodeId, life: u64, schedule: Schedule) -> Wake {
        Box::new(move || {
            let delay_us = schedule.pick(100, 5_000);
            schedule.after_us(delay_us, Event::SyncHints { node, life });
        })
    }

    /// Everything that was queued by now becomes durable.
    pub(super) fn flush(&self) {
        self.handoff.flush();
    }

    /// What was queued is lost.
    pub(super) fn abandon(&self) {
        self.handoff.abandon();
    }

    /// The newest version hinted for each target and row.
    pub(super) fn newest(&self) -> BTreeMap<(String, TableId, RowKey), Version> {
        let limits = ReadLimits { records: usize::MAX, bytes: usize::MAX };
        let mut newest = BTreeMap::new();
        for log in self.handoff.hints().logs() {
            let mut from = log.start();
            while let Ok(batch) = log.read(from, limits) {
                if batch.next == from {
                    break;
                }
                from = batch.next;
                for stored in batch.hints {
                    let row = (log.target().to_owned(), stored.hint.table, stored.hint.key);
                    let version = newest.entry(row).or_insert(Version::ZERO);
                    *version = stored.hint.record.version.max(*version);
                }
            }
        }
        newest
    }

    /// Whether what `target` missed of a row up to `version` is marked dirty.
    pub(super) fn is_marked(
        &self,
        target: NodeId,
        table: TableId,
        leaf: cube_storage::merkle::LeafId,
        version: Version,
    ) -> bool {
        let marks = self.handoff.marks().target(&member_name(target));
        marks.is_ok_and(|marks| marks.covering(table, leaf).is_some_and(|mark| mark.version >= version))
    }
}

impl HintKeeper for SimHints {
    fn keep(&self, missed: Missed, kept: OnKept) {
        if self.mutant == Some(Mutant::HintSkipped) {
            return kept(Ok(Kept::Hint));
        }
        self.handoff.keep(missed, kept);
    }
}
