//! Which row is next, and what it holds.
//!
//! Keys differ from their first bytes on and have 20 of them; both kinds of choice take the same time, so that workloads
//! differ in what the cluster does and not in what the generator does.

use bytes::Bytes;
use rand::{Rng, RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::options::{Distribution, Shape, Values};

/// How uneven the zipfian choice is: the usual constant of key-value benchmarks.
const EXPONENT: f64 = 0.99;

/// What one worker draws from.
pub(crate) struct Draw {
    random: Xoshiro256PlusPlus,
    rows: u64,
    zipf: Option<Zipf>,
    values: Values,
    value_bytes: usize,
    read_share: f64,
}

impl Draw {
    pub(crate) fn new(shape: &Shape, worker: u64) -> Self {
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(worker),
            rows: shape.rows.max(1),
            zipf: (shape.distribution == Distribution::Zipfian).then(|| Zipf::new(shape.rows.max(1))),
            values: shape.values,
            value_bytes: shape.value_bytes,
            read_share: shape.read_share(),
        }
    }

    /// The number of a row.
    pub(crate) fn row(&mut self) -> u64 {
        match &self.zipf {
            None => self.random.random_range(0..self.rows),
            Some(zipf) => {
                let rank = zipf.rank(self.random.random::<f64>());
                // The frequent ones are not neighbours.
                mixed(rank) % self.rows
            }
        }
    }

    pub(crate) fn reads(&mut self) -> bool {
        self.read_share >= 1.0 || (self.read_share > 0.0 && self.random.random::<f64>() < self.read_share)
    }

    pub(crate) fn value(&mut self) -> Bytes {
        let mut value = vec![0; self.value_bytes];
        match self.values {
            Values::Random => self.random.fill_bytes(&mut value),
            Values::Compressible => {
                let line = format!("{{\"state\":\"RUNNING\",\"node\":{:04}}} ", self.random.random_range(0..10_000));
                value.iter_mut().zip(line.bytes().cycle()).for_each(|(byte, text)| *byte = text);
            }
        }
        value.into()
    }
}

/// The key of a row.
pub(crate) fn key(row: u64) -> Bytes {
    format!("{:016x}:row", mixed(row)).into()
}

/// A number that tells nothing of its neighbours (the finalizer of splitmix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Ranks by the law of Zipf, after Gray and others, "Quickly generating billion-record synthetic databases".
struct Zipf {
    rows: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(rows: u64) -> Self {
        let zeta_of = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-EXPONENT)).sum::<f64>();
        let zeta = zeta_of(rows);
        let count = rows as f64;
        let eta = (1.0 - (2.0 / count).powf(1.0 - EXPONENT)) / (1.0 - zeta_of(2) / zeta);
        Self { rows: count, alpha: 1.0 / (1.0 - EXPONENT), zeta, eta }
    }

    fn rank(&self, uniform: f64) -> u64 {
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(EXPONENT) {
            return 1;
        }
        let rank = self.rows * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        rank.clamp(0.0, self.rows - 1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_rows_are_drawn_most_of_the_time_by_the_zipfian_choice() {
        let zipf = Zipf::new(10_000);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let ranks: Vec<u64> = (0..100_000).map(|_| zipf.rank(random.random::<f64>())).collect();
        assert!(ranks.iter().all(|rank| *rank < 10_000));
        let often = ranks.iter().filter(|rank| **rank < 100).count();
        assert!((45_000..65_000).contains(&often), "{often} of 100,000 for the first hundredth");
    }

    #[test]
    fn keys_are_of_one_length_and_differ() {
        let keys: std::collections::HashSet<Bytes> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|key| key.len() == 20));
    }
}
