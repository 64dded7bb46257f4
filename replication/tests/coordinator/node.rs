//! One node of a test cluster: everything real but the disk, the network, the clock and the hint log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use cube_replication::catalog::{Catalog, ClusterState};
use cube_replication::clock::NodeClock;
use cube_replication::coordinator::{Coordinator, Parts, Settings};
use cube_replication::handoff::{HintKeeper, Kept, Missed, NotKept, OnKept};
use cube_replication::lifecycle::adopt;
use cube_replication::membership::Scripted;
use cube_replication::messages::Request;
use cube_replication::replica::{OnAnswer, Replica};
use cube_replication::transport::{InProcess, Serve};
use cube_storage::clock::Clock;
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Limits, NodeId, Record, RowKey};
use cube_storage::{Identity, Store, StoreOptions};
use parking_lot::Mutex;

use super::cluster::{BITS, START_MS, TABLE_ID};

pub(crate) const MAX_DRIFT_MS: u64 = 900_000;

/// Time that passes when the test says so. Nodes share it, and each is off by something.
#[derive(Default)]
pub(crate) struct SharedTime(AtomicU64);

impl SharedTime {
    pub(crate) fn pass_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

/// One node's clocks.
pub(crate) struct TestClock {
    time: Arc<SharedTime>,
    skew_ms: AtomicI64,
}

impl TestClock {
    pub(crate) fn new(time: &Arc<SharedTime>) -> Arc<Self> {
        Arc::new(Self { time: Arc::clone(time), skew_ms: AtomicI64::new(0) })
    }

    pub(crate) fn skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        (START_MS + self.monotonic_ms()).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        self.time.0.load(Ordering::Relaxed)
    }
}

/// What becomes of hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum HintFate {
    #[default]
    Kept,
    /// They overflow: a mark is kept instead, and an only copy is refused.
    OnlyMarks,
    Refused,
    /// Nobody is told yet.
    Slow,
}

/// Records what is to be noted.
#[derive(Default)]
pub(crate) struct Hints {
    pub(crate) fate: Mutex<HintFate>,
    pub(crate) kept: Mutex<Vec<Missed>>,
    slow: Mutex<Vec<(Missed, OnKept)>>,
}

impl Hints {
    /// Makes durable what was slow.
    pub(crate) fn sync(&self) {
        let slow = std::mem::take(&mut *self.slow.lock());
        for (missed, told) in slow {
            self.kept.lock().push(missed);
            told(Ok(Kept::Hint));
        }
    }

    pub(crate) fn targets(&self) -> Vec<NodeId> {
        let mut targets: Vec<NodeId> = self.kept.lock().iter().map(|missed| missed.target).collect();
        targets.sort();
        targets
    }
}

impl HintKeeper for Hints {
    fn keep(&self, missed: Missed, told: OnKept) {
        let refused = || NotKept { target: missed.target, cause: "no room".into() };
        let fate = *self.fate.lock();
        match fate {
            HintFate::Kept => {
                self.kept.lock().push(missed);
                told(Ok(Kept::Hint));
            }
            HintFate::OnlyMarks if missed.only_copy => told(Err(refused())),
            HintFate::OnlyMarks => told(Ok(Kept::Mark)),
            HintFate::Refused => told(Err(refused())),
            HintFate::Slow => self.slow.lock().push((missed, told)),
        }
    }
}

/// Lets requests through to the replica, or holds them back.
pub(crate) struct Gate {
    replica: Arc<Replica>,
    /// So many are let through; those behind them are held back.
    pub(crate) lets_through: Mutex<usize>,
    /// Every request that came in.
    pub(crate) heard: Mutex<Vec<Request>>,
    held: Mutex<VecDeque<(Request, OnAnswer)>>,
}

impl Gate {
    /// Lets the oldest request through that is held back.
    pub(crate) fn release(&self) {
        let oldest = self.held.lock().pop_front();
        if let Some((request, answer)) = oldest {
            self.replica.handle(request, answer);
        }
    }
}

impl Serve for Gate {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.heard.lock().push(request.clone());
        let left = *self.lets_through.lock();
        if left == 0 {
            return self.held.lock().push_back((request, answer));
        }
        *self.lets_through.lock() = left - 1;
        self.replica.handle(request, answer);
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) engine: MemoryEngine,
    pub(crate) store: Arc<Store>,
    pub(crate) machine: Arc<TestClock>,
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) view: Arc<Scripted>,
    pub(crate) hints: Arc<Hints>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) coordinator: Arc<Coordinator>,
}

impl Node {
    pub(crate) fn start(
        id: NodeId,
        state: &ClusterState,
        time: &Arc<SharedTime>,
        network: &InProcess,
        bounds: (Settings, Limits),
    ) -> Self {
        Self::start_on(MemoryEngine::new(), id, state, TestClock::new(time), network, bounds)
    }

    /// Starts a node with what it held before, of which only the disk is left.
    pub(crate) fn start_on(
        engine: MemoryEngine,
        id: NodeId,
        state: &ClusterState,
        machine: Arc<TestClock>,
        network: &InProcess,
        (settings, limits): (Settings, Limits),
    ) -> Self {
        let identity = Identity { bits: BITS, merkle_key: MerkleKey(*b"one for all test") };
        let store = Arc::new(
            Store::open(Arc::new(engine.clone()), identity, StoreOptions { limits, ..StoreOptions::default() })
                .unwrap(),
        );
        adopt(&store, id, state).unwrap();
        let clock = Arc::new(NodeClock::new(id, machine.clone(), store.clone(), MAX_DRIFT_MS).unwrap());
        let replica = Arc::new(Replica::new(id, store.clone(), clock.clone()));
        let catalog = Arc::new(Catalog::new(state.clone()));
        let (view, hints) = (Arc::new(Scripted::new(id)), Arc::new(Hints::default()));
        let gate = Arc::new(Gate {
            replica: replica.clone(),
            lets_through: Mutex::new(usize::MAX),
            heard: Mutex::default(),
            held: Mutex::default(),
        });
        network.connect(id, gate.clone());
        let parts = Parts {
            me: id,
            clock: clock.clone(),
            catalog: catalog.clone(),
            membership: view.clone(),
            transport: network.transport(id),
            replica,
            hints: hints.clone(),
        };
        let coordinator = Coordinator::new(parts, settings);
        Self { id, engine, store, machine, clock, catalog, view, hints, gate, coordinator }
    }

    pub(crate) fn held(&self, key: &RowKey) -> Option<Record> {
        self.store.get(TABLE_ID, key).unwrap()
    }

    /// Takes a newer state of the cluster in, as a replica and as a coordinator.
    pub(crate) fn learn(&self, state: &ClusterState) {
        adopt(&self.store, self.id, state).unwrap();
        self.catalog.advance(state.clone());
        self.coordinator.on_state();
    }
}
