//! What a coordinator takes on at once: so many requests, and so many bytes of theirs. Past either bound it refuses early.
//!
//! A request counts from when it comes in until its client is told. What a write holds is known from the beginning; what
//! a read holds is counted as it arrives, and bounded for each request (`read/mod.rs`, `range/mod.rs`), so the bound on
//! bytes is passed by no more than what the reads under way may still bring. The rows of a write stay until the last
//! replica has answered or its time is over, and so do their bytes, though the client was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::RequestError;
use super::{Coordinator, Settings};

/// After which a full node is worth another try.
const RETRY_AFTER_MS: u32 = 50;

/// What is under way.
#[derive(Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A place among the requests under way, given back when it is dropped.
pub(super) struct Admitted {
    coordinator: Arc<Coordinator>,
    bytes: usize,
    is_request: bool,
}

impl Admitted {
    pub(super) fn new(coordinator: &Arc<Coordinator>) -> Result<Self, RequestError> {
        let Settings { in_flight_max: limit, in_flight_bytes_max: limit_bytes, .. } = coordinator.settings;
        let in_flight = coordinator.load.requests.fetch_add(1, Ordering::Relaxed);
        let admitted = Self { coordinator: Arc::clone(coordinator), bytes: 0, is_request: true };
        let bytes = coordinator.load.bytes();
        if in_flight >= limit {
            return Err(RequestError::Overloaded { in_flight, limit, retry_after_ms: RETRY_AFTER_MS });
        }
        if bytes >= limit_bytes {
            return Err(RequestError::OverloadedBytes { bytes, limit_bytes, retry_after_ms: RETRY_AFTER_MS });
        }
        Ok(admitted)
    }

    /// Holds so many bytes more, if they fit; alone, a request of any size does: its own limit is another one.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), RequestError> {
        let limit_bytes = self.coordinator.settings.in_flight_bytes_max;
        let held = self.coordinator.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if held > 0 && held.saturating_add(bytes) > limit_bytes {
            return Err(RequestError::OverloadedBytes { bytes: held, limit_bytes, retry_after_ms: RETRY_AFTER_MS });
        }
        Ok(())
    }

    /// Holds so many bytes more: they are here already.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.coordinator.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Gives bytes back.
    pub(super) fn release(&mut self, bytes: usize) {
        let released = bytes.min(self.bytes);
        self.coordinator.load.bytes.fetch_sub(released, Ordering::Relaxed);
        self.bytes -= released;
    }

    /// The client was told. The bytes stay as long as the rows do.
    pub(super) fn end_request(&mut self) {
        if std::mem::take(&mut self.is_request) {
            self.coordinator.load.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.end_request();
        self.coordinator.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
