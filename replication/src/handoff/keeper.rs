//! Keeping what replicas missed: on this node's disk, as hints, or as dirty marks where hints cannot be.
//!
//! `keep` only queues; [`HintedHandoff::flush`] writes everything that waits, target by target, with one sync of the
//! hints and one of the marks for all of it, and then tells. Its owner (a thread, or the simulator's clock) calls it when
//! it is woken. What waits is bounded in bytes: past the bound only marks are taken, which are small, and only copies are
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use cube_storage::dirty::{Cause, DirtyError, DirtyStore};
use cube_storage::files::{Files, FilesError};
use cube_storage::hints::{Hint, HintLimits, HintStore};
use cube_storage::merkle::LeafId;
use cube_storage::model::{Mutation, NodeId, PartitionBits, TableId, Version};
use parking_lot::Mutex;

use super::{HintKeeper, Kept, Missed, NotKept, OnKept};
use crate::catalog::Catalog;
use crate::clock::NodeClock;

/// Calls whoever flushes.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// Hints and dirty marks of one node.
pub struct HintedHandoff {
    hints: HintStore,
    marks: DirtyStore,
    bits: PartitionBits,
    catalog: Arc<Catalog>,
    clock: Arc<NodeClock>,
    waiting: Mutex<Waiting>,
    wake: Wake,
}

/// Bytes of rows that may wait to be written. A disk that is slower than that is not helped by more.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// What waits to be written.
#[derive(Default)]
struct Waiting {
    hints: Vec<(Missed, OnKept)>,
    bytes: usize,
    marks: Vec<(MissedLeaves, OnKept)>,
}

/// Where rows are that somebody missed and that found no room as hints.
struct MissedLeaves {
    target: NodeId,
    leaves: Vec<Leaf>,
}

/// Where a row is, and the version that was missed.
type Leaf = (TableId, LeafId, Version);

impl Waiting {
    fn len(&self) -> usize {
        self.hints.len() + self.marks.len()
    }
}

/// What a hinted handoff works with.
pub struct HandoffParts {
    /// The node's files; hints stand under `hints`, marks under `dirty`.
    pub files: Arc<dyn Files>,
    /// The most that hints may hold.
    pub limits: HintLimits,
    /// The number of partitions, as bits.
    pub bits: PartitionBits,
    /// Where members have their names from.
    pub catalog: Arc<Catalog>,
    /// The node's clocks.
    pub clock: Arc<NodeClock>,
    /// Called when something waits that was nothing before.
    pub wake: Wake,
}

impl HintedHandoff {
    /// Opens what the files hold. A log that cannot be opened is marked: all that its target missed is unknown. Where that
    /// cannot be made durable, nothing is opened.
    pub fn open(parts: HandoffParts) -> Result<Self, FilesError> {
        let HandoffParts { files, limits, bits, catalog, clock, wake } = parts;
        let hints = HintStore::open(Arc::clone(&files), Path::new("hints"), limits)?;
        let horizon = cube_storage::model::Version::new(clock.peek(), NodeId(u16::MAX));
        let marks = DirtyStore::open(files, Path::new("dirty"), horizon)?;
        for (target, error) in &hints.failed {
            tracing::error!(%target, %error, "a hint log cannot be opened: all of its target is marked dirty");
            let marked = marks.store.target(target).and_then(|target| {
                target.mark_range(cube_storage::dirty::DirtyRange::Everything, horizon, Cause::Corrupt);
                target.sync()
            });
            // What its target missed would be noted nowhere: a node does not start like that.
            marked.map_err(unmarked)?;
        }
        Ok(Self { hints: hints.store, marks: marks.store, bits, catalog, clock, waiting: Mutex::default(), wake })
    }

    /// The hints.
    pub fn hints(&self) -> &HintStore {
        &self.hints
    }

    /// The dirty marks.
    pub fn marks(&self) -> &DirtyStore {
        &self.marks
    }

    /// Drops what waits without telling anyone, as the end of the process would.
    pub fn abandon(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        drop(waiting);
    }

    /// Writes everything that waits, and tells.
    pub fn flush(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let mut by_target: BTreeMap<NodeId, Vec<(Missed, OnKept)>> = BTreeMap::new();
        for (missed, kept) in waiting.hints {
            by_target.entry(missed.target).or_default().push((missed, kept));
        }
        let mut to_mark: BTreeMap<NodeId, (Vec<Leaf>, Vec<OnKept>)> = BTreeMap::new();
        for (missed, kept) in waiting.marks {
            let (leaves, told) = to_mark.entry(missed.target).or_default();
            leaves.extend(missed.leaves);
            told.push(kept);
        }
        for (target, (leaves, told)) in to_mark {
            let result = self.mark_late(target, leaves);
            told.into_iter().for_each(|kept| kept(result.clone()));
        }
        for (target, waiting) in by_target {
            let missed: Vec<&Missed> = waiting.iter().map(|(missed, _)| missed).collect();
            let results = self.keep_all(target, &missed);
            for ((_, kept), result) in waiting.into_iter().zip(results) {
                kept(result);
            }
        }
    }

