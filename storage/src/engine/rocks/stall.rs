//! What a write does while RocksDB holds writes back, so that flushes and compactions can catch up.
//!
//! With room on the device RocksDB's own waiting is the best. Without it, that waiting must be avoided: when a flush then
//! finds the disk full, RocksDB waits for space with the waiting write at the head of its queue, and recovers through
//! that same queue, so neither ever gets on. A write that comes anew is told of the full disk instead.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::space::{FileSystemSpace, SpaceProbe};

use super::{EngineError, RocksOptions};

/// How long a write waits before it comes anew.
const RETRY: Duration = Duration::from_millis(5);
/// How often it comes anew before it is told that there is no room: ten seconds, in which a flush that still fits is done.
const RETRIES_MAX: u32 = 2_000;
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

    /// Called when a write was told, after so many retries, that it would have to wait. Whether it may let RocksDB make it
    /// wait; if not, it has waited a little already.
    pub(super) fn let_wait(&self, retries: u32) -> Result<bool, EngineError> {
        let available = self.device.available_bytes();
        match available.filter(|available| *available < self.room_bytes) {
            None => Ok(true),
            Some(available) if retries >= RETRIES_MAX => Err(EngineError::NoSpace {
                detail: format!(
                    "buffers wait to be flushed, which may take {} bytes, {available} are left",
                    self.room_bytes
                ),
            }),
            Some(_) => {
                wait();
                Ok(false)
            }
        }
    }
}

/// RocksDB tells nobody when it takes writes again. No simulation comes here: none has this engine.
#[expect(clippy::disallowed_methods, reason = "real files fill up and are freed in real time")]
fn wait() {
    thread::sleep(RETRY);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stall(room_bytes: u64) -> Stall {
        Stall { device: FileSystemSpace::of(Path::new("/")), room_bytes }
    }

    #[test]
    fn where_there_is_room_rocksdb_may_wait_and_elsewhere_a_write_ends_in_an_error_that_can_be_tried_again() {
        assert_eq!(stall(0).let_wait(0), Ok(true));
        assert_eq!(stall(u64::MAX).let_wait(RETRIES_MAX - 1), Ok(false));
        assert!(matches!(stall(u64::MAX).let_wait(RETRIES_MAX), Err(EngineError::NoSpace { .. })));
    }
}
