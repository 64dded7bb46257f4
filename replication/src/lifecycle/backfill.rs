//! Copying a partition to a new replica, page by page, from replicas that serve it.
//!
//! Every acknowledged quorum write is held by a replica of every quorum, so a copy of all that a quorum of the old
//! replicas holds lacks nothing that was acknowledged; what is written meanwhile comes to the new replica directly. For
//! that each source must have fenced the map before, durably, when it answers: the copy names the map, and a source that
//! has not adopted it refuses. Replicas that stay catch up the same way, because what two of five hold by quorum may be
//! in no quorum of the three that stay. Pages go through the one write path and may come twice. Sources are read side
//! by side, so there is nobody to switch to; the copy succeeds while enough of them remain. One that fails is asked again
//! for the same page, ever later, and given up after [`TRIES_MAX`] failures in a row.
//!
//! **Sources that go.** What a single replica acknowledged, or a coordinator that died left behind, may be on one replica alone.
//! The others find it by comparing, as long as that one is a replica. So one that is none any more after the move is read
//! to its end, or given up, before the copy is complete, though a quorum was met without it.
//!
//! **Purge floors.** What a source has purged is on no page of it, so its floor is taken over: below it this replica must
//! not take what comes from somebody who knows of no deletion. That is done at the end, durably, and before the copy counts:
//! below a floor that rose too early, what a source with a lower one still holds would be refused, and be missing. For the
//! same reason a source takes over the floor that this replica has kept from an earlier time, before it tells any row.
//!
//! **Why each source is read whole, by its own position.** A quorum of the sources must have told what it holds of every
//! row. Two sources of three that told one half each are a quorum of no row: what only the third and one of them hold may
//! be missing in both halves. So a position reached in one source says nothing of another one. It is kept in memory alone:
//! a page that comes twice changes nothing, and a partition is a small part of what a node holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::model::{Batch, Epoch, Hlc, Mutation, NodeId, Origin, Outcome, PartitionId, TableId};
use cube_storage::scan::{PageToken, Row, ScanRequest, Scope};
use cube_storage::{Store, StoreError};
use parking_lot::Mutex;

use crate::anti_entropy::questions::Question;
use crate::bursts::Bursts;
use crate::clock::NodeClock;
use crate::messages::{Features, PROTOCOL, Reply, ReplyBody, Request, RequestBody, ScanRows};
use crate::quorum::{State as Count, Tracker};
use crate::transport::{Lane, PeerError, PeerTransport};

/// Rows of one page, which the limits bound by bytes as well: a page is applied as one batch.
const PAGE_ROWS: usize = 256;
/// The time of one page: generous, because a slow source is better than none.
const PAGE_TIMEOUT_MS: u32 = 10_000;

/// Failures in a row after which a source is given up: it was asked for over six seconds, and others may do.
pub const TRIES_MAX: u32 = 7;
/// Behind the first failure in a row; twice as long behind each other one.
const TRY_AGAIN_MS: u64 = 100;

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
    /// Which sources were told of lately. Shared by all copies of the node: a source that is down fails all of them.
    pub given_up: GivenUp,
}

/// Sources that were given up lately, each of which is told of once.
#[derive(Clone, Default)]
pub struct GivenUp(Arc<Mutex<Bursts<NodeId>>>);

/// Told once whether the copy is complete.
pub type OnBackfilled = Box<dyn FnOnce(bool) + Send>;

/// What a copy has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CopyCounts {
    /// Rows that sources told, each as often as it was told.
    pub rows: u64,
    /// Pages asked for again.
    pub retries: u64,
}

/// The copy of one partition, of all tables that are placed with it.
pub struct Backfill {
    parts: BackfillParts,
    partition: PartitionId,
    map: Epoch,
    tables: Vec<TableId>,
    state: Mutex<State>,
}

/// A page that is to be asked for.
#[derive(Clone, Debug)]
struct Position {
    /// The place of its table.
    place: usize,
    resume: Option<PageToken>,
    /// The source was told this replica's floor.
    is_level: bool,
}

/// A source that failed.
struct Pause {
    position: Position,
    until_ms: u64,
}

