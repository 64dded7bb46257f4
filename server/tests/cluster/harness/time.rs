//! Time in these tests. Real processes live in real time; this is the one place that reads it and lets it go by.
//!
//! Nothing waits for luck: `eventually` waits for a condition, and its deadline is many times what is expected.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longer than the start, the death or the recovery of a node takes on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since the first question: one time line for all threads of the process.
pub(crate) fn now_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(now);
    u64::try_from(now().duration_since(start).as_micros()).unwrap()
}

/// Lets time go by in which other threads and processes work.
#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until `attempt` succeeds; an attempt that fails says what it saw. Panics with the last of it after `within`.
pub(crate) fn eventually<T>(what: &str, within: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let started = now();
    loop {
        let saw = match attempt() {
            Ok(value) => return value,
            Err(saw) => saw,
        };
        assert!(started.elapsed() < within, "{what}: not within {within:?}; last seen: {saw}");
        pause(Duration::from_millis(25));
    }
}

/// Asserts that `attempt` goes on to succeed for a while.
pub(crate) fn throughout(what: &str, time: Duration, mut attempt: impl FnMut() -> Result<(), String>) {
    let started = now();
    while started.elapsed() < time {
        attempt().unwrap_or_else(|saw| panic!("{what}: {saw}, after {:?}", started.elapsed()));
        pause(Duration::from_millis(25));
    }
}
