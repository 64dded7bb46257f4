//! The load: workers that ask, in a closed loop or at a rate, and what they saw.
//!
//! At a rate, request number n should begin n / rate seconds after the start, and its latency counts from that moment,
//! whether or not a worker was free to send it then. So a cluster that stalls is charged for every request that would have
//! come meanwhile, not only for those that were under way (no coordinated omission).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cube_benches::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::figures::{Figures, Meter};
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
#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

/// Writes every row of a workload once.
pub(crate) async fn preload(subject: &Subject, shape: &Shape) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..PRELOAD_WORKERS {
        let (subject, shape, next) = (subject.clone(), shape.clone(), Arc::clone(&next));
        workers.spawn(async move {
            let mut draw = Draw::new(&shape, u64::MAX - worker);
            loop {
                let first = next.fetch_add(PRELOAD_ROWS, Ordering::Relaxed);
                if first >= shape.rows {
                    return Ok(());
                }
                let rows = first..(first + PRELOAD_ROWS).min(shape.rows);
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

/// Runs a workload and says what came of it.
pub(crate) async fn run(name: &str, subject: &Subject, shape: &Shape, pids: &[(String, u32)]) -> Result<Figures> {
    let begin = Instant::now();
    let window = Window { start: begin + shape.warm_up, end: begin + shape.warm_up + shape.time };
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..shape.in_flight.max(1) {
        let (subject, shape, next) = (subject.clone(), shape.clone(), Arc::clone(&next));
        workers.spawn(async move {
            let mut draw = Draw::new(&shape, worker as u64);
            let mut seen = Seen::new()?;
            match shape.rate {
                None => closed(&subject, &shape, &mut draw, window, &mut seen).await,
                Some(rate) => open(&subject, &shape, &mut draw, window, rate, (begin, &next), &mut seen).await,
            }
            Ok::<_, cube_benches::Error>(seen)
        });
    }
    sleep_until(window.start).await;
    let meter = Meter::start(pids);
    sleep_until(window.end).await;
    let spent = meter.stop();
    let mut all = Seen::new()?;
    while let Some(worker) = workers.join_next().await {
        all.add(&worker??)?;
    }
    Ok(Figures::of(name, shape, &all.latency_us, all.rows, all.errors, spent))
}

/// One request after the other.
async fn closed(subject: &Subject, shape: &Shape, draw: &mut Draw, window: Window, seen: &mut Seen) {
    loop {
        let start = Instant::now();
        if start >= window.end {
            return;
        }
        let outcome = subject.ask(shape, draw).await;
        let end = Instant::now();
        if end >= window.start && end < window.end {
            record(seen, outcome, end - start);
        }
    }
}

/// The next request that is due, again and again. `schedule`: when the first is due, and the number of the next.
async fn open(
    subject: &Subject,
    shape: &Shape,
    draw: &mut Draw,
    window: Window,
    rate: f64,
    schedule: (Instant, &AtomicU64),
    seen: &mut Seen,
) {
    loop {
        let number = schedule.1.fetch_add(1, Ordering::Relaxed);
        let due = schedule.0 + Duration::from_secs_f64(number as f64 / rate);
        if due >= window.end {
            return;
        }
        sleep_until(due).await;
        let outcome = subject.ask(shape, draw).await;
        // Every request that was due in the window counts, however late its answer came.
        if due >= window.start {
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
