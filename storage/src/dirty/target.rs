//! The marks of one target: made in memory, written and synced together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::entry::{Entry, Operation};
use super::layout::{self, CHUNK_ENTRIES, DurableSlots, ENTRIES_MAX};
use super::marks::MarkSet;
use super::recovery;
use super::{Cause, DirtyError, DirtyRange, Generation, Mark};
use crate::files::{File, Files, FilesError};
use crate::merkle::LeafId;
use crate::model::{TableId, Version};

/// The marks of one target.
#[derive(Debug)]
pub struct DirtyMarks {
    pub(super) target: String,
    pub(super) files: Arc<dyn Files>,
    pub(super) path: PathBuf,
    pub(super) state: Mutex<State>,
    /// One sync at a time. Taken before the lock on the state. Nothing before the file was made.
    pub(super) log: Mutex<Option<Log>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) marks: MarkSet,
    /// Whether the file's current log cannot be gone on with, so that the next sync writes all marks anew.
    pub(super) rewrite: bool,
    pub(super) removed: bool,
    pub(super) file_bytes: u64,
    pub(super) by_cause: BTreeMap<Cause, u64>,
}

/// The file, and how far its current log has got.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) file: Arc<dyn File>,
    pub(super) slots: DurableSlots,
    pub(super) epoch: u32,
    /// The greatest epoch that may stand in the file.
    pub(super) last_epoch: u32,
    /// Entries of the current log, all of them durable.
    pub(super) len: u32,
    /// Entries that each of the two logs holds.
    pub(super) capacity: u32,
}

/// What is marked for a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyTotals {
    /// Marks.
    pub marks: u64,
    /// Of these, marks of a leaf.
    pub leaves: u64,
    /// Marks of a partition.
    pub partitions: u64,
    /// Marks of a table.
    pub tables: u64,
    /// Whether everything is marked.
    pub everything: bool,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// How often something was marked since the store was opened, by cause.
    pub by_cause: BTreeMap<Cause, u64>,
}

impl DirtyMarks {
    /// The node that missed writes.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Marks a leaf: the target missed a write of this version there. Durable after the next [`DirtyMarks::sync`].
    pub fn mark(&self, table: TableId, leaf: LeafId, version: Version, cause: Cause) {
        self.mark_range(DirtyRange::Leaf(table, leaf), version, cause);
    }

    /// Marks a range, for writes of which less is known. A range that is marked already, alone or under a coarser mark,
    /// has the greater version and a new generation; when there are too many marks, they become coarser.
    pub fn mark_range(&self, range: DirtyRange, version: Version, cause: Cause) {
        let mut state = self.state.lock();
        state.marks.mark(range, version);
        *state.by_cause.entry(cause).or_default() += 1;
        if state.marks.len() > fitting(ENTRIES_MAX) {
            state.marks.coarsen(fitting(ENTRIES_MAX) / 2);
        }
    }

    /// The marks after a range, or from the first on, in order, at most `limit`.
    pub fn marks(&self, after: Option<DirtyRange>, limit: usize) -> Vec<Mark> {
        self.state.lock().marks.after(after).take(limit).collect()
    }

    /// The mark that covers the rows in a leaf.
    pub fn covering(&self, table: TableId, leaf: LeafId) -> Option<Mark> {
        self.state.lock().marks.covering(DirtyRange::Leaf(table, leaf))
    }

    /// Clears a mark whose range was repaired. Whether it was still as it was when its generation was read: otherwise
    /// more was missed meanwhile, and the mark stays. A mark may come back after a crash before the next sync.
    pub fn clear(&self, range: DirtyRange, generation: Generation) -> bool {
        self.state.lock().marks.clear(range, generation)
    }

    /// What is marked.
    pub fn totals(&self) -> DirtyTotals {
        let state = self.state.lock();
        let mut totals = DirtyTotals { file_bytes: state.file_bytes, ..DirtyTotals::default() };
        totals.marks = state.marks.len() as u64;
        totals.by_cause = state.by_cause.clone();
        for mark in state.marks.iter() {
            match mark.range {
                DirtyRange::Everything => totals.everything = true,
                DirtyRange::Table(_) => totals.tables += 1,
                DirtyRange::Partition(..) => totals.partitions += 1,
                DirtyRange::Leaf(..) => totals.leaves += 1,
            }
        }
        totals
    }

    /// Whether there is a file: its space is set aside.
    pub fn is_made(&self) -> bool {
        self.state.lock().file_bytes > 0
    }

    /// Whether something is not durable yet: the next [`DirtyMarks::sync`] has something to do.
    pub fn needs_sync(&self) -> bool {
        let state = self.state.lock();
        state.marks.has_unwritten() || state.rewrite
    }

