//! The rows that storage benchmarks write: 1 KiB of random bytes each, under keys whose tokens are spread evenly.

use bytes::Bytes;
use cube_storage::model::RowKey;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Bytes of a value.
pub const VALUE_BYTES: usize = 1024;
/// Rows of a batch, which share one fsync.
pub const BATCH_ROWS: usize = 64;
/// Rows whose keys share a prefix.
pub const PREFIX_ROWS: u32 = 1000;

/// Random bytes that values are cut from. So large that no block of a table file holds the same piece twice: the
/// values do not compress.
const POOL_BYTES: usize = 32 << 20;

/// The rows of one benchmark, the same for all subjects.
pub struct Workload {
    pool: Bytes,
    random: Xoshiro256PlusPlus,
}

impl Workload {
    /// The same rows in the same order for the same seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut pool = vec![0; POOL_BYTES];
        random.fill_bytes(&mut pool);
        Self { pool: pool.into(), random }
    }

    /// A fresh value.
    pub fn value(&mut self) -> Bytes {
        let start = self.random.random_range(0..POOL_BYTES - VALUE_BYTES);
        self.pool.slice(start..start + VALUE_BYTES)
    }

    /// The numbers of `count` rows, each once, in a random order.
    pub fn shuffled(&mut self, count: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count).collect();
        numbers.shuffle(&mut self.random);
        numbers
    }

    /// The numbers of `times` rows out of `count`, drawn at random.
    pub fn drawn(&mut self, count: u32, times: u32) -> Vec<u32> {
        (0..times).map(|_| self.random.random_range(0..count)).collect()
    }

    /// The rows of these numbers, with fresh values.
    pub fn rows(&mut self, numbers: &[u32]) -> Vec<(RowKey, Bytes)> {
        numbers.iter().map(|&number| (key(number), self.value())).collect()
    }
}

/// The key of a row. A thousand rows in a row share a prefix.
pub fn key(number: u32) -> RowKey {
    RowKey::of(format!("{}{number:08}", prefix(number / PREFIX_ROWS)))
}

/// The prefix of the keys of a thousand rows.
pub fn prefix(group: u32) -> String {
    format!("tenant-{group:05}/object-")
}
