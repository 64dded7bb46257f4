//! How comparisons yield to clients: the longer clients wait for their writes than they do without them, the longer a
//! comparison rests between its messages.
//!
//! Plain code: write latencies, messages and the time go in, rests come out. What clients wait without a comparison is
//! learned while there is none, and during a long one in a short stop every few seconds. Invariant: a rest is bounded, so
//! every comparison gets on, whatever clients do.

/// What clients wait without a comparison, until it is known.
const CALM_US_START: u64 = 10_000;
/// What a clock that counts milliseconds, and a slow fsync, may add.
const SLACK_US: u64 = 2_000;
/// From one change of the rests to the next.
const ADJUST_EVERY_MS: u64 = 100;
/// Writes that say something of all.
const WRITES_MIN: u64 = 5;
/// Rests are counted in quarters of the time of the message before: twice as many while clients wait, one less while
/// they do not, and never more than these.
const REST_QUARTERS_MAX: u64 = 32;
/// The longest rest.
const REST_MS_MAX: u64 = 200;
/// How often a comparison stops for it to be seen what clients wait without it,
const LOOK_EVERY_MS: u64 = 5_000;
/// and for how long.
const LOOK_MS: u64 = 100;

/// What is known of clients, and when a comparison may go on.
#[derive(Debug)]
pub(super) struct Courtesy {
    calm_us: u64,
    /// Since when nothing is compared.
    quiet_since_ms: Option<u64>,
    looked_ms: u64,
    /// Of writes during a comparison since the last change: the sum, and how many.
    waited: (u64, u64),
    adjusted_ms: u64,
    quarters: u64,
    rest_until_ms: u64,
}

impl Default for Courtesy {
    fn default() -> Self {
        Self {
            calm_us: CALM_US_START,
            quiet_since_ms: Some(0),
            looked_ms: 0,
            waited: (0, 0),
            adjusted_ms: 0,
            quarters: 0,
            rest_until_ms: 0,
        }
    }
}

impl Courtesy {
    /// A client's write was made durable here, after so long.
    pub(super) fn wrote(&mut self, took_ms: u64, now_ms: u64) {
        let (took_us, begun_ms) = (took_ms.saturating_mul(1_000), now_ms.saturating_sub(took_ms));
        if self.quiet_since_ms.is_some_and(|since_ms| begun_ms >= since_ms) {
            // One in thirty-two: a single slow write moves it little.
            self.calm_us = (self.calm_us.saturating_mul(31).saturating_add(took_us) / 32).max(1);
        } else {
            self.waited = (self.waited.0.saturating_add(took_us), self.waited.1 + 1);
        }
    }

    /// When a comparison may go on, if not now.
    pub(super) fn rest_until_ms(&self, now_ms: u64) -> Option<u64> {
        (self.rest_until_ms > now_ms).then_some(self.rest_until_ms)
    }

    /// A message of a comparison leaves, or rows of one are applied.
    pub(super) fn begins(&mut self, now_ms: u64) {
        if self.quiet_since_ms.take().is_some() {
            (self.looked_ms, self.waited) = (now_ms, (0, 0));
        }
    }

    /// It was answered after so long, or they were.
    pub(super) fn ended(&mut self, took_ms: u64, now_ms: u64) {
        self.adjust(now_ms);
        if now_ms.saturating_sub(self.looked_ms) >= LOOK_EVERY_MS {
            self.quiet_since_ms = Some(now_ms);
            self.rest_until_ms = now_ms.saturating_add(LOOK_MS);
            return;
        }
        let rest_ms = (took_ms.saturating_mul(self.quarters) / 4).min(REST_MS_MAX);
        self.rest_until_ms = now_ms.saturating_add(rest_ms);
    }

    /// The comparison is over.
    pub(super) fn is_quiet(&mut self, now_ms: u64) {
        self.quiet_since_ms = self.quiet_since_ms.or(Some(now_ms));
    }

