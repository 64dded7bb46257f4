//! The process that is killed. It writes from several threads as fast as it can, and tells in a file what was
//! acknowledged, one line for each:
//!
//! ```text
//! w <writer> <n>     the writer's n-th write, durable
//! a <writer> <n>     the writer's n-th write, acknowledged before it is durable: a table is synced by interval
//! f <epoch>          a fence of the first partition
//! p <n>              the first partition's purge floor, and that all up to it is purged
//! h <keeper> <n>     a keeper's n-th hint
//! r <keeper> <n>     the keeper's hints up to here may be gone: they are about to be acknowledged
//! d <n>              the n-th dirty mark, durable
//! e <error>          a write that failed
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use cube_storage::clock::{Clock, SystemClock};
use cube_storage::engine::{Recovery, RocksEngine};
use cube_storage::model::{Batch, Epoch, Hlc, Mutation, NodeId, Outcome, PartitionId, Record, Version};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{ApplyWorker, Store, StoreError, SyncPolicy};

use crate::common::{disks, mark_all_synced, open_store, pause};
use crate::hints::{KEEPERS, Keeper};
use crate::marks::Marker;
use crate::work;

/// The variables that make this test binary a child.
pub(crate) const DIR: &str = "CUBE_CRASH_DIR";
pub(crate) const ACKNOWLEDGED: &str = "CUBE_CRASH_ACKNOWLEDGED";
pub(crate) const FIRST: &str = "CUBE_CRASH_FIRST";
/// Makes the child promise what it does not do: it acknowledges before anything is synced.
pub(crate) const UNSYNCED: &str = "CUBE_CRASH_UNSYNCED";
/// Makes the child write to tables that are synced by interval: when it is told so, or by the worker alone.
pub(crate) const BY_INTERVAL: &str = "CUBE_CRASH_BY_INTERVAL";
pub(crate) const TOLD: &str = "told";
pub(crate) const ALONE: &str = "alone";
/// Makes the child write from one thread, and try again what found the disk full.
pub(crate) const PERSEVERES: &str = "CUBE_CRASH_PERSEVERES";
/// Makes the child look for a write whose sync is held back.
pub(crate) const PEEKS: &str = "CUBE_CRASH_PEEKS";

/// From one sync of the worker to the next, in tables that are synced by interval.
const INTERVAL_MS: u32 = 20;
/// Writes of a writer from one sync that it asks for to the next.
const SYNC_EVERY: u64 = 30;

/// Writes of one writer that wait at a time.
const WINDOW: usize = 8;
/// Writers that wait for each of their writes; the others write ahead.
const WAITING: u64 = 2;
/// Writes that may have succeeded when another fails, and are told only then: one of each writer that waits, a window of
/// each that does not, and one each of the threads that purge and fence.
pub(crate) const UNTOLD_MAX: usize = WAITING as usize + (work::WRITERS - WAITING) as usize * WINDOW + 2;

pub(crate) struct Child {
    store: Arc<Store>,
    hints: Keeper,
    marks: Marker,
    acknowledged: File,
    first: u64,
    /// A write failed: the process is to end.
    failed: AtomicBool,
}

/// Runs the child, if this process is one.
pub(crate) fn run_if_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let acknowledged = std::env::var_os(ACKNOWLEDGED).unwrap();
    let first = std::env::var(FIRST).unwrap().parse().unwrap();
    let by_interval = std::env::var(BY_INTERVAL).ok();
    let sync = match std::env::var_os(UNSYNCED) {
        Some(_) => SyncPolicy::Interval { every_ms: 3_600_000 },
        None if by_interval.is_some() => SyncPolicy::Interval { every_ms: INTERVAL_MS },
        None => SyncPolicy::Sync,
    };
    let child = Arc::new(Child::open(Path::new(&dir), &PathBuf::from(acknowledged), first, sync));
    if std::env::var_os(PERSEVERES).is_some() {
        child.persevere();
    } else if std::env::var_os(PEEKS).is_some() {
        child.peek();
    } else if let Some(who) = by_interval {
        child.work_by_interval(who == TOLD);
    } else {
        child.work();
    }
    std::process::exit(0);
}

