//! The coordinator: what any node does for a client. It finds the replicas of a row, asks as many as the level needs,
//! decides by their answers, and goes on listening for the rest.
//!
//! A request is a small state machine (`write/group.rs`, `read/row.rs`, `range/merge.rs`: plain code) inside an
//! operation that sends, counts time and tells the client (`write/mod.rs`, `read/mod.rs`, `range/mod.rs`). Nothing here
//! waits for another node and nothing is spawned: an operation moves when an answer, a note or a tick of the clock arrives,
//! on the thread that brings it. That thread does disk work now and then: a stamp may make a new clock bound durable, and
//! this node's own rows are read on it. It is also what makes a whole cluster run in one thread, step by step, in the
//! simulator.
//!
//! Bounds: requests under way and the bytes they hold (`admission.rs`), and the time of each (`deadlines.rs`).

mod admission;
mod answers;
mod confirm;
mod deadlines;
mod error;
mod explain;
mod figures;
mod hedge;
mod range;
mod read;
mod request;
mod scan;
mod slow_log;
mod spans;
#[cfg(test)]
mod testing;
mod write;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use cube_storage::SyncState;
use cube_storage::model::{Epoch, Hlc, Limits, NodeId, PartitionId, PlacementId, TableId, Token};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

pub use self::admission::Arrival;
use self::admission::Load;
use self::deadlines::{Deadline, Deadlines, Due, Place};
pub use self::error::{Failure, Incomplete, RequestError};
use self::explain::Ledger;
pub use self::explain::{Account, Asked, Explained, Kind, Message, Reason, Role, RowTold, Stale, Told, Verdict, Why};
use self::figures::Figures;
pub use self::figures::{ReadFigures, RepairCause, RepairOutcome, Repairs};
use self::hedge::Peers;
pub use self::range::{OnRange, RangePage};
use self::read::Mends;
pub use self::read::{OnRead, ReadRow};
pub use self::request::{Change, PrefixRequest, RangeRequest, ReadRequest, TableName, Terms, WriteRequest};
pub use self::scan::{OnPrefix, PrefixPage, Scanning};
use self::slow_log::SlowLog;
use self::spans::wrong_with;
pub use self::write::{OnWritten, Written};
use crate::bursts::Bursts;
use crate::catalog::{Catalog, ClusterState, Target};
use crate::clock::NodeClock;
use crate::handoff::HintKeeper;
use crate::membership::Membership;
use crate::messages::{Features, PROTOCOL, Reply, Request, RequestBody};
use crate::replica::Replica;
use crate::topology::{DataCenter, Route};
use crate::trace::Tracer;
use crate::transport::{Lane, PeerError, PeerTransport};
use crate::watermark::UnderWay;

/// What an operator chooses of a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time of a write that does not say.
    pub write_timeout_ms: u32,
    /// The time of a read that does not say.
    pub read_timeout_ms: u32,
    /// Requests under way at once.
    pub in_flight_max: usize,
    /// Bytes of rows that they may hold together.
    pub in_flight_bytes_max: usize,
    /// Where this node's random choices begin, together with its id: which reads ask all replicas.
    pub seed: u64,
    /// Requests that take so long are recorded with their accounts; none when nothing is said, for an account costs
    /// something while it is written.
    pub slow_ms: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            write_timeout_ms: 2_000,
            read_timeout_ms: 2_000,
            in_flight_max: 16_384,
            in_flight_bytes_max: 256 << 20,
            seed: 0,
            slow_ms: None,
        }
    }
}

/// What a coordinator works with.
pub struct Parts {
    /// The node it is.
    pub me: NodeId,
    /// The node's clocks.
    pub clock: Arc<NodeClock>,
    /// The cluster's state.
    pub catalog: Arc<Catalog>,
    /// Who is alive.
    pub membership: Arc<dyn Membership>,
    /// The way to other nodes.
    pub transport: Arc<dyn PeerTransport>,
    /// This node as a replica: it is asked without the network.
    pub replica: Arc<Replica>,
    /// Where what replicas missed is kept.
    pub hints: Arc<dyn HintKeeper>,
}

