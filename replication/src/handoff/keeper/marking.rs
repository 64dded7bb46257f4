//! What is marked dirty instead of hinted.
//!
//! There is one way to a mark, `mark_ranges`: it is durable, counted by cause, and told once per burst.

use std::collections::BTreeMap;

use cube_storage::dirty::{Cause, DirtyError, DirtyRange};
use cube_storage::merkle::LeafId;
use cube_storage::model::{Mutation, NodeId, Version};

use super::{Entry, HintedHandoff, Leaf, Refused, Rows};

impl HintedHandoff {
    /// Marks the leaves of rows that are not hinted.
    pub(super) fn mark_refused(
        &self,
        target: &str,
        entries: &[Entry],
        refused: &BTreeMap<(usize, usize), Refused>,
    ) -> Result<(), String> {
        let mut by_cause: BTreeMap<Cause, (Vec<Leaf>, &str)> = BTreeMap::new();
        for ((place, row), refusal) in refused {
            let Some(entry) = entries.get(*place).filter(|entry| !entry.only_copy) else { continue };
            let leaf = match &entry.rows {
                Rows::Whole(mutations, _) => mutations.get(*row).map(|mutation| self.leaf_of(mutation)),
                Rows::Leaves(leaves) => leaves.get(*row).copied(),
                Rows::Marks(_) => None,
            };
            by_cause.entry(refusal.cause).or_insert_with(|| (Vec::new(), &refusal.detail)).0.extend(leaf);
        }
        let mut result = Ok(());
        for (cause, (leaves, detail)) in by_cause {
            let marked = self.mark(target, leaves, cause, detail).map_err(|error| error.to_string());
            result = result.and(marked);
        }
        result
    }

    /// Marks what other nodes had marked for a target.
    pub(super) fn mark_taken(&self, target: &str, entries: &[Entry]) -> Result<(), String> {
        let taken = |entry: &Entry| match &entry.rows {
            Rows::Marks(marks) => marks.clone(),
            Rows::Whole(..) | Rows::Leaves(_) => Vec::new(),
        };
        let ranges: Vec<(DirtyRange, Version)> = entries.iter().flat_map(taken).collect();
        if ranges.is_empty() {
            return Ok(());
        }
        self.mark_ranges(target, ranges, Cause::Handover, "another node had marked it, and leaves")
            .map_err(|error| error.to_string())
    }

    /// Marks leaves dirty for a target: durable when this returns, counted, and told once per burst.
    pub(in crate::handoff) fn mark(
        &self,
        target: &str,
        leaves: impl IntoIterator<Item = Leaf>,
        cause: Cause,
        detail: &str,
    ) -> Result<(), DirtyError> {
        let ranges = leaves.into_iter().map(|(table, leaf, version)| (DirtyRange::Leaf(table, leaf), version));
        self.mark_ranges(target, ranges, cause, detail)
    }

    fn mark_ranges(
        &self,
        target: &str,
        ranges: impl IntoIterator<Item = (DirtyRange, Version)>,
        cause: Cause,
        detail: &str,
    ) -> Result<(), DirtyError> {
        let marks = self.marks.target(target)?;
        let mut count = 0;
        for (range, version) in ranges {
            marks.mark_range(range, version, cause);
            count += 1;
        }
        marks.sync()?;
        self.tell(target, cause, count, detail);
        Ok(())
    }

    /// Marks everything of a target: nobody knows what it missed.
    pub(in crate::handoff) fn mark_everything(&self, target: &str) -> Result<(), DirtyError> {
        let marks = self.marks.target(target)?;
        let version = Version::new(self.clock.peek(), NodeId(u16::MAX));
        marks.mark_range(DirtyRange::Everything, version, Cause::Corrupt);
        marks.sync()?;
        self.tell(target, Cause::Corrupt, 1, "nobody knows what it missed: everything is marked");
        Ok(())
    }

    fn tell(&self, target: &str, cause: Cause, count: u64, detail: &str) {
        self.counters.add_marked(cause, count);
        if count > 0 && self.bursts.lock().begins((target.to_owned(), cause), self.clock.monotonic_ms()) {
            let cause = cause.as_str();
            tracing::warn!(target, cause, detail, "what a node missed is marked dirty instead of hinted");
        }
    }

    pub(in crate::handoff) fn leaf_of(&self, row: &Mutation) -> Leaf {
        (row.table, LeafId::of(row.key.token(), self.bits), row.record.version)
    }
}
