//! Anti-entropy in the simulator: the real worker, stepped by the node's clock, in a great hurry: everything is compared
//! several times a second, and what is deleted may be purged as soon as the shortest grace and all proofs allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cube_storage::Store;
use cube_storage::model::{Hlc, NodeId};
use parking_lot::Mutex;

use super::hints::SimHints;
use super::mutants::Mutant;
use super::node::TIMEOUT_MS;
use crate::anti_entropy::schedule::Pace;
use crate::anti_entropy::{AntiEntropy, AntiEntropyWorker, Parts, Settings, Status};
use crate::catalog::Catalog;
use crate::clock::NodeClock;
use crate::coordinator::Coordinator;
use crate::membership::Membership;
use crate::replica::Replica;
use crate::transport::PeerTransport;
use crate::watermark::watermark;
use crate::worker::{Step, Worker as _};

/// Deletions are purged after so long, if nothing else is in the way.
pub(super) const GRACE_MS: u64 = 100;
/// Steps of one tick.
const STEPS_MAX: u32 = 16;

/// What anti-entropy of a process works with.
pub(super) struct RepairParts {
    pub(super) me: NodeId,
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<NodeClock>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) membership: Arc<dyn Membership>,
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) replica: Arc<Replica>,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) hints: Arc<SimHints>,
}

/// Anti-entropy of one process.
pub(super) struct SimRepair {
    shared: Arc<AntiEntropy>,
    worker: Mutex<Stepping>,
    woken: Arc<AtomicBool>,
}

struct Stepping {
    worker: AntiEntropyWorker,
    due_ms: u64,
}

fn settings(mutant: Option<Mutant>) -> Settings {
    let never_ms = u64::MAX / 2;
    Settings {
        pace: Pace { interval_ms: 300, again_ms: 50 },
        horizon_ms: u64::from(TIMEOUT_MS),
        question_timeout_ms: 1_000,
        keep_proofs_ms: 200,
        purge_interval_ms: if mutant == Some(Mutant::NeverPurged) { never_ms } else { 200 },
        ..Settings::default()
    }
}

/// As a mistake, nobody is ever known to be down.
struct AllAlive;

impl Membership for AllAlive {
    fn is_alive(&self, _: NodeId) -> bool {
        true
    }
}

impl SimRepair {
    pub(super) fn new(parts: RepairParts, mutant: Option<Mutant>) -> Self {
        let RepairParts { me, store, clock, catalog, membership, transport, replica, coordinator, hints } = parts;
        let woken = Arc::new(AtomicBool::default());
        let (writes, handoff, wakes) =
            (Arc::clone(coordinator.writes_under_way()), Arc::clone(hints.handoff()), Arc::clone(&woken));
        let (kept, coming) = (Arc::clone(&handoff), replica.hint_receiver());
        let watermark = move || match mutant {
            Some(Mutant::WatermarkForgotten | Mutant::PurgedWithoutProof) => Some(Hlc(u64::MAX)),
            _ => watermark(&writes, &kept),
        };
        let shared = AntiEntropy::new(
            Parts {
                me,
                store,
                clock,
                catalog,
                membership: if mutant == Some(Mutant::PurgedWithoutProof) { Arc::new(AllAlive) } else { membership },
                transport,
                marks: Box::new(move || handoff.marks().targets()),
                watermark: Box::new(watermark),
                catches_up: Box::new(move || coming.as_ref().is_some_and(|coming| coming.catches_up())),
                wake: Box::new(move || wakes.store(true, Ordering::Relaxed)),
            },
            settings(mutant),
        );
        replica.attend(shared.clone());
        let worker = AntiEntropyWorker::new(Arc::clone(&shared));
        Self { shared, worker: Mutex::new(Stepping { worker, due_ms: 0 }), woken }
    }

    /// Does what is due.
    pub(super) fn tick(&self, now_ms: u64) {
        let mut stepping = self.worker.lock();
        if !self.woken.swap(false, Ordering::Relaxed) && stepping.due_ms > now_ms {
            return;
        }
        for _ in 0..STEPS_MAX {
            stepping.due_ms = match stepping.worker.step(now_ms) {
                Ok(Step::Idle { until_ms } | Step::Throttled { until_ms }) => until_ms,
                _ => now_ms,
            };
            if stepping.due_ms > now_ms {
                return;
            }
        }
    }

    /// What it did.
    pub(super) fn status(&self) -> Status {
        self.shared.status()
    }
}
