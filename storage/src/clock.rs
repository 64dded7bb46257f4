//! Time: the seam to the machine's clocks, and the hybrid logical clock that gives versions.
//!
//! Invariants of [`HybridClock`]: no reading is given twice, not even after a restart, because a bound that all
//! readings stay below is made durable before they are given; every reading is greater than all readings that were
//! observed; and a peer whose clock is out of bound cannot pull this one along.
//!
//! Two sequences keep these together. Readings of the clock itself are even numbers. A restamp of a version that is out
//! of bound must be ahead of the clock and must not move it, so it is taken from the odd numbers: time that comes to
//! where a restamp was given does not give it again. Each sequence only rises and has a durable bound of its own.

use parking_lot::Mutex;
use thiserror::Error;

use crate::error::StoreError;
use crate::model::{Hlc, Version};

/// The machine's clocks.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, as the machine believes.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since some moment; never goes back.
    fn monotonic_ms(&self) -> u64;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
    offset_ms: i64,
}

impl SystemClock {
    /// The machine's clocks, with the wall clock wrong by `offset_ms` (0 but in skew tests).
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn new(offset_ms: i64) -> Self {
        Self { started: std::time::Instant::now(), offset_ms }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn wall_ms(&self) -> u64 {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(self.offset_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a durable bound is the bound of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Readings of the clock.
    Readings,
    /// Restamps of versions that are out of bound.
    Restamps,
}

/// Keeps the bounds below which all readings stay, durably.
pub trait BoundKeeper: Send + Sync {
    /// Makes a bound durable before it returns.
    fn keep(&self, of: Bound, bound: Hlc) -> Result<(), StoreError>;
    /// The bound kept last, if there was one.
    fn kept(&self, of: Bound) -> Result<Option<Hlc>, StoreError>;
}

/// Why a clock gave no reading or refused one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClockError {
    /// Somebody else's reading is too far ahead.
    #[error(
        "a clock reading is {ahead_ms} ms ahead of this node's clock, the limit clock.max_drift is {max_drift_ms} ms: \
             set the clocks right (NTP) on the node or client that gave it"
    )]
    Drift {
        /// How far ahead of this node.
        ahead_ms: u64,
        /// How far it may be.
        max_drift_ms: u64,
    },
    /// The bound could not be made durable.
    #[error("the clock's bound could not be made durable, so no version can be given: {0}")]
    Bound(#[from] StoreError),
}

/// How far ahead of the present reading the durable bound is put.
const BOUND_LEAD_MS: u64 = 10_000;

/// A hybrid logical clock.
pub struct HybridClock<K> {
    keeper: K,
    max_drift_ms: u64,
    state: Mutex<State>,
}

struct State {
    readings: Sequence,
    restamps: Sequence,
}

/// Readings that only rise.
struct Sequence {
    of: Bound,
    last: Hlc,
    bound: Hlc,
}

impl Sequence {
    /// Goes on above everything it gave before.
    fn resume(of: Bound, keeper: &impl BoundKeeper) -> Result<Self, StoreError> {
        let bound = keeper.kept(of)?.unwrap_or_default();
        Ok(Self { of, last: bound, bound })
    }

    /// Gives `next`, once the durable bound lies above it.
    fn give(&mut self, next: Hlc, keeper: &impl BoundKeeper) -> Result<Hlc, StoreError> {
        if next >= self.bound {
            let bound = Hlc::new(next.millis().saturating_add(BOUND_LEAD_MS), 0);
            keeper.keep(self.of, bound)?;
            self.bound = bound;
        }
        self.last = next;
        Ok(next)
    }
}

/// The least even number above a reading.
fn next_even(reading: Hlc) -> Hlc {
    Hlc(reading.0 | 1).next()
}

/// The least odd number above a reading.
fn next_odd(reading: Hlc) -> Hlc {
    Hlc(reading.next().0 | 1)
}

impl<K: BoundKeeper> HybridClock<K> {
    /// A clock that goes on above everything it gave before.
    pub fn new(keeper: K, max_drift_ms: u64) -> Result<Self, ClockError> {
        let readings = Sequence::resume(Bound::Readings, &keeper)?;
        let restamps = Sequence::resume(Bound::Restamps, &keeper)?;
        Ok(Self { keeper, max_drift_ms, state: Mutex::new(State { readings, restamps }) })
    }

