//! The one write path under load: what waits together shares a write, an acknowledgement never comes before the write
//! it speaks of, nothing is seen before it is durable, and nobody who waits is forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use cube_storage::clock::{Clock, SystemClock};
use cube_storage::model::{Outcome, RowKey, TableId};
use cube_storage::{ApplyWorker, Store, StoreError, StoreOptions, SyncPolicy, TableOptions, TimeLimit};

use crate::common::gate::{GatedEngine, PATIENCE};
use crate::common::{at, client, identity, open_store, put};

const TABLE: TableId = TableId(1);
const LAZY: TableId = TableId(2);

fn open(engine: &Arc<GatedEngine>, every_ms: u32) -> Arc<Store> {
    let store = open_store(Arc::<GatedEngine>::clone(engine));
    store.put_table(TABLE, TableOptions::default()).unwrap();
    let lazy = TableOptions { sync: SyncPolicy::Interval { every_ms }, ..TableOptions::default() };
    store.put_table(LAZY, lazy).unwrap();
    Arc::new(store)
}

fn start(store: &Arc<Store>) -> ApplyWorker {
    ApplyWorker::start(Arc::clone(store), Arc::new(SystemClock::new(0))).unwrap()
}

fn there(store: &Store, table: TableId, key: &'static str) -> bool {
    store.get(table, &RowKey::of(key)).unwrap().is_some()
}

/// Waits on a condition that other threads bring about.
fn wait_until(mut holds: impl FnMut() -> bool) {
    let clock = SystemClock::new(0);
    while !holds() {
        assert!(u128::from(clock.monotonic_ms()) < PATIENCE.as_millis(), "it never came");
        std::thread::yield_now();
    }
}

#[test]
fn what_waits_together_shares_one_write() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let _worker = start(&store);
    let before = engine.synced_writes.load(Ordering::Relaxed);
    engine.close();
    let (tell, told) = mpsc::channel();
    let submit = |key: String| {
        let tell = tell.clone();
        let batch = client(vec![put(TABLE, RowKey::of(key), at(1), "v")]);
        store.submit(batch, Box::new(move |result| tell.send(result).unwrap()));
    };
    submit("first".into());
    engine.wait_for_a_write();
    (0..500).for_each(|n| submit(format!("k{n}")));
    engine.open();
    for _ in 0..501 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), [Outcome::Applied]);
    }
    assert_eq!(engine.synced_writes.load(Ordering::Relaxed) - before, 2, "the first, and all that waited behind it");
}

#[test]
fn a_batch_that_comes_when_the_worker_has_ended_is_told_so() {
    let store = open(&Arc::new(GatedEngine::default()), 1_000);
    drop(start(&store));
    let (tell, told) = mpsc::channel();
    let batch = client(vec![put(TABLE, RowKey::of("k"), at(1), "v")]);
    store.submit(batch.clone(), Box::new(move |result| tell.send(result).unwrap()));
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Err(StoreError::Stopped { .. }))));
    assert!(matches!(store.apply(batch), Err(StoreError::Stopped { .. })));
    assert!(!there(&store, TABLE, "k"));
}

#[test]
fn nothing_is_acknowledged_or_seen_before_it_is_written() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let _worker = start(&store);
    engine.close();
    let (tell, told) = mpsc::channel();
    let batch = client(vec![put(TABLE, RowKey::of("k"), at(1), "v")]);
    store.submit(batch, Box::new(move |result| tell.send(result).unwrap()));
    engine.wait_for_a_write();
    assert!(told.try_recv().is_err(), "acknowledged before it was written");
    assert!(!there(&store, TABLE, "k"), "seen before it was durable");
    engine.open();
    assert!(told.recv_timeout(PATIENCE).unwrap().is_ok());
    assert!(there(&store, TABLE, "k"));
}

#[test]
fn what_is_there_already_is_told_once_it_is_durable() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 3_600_000);
    // Acknowledged without a sync; then the table is to be synced, and the same write comes again.
    let batch = client(vec![put(LAZY, RowKey::of("k"), at(1), "v")]);
    store.apply(batch.clone()).unwrap();
    engine.inner.crash();
    let store = open(&engine, 3_600_000);
    assert!(!there(&store, LAZY, "k"), "an interval is a choice that says what it risks");
    store.apply(batch.clone()).unwrap();
    let synced = TableOptions { sync: SyncPolicy::Sync, ..store.table(LAZY).unwrap() };
    store.put_table(LAZY, synced).unwrap();
    store.apply(client(vec![put(LAZY, RowKey::of("j"), at(1), "v")])).unwrap();
    assert_eq!(store.apply(batch).unwrap(), [Outcome::Present]);
    engine.inner.crash();
    assert!(there(&store, LAZY, "k") && there(&store, LAZY, "j"));
}

