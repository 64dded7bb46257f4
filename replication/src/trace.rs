//! Traces: where a request stands in the trace that it belongs to, and the spans that tell what was done for it.
//!
//! A trace is a tree of spans over all nodes that had to do with one request. Its context travels with the request: from
//! the edge to the coordinator in the terms, from there to the replicas in the envelope of a message. Each span is told to
//! the node's [`Tracer`] once, when it ends. A request that is not traced has no context, and pays for looking.
//!
//! Invariant: nothing here waits, and nothing that goes wrong with a span has to do with the request: a tracer that has no
//! room drops it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// Where a request stands in its trace: which one, and the span that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace. Never zero.
    pub trace: u128,
    /// The span that what follows is part of. Never zero.
    pub span: u64,
}

impl TraceContext {
    /// The length of a context as bytes.
    pub const BYTES: usize = 24;

    /// As it stands in a message: the trace, then the span, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (trace, span) = bytes.split_at_mut(16);
        trace.copy_from_slice(&self.trace.to_be_bytes());
        span.copy_from_slice(&self.span.to_be_bytes());
        bytes
    }

    /// What stands in a message, if it is one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace, span) = bytes.split_first_chunk::<16>()?;
        let (trace, span) = (u128::from_be_bytes(*trace), u64::from_be_bytes(span.try_into().ok()?));
        (trace != 0 && span != 0).then_some(Self { trace, span })
    }
}

/// Which side of a question a span is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within a node.
    Internal,
    /// Somebody asked from outside.
    Server,
    /// Another node, or this one as a replica, was asked.
    Client,
}

/// What is told of a span beside its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace, and the span itself.
    pub context: TraceContext,
    /// The span that it is part of; the first one of a trace has none.
    pub parent: Option<u64>,
    /// What was done.
    pub name: &'static str,
    /// On which side.
    pub kind: SpanKind,
    /// From when, in nanoseconds since 1970.
    pub begun_ns: u64,
    /// To when.
    pub ended_ns: u64,
    /// What else is known.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

/// Takes the spans of a node, and has what they are made of.
pub trait Tracer: Send + Sync {
    /// The wall clock, in nanoseconds since 1970. It never goes back.
    fn now_ns(&self) -> u64;

    /// A number that no other span of the trace has.
    fn new_span(&self) -> u64;

    /// A span ended. What there is no room for is dropped and counted.
    fn ended(&self, span: Span);
}

/// A span that goes on.
pub struct OpenSpan {
    tracer: Arc<dyn Tracer>,
    context: TraceContext,
    /// What will be told; nothing any more once it has ended.
    span: Mutex<Option<Span>>,
}

impl fmt::Debug for OpenSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenSpan").field(&self.context).finish()
    }
}

impl OpenSpan {
    /// A span begins in this trace, below the parent if there is one.
    pub fn begin(
        tracer: Arc<dyn Tracer>,
        trace: u128,
        parent: Option<u64>,
        (name, kind): (&'static str, SpanKind),
    ) -> Self {
        let context = TraceContext { trace, span: tracer.new_span() };
        let begun_ns = tracer.now_ns();
        let span =
            Span { context, parent, name, kind, begun_ns, ended_ns: begun_ns, attributes: Vec::new(), error: None };
        Self { tracer, context, span: Mutex::new(Some(span)) }
    }

    /// A span begins below this context.
    pub fn below(tracer: Arc<dyn Tracer>, parent: TraceContext, named: (&'static str, SpanKind)) -> Self {
        Self::begin(tracer, parent.trace, Some(parent.span), named)
    }

    /// A span begins below this one.
    pub fn child(&self, named: (&'static str, SpanKind)) -> Self {
        Self::below(Arc::clone(&self.tracer), self.context, named)
    }

    /// What goes along with whatever is part of this span.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Tells something of it.
    pub fn tell(&self, name: &'static str, what: impl Into<Attribute>) {
        if let Some(span) = self.span.lock().as_mut() {
            span.attributes.push((name, what.into()));
        }
    }

    /// It ends now, with what went wrong if something did. The first end counts.
    pub fn end(&self, error: Option<String>) {
        let ended = self.span.lock().take();
        if let Some(span) = ended {
            self.tracer.ended(Span { ended_ns: self.tracer.now_ns().max(span.begun_ns), error, ..span });
        }
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Attribute {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Kept {
        count: AtomicU64,
        spans: Mutex<Vec<Span>>,
    }

    impl Tracer for Kept {
        fn now_ns(&self) -> u64 {
            self.count.fetch_add(1, Ordering::Relaxed)
        }

        fn new_span(&self) -> u64 {
            self.count.fetch_add(1, Ordering::Relaxed) + 100
        }

        fn ended(&self, span: Span) {
            self.spans.lock().push(span);
        }
    }

    #[test]
    fn a_context_is_read_back_as_it_was_written_and_nothing_else_is_one() {
        let context = TraceContext { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331 };
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        for wrong in [&[][..], &[1; 23], &[1; 25], &[0; 24]] {
            assert_eq!(TraceContext::from_bytes(wrong), None);
        }
    }

    #[test]
    fn spans_are_told_once_below_the_span_that_began_them() {
        let kept = Arc::new(Kept::default());
        let whole = OpenSpan::begin(kept.clone(), 7, None, ("write", SpanKind::Server));
        let part = whole.child(("ask", SpanKind::Client));
        part.tell("rows", 3usize);
        part.end(Some("too late".into()));
        part.end(None);
        whole.end(None);
        // A span that is dropped and never ended is not told.
        drop(whole.child(("lost", SpanKind::Internal)));
        let spans = kept.spans.lock();
        let [part, whole] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((part.parent, part.context.trace), (Some(whole.context.span), 7));
        assert_eq!((whole.parent, whole.name, whole.error.as_deref()), (None, "write", None));
        assert_eq!(part.error.as_deref(), Some("too late"));
        assert_eq!(part.attributes, [("rows", Attribute::Number(3))]);
        assert!(part.begun_ns < part.ended_ns && part.ended_ns < whole.ended_ns);
    }
}
