//! The node's own threads: what must go on whatever the async runtime is busy with.
//!
//! One ticks the coordinator, some write hints, some run the background workers. Each ends when it is told to and is
//! joined, so that nothing touches the store after it was closed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use cube_replication::clock::NodeClock;
use cube_replication::coordinator::Coordinator;
use cube_replication::handoff::HintedHandoff;
use cube_replication::worker::Workers;

use super::bell::Bell;

/// How exactly deadlines are kept: requests run for seconds.
const TICK_MS: u64 = 5;
/// How long the thread that looks at deadlines rests while there are none.
const REST_MS: u64 = 500;
/// Threads for background workers: two long steps (a scan, a clearing, a scrub) leave another one for the rest.
const WORKER_THREADS: usize = 3;
/// Threads that write hints: with as many nodes down a write still waits for one sync only.
const HINT_THREADS: usize = 4;
/// How long a thread waits at the most before it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A node without one of these threads would accept requests and never end them: it rather dies, and is started again.
struct EndWithMe;

impl Drop for EndWithMe {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the node panicked: the process ends");
            std::process::abort();
        }
    }
}

/// Threads that run until they are stopped.
#[derive(Default)]
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
    bells: Vec<Arc<Bell>>,
}

impl Threads {
    /// Ends operations whose time is over, and rests while there are none.
    pub(crate) fn tick(&mut self, coordinator: Arc<Coordinator>, clock: Arc<NodeClock>) -> io::Result<()> {
        let bell = Arc::new(Bell::default());
        self.bells.push(Arc::clone(&bell));
        let wake = Arc::clone(&bell);
        coordinator.wake_by(Box::new(move || wake.ring()));
        self.start("cube-tick", move || {
            coordinator.tick();
            let now_ms = clock.monotonic_ms();
            let next_ms = coordinator.next_tick_ms(now_ms + TICK_MS, now_ms + REST_MS);
            bell.wait(Duration::from_millis(next_ms.saturating_sub(clock.monotonic_ms())));
        })
    }

    /// Writes hints and marks whenever the bell is rung.
    pub(crate) fn flush(&mut self, handoff: &Arc<HintedHandoff>, bell: &Arc<Bell>) -> io::Result<()> {
        self.bells.push(Arc::clone(bell));
        for number in 0..HINT_THREADS {
            let (handoff, bell) = (Arc::clone(handoff), Arc::clone(bell));
            self.start(&format!("cube-hints-{number}"), move || {
                bell.wait(LOOK_EVERY);
                handoff.flush();
            })?;
        }
        Ok(())
    }

    /// Runs background workers; the bell is rung when one was woken.
    pub(crate) fn work(&mut self, workers: &Arc<Workers>, clock: &Arc<NodeClock>, bell: &Arc<Bell>) -> io::Result<()> {
        self.bells.push(Arc::clone(bell));
        for number in 0..WORKER_THREADS {
            let (workers, clock, bell) = (Arc::clone(workers), Arc::clone(clock), Arc::clone(bell));
            self.start(&format!("cube-work-{number}"), move || {
                let now_ms = clock.monotonic_ms();
                let next_ms = workers.run_due(now_ms);
                let wait = next_ms.map_or(LOOK_EVERY, |next_ms| {
                    Duration::from_millis(next_ms.saturating_sub(clock.monotonic_ms())).min(LOOK_EVERY)
                });
                // A worker that has more to do is stepped again at once.
                if !wait.is_zero() {
                    bell.wait(wait);
                }
            })?;
        }
        Ok(())
    }

    fn start(&mut self, name: &str, step: impl Fn() + Send + 'static) -> io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let run = move || {
            let _guard = EndWithMe;
            while !stop.load(Ordering::Acquire) {
                step();
            }
        };
        self.running.push(Builder::new().name(name.into()).spawn(run)?);
        Ok(())
    }

    /// Lets every thread finish what it does, and waits for it.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bells.iter().for_each(|bell| bell.ring());
        for thread in self.running.drain(..) {
            let name = thread.thread().name().unwrap_or("a thread").to_owned();
            if thread.join().is_err() {
                tracing::error!(%name, "it panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}
