//! Bringing replicas up to date in the background, after a read that asked all of them by chance: nobody waits for it, and
//! it goes in the lane behind clients.
//!
//! Bounds: rows that are mended at once and the bytes that they bring, tries of each replica, and the time of a read. Past
//! them a repair is left out and counted; the next read, or anti-entropy, comes upon the row again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cube_storage::model::{Epoch, Hlc, Mutation, NodeId, Origin, Record, RowKey, TableId};
use parking_lot::Mutex;

use super::mend::{Event, Mend, Step};
use crate::coordinator::Coordinator;
use crate::coordinator::answers::{is_behind, outcomes_of};
use crate::coordinator::error::Failure;
use crate::coordinator::figures::{Counters, RepairCause, RepairOutcome};
use crate::messages::{ReadRows, Refusal, Reply, ReplyBody, RequestBody, Stamp, Want, WriteRows};
use crate::transport::{Lane, PeerError};

/// Rows of which all replicas are asked, or that are brought to those behind, at once.
const ROWS_MAX: usize = 1_024;
/// Bytes of records on their way to replicas at once.
const BYTES_MAX: usize = 16 << 20;
/// How often one replica is brought one row: once, and again where it was not ready.
const TRIES_MAX: u32 = 3;

/// What is being mended.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct Mends {
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

/// The rest of one row's read, under way.
pub(super) struct Mending {
    coordinator: Arc<Coordinator>,
    counters: Arc<Counters>,
    table: TableId,
    key: RowKey,
    claim: Epoch,
    mend: Mutex<Mend>,
}

/// A record on its way to one replica.
struct Bringing {
    mending: Arc<Mending>,
    node: NodeId,
    mutation: Mutation,
    floor: Hlc,
    deadline_ms: u64,
    bytes: usize,
}

impl Mending {
    /// Begins to follow a read that is about to ask these, if there is room for another one.
    pub(super) fn begin(
        coordinator: &Arc<Coordinator>,
        counters: &Arc<Counters>,
        (table, key, claim): (TableId, RowKey, Epoch),
        asked: Vec<NodeId>,
    ) -> Arc<Self> {
        Arc::new(Self {
            coordinator: Arc::clone(coordinator),
            counters: Arc::clone(counters),
            table,
            key,
            claim,
            mend: Mutex::new(Mend::new(asked)),
        })
    }

    /// Whether another row may be mended: then it counts as one until it is dropped.
    pub(super) fn may_begin(coordinator: &Coordinator) -> bool {
        let rows = &coordinator.mends.rows;
        if rows.fetch_add(1, Ordering::Relaxed) < ROWS_MAX {
            return true;
        }
        rows.fetch_sub(1, Ordering::Relaxed);
        false
    }

    pub(super) fn claim(&self) -> Epoch {
        self.claim
    }

    pub(super) fn on(self: &Arc<Self>, event: Event) {
        let mut mend = self.mend.lock();
        let step = mend.on(event);
        if !matches!(step, Step::Nothing) {
            self.counters.stale_late(mend.stale());
        }
        drop(mend);
        self.take(step);
    }

    fn take(self: &Arc<Self>, step: Step) {
        match step {
            Step::Nothing | Step::Done => {}
            Step::Fetch(node) => self.fetch(node),
            Step::Repair { record, floor, targets } => {
                targets.into_iter().for_each(|node| self.bring(node, record.clone(), floor));
            }
        }
    }

    fn deadline_ms(&self) -> u64 {
        let timeout_ms = self.coordinator.settings.read_timeout_ms;
        self.coordinator.parts.clock.monotonic_ms() + u64::from(timeout_ms)
    }

    fn fetch(self: &Arc<Self>, node: NodeId) {
        let rows = vec![(self.key.clone(), self.claim)];
        let body = RequestBody::Read(ReadRows { table: self.table, rows, want: Want::Record });
        let mending = Arc::clone(self);
        let deadline_ms = self.deadline_ms();
        self.coordinator.send_in(Lane::Background, node, body, deadline_ms, None, move |reply| {
            let found = match reply.map(|reply| reply.body) {
                Ok(Ok(ReplyBody::Rows(mut rows))) if rows.len() == 1 => rows.pop().and_then(Result::ok),
                _ => None,
            };
            let step = mending.mend.lock().on_fetched(node, found);
            mending.take(step);
        });
    }

    fn bring(self: &Arc<Self>, node: NodeId, record: Record, floor: Hlc) {
        let bytes = record.encoded_len();
        let held = self.coordinator.mends.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mutation = Mutation { table: self.table, key: self.key.clone(), record, claim: Some(self.claim) };
        let mending = Arc::clone(self);
        let bringing = Bringing { mending, node, mutation, floor, deadline_ms: self.deadline_ms(), bytes };
        if held > 0 && held + bytes > BYTES_MAX {
            return self.counters.repair(RepairCause::Chance, RepairOutcome::Skipped);
        }
        bringing.send(0);
    }
}

impl Drop for Mending {
    fn drop(&mut self) {
        self.coordinator.mends.rows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bringing {
    fn send(self, tries: u32) {
        let body = RequestBody::Write(WriteRows {
            origin: Origin::Replica { floor: self.floor },
            mutations: vec![self.mutation.clone()],
            stamp: Stamp::Old,
            seen: None,
            condition: None,
        });
        let coordinator = Arc::clone(&self.mending.coordinator);
        let (node, deadline_ms) = (self.node, self.deadline_ms);
        let answered = move |reply| self.on_reply(tries + 1, reply);
        coordinator.send_in(Lane::Background, node, body, deadline_ms, None, answered);
    }

    fn on_reply(self, tries: u32, reply: Result<Reply, PeerError>) {
        let outcome = outcomes_of(reply, 1).pop().unwrap_or(Err(Failure::Nonsense));
        let is_busy = matches!(
            outcome,
            Err(Failure::Refused(Refusal::Overloaded { .. }) | Failure::Peer(PeerError::QueueFull { .. }))
        );
        let coordinator = Arc::clone(&self.mending.coordinator);
        let again_at = coordinator.resend_at(tries, self.deadline_ms).filter(|_| tries < TRIES_MAX);
        match again_at.filter(|_| is_busy || is_behind(&outcome)) {
            Some(due_ms) => coordinator.resend(due_ms, Box::new(move || self.send(tries))),
            None => self.mending.counters.repair(RepairCause::Chance, RepairOutcome::of(&outcome)),
        }
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        self.mending.coordinator.mends.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
