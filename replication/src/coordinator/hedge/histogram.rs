//! How long answers took lately: counts by length, of which old ones fade. Plain code.
//!
//! Lengths up to [`EXACT_MS`] are told exactly, longer ones to a quarter of their size; what is told is never too short.

/// Below this every millisecond has a bucket of its own.
const EXACT_MS: u64 = 16;
/// Buckets for each doubling above that.
const PER_DOUBLING: u64 = 4;
/// Doublings told apart, up to about a minute: longer answers count as that long.
const DOUBLINGS: u64 = 12;
const BUCKETS: usize = (EXACT_MS + PER_DOUBLING * DOUBLINGS) as usize;
/// Past so many answers all counts are halved: what counts is the last few thousand.
const ANSWERS_MAX: u32 = 4_096;
/// And so often they are halved anyway: what was long ago says little.
const FADES_EVERY_MS: u64 = 10_000;
/// Halvings that leave nothing of any count.
const FADES_MAX: u64 = 32;

/// How long answers took lately.
#[derive(Clone, Debug)]
pub(in crate::coordinator) struct Histogram {
    counts: [u32; BUCKETS],
    answers: u32,
    faded_ms: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], answers: 0, faded_ms: 0 }
    }
}

impl Histogram {
    pub(in crate::coordinator) fn add(&mut self, took_ms: u64, now_ms: u64) {
        self.fade(now_ms);
        if self.answers >= ANSWERS_MAX {
            self.halve(1);
        }
        if let Some(count) = self.counts.get_mut(bucket(took_ms)) {
            *count += 1;
            self.answers += 1;
        }
    }

    /// How many answers it rests on.
    pub(in crate::coordinator) fn answers(&self) -> u32 {
        self.answers
    }

    /// What so many of a hundred answers took at the most; nothing before the first.
    pub(in crate::coordinator) fn percentile_ms(&self, percent: u32) -> Option<u64> {
        let wanted = (u64::from(self.answers) * u64::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        place.map(longest_ms)
    }

    fn fade(&mut self, now_ms: u64) {
        let periods = now_ms.saturating_sub(self.faded_ms) / FADES_EVERY_MS;
        if periods > 0 {
            self.faded_ms += periods * FADES_EVERY_MS;
            self.halve(periods);
        }
    }

    fn halve(&mut self, times: u64) {
        let times = times.min(FADES_MAX - 1) as u32;
        self.counts.iter_mut().for_each(|count| *count >>= times);
        self.answers = self.counts.iter().sum();
    }
}

fn bucket(took_ms: u64) -> usize {
    if took_ms < EXACT_MS {
        return took_ms as usize;
    }
    let doubling = u64::from(took_ms.ilog2() - EXACT_MS.ilog2());
    let within = (took_ms - (EXACT_MS << doubling)) / ((EXACT_MS / PER_DOUBLING) << doubling);
    ((EXACT_MS + doubling * PER_DOUBLING + within) as usize).min(BUCKETS - 1)
}

/// The longest that a bucket stands for.
fn longest_ms(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT_MS {
        return bucket;
    }
    let (doubling, within) = ((bucket - EXACT_MS) / PER_DOUBLING, (bucket - EXACT_MS) % PER_DOUBLING);
    (EXACT_MS << doubling) + (within + 1) * ((EXACT_MS / PER_DOUBLING) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use crate::cases::cases;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_percentile_is_never_too_short_and_at_most_a_quarter_too_long(
            mut took in prop::collection::vec(0u64..60_000, 1..400),
            percent in 1u32..=100,
        ) {
            let mut histogram = Histogram::default();
            took.iter().for_each(|took_ms| histogram.add(*took_ms, 0));
            took.sort_unstable();
            let exact = took[(took.len() * percent as usize).div_ceil(100).max(1) - 1];
            let told = histogram.percentile_ms(percent).unwrap();
            prop_assert!(told >= exact && told <= exact + exact / 4, "told {} for {}", told, exact);
        }

        #[test]
        fn whatever_comes_in_it_counts_a_bounded_number_of_answers(
            took in prop::collection::vec((any::<u64>(), 0u64..100), 0..300),
        ) {
            let (mut histogram, mut now_ms) = (Histogram::default(), 0);
            for (took_ms, passed_ms) in took {
                now_ms += passed_ms;
                (0..50).for_each(|_| histogram.add(took_ms, now_ms));
                prop_assert!(histogram.answers() <= ANSWERS_MAX);
                prop_assert!(histogram.percentile_ms(99).is_some());
            }
        }
    }

    #[test]
    fn what_was_slow_long_ago_is_forgotten() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_ms(99), None);
        (0..1_000).for_each(|_| histogram.add(500, 0));
        (0..1_000).for_each(|_| histogram.add(2, 1));
        assert!(histogram.percentile_ms(99).unwrap() >= 500);
        (0..1_000).for_each(|_| histogram.add(2, 120_000));
        assert_eq!(histogram.percentile_ms(99), Some(2));
        (0..100).for_each(|_| histogram.add(2, u64::MAX));
        assert_eq!(histogram.answers(), 100, "nothing is left after an age");
    }
}