#[test]
fn a_present_row_of_a_synced_table_is_synced_before_it_is_told() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 3_600_000);
    let batch = client(vec![put(TABLE, RowKey::of("k"), at(1), "v")]);
    store.apply(batch.clone()).unwrap();
    store.apply(client(vec![put(LAZY, RowKey::of("k"), at(1), "v")])).unwrap();
    // A copy of the row in a synced table rests on a log whose end is not synced.
    let before = engine.syncs.load(Ordering::Relaxed);
    assert_eq!(store.apply(batch.clone()).unwrap(), [Outcome::Present]);
    assert_eq!(engine.syncs.load(Ordering::Relaxed), before + 1);
    assert_eq!(store.apply(batch).unwrap(), [Outcome::Present]);
    assert_eq!(engine.syncs.load(Ordering::Relaxed), before + 1, "and only where something was not");
}

#[test]
fn the_worker_syncs_tables_at_their_interval_and_when_it_stops() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 5);
    let worker = start(&store);
    store.apply(client(vec![put(LAZY, RowKey::of("k"), at(1), "v")])).unwrap();
    for version in 2..5 {
        let before = engine.syncs.load(Ordering::Relaxed);
        store.apply(client(vec![put(LAZY, RowKey::of("k"), at(version), "v")])).unwrap();
        wait_until(|| engine.syncs.load(Ordering::Relaxed) > before);
    }
    drop(worker);
    let store = open(&engine, 3_600_000);
    let worker = start(&store);
    store.apply(client(vec![put(LAZY, RowKey::of("last"), at(1), "v")])).unwrap();
    drop(worker);
    engine.inner.crash();
    assert!(there(&store, LAZY, "last"), "a worker that stops leaves nothing unsynced");
}

#[test]
fn a_worker_that_is_dropped_finishes_what_waits() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let worker = start(&store);
    engine.close();
    let told = Arc::new(AtomicUsize::new(0));
    for n in 0..50 {
        let told = Arc::clone(&told);
        let batch = client(vec![put(TABLE, RowKey::of(format!("k{n}")), at(1), "v")]);
        let count = move |result: Result<_, _>| {
            told.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
        };
        store.submit(batch, Box::new(count));
    }
    engine.open();
    drop(worker);
    assert_eq!(told.load(Ordering::Relaxed), 50);
}

/// Submits a write; its result comes by the channel, once.
fn submit(store: &Store, key: &'static str) -> mpsc::Receiver<Result<Vec<Outcome>, StoreError>> {
    let (tell, told) = mpsc::channel();
    let batch = client(vec![put(TABLE, RowKey::of(key), at(1), "v")]);
    store.submit(batch, Box::new(move |result| tell.send(result).unwrap()));
    told
}

fn assert_told_once_that_it_stopped(told: &mpsc::Receiver<Result<Vec<Outcome>, StoreError>>, why: &str) {
    let Err(StoreError::Stopped { cause }) = told.recv_timeout(PATIENCE).unwrap() else { panic!("not stopped") };
    assert!(cause.contains(why), "{cause}");
    assert_eq!(told.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "told twice");
}

#[test]
fn a_callback_that_panics_stops_writes_with_its_cause_and_all_others_are_told() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let _worker = start(&store);
    engine.close();
    let first = submit(&store, "first");
    engine.wait_for_a_write();
    let batch = client(vec![put(TABLE, RowKey::of("k"), at(1), "v")]);
    store.submit(batch, Box::new(|_| panic!("a bug in a callback")));
    let with_it = submit(&store, "with it");
    engine.open();
    assert!(first.recv_timeout(PATIENCE).unwrap().is_ok());
    assert!(with_it.recv_timeout(PATIENCE).unwrap().is_ok(), "it was committed with the one that panicked");
    wait_until(|| store.stopped().is_some_and(|cause| cause.contains("a bug in a callback")));
    assert_told_once_that_it_stopped(&submit(&store, "later"), "a bug in a callback");
    assert!(there(&store, TABLE, "with it") && !there(&store, TABLE, "later"));
}

#[test]
fn a_commit_that_panics_stops_writes_with_its_cause_and_all_that_wait_are_told() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let _worker = start(&store);
    engine.close();
    let under_way = submit(&store, "under way");
    engine.wait_for_a_write();
    let waiting = submit(&store, "waiting");
    engine.open_and_panic("a bug in the engine");
    assert_told_once_that_it_stopped(&under_way, "a bug in the engine");
    assert_told_once_that_it_stopped(&waiting, "a bug in the engine");
    assert!(store.stopped().unwrap().contains("a bug in the engine"));
    let refused = store.apply(client(vec![put(TABLE, RowKey::of("later"), at(1), "v")]));
    assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");
}

#[test]
fn a_caller_behind_more_than_one_group_is_not_left_waiting() {
    let engine = Arc::new(GatedEngine::default());
    // No worker: whoever applies does the work, also of those who only submitted.
    let store = open(&engine, 1_000);
    let large = || put(TABLE, RowKey::of("large"), at(1), vec![7; 3 << 20]);
    for _ in 0..5 {
        store.submit(client(vec![large()]), Box::new(|result| drop(result.unwrap())));
    }
    let (tell, told) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(|| tell.send(store.apply(client(vec![put(TABLE, RowKey::of("k"), at(1), "v")]))).unwrap());
        let outcome = told.recv_timeout(PATIENCE);
        // Lets the thread go should it wait, so that the test fails and does not hang.
        while store.run_pending() {}
        assert_eq!(outcome.unwrap().unwrap(), [Outcome::Applied]);
    });
}

