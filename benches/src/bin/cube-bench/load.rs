//! The load: workers that ask, in a closed loop or at a rate, and what they saw.
//!
//! At a rate, request number n should begin n / rate seconds after the start, and its latency counts from that moment,
//! whether or not a worker was free to send it then. So a cluster that stalls is charged for every request that would have
//! come meanwhile, not only for those that were under way (no coordinated omission).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cube_benches::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::figures::{Expense, Figures, Meter};
use super::keys::Draw;
use super::options::Shape;
use super::subject::Subject;

/// Latencies are told to one part in a hundred, which is less than they differ from run to run.
const DIGITS: u8 = 2;
/// Rows that a worker of the preload writes at a time, and how many such workers there are.
const PRELOAD_ROWS: u64 = 64;
const PRELOAD_WORKERS: u64 = 16;
/// A batch of the preload that is refused is sent again so often: a cluster that is too slow for it is no error yet.
const PRELOAD_TRIES: u32 = 20;

/// What one worker saw.
struct Seen {
    latency_us: Histogram<u64>,
    rows: u64,
    errors: BTreeMap<String, u64>,
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self { latency_us: Histogram::new(DIGITS)?, rows: 0, errors: BTreeMap::new() })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.latency_us.add(&other.latency_us)?;
        self.rows += other.rows;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        Ok(())
    }
}

/// When what is seen counts.
#[derive(Default)]
pub(crate) struct Window {
    start: OnceLock<Instant>,
    end: OnceLock<Instant>,
}

impl Window {
    /// From now on it counts, and so does what these processes spend.
    pub(crate) fn begin(&self, pids: &[(String, u32)]) -> Meter {
        self.start.get_or_init(Instant::now);
        Meter::start(pids)
    }

    /// Nothing counts any more: the load ends.
    pub(crate) fn end(&self, meter: Meter) -> Expense {
        self.end.get_or_init(Instant::now);
        meter.stop()
    }

    fn is_over(&self, at: Instant) -> bool {
        self.end.get().is_some_and(|end| at >= *end)
    }

    fn holds(&self, at: Instant) -> bool {
        self.start.get().is_some_and(|start| at >= *start) && !self.is_over(at)
    }
}

/// Writes every row of a workload once.
pub(crate) async fn preload(subject: &Subject, shape: &Shape) -> Result<()> {
    write_once(subject, shape, 0..shape.rows).await
}

/// Writes the rows of these numbers, each once.
pub(crate) async fn write_once(subject: &Subject, shape: &Shape, rows: Range<u64>) -> Result<()> {
    let next = Arc::new(AtomicU64::new(rows.start));
    let mut workers = JoinSet::new();
    for worker in 0..PRELOAD_WORKERS {
        let (subject, shape, next, end) = (subject.clone(), shape.clone(), Arc::clone(&next), rows.end);
        workers.spawn(async move {
            let mut draw = Draw::new(&shape, u64::MAX - worker);
            loop {
                let first = next.fetch_add(PRELOAD_ROWS, Ordering::Relaxed);
                if first >= end {
                    return Ok(());
                }
                let rows = first..(first + PRELOAD_ROWS).min(end);
                let mut tries = 0;
                while let Err(kind) = subject.preload(&shape, rows.clone(), &mut draw).await {
                    tries += 1;
                    if tries == PRELOAD_TRIES {
                        return Err(format!("rows from {first} on could not be written: {kind}"));
                    }
                    sleep_until(Instant::now() + Duration::from_millis(100)).await;
                }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

/// Runs a workload for as long as it says, and tells what came of it.
pub(crate) async fn run(name: &str, subject: &Subject, shape: &Shape, pids: &[(String, u32)]) -> Result<Figures> {
    let (window, start) = (Arc::new(Window::default()), Instant::now() + shape.warm_up);
    let course = async {
        sleep_until(start).await;
        let meter = window.begin(pids);
        sleep_until(start + shape.time).await;
        Ok(window.end(meter))
    };
    run_while(name, subject, shape, &window, course).await
}

/// Runs a workload while something else takes its course, which begins and ends the window in which it counts.
pub(crate) async fn run_while(
    name: &str,
    subject: &Subject,
    shape: &Shape,
    window: &Arc<Window>,
    course: impl Future<Output = Result<Expense>>,
) -> Result<Figures> {
    let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut workers = JoinSet::new();
    for worker in 0..shape.in_flight.max(1) {
        let (subject, shape, next, window) = (subject.clone(), shape.clone(), Arc::clone(&next), Arc::clone(window));
        workers.spawn(async move {
            let mut draw = Draw::new(&shape, worker as u64);
            let mut seen = Seen::new()?;
            match shape.rate {
                None => closed(&subject, &shape, &mut draw, &window, &mut seen).await,
                Some(rate) => open(&subject, &shape, &mut draw, &window, rate, (started, &next), &mut seen).await,
            }
            Ok::<_, cube_benches::Error>(seen)
        });
    }
    let spent = course.await?;
    let mut all = Seen::new()?;
    while let Some(worker) = workers.join_next().await {
        all.add(&worker??)?;
    }
    Ok(Figures::of(name, shape, &all.latency_us, all.rows, all.errors, spent))
}

/// One request after the other.
async fn closed(subject: &Subject, shape: &Shape, draw: &mut Draw, window: &Window, seen: &mut Seen) {
    loop {
        let start = Instant::now();
        if window.is_over(start) {
            return;
        }
        let outcome = subject.ask(shape, draw).await;
        let end = Instant::now();
        if window.holds(end) {
            record(seen, outcome, end - start);
        }
    }
}

/// The next request that is due, again and again. `schedule`: when the first is due, and the number of the next.
async fn open(
    subject: &Subject,
    shape: &Shape,
    draw: &mut Draw,
    window: &Window,
    rate: f64,
    schedule: (Instant, &AtomicU64),
    seen: &mut Seen,
) {
    loop {
        let number = schedule.1.fetch_add(1, Ordering::Relaxed);
        let due = schedule.0 + Duration::from_secs_f64(number as f64 / rate);
        sleep_until(due).await;
        if window.is_over(due) {
            return;
        }
        let outcome = subject.ask(shape, draw).await;
        // Every request that was due in the window counts, however late its answer came.
        if window.holds(due) {
            record(seen, outcome, due.elapsed());
        }
    }
}

fn record(seen: &mut Seen, outcome: super::subject::Outcome, latency: Duration) {
    match outcome {
        Ok(rows) => {
            seen.rows += rows;
            let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
            // A histogram that grows takes every value; were one refused, the count would show it.
            seen.latency_us.record(us).unwrap_or_default();
        }
        Err(kind) => *seen.errors.entry(kind).or_default() += 1,
    }
}
