//! What is counted on the way of every request: how long it took, by operation and level, and how it failed.
//!
//! Threads share a shard only when there are more of them than shards, so that adding costs no wait for another
//! processor's cache. Invariant: nothing here takes a lock, allocates or waits while a request is counted.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use cube_replication::consistency::Level;
use parking_lot::Mutex;

use super::figures::Figures;
use super::page::{Distribution, Labels, Page, Written, bytes, family, label, seconds, whole};
use crate::edge::Code;

/// Upper bounds of latencies in microseconds: from a read in memory to the longest time of a request.
const BOUNDS_US: [u64; 18] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;
const LEVELS: usize = Level::EVERY.len();
const OPERATIONS: usize = Operation::EVERY.len();
/// As many as threads commonly tell answers at once.
const SHARDS: usize = 8;
const STATUSES: usize = 500;
const FIRST_STATUS: u16 = 100;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Rows by their keys.
    Read,
    /// Rows to be written or deleted.
    Write,
    /// A page of the rows of a partition key.
    Range,
    /// A page of the rows whose keys begin alike.
    Scan,
}

impl Operation {
    /// All of them.
    pub const EVERY: [Self; 4] = [Self::Read, Self::Write, Self::Range, Self::Scan];

    /// The name in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Range => "range",
            Self::Scan => "scan",
        }
    }
}

/// Latencies of one operation at one level.
#[derive(Debug, Default)]
struct Latencies {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// What some threads counted. It begins a cache line, and the one that processors fetch along.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([[Latencies; LEVELS]; OPERATIONS]);

/// A port for clients, and how full it is.
#[derive(Clone, Debug)]
pub struct PortFigures {
    /// Which one.
    pub port: &'static str,
    /// Connections there are.
    pub held: u64,
    /// Connections there may be.
    pub most: u64,
    /// Connections that were refused.
    pub refused: u64,
}

type TellPort = Box<dyn Fn() -> PortFigures + Send + Sync>;

/// Counts requests.
pub struct Meter {
    shards: Box<[Shard; SHARDS]>,
    errors: Box<[[AtomicU64; Code::EVERY.len()]; OPERATIONS]>,
    /// Answers over HTTP, by status.
    statuses: Box<[AtomicU64]>,
    ports: Mutex<Vec<TellPort>>,
}

thread_local! {
    /// The shard of this thread, once it has one.
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

fn my_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.get().unwrap_or_else(|| {
        let mine = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        SHARD.set(Some(mine));
        mine
    })
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            shards: Box::default(),
            errors: Box::new(std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)))),
            statuses: std::iter::repeat_with(AtomicU64::default).take(STATUSES).collect(),
            ports: Mutex::default(),
        }
    }
}

impl Meter {
    /// A request ended.
    pub fn took(&self, operation: Operation, level: Level, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_US.partition_point(|bound| *bound < us);
        let cell = self.shards.get(my_shard()).and_then(|shard| shard.0.get(operation as usize)?.get(level as usize));
        if let Some(cell) = cell
            && let Some(bucket) = cell.buckets.get(place)
        {
            bucket.fetch_add(1, Ordering::Relaxed);
            cell.sum_us.fetch_add(us, Ordering::Relaxed);
        }
    }

