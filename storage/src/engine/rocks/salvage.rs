//! Replacing what cannot be read: what can be read of a key space is written anew, and what cannot is told.
//!
//! A damaged place in a file is there for good: rows that are deleted and copied again still hide behind it, and the
//! first compaction that comes across it stops all writes. So a key space that holds such a place is copied into a fresh
//! column family, past the damage, and the old one dropped: whole, because a place that no read needs any more is still
//! one that a compaction needs. Done while the directory is opened, and only when something was found unreadable before:
//! it reads all of the key space, writes it, and needs room for both.
//!
//! Invariant: before the old family goes, what is not in the new one is noted durably.

use std::ops::ControlFlow;

use rocksdb::{ReadOptions, WriteBatch, WriteOptions};

use super::notes::{Note, Unreadable, lost_line};
use super::{EngineError, LostRange, RocksEngine, RocksOptions, Space, engine_error, io_error};
use crate::engine::{Direction, Reader, Recovery};
use crate::keyspace::{KeyRange, after};
use crate::reach::{Failure, Reach};
use crate::space::SpaceProbe;

/// Bytes that are copied in one write.
const COPY_BYTES: usize = 1 << 20;
/// Places that are passed over one by one; of what holds more, nothing more is read. Each takes some milliseconds.
const PLACES_MAX: usize = 100_000;
/// Memory for what is told of them, and about the size of their note; where it is full, nothing more is read either. Enough
/// for all places where keys are short.
const PLACES_BYTES_MAX: usize = 64 << 20;

impl RocksEngine {
    /// Replaces what cannot be read. The engine must have been opened without compactions.
    pub(super) fn salvage(&mut self, options: &RocksOptions) -> Result<(), EngineError> {
        if let Recovery::Damaged(detail) = &self.recovery {
            // What is copied counts as writes: afterwards the log no longer seems to end too early.
            if Note::damaged(&self.dir).read().map_err(|e| io_error(&self.dir, &e))?.is_none() {
                Note::damaged(&self.dir).add(std::slice::from_ref(detail)).map_err(|e| io_error(&self.dir, &e))?;
            }
        }
        for name in std::mem::take(&mut self.families.unfinished) {
            self.db.drop_cf(&name).map_err(engine_error)?;
        }
        let note = Note::unreadable(&self.dir);
        let unreadable = note.read().map_err(|e| io_error(&self.dir, &e))?.unwrap_or_default();
        let unreadable: Vec<Unreadable> = unreadable.lines().map(Unreadable::parse).collect();
        for space in Space::ALL {
            if self.is_hit(space, &unreadable)? {
                self.replace(space, options)?;
            }
        }
        note.forget().map_err(|e| io_error(&self.dir, &e))
    }

    /// Whether something was unreadable in a key space: its name is noted, or one of its files; or neither is known of
    /// any.
    fn is_hit(&self, space: Space, unreadable: &[Unreadable]) -> Result<bool, EngineError> {
        let files = self.db.live_files().map_err(engine_error)?;
        let names = |unreadable: &Unreadable, family: Option<&str>| {
            let mut files = files.iter().filter(|file| family.is_none_or(|family| file.column_family_name == family));
            files.any(|file| unreadable.detail.contains(file.name.trim_start_matches('/')))
        };
        Ok(unreadable.iter().any(|unreadable| match unreadable.space {
            Some(of) => of == space,
            None if names(unreadable, None) => names(unreadable, Some(self.families.name(space))),
            None => true,
        }))
    }

    fn replace(&mut self, space: Space, options: &RocksOptions) -> Result<(), EngineError> {
        self.check_room(space)?;
        tracing::warn!(space = space.name(), "files that cannot be read are replaced");
        let fresh = self.families.next_name(space);
        self.db.create_cf(&fresh, &options.family(space, &options.block_cache())).map_err(engine_error)?;
        let copied = self.copy(space, &fresh).and_then(|lost| match lost.first() {
            Some(first) if space == Space::Meta => Err(EngineError::Unusable { detail: first.detail.clone() }),
            _ => Ok(lost),
        });
        let lost = match copied {
            Ok(lost) => lost,
            Err(error) => {
                // The half copy takes room; if it stays, it is dropped at the next start.
                if let Err(error) = self.db.drop_cf(&fresh) {
                    tracing::warn!(%error, "the beginning of a copy stays until the next start");
                }
                return Err(error);
            }
        };
        for lost in &lost {
            tracing::error!(space = space.name(), ?lost.range, lost.detail, "lost with a damaged file");
        }
        if !lost.is_empty() {
            let lines: Vec<String> = lost.iter().map(lost_line).collect();
            Note::lost(&self.dir).add(&lines).map_err(|e| io_error(&self.dir, &e))?;
        }
        self.db.drop_cf(self.families.name(space)).map_err(engine_error)
    }

    /// Refuses to begin what will not fit.
    fn check_room(&self, space: Space) -> Result<(), EngineError> {
        let needed = self.space_bytes(space);
        match self.stall.device().available_bytes() {
            Some(available) if available < needed => Err(EngineError::NoSpace {
                detail: format!(
                    "replacing the damaged files of {} takes {needed} bytes, {available} are left",
                    space.name()
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Copies what can be read of a key space, durably. What cannot.
    fn copy(&self, space: Space, to: &str) -> Result<Vec<LostRange>, EngineError> {
        let family = self.db.cf_handle(to).ok_or_else(|| super::missing_family(to))?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        // What is left to read, the next last.
        let mut left = vec![(KeyRange { start: Vec::new(), end: Vec::new() }, false)];
        let (mut lost, mut lost_bytes) = (Vec::new(), 0);
        while let Some((range, is_in_front)) = left.pop() {
            let (mut batch, mut last_read) = (WriteBatch::default(), Vec::new());
            let mut full = false;
            let read = self.scan_opt(space, &range, Direction::Forward, once(), &mut |key, value| {
                batch.put_cf(family, key, value);
                last_read.clear();
                last_read.extend_from_slice(key);
                full = batch.size_in_bytes() >= COPY_BYTES;
                if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            self.db.write_opt(batch, &unlogged).map_err(engine_error)?;
            let detail = match read {
                Ok(()) => {
                    left.extend(full.then(|| (KeyRange { start: after(&last_read), end: range.end }, is_in_front)));
                    continue;
                }
                Err(EngineError::Corruption { detail }) => detail,
                Err(error) => return Err(error),
            };
            lost_bytes += size_of::<LostRange>() + detail.len();
            if is_in_front || lost.len() >= PLACES_MAX || lost_bytes >= PLACES_BYTES_MAX {
                // What was found to be readable is looked at once: so each round gets on.
                lost.push(LostRange { space, range, detail });
                continue;
            }
            let failure = Failure { space, range: &range, direction: Direction::Forward, last_read: &last_read };
            let Reach { in_front, damaged, rest } = failure.reach(self as &dyn Reader)?;
            lost_bytes += damaged.as_ref().map_or(0, |range| range.start.len() + range.end.len());
            lost.extend(damaged.map(|range| LostRange { space, range, detail }));
            left.extend(rest.map(|rest| (rest, false)));
            left.extend(in_front.map(|in_front| (in_front, true)));
        }
        self.db.flush_cf(family).map_err(engine_error)?;
        Ok(lost)
    }
}

/// What is read once for all leaves the cache alone, and needs no reading ahead that depends on it.
fn once() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_auto_readahead_size(false);
    options
}
