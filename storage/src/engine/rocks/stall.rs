//! What a write does while RocksDB holds writes back, so that flushes and compactions can catch up.
//!
//! With room on the device RocksDB's own waiting is the best. Without it, that waiting must be avoided: when a flush then
//! finds the disk full, RocksDB waits for space with the waiting write at the head of its queue, and recovers through
//! that same queue, so neither ever gets on. A write that comes anew is told of the full disk instead.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::space::{FileSystemSpace, SpaceProbe};

use super::RocksOptions;

/// How long a write waits before it comes anew.
const RETRY: Duration = Duration::from_millis(5);
/// How many write buffers must fit on the device before RocksDB may wait itself: all there can be, and their copies.
const ROOM_BUFFERS: u64 = 16;

/// Decides how to wait.
pub(super) struct Stall {
    device: FileSystemSpace,
    room_bytes: u64,
}

impl Stall {
    pub(super) fn of(dir: &Path, options: &RocksOptions) -> Self {
        let room_bytes = ROOM_BUFFERS * options.write_buffer_bytes as u64;
        Self { device: FileSystemSpace::of(dir), room_bytes }
    }

    /// The device under the database.
    pub(super) fn device(&self) -> &FileSystemSpace {
        &self.device
    }

    /// Called when a write was told that it would have to wait. Whether it may let RocksDB make it wait; if not, it has
    /// waited a little already.
    pub(super) fn let_wait(&self) -> bool {
        if self.device.available_bytes().is_none_or(|available| available >= self.room_bytes) {
            return true;
        }
        thread::park_timeout(RETRY);
        false
    }
}
