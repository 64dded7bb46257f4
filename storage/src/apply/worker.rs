//! The thread that commits what is queued, syncs the tables that asked for it by interval, and after a start remembers
//! what rows are there while nothing is queued.
//!
//! It outlives panics of what it runs: writes have stopped then, and it tells so to those who wait.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Wake, WarmPlace, caught};
use crate::clock::Clock;
use crate::store::Store;

/// A group waits for as many batches as the last one had, but begins at most so long after it. Clients that were answered
/// together ask again together: what their writes share, an fsync and the wake-ups of all who take part, is a third of what
/// a write costs. One client alone waits for nobody.
const GATHER_MS: u64 = 3;
/// From one step of remembering rows to the next, so that a start leaves the processors to others.
const WARM_PAUSE_MS: u64 = 1;

/// Owns the thread. Dropping it finishes what waits and joins.
pub struct ApplyWorker {
    store: Arc<Store>,
    thread: Option<JoinHandle<()>>,
}

impl ApplyWorker {
    /// Starts the thread.
    pub fn start(store: Arc<Store>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let worked = Arc::clone(&store);
        let thread =
            std::thread::Builder::new().name("cube-apply".into()).spawn(move || run(&worked, clock.as_ref()))?;
        Ok(Self { store, thread: Some(thread) })
    }
}

impl Drop for ApplyWorker {
    fn drop(&mut self) {
        self.store.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the apply worker panicked: what it had not committed was not acknowledged");
        }
    }
}

fn run(store: &Store, clock: &dyn Clock) {
    let mut synced_ms = clock.monotonic_ms();
    let mut warm = Some(WarmPlace::default());
    let (mut begun_ms, mut last_group) = (0, 0);
    loop {
        let interval_ms = store.tables.read().sync_interval_ms().map(|every_ms| u64::from(every_ms.max(1)));
        let passed_ms = clock.monotonic_ms().saturating_sub(synced_ms);
        let until_sync_ms = interval_ms.map(|every_ms| every_ms.saturating_sub(passed_ms));
        let until_warm_ms = warm.is_some().then_some(WARM_PAUSE_MS);
        let wake = store.queue.wait(until_sync_ms.into_iter().chain(until_warm_ms).min());
        if wake == Wake::Work {
            let passed_ms = clock.monotonic_ms().saturating_sub(begun_ms);
            if last_group > 1 && passed_ms < GATHER_MS {
                store.queue.gather(last_group, GATHER_MS - passed_ms);
            }
            begun_ms = clock.monotonic_ms();
            last_group = store.commit_pending();
        } else if wake == Wake::TimedOut
            && let Some(from) = warm.take()
        {
            warm = match caught(|| store.warm_step(from)) {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "what rows are there is read when they are written");
                    None
                }
                Err(cause) => {
                    store.stop(&mut store.commit.lock(), format!("remembering rows panicked: {cause}"));
                    None
                }
            };
        }
        let now_ms = clock.monotonic_ms();
        let due = interval_ms.is_some_and(|every_ms| now_ms.saturating_sub(synced_ms) >= every_ms);
        if due || wake == Wake::Closed {
            synced_ms = now_ms;
            match caught(|| store.sync()) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "syncing the log failed"),
                Err(cause) => {
                    store.stop(&mut store.commit.lock(), format!("syncing the log panicked: {cause}"));
                }
            }
        }
        if wake == Wake::Closed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::merkle::MerkleKey;
    use crate::model::{PartitionBits, TableId};
    use crate::store::{Identity, StoreOptions};
    use crate::table::{SyncPolicy, TableOptions};

    #[test]
    fn a_table_that_is_to_be_synced_sooner_wakes_whoever_waits_for_later() {
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([0; 16]) };
        let store = Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap();
        assert_eq!(store.queue.wait(Some(1)), Wake::TimedOut);
        let sync = SyncPolicy::Interval { every_ms: 5 };
        store.put_table(TableId(1), TableOptions { sync, ..TableOptions::default() }).unwrap();
        assert_eq!(store.queue.wait(Some(20_000)), Wake::Nudged);
    }
}