    /// A reading greater than all given and observed before.
    pub fn now(&self, wall_ms: u64) -> Result<Hlc, ClockError> {
        let readings = &mut self.state.lock().readings;
        let next = next_even(readings.last).max(Hlc::new(wall_ms, 0));
        Ok(readings.give(next, &self.keeper)?)
    }

    /// A reading that also succeeds `seen`, however far ahead that is: for a write that was told it is superseded.
    /// The clock itself follows only within the drift bound. Beyond it, all restamps are above one another, whatever
    /// they succeed: two of the same version are not the same.
    pub fn after(&self, seen: Version, wall_ms: u64) -> Result<Hlc, ClockError> {
        if self.check(seen.hlc, wall_ms).is_ok() {
            self.advance(seen.hlc);
            return self.now(wall_ms);
        }
        let now = self.now(wall_ms)?;
        let restamps = &mut self.state.lock().restamps;
        let next = next_odd(seen.hlc.max(now).max(restamps.last));
        Ok(restamps.give(next, &self.keeper)?)
    }

    /// Moves past the clock of a message's sender, unless it is out of bound.
    pub fn observe(&self, remote: Hlc, wall_ms: u64) -> Result<(), ClockError> {
        self.check(remote, wall_ms)?;
        self.advance(remote);
        Ok(())
    }

    /// Whether a new stamp is within the drift bound.
    pub fn check(&self, stamp: Hlc, wall_ms: u64) -> Result<(), ClockError> {
        let ahead_ms = stamp.millis().saturating_sub(wall_ms);
        if ahead_ms > self.max_drift_ms {
            return Err(ClockError::Drift { ahead_ms, max_drift_ms: self.max_drift_ms });
        }
        Ok(())
    }

    /// The last reading, without giving a new one: for messages, which carry their sender's clock.
    pub fn peek(&self, wall_ms: u64) -> Hlc {
        self.state.lock().readings.last.max(Hlc::new(wall_ms, 0))
    }

    fn advance(&self, remote: Hlc) {
        let readings = &mut self.state.lock().readings;
        readings.last = readings.last.max(remote);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;
    use crate::model::NodeId;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<BTreeMap<Bound, Hlc>>>);

    impl BoundKeeper for Kept {
        fn keep(&self, of: Bound, bound: Hlc) -> Result<(), StoreError> {
            self.0.lock().insert(of, bound);
            Ok(())
        }
        fn kept(&self, of: Bound) -> Result<Option<Hlc>, StoreError> {
            Ok(self.0.lock().get(&of).copied())
        }
    }

    const DRIFT_MS: u64 = 900_000;

    #[derive(Clone, Debug)]
    enum Step {
        Now { wall_ms: u64 },
        Observe { remote_ms: u64, wall_ms: u64 },
        After { seen_ms: u64, wall_ms: u64 },
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        let wall = 0u64..100_000;
        prop_oneof![
            4 => wall.clone().prop_map(|wall_ms| Step::Now { wall_ms }),
            2 => (0u64..2_000_000, wall.clone()).prop_map(|(remote_ms, wall_ms)| Step::Observe { remote_ms, wall_ms }),
            2 => (seen_ms(), wall).prop_map(|(seen_ms, wall_ms)| Step::After { seen_ms, wall_ms }),
            1 => Just(Step::Restart),
        ]
    }

