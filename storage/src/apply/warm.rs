//! After a start nothing is remembered of the rows that are there, and whoever overwrites them has them read first, each
//! from a block that is in no cache. Here they are read in their order, block by block, while nothing waits to be
//! written.
//!
//! Invariant: a header is taken in only if no write of its row can have been forgotten since it was read. A write that
//! is remembered counts, and where any was dropped since, the piece is read once more.

use std::ops::ControlFlow;

use super::recent::RecentRows;
use crate::engine::{Direction, EngineError, Space};
use crate::error::StoreError;
use crate::keyspace::{KeyRange, after};
use crate::merkle::Fingerprint;
use crate::model::RecordHeader;
use crate::store::Store;

/// Rows, and about as many bytes, of one step: a write that comes meanwhile waits for its end.
const STEP_ROWS: usize = 256;
const STEP_BYTES: usize = 256 << 10;
/// Bytes that are read after a start at the most.
const BYTES_MAX: usize = 1 << 30;

/// How far the rows have been read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WarmPlace {
    /// The next row is here or behind.
    key: Vec<u8>,
    bytes_read: usize,
}

impl Store {
    /// Remembers some rows from a place on, the beginning by default. Where the next step begins; nothing when the end, or
    /// one of the bounds, is reached.
    pub fn warm_step(&self, from: WarmPlace) -> Result<Option<WarmPlace>, StoreError> {
        let Some(losses) = self.commit.lock().recent.losses_if_there_is_room() else { return Ok(None) };
        let mut rows: Vec<(Fingerprint, RecordHeader)> = Vec::with_capacity(STEP_ROWS);
        let mut place = WarmPlace { key: Vec::new(), bytes_read: from.bytes_read };
        let (mut seen, mut is_last) = (0, true);
        let range = KeyRange { start: from.key.clone(), end: Vec::new() };
        let read = self.engine.scan(Space::Data, &range, Direction::Forward, &mut |key, value| {
            seen += 1;
            place.bytes_read += key.len() + value.len();
            // What is damaged is for whoever reads it.
            if let Ok(header) = RecordHeader::verify(key, value) {
                rows.push((self.merkle_key.fingerprint(key), header));
            }
            if seen < STEP_ROWS && place.bytes_read - from.bytes_read < STEP_BYTES {
                return ControlFlow::Continue(());
            }
            place.key = after(key);
            is_last = false;
            ControlFlow::Break(())
        });
        match read {
            Ok(()) => {}
            // Found and told by the scrub.
            Err(EngineError::Corruption { .. }) => is_last = true,
            Err(error) => return Err(error.into()),
        }
        let mut commit = self.commit.lock();
        match commit.recent.losses_if_there_is_room() {
            None => return Ok(None),
            Some(now) if now != losses => return Ok(Some(WarmPlace { bytes_read: place.bytes_read, ..from })),
            Some(_) => rows.into_iter().for_each(|(row, header)| commit.recent.put_older(row, header)),
        }
        let goes_on = !is_last && place.bytes_read < BYTES_MAX;
        Ok(goes_on.then_some(place))
    }
}

impl RecentRows {
    /// How often rows were forgotten so far, if more can be remembered of those that were not written lately.
    fn losses_if_there_is_room(&self) -> Option<u64> {
        self.has_room_for_older().then(|| self.losses())
    }
}
