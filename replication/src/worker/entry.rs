//! One worker in the runner: whether it is due, its step, and what the step means for its status.

use cube_storage::caught;
use parking_lot::Mutex;
use rand::RngCore;

use super::{Backoff, Step, StepError, Worker, WorkerState, WorkerStatus};

pub(super) struct Entry {
    pub(super) name: String,
    /// Locked while it steps.
    worker: Mutex<Box<dyn Worker>>,
    /// Never locked while it steps, so that it can be shown and told meanwhile.
    record: Mutex<Record>,
}

struct Record {
    status: WorkerStatus,
    wanted: Wanted,
    is_stepping: bool,
    /// It was woken while it stepped: the wait that the step asks for does not count.
    is_woken: bool,
}

/// What the operator wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    Stop,
}

impl Entry {
    pub(super) fn new(name: String, worker: Box<dyn Worker>) -> Self {
        let status = WorkerStatus {
            name: name.clone(),
            state: WorkerState::Running,
            last_progress_ms: None,
            steps: 0,
            errors: 0,
            consecutive_errors: 0,
            last_error: None,
            next_run_ms: Some(0),
        };
        let record = Record { status, wanted: Wanted::Run, is_stepping: false, is_woken: false };
        Self { name, worker: Mutex::new(worker), record: Mutex::new(record) }
    }

    /// Does a step if the time has come and nobody else does one.
    pub(super) fn run_if_due(&self, now_ms: u64, backoff: &Backoff, random: &Mutex<Box<dyn RngCore + Send>>) {
        // Held by who steps it: another thread, or this one further up, when a step drives the runner.
        let Some(mut worker) = self.worker.try_lock() else { return };
        let mut record = self.record.lock();
        if !record.is_due(now_ms) {
            return;
        }
        (record.is_stepping, record.is_woken) = (true, false);
        record.status.state = WorkerState::Running;
        drop(record);
        let result = caught(|| worker.step(now_ms)).unwrap_or_else(|cause| Err(format!("panicked: {cause}").into()));
        drop(worker);
        self.record.lock().note(result, now_ms, backoff, random);
    }

    pub(super) fn wake(&self, now_ms: u64) {
        let mut record = self.record.lock();
        record.is_woken = record.is_stepping;
        if record.wanted == Wanted::Run && record.status.next_run_ms.is_some() {
            record.status.next_run_ms = Some(now_ms);
        }
    }

    pub(super) fn pause(&self) {
        let mut record = self.record.lock();
        if record.wanted == Wanted::Run {
            record.want(Wanted::Pause);
        }
    }

    pub(super) fn resume(&self, now_ms: u64) {
        let mut record = self.record.lock();
        if record.wanted == Wanted::Pause {
            record.wanted = Wanted::Run;
            record.status.state = WorkerState::Running;
            record.status.next_run_ms = Some(now_ms);
        }
    }

    pub(super) fn stop(&self) {
        self.record.lock().want(Wanted::Stop);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.record.lock().status.state == WorkerState::Stopped
    }

    /// When it is to step; nothing while somebody steps it, who will come back for it.
    pub(super) fn next_run_ms(&self) -> Option<u64> {
        let record = self.record.lock();
        if record.is_stepping { None } else { record.status.next_run_ms }
    }

    pub(super) fn status(&self) -> WorkerStatus {
        self.record.lock().status.clone()
    }
}

impl Record {
    fn is_due(&self, now_ms: u64) -> bool {
        let due = self.status.next_run_ms.is_some_and(|due_ms| due_ms <= now_ms);
        due && self.wanted == Wanted::Run && !self.is_stepping
    }

    /// Takes the wish in: at once between two steps, else when the step ends.
    fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        if !self.is_stepping {
            self.settle();
        }
    }

    /// What is wanted decides over what the worker would do.
    fn settle(&mut self) {
        let state = match self.wanted {
            Wanted::Run => return,
            Wanted::Pause if self.status.state != WorkerState::Stopped => WorkerState::Paused,
            Wanted::Pause | Wanted::Stop => WorkerState::Stopped,
        };
        self.status.state = state;
        self.status.next_run_ms = None;
    }

    /// A step ended.
    fn note(
        &mut self,
        result: Result<Step, StepError>,
        now_ms: u64,
        backoff: &Backoff,
        random: &Mutex<Box<dyn RngCore + Send>>,
    ) {
        self.is_stepping = false;
        let status = &mut self.status;
        status.steps += 1;
        let (state, next_run_ms) = match result {
            Ok(step) => {
                status.consecutive_errors = 0;
                if matches!(step, Step::Busy | Step::Done) {
                    status.last_progress_ms = Some(now_ms);
                }
                after(step, now_ms)
            }
            Err(error) => {
                tracing::warn!(worker = status.name, %error, "a step failed and is tried again");
                status.errors += 1;
                status.consecutive_errors = status.consecutive_errors.saturating_add(1);
                status.last_error = Some(error.to_string());
                let wait_ms = backoff.after_errors(status.consecutive_errors, random.lock().as_mut());
                (WorkerState::BackingOff, Some(now_ms.saturating_add(wait_ms)))
            }
        };
        status.state = state;
        status.next_run_ms = if self.is_woken { next_run_ms.map(|_| now_ms) } else { next_run_ms };
        if state == WorkerState::Stopped {
            self.wanted = Wanted::Stop;
        }
        self.settle();
    }
}

/// What a worker does after a step, and when the next one is due. A wait of no length is one of a millisecond: a worker
/// that says it has nothing to do does not keep the runner busy.
fn after(step: Step, now_ms: u64) -> (WorkerState, Option<u64>) {
    let later = |until_ms: u64| Some(until_ms.max(now_ms.saturating_add(1)));
    match step {
        Step::Busy => (WorkerState::Running, Some(now_ms)),
        Step::Idle { until_ms } => (WorkerState::Idle, later(until_ms)),
        Step::Throttled { until_ms } => (WorkerState::Throttled, later(until_ms)),
        Step::Done => (WorkerState::Stopped, None),
    }
}
