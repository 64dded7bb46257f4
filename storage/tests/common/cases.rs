//! How a property is tested.

use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// Draws other cases than each time before; `make test-long` sets it.
const FRESH: &str = "CUBE_TEST_FRESH";
const SEED: u64 = 0xc0be;

/// So many cases, the same in each run, so that a change is judged by what it changes; with [`FRESH`] set, others, whose
/// seed is told with a failure. No file is left behind.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let seed = match std::env::var_os(FRESH) {
        Some(_) => RandomState::new().build_hasher().finish(),
        None => SEED,
    };
    // Shown when the test fails.
    println!("the cases are drawn from seed {seed}");
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..ProptestConfig::default() }
}
