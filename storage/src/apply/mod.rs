//! The one write path: everything that changes a row passes here, whoever brings it.
//!
//! What it owes, in this order, for every group of batches that waited together:
//! 1. refuse what comes too late, and what the limits, the room on the disk, an unknown table or the partition's fence
//!    forbid;
//! 2. look up what the rows hold, remembered from the last writes or read in one multi-get, and keep the winners;
//! 3. put rows, key index, Merkle leaves and the notes they touch into ONE engine write, synced once for all;
//! 4. take the same change into the trees in memory and into the leaf that is scrubbed, and only then tell those who wait.
//!
//! Idempotent and commutative: batches may come twice, in any order and in any split, and the node ends the same.
//! A failed write leaves the log's end unknown, so it stops all writing until the engine is opened anew; only a full
//! disk passes by itself. Whether a write that found it full happened is not known either, so memory keeps the more
//! cautious state of the partitions, and what was not noted of it goes with the next write. A panic stops writing like a
//! failed write, and those who wait are told so, each once.

mod group;
mod queue;
mod recent;
mod resolve;
mod warm;
mod worker;

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use self::group::Group;
pub use self::queue::{Done, TimeLimit, Waiting};
pub(crate) use self::queue::{Job, Queue, Wake};
pub(crate) use self::recent::RecentRows;
pub use self::warm::WarmPlace;
pub use self::worker::ApplyWorker;
use crate::engine::{Durability, Writes};
use crate::error::StoreError;
use crate::model::{Batch, Body, Origin, Outcome};
use crate::panics::caught;
use crate::space::Writer;
use crate::store::{Commit, Store};

impl Store {
    /// Queues a batch and returns at once. `done` is told when its outcome is durable, or why there is none.
    pub fn submit(&self, batch: Batch, done: Done) {
        self.submit_within(batch, None, done);
    }

    /// The same with a limit: what still waits then is not applied, and refused as [`StoreError::DeadlinePassed`].
    pub fn submit_within(&self, batch: Batch, limit: Option<TimeLimit>, done: Done) {
        if let Err(invalid) = batch.check(&self.limits) {
            return done(Err(invalid.into()));
        }
        if let Err((refused, done)) = self.queue.push(batch, limit, done) {
            done(Err(refused));
        }
    }

    /// Applies a batch and waits until its outcome is durable. The caller's thread does the work of all that wait, or
    /// the worker does it for the caller, whoever comes first.
    pub fn apply(&self, batch: Batch) -> Result<Vec<Outcome>, StoreError> {
        let told = Arc::new(Told::default());
        let teller = Teller(Arc::clone(&told));
        self.submit(batch, Box::new(move |result| teller.tell(result)));
        // Others may have queued more than one group before this batch.
        while told.result.lock().is_none() && self.run_pending() {}
        told.wait()
    }

    /// Commits one group of what waits, if anything does. Whether there was something.
    pub fn run_pending(&self) -> bool {
        self.commit_pending() > 0
    }

    /// The same; how many batches the group had.
    pub(crate) fn commit_pending(&self) -> usize {
        // The lock comes before the group is taken: groups are committed in the order they were queued.
        let mut commit = self.commit.lock();
        let jobs = self.queue.take_group();
        if jobs.is_empty() {
            return 0;
        }
        let batches = jobs.len();
        // A panic must not end the one thread that commits: whoever waits would wait for ever.
        let results = caught(|| self.commit_group(&mut commit, &jobs)).unwrap_or_else(|cause| {
            let stopped = self.stop(&mut commit, format!("committing a group panicked: {cause}"));
            jobs.iter().map(|_| Err(stopped.clone())).collect()
        });
        drop(commit);
        for (job, result) in jobs.into_iter().zip(results) {
            // One that panics must not keep the others of its group from being told.
            if let Err(cause) = caught(|| (job.done)(result)) {
                self.stop(&mut self.commit.lock(), format!("a callback of a write panicked: {cause}"));
            }
        }
        batches
    }

    /// Drops what waits to be committed without calling anyone back, as the end of the process would. Threads inside
    /// [`Store::apply`] are told that writes have stopped.
    pub fn abandon_pending(&self) {
        self.queue.abandon();
    }