/// Coordinates requests on one node.
pub struct Coordinator {
    parts: Parts,
    settings: Settings,
    limits: Limits,
    load: Load,
    writes: Arc<UnderWay>,
    deadlines: Arc<Deadlines>,
    peers: Peers,
    figures: Figures,
    mends: Mends,
    slow: SlowLog,
    /// For whom it was told lately that what they missed is not noted.
    unnoted: Mutex<Bursts<NodeId>>,
    /// From when on a request is slow, in milliseconds; [`NEVER_SLOW`] where none is recorded.
    slow_ms: AtomicU32,
    random: Mutex<Xoshiro256StarStar>,
    /// Takes the spans of traced requests; without it none is traced.
    tracer: OnceLock<Arc<dyn Tracer>>,
    /// Operations that wait for a newer map, each once.
    rerouting: Mutex<BTreeMap<Place, Arc<dyn Timed>>>,
    /// Messages to replicas that had not adopted the map yet, by when they are sent again.
    resends: Mutex<BTreeMap<u64, Vec<Resend>>>,
}

/// Sends a message again.
type Resend = Box<dyn FnOnce() + Send>;

/// A replica learns a map within moments of its coordinator: so long later it is asked again, and each time it is still
/// behind twice as long later.
const RESEND_AFTER_MS: u64 = 20;
/// How often one message is sent again: for more than a second. A replica that is behind for longer has failed.
const RESENDS_MAX: u32 = 6;

/// No request takes so long.
const NEVER_SLOW: u32 = u32::MAX;

/// Nodes with one seed make different choices.
fn seed_of(node: NodeId) -> u64 {
    u64::from(node.0) << 32
}

/// An operation under way.
trait Timed: Send + Sync {
    /// Its time is over.
    fn on_deadline(self: Arc<Self>);
    /// It asked to be told that it is now.
    fn on_early(self: Arc<Self>, _now_ms: u64) {}
    /// The cluster's state has changed.
    fn on_state(self: Arc<Self>);
    /// When its time is over, which tells it from the other ones.
    fn deadline(&self) -> &Deadline;
}

impl Coordinator {
    /// A coordinator.
    pub fn new(parts: Parts, settings: Settings) -> Arc<Self> {
        let limits = *parts.replica.store().limits();
        Arc::new(Self {
            settings,
            limits,
            load: Load::default(),
            writes: UnderWay::new(Arc::clone(&parts.clock)),
            deadlines: Arc::default(),
            peers: Peers::default(),
            figures: Figures::default(),
            mends: Mends::default(),
            slow: SlowLog::default(),
            unnoted: Mutex::default(),
            slow_ms: AtomicU32::new(settings.slow_ms.unwrap_or(NEVER_SLOW)),
            random: Mutex::new(Xoshiro256StarStar::seed_from_u64(settings.seed ^ seed_of(parts.me))),
            tracer: OnceLock::new(),
            parts,
            rerouting: Mutex::default(),
            resends: Mutex::default(),
        })
    }

    /// Has `wake` called when [`Self::tick`] is to be called earlier than [`Self::next_tick_ms`] said.
    pub fn wake_by(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.deadlines.alarm.wake_by(wake);
    }

    /// When to call [`Self::tick`] next: when something is due, but not before `soon_ms`, and at `longest_ms` at the latest.
    pub fn next_tick_ms(&self, soon_ms: u64, longest_ms: u64) -> u64 {
        let next_resend_ms = || self.resends.lock().first_key_value().map(|(due_ms, _)| *due_ms);
        self.deadlines.rest_until(soon_ms, longest_ms, next_resend_ms)
    }

    /// Ends operations whose time is over, asks others where a replica is slow, and sends again what is due. Called every
    /// few milliseconds, or when something is due.
    pub fn tick(&self) {
        let now_ms = self.parts.clock.monotonic_ms();
        for due in self.deadlines.due(now_ms) {
            match due {
                Due::Over(operation) => operation.on_deadline(),
                Due::Early(operation) => operation.on_early(now_ms),
            }
        }
        for resend in self.due_resends(now_ms) {
            resend();
        }
    }

    fn due_resends(&self, now_ms: u64) -> Vec<Resend> {
        let mut resends = self.resends.lock();
        let later = resends.split_off(&(now_ms + 1));
        std::mem::replace(&mut *resends, later).into_values().flatten().collect()
    }

