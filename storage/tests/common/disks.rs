//! What outlives an engine: a folder, or the memory that stands for one.

use std::sync::Arc;

use cube_storage::engine::{Engine, EngineError, MemoryEngine};
#[cfg(feature = "rocks")]
use cube_storage::engine::{RocksEngine, RocksOptions, Space};

/// Something that engines are opened on, one after the other.
pub(crate) trait Disk {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError>;
}

/// A disk in memory.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk(pub(crate) MemoryEngine);

impl Disk for MemoryDisk {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// A folder that is removed in the end.
#[cfg(feature = "rocks")]
pub(crate) struct RocksDisk {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) options: RocksOptions,
}

#[cfg(feature = "rocks")]
impl RocksDisk {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options: small_options() }
    }

    pub(crate) fn engine(&self) -> Arc<RocksEngine> {
        Arc::new(RocksEngine::open(self.dir.path(), &self.options).unwrap())
    }
}

#[cfg(feature = "rocks")]
impl Disk for RocksDisk {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(RocksEngine::open(self.dir.path(), &self.options)?))
    }
}

/// Little memory and early blob files, so that a small test sees flushes, table files and blobs.
#[cfg(feature = "rocks")]
pub(crate) fn small_options() -> RocksOptions {
    RocksOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 256 << 10,
        blob_bytes_min: 2 << 10,
        ..RocksOptions::default()
    }
}

/// Moves all rows into fresh table files.
#[cfg(feature = "rocks")]
pub(crate) fn flush_and_compact(engine: &RocksEngine) {
    engine.flush().unwrap();
    for space in Space::ALL {
        engine.compact(space).unwrap();
    }
}