    /// Bytes and batches that wait to be committed.
    pub fn queue_depth(&self) -> (usize, usize) {
        self.queue.depth()
    }

    /// Makes durable what tables with a sync interval have acknowledged since the last sync.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        self.sync_locked(&mut commit)
    }

    pub(crate) fn sync_locked(&self, commit: &mut Commit) -> Result<(), StoreError> {
        if !commit.unsynced {
            return Ok(());
        }
        commit.check_running()?;
        self.engine.sync().map_err(|error| self.write_failed(commit, error))?;
        commit.unsynced = false;
        Ok(())
    }

    fn commit_group(&self, commit: &mut Commit, jobs: &[Job]) -> Vec<Result<Vec<Outcome>, StoreError>> {
        if let Err(stopped) = commit.check_running() {
            return jobs.iter().map(|_| Err(stopped.clone())).collect();
        }
        let room = self.admission.look(self.engine.as_ref());
        let mut group = Group::new(self, jobs, |batch| room.admit(writer_of(batch)));
        if let Err(error) = group.read(self.engine.as_ref(), &mut commit.recent) {
            return jobs.iter().map(|_| Err(error.clone().into())).collect();
        }
        group.resolve(&mut self.partitions.write());
        // Whatever becomes of the group.
        group.damage().iter().for_each(|damaged| self.damage.report(damaged.clone()));
        match self.write_group(commit, &mut group) {
            Ok(()) => group.into_results(),
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn write_group(&self, commit: &mut Commit, group: &mut Group<'_>) -> Result<(), StoreError> {
        if group.is_unchanged() {
            // Even a row that was there already is only told once it is durable.
            return if group.durability() == Durability::Synced { self.sync_locked(commit) } else { Ok(()) };
        }
        let durability = group.durability();
        let mut fill = |writes: &mut dyn Writes| {
            commit.fill_unnoted(writes);
            group.fill(writes);
        };
        if let Err(error) = self.engine.write(durability, &mut fill) {
            // What the partitions were told stays in memory, where it is only cautious. On disk it must not come after
            // the row that it is about.
            commit.unnoted.extend(group.take_notes());
            return Err(self.write_failed(commit, error));
        }
        commit.unnoted.clear();
        commit.unsynced = durability == Durability::Buffered;
        group.remember(&mut commit.recent);
        if let Some(watch) = &mut commit.watch {
            group.row_changes().for_each(|change| watch.note(change));
        }
        let mut forest = self.forest.lock();
        for &(table, leaf, delta) in group.leaf_deltas() {
            forest.add(table, leaf, delta);
        }
        group.young().iter().for_each(|change| forest.note_young(*change));
        group.mortal().for_each(|(table, leaf, from)| forest.dead.note(table, leaf.partition(), from));
        drop(forest);
        self.counters.count_group(group.changed_rows());
        Ok(())
    }
}

/// What a thread that waits for its batch is told.
#[derive(Default)]
struct Told {
    result: Mutex<Option<Result<Vec<Outcome>, StoreError>>>,
    is_there: Condvar,
}

impl Told {
    fn wait(&self) -> Result<Vec<Outcome>, StoreError> {
        let mut result = self.result.lock();
        loop {
            match result.take() {
                Some(result) => return result,
                None => self.is_there.wait(&mut result),
            }
        }
    }
}

/// Tells a waiting thread, also when its batch is dropped: it would wait for ever.
struct Teller(Arc<Told>);

impl Teller {
    fn tell(&self, result: Result<Vec<Outcome>, StoreError>) {
        self.0.result.lock().get_or_insert(result);
        self.0.is_there.notify_one();
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // Nobody hears it who was told before.
        self.tell(Err(StoreError::Stopped { cause: "what waited to be written was dropped".into() }));
    }
}

/// Deletions and what repairs are welcome for longer than what takes room for a client.
fn writer_of(batch: &Batch) -> Writer {
    let frees = batch.mutations.iter().all(|m| matches!(m.record.body, Body::Tombstone));
    match batch.origin {
        Origin::Client if !frees => Writer::Client,
        Origin::Client | Origin::Hint | Origin::Replica { .. } => Writer::Upkeep,
    }
}