struct State {
    tracker: Tracker,
    /// Sources that go, and have not told all yet.
    going: BTreeSet<NodeId>,
    /// Failures in a row.
    failures: BTreeMap<NodeId, u32>,
    paused: BTreeMap<NodeId, Pause>,
    counts: CopyCounts,
    /// The highest purge floor that was told of each table.
    floors: BTreeMap<TableId, Hlc>,
    done: Option<OnBackfilled>,
}

impl Backfill {
    /// Begins to copy `tables` from every replica that `sources` counts, each of which must have adopted the map;
    /// complete when their level is met, and those that are `going` told all they have or were given up.
    pub fn start(
        parts: BackfillParts,
        (partition, map): (PartitionId, Epoch),
        tables: Vec<TableId>,
        (sources, going): (Tracker, BTreeSet<NodeId>),
        done: OnBackfilled,
    ) -> Arc<Self> {
        let nodes: Vec<NodeId> = sources.silent().filter(|node| *node != parts.me).collect();
        let state = State {
            tracker: sources,
            going,
            failures: BTreeMap::new(),
            paused: BTreeMap::new(),
            counts: CopyCounts::default(),
            floors: BTreeMap::new(),
            done: Some(done),
        };
        let state = Mutex::new(state);
        let backfill = Arc::new(Self { parts, partition, map, tables, state });
        nodes.into_iter().for_each(|source| backfill.ask(source, Position { place: 0, resume: None, is_level: false }));
        backfill
    }

    /// What it has done so far.
    pub fn counts(&self) -> CopyCounts {
        self.state.lock().counts
    }

    /// Asks the sources again whose time has come. When the next one's does.
    pub fn try_again(self: &Arc<Self>, now_ms: u64) -> Option<u64> {
        let mut state = self.state.lock();
        let due = state.paused.extract_if(.., |_, pause| pause.until_ms <= now_ms);
        let due: Vec<(NodeId, Position)> = due.map(|(source, pause)| (source, pause.position)).collect();
        state.counts.retries += due.len() as u64;
        drop(state);
        due.into_iter().for_each(|(source, position)| self.ask(source, position));
        self.state.lock().paused.values().map(|pause| pause.until_ms).min()
    }

    /// Asks for a page; behind the last table the source is done.
    fn ask(self: &Arc<Self>, source: NodeId, position: Position) {
        let Some(&table) = self.tables.get(position.place) else { return self.count(source, true) };
        let (first, last) = self.parts.store.bits().tokens_of(self.partition);
        let limits = self.parts.store.limits();
        let page = ScanRequest {
            rows_max: PAGE_ROWS.min(limits.page_rows_max),
            resume: position.resume.clone(),
            ..ScanRequest::all(table, Scope::Tokens(first, last), limits)
        };
        let request = self.request(RequestBody::Scan(ScanRows { page, claim: Some(self.map) }));
        let backfill = Arc::clone(self);
        let reply = Box::new(move |reply| backfill.on_page(source, table, position, reply));
        self.parts.transport.send(source, Lane::Background, request, reply);
    }

