//! The client's own timestamps, for writes that may be sent twice.
//!
//! Invariant: no timestamp is given twice, and each is later than every version this client was ever shown. So a write
//! of this client is never older than what it has read, even where its clock is behind those of the nodes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Gives timestamps, and the randomness that keeps clients from trying again all at the same moment.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The last timestamp given, or the latest seen.
    latest_ms: AtomicU64,
    drawn: AtomicU64,
    seed: RandomState,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { latest_ms: AtomicU64::new(0), drawn: AtomicU64::new(0), seed: RandomState::new() }
    }

    /// A timestamp that was not given before.
    pub(crate) fn stamp_ms(&self) -> u64 {
        self.stamp_at(wall_ms())
    }

    fn stamp_at(&self, now_ms: u64) -> u64 {
        let later = |latest: u64| now_ms.max(latest.saturating_add(1));
        let before = self.latest_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| Some(later(latest)));
        before.map_or(now_ms, later)
    }

    /// Takes note of a version that a node showed.
    pub(crate) fn observe(&self, millis: u64) {
        // Most versions are older than what is known, and a read is cheaper than a write that all threads share.
        if millis > self.latest_ms.load(Ordering::Relaxed) {
            self.latest_ms.fetch_max(millis, Ordering::Relaxed);
        }
    }

    /// Between once and one and a half times `wait`: nobody comes back before the time, and not all at once.
    pub(crate) fn jittered(&self, wait: Duration) -> Duration {
        let drawn = self.seed.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed));
        let share = u32::try_from(drawn % 1024).unwrap_or_default();
        wait + wait / 2 * share / 1024
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of the machine, for the one place that stamps")]
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_grow_even_when_the_clock_stands_or_goes_back() {
        let clock = Clock::new();
        assert_eq!([clock.stamp_at(100), clock.stamp_at(100), clock.stamp_at(50)], [100, 101, 102]);
        assert_eq!(clock.stamp_at(500), 500);
    }

    #[test]
    fn a_timestamp_is_later_than_every_version_seen() {
        let clock = Clock::new();
        clock.observe(1_000);
        clock.observe(400);
        assert_eq!(clock.stamp_at(100), 1_001);
    }

    #[test]
    fn waits_are_never_shorter_than_asked_for_and_differ() {
        let clock = Clock::new();
        let wait = Duration::from_millis(100);
        let waits: Vec<Duration> = (0..100).map(|_| clock.jittered(wait)).collect();
        assert!(waits.iter().all(|jittered| (wait..=wait * 3 / 2).contains(jittered)), "{waits:?}");
        assert!(waits.iter().any(|jittered| *jittered != waits[0]));
    }
}
