//! An engine whose writes can be held back: to look at what others see while a write is under way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, MemoryEngine, Reader, Recovery, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::KeyRange;
use parking_lot::{Condvar, Mutex};

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A memory engine behind a gate that writes and syncs pass.
#[derive(Default)]
pub(crate) struct GatedEngine {
    pub(crate) inner: MemoryEngine,
    gate: Mutex<Gate>,
    changed: Condvar,
    pub(crate) synced_writes: AtomicUsize,
    pub(crate) syncs: AtomicUsize,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    waiting: usize,
    panic: Option<&'static str>,
}

impl GatedEngine {
    pub(crate) fn close(&self) {
        self.gate.lock().closed = true;
    }

    pub(crate) fn open(&self) {
        self.gate.lock().closed = false;
        self.changed.notify_all();
    }

    /// Opens the gate, and panics in the writes that pass it.
    pub(crate) fn open_and_panic(&self, message: &'static str) {
        self.gate.lock().panic = Some(message);
        self.open();
    }

    /// Returns when a write has come to the closed gate.
    pub(crate) fn wait_for_a_write(&self) {
        let mut gate = self.gate.lock();
        while gate.waiting == 0 {
            assert!(!self.changed.wait_for(&mut gate, PATIENCE).timed_out(), "no write came");
        }
    }

    fn pass(&self) {
        let mut gate = self.gate.lock();
        gate.waiting += 1;
        self.changed.notify_all();
        while gate.closed {
            assert!(!self.changed.wait_for(&mut gate, PATIENCE).timed_out(), "the gate stayed closed");
        }
        gate.waiting -= 1;
        if let Some(message) = gate.panic {
            panic!("{message}");
        }
    }
}

impl Reader for GatedEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get(space, key)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.inner.multi_get(space, keys, visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.inner.scan(space, range, direction, visit)
    }
}

impl Engine for GatedEngine {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.inner.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        self.pass();
        self.synced_writes.fetch_add(usize::from(durability == Durability::Synced), Ordering::Relaxed);
        self.inner.write(durability, fill)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.pass();
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }

    fn recovery(&self) -> Recovery {
        self.inner.recovery()
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        self.inner.acknowledge_recovery()
    }

    fn space_debt_bytes(&self) -> u64 {
        self.inner.space_debt_bytes()
    }
}