impl Child {
    fn open(dir: &Path, acknowledged: &Path, first: u64, sync: SyncPolicy) -> Self {
        let engine = Arc::new(RocksEngine::open(dir, &disks::small_options()).unwrap());
        assert_eq!(cube_storage::engine::Engine::recovery(engine.as_ref()), Recovery::Complete);
        let store = open_store(engine);
        // The one before may have been killed half way.
        if std::fs::metadata(acknowledged).is_ok_and(|file| file.len() > 0) {
            assert_eq!(store.tables().len(), work::TABLES);
        } else {
            work::tables(sync).into_iter().for_each(|(table, options)| store.put_table(table, options).unwrap());
            mark_all_synced(&store, work::PLACEMENT);
        }
        let hints = Keeper::open(dir, sync == SyncPolicy::Sync);
        let marks = Marker::open(dir);
        let acknowledged = OpenOptions::new().append(true).create(true).open(acknowledged).unwrap();
        Self { store: Arc::new(store), hints, marks, acknowledged, first, failed: AtomicBool::new(false) }
    }

    /// Until it is killed, or a write fails.
    fn work(&self) {
        let _worker = ApplyWorker::start(Arc::clone(&self.store), Arc::new(SystemClock::new(0))).unwrap();
        std::thread::scope(|threads| {
            for writer in 0..work::WRITERS {
                threads.spawn(
                    move || if writer < WAITING { self.write_waiting(writer) } else { self.write_ahead(writer) },
                );
            }
            for keeper in 0..KEEPERS {
                threads.spawn(move || self.keep_hints(keeper));
            }
            threads.spawn(|| self.keep_marks());
            threads.spawn(|| self.purge());
            threads.spawn(|| self.fence());
        });
        self.after_a_failure();
    }

    /// Writes that are acknowledged before they are durable. Each writer asks for a sync now and then and goes on until it is
    /// killed, or writes each of its rows once and leaves the sync to the worker.
    fn work_by_interval(&self, asks: bool) {
        let _worker = ApplyWorker::start(Arc::clone(&self.store), Arc::new(SystemClock::new(0))).unwrap();
        let writes = if asks { u64::MAX / 2 } else { work::ROWS };
        std::thread::scope(|threads| {
            for writer in 0..work::WRITERS {
                threads.spawn(move || {
                    let mut durable = self.first;
                    for n in self.first..self.first + writes {
                        assert_eq!(self.store.apply(work::batch(writer, n)).unwrap(), [Outcome::Applied; 2]);
                        self.tell(format_args!("a {writer} {n}"));
                        if asks && n % SYNC_EVERY == 0 {
                            self.store.sync().unwrap();
                            (durable..=n).for_each(|n| self.tell(format_args!("w {writer} {n}")));
                            durable = n + 1;
                        }
                    }
                });
            }
        });
        loop {
            pause(Duration::from_secs(1));
        }
    }

