//! How a property is tested: with which cases. Taken in by every crate that has properties, for its tests alone.

use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// Draws other cases than each time before; `make test-long` sets it.
const FRESH: &str = "CUBE_TEST_FRESH";
const SEED: u64 = 0xc0be;
/// As many times more cases; `make test-long` and `make fuzz` set it.
const TIMES: &str = "CUBE_TEST_CASES";

/// So many cases, the same in each run, so that a change is judged by what it changes; with [`FRESH`] set, others, whose
/// seed is told with a failure; with [`TIMES`] set, more. No file is left behind.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let times = std::env::var(TIMES).ok().and_then(|times| times.parse::<u32>().ok()).unwrap_or(1);
    let cases = usual.saturating_mul(times.max(1));
    let rng_seed = RngSeed::Fixed(seed(SEED));
    ProptestConfig { cases, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
}

/// What a test draws from: the same in each run, or with [`FRESH`] set another. With that set to a number, that one.
pub(crate) fn seed(usual: u64) -> u64 {
    let fresh = std::env::var(FRESH).ok();
    let seed = fresh.map_or(usual, |fresh| match fresh.parse() {
        Ok(seed) if seed > 1 => seed,
        _ => RandomState::new().build_hasher().finish(),
    });
    // Shown when the test fails.
    println!("the cases are drawn from seed {seed}");
    seed
}