    /// Makes every mark made before durable; all that wait share one sync. The first one makes the file, whether or not
    /// something is marked. After an error no mark may be called durable; they stay, and the next sync tries again.
    pub fn sync(&self) -> Result<(), DirtyError> {
        let mut log = self.log.lock();
        if self.state.lock().removed {
            return Err(DirtyError::Removed { target: self.target.clone() });
        }
        let log = match &mut *log {
            Some(log) => log,
            none => {
                let made = none.insert(recovery::make(&*self.files, &self.path, &self.target)?);
                self.state.lock().file_bytes = layout::file_len(made.capacity);
                made
            }
        };
        let (changes, rewrite) = {
            let mut state = self.state.lock();
            if !state.marks.has_unwritten() && !state.rewrite {
                return Ok(());
            }
            let changes = state.marks.take_unwritten();
            let rewrite = state.rewrite || log.len as usize + changes.len() > log.capacity as usize;
            // Until this has succeeded, whoever comes next has to write it all.
            state.rewrite = true;
            (changes, rewrite)
        };
        let written = if rewrite { self.rewrite(log) } else { log.append(&self.target, &changes) };
        written.map_err(|source| DirtyError::Files { target: self.target.clone(), source })?;
        self.state.lock().rewrite = false;
        log.note_durable(&self.target);
        Ok(())
    }

    /// Writes all marks into the log that is not current, and makes it the current one. Marks made meanwhile are left to
    /// the next sync.
    fn rewrite(&self, log: &mut Log) -> Result<(), FilesError> {
        let marks: Vec<Mark> = {
            let mut state = self.state.lock();
            let fits = |log: &Log, len: usize| len <= fitting(log.capacity);
            while !fits(log, state.marks.len()) && log.capacity < ENTRIES_MAX {
                if let Err(error) = log.grow() {
                    tracing::warn!(target = self.target, %error, "no room for more dirty marks: they become coarser");
                    break;
                }
            }
            if !fits(log, state.marks.len()) {
                state.marks.coarsen(fitting(log.capacity) / 2);
            }
            state.file_bytes = layout::file_len(log.capacity);
            // All that is marked is written here.
            state.marks.take_unwritten();
            state.marks.iter().collect()
        };
        log.rewrite(&self.target, &marks)
    }
}

/// How many marks a log of this capacity may begin with: a quarter is left for changes, so that rewriting it costs each
/// of them a few entries, not the whole log.
fn fitting(capacity: u32) -> usize {
    (capacity / 4 * 3) as usize
}

impl Log {
    /// Appends changes to the current log.
    fn append(&mut self, target: &str, changes: &[(DirtyRange, Option<Version>)]) -> Result<(), FilesError> {
        let entry = |(index, &(range, version)): (u32, &(DirtyRange, Option<Version>))| {
            let operation = match version {
                Some(version) => Operation::Mark { range, version },
                None => Operation::Clear { range },
            };
            Entry { epoch: self.epoch, index, durable: self.len, operation }
        };
        let entries: Vec<Entry> = (self.len..).zip(changes).map(entry).collect();
        layout::write(&*self.file, target, &entries)?;
        self.file.sync()?;
        self.len += entries.len() as u32;
        Ok(())
    }

    /// Writes marks into the other log, and then the entry that makes it the current one.
    fn rewrite(&mut self, target: &str, marks: &[Mark]) -> Result<(), FilesError> {
        // A number of its own for every attempt, of the other log's parity: whatever an attempt before has left there,
        // durable or not, must not be taken for part of this one.
        let epoch = self.last_epoch + 1 + u32::from((self.last_epoch + 1) % 2 == self.epoch % 2);
        self.last_epoch = epoch;
        let entry = |(index, mark): (u32, &Mark)| {
            let operation = Operation::Mark { range: mark.range, version: mark.version };
            Entry { epoch, index, durable: 0, operation }
        };
        let entries: Vec<Entry> = (1..).zip(marks).map(entry).collect();
        layout::write(&*self.file, target, &entries)?;
        self.file.sync()?;
        let count = entries.len() as u32;
        let begin = Entry { epoch, index: 0, durable: 0, operation: Operation::Begin { count } };
        layout::write(&*self.file, target, &[begin])?;
        self.file.sync()?;
        (self.epoch, self.len) = (epoch, count + 1);
        Ok(())
    }

    /// Doubles the file, or adds a chunk where there is no space for that.
    fn grow(&mut self) -> Result<(), FilesError> {
        let more = |by: u32| (self.capacity + by).min(ENTRIES_MAX);
        let mut capacity = more(self.capacity.max(CHUNK_ENTRIES));
        if let Err(error) = self.file.preallocate(layout::file_len(capacity)) {
            if !error.is_no_space() {
                return Err(error);
            }
            capacity = more(CHUNK_ENTRIES);
            self.file.preallocate(layout::file_len(capacity))?;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Notes how far the log is durable, beside it.
    pub(super) fn note_durable(&mut self, target: &str) {
        let value = (u64::from(self.epoch) << 32) | u64::from(self.len);
        match self.slots.write(&*self.file, value.to_be_bytes()) {
            Ok(()) => self.slots.kept(),
            // A lower bound that stays low weakens only how surely damage to the last entries is noticed.
            Err(error) => tracing::warn!(target, %error, "could not note how far dirty marks are durable"),
        }
    }
}
