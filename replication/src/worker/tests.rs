//! How workers are run, told as short scripts, and what holds of any number of them whatever they do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;

use super::*;
use crate::cases::cases;

/// What a scripted worker does in one step.
#[derive(Clone, Debug)]
enum Act {
    Busy,
    Idle { for_ms: u64 },
    Throttled { for_ms: u64 },
    Fail,
    Panic,
    Done,
}

/// Does one act after the other, then nothing any more.
struct Scripted {
    name: String,
    acts: VecDeque<Act>,
    steps: Arc<AtomicU64>,
}

impl Worker for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        Ok(match self.acts.pop_front().unwrap_or(Act::Idle { for_ms: 1_000_000 }) {
            Act::Busy => Step::Busy,
            Act::Idle { for_ms } => Step::Idle { until_ms: now_ms + for_ms },
            Act::Throttled { for_ms } => Step::Throttled { until_ms: now_ms + for_ms },
            Act::Fail => return Err("the peer is away".into()),
            Act::Panic => std::panic::resume_unwind(Box::new("index out of bounds")),
            Act::Done => Step::Done,
        })
    }
}

fn workers() -> Workers {
    Workers::new(Backoff::new(100, 1_000), Xoshiro256StarStar::seed_from_u64(7))
}

fn begin(workers: &Workers, name: &str, acts: impl IntoIterator<Item = Act>) -> Arc<AtomicU64> {
    let steps = Arc::new(AtomicU64::new(0));
    let worker = Scripted { name: name.to_owned(), acts: acts.into_iter().collect(), steps: steps.clone() };
    workers.begin(Box::new(worker)).unwrap();
    steps
}

fn status(workers: &Workers, name: &str) -> WorkerStatus {
    workers.statuses().into_iter().find(|status| status.name == name).unwrap()
}

