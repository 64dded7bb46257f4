//! What waits for the one write path: batches and who is to be told.
//!
//! Bounded by bytes: past the bound a batch is refused at once, so that a slow disk is felt as refusals and not as
//! memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::error::StoreError;
use crate::model::{Batch, Outcome};

/// Told once what came of a batch: one outcome for each mutation, in their order. Runs on the thread that commits, so
/// it hands the news on and does no work.
pub type Done = Box<dyn FnOnce(Result<Vec<Outcome>, StoreError>) + Send>;

/// Until when a batch is worth applying. Who asked for it has given it up by then, and may have asked elsewhere.
#[derive(Clone)]
pub struct TimeLimit {
    clock: Arc<dyn Clock>,
    at_ms: u64,
}

impl TimeLimit {
    /// So many milliseconds from now.
    pub fn within(clock: Arc<dyn Clock>, time_left_ms: u64) -> Self {
        let at_ms = clock.monotonic_ms().saturating_add(time_left_ms);
        Self { clock, at_ms }
    }

    fn is_over(&self) -> bool {
        self.clock.monotonic_ms() >= self.at_ms
    }
}

/// Bytes committed at once. Large enough to share an fsync among all that wait, small enough that the last of them
/// does not wait long for the first.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Mutations committed at once.
const GROUP_ROWS_MAX: usize = 4096;
/// With so many bytes a group waits for no others.
const GATHER_BYTES_MAX: usize = 1 << 20;
/// What a waiting mutation costs besides its bytes.
const MUTATION_OVERHEAD_BYTES: usize = 256;

/// What waits to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Batches.
    pub batches: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Bytes that may wait.
    pub bytes_max: usize,
}

pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) done: Done,
    limit: Option<TimeLimit>,
    bytes: usize,
}