    /// Few, so that the same version is often restamped, and time comes to where restamps were given.
    fn seen_ms() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..2_000_000, prop::sample::select(vec![99_000, 950_000, 1_000_000, 1_000_001])]
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn no_reading_is_given_twice_whatever_the_wall_clock_does(steps in prop::collection::vec(step(), 1..60)) {
            let kept = Kept::default();
            let mut clock = HybridClock::new(kept.clone(), DRIFT_MS).unwrap();
            let mut greatest = Hlc::default();
            let mut given = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Now { wall_ms } => {
                        let now = clock.now(wall_ms).unwrap();
                        prop_assert!(now > greatest, "{now} after {greatest}");
                        prop_assert!(given.insert(now), "{now} was given before");
                        greatest = now;
                    }
                    Step::Observe { remote_ms, wall_ms } => {
                        let remote = Hlc::new(remote_ms, 3);
                        let taken = clock.observe(remote, wall_ms).is_ok();
                        prop_assert_eq!(taken, remote_ms <= wall_ms + DRIFT_MS);
                        if taken {
                            greatest = greatest.max(remote);
                        }
                    }
                    Step::After { seen_ms, wall_ms } => {
                        let seen = Version::new(Hlc::new(seen_ms, 9), NodeId(1));
                        let after = clock.after(seen, wall_ms).unwrap();
                        prop_assert!(after > seen.hlc);
                        prop_assert!(given.insert(after), "{after} was given before");
                        greatest = greatest.max(clock.peek(0));
                    }
                    Step::Restart => {
                        // What was only observed may be forgotten; what was given may not.
                        clock = HybridClock::new(kept.clone(), DRIFT_MS).unwrap();
                        greatest = kept.kept(Bound::Readings).unwrap().unwrap_or_default();
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_a_day_ahead_is_refused_and_not_absorbed() {
        let clock = HybridClock::new(Kept::default(), DRIFT_MS).unwrap();
        let day_ms = 24 * 3600 * 1000;
        let refused = clock.observe(Hlc::new(1_000 + day_ms, 0), 1_000).unwrap_err();
        assert_eq!(refused, ClockError::Drift { ahead_ms: day_ms, max_drift_ms: DRIFT_MS });
        assert!(clock.now(1_000).unwrap().millis() <= 1_001);
        let seen = Version::new(Hlc::new(1_000 + day_ms, 0), NodeId(2));
        assert!(clock.after(seen, 1_000).unwrap() > seen.hlc, "a restamp succeeds what it names");
        assert!(clock.now(1_000).unwrap().millis() <= 1_001, "and leaves the clock where it was");
    }

    #[test]
    fn a_restamp_is_given_once_also_across_restarts_and_when_time_has_come_to_it() {
        let (kept, drift_ms) = (Kept::default(), 10);
        let seen = Version::new(Hlc::new(1_000, 0), NodeId(2));
        let mut given = BTreeSet::new();
        for _ in 0..3 {
            let clock = HybridClock::new(kept.clone(), drift_ms).unwrap();
            for _ in 0..3 {
                assert!(given.insert(clock.after(seen, 5).unwrap()));
            }
        }
        let clock = HybridClock::new(kept, drift_ms).unwrap();
        let to = given.last().unwrap().millis();
        assert!((995..=to).all(|wall_ms| (0..5).all(|_| given.insert(clock.now(wall_ms).unwrap()))));
    }

    #[test]
    fn without_a_durable_bound_no_version_is_given() {
        struct Broken;
        impl BoundKeeper for Broken {
            fn keep(&self, _: Bound, _: Hlc) -> Result<(), StoreError> {
                Err(StoreError::Stopped { cause: "the log could not be synced".into() })
            }
            fn kept(&self, _: Bound) -> Result<Option<Hlc>, StoreError> {
                Ok(None)
            }
        }
        let clock = HybridClock::new(Broken, DRIFT_MS).unwrap();
        assert!(matches!(clock.now(5), Err(ClockError::Bound(_))));
    }
}
