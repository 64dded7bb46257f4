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
mod range;
mod read;
mod request;
#[cfg(test)]
mod testing;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::{Epoch, Hlc, Limits, NodeId, Token};
use parking_lot::Mutex;

use self::admission::Load;
use self::deadlines::{Deadlines, Place};
pub use self::error::{Failure, Incomplete, RequestError};
pub use self::range::{OnRange, RangePage};
pub use self::read::{OnRead, ReadRow};
pub use self::request::{Change, RangeRequest, ReadRequest, TableName, Terms, WriteRequest};
pub use self::write::{OnWritten, Written};
use crate::catalog::{Catalog, ClusterState, Target};
use crate::clock::NodeClock;
use crate::handoff::HintKeeper;
use crate::membership::Membership;
use crate::messages::{Features, PROTOCOL, Reply, Request, RequestBody};
use crate::replica::Replica;
use crate::topology::{DataCenter, Route};
use crate::transport::{Lane, PeerError, PeerTransport};

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
}

impl Default for Settings {
    fn default() -> Self {
        Self { write_timeout_ms: 2_000, read_timeout_ms: 2_000, in_flight_max: 16_384, in_flight_bytes_max: 256 << 20 }
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
    deadlines: Arc<Deadlines>,
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

/// An operation under way.
trait Timed: Send + Sync {
    /// Its time is over.
    fn on_deadline(self: Arc<Self>);
    /// The cluster's state has changed.
    fn on_state(self: Arc<Self>);
    /// What tells it from the other ones.
    fn place(&self) -> Place;
}

impl Coordinator {
    /// A coordinator.
    pub fn new(parts: Parts, settings: Settings) -> Arc<Self> {
        let limits = *parts.replica.store().limits();
        Arc::new(Self {
            parts,
            settings,
            limits,
            load: Load::default(),
            deadlines: Arc::default(),
            rerouting: Mutex::default(),
            resends: Mutex::default(),
        })
    }

    /// Ends operations whose time is over, and sends again what is due. Called every few milliseconds.
    pub fn tick(&self) {
        let now_ms = self.parts.clock.monotonic_ms();
        for operation in self.deadlines.expired(now_ms) {
            operation.on_deadline();
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

    /// Operations that have not ended: those of [`Self::in_flight`], and those that still wait for a late replica.
    pub fn under_way(&self) -> usize {
        self.deadlines.len()
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

    fn data_center(&self, state: &ClusterState) -> DataCenter {
        let me = state.topology.member(self.parts.me);
        me.map_or_else(|| DataCenter::from(""), |member| member.data_center.clone())
    }

    /// Waits for a newer state than `seen` with the operations that do.
    fn wait_for_state(&self, operation: Arc<dyn Timed>, seen: Epoch) {
        let place = operation.place();
        self.rerouting.lock().insert(place, operation);
        // Its time may have ended between the decision to wait and here: then nobody takes it out any more.
        if !self.deadlines.is_ahead(place) {
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
        let waiting = self.rerouting.lock().remove(&operation.place());
        // It may be the last that holds the operation, whose end takes locks of its own.
        drop(waiting);
    }

    /// Asks a node, or this one without the network. `reply` may be told before this returns.
    fn send(
        &self,
        to: NodeId,
        body: RequestBody,
        deadline_ms: u64,
        explain: bool,
        reply: impl FnOnce(Result<Reply, PeerError>) + Send + 'static,
    ) {
        let time_left_ms = deadline_ms.saturating_sub(self.parts.clock.monotonic_ms());
        let request = Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: self.parts.me,
            clock: self.parts.clock.peek(),
            time_left_ms: u32::try_from(time_left_ms).unwrap_or(u32::MAX),
            explain,
            body,
        };
        if to == self.parts.me {
            return self.parts.replica.handle(request, Box::new(|answer| reply(Ok(answer))));
        }
        let clock = Arc::clone(&self.parts.clock);
        self.parts.transport.send(
            to,
            Lane::Foreground,
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