    /// When a replica that is behind may be asked again, if it may: it was asked again `resends` times.
    fn resend_at(&self, resends: u32, deadline_ms: u64) -> Option<u64> {
        let due_ms = self.parts.clock.monotonic_ms() + (RESEND_AFTER_MS << resends.min(RESENDS_MAX));
        (resends < RESENDS_MAX && due_ms < deadline_ms).then_some(due_ms)
    }

    fn resend(&self, due_ms: u64, resend: Resend) {
        self.resends.lock().entry(due_ms).or_default().push(resend);
        self.deadlines.alarm.on_due(due_ms);
    }

    /// Called when the cluster's state has changed: operations that wait for a newer map go on.
    pub fn on_state(&self) {
        let waiting = std::mem::take(&mut *self.rerouting.lock());
        for operation in waiting.into_values() {
            operation.on_state();
        }
    }

    /// Drops the operations that wait, without telling anyone, as the end of the process would.
    pub fn abandon(&self) {
        let waiting = std::mem::take(&mut *self.rerouting.lock());
        let resends = std::mem::take(&mut *self.resends.lock());
        drop((waiting, resends));
    }

    /// Requests whose clients have not been told.
    pub fn in_flight(&self) -> usize {
        self.load.requests()
    }

    /// Requests that came since the node started.
    pub fn begun(&self) -> u64 {
        self.load.begun()
    }

    /// Operations that have not ended: those of [`Self::in_flight`], and those that still wait for a late replica.
    pub fn under_way(&self) -> usize {
        self.deadlines.len()
    }

    /// The writes that have not ended, by which they hold down the watermark of the node.
    pub fn writes_under_way(&self) -> &Arc<UnderWay> {
        &self.writes
    }

    /// What reads came upon since the node started, by table.
    pub fn read_figures(&self) -> BTreeMap<TableId, ReadFigures> {
        let state = self.parts.catalog.current();
        self.figures.retain(|table| state.schema.table_options().any(|(id, _)| id == table));
        self.figures.snapshot()
    }

    /// From now on requests that take so long are recorded, as [`Settings::slow_ms`] says for the beginning.
    pub fn record_slow(&self, slow_ms: Option<u32>) {
        self.slow_ms.store(slow_ms.unwrap_or(NEVER_SLOW), Ordering::Relaxed);
    }

    /// From now on spans of traced requests go here.
    pub fn trace_by(&self, tracer: Arc<dyn Tracer>) {
        // The first one stays: a node has one.
        let _is_first = self.tracer.set(tracer);
    }

    fn slow_ms(&self) -> Option<u32> {
        Some(self.slow_ms.load(Ordering::Relaxed)).filter(|slow_ms| *slow_ms != NEVER_SLOW)
    }

    /// Bytes of rows that the requests in flight hold.
    pub fn in_flight_bytes(&self) -> usize {
        self.load.bytes()
    }

    fn is_alive(&self, node: NodeId) -> bool {
        node == self.parts.me || self.parts.membership.is_alive(node)
    }

    /// Replicas that may be asked, the best liked first: this node, then the others that live in their order.
    fn candidates(&self, replicas: &[NodeId]) -> Vec<NodeId> {
        let me = self.parts.me;
        let mine = replicas.iter().copied().filter(|node| *node == me);
        let others = replicas.iter().copied().filter(|node| *node != me && self.is_alive(*node));
        mine.chain(others).collect()
    }

    /// The same in the order in which they are asked for a row: this node while it is in sync, then those in sync, nearby
    /// and quick.
    fn preferred(
        &self,
        mut replicas: Vec<NodeId>,
        (placement, partition): (PlacementId, PartitionId),
        is_near: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        replicas.retain(|node| self.is_alive(*node));
        let now_ms = self.parts.clock.monotonic_ms();
        self.peers.sort(&mut replicas, (placement, partition), now_ms, is_near);
        if let Some(place) = replicas.iter().position(|node| *node == self.parts.me) {
            let sync = self.parts.replica.store().partition(placement, partition).sync;
            match replicas.get_mut(..=place) {
                Some(before) if sync == SyncState::Synced => before.rotate_right(1),
                _ => replicas.get_mut(place..).into_iter().for_each(|behind| behind.rotate_left(1)),
            }
        }
        replicas
    }