    /// Tells what was acknowledged, in one write, so that lines of several threads do not mix.
    fn tell(&self, line: std::fmt::Arguments<'_>) {
        (&self.acknowledged).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn tell_error(&self, error: &StoreError) {
        self.failed.store(true, Ordering::Relaxed);
        self.tell(format_args!("e {}", error.to_string().replace('\n', " ")));
    }

    /// One write after the other, each on this thread.
    fn write_waiting(&self, writer: u64) {
        for n in self.first.. {
            match self.store.apply(work::batch(writer, n)) {
                Ok(outcomes) => {
                    assert_eq!(outcomes, [Outcome::Applied; 2]);
                    self.tell(format_args!("w {writer} {n}"));
                }
                Err(error) => return self.tell_error(&error),
            }
        }
    }

    /// Some writes at a time, committed by the worker.
    fn write_ahead(&self, writer: u64) {
        let (tell, told) = mpsc::channel();
        let mut waiting = 0;
        for n in self.first.. {
            let tell = tell.clone();
            let done = move |result: Result<Vec<Outcome>, StoreError>| tell.send((n, result)).unwrap_or_default();
            self.store.submit(work::batch(writer, n), Box::new(done));
            waiting += 1;
            if waiting < WINDOW {
                continue;
            }
            let (n, result) = told.recv().unwrap();
            waiting -= 1;
            match result {
                Ok(_) => self.tell(format_args!("w {writer} {n}")),
                Err(error) => return self.tell_error(&error),
            }
        }
    }

    /// One write after the other; one that finds the disk full is tried again until it is told that writing has stopped.
    fn persevere(&self) {
        for n in self.first.. {
            while let Err(error) = self.store.apply(work::batch(0, n)) {
                self.tell_error(&error);
                if matches!(error, StoreError::Stopped { .. }) {
                    return;
                }
                pause(Duration::from_millis(20));
            }
            self.tell(format_args!("w 0 {n}"));
        }
    }

    /// Writes a row, and another while no sync returns: the other must not be seen, however it is looked for.
    fn peek(self: &Arc<Self>) {
        let (durable, held) = (self.first + 1, self.first + 2);
        self.store.apply(work::batch(0, durable)).unwrap();
        std::fs::write(std::env::var_os("FSYNC_HOLD_WHEN").unwrap(), "").unwrap();
        let child = Arc::clone(self);
        let write = move || child.store.apply(work::batch(0, held)).map(|_| child.tell(format_args!("w 0 {held}")));
        std::thread::Builder::new().spawn(write).unwrap();
        let (record, clock) = (PathBuf::from(std::env::var_os("FSYNC_HELD").unwrap()), SystemClock::new(0));
        while !std::fs::read_to_string(&record).is_ok_and(|held| held.contains(".log\n")) {
            assert!(clock.monotonic_ms() < 120_000, "the write is never synced");
            pause(Duration::from_millis(1));
        }
        let [keys, held_keys] = [durable, held].map(|n| work::keys(0, n));
        for _ in 0..200 {
            for key in &held_keys {
                assert_eq!(self.store.get(work::table(0), key), Ok(None), "seen before it is durable");
            }
            let page = ScanRequest::all(work::table(0), Scope::Prefix("writer".into()), self.store.limits());
            let found = self.store.scan(&page).unwrap().rows;
            assert!(found.iter().map(|row| &row.key).eq(&keys), "seen before it is durable");
            pause(Duration::from_millis(1));
        }
        self.tell(format_args!("w 0 {durable}"));
    }

    fn keep_hints(&self, keeper: u64) {
        // Hints are on a log of their own: what happens to them stops no writes, and they go on when writes have stopped.
        let goes_on = || !self.failed.load(Ordering::Relaxed);
        if let Err(error) = self.hints.work(keeper, self.first, goes_on, |line| self.tell(line)) {
            self.tell(format_args!("e {error}"));
        }
    }

    fn keep_marks(&self) {
        // As hints do.
        let goes_on = || !self.failed.load(Ordering::Relaxed);
        if let Err(error) = self.marks.work(self.first, goes_on, |line| self.tell(line)) {
            self.tell(format_args!("e {error}"));
        }
    }

    /// Rows that are written, deleted and purged, in the first partition.
    fn purge(&self) {
        for n in self.first.. {
            if let Err(error) = self.purge_one(n) {
                return self.tell_error(&error);
            }
            self.tell(format_args!("p {n}"));
        }
    }

    fn purge_one(&self, n: u64) -> Result<(), StoreError> {
        let (table, partition, horizon) = (work::PURGED, PartitionId(0), Hlc(2 * n + 1));
        let key = work::purged_key(n);
        let mutation = |record| Batch::of(Mutation { table, key: key.clone(), record, claim: None });
        let version = |hlc| Version::new(Hlc(hlc), NodeId(1));
        self.store.apply(mutation(Record::value(version(2 * n), format!("purged:{n}"))))?;
        self.store.apply(mutation(Record::tombstone(version(2 * n + 1))))?;
        self.store.begin_proof(table, partition)?;
        assert!(self.store.end_proof(table, partition, horizon)?);
        self.store.raise_floor(table, partition, horizon)?;
        self.store.purge_step(table, partition, None, usize::MAX).map(drop)
    }

    fn fence(&self) {
        for epoch in self.first.. {
            if let Err(error) = self.store.fence(work::PLACEMENT, PartitionId(0), Epoch(epoch)) {
                return self.tell_error(&error);
            }
            self.tell(format_args!("f {epoch}"));
        }
    }

    /// Asserts that a store that could not write writes nothing more, and that reads go on.
    fn after_a_failure(&self) {
        for writer in 0..work::WRITERS {
            let refused = self.store.apply(work::batch(writer, u64::MAX / 2));
            assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");
            let read = self.store.get(work::table(writer), &work::keys(writer, self.first)[0]);
            assert!(matches!(read, Ok(Some(_))), "{read:?}");
        }
        self.tell(format_args!("e stopped"));
    }
}
