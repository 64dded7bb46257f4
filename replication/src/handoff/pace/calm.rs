//! How long clients wait for their writes while no hints come: what their waiting during a replay is held against.
//!
//! A node that has just returned does not know, and hints come at once. So the replay stands still for a moment every few
//! seconds, while clients write. Invariant: a look ends within [`LOOK_MS_MAX`], whatever becomes of the senders.

/// From one look to the next.
const LOOK_EVERY_MS: u64 = 5_000;
/// How long nothing is to be leased, for what was leased before to be felt no more.
const QUIET_MS: u64 = 50;
/// As many writes are enough to know.
const WRITES: u64 = 30;
/// Clients that write little are not waited for.
const QUIET_MS_MAX: u64 = 200;
/// The longest look: a sender may have died with its lease.
pub(super) const LOOK_MS_MAX: u64 = 1_000;
/// Until it is known.
const US_START: u64 = 10_000;

/// What is known.
#[derive(Debug)]
pub(super) struct Calm {
    us: u64,
    /// Since when nothing is leased.
    quiet_since_ms: Option<u64>,
    /// When the look that goes on began.
    look_ms: Option<u64>,
    /// When the last one ended.
    looked_ms: Option<u64>,
    /// Writes since it began.
    writes: u64,
}

impl Calm {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { us: US_START, quiet_since_ms: Some(now_ms), look_ms: None, looked_ms: None, writes: 0 }
    }

    /// How long a client waits.
    pub(super) fn us(&self) -> u64 {
        self.us
    }

    /// A client's write ended, after so long.
    pub(super) fn wrote(&mut self, took_us: u64, now_ms: u64) {
        let begun_ms = now_ms.saturating_sub(took_us / 1_000);
        if self.quiet_since_ms.is_some_and(|since_ms| begun_ms >= since_ms) {
            // One in thirty-two: a single slow write moves it little.
            self.us = (self.us.saturating_mul(31).saturating_add(took_us) / 32).max(1);
            self.writes += 1;
        }
    }

    /// Whether anything is leased.
    pub(super) fn leases(&mut self, any: bool, now_ms: u64) {
        self.quiet_since_ms = if any { None } else { self.quiet_since_ms.or(Some(now_ms)) };
    }

    /// Whether nothing is to be leased for now. `written` tells whether clients write.
    pub(super) fn is_looking(&mut self, written: bool, now_ms: u64) -> bool {
        let Some(since_ms) = self.look_ms else {
            let is_due = self.looked_ms.is_none_or(|looked_ms| now_ms.saturating_sub(looked_ms) >= LOOK_EVERY_MS);
            if is_due && written {
                (self.look_ms, self.writes) = (Some(now_ms), 0);
            }
            return self.look_ms.is_some();
        };
        let quiet_ms = self.quiet_since_ms.map_or(0, |quiet_ms| now_ms.saturating_sub(quiet_ms.max(since_ms)));
        let is_known = quiet_ms >= QUIET_MS && self.writes >= WRITES;
        if is_known || quiet_ms >= QUIET_MS_MAX || now_ms.saturating_sub(since_ms) >= LOOK_MS_MAX {
            (self.look_ms, self.looked_ms) = (None, Some(now_ms));
        }
        self.look_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks until it ends, with a write each millisecond that takes `took_us`; how long that was.
    fn look(calm: &mut Calm, took_us: u64, begin_ms: u64) -> u64 {
        assert!(calm.is_looking(true, begin_ms));
        let mut now_ms = begin_ms;
        while calm.is_looking(true, now_ms) {
            now_ms += 1;
            calm.wrote(took_us, now_ms);
        }
        now_ms - begin_ms
    }

    #[test]
    fn a_look_ends_when_enough_is_known_or_nothing_more_is_to_be_expected() {
        let mut calm = Calm::new(0);
        assert_eq!(look(&mut calm, 1_000, 1_000), QUIET_MS);
        assert!(calm.us() < US_START);
        calm.leases(true, 2_000);
        assert!(!calm.is_looking(true, 2_000));
        assert_eq!(look(&mut calm, 1_000, 10_000), LOOK_MS_MAX, "what is leased is not given back");
        assert!(calm.is_looking(true, 20_000));
        calm.leases(false, 20_100);
        assert!(calm.is_looking(true, 20_100 + QUIET_MS_MAX - 1));
        assert!(!calm.is_looking(true, 20_100 + QUIET_MS_MAX), "nobody writes");
        assert!(!calm.is_looking(false, 90_000), "nobody has written since");
    }

    #[test]
    fn writes_that_began_while_something_was_leased_do_not_count() {
        let mut calm = Calm::new(0);
        calm.leases(true, 100);
        calm.wrote(90_000, 150);
        calm.leases(false, 200);
        calm.wrote(90_000, 250);
        assert_eq!(calm.us(), US_START);
        calm.wrote(90_000, 290);
        assert!(calm.us() > US_START);
    }
}
