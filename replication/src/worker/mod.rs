//! The runner of all background loops: hint replay, anti-entropy, streams, purge, scrub.
//!
//! A loop is a [`Worker`]: plain, synchronous code that does one bounded step and says when it wants the next one. Here
//! is what all of them have in common, so that none has its own idea of it: backoff after errors, pause and resume,
//! drain, and a status that REST and the shell show. Nothing here has a thread, a clock or randomness of its own: whoever
//! drives it (threads in the server, events in the simulator) calls [`Workers::run_due`] and comes back when it says.
//!
//! What it keeps true: a worker that fails or panics is tried again, ever more rarely, and never keeps another one from
//! its steps; a step under way is always finished; behind a drain nobody steps.

mod backoff;
mod entry;
mod status;

use std::error::Error;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::RngCore;
use thiserror::Error;

pub use self::backoff::Backoff;
use self::entry::Entry;
pub use self::status::{WorkerState, WorkerStatus};

/// Why a step failed. The runner only shows it: what can go wrong is each worker's own.
pub type StepError = Box<dyn Error + Send + Sync>;

/// A background loop.
pub trait Worker: Send {
    /// What it is called in the status, and nobody else is.
    fn name(&self) -> &str;

    /// Does a bounded piece of work. It may be called again after an error or a panic, so whatever it keeps between
    /// steps must stand for itself after any part of a step.
    fn step(&mut self, now_ms: u64) -> Result<Step, StepError>;
}

/// What a worker wants after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It got on, and has more to do.
    Busy,
    /// It has nothing to do until then, or until it is woken.
    Idle {
        /// When to step again.
        until_ms: u64,
    },
    /// It has work, and has used up what it may use of a shared budget until then.
    Throttled {
        /// When to step again.
        until_ms: u64,
    },
    /// It is done for good.
    Done,
}

/// Workers that are done stay visible, up to so many: the oldest goes first.
pub const STOPPED_KEPT_MAX: usize = 64;

/// All background loops of a node.
pub struct Workers {
    backoff: Backoff,
    random: Mutex<Box<dyn RngCore + Send>>,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    /// In the order of registration.
    entries: Vec<Arc<Entry>>,
    /// When those that still run are overdue. Nobody begins behind it.
    drain: Option<u64>,
}

/// A worker cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CannotBegin {
    /// Another one of that name runs.
    #[error("a worker named {name:?} runs already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The node stops.
    #[error("the node is being drained, so {name:?} does not begin")]
    Draining {
        /// The name.
        name: String,
    },
}

/// There is no such worker.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no worker named {name:?}")]
pub struct UnknownWorker {
    /// The name.
    pub name: String,
}

/// How far a drain has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nobody has asked for it.
    NotAsked,
    /// These finish their step.
    Waiting(Vec<String>),
    /// Their time is over, and these have still not finished their step.
    Overdue(Vec<String>),
    /// Nobody steps any more.
    Complete,
}

impl Workers {
    /// Without any worker yet. `random` only spreads what is tried again after an error.
    pub fn new(backoff: Backoff, random: impl RngCore + Send + 'static) -> Self {
        Self { backoff, random: Mutex::new(Box::new(random)), registry: Mutex::default() }
    }

    /// Takes a worker in; its first step is due at once.
    pub fn begin(&self, worker: Box<dyn Worker>) -> Result<(), CannotBegin> {
        let name = worker.name().to_owned();
        let mut registry = self.registry.lock();
        if registry.drain.is_some() {
            return Err(CannotBegin::Draining { name });
        }
        if registry.entries.iter().any(|entry| entry.name == name && !entry.is_stopped()) {
            return Err(CannotBegin::NameTaken { name });
        }
        registry.entries.retain(|entry| entry.name != name);
        registry.forget_old();
        registry.entries.push(Arc::new(Entry::new(name, worker)));
        Ok(())
    }

    /// Has every worker that is due do one step. When the next one is due; nothing while none is to be run.
    ///
    /// May be called from several threads: a worker that steps on another one is left to it.
    pub fn run_due(&self, now_ms: u64) -> Option<u64> {
        for entry in self.entries() {
            entry.run_if_due(now_ms, &self.backoff, &self.random);
        }
        self.entries().iter().filter_map(|entry| entry.next_run_ms()).map(|due_ms| due_ms.max(now_ms)).min()
    }

    /// Every worker's status, in the order of registration.
    pub fn statuses(&self) -> Vec<WorkerStatus> {
        self.entries().iter().map(|entry| entry.status()).collect()
    }

    /// Has a worker step as soon as possible: something happened that it waits for. One that is paused stays so, and one
    /// that backs off after an error takes it as a reason to try again.
    pub fn wake(&self, name: &str, now_ms: u64) -> Result<(), UnknownWorker> {
        self.find(name).map(|entry| entry.wake(now_ms))
    }

    /// Has a worker not step again until it is resumed. A step under way is finished.
    pub fn pause(&self, name: &str) -> Result<(), UnknownWorker> {
        self.find(name).map(|entry| entry.pause())
    }

    /// Has a paused worker go on at once.
    pub fn resume(&self, name: &str, now_ms: u64) -> Result<(), UnknownWorker> {
        self.find(name).map(|entry| entry.resume(now_ms))
    }

    /// Asks all to stop, within the time until `deadline_ms`. Steps under way are finished, none begins.
    pub fn drain(&self, deadline_ms: u64) {
        let mut registry = self.registry.lock();
        registry.drain.get_or_insert(deadline_ms);
        registry.entries.iter().for_each(|entry| entry.stop());
    }

    /// How far the drain has come.
    pub fn drained(&self, now_ms: u64) -> Drain {
        let registry = self.registry.lock();
        let Some(deadline_ms) = registry.drain else { return Drain::NotAsked };
        let left = registry.entries.iter().filter(|entry| !entry.is_stopped());
        let left: Vec<String> = left.map(|entry| entry.name.clone()).collect();
        match left.is_empty() {
            true => Drain::Complete,
            false if now_ms >= deadline_ms => Drain::Overdue(left),
            false => Drain::Waiting(left),
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.registry.lock().entries.clone()
    }

    fn find(&self, name: &str) -> Result<Arc<Entry>, UnknownWorker> {
        let registry = self.registry.lock();
        let found = registry.entries.iter().find(|entry| entry.name == name);
        found.cloned().ok_or_else(|| UnknownWorker { name: name.to_owned() })
    }
}

impl Registry {
    /// Makes room among those that are only shown.
    fn forget_old(&mut self) {
        let stopped = self.entries.iter().filter(|entry| entry.is_stopped()).count();
        let mut surplus = (stopped + 1).saturating_sub(STOPPED_KEPT_MAX);
        self.entries.retain(|entry| {
            let forgotten = surplus > 0 && entry.is_stopped();
            surplus -= usize::from(forgotten);
            !forgotten
        });
    }
}

#[cfg(test)]
mod tests;
