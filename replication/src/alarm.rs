//! An alarm for whoever has to look at the time: it rests until something is due, and is woken for what comes meanwhile and
//! is due earlier. Where nothing is due, nothing is looked at, and where much is, nobody is woken more than once for a rest.
//!
//! Whoever notes something does so under a lock that is taken, too, while it is found out what is due first; then nothing is
//! missed between the two.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends the rest of the one who looks at the time.
type Wake = Box<dyn Fn() + Send + Sync>;

/// Wakes one who looks at the time.
#[derive(Default)]
pub struct Alarm {
    rests_until_ms: AtomicU64,
    wake: OnceLock<Wake>,
}

impl Alarm {
    /// Has `wake` called for what is due before the end of a rest. There is one who rests.
    pub fn wake_by(&self, wake: Wake) {
        let _is_first = self.wake.set(wake);
    }

    /// Until when to rest: until what `first_due` finds to be due first, but no less than `soon_ms`, and no longer than
    /// `longest_ms`.
    pub fn rest_until(&self, soon_ms: u64, longest_ms: u64, first_due: impl FnOnce() -> Option<u64>) -> u64 {
        // Before anything is looked at, so that what is noted behind the look wakes.
        self.rests_until_ms.store(u64::MAX, Ordering::Relaxed);
        let next_ms = first_due().unwrap_or(longest_ms).min(longest_ms);
        // A rest that is over soon is not cut short.
        self.rests_until_ms.store(if next_ms <= soon_ms { 0 } else { next_ms }, Ordering::Relaxed);
        next_ms.max(soon_ms)
    }

    /// Something is due at `at_ms`, and was noted.
    pub fn on_due(&self, at_ms: u64) {
        if at_ms < self.rests_until_ms.load(Ordering::Relaxed)
            && let Some(wake) = self.wake.get()
        {
            // Once: until whoever is woken looks again, it has nothing to be woken from.
            self.rests_until_ms.store(0, Ordering::Relaxed);
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn alarm() -> (Alarm, Arc<AtomicUsize>) {
        let (alarm, rung) = (Alarm::default(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&rung);
        alarm.wake_by(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        (alarm, rung)
    }

    #[test]
    fn a_rest_ends_with_what_is_due_first_within_its_bounds() {
        let (alarm, _) = alarm();
        assert_eq!(alarm.rest_until(5, 500, || None), 500);
        assert_eq!(alarm.rest_until(5, 500, || Some(2_000)), 500);
        assert_eq!(alarm.rest_until(5, 500, || Some(80)), 80);
        assert_eq!(alarm.rest_until(5, 500, || Some(1)), 5);
    }

    #[test]
    fn who_rests_is_woken_once_and_only_for_what_is_due_earlier() {
        let (alarm, rung) = alarm();
        alarm.rest_until(5, 500, || Some(80));
        alarm.on_due(80);
        alarm.on_due(2_000);
        assert_eq!(rung.load(Ordering::Relaxed), 0);
        alarm.on_due(79);
        alarm.on_due(78);
        assert_eq!(rung.load(Ordering::Relaxed), 1);
        alarm.rest_until(80, 580, || Some(81));
        alarm.on_due(80);
        assert_eq!(rung.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_noted_while_it_is_looked_what_is_due_wakes() {
        let (alarm, rung) = alarm();
        alarm.rest_until(5, 500, || {
            alarm.on_due(499);
            None
        });
        assert_eq!(rung.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_rest_that_is_over_soon_is_not_cut_short() {
        let (alarm, rung) = alarm();
        alarm.rest_until(5, 500, || Some(3));
        alarm.on_due(1);
        assert_eq!(rung.load(Ordering::Relaxed), 0);
    }
}
