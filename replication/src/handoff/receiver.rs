//! The other end of a replay: the node that missed writes says how fast they may come, and a node keeps the hints of one
//! that leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cube_storage::Store;
use cube_storage::model::NodeId;
use parking_lot::Mutex;

use super::pace::{Coming, Grant, Incoming, Pace};
use super::{HintedHandoff, Kept, Missed, NotKept};
use crate::clock::NodeClock;
use crate::messages::{HandedHint, Refusal, ReplyBody, TakeHints, TakeMarks};

/// What a receiver works with.
pub struct ReceiverParts {
    /// Where hints of others are kept.
    pub handoff: Arc<HintedHandoff>,
    /// Whose engine must not fall behind.
    pub store: Arc<Store>,
    /// The node's clocks.
    pub clock: Arc<NodeClock>,
}

/// Lets hints in.
pub struct HintReceiver {
    parts: ReceiverParts,
    state: Mutex<State>,
    is_leaving: AtomicBool,
    /// Requests to keep something for another node that are not answered yet.
    taking: Arc<AtomicUsize>,
}

struct State {
    pace: Pace,
    /// When it was last told how much is coming, while something is.
    told_ms: Option<u64>,
    taken_before: u64,
}

/// How often the log tells how much is still coming.
const TELL_EVERY_MS: u64 = 10_000;

/// Told once whether hints were taken.
pub(crate) type OnTaken = Box<dyn FnOnce(Result<ReplyBody, Refusal>) + Send>;

impl HintReceiver {
    /// A receiver that nothing is coming to yet.
    pub fn new(parts: ReceiverParts) -> Self {
        let pace = Pace::new(parts.clock.monotonic_ms());
        let state = Mutex::new(State { pace, told_ms: None, taken_before: 0 });
        Self { parts, state, is_leaving: AtomicBool::new(false), taking: Arc::default() }
    }

    /// A sender asks for a lease.
    pub fn ask(&self, from: NodeId, coming: Coming) -> Grant {
        let now_ms = self.parts.clock.monotonic_ms();
        let debt_bytes = self.parts.store.engine_debt_bytes();
        let mut state = self.state.lock();
        let grant = state.pace.ask(from, coming, debt_bytes, now_ms);
        state.tell(now_ms);
        grant
    }

    /// A client's write took so long.
    pub fn wrote(&self, took_ms: u64) {
        let now_ms = self.parts.clock.monotonic_ms();
        self.state.lock().pace.wrote(took_ms.saturating_mul(1_000), now_ms);
    }

    /// A sender is believed dead: what it leased is there for the others.
    pub fn gone(&self, node: NodeId) {
        let now_ms = self.parts.clock.monotonic_ms();
        let mut state = self.state.lock();
        state.pace.gone(node, now_ms);
        state.tell(now_ms);
    }

    /// Whether hints come, and get on: what this node lacks is on its way.
    pub fn catches_up(&self) -> bool {
        self.state.lock().pace.catches_up(self.parts.clock.monotonic_ms())
    }

    /// What is coming.
    pub fn incoming(&self) -> Incoming {
        self.state.lock().pace.incoming(self.parts.clock.monotonic_ms())
    }

    /// From now on nothing is kept in the place of other nodes: this one leaves itself.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::SeqCst);
    }

    /// Whether something is being taken that counts among the hints and marks only a moment later.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.load(Ordering::SeqCst) > 0
    }

    /// Counts a request until it is answered. Counted before it is looked whether this node leaves: one that is let in is
    /// seen by whoever looks after that.
    fn counted(&self, taken: OnTaken) -> OnTaken {
        self.taking.fetch_add(1, Ordering::SeqCst);
        let taking = Arc::clone(&self.taking);
        Box::new(move |result| {
            taking.fetch_sub(1, Ordering::SeqCst);
            taken(result);
        })
    }

    /// Keeps hints in the place of a node that leaves; `taken` is told when all of them are durable.
    pub fn take(&self, TakeHints { target, hints }: TakeHints, taken: OnTaken) {
        let taken = self.counted(taken);
        if let Err(refusal) = self.may_keep(target) {
            return taken(Err(refusal));
        }
        let left = Arc::new(AtomicUsize::new(hints.len()));
        if hints.is_empty() {
            return taken(Ok(ReplyBody::TookHints));
        }
        let all_kept = Arc::new(AtomicBool::new(true));
        let taken = Arc::new(Mutex::new(Some(taken)));
        for HandedHint { mutation, created_ms, only_copy } in hints {
            let (left, all_kept, taken) = (Arc::clone(&left), Arc::clone(&all_kept), Arc::clone(&taken));
            let missed = Missed { target, mutations: vec![mutation], only_copy };
            let kept = move |kept: Result<Kept, NotKept>| {
                if kept.is_err() {
                    all_kept.store(false, Ordering::Release);
                }
                if left.fetch_sub(1, Ordering::AcqRel) > 1 {
                    return;
                }
                let result =
                    if all_kept.load(Ordering::Acquire) { Ok(ReplyBody::TookHints) } else { Err(Refusal::DiskFull) };
                let told = taken.lock().take();
                if let Some(told) = told {
                    told(result);
                }
            };
            self.parts.handoff.take_over(missed, created_ms, Box::new(kept));
        }
    }

    /// Keeps dirty marks in the place of a node that leaves; `taken` is told when they are durable.
    pub fn take_marks(&self, TakeMarks { target, marks }: TakeMarks, taken: OnTaken) {
        let taken = self.counted(taken);
        if let Err(refusal) = self.may_keep(target) {
            return taken(Err(refusal));
        }
        let told = move |kept: Result<Kept, NotKept>| {
            taken(kept.map(|_| ReplyBody::TookMarks).map_err(|_| Refusal::DiskFull));
        };
        self.parts.handoff.take_over_marks(target, marks, Box::new(told));
    }

    /// A member that is newer than this node's map must not be taken for one that left, whose hints nobody misses.
    fn may_keep(&self, target: NodeId) -> Result<(), Refusal> {
        if self.is_leaving.load(Ordering::SeqCst) {
            return Err(Refusal::Unsupported(format!("keeping what {target} missed: it leaves the cluster itself")));
        }
        let unknown = || Refusal::Unsupported(format!("keeping what {target} missed: its map does not name it yet"));
        self.parts.handoff.knows(target).then_some(()).ok_or_else(unknown)
    }
}

impl State {
    fn tell(&mut self, now_ms: u64) {
        let incoming = self.pace.incoming(now_ms);
        let records: u64 = incoming.senders.values().map(|(records, _)| records).sum();
        match self.told_ms {
            None if records > 0 => {
                (self.told_ms, self.taken_before) = (Some(now_ms), incoming.taken);
                tracing::info!(hints = records, nodes = incoming.senders.len(), "hints are coming to this node");
            }
            Some(_) if records == 0 => {
                self.told_ms = None;
                tracing::info!(taken = incoming.taken - self.taken_before, "all hints for this node have come");
            }
            Some(told_ms) if now_ms.saturating_sub(told_ms) >= TELL_EVERY_MS => {
                self.told_ms = Some(now_ms);
                let (per_second, eta_ms) = (incoming.per_second, incoming.eta_ms.unwrap_or_default());
                tracing::info!(left = records, per_second, eta_ms, "hints are coming to this node");
            }
            _ => {}
        }
    }
}
