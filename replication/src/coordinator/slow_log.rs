//! The accounts of the last slow requests, for whoever asks, and a few of them in the log.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::explain::Account;

/// Slow requests that are kept for whoever asks.
const SLOW_MAX: usize = 64;
/// Slow requests that are logged in a second; when everything is slow, more would make it slower.
const SLOW_LOGGED_PER_S: u32 = 5;

/// Slow requests.
#[derive(Default)]
pub(super) struct SlowLog {
    kept: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    accounts: VecDeque<Arc<Account>>,
    second: u64,
    logged: u32,
}

impl SlowLog {
    /// The last ones, the oldest first.
    pub(super) fn accounts(&self) -> Vec<Arc<Account>> {
        self.kept.lock().accounts.iter().cloned().collect()
    }

    pub(super) fn record(&self, account: &Arc<Account>, now_ms: u64) {
        let mut kept = self.kept.lock();
        if kept.accounts.len() >= SLOW_MAX {
            kept.accounts.pop_front();
        }
        kept.accounts.push_back(Arc::clone(account));
        if kept.second != now_ms / 1_000 {
            (kept.second, kept.logged) = (now_ms / 1_000, 0);
        }
        kept.logged += 1;
        let is_logged = kept.logged <= SLOW_LOGGED_PER_S;
        drop(kept);
        if is_logged {
            tracing::warn!(took_ms = account.took_ms, kind = ?account.kind, %account, "a request was slow");
        }
    }
}