    fn adjust(&mut self, now_ms: u64) {
        let (waited_us, writes) = self.waited;
        if now_ms.saturating_sub(self.adjusted_ms) < ADJUST_EVERY_MS {
            return;
        }
        self.adjusted_ms = now_ms;
        self.waited = (0, 0);
        let most_us = (self.calm_us + self.calm_us / 2).saturating_add(SLACK_US);
        self.quarters = match waited_us.checked_div(writes) {
            Some(mean_us) if writes >= WRITES_MIN && mean_us > most_us => {
                (2 * self.quarters).clamp(1, REST_QUARTERS_MAX)
            }
            _ => self.quarters.saturating_sub(1),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of 10 ms for so long, while a write that takes `write_ms` ends each millisecond; what part of the time, in
    /// percent, they took.
    fn compare(courtesy: &mut Courtesy, from_ms: u64, ms: u64, write_ms: impl Fn(bool) -> u64) -> u64 {
        let (mut now_ms, mut busy_ms) = (from_ms, 0);
        while now_ms < from_ms + ms {
            let is_resting = courtesy.rest_until_ms(now_ms).is_some();
            if !is_resting {
                courtesy.begins(now_ms);
            }
            for _ in 0..if is_resting { 1 } else { 10 } {
                now_ms += 1;
                courtesy.wrote(write_ms(is_resting), now_ms);
            }
            if !is_resting {
                busy_ms += 10;
                courtesy.ended(10, now_ms);
            }
        }
        100 * busy_ms / ms
    }

    fn calm(write_ms: u64) -> Courtesy {
        let mut courtesy = Courtesy::default();
        (1_000..2_000).for_each(|now_ms| courtesy.wrote(write_ms, now_ms));
        courtesy
    }

    #[test]
    fn clients_that_wait_no_longer_than_before_or_that_write_little_hold_nothing_up() {
        assert!(compare(&mut calm(4), 2_000, 4_000, |_| 4) >= 99);
        assert!(compare(&mut calm(30), 2_000, 4_000, |_| 30) >= 99, "they are slow without it");
        let mut courtesy = calm(4);
        for message in 0..100 {
            courtesy.begins(2_000 + 10 * message);
            courtesy.wrote(90, 2_010 + 10 * message);
            courtesy.ended(10, 2_010 + 10 * message);
            assert!(message < 20 || courtesy.quarters <= REST_QUARTERS_MAX);
        }
        let mut courtesy = calm(4);
        courtesy.begins(2_000);
        courtesy.wrote(90, 2_200);
        courtesy.ended(10, 2_200);
        assert_eq!(courtesy.rest_until_ms(2_200), None, "one write says nothing");
    }

    #[test]
    fn the_more_clients_wait_for_a_comparison_the_longer_it_rests_and_it_gets_on_all_the_same() {
        let share = compare(&mut calm(4), 2_000, 4_000, |is_resting| if is_resting { 4 } else { 40 });
        assert!((5..60).contains(&share), "{share} %");
        let share = compare(&mut calm(4), 2_000, 4_000, |_| 400);
        assert!((5..30).contains(&share), "{share} %");
    }

    #[test]
    fn what_clients_wait_without_it_is_learned_anew_during_a_long_comparison() {
        let mut courtesy = calm(4);
        // The machine became slower for everybody, whether rows are exchanged or not.
        compare(&mut courtesy, 2_000, 120_000, |_| 40);
        assert!(compare(&mut courtesy, 122_000, 20_000, |_| 40) >= 90, "{courtesy:?}");
    }

    #[test]
    fn it_goes_at_full_speed_again_once_clients_do_not_wait_any_more() {
        let mut courtesy = calm(4);
        compare(&mut courtesy, 2_000, 4_000, |_| 400);
        compare(&mut courtesy, 6_000, 20_000, |_| 4);
        assert!(compare(&mut courtesy, 26_000, 4_000, |_| 4) >= 95, "{courtesy:?}");
    }
}