impl Job {
    /// What is too late is refused before anything of it is looked at.
    pub(crate) fn check_time(&self) -> Result<(), StoreError> {
        if self.limit.as_ref().is_some_and(TimeLimit::is_over) { Err(StoreError::DeadlinePassed) } else { Ok(()) }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Whoever waits for work is to stop.
    closed: bool,
    /// Whoever waits for work is to look again at how long it should.
    nudged: bool,
    /// Batches that are not worth a wake-up: whoever waits for work waits for more.
    too_few: usize,
}

pub(crate) struct Queue {
    bytes_max: usize,
    state: Mutex<State>,
    work: Condvar,
}

/// Why waiting for work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Work,
    TimedOut,
    Nudged,
    Closed,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), work: Condvar::new() }
    }

    /// Puts a batch at the end, or hands it back with the reason.
    pub(crate) fn push(&self, batch: Batch, limit: Option<TimeLimit>, done: Done) -> Result<(), (StoreError, Done)> {
        let bytes = batch.len_bytes() + batch.mutations.len() * MUTATION_OVERHEAD_BYTES;
        let mut state = self.state.lock();
        if state.closed {
            // Nobody takes it any more, and whoever waits for it would wait for ever.
            return Err((StoreError::Stopped { cause: "the thread that commits has ended".into() }, done));
        }
        // A batch larger than the bound still passes when it is alone: its own limit is another one.
        if state.bytes > 0 && state.bytes + bytes > self.bytes_max {
            let refused = StoreError::Overloaded { queued_bytes: state.bytes, limit_bytes: self.bytes_max };
            return Err((refused, done));
        }
        state.bytes += bytes;
        state.jobs.push_back(Job { batch, done, limit, bytes });
        let is_awaited = state.jobs.len() > state.too_few || state.bytes >= GATHER_BYTES_MAX;
        drop(state);
        if is_awaited {
            self.work.notify_one();
        }
        Ok(())
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> Waiting {
        let state = self.state.lock();
        Waiting { batches: state.jobs.len(), bytes: state.bytes, bytes_max: self.bytes_max }
    }

    /// Takes what is to be committed together; nothing when nothing waits.
    pub(crate) fn take_group(&self) -> Vec<Job> {
        let mut state = self.state.lock();
        let (mut bytes, mut rows) = (0, 0);
        let mut group = Vec::with_capacity(state.jobs.len().min(GROUP_ROWS_MAX));
        while let Some(job) = state.jobs.pop_front() {
            bytes += job.bytes;
            rows += job.batch.mutations.len();
            group.push(job);
            if bytes >= GROUP_BYTES_MAX || rows >= GROUP_ROWS_MAX {
                break;
            }
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        group
    }

    /// Blocks until there is work, the queue is closed, the time is over, or it was nudged. Also when what there was is
    /// gone again, taken by another thread: the time would begin anew each time, and never be over.
    pub(crate) fn wait(&self, timeout_ms: Option<u64>) -> Wake {
        let mut state = self.state.lock();
        let mut timed_out = false;
        if state.jobs.is_empty() && !state.closed && !state.nudged {
            match timeout_ms.map(Duration::from_millis) {
                None => self.work.wait(&mut state),
                Some(timeout) => timed_out = self.work.wait_for(&mut state, timeout).timed_out(),
            }
        }
        if !state.jobs.is_empty() {
            Wake::Work
        } else if state.closed {
            Wake::Closed
        } else if std::mem::take(&mut state.nudged) || !timed_out {
            Wake::Nudged
        } else {
            Wake::TimedOut
        }
    }

    /// Blocks until so many batches wait, they are large, the queue is closed, or the time is over. Those that come before
    /// wake nobody.
    pub(crate) fn gather(&self, batches: usize, timeout_ms: u64) {
        let mut state = self.state.lock();
        if state.closed || state.jobs.len() >= batches || state.bytes >= GATHER_BYTES_MAX {
            return;
        }
        state.too_few = batches - 1;
        self.work.wait_for(&mut state, Duration::from_millis(timeout_ms));
        state.too_few = 0;
    }

    /// Lets whoever waits look again at how long it should.
    pub(crate) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.work.notify_all();
    }

    /// Lets whoever waits go, once all that waits is done. Nothing more is taken in.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }

    /// Drops what waits without telling anyone.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.bytes = 0;
        let abandoned = std::mem::take(&mut state.jobs);
        // What the callbacks hold may use the store when it is dropped.
        drop(state);
        drop(abandoned);
    }

    /// Bytes and batches that wait.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.bytes, state.jobs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mutation, Record, RowKey, TableId, Version};

    fn batch(value_bytes: usize) -> Batch {
        Batch::of(Mutation {
            table: TableId(1),
            key: RowKey::of("k"),
            record: Record::value(Version::ZERO, vec![0; value_bytes]),
            claim: None,
        })
    }

    fn nobody() -> Done {
        Box::new(|_| {})
    }

    #[test]
    fn past_its_bound_the_queue_refuses_and_afterwards_accepts_again() {
        let queue = Queue::new(10_000);
        assert!(queue.push(batch(8_000), None, nobody()).is_ok());
        let Err((refused, _)) = queue.push(batch(8_000), None, nobody()) else { panic!("the bound was passed") };
        assert!(matches!(refused, StoreError::Overloaded { limit_bytes: 10_000, .. }), "{refused}");
        assert_eq!(queue.take_group().len(), 1);
        assert_eq!(queue.depth(), (0, 0));
        assert!(queue.push(batch(50_000), None, nobody()).is_ok(), "alone, a batch of any size passes");
    }

    #[test]
    fn a_group_ends_at_its_bounds_and_keeps_the_order() {
        let queue = Queue::new(usize::MAX);
        for _ in 0..3 {
            assert!(queue.push(batch(GROUP_BYTES_MAX / 2), None, nobody()).is_ok());
        }
        assert_eq!(queue.take_group().len(), 2);
        assert_eq!(queue.take_group().len(), 1);
        assert!(queue.take_group().is_empty());
    }

    #[test]
    fn what_is_gathered_is_waited_for_until_it_is_there_or_large_or_the_time_is_over_or_all_of_it_ends() {
        const LONG_MS: u64 = 600_000;
        let queue = Queue::new(usize::MAX);
        let push = |bytes| assert!(queue.push(batch(bytes), None, nobody()).is_ok());
        push(1);
        queue.gather(1, LONG_MS);
        queue.gather(2, 1);
        assert_eq!(queue.depth().1, 1);
        std::thread::scope(|scope| {
            let gathered = scope.spawn(|| queue.gather(3, LONG_MS));
            push(1);
            push(1);
            gathered.join().unwrap();
            let gathered = scope.spawn(|| queue.gather(100, LONG_MS));
            push(GATHER_BYTES_MAX);
            gathered.join().unwrap();
            queue.take_group();
            let gathered = scope.spawn(|| queue.gather(100, LONG_MS));
            queue.close();
            gathered.join().unwrap();
        });
        queue.gather(100, LONG_MS);
    }

    #[test]
    fn closing_lets_go_only_when_the_work_is_done() {
        let queue = Queue::new(usize::MAX);
        assert!(queue.push(batch(1), None, nobody()).is_ok());
        queue.close();
        let Err((refused, _)) = queue.push(batch(1), None, nobody()) else { panic!("nobody would take it") };
        assert!(matches!(refused, StoreError::Stopped { .. }), "{refused}");
        assert_eq!(queue.wait(None), Wake::Work);
        assert_eq!(queue.take_group().len(), 1);
        assert_eq!(queue.wait(None), Wake::Closed);
    }

    #[test]
    fn a_nudge_is_not_missed_and_ends_one_wait() {
        let queue = Queue::new(usize::MAX);
        queue.nudge();
        assert_eq!(queue.wait(None), Wake::Nudged);
        assert_eq!(queue.wait(Some(1)), Wake::TimedOut);
    }
}