    fn keep_all(&self, target: NodeId, missed: &[&Missed]) -> Vec<Result<Kept, NotKept>> {
        let state = self.catalog.current();
        let Some(member) = state.topology.member(target) else {
            let error = NotKept { target, cause: "it is no member of the cluster".into() };
            return missed.iter().map(|_| Err(error.clone())).collect();
        };
        let refused = self.hint(&member.name, missed);
        let (only_copies, to_mark): (BTreeSet<usize>, BTreeSet<usize>) =
            refused.keys().copied().partition(|place| missed.get(*place).is_some_and(|missed| missed.only_copy));
        let to_mark: Vec<&Missed> = to_mark.iter().filter_map(|place| missed.get(*place).copied()).collect();
        let marked = self.mark(&member.name, &to_mark);
        let result = |place: usize| match (refused.get(&place), &marked) {
            (None, _) => Ok(Kept::Hint),
            (Some(cause), _) if only_copies.contains(&place) => Err(NotKept { target, cause: cause.clone() }),
            (Some(_), Ok(())) => Ok(Kept::Mark),
            (Some(cause), Err(mark)) => Err(NotKept { target, cause: format!("{cause}; {mark}") }),
        };
        (0..missed.len()).map(result).collect()
    }

    /// Keeps hints; those that are not kept, by their place, and why.
    fn hint(&self, target: &str, missed: &[&Missed]) -> BTreeMap<usize, String> {
        let created_ms = self.clock.peek().millis();
        let mut places = Vec::new();
        let mut hints = Vec::new();
        for (place, missed) in missed.iter().enumerate() {
            for Mutation { table, key, record, .. } in &missed.mutations {
                places.push(place);
                let (table, key, record) = (*table, key.clone(), record.clone());
                hints.push(Hint { table, key, record, created_ms, only_copy: missed.only_copy });
            }
        }
        let appended = self.hints.log(target).and_then(|log| {
            let appended = log.append(&hints)?;
            log.sync(appended.ticket)?;
            Ok(appended)
        });
        match appended {
            Err(error) => (0..missed.len()).map(|place| (place, error.to_string())).collect(),
            Ok(appended) => {
                let refused = appended.refused.iter().filter_map(|(hint, full)| Some((*places.get(*hint)?, full)));
                refused.map(|(place, full)| (place, full.to_string())).collect()
            }
        }
    }

    /// Marks the leaves of rows that are not hinted.
    fn mark(&self, target: &str, missed: &[&Missed]) -> Result<(), String> {
        if missed.is_empty() {
            return Ok(());
        }
        self.mark_leaves(target, missed.iter().flat_map(|missed| self.leaves_of(missed)))
    }

    fn mark_late(&self, target: NodeId, leaves: Vec<Leaf>) -> Result<Kept, NotKept> {
        let not_kept = |cause| NotKept { target, cause };
        let state = self.catalog.current();
        let member = state.topology.member(target).ok_or_else(|| not_kept("it is no member of the cluster".into()))?;
        self.mark_leaves(&member.name, leaves.into_iter()).map_err(not_kept)?;
        Ok(Kept::Mark)
    }

    fn mark_leaves(&self, target: &str, leaves: impl Iterator<Item = Leaf>) -> Result<(), String> {
        let marks = self.marks.target(target).map_err(|error| error.to_string())?;
        for (table, leaf, version) in leaves {
            marks.mark(table, leaf, version, Cause::Cap);
        }
        marks.sync().map_err(|error| error.to_string())
    }

    fn leaves_of(&self, missed: &Missed) -> Vec<Leaf> {
        let rows = missed.mutations.iter();
        rows.map(|row| (row.table, LeafId::of(row.key.token(), self.bits), row.record.version)).collect()
    }
}

/// Why a mark could not be made durable.
fn unmarked(error: DirtyError) -> FilesError {
    match error {
        DirtyError::Files { source, .. } => source,
        other => FilesError::Io { operation: "mark", path: "dirty".into(), detail: other.to_string() },
    }
}

impl HintKeeper for HintedHandoff {
    fn keep(&self, missed: Missed, kept: OnKept) {
        let rows = missed.mutations.iter();
        let bytes: usize = rows.map(|row| row.key.len_bytes() + row.record.encoded_len()).sum();
        let mut waiting = self.waiting.lock();
        let has_room = waiting.bytes == 0 || waiting.bytes + bytes <= WAITING_BYTES_MAX;
        if !has_room && missed.only_copy {
            drop(waiting);
            let cause = format!("hints of {WAITING_BYTES_MAX} bytes wait to be written already");
            return kept(Err(NotKept { target: missed.target, cause }));
        }
        if has_room {
            waiting.bytes += bytes;
            waiting.hints.push((missed, kept));
        } else {
            let leaves = self.leaves_of(&missed);
            waiting.marks.push((MissedLeaves { target: missed.target, leaves }, kept));
        }
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            (self.wake)();
        }
    }
}

#[cfg(test)]
mod tests;
