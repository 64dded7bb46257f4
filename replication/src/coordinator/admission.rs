//! What a coordinator takes on at once: so many requests, and so many bytes of theirs. Past either bound it refuses early.
//!
//! A request counts from when it comes in until its client is told. What a write holds is known from the beginning; what
//! a read holds is counted as it arrives, and bounded for each request (`read/mod.rs`, `range/mod.rs`), so the bound on
//! bytes is passed by no more than what the reads under way may still bring. The rows of a write stay until the last
//! replica has answered or its time is over, and so do their bytes, though the client was told. What is large enough to
//! arrive in pieces counts before it is a request at all ([`Arrival`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::error::RequestError;
use super::{Coordinator, Settings};

/// After which a full node is worth another try ...
const RETRY_AFTER_MS: u64 = 50;
/// ... where it has not refused others just before. They are asked back one after the other, so far apart: a refusal costs
/// a good part of what a request does, and those who all came back at once would take the place of work.
const RETRY_SPACING_US: u64 = 2_500;
/// However many there are, they come back within the time of a request, and soon when the node is no longer full.
const RETRY_AFTER_MS_MAX: u64 = 1_000;

/// What is under way.
#[derive(Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    /// Of all times.
    begun: AtomicU64,
    bytes: AtomicUsize,
    /// When the next one that is refused is to come back, on the clock of deadlines.
    next_retry_us: AtomicU64,
}

impl Load {
    pub(super) fn requests(&self) -> usize {
        // Who sees that the last one has ended sees what became of it.
        self.requests.load(Ordering::Acquire)
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// In how many milliseconds one that is refused now is to come back.
    fn retry_after_ms(&self, now_ms: u64) -> u32 {
        let (first_us, last_us) = (1_000 * (now_ms + RETRY_AFTER_MS), 1_000 * (now_ms + RETRY_AFTER_MS_MAX));
        let mine_us = |next_us: u64| next_us.clamp(first_us, last_us);
        let taken = self
            .next_retry_us
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next_us| Some(mine_us(next_us) + RETRY_SPACING_US));
        let (Ok(next_us) | Err(next_us)) = taken;
        u32::try_from(mine_us(next_us) / 1_000 - now_ms).unwrap_or(u32::MAX)
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
        coordinator.load.begun.fetch_add(1, Ordering::Relaxed);
        let admitted = Self { coordinator: Arc::clone(coordinator), bytes: 0, is_request: true };
        let bytes = coordinator.load.bytes();
        if in_flight >= limit {
            return Err(RequestError::Overloaded { in_flight, limit, retry_after_ms: admitted.retry_after_ms() });
        }
        if bytes >= limit_bytes {
            return Err(admitted.too_many_bytes(bytes));
        }
        Ok(admitted)
    }

    /// Holds so many bytes more, if they fit; alone, a request of any size does: its own limit is another one.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), RequestError> {
        let limit_bytes = self.coordinator.settings.in_flight_bytes_max;
        let held = self.coordinator.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if held > 0 && held.saturating_add(bytes) > limit_bytes {
            return Err(self.too_many_bytes(held));
        }
        Ok(())
    }

    fn too_many_bytes(&self, bytes: usize) -> RequestError {
        let limit_bytes = self.coordinator.settings.in_flight_bytes_max;
        RequestError::OverloadedBytes { bytes, limit_bytes, retry_after_ms: self.retry_after_ms() }
    }

    fn retry_after_ms(&self) -> u32 {
        self.coordinator.load.retry_after_ms(self.coordinator.parts.clock.monotonic_ms())
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
            self.coordinator.load.requests.fetch_sub(1, Ordering::Release);
        }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The bytes of a request that is not here yet, given back when it is dropped: then the request counts for itself.
pub struct Arrival {
    _held: Admitted,
}

impl Coordinator {
    /// Counts bytes of a request that begins to arrive among those in flight, if they fit.
    pub fn arriving(self: &Arc<Self>, bytes: usize) -> Result<Arrival, RequestError> {
        let mut held = self.nothing_held();
        held.reserve(bytes)?;
        Ok(Arrival { _held: held })
    }

    /// Counts them whether they fit or not.
    pub fn arriving_anyway(self: &Arc<Self>, bytes: usize) -> Arrival {
        let mut held = self.nothing_held();
        held.hold(bytes);
        Arrival { _held: held }
    }

    fn nothing_held(self: &Arc<Self>) -> Admitted {
        Admitted { coordinator: Arc::clone(self), bytes: 0, is_request: false }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.end_request();
        self.coordinator.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_refused_together_are_asked_back_one_after_the_other() {
        let load = Load::default();
        let hints: Vec<u32> = (0..5).map(|_| load.retry_after_ms(7)).collect();
        assert_eq!(hints, [50, 52, 55, 57, 60]);
        assert_eq!(load.retry_after_ms(107), 50, "as soon as ever once they have come back");
    }

    #[test]
    fn nobody_is_asked_back_later_than_within_the_time_of_a_request() {
        let load = Load::default();
        let hints: Vec<u32> = (0..10_000).map(|_| load.retry_after_ms(0)).collect();
        assert!(hints.is_sorted());
        assert_eq!(hints.last(), Some(&1_000));
        assert_eq!(load.retry_after_ms(5_000), 50);
    }
}
