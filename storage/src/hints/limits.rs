//! How much the hint logs may hold, and the account of the bytes that all of them share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use thiserror::Error;

use crate::files::Files;

/// The most that hint logs hold. May change at any time; what is held already stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintLimits {
    /// Distinct keys per target.
    pub keys_max: u64,
    /// Bytes of segments per target.
    pub bytes_max: u64,
    /// Bytes of segments of all targets together.
    pub total_bytes_max: u64,
    /// A segment that has reached this many bytes is followed by a new one. What the target acknowledged is given back
    /// to the disk by segments; each costs two syncs of its folder.
    pub segment_bytes: u64,
}

impl Default for HintLimits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self { keys_max: 10_000, bytes_max: 1024 * MIB, total_bytes_max: 8 * 1024 * MIB, segment_bytes: 8 * MIB }
    }
}

/// The cap that a hint would have broken. Nothing of it was written; its leaf is to be marked dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Full {
    /// [`HintLimits::keys_max`].
    #[error("the target has as many hinted keys as it may")]
    Keys,
    /// [`HintLimits::bytes_max`].
    #[error("the hints of the target take as many bytes as they may")]
    Bytes,
    /// [`HintLimits::total_bytes_max`].
    #[error("the hints of all targets take as many bytes as they may")]
    Global,
}

/// What the logs of a store have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) root: PathBuf,
    limits: RwLock<HintLimits>,
    used_bytes: AtomicU64,
}

impl Shared {
    pub(super) fn new(files: Arc<dyn Files>, root: PathBuf, limits: HintLimits) -> Self {
        Self { files, root, limits: RwLock::new(limits), used_bytes: AtomicU64::new(0) }
    }

    pub(super) fn limits(&self) -> HintLimits {
        *self.limits.read()
    }

    pub(super) fn set_limits(&self, limits: HintLimits) {
        *self.limits.write() = limits;
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Takes bytes of the shared account, if it has them.
    pub(super) fn reserve(&self, bytes: u64, max: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    /// Takes bytes whether or not the account has them: what is on disk already, or moves from one segment to another.
    pub(super) fn take(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: u64) {
        let _ =
            self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }
}
