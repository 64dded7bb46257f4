//! Simulated time: the queue of what happens next, the one source of randomness, and the clocks of the nodes, which are
//! wrong each in its own way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_storage::clock::Clock;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

use super::event::Event;

/// Wall time at which every run begins, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_800_000_000_000;
const US_PER_MS: u64 = 1_000;

/// What happens next, and when. Clones share it.
#[derive(Clone)]
pub(super) struct Schedule {
    inner: Arc<Inner>,
}

struct Inner {
    now_us: AtomicU64,
    state: Mutex<State>,
}

struct State {
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    random: Xoshiro256StarStar,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        let state = State { sequence: 0, queue: BTreeMap::new(), random: Xoshiro256StarStar::seed_from_u64(seed) };
        Self { inner: Arc::new(Inner { now_us: AtomicU64::new(0), state: Mutex::new(state) }) }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.inner.now_us.load(Ordering::Relaxed)
    }

    /// Has `event` happen `delay_us` from now, behind everything that was scheduled earlier for that moment.
    pub(super) fn after_us(&self, delay_us: u64, event: Event) {
        let mut state = self.inner.state.lock();
        state.sequence += 1;
        let key = (self.now_us() + delay_us, state.sequence);
        state.queue.insert(key, event);
    }

    pub(super) fn after_ms(&self, delay_ms: u64, event: Event) {
        self.after_us(delay_ms * US_PER_MS, event);
    }

    /// The next event; time moves to it.
    pub(super) fn next(&self) -> Option<Event> {
        let ((at_us, _), event) = self.inner.state.lock().queue.pop_first()?;
        self.inner.now_us.store(at_us, Ordering::Relaxed);
        Some(event)
    }

    /// The next event up to a moment; behind the last one time moves to it.
    #[cfg(test)]
    pub(super) fn next_by(&self, until_us: u64) -> Option<Event> {
        let next_us = self.inner.state.lock().queue.first_key_value().map(|((at_us, _), _)| *at_us);
        if next_us.is_some_and(|at_us| at_us <= until_us) {
            return self.next();
        }
        self.inner.now_us.store(until_us, Ordering::Relaxed);
        None
    }

    /// A number from a range, both ends inside.
    pub(super) fn pick(&self, from: u64, to: u64) -> u64 {
        self.inner.state.lock().random.random_range(from..=to)
    }

    /// Whether something of this chance happens.
    pub(super) fn chance(&self, percent: u64) -> bool {
        self.pick(0, 99) < percent
    }

    /// One of some choices.
    pub(super) fn one_of<T: Copy>(&self, choices: &[T]) -> Option<T> {
        let last = choices.len().checked_sub(1)?;
        choices.get(usize::try_from(self.pick(0, last as u64)).unwrap_or(0)).copied()
    }
}

/// A node's clocks: off by something, and running fast or slow.
pub(super) struct SimClock {
    schedule: Schedule,
    fault: Mutex<ClockFault>,
}

/// How a wall clock is wrong.
#[derive(Clone, Copy)]
struct ClockFault {
    skew_ms: i64,
    drift_ppm: i64,
    /// Since when it has run that fast, and what had added up before.
    since_us: u64,
    drifted_us: i64,
}

impl ClockFault {
    fn drifted_us(&self, now_us: u64) -> i64 {
        let ran_us = i64::try_from(now_us - self.since_us).unwrap_or(i64::MAX);
        self.drifted_us + ran_us.saturating_mul(self.drift_ppm) / 1_000_000
    }
}

impl SimClock {
    pub(super) fn new(schedule: Schedule, skew_ms: i64, drift_ppm: i64) -> Arc<Self> {
        let since_us = schedule.now_us();
        Arc::new(Self { schedule, fault: Mutex::new(ClockFault { skew_ms, drift_ppm, since_us, drifted_us: 0 }) })
    }

    /// Sets the wall clock, as an operator or a time server does.
    pub(super) fn set_skew_ms(&self, skew_ms: i64) {
        self.fault.lock().skew_ms = skew_ms;
    }

    /// Sets the wall clock to a time, from which on it runs as fast as time goes.
    pub(super) fn set_wall_ms(&self, wall_ms: u64) {
        self.set_drift_ppm(0);
        let mut fault = self.fault.lock();
        let now_ms = EPOCH_MS + self.schedule.now_us() / US_PER_MS;
        let off_ms = i64::try_from(wall_ms).unwrap_or(0) - i64::try_from(now_ms).unwrap_or(0);
        *fault = ClockFault { skew_ms: off_ms, drifted_us: 0, ..*fault };
    }

    /// From now on it runs this much too fast, or too slow.
    pub(super) fn set_drift_ppm(&self, drift_ppm: i64) {
        let now_us = self.schedule.now_us();
        let mut fault = self.fault.lock();
        let drifted_us = fault.drifted_us(now_us);
        *fault = ClockFault { drift_ppm, since_us: now_us, drifted_us, ..*fault };
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let now_us = self.schedule.now_us();
        let fault = *self.fault.lock();
        let off_ms = fault.skew_ms + fault.drifted_us(now_us) / 1_000;
        (EPOCH_MS + now_us / US_PER_MS).saturating_add_signed(off_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        self.schedule.now_us() / US_PER_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_its_skew_and_by_what_its_drift_adds_up_to() {
        let schedule = Schedule::new(1);
        let clock = SimClock::new(schedule.clone(), -300_000, 50_000);
        let off_ms = || clock.wall_ms() as i64 - (EPOCH_MS + schedule.now_us() / US_PER_MS) as i64;
        assert_eq!(off_ms(), -300_000);
        schedule.next_by(10_000_000);
        assert_eq!(off_ms(), -300_000 + 500);
        clock.set_drift_ppm(-10_000);
        assert_eq!(off_ms(), -300_000 + 500, "another speed is no jump");
        schedule.next_by(20_000_000);
        assert_eq!(off_ms(), -300_000 + 500 - 100);
        clock.set_skew_ms(0);
        assert_eq!(off_ms(), 400);
    }
}