#[test]
fn each_due_worker_does_one_step_and_the_next_time_is_told() {
    let workers = workers();
    let busy = begin(&workers, "busy", [Act::Busy, Act::Busy, Act::Idle { for_ms: 300 }]);
    let idle = begin(&workers, "idle", [Act::Idle { for_ms: 50 }]);
    assert_eq!(workers.run_due(10), Some(10), "one of them has more to do");
    assert_eq!((busy.load(Ordering::Relaxed), idle.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(workers.run_due(10), Some(10));
    assert_eq!(workers.run_due(10), Some(60), "the idle one is due first");
    assert_eq!((busy.load(Ordering::Relaxed), idle.load(Ordering::Relaxed)), (3, 1), "idle is left alone until then");
    let status = status(&workers, "busy");
    assert_eq!((status.state, status.steps, status.last_progress_ms), (WorkerState::Idle, 3, Some(10)));
    assert_eq!(status.next_run_ms, Some(310));
}

#[test]
fn a_worker_that_fails_backs_off_and_recovers() {
    let workers = workers();
    begin(&workers, "replay", [Act::Fail, Act::Fail, Act::Busy]);
    let first_ms = workers.run_due(1_000).unwrap();
    assert!((1_050..=1_100).contains(&first_ms), "{first_ms}");
    let failed = status(&workers, "replay");
    assert_eq!((failed.state, failed.consecutive_errors), (WorkerState::BackingOff, 1));
    assert_eq!(failed.last_error.as_deref(), Some("the peer is away"));
    assert_eq!(workers.run_due(first_ms - 1), Some(first_ms), "not before its time");
    let second_ms = workers.run_due(first_ms).unwrap();
    assert!((first_ms + 100..=first_ms + 200).contains(&second_ms), "longer the second time: {second_ms}");
    workers.run_due(second_ms);
    let recovered = status(&workers, "replay");
    assert_eq!((recovered.state, recovered.consecutive_errors, recovered.errors), (WorkerState::Running, 0, 2));
    assert_eq!(recovered.last_error.as_deref(), Some("the peer is away"), "what was wrong stays visible");
}

#[test]
fn a_worker_that_panics_is_tried_again_and_strands_nobody() {
    let workers = workers();
    begin(&workers, "bad", [Act::Panic, Act::Panic, Act::Done]);
    let good = begin(&workers, "good", vec![Act::Busy; 10]);
    let mut now_ms = 0;
    for _ in 0..10 {
        now_ms = workers.run_due(now_ms).unwrap();
    }
    assert_eq!(good.load(Ordering::Relaxed), 10);
    let bad = status(&workers, "bad");
    assert_eq!(
        (bad.state, bad.last_error.as_deref()),
        (WorkerState::BackingOff, Some("panicked: index out of bounds"))
    );
    while status(&workers, "bad").state != WorkerState::Stopped {
        now_ms = workers.run_due(now_ms).unwrap();
    }
}

#[test]
fn a_paused_worker_does_not_step_until_it_is_resumed() {
    let workers = workers();
    let steps = begin(&workers, "repair", vec![Act::Busy; 10]);
    workers.run_due(0);
    workers.pause("repair").unwrap();
    workers.wake("repair", 5).unwrap();
    assert_eq!(workers.run_due(5), None);
    assert_eq!(status(&workers, "repair").state, WorkerState::Paused);
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    workers.resume("repair", 9).unwrap();
    assert_eq!(workers.run_due(9), Some(9));
    assert_eq!(steps.load(Ordering::Relaxed), 2);
}

#[test]
fn a_worker_that_waits_can_be_woken() {
    let workers = workers();
    let steps = begin(&workers, "hints", [Act::Idle { for_ms: 10_000 }, Act::Throttled { for_ms: 10_000 }, Act::Fail]);
    workers.run_due(0);
    for now_ms in [20, 30, 40] {
        workers.wake("hints", now_ms).unwrap();
        workers.run_due(now_ms);
    }
    assert_eq!(steps.load(Ordering::Relaxed), 4);
    assert_eq!(workers.wake("hunts", 0), Err(UnknownWorker { name: "hunts".into() }));
}

#[test]
fn two_workers_of_one_name_are_told_apart_by_time_only() {
    let workers = workers();
    begin(&workers, "repair", [Act::Done]);
    let second = || {
        let worker = Scripted { name: "repair".into(), acts: VecDeque::new(), steps: Arc::default() };
        workers.begin(Box::new(worker))
    };
    assert_eq!(second(), Err(CannotBegin::NameTaken { name: "repair".into() }));
    assert_eq!(workers.run_due(0), None);
    assert_eq!(second(), Ok(()));
    assert_eq!(workers.statuses().len(), 1);
}

#[test]
fn only_so_many_that_are_done_are_remembered() {
    let workers = workers();
    begin(&workers, "long", [Act::Idle { for_ms: 1_000_000 }]);
    for number in 0..3 * STOPPED_KEPT_MAX {
        begin(&workers, &format!("job-{number}"), [Act::Done]);
        workers.run_due(0);
    }
    assert_eq!(workers.statuses().len(), STOPPED_KEPT_MAX + 1);
    assert_eq!(status(&workers, "long").state, WorkerState::Idle, "what runs is never forgotten");
}

/// Drains the runner from within its own step, as the end of a node does while a worker works.
struct Drainer {
    workers: Arc<Workers>,
    seen: Arc<Mutex<Vec<Drain>>>,
}

impl Worker for Drainer {
    fn name(&self) -> &str {
        "drainer"
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        self.workers.drain(now_ms + 10);
        // Somebody else comes to run what is due: this one is left alone, and so is everybody else.
        assert_eq!(self.workers.run_due(now_ms), None);
        self.seen.lock().extend([self.workers.drained(now_ms), self.workers.drained(now_ms + 10)]);
        Ok(Step::Busy)
    }
}

#[test]
fn a_drain_lets_the_step_under_way_finish_and_names_who_is_left() {
    let workers = Arc::new(workers());
    assert_eq!(workers.drained(0), Drain::NotAsked);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let other = begin(&workers, "other", vec![Act::Busy; 10]);
    workers.begin(Box::new(Drainer { workers: workers.clone(), seen: seen.clone() })).unwrap();
    assert_eq!(workers.run_due(0), None, "behind a drain nobody is due");
    let left = vec!["drainer".to_owned()];
    assert_eq!(*seen.lock(), [Drain::Waiting(left.clone()), Drain::Overdue(left)]);
    assert_eq!(workers.drained(0), Drain::Complete);
    assert_eq!(status(&workers, "drainer").steps, 1, "its step was counted");
    workers.run_due(1_000);
    assert_eq!(other.load(Ordering::Relaxed), 1);
    let late = Scripted { name: "late".into(), acts: VecDeque::new(), steps: Arc::default() };
    assert_eq!(workers.begin(Box::new(late)), Err(CannotBegin::Draining { name: "late".into() }));
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Busy),
        2 => (0u64..500).prop_map(|for_ms| Act::Idle { for_ms }),
        1 => (0u64..500).prop_map(|for_ms| Act::Throttled { for_ms }),
        2 => Just(Act::Fail),
        1 => Just(Act::Panic),
        1 => Just(Act::Done),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_script_is_carried_out_whatever_the_others_do(scripts in prop::collection::vec(prop::collection::vec(act(), 0..12), 1..6)) {
        let workers = workers();
        let mut expected = Vec::new();
        for (number, acts) in scripts.iter().enumerate() {
            let ends = acts.iter().position(|act| matches!(act, Act::Done));
            // Without an end there is one more step, the idle one.
            expected.push(ends.map_or(acts.len() as u64 + 1, |place| place as u64 + 1));
            begin(&workers, &number.to_string(), acts.clone());
        }
        let mut now_ms = 0;
        // Nobody may wait longer than the longest backoff or idle time for each of its steps.
        while let Some(next_ms) = workers.run_due(now_ms) {
            if next_ms > 12 * 1_000 {
                break;
            }
            now_ms = next_ms;
        }
        for (status, steps) in workers.statuses().iter().zip(expected) {
            prop_assert_eq!(status.steps, steps, "{:?}", status);
            prop_assert!(status.consecutive_errors == 0 || status.state == WorkerState::BackingOff);
        }
    }

    #[test]
    fn behind_a_drain_nobody_steps_and_nobody_is_left(
        scripts in prop::collection::vec(prop::collection::vec(act(), 0..12), 0..6),
        rounds in 0usize..20,
        paused in prop::option::of(0usize..6),
    ) {
        let workers = workers();
        let steps: Vec<_> = scripts.iter().enumerate().map(|(n, acts)| begin(&workers, &n.to_string(), acts.clone())).collect();
        let mut now_ms = 0;
        for _ in 0..rounds {
            now_ms = workers.run_due(now_ms).unwrap_or(now_ms);
        }
        if let Some(paused) = paused {
            let _ = workers.pause(&paused.to_string());
        }
        workers.drain(now_ms + 100);
        prop_assert_eq!(workers.drained(now_ms), Drain::Complete);
        let before: Vec<u64> = steps.iter().map(|steps| steps.load(Ordering::Relaxed)).collect();
        for (place, _) in scripts.iter().enumerate() {
            let _ = (workers.wake(&place.to_string(), now_ms), workers.resume(&place.to_string(), now_ms));
        }
        prop_assert_eq!(workers.run_due(now_ms + 1_000_000), None);
        let after: Vec<u64> = steps.iter().map(|steps| steps.load(Ordering::Relaxed)).collect();
        prop_assert_eq!(before, after);
        prop_assert!(workers.statuses().iter().all(|status| status.state == WorkerState::Stopped));
    }
}
