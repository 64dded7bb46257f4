//! Copying a partition to a new replica, page by page, from replicas that serve it.
//!
//! Every acknowledged quorum write is held by a replica of every quorum, so a copy of all that a quorum of the old
//! replicas holds lacks nothing that was acknowledged; what is written meanwhile comes to the new replica directly. For
//! that each source must have fenced the map before, durably, when it answers: the copy names the map, and a source that
//! has not adopted it refuses. Replicas that stay catch up the same way, because what two of five hold by quorum may be
//! in no quorum of the three that stay. Pages go through the one write path and may come twice. Sources are read side
//! by side; one that fails is given up, and the copy succeeds while enough of them remain.

use std::sync::Arc;

use cube_storage::model::{Batch, Epoch, Hlc, Mutation, NodeId, Origin, Outcome, PartitionId, TableId};
use cube_storage::scan::{PageToken, Row, ScanRequest, Scope};
use cube_storage::{Store, StoreError};
use parking_lot::Mutex;

use crate::clock::NodeClock;
use crate::messages::{Features, PROTOCOL, Reply, ReplyBody, Request, RequestBody, ScanRows};
use crate::quorum::{State as Count, Tracker};
use crate::transport::{Lane, PeerError, PeerTransport};

/// Rows of one page, which the limits bound by bytes as well: a page is applied as one batch.
const PAGE_ROWS: usize = 256;
/// The time of one page: generous, because a slow source is better than none.
const PAGE_TIMEOUT_MS: u32 = 10_000;

/// What a copy works with.
pub struct BackfillParts {
    /// The node that copies.
    pub me: NodeId,
    /// Its store.
    pub store: Arc<Store>,
    /// Its clocks.
    pub clock: Arc<NodeClock>,
    /// The way to the sources.
    pub transport: Arc<dyn PeerTransport>,
}

/// Told once whether the copy is complete.
pub type OnBackfilled = Box<dyn FnOnce(bool) + Send>;

/// The copy of one partition, of all tables that are placed with it.
pub struct Backfill {
    parts: BackfillParts,
    partition: PartitionId,
    map: Epoch,
    tables: Vec<TableId>,
    state: Mutex<State>,
}

struct State {
    tracker: Tracker,
    done: Option<OnBackfilled>,
}

impl Backfill {
    /// Begins to copy `tables` from every replica that `sources` counts, each of which must have adopted the map;
    /// complete when their level is met.
    pub fn start(
        parts: BackfillParts,
        (partition, map): (PartitionId, Epoch),
        tables: Vec<TableId>,
        sources: Tracker,
        done: OnBackfilled,
    ) -> Arc<Self> {
        let nodes: Vec<NodeId> = sources.silent().filter(|node| *node != parts.me).collect();
        let state = Mutex::new(State { tracker: sources, done: Some(done) });
        let backfill = Arc::new(Self { parts, partition, map, tables, state });
        nodes.into_iter().for_each(|source| backfill.next_table(source, 0));
        backfill
    }

    /// Begins with the table at `place`; behind the last one the source is done.
    fn next_table(self: &Arc<Self>, source: NodeId, place: usize) {
        match self.tables.get(place) {
            Some(table) => self.ask(source, *table, place, None),
            None => self.count(source, true),
        }
    }

    fn ask(self: &Arc<Self>, source: NodeId, table: TableId, place: usize, resume: Option<PageToken>) {
        let (first, last) = self.parts.store.bits().tokens_of(self.partition);
        let limits = self.parts.store.limits();
        let page = ScanRequest {
            rows_max: PAGE_ROWS.min(limits.page_rows_max),
            resume,
            ..ScanRequest::all(table, Scope::Tokens(first, last), limits)
        };
        let request = Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: self.parts.me,
            clock: self.parts.clock.peek(),
            time_left_ms: PAGE_TIMEOUT_MS,
            explain: false,
            body: RequestBody::Scan(ScanRows { page, claim: Some(self.map) }),
        };
        let backfill = Arc::clone(self);
        let reply = Box::new(move |reply| backfill.on_page(source, table, place, reply));
        self.parts.transport.send(source, Lane::Background, request, reply);
    }

    fn on_page(self: &Arc<Self>, source: NodeId, table: TableId, place: usize, reply: Result<Reply, PeerError>) {
        if let Ok(reply) = &reply {
            // A clock out of bound is not absorbed; rows are copied whatever the clocks say.
            let _absorbed = self.parts.clock.observe(reply.clock);
        }
        let (rows, next, floor) = match reply.map(|reply| reply.body) {
            Ok(Ok(ReplyBody::Page { rows, next, floor })) => (rows, next, floor),
            Ok(Ok(_)) => return self.give_up(source, &"it answered another question"),
            Ok(Err(refusal)) => return self.give_up(source, &refusal),
            Err(error) => return self.give_up(source, &error),
        };
        let backfill = Arc::clone(self);
        let applied = move |result: Result<Vec<Outcome>, StoreError>| match (result, next) {
            (Err(error), _) => {
                tracing::warn!(%error, %source, "a copied page could not be kept");
                backfill.count(source, false);
            }
            (Ok(_), Some(resume)) => backfill.ask(source, table, place, Some(resume)),
            (Ok(_), None) => backfill.next_table(source, place + 1),
        };
        self.parts.store.submit(batch(table, rows, floor), Box::new(applied));
    }

    fn give_up(&self, source: NodeId, cause: &dyn std::fmt::Display) {
        tracing::info!(%cause, %source, partition = %self.partition, "a partition is not copied from this source");
        self.count(source, false);
    }

    fn count(&self, source: NodeId, complete: bool) {
        let mut state = self.state.lock();
        if complete {
            state.tracker.ack(source);
        } else {
            state.tracker.fail(source);
        }
        let result = match state.tracker.state() {
            Count::Pending => return,
            Count::Met => true,
            Count::Impossible => false,
        };
        let done = state.done.take();
        drop(state);
        if let Some(done) = done {
            done(result);
        }
    }
}

fn batch(table: TableId, rows: Vec<Row>, floor: Hlc) -> Batch {
    let mutation = |Row { key, record }| Mutation { table, key, record, claim: None };
    Batch { origin: Origin::Replica { floor }, mutations: rows.into_iter().map(mutation).collect() }
}
