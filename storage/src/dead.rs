//! From which purge floor on a partition has something to purge: so that nobody reads all its rows to find that nothing
//! is dead.
//!
//! It is known after all rows were looked at once, and lowered by every deletion and every value with an end that is
//! committed since. What is purged or overwritten raises it only with the next look. Kept in memory: after a restart
//! each partition is looked at once.
//!
//! Invariant: what is known is never above what there is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::engine::{Direction, Space};
use crate::error::StoreError;
use crate::keyspace::after;
use crate::model::{Hlc, PartitionId, RecordHeader, TableId};
use crate::removal::RemovalCursor;
use crate::store::Store;

/// No floor purges anything.
const NEVER: Hlc = Hlc(u64::MAX);

/// Of one partition of a table.
#[derive(Clone, Copy, Debug)]
struct FirstDead {
    /// Nothing before the first look has ended.
    known: Option<Hlc>,
    /// The least that the look under way has found, or that was committed since it began.
    found: Hlc,
}

/// Of all partitions that were ever looked at.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    trees: BTreeMap<(TableId, PartitionId), FirstDead>,
}

impl Dead {
    /// A record was committed that purge removes from this floor on.
    pub(crate) fn note(&mut self, table: TableId, partition: PartitionId, from: Hlc) {
        if let Some(first) = self.trees.get_mut(&(table, partition)) {
            first.known = first.known.map(|known| known.min(from));
            first.found = first.found.min(from);
        }
    }

    /// What is known is not so any more, in either direction.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(TableId, PartitionId) -> bool) {
        self.trees.retain(|&(table, partition), _| !is_gone(table, partition));
    }

    fn begin(&mut self, table: TableId, partition: PartitionId) {
        self.trees.entry((table, partition)).or_insert(FirstDead { known: None, found: NEVER }).found = NEVER;
    }

    /// The look is over. One that was forgotten meanwhile says nothing.
    fn end(&mut self, table: TableId, partition: PartitionId) {
        if let Some(first) = self.trees.get_mut(&(table, partition)) {
            first.known = Some(first.found);
        }
    }

    fn known(&self, table: TableId, partition: PartitionId) -> Option<Hlc> {
        self.trees.get(&(table, partition))?.known
    }
}

/// What a look at some rows of a partition came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLook {
    /// There is something to purge.
    Some,
    /// Not so far; the next look begins here.
    NotYet(RemovalCursor),
    /// There is nothing to purge.
    Nothing,
}

impl Store {
    /// Looks whether purge at `floor` would remove anything from a partition: at no row where that is known, else at
    /// `rows_max` rows at the most. Only one at a time may look at a partition.
    pub fn look_for_dead(
        &self,
        (table, partition): (TableId, PartitionId),
        from: Option<&RemovalCursor>,
        floor: Hlc,
        rows_max: usize,
    ) -> Result<DeadLook, StoreError> {
        self.tables.read().get(table)?;
        let mut range = self.rows_of(table, partition);
        match from {
            Some(cursor) => range.start.clone_from(&cursor.0),
            None => {
                let mut forest = self.forest.lock();
                if forest.dead.known(table, partition).is_some_and(|known| known > floor) {
                    return Ok(DeadLook::Nothing);
                }
                forest.dead.begin(table, partition);
            }
        }
        let (mut rows, mut first, mut last) = (0, NEVER, None);
        self.engine.scan(Space::Data, &range, Direction::Forward, &mut |key, value| {
            rows += 1;
            // A damaged row is nothing to purge; the scrub and reads tell of it.
            let dies = RecordHeader::verify(key, value).ok().and_then(|header| header.purgeable_from());
            first = dies.map_or(first, |dies| first.min(dies));
            if rows < rows_max.max(1) && first > floor {
                return ControlFlow::Continue(());
            }
            last = Some(after(key));
            ControlFlow::Break(())
        })?;
        if first <= floor {
            return Ok(DeadLook::Some);
        }
        let mut forest = self.forest.lock();
        forest.dead.note(table, partition, first);
        Ok(match last {
            Some(next) => DeadLook::NotYet(RemovalCursor(next)),
            None => {
                forest.dead.end(table, partition);
                DeadLook::Nothing
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: (TableId, PartitionId) = (TableId(1), PartitionId(2));

    #[test]
    fn what_is_committed_while_it_is_looked_counts_and_what_is_forgotten_is_not_known() {
        let mut dead = Dead::default();
        dead.note(AT.0, AT.1, Hlc(3));
        assert_eq!(dead.known(AT.0, AT.1), None, "nobody has looked");
        dead.begin(AT.0, AT.1);
        dead.note(AT.0, AT.1, Hlc(7));
        assert_eq!(dead.known(AT.0, AT.1), None);
        dead.end(AT.0, AT.1);
        assert_eq!(dead.known(AT.0, AT.1), Some(Hlc(7)));
        dead.note(AT.0, AT.1, Hlc(9));
        dead.note(AT.0, AT.1, Hlc(5));
        assert_eq!(dead.known(AT.0, AT.1), Some(Hlc(5)));
        dead.begin(AT.0, AT.1);
        dead.forget(|table, _| table == AT.0);
        dead.end(AT.0, AT.1);
        assert_eq!(dead.known(AT.0, AT.1), None);
    }
}
