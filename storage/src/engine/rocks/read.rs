//! Reading from RocksDB, of the present state or of a snapshot.
//!
//! Every block that is read is verified by RocksDB (that is its default, and nothing here turns it off), an iterator
//! that ends is asked why, and what was found damaged is noted, so that the next start replaces the file.

use std::ops::ControlFlow;

use bytes::Bytes;
use rocksdb::{DB, DBPinnableSlice, DBRawIterator, ReadOptions, ReadTier, SnapshotWithThreadMode};

use super::{Direction, EngineError, GetVisitor, KeyRange, Reader, RocksEngine, ScanVisitor, Space};
use crate::keyspace::after;

type Found<'a> = Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>;

impl RocksEngine {
    /// Shows a value that was found, or reads it once more where that failed.
    fn show(
        &self,
        space: Space,
        key: &[u8],
        found: Found<'_>,
        options: impl FnOnce() -> ReadOptions,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), EngineError> {
        match found {
            Ok(value) => value.iter().for_each(|value| visit(value)),
            Err(error) => self.reread(space, key, error, options(), visit)?,
        }
        Ok(())
    }

    /// Reads a key that RocksDB could not look up. Looking up goes on into the block behind the one where the key would
    /// be, and tells the damage of a file of all keys of a batch; a scan of the one key needs just what may hold it.
    fn reread(
        &self,
        space: Space,
        key: &[u8],
        error: rocksdb::Error,
        options: ReadOptions,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), EngineError> {
        match self.read_error(Some(space), error) {
            EngineError::Corruption { .. } => {}
            error => return Err(error),
        }
        let alone = KeyRange { start: key.to_vec(), end: after(key) };
        self.scan_opt(space, &alone, Direction::Forward, options, &mut |_, value| {
            visit(value);
            ControlFlow::Continue(())
        })
    }

    fn multi_get_opt(
        &self,
        space: Space,
        keys: &[&[u8]],
        options: impl Fn() -> ReadOptions,
        visit: &mut GetVisitor<'_>,
    ) {
        let family = match self.family(space) {
            Ok(family) => family,
            Err(error) => return (0..keys.len()).for_each(|place| visit(place, Err(error.clone()))),
        };
        let sorted = keys.is_sorted();
        let values = self.db.batched_multi_get_cf_opt(family, keys.iter().copied(), sorted, &options());
        for (place, (value, key)) in values.into_iter().zip(keys).enumerate() {
            match value {
                Ok(value) => visit(place, Ok(value.as_deref())),
                Err(error) => {
                    let found = copied(|visit| self.reread(space, key, error, options(), visit));
                    visit(place, found.as_ref().map(Option::as_deref).map_err(Clone::clone));
                }
            }
        }
    }

    /// Shows a value if buffers and cached blocks tell what it is. What else goes wrong is for the reading that may wait.
    pub(super) fn view_cached(
        &self,
        space: Space,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, EngineError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        let found = self.db.get_pinned_cf_opt(self.family(space)?, key, &options);
        Ok(found.map(|value| value.iter().for_each(|value| visit(value))).is_ok())
    }

    pub(super) fn scan_opt(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        mut options: ReadOptions,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        if range.is_empty() {
            return Ok(());
        }
        options.set_iterate_lower_bound(range.start.clone());
        if !range.end.is_empty() {
            options.set_iterate_upper_bound(range.end.clone());
        }
        let mut pairs = self.db.raw_iterator_cf_opt(self.family(space)?, options);
        match direction {
            Direction::Forward => pairs.seek_to_first(),
            Direction::Backward => pairs.seek_to_last(),
        }
        visit_all(&mut pairs, direction, visit).map_err(|error| self.read_error(Some(space), error))
    }
}

fn visit_all(
    pairs: &mut DBRawIterator<'_>,
    direction: Direction,
    visit: &mut ScanVisitor<'_>,
) -> Result<(), rocksdb::Error> {
    while let Some((key, value)) = pairs.item() {
        if let ControlFlow::Break(()) = visit(key, value) {
            return Ok(());
        }
        match direction {
            Direction::Forward => pairs.next(),
            Direction::Backward => pairs.prev(),
        }
    }
    pairs.status()
}

/// The value that `view` shows, copied.
fn copied(view: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), EngineError>) -> Result<Option<Bytes>, EngineError> {
    let mut found = None;
    view(&mut |value| found = Some(Bytes::copy_from_slice(value)))?;
    Ok(found)
}

impl Reader for RocksEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        copied(|visit| self.view(space, key, visit))
    }

    fn view(&self, space: Space, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        self.show(space, key, self.db.get_pinned_cf(self.family(space)?, key), ReadOptions::default, visit)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.multi_get_opt(space, keys, ReadOptions::default, visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.scan_opt(space, range, direction, ReadOptions::default(), visit)
    }
}

pub(super) struct RocksSnapshot<'a> {
    engine: &'a RocksEngine,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl<'a> RocksSnapshot<'a> {
    pub(super) fn of(engine: &'a RocksEngine) -> Self {
        Self { engine, snapshot: engine.db.snapshot() }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl Reader for RocksSnapshot<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        copied(|visit| self.view(space, key, visit))
    }

    fn view(&self, space: Space, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        let family = self.engine.family(space)?;
        let found = self.engine.db.get_pinned_cf_opt(family, key, &self.options());
        self.engine.show(space, key, found, || self.options(), visit)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.engine.multi_get_opt(space, keys, || self.options(), visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.engine.scan_opt(space, range, direction, self.options(), visit)
    }
}