    fn on_page(self: &Arc<Self>, source: NodeId, table: TableId, position: Position, reply: Result<Reply, PeerError>) {
        if let Ok(reply) = &reply {
            // A clock out of bound is not absorbed; rows are copied whatever the clocks say.
            let _absorbed = self.parts.clock.observe(reply.clock);
        }
        let (rows, next, floor) = match reply.map(|reply| reply.body) {
            Ok(Ok(ReplyBody::Page { rows, next, floor })) => (rows, next, floor),
            Ok(Ok(_)) => return self.on_failure(source, position, &"it answered another question"),
            Ok(Err(refusal)) => return self.on_failure(source, position, &refusal),
            Err(error) => return self.on_failure(source, position, &error),
        };
        let mine = self.parts.store.range_state(table, self.partition).floor;
        match (floor < mine && !rows.is_empty(), position.is_level) {
            (true, false) => return self.level_floor(source, (table, mine), position),
            (true, true) => return self.on_failure(source, position, &"its purge floor is lower"),
            (false, _) => {}
        }
        let (backfill, told) = (Arc::clone(self), rows.len() as u64);
        let applied = move |result: Result<Vec<Outcome>, StoreError>| {
            match result {
                Err(error) => return backfill.on_failure(source, position, &error),
                // The map was superseded meanwhile: what comes now may be nothing that this node is to hold.
                Ok(outcomes) if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Fenced(_))) => {
                    return backfill.count(source, false);
                }
                Ok(_) => {}
            }
            let mut state = backfill.state.lock();
            state.failures.remove(&source);
            state.counts.rows += told;
            let highest = state.floors.entry(table).or_default();
            *highest = floor.max(*highest);
            drop(state);
            let place = if next.is_some() { position.place } else { position.place + 1 };
            backfill.ask(source, Position { place, resume: next, is_level: false });
        };
        self.parts.store.submit(batch((table, self.map), rows, floor), Box::new(applied));
    }

    /// The source is asked again for the page, or given up.
    fn on_failure(&self, source: NodeId, position: Position, cause: &dyn std::fmt::Display) {
        let mut state = self.state.lock();
        let failures = state.failures.entry(source).or_default();
        *failures += 1;
        let (failed, is_over) = (*failures, state.done.is_none());
        if failed < TRIES_MAX && !is_over {
            let until_ms = self.parts.clock.monotonic_ms() + (TRY_AGAIN_MS << (failed - 1));
            let position = Position { is_level: false, ..position };
            state.paused.insert(source, Pause { position, until_ms });
            return;
        }
        drop(state);
        if !is_over {
            let partition = self.partition;
            if self.parts.given_up.0.lock().begins(source, self.parts.clock.monotonic_ms()) {
                tracing::info!(%cause, %source, %partition, "partitions are not copied from this source, this one first");
            } else {
                tracing::debug!(%cause, %source, %partition, "a partition is not copied from this source");
            }
            self.count(source, false);
        }
    }

    fn count(&self, source: NodeId, complete: bool) {
        let mut state = self.state.lock();
        if complete {
            state.tracker.ack(source);
        } else {
            state.tracker.fail(source);
        }
        state.going.remove(&source);
        let result = match state.tracker.state() {
            Count::Pending => return,
            Count::Met if !state.going.is_empty() => return,
            Count::Met => true,
            Count::Impossible => false,
        };
        let done = state.done.take();
        // Nobody is asked again: the others' answers find nobody who waits.
        state.paused.clear();
        let floors: Vec<_> = state.floors.iter().map(|(table, floor)| (*table, self.partition, *floor)).collect();
        drop(state);
        if let Some(done) = done {
            done(result && self.take_floors(&floors));
        }
    }
}

impl Backfill {
    /// Has a source take over this replica's floor, and asks it for the page again. One that does not is asked later.
    fn level_floor(self: &Arc<Self>, source: NodeId, (table, floor): (TableId, Hlc), position: Position) {
        let floors = vec![(table, self.partition, floor)];
        let question = Question::Nodes { horizon: floor, floors, trees: Vec::new() };
        let request = self.request(RequestBody::AntiEntropy(Box::new(question)));
        let backfill = Arc::clone(self);
        let reply = Box::new(move |reply: Result<Reply, PeerError>| match reply.map(|reply| reply.body) {
            Ok(Ok(_)) => backfill.ask(source, Position { is_level: true, ..position }),
            Ok(Err(refusal)) => backfill.on_failure(source, position, &refusal),
            Err(error) => backfill.on_failure(source, position, &error),
        });
        self.parts.transport.send(source, Lane::Background, request, reply);
    }

    fn request(&self, body: RequestBody) -> Request {
        Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: self.parts.me,
            clock: self.parts.clock.peek(),
            time_left_ms: PAGE_TIMEOUT_MS,
            explain: false,
            trace: None,
            body,
        }
    }

    fn take_floors(&self, floors: &[(TableId, PartitionId, Hlc)]) -> bool {
        let taken = self.parts.store.take_floors(floors);
        if let Err(error) = &taken {
            tracing::warn!(%error, partition = %self.partition, "the purge floors of a copied partition are not taken over");
        }
        taken.is_ok()
    }
}

fn batch((table, map): (TableId, Epoch), rows: Vec<Row>, floor: Hlc) -> Batch {
    let mutation = |Row { key, record }| Mutation { table, key, record, claim: Some(map) };
    Batch { origin: Origin::Replica { floor }, mutations: rows.into_iter().map(mutation).collect() }
}