    /// A request, or the rows of one of its partition keys, ended with an error.
    pub fn failed(&self, operation: Operation, code: Code) {
        if let Some(counter) = self.errors.get(operation as usize).and_then(|codes| codes.get(code as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something was answered over HTTP.
    pub fn answered(&self, status: StatusCode) {
        let place = usize::from(status.as_u16().saturating_sub(FIRST_STATUS));
        if let Some(counter) = self.statuses.get(place) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells of this port, too.
    pub fn watch_port(&self, port: impl Fn() -> PortFigures + Send + Sync + 'static) {
        self.ports.lock().push(Box::new(port));
    }

    /// What was counted until now.
    pub(crate) fn counted(&self) -> Counted {
        let mut latencies = Vec::new();
        for operation in Operation::EVERY {
            for level in Level::EVERY {
                let (mut buckets, mut sum_us) = ([0u64; BUCKETS], 0u64);
                for shard in self.shards.iter() {
                    let Some(cell) = shard.0.get(operation as usize).and_then(|cells| cells.get(level as usize)) else {
                        continue;
                    };
                    sum_us = sum_us.saturating_add(cell.sum_us.load(Ordering::Relaxed));
                    for (sum, bucket) in buckets.iter_mut().zip(&cell.buckets) {
                        *sum = sum.saturating_add(bucket.load(Ordering::Relaxed));
                    }
                }
                latencies.push((operation, level, buckets, sum_us));
            }
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let codes = Operation::EVERY.into_iter().zip(self.errors.iter());
        let errors = codes.flat_map(|(operation, counts)| {
            Code::EVERY.iter().zip(counts).map(move |(code, count)| (operation, *code, read(count)))
        });
        let statuses = (FIRST_STATUS..).zip(self.statuses.iter()).map(|(status, count)| (status, read(count)));
        Counted {
            latencies,
            errors: errors.collect(),
            statuses: statuses.collect(),
            ports: self.ports.lock().iter().map(|port| port()).collect(),
        }
    }
}

/// What was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    latencies: Vec<(Operation, Level, [u64; BUCKETS], u64)>,
    errors: Vec<(Operation, Code, u64)>,
    statuses: Vec<(u16, u64)>,
    ports: Vec<PortFigures>,
}

pub(super) fn write(page: &mut Page<'_>, counted: &Counted, figures: &Figures) -> Written {
    let family_of_latencies = seconds(
        "cube_request_duration",
        "How long requests of clients took that this node coordinated, failed ones too, by operation and level",
    );
    let met = counted.latencies.iter().filter(|(_, _, buckets, _)| buckets.iter().any(|count| *count > 0));
    page.histogram(family_of_latencies, met.map(distribution))?;
    let failed = counted.errors.iter().filter(|(_, _, count)| *count > 0);
    page.counter(
        family("cube_request_errors", "Requests, or partition keys of batches, that ended with an error, by its code"),
        failed.map(|(operation, code, count)| {
            (vec![("operation", operation.name().to_owned()), ("code", code.name().to_owned())], *count)
        }),
    )?;
    let answered = counted.statuses.iter().filter(|(_, count)| *count > 0);
    page.counter(
        family("cube_http_responses", "Answers over HTTP, by their status"),
        answered.map(|(status, count)| (label("status", status.to_string()), *count)),
    )?;
    let ((requests, held), (requests_max, held_max)) = (figures.in_flight, figures.in_flight_max);
    page.value(family("cube_requests_in_flight", "Requests that this node coordinates now"), whole(requests))?;
    page.value(family("cube_requests_in_flight_limit", "Requests past which more are refused"), whole(requests_max))?;
    page.value(bytes("cube_requests_in_flight", "Bytes of rows that requests under way hold"), whole(held))?;
    page.value(bytes("cube_requests_in_flight_limit", "Bytes past which requests are refused"), whole(held_max))?;
    let ports = || counted.ports.iter().map(|port| (label("port", port.port), port));
    page.gauge(
        family("cube_connections", "Connections of clients, by port"),
        ports().map(|(labels, port)| (labels, whole(port.held))),
    )?;
    page.gauge(
        family("cube_connections_limit", "Connections of clients there may be, by port"),
        ports().map(|(labels, port)| (labels, whole(port.most))),
    )?;
    page.counter(
        family("cube_connections_refused", "Connections for which there was no place, by port"),
        ports().map(|(labels, port)| (labels, port.refused)),
    )
}

fn distribution((operation, level, buckets, sum_us): &(Operation, Level, [u64; BUCKETS], u64)) -> Distribution {
    let labels: Labels = vec![("operation", operation.name().to_owned()), ("level", level.name().to_owned())];
    let bounds = BOUNDS_US.iter().map(|us| whole(*us) / 1e6).chain([f64::INFINITY]);
    Distribution { labels, sum: whole(*sum_us) / 1e6, buckets: bounds.zip(buckets.iter().copied()).collect() }
}

impl PortFigures {
    pub(crate) fn of(port: &'static str, held: usize, most: usize, refused: &Arc<AtomicU64>) -> Self {
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        Self { port, held: count(held), most: count(most), refused: refused.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_thread_counts_nothing_is_lost_and_everything_is_in_its_bucket() {
        let meter = Arc::new(Meter::default());
        std::thread::scope(|threads| {
            for _ in 0..2 * SHARDS {
                threads.spawn(|| {
                    for us in [0, 100, 101, 59_000_000, 61_000_000] {
                        meter.took(Operation::Write, Level::Quorum, Duration::from_micros(us));
                    }
                    meter.failed(Operation::Read, Code::Unavailable);
                });
            }
        });
        let threads = 2 * SHARDS as u64;
        let counted = meter.counted();
        let of = |operation, level| {
            counted.latencies.iter().find(|(op, at, ..)| (*op, *at) == (operation, level)).map(|(.., b, s)| (*b, *s))
        };
        let (buckets, sum_us) = of(Operation::Write, Level::Quorum).unwrap();
        assert_eq!((buckets[0], buckets[1], buckets[17], buckets[18]), (2 * threads, threads, threads, threads));
        assert_eq!(sum_us, threads * 120_000_201);
        assert_eq!(of(Operation::Read, Level::Quorum).unwrap().1, 0);
        let failed: Vec<_> = counted.errors.iter().filter(|(.., count)| *count > 0).collect();
        assert_eq!(failed, [&(Operation::Read, Code::Unavailable, threads)]);
    }

    #[test]
    fn every_level_operation_and_code_has_a_place_of_its_own() {
        assert!(Level::EVERY.into_iter().enumerate().all(|(place, level)| level as usize == place));
        assert!(Operation::EVERY.into_iter().enumerate().all(|(place, operation)| operation as usize == place));
        assert!(Code::EVERY.iter().enumerate().all(|(place, code)| *code as usize == place));
    }
}
