//! The rows of a table whose keys begin alike, page after page over one stream.
//!
//! The node reads a page while the one before is on its way. When it dies, or says that it cannot go on, the scan goes on at
//! another one behind the last page that came: a token is good on any node and under any map, so each row that is there
//! throughout is given out once. Invariant: a page that did not reach its level is not given out as if it were whole; it is
//! asked for again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cube_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::error::{Asked, Error};
use crate::failure;
use crate::model::{Explained, Key, Level, Row};
use crate::node::Node;
use crate::operation::millis;
use crate::retry::{self, Failure, Kind, Next, Words};
use crate::table::Table;

/// What a page needs to travel, taken off the time that the node is given.
const ANSWER_MARGIN_PART: u32 = 10;

/// A scan: adjust it, then ask for pages or rows until there are no more.
#[derive(Debug)]
#[must_use = "nothing is read before a page or a row is asked for"]
pub struct Scan {
    table: Table,
    request: v1::ScanRequest,
    timeout: Option<Duration>,
    open: Option<Open>,
    /// Rows of the last page that were not given out yet, in reverse.
    waiting: Vec<Row>,
    explained: Option<Explained>,
    is_over: bool,
}

/// The stream of one node.
#[derive(Debug)]
struct Open {
    node: Arc<Node>,
    pages: Streaming<v1::ScanPage>,
}

impl Scan {
    pub(crate) fn new(table: Table, request: v1::ScanRequest) -> Self {
        Self { table, request, timeout: None, open: None, waiting: Vec::new(), explained: None, is_over: false }
    }

    /// How many replicas must have answered; QUORUM if this is not said.
    pub fn level(mut self, level: Level) -> Self {
        self.request.set_level(level.wire());
        self
    }

    /// How long each page may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The last row first.
    pub fn backward(mut self) -> Self {
        self.request.backward = true;
        self
    }

    /// No more rows than this, in all.
    pub fn limit(mut self, rows: u64) -> Self {
        self.is_over = rows == 0;
        self.request.limit = rows;
        self
    }

    /// How many rows are looked at for one page; 1,000 if this is not said.
    pub fn page_rows(mut self, rows: u32) -> Self {
        self.request.page_rows = rows;
        self
    }

    /// Bytes of keys and values on one page; 1 MiB if this is not said.
    pub fn page_bytes(mut self, bytes: u32) -> Self {
        self.request.page_bytes = bytes;
        self
    }

    /// Begins behind a page of the same scan: with what [`Scan::token`] gave then.
    pub fn resume(mut self, token: impl Into<Bytes>) -> Self {
        self.request.page = token.into();
        self
    }

    /// Has each page come with an account of what was done for it: [`Scan::explained`].
    pub fn explain(mut self) -> Self {
        self.request.explain = true;
        self
    }

    /// What was done for the last page, where that was asked for.
    pub fn explained(&self) -> Option<&Explained> {
        self.explained.as_ref()
    }

    /// Goes on behind the last page with another scan, anywhere; nothing before the first page and after the last.
    pub fn token(&self) -> Option<Bytes> {
        (!self.request.page.is_empty()).then(|| self.request.page.clone())
    }