#[test]
fn a_caller_whose_batch_is_abandoned_is_told_and_not_left_waiting() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    engine.close();
    std::thread::scope(|threads| {
        threads.spawn(|| store.apply(client(vec![put(TABLE, RowKey::of("first"), at(1), "v")])).unwrap());
        engine.wait_for_a_write();
        let (tell, told) = mpsc::channel();
        let store = &store;
        threads.spawn(move || tell.send(store.apply(client(vec![put(TABLE, RowKey::of("k"), at(1), "v")]))));
        wait_until(|| store.queue_depth().1 == 1);
        store.abandon_pending();
        engine.open();
        let Ok(result) = told.recv_timeout(PATIENCE) else {
            // A thread that waits for ever cannot be joined.
            eprintln!("the caller was left waiting");
            std::process::abort();
        };
        assert!(matches!(result, Err(StoreError::Stopped { .. })), "{result:?}");
    });
    assert!(there(&store, TABLE, "first") && !there(&store, TABLE, "k"));
}

#[test]
fn past_the_bound_of_the_queue_a_batch_is_refused_with_the_limit() {
    let engine = Arc::new(GatedEngine::default());
    let options = StoreOptions { queue_bytes_max: 10_000, ..StoreOptions::default() };
    let store = Store::open(Arc::<GatedEngine>::clone(&engine), identity(), options).unwrap();
    store.put_table(TABLE, TableOptions::default()).unwrap();
    let refused = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for n in 0..20 {
        let refused = Arc::clone(&refused);
        let batch = client(vec![put(TABLE, RowKey::of(format!("k{n}")), at(1), vec![7; 1_000])]);
        store.submit(batch, Box::new(move |result| refused.lock().extend(result.err())));
    }
    let refusals = refused.lock().clone();
    assert!((11..15).contains(&refusals.len()), "{} of 20", refusals.len());
    let StoreError::Overloaded { limit_bytes: 10_000, queued_bytes } = refusals[0] else { panic!("{}", refusals[0]) };
    assert!(queued_bytes <= 10_000);
    assert!(refusals[0].to_string().contains("the limit is 10000"), "{}", refusals[0]);
    while store.run_pending() {}
    assert_eq!(store.queue_depth(), (0, 0));
    assert!(store.apply(client(vec![put(TABLE, RowKey::of("k"), at(1), "v")])).is_ok());
}

#[test]
fn writers_on_many_threads_all_get_their_own_outcome() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let _worker = start(&store);
    std::thread::scope(|threads| {
        for writer in 0..8_u64 {
            let store = &store;
            threads.spawn(move || {
                for n in 0..100 {
                    let mine = put(TABLE, RowKey::of(format!("w{writer}-{n}")), at(1 + n), "v");
                    let shared = put(TABLE, RowKey::of("shared"), at(1 + n * 8 + writer), "v");
                    let outcomes = store.apply(client(vec![mine, shared])).unwrap();
                    assert_eq!(outcomes[0], Outcome::Applied);
                    assert!(outcomes[1].holds());
                }
            });
        }
    });
    assert_eq!(store.get(TABLE, &RowKey::of("shared")).unwrap().unwrap().version, at(800));
    assert!(store.counters().rows() >= 801, "each row once, the shared one at least once");
}

/// A clock that stands still until it is told.
#[derive(Default)]
struct Still(AtomicUsize);

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

#[test]
fn what_waited_past_its_deadline_is_refused_and_not_written_and_the_others_of_its_group_are() {
    let engine = Arc::new(GatedEngine::default());
    let store = open(&engine, 1_000);
    let clock = Arc::new(Still::default());
    let (tell, told) = mpsc::channel();
    let submit = |key: &'static str, time_left_ms: Option<u64>| {
        let tell = tell.clone();
        let limit = time_left_ms.map(|left_ms| TimeLimit::within(Arc::<Still>::clone(&clock), left_ms));
        let batch = client(vec![put(TABLE, RowKey::of(key), at(1), "v")]);
        store.submit_within(batch, limit, Box::new(move |result| tell.send((key, result)).unwrap()));
    };
    submit("late", Some(100));
    submit("in time", Some(101));
    submit("whenever", None);
    clock.0.store(100, Ordering::Relaxed);
    assert!(store.run_pending());
    let results: Vec<_> = told.try_iter().collect();
    assert_eq!(results[0], ("late", Err(StoreError::DeadlinePassed)));
    assert_eq!(results[1..], [("in time", Ok(vec![Outcome::Applied])), ("whenever", Ok(vec![Outcome::Applied]))]);
    assert!(!there(&store, TABLE, "late") && there(&store, TABLE, "in time") && there(&store, TABLE, "whenever"));
}
