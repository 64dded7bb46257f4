//! How far the write-ahead log has been synced, noted outside the log.
//!
//! RocksDB opens with what it can read of its log and takes a damaged place for a torn end. Comparing the end it found
//! with the last synced write tells the two apart. A killed process leaves the note exact. Syncing it each time would
//! double the fsyncs of a write, so it is synced now and then, and when the engine is closed: a loss of power leaves an
//! older one, which accuses nobody wrongly, and misses damage only of the last [`NOTES_UNSYNCED_MAX`] syncs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const LEN: usize = 12;
/// Notes from one that is synced to the next.
const NOTES_UNSYNCED_MAX: u32 = 256;

/// The number of the last synced write, in a file of one short record.
pub(super) struct SyncedPosition {
    file: File,
    last: Option<u64>,
    /// Notes since the last that was synced.
    unsynced: AtomicU32,
}

impl SyncedPosition {
    /// Opens or makes the file. A record that does not check out says nothing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut record = [0; LEN];
        let last = match file.read_exact_at(&mut record, 0) {
            Ok(()) => decode(&record),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file, last, unsynced: AtomicU32::new(0) })
    }

    /// What stood there when the file was opened.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Notes that everything up to `sequence` is synced.
    pub(super) fn record(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(sequence), 0)?;
        let unsynced = self.unsynced.fetch_add(1, Ordering::Relaxed) + 1;
        if unsynced < NOTES_UNSYNCED_MAX { Ok(()) } else { self.sync() }
    }

    /// Makes the last note durable.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced.store(0, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for SyncedPosition {
    fn drop(&mut self) {
        // A note that was only read says nothing new.
        if self.unsynced.load(Ordering::Relaxed) > 0
            && let Err(error) = self.sync()
        {
            tracing::warn!(%error, "how far the log is synced is not noted durably");
        }
    }
}

fn encode(sequence: u64) -> [u8; LEN] {
    let number = sequence.to_be_bytes();
    let crc = crc32fast::hash(&number).to_be_bytes();
    let mut record = [0; LEN];
    for (to, from) in record.iter_mut().zip(number.into_iter().chain(crc)) {
        *to = from;
    }
    record
}

fn decode(record: &[u8; LEN]) -> Option<u64> {
    let (number, crc) = record.split_first_chunk::<8>()?;
    (crc32fast::hash(number).to_be_bytes() == crc).then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_position_is_read_back_and_damage_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("POSITION");
        assert_eq!(SyncedPosition::open(&path).unwrap().last(), None);
        SyncedPosition::open(&path).unwrap().record(77).unwrap();
        assert_eq!(SyncedPosition::open(&path).unwrap().last(), Some(77));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(SyncedPosition::open(&path).unwrap().last(), None);
    }
}
