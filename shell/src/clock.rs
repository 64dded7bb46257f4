//! The wall clock, for rows that say when they end rather than how long they live.

use std::time::UNIX_EPOCH;

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the shell's one reading of the wall clock")]
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