    /// The next page; none after the last one. A page may be empty though more follow: deleted rows are looked at too.
    /// After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Row>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let inner = Arc::clone(self.table.client().inner());
        let deadline = Instant::now() + self.timeout.unwrap_or(inner.options.timeout);
        let mut tried: Vec<Arc<Node>> = Vec::new();
        let mut words = Words::default();
        for attempt in 1.. {
            let node = self.node(&tried)?;
            let now = Instant::now();
            let until = now + deadline.saturating_duration_since(now).min(inner.options.read_attempt);
            let failure = match timeout_at(until, self.ask(&node, until - now)).await.unwrap_or(Err(Failure::Slow)) {
                Ok(page) => {
                    node.answered();
                    return Ok(Some(self.take(page)));
                }
                Err(failure) => failure,
            };
            self.open = None;
            words.note(&node, &failure);
            if failure.is_loss_of_node() {
                node.avoid();
            }
            if failure.tells_of_change() {
                inner.stale.notify_one();
            }
            let wait = match retry::next(Kind::Read, attempt, inner.options.attempts_max, &failure) {
                Next::GiveUp => return Err(self.error(words.or(Kind::Read, &node, failure), attempt)),
                Next::Elsewhere(wait) => inner.clock.jittered(wait),
            };
            tried.push(Arc::clone(&node));
            if Instant::now() + wait >= deadline {
                return Err(self.error(words.or(Kind::Read, &node, failure), attempt));
            }
            tokio::time::sleep(wait).await;
        }
        // The loop only ends by a return: attempts are bounded by `retry`.
        Err(Error::Invalid("more attempts than can be counted".to_owned()))
    }

    /// The next row; none after the last one.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        while self.waiting.is_empty() {
            let Some(mut page) = self.next_page().await? else { return Ok(None) };
            page.reverse();
            self.waiting = page;
        }
        Ok(self.waiting.pop())
    }

    /// The node whose stream is open, or the next to be asked.
    fn node(&self, tried: &[Arc<Node>]) -> Result<Arc<Node>, Error> {
        if let Some(open) = &self.open {
            return Ok(Arc::clone(&open.node));
        }
        let inner = self.table.client().inner();
        let turn = inner.turn.fetch_add(1, Ordering::Relaxed);
        let ring = inner.ring.load();
        ring.pick(&self.request.keyspace, None, inner.options.local_dc.as_deref(), tried, turn)
            .map(Arc::clone)
            .ok_or_else(|| Error::Invalid("the client knows no node".to_owned()))
    }

    async fn ask(&mut self, node: &Arc<Node>, time: Duration) -> Result<v1::ScanPage, Failure> {
        if self.open.is_none() {
            let mut request = self.request.clone();
            request.timeout_ms = millis(time - time / ANSWER_MARGIN_PART);
            let pages = node.kv().scan(request).await.map_err(|status| failure::of_status(&status))?.into_inner();
            self.open = Some(Open { node: Arc::clone(node), pages });
        }
        let Some(open) = &mut self.open else { return Err(Failure::Slow) };
        match open.pages.message().await.map_err(|status| failure::of_status(&status))? {
            Some(page) if page.partial.is_empty() => Ok(page),
            Some(page) => {
                let level = Level::of(self.request.level());
                let partitions = page.partial.len();
                Err(Failure::Lost(format!("{level} was not reached in {partitions} partitions")))
            }
            None => Err(Failure::Lost("the stream ended before the scan".to_owned())),
        }
    }

    fn take(&mut self, page: v1::ScanPage) -> Vec<Row> {
        let rows: Vec<Row> = page.rows.into_iter().map(Row::of).collect();
        self.explained = page.explained.map(|explained| *explained);
        self.is_over = page.next.is_empty();
        self.request.page = page.next;
        if self.request.limit > 0 {
            let taken = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            self.is_over |= taken >= self.request.limit;
            // Another node is asked for what is left; it would take zero for all there is.
            self.request.limit = self.request.limit.saturating_sub(taken).max(1);
        }
        if self.is_over {
            self.open = None;
        }
        rows
    }

    fn error(&self, (node, failure): (Arc<Node>, Failure), attempts: u32) -> Error {
        let prefix = Key { partition: self.request.prefix.clone(), sort: Bytes::new() };
        let asked = Asked { operation: "SCAN", key: prefix.to_string(), changes: false };
        let node = node.address.clone();
        match failure {
            Failure::Refused(refusal) => Error::Refused { asked, node, refusal },
            Failure::Unsent(reason) => Error::Unreachable { asked, node, attempts, reason },
            Failure::Misunderstood(reason) => Error::Misunderstood { asked, node, reason },
            Failure::Lost(_) | Failure::Slow => Error::NotAnswered { asked, node, attempts, reason: failure.reason() },
        }
    }
}
