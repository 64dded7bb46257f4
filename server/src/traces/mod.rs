//! OpenTelemetry traces: which requests are traced, and where their spans go.
//!
//! ```text
//! edge, coordinator, replica ── ended ──▶ queue (bounded) ── export.rs ── otlp.rs as JSON ──▶ POST to the collector
//! ```
//!
//! `parent.rs` reads the `traceparent` of a request. Invariants: a node without `telemetry.traces.endpoint` has none of
//! this, and a request pays for one look; whatever the collector does, nobody waits for it: a span that finds no room in
//! the queue, or whose batch the collector does not take, is dropped and counted.

mod export;
mod otlp;
mod parent;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cube_replication::trace::{OpenSpan, Span, SpanKind, TraceContext, Tracer};
use cube_storage::clock::Clock;
use rand::RngCore;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use self::parent::{TRACEPARENT, parent_of};
use crate::config::{Endpoint, Ratio};

/// Spans that wait for the exporter: some thousand requests' worth, a few MiB.
const QUEUE_SPANS_MAX: usize = 8_192;
/// What the numbers of spans are apart before they are mixed: odd, so that all numbers come before one comes again.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The traces of a node.
pub struct Traces {
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
    /// Of a million requests, how many are traced.
    sampled: AtomicU32,
    next: AtomicU64,
    began: Instant,
    began_ns: u64,
}

/// What became of spans since the node started.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What became of spans since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFigures {
    /// The collector took them.
    pub exported: u64,
    /// The queue was full.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
}

/// What traces begin with.
pub struct TraceParts {
    /// Where the collector is.
    pub endpoint: Endpoint,
    /// How many requests are traced.
    pub sample: Ratio,
    /// The node's name.
    pub node: String,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// What the numbers of traces and spans come from.
    pub random: Box<dyn RngCore + Send>,
}

impl Traces {
    /// Begins, with the exporter on the present runtime. It ends when nobody has the traces any more.
    pub fn start(parts: TraceParts) -> Arc<Self> {
        let TraceParts { endpoint, sample, node, clock, mut random } = parts;
        let (queue, spans) = mpsc::channel(QUEUE_SPANS_MAX);
        let counts = Arc::new(Counts::default());
        tokio::spawn(export::run(endpoint, node, spans, Arc::clone(&counts)));
        Arc::new(Self {
            queue,
            counts,
            sampled: AtomicU32::new(sample.per_million()),
            next: AtomicU64::new(random.next_u64()),
            began: Instant::now(),
            began_ns: clock.wall_ms().saturating_mul(1_000_000),
        })
    }

    /// So many requests are traced from now on.
    pub fn sample(&self, ratio: Ratio) {
        self.sampled.store(ratio.per_million(), Ordering::Relaxed);
    }

    /// What became of spans.
    pub fn figures(&self) -> TraceFigures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { exported, dropped, failed } = self.counts.as_ref();
        TraceFigures { exported: of(exported), dropped: of(dropped), failed: of(failed) }
    }

    /// The first span of a request on this node: below the one of its client if that is traced, or else of a new trace, if
    /// its turn has come.
    pub(crate) fn begin(self: &Arc<Self>, parent: Option<TraceContext>, name: &'static str) -> Option<OpenSpan> {
        let (trace, parent) = match parent {
            Some(parent) => (parent.trace, Some(parent.span)),
            None if self.has_turn() => ((u128::from(self.draw()) << 64) | u128::from(self.draw()), None),
            None => return None,
        };
        Some(OpenSpan::begin(Arc::clone(self) as Arc<dyn Tracer>, trace, parent, (name, SpanKind::Server)))
    }

    fn has_turn(&self) -> bool {
        match self.sampled.load(Ordering::Relaxed) {
            0 => false,
            sampled => self.draw() % u64::from(Ratio::ALL) < u64::from(sampled),
        }
    }

    /// A number that does not come again for a long time, never zero.
    fn draw(&self) -> u64 {
        let mut mixed = self.next.fetch_add(STEP, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

impl Tracer for Traces {
    fn now_ns(&self) -> u64 {
        self.began_ns.saturating_add(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn new_span(&self) -> u64 {
        self.draw()
    }

    fn ended(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cube_storage::clock::SystemClock;
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256StarStar;

    use super::*;

    /// Traces whose collector is not there.
    fn traces(sample: &str) -> Arc<Traces> {
        Traces::start(TraceParts {
            endpoint: "http://127.0.0.1:9".parse().unwrap(),
            sample: sample.parse().unwrap(),
            node: "node-1".into(),
            clock: Arc::new(SystemClock::new(0)),
            random: Box::new(Xoshiro256StarStar::seed_from_u64(7)),
        })
    }

    #[tokio::test]
    async fn as_many_requests_are_traced_as_is_asked_for_and_those_of_traced_clients_always() {
        let traces = traces("0.25");
        let begun = |traces: &Arc<Traces>| (0..10_000).filter(|_| traces.begin(None, "write").is_some()).count();
        let quarter = begun(&traces);
        assert!((2_200..2_800).contains(&quarter), "{quarter}");
        traces.sample(Ratio::default());
        assert_eq!(begun(&traces), 0);
        let client = TraceContext { trace: 5, span: 6 };
        let span = traces.begin(Some(client), "write").unwrap();
        assert_eq!(span.context().trace, 5);
        assert_ne!(span.context().span, 6);
    }

    #[tokio::test]
    async fn numbers_do_not_come_twice() {
        let traces = traces("1");
        let numbers: BTreeSet<u64> = (0..100_000).map(|_| traces.new_span()).collect();
        assert_eq!(numbers.len(), 100_000);
        assert!(!numbers.contains(&0));
    }

    #[tokio::test]
    async fn spans_without_a_collector_are_counted_and_held_up_by_nobody() {
        let traces = traces("1");
        for _ in 0..QUEUE_SPANS_MAX * 2 {
            traces.begin(None, "write").unwrap().end(None);
        }
        // The runtime has one thread: the exporter has not had its turn yet.
        assert_eq!(traces.figures(), TraceFigures { dropped: QUEUE_SPANS_MAX as u64, ..TraceFigures::default() });
        let failed = tokio::time::timeout(std::time::Duration::from_secs(60), async {
            while traces.figures().failed == 0 {
                tokio::task::yield_now().await;
            }
        });
        assert!(failed.await.is_ok());
    }
}
