//! Threads that read from storage for peers.
//!
//! A read may wait for the disk, and a page may be long. On the thread of a connection it would hold up that connection's
//! other frames and pings, and every other task of the thread. So reads are handed over, those of a frame together; they
//! are bounded by the requests that connections let in.
//!
//! Invariant: a job that panics ends neither its thread nor those that wait behind it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// What is to be read.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end when this is dropped, each after the job it is at.
pub(super) struct Readers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    idle: usize,
    is_over: bool,
}

impl Readers {
    /// Starts so many threads.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let readers = Self { shared: Arc::default() };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&readers.shared);
            std::thread::Builder::new().name(format!("cube-reads-{number}")).spawn(move || shared.work())?;
        }
        Ok(readers)
    }

    /// Has a job done, after those that wait already.
    pub(super) fn submit(&self, job: Job) {
        let mut state = self.shared.state.lock();
        state.waiting.push_back(job);
        let somebody_sleeps = state.idle > 0;
        drop(state);
        if somebody_sleeps {
            self.shared.ready.notify_one();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        while !state.is_over {
            let Some(job) = state.waiting.pop_front() else {
                state.idle += 1;
                self.ready.wait(&mut state);
                state.idle -= 1;
                continue;
            };
            drop(state);
            // What it left undone gives its places back as it is dropped; the panic itself is logged by the hook.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a read for a peer panicked");
            }
            state = self.state.lock();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_over = true;
        let unread = std::mem::take(&mut state.waiting);
        drop(state);
        drop(unread);
        self.shared.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_job_is_done_also_behind_one_that_panics_and_beside_one_that_stands_still() {
        let readers = Readers::start(2).unwrap();
        let (let_go, held) = mpsc::channel::<()>();
        readers.submit(Box::new(move || _ = held.recv()));
        readers.submit(Box::new(|| panic!("on purpose")));
        let (told, done) = mpsc::channel();
        for number in 0..100 {
            let told = told.clone();
            readers.submit(Box::new(move || told.send(number).unwrap()));
        }
        let all: Vec<u32> = done.iter().take(100).collect();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        drop(let_go);
    }

    #[test]
    fn what_nobody_reads_any_more_is_let_go() {
        let readers = Readers::start(1).unwrap();
        let (let_go, held) = mpsc::channel::<()>();
        readers.submit(Box::new(move || _ = held.recv()));
        let (told, done) = mpsc::channel::<()>();
        readers.submit(Box::new(move || drop(told)));
        drop(readers);
        assert!(done.recv().is_err());
        drop(let_go);
    }
}