    /// An answer to a read came from a node that was asked then.
    fn note_answer(&self, node: NodeId, sent_ms: u64) {
        if node != self.parts.me {
            let now_ms = self.parts.clock.monotonic_ms();
            self.peers.answered(node, now_ms.saturating_sub(sent_ms), now_ms);
        }
    }

    /// Whether something of this chance is to happen.
    fn by_chance(&self, percent: u8) -> bool {
        match percent {
            0 => false,
            100.. => true,
            percent => self.random.lock().random_range(0..100) < percent,
        }
    }

    fn data_center(&self, state: &ClusterState) -> DataCenter {
        let me = state.topology.member(self.parts.me);
        me.map_or_else(|| DataCenter::from(""), |member| member.data_center.clone())
    }

    /// Waits for a newer state than `seen` with the operations that do.
    fn wait_for_state(&self, operation: Arc<dyn Timed>, seen: Epoch) {
        let place = operation.deadline().place();
        self.rerouting.lock().insert(place, Arc::clone(&operation));
        // Its time may have ended between the decision to wait and here: then nobody takes it out any more.
        if !self.deadlines.is_ahead(operation.deadline()) {
            let over = self.rerouting.lock().remove(&place);
            return drop(over);
        }
        // It may have come between the look at the catalog and here.
        if self.parts.catalog.epoch() > seen {
            self.on_state();
        }
    }

    /// Where a row's replicas are.
    fn route<'a>(&self, state: &'a ClusterState, target: Target, token: Token) -> Result<Route<'a>, RequestError> {
        let route = state.topology.route(target.placement, token);
        route.filter(|route| !route.map.serving().is_empty()).ok_or(RequestError::NoReplicas)
    }

    /// The greater clock, by which expiry is judged: a reading that is out of bound ends nobody's rows.
    fn later(&self, as_of: Hlc, clock: Hlc) -> Hlc {
        if self.parts.clock.check(clock).is_ok() { as_of.max(clock) } else { as_of }
    }

    /// An operation whose time is over waits no longer.
    fn stop_waiting(&self, operation: &dyn Timed) {
        let waiting = self.rerouting.lock().remove(&operation.deadline().place());
        // It may be the last that holds the operation, whose end takes locks of its own.
        drop(waiting);
    }

    /// Asks a node for a client. `reply` may be told before this returns.
    fn send(
        &self,
        to: NodeId,
        body: RequestBody,
        deadline_ms: u64,
        ledger: Option<&Arc<Ledger>>,
        reply: impl FnOnce(Result<Reply, PeerError>) + Send + 'static,
    ) {
        self.send_in(Lane::Foreground, to, body, deadline_ms, ledger, reply);
    }

    /// Asks a node, or this one without the network.
    fn send_in(
        &self,
        lane: Lane,
        to: NodeId,
        body: RequestBody,
        deadline_ms: u64,
        ledger: Option<&Arc<Ledger>>,
        reply: impl FnOnce(Result<Reply, PeerError>) + Send + 'static,
    ) {
        let noted = ledger.map(|ledger| (Arc::clone(ledger), ledger.sent(to, &body), ledger.ask_span(to)));
        let trace = noted.as_ref().and_then(|(_, _, span)| span.as_ref()).map(|span| span.context());
        let reply = move |result: Result<Reply, PeerError>| {
            if let Some((ledger, place, span)) = noted {
                ledger.answered(place, &result);
                if let Some(span) = span {
                    span.end(wrong_with(&result));
                }
            }
            reply(result);
        };
        let time_left_ms = deadline_ms.saturating_sub(self.parts.clock.monotonic_ms());
        let request = Request {
            protocol: PROTOCOL,
            features: Features::OF_THIS_BUILD,
            from: self.parts.me,
            clock: self.parts.clock.peek(),
            time_left_ms: u32::try_from(time_left_ms).unwrap_or(u32::MAX),
            explain: ledger.is_some(),
            trace,
            body,
        };
        if to == self.parts.me {
            return self.parts.replica.handle(request, Box::new(|answer| reply(Ok(answer))));
        }
        let clock = Arc::clone(&self.parts.clock);
        self.parts.transport.send(
            to,
            lane,
            request,
            Box::new(move |result| {
                if let Ok(answer) = &result {
                    // A peer whose clock is out of bound is still heard; its clock is not taken over.
                    let _absorbed = clock.observe(answer.clock);
                }
                reply(result);
            }),
        );
    }
}
