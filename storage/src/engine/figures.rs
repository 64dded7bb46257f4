//! What an engine tells of itself, for metrics: read when somebody asks, never on the way of a request.

use super::Space;

/// An engine at one moment. An engine in memory has nothing to tell.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EngineFigures {
    /// Each key space.
    pub spaces: Vec<SpaceFigures>,
    /// What is kept of the files in memory.
    pub cache: CacheFigures,
    /// Compactions that run now.
    pub compactions_running: u64,
    /// Flushes that run now.
    pub flushes_running: u64,
    /// Flushes and compactions that failed since the start.
    pub background_errors: u64,
    /// Whether writes wait until compactions have caught up.
    pub writes_stopped: bool,
    /// Bytes per second that writes are slowed down to, 0 when they are not.
    pub delayed_write_bytes_per_s: u64,
}

/// A key space at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceFigures {
    /// Which one.
    pub space: Space,
    /// Keys, as the engine estimates them.
    pub keys: u64,
    /// Bytes of table files.
    pub table_bytes: u64,
    /// Bytes of blob files.
    pub blob_bytes: u64,
    /// Table files on each level.
    pub files: [u64; LEVELS],
    /// Bytes that are not in a file yet.
    pub memtable_bytes: u64,
    /// Full buffers that wait to become a file.
    pub memtables_waiting: u64,
    /// Bytes that compactions have yet to rewrite, as the engine estimates them.
    pub compaction_debt_bytes: u64,
}

/// What is kept of the files in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CacheFigures {
    /// Bytes that it may hold.
    pub capacity_bytes: u64,
    /// Bytes that it holds.
    pub used_bytes: u64,
    /// Bytes of it that are in use and stay.
    pub pinned_bytes: u64,
    /// Blocks that were found in it.
    pub hits: u64,
    /// Blocks that had to be read from a file.
    pub misses: u64,
}

/// Levels of table files.
pub const LEVELS: usize = 7;
