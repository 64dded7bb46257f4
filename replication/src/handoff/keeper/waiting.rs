//! What waits to be written, target by target.
//!
//! Targets have files of their own, so several may be written at the same time, each by one: what comes for a target that is
//! being written is written next, together. Targets take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use cube_storage::model::NodeId;

use super::Entry;

/// What waits.
#[derive(Default)]
pub(super) struct Waiting {
    queues: BTreeMap<NodeId, Vec<Entry>>,
    /// Bytes of the rows among them.
    bytes: usize,
    /// Whose queues are being written.
    writing: BTreeSet<NodeId>,
    /// Whose turn it was last.
    last: Option<NodeId>,
}

impl Waiting {
    /// Bytes of the rows that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues an entry. Whether somebody has to be called for it.
    pub(super) fn push(&mut self, entry: Entry) -> bool {
        self.bytes += entry.rows.bytes();
        let target = entry.target;
        let queue = self.queues.entry(target).or_default();
        queue.push(entry);
        queue.len() == 1 && !self.writing.contains(&target)
    }

    /// What is written next; nobody else gets anything of this target until [`Self::done`].
    pub(super) fn next(&mut self) -> Option<(NodeId, Vec<Entry>)> {
        let behind = self.queues.range((self.last.map_or(Unbounded, Excluded), Unbounded));
        let mut in_turn = behind.chain(&self.queues).map(|(target, _)| *target);
        let target = in_turn.find(|target| !self.writing.contains(target))?;
        let entries = self.queues.remove(&target)?;
        self.bytes -= entries.iter().map(|entry| entry.rows.bytes()).sum::<usize>();
        self.writing.insert(target);
        self.last = Some(target);
        Some((target, entries))
    }

    /// Whether there is something that nobody writes.
    pub(super) fn has_more(&self) -> bool {
        self.queues.keys().any(|target| !self.writing.contains(target))
    }

    /// A target is written, and those who wait for it were told.
    pub(super) fn done(&mut self, target: NodeId) {
        self.writing.remove(&target);
    }

    /// Takes out everything that waits.
    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        self.bytes = 0;
        std::mem::take(&mut self.queues).into_values().flatten().collect()
    }
}
