//! How long a worker that failed waits before it is tried again.

use rand::{Rng, RngCore};

/// Doubles from error to error between two bounds, and spreads: nodes that fail together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first_ms: u64,
    longest_ms: u64,
}

impl Backoff {
    /// From `first_ms` after the first error up to `longest_ms`. Neither is less than 1, nor the longest less than the
    /// first.
    pub fn new(first_ms: u64, longest_ms: u64) -> Self {
        let first_ms = first_ms.max(1);
        Self { first_ms, longest_ms: longest_ms.max(first_ms) }
    }

    /// The longest wait.
    pub fn longest_ms(&self) -> u64 {
        self.longest_ms
    }

    /// How long to wait after so many errors in a row: between a half and all of the bound for that many, never nothing.
    pub fn after_errors(&self, errors: u32, random: &mut dyn RngCore) -> u64 {
        let bound_ms = self.bound_ms(errors);
        random.random_range(bound_ms.div_ceil(2)..=bound_ms)
    }

    fn bound_ms(&self, errors: u32) -> u64 {
        let doublings = errors.saturating_sub(1);
        let doubled = 1_u64.checked_shl(doublings).and_then(|times| self.first_ms.checked_mul(times));
        doubled.unwrap_or(self.longest_ms).min(self.longest_ms)
    }
}

impl Default for Backoff {
    /// From 100 ms to a minute.
    fn default() -> Self {
        Self::new(100, 60_000)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256StarStar;

    use super::*;
    use crate::cases::cases;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn the_wait_is_bounded_never_nothing_and_the_same_for_the_same_seed(
            first_ms in 0u64..5_000,
            longest_ms in prop_oneof![0u64..100_000, Just(u64::MAX)],
            errors in prop_oneof![0u32..80, any::<u32>()],
            seed in any::<u64>(),
        ) {
            let backoff = Backoff::new(first_ms, longest_ms);
            let wait_ms = |seed| backoff.after_errors(errors, &mut Xoshiro256StarStar::seed_from_u64(seed));
            let ms = wait_ms(seed);
            prop_assert!(ms >= 1 && ms <= backoff.longest_ms());
            prop_assert!(ms >= backoff.first_ms.div_ceil(2));
            prop_assert_eq!(ms, wait_ms(seed));
        }

        #[test]
        fn the_bound_doubles_until_it_is_the_longest(first_ms in 1u64..1_000, longest_ms in 1_000u64..100_000) {
            let backoff = Backoff::new(first_ms, longest_ms);
            prop_assert_eq!(backoff.bound_ms(1), first_ms);
            for errors in 1..40 {
                let expected = (2 * backoff.bound_ms(errors)).min(longest_ms);
                prop_assert_eq!(backoff.bound_ms(errors + 1), expected);
            }
            prop_assert_eq!(backoff.bound_ms(40), longest_ms);
        }
    }

    #[test]
    fn waits_of_the_same_length_are_spread() {
        let backoff = Backoff::default();
        let mut random = Xoshiro256StarStar::seed_from_u64(1);
        let waits: std::collections::BTreeSet<u64> = (0..100).map(|_| backoff.after_errors(9, &mut random)).collect();
        assert!(waits.len() > 90, "{waits:?}");
    }
}
