//! Room on the disk: who may still write when little is left.
//!
//! Below a first reserve clients' writes are refused, while deletes, repair and what the node notes for itself go on
//! down to a second one; so the node can always purge, heal and keep its promises. Reads always go on. What the
//! engine has accepted but not yet compacted counts as taken. Nothing is latched: when space returns, so do writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::engine::Engine;
use crate::error::StoreError;

/// How much a device still holds.
pub trait SpaceProbe: Send + Sync {
    /// Bytes available, or nothing when that cannot be told.
    fn available_bytes(&self) -> Option<u64>;
}

/// The file system that holds a folder.
#[derive(Debug)]
pub struct FileSystemSpace {
    dir: PathBuf,
    /// That it cannot be asked was logged, and it has not answered since.
    silent: AtomicBool,
}

impl FileSystemSpace {
    /// Of the file system under `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), silent: AtomicBool::new(false) }
    }
}

impl SpaceProbe for FileSystemSpace {
    fn available_bytes(&self) -> Option<u64> {
        let stat = match rustix::fs::statvfs(&self.dir) {
            Ok(stat) => stat,
            Err(error) => {
                if !self.silent.swap(true, Ordering::Relaxed) {
                    let dir = self.dir.display();
                    tracing::error!(%error, %dir, "the free space cannot be told: no reserve is kept until it can");
                }
                return None;
            }
        };
        self.silent.store(false, Ordering::Relaxed);
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A device that never fills: for engines in memory.
#[derive(Debug, Default)]
pub struct Boundless;

impl SpaceProbe for Boundless {
    fn available_bytes(&self) -> Option<u64> {
        None
    }
}

/// What is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Clients' writes leave this much free.
    pub client_bytes: u64,
    /// Deletes, repair and the node's own notes leave this much.
    pub upkeep_bytes: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { client_bytes: 1 << 30, upkeep_bytes: 256 << 20 }
    }
}

/// Who wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    /// A client, something that takes room.
    Client,
    /// A delete, a repair, a hint, a note of the node: what frees room or keeps a promise.
    Upkeep,
}

/// How many checks go by on one look at the engine's debt: it asks every key space and changes slowly.
const CHECKS_PER_DEBT: u32 = 64;

/// Decides whether a writer may write now.
pub(crate) struct Admission {
    probe: Box<dyn SpaceProbe>,
    reserve: Reserve,
    checks: AtomicU32,
    debt_bytes: AtomicU64,
}

impl Admission {
    pub(crate) fn new(probe: Box<dyn SpaceProbe>, reserve: Reserve) -> Self {
        Self { probe, reserve, checks: AtomicU32::new(0), debt_bytes: AtomicU64::new(0) }
    }

    /// Room as it is now.
    pub(crate) fn look(&self, engine: &dyn Engine) -> Room {
        let Some(available_bytes) = self.probe.available_bytes() else {
            return Room { available_bytes: u64::MAX, reserve: self.reserve };
        };
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(CHECKS_PER_DEBT) {
            self.debt_bytes.store(engine.space_debt_bytes(), Ordering::Relaxed);
        }
        let debt_bytes = self.debt_bytes.load(Ordering::Relaxed);
        Room { available_bytes: available_bytes.saturating_sub(debt_bytes), reserve: self.reserve }
    }
}

/// What is left at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    available_bytes: u64,
    reserve: Reserve,
}

impl Room {
    /// Whether `writer` may write.
    pub(crate) fn admit(&self, writer: Writer) -> Result<(), StoreError> {
        let reserve_bytes = match writer {
            Writer::Client => self.reserve.client_bytes,
            Writer::Upkeep => self.reserve.upkeep_bytes,
        };
        if self.available_bytes < reserve_bytes {
            return Err(StoreError::DiskFull { available_bytes: self.available_bytes, reserve_bytes });
        }
        Ok(())
    }
}
