//! Time: the seam to the machine's clocks, and the hybrid logical clock that gives versions.
//!
//! Invariants of [`HybridClock`]: no reading is given twice, not even after a restart, because a bound that all
//! readings stay below is made durable before they are given; every reading is greater than all readings that were
//! observed; and a peer whose clock is out of bound cannot pull this one along.

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
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn new(offset_ms: i64) -> Self {
        Self { started: std::time::Instant::now(), offset_ms }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn wall_ms(&self) -> u64 {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(self.offset_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Keeps the bound below which all readings stay, durably.
pub trait BoundKeeper: Send + Sync {
    /// Makes the bound durable before it returns.
    fn keep(&self, bound: Hlc) -> Result<(), StoreError>;
    /// The bound kept last, if there was one.
    fn kept(&self) -> Result<Option<Hlc>, StoreError>;
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
    last: Hlc,
    bound: Hlc,
}

impl<K: BoundKeeper> HybridClock<K> {
    /// A clock that goes on above everything it gave before.
    pub fn new(keeper: K, max_drift_ms: u64) -> Result<Self, ClockError> {
        let bound = keeper.kept()?.unwrap_or_default();
        Ok(Self { keeper, max_drift_ms, state: Mutex::new(State { last: bound, bound }) })
    }

    /// A reading greater than all given and observed before.
    pub fn now(&self, wall_ms: u64) -> Result<Hlc, ClockError> {
        let mut state = self.state.lock();
        let next = state.last.next().max(Hlc::new(wall_ms, 0));
        self.cover(&mut state, next)?;
        state.last = next;
        Ok(next)
    }

    /// A reading that also succeeds `seen`, however far ahead that is: for a write that was told it is superseded.
    /// The clock itself follows only within the drift bound.
    pub fn after(&self, seen: Version, wall_ms: u64) -> Result<Hlc, ClockError> {
        if self.check(seen.hlc, wall_ms).is_ok() {
            self.advance(seen.hlc);
            return self.now(wall_ms);
        }
        Ok(seen.hlc.next().max(self.now(wall_ms)?))
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
        self.state.lock().last.max(Hlc::new(wall_ms, 0))
    }

    fn advance(&self, remote: Hlc) {
        let mut state = self.state.lock();
        state.last = state.last.max(remote);
    }

    /// Makes sure that `next` lies below the durable bound.
    fn cover(&self, state: &mut State, next: Hlc) -> Result<(), ClockError> {
        if next >= state.bound {
            let bound = Hlc::new(next.millis().saturating_add(BOUND_LEAD_MS), 0);
            self.keeper.keep(bound)?;
            state.bound = bound;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::NodeId;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Option<Hlc>>>);

    impl BoundKeeper for Kept {
        fn keep(&self, bound: Hlc) -> Result<(), StoreError> {
            *self.0.lock() = Some(bound);
            Ok(())
        }
        fn kept(&self) -> Result<Option<Hlc>, StoreError> {
            Ok(*self.0.lock())
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
            1 => (0u64..2_000_000, wall).prop_map(|(seen_ms, wall_ms)| Step::After { seen_ms, wall_ms }),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn no_reading_is_given_twice_whatever_the_wall_clock_does(steps in prop::collection::vec(step(), 1..60)) {
            let kept = Kept::default();
            let mut clock = HybridClock::new(kept.clone(), DRIFT_MS).unwrap();
            let mut greatest = Hlc::default();
            for step in steps {
                match step {
                    Step::Now { wall_ms } => {
                        let now = clock.now(wall_ms).unwrap();
                        prop_assert!(now > greatest, "{now} after {greatest}");
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
                        prop_assert!(clock.after(seen, wall_ms).unwrap() > seen.hlc);
                        greatest = greatest.max(clock.peek(0));
                    }
                    Step::Restart => {
                        // What was only observed may be forgotten; what was given may not.
                        clock = HybridClock::new(kept.clone(), DRIFT_MS).unwrap();
                        greatest = kept.kept().unwrap().unwrap_or_default();
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
    fn without_a_durable_bound_no_version_is_given() {
        struct Broken;
        impl BoundKeeper for Broken {
            fn keep(&self, _: Hlc) -> Result<(), StoreError> {
                Err(StoreError::Stopped { cause: "the log could not be synced".into() })
            }
            fn kept(&self) -> Result<Option<Hlc>, StoreError> {
                Ok(None)
            }
        }
        let clock = HybridClock::new(Broken, DRIFT_MS).unwrap();
        assert!(matches!(clock.now(5), Err(ClockError::Bound(_))));
    }
}
