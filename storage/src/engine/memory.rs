//! The engine in memory: for simulation and for tests without RocksDB.
//!
//! It models what matters of a disk: a batch is one unit, buffered writes are lost in a crash and synced ones are not,
//! a write can fail, a stored byte can flip. Everything is ordered, so two runs are the same run.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Direction, Durability, Engine, EngineError, GetVisitor, Reader, Recovery, ScanVisitor, Space, Writes};
use crate::keyspace::KeyRange;
use crate::merkle::LeafSum;

type Map = BTreeMap<Vec<u8>, Bytes>;

/// An engine in memory. Clones share the same data, as a disk outlives the process that wrote it.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    view: View,
    /// How to take back what is not synced, newest last.
    undo: Vec<(Space, Vec<u8>, Option<Bytes>)>,
    failure: Option<EngineError>,
    failure_behind: Option<EngineError>,
    read_failure: Option<EngineError>,
    damaged: Option<String>,
}

/// One map per space. Cloning is cheap; the first write after it copies the maps that change.
#[derive(Clone, Default)]
struct View {
    data: Arc<Map>,
    keys: Arc<Map>,
    merkle: Arc<Map>,
    meta: Arc<Map>,
}

impl View {
    fn map(&self, space: Space) -> &Map {
        match space {
            Space::Data => &self.data,
            Space::Keys => &self.keys,
            Space::Merkle => &self.merkle,
            Space::Meta => &self.meta,
        }
    }

    fn map_mut(&mut self, space: Space) -> &mut Map {
        Arc::make_mut(match space {
            Space::Data => &mut self.data,
            Space::Keys => &mut self.keys,
            Space::Merkle => &mut self.merkle,
            Space::Meta => &mut self.meta,
        })
    }
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a loss of power does: everything that was not synced is gone.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for (space, key, before) in state.undo.drain(..).rev() {
            restore(state.view.map_mut(space), key, before);
        }
    }

    /// Makes every write and sync fail with `error` until [`MemoryEngine::heal`].
    pub fn fail_with(&self, error: EngineError) {
        self.state.lock().failure = Some(error);
    }

    /// Makes every write happen and be told as failed with `error` until [`MemoryEngine::heal`]: an engine whose disk took
    /// the write may fail at what it does next.
    pub fn fail_behind_with(&self, error: EngineError) {
        self.state.lock().failure_behind = Some(error);
    }

    /// Makes every read of a single key fail with `error` until [`MemoryEngine::heal`].
    pub fn fail_reads_with(&self, error: EngineError) {
        self.state.lock().read_failure = Some(error);
    }

    /// Ends [`MemoryEngine::fail_with`], [`MemoryEngine::fail_behind_with`] and [`MemoryEngine::fail_reads_with`].
    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.failure, state.failure_behind, state.read_failure) = (None, None, None);
    }

    /// Makes the engine report a damaged log until that is acknowledged, as one opened after losing synced writes.
    pub fn report_damaged_log(&self, detail: &str) {
        self.state.lock().damaged = Some(detail.to_owned());
    }

    /// Flips one bit of a stored value. Whether there was such a byte.
    pub fn flip(&self, space: Space, key: &[u8], byte: usize, bit: u8) -> bool {
        let mut state = self.state.lock();
        let Some(value) = state.view.map_mut(space).get_mut(key) else { return false };
        let mut bytes = value.to_vec();
        let Some(byte) = bytes.get_mut(byte) else { return false };
        *byte ^= 1 << (bit % 8);
        *value = bytes.into();
        true
    }
}

fn restore(map: &mut Map, key: Vec<u8>, before: Option<Bytes>) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

struct MemoryWrites<'a> {
    state: &'a mut State,
}

impl MemoryWrites<'_> {
    fn set(&mut self, space: Space, key: Vec<u8>, value: Option<Bytes>) {
        let map = self.state.view.map_mut(space);
        let before = match value {
            Some(value) => map.insert(key.clone(), value),
            None => map.remove(&key),
        };
        self.state.undo.push((space, key, before));
    }
}

impl Writes for MemoryWrites<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.set(space, key.to_vec(), Some(Bytes::copy_from_slice(value)));
    }

    fn delete(&mut self, space: Space, key: &[u8]) {
        self.set(space, key.to_vec(), None);
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        let keys: Vec<Vec<u8>> = in_range(self.state.view.map(space), range).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.set(space, key, None);
        }
    }

    fn add(&mut self, key: &[u8], delta: LeafSum) {
        let present = self.state.view.merkle.get(key).and_then(|bytes| LeafSum::decode(bytes)).unwrap_or_default();
        self.set(Space::Merkle, key.to_vec(), Some(Bytes::copy_from_slice(&present.plus(delta).encode())));
    }
}

fn in_range<'a>(map: &'a Map, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Bytes)> {
    let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(range.end.as_slice()) };
    let start = Bound::Included(range.start.as_slice());
    // BTreeMap refuses ranges that end before they start.
    let bounds = if range.is_empty() { (Bound::Included(&[][..]), Bound::Excluded(&[][..])) } else { (start, end) };
    map.range::<[u8], _>(bounds)
}

fn visit_all<'a>(pairs: impl Iterator<Item = (&'a Vec<u8>, &'a Bytes)>, visit: &mut ScanVisitor<'_>) {
    for (key, value) in pairs {
        if let ControlFlow::Break(()) = visit(key, value) {
            return;
        }
    }
}

impl Reader for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.map(space).get(key).cloned())
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        for (place, &key) in keys.iter().enumerate() {
            visit(place, Ok(self.map(space).get(key).map(Bytes::as_ref)));
        }
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        let pairs = in_range(self.map(space), range);
        match direction {
            Direction::Forward => visit_all(pairs, visit),
            Direction::Backward => visit_all(pairs.rev(), visit),
        }
        Ok(())
    }
}

impl Reader for MemoryEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = self.state.lock();
        match &state.read_failure {
            Some(failure) => Err(failure.clone()),
            None => state.view.get(space, key),
        }
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        let (view, failure) = {
            let state = self.state.lock();
            (state.view.clone(), state.read_failure.clone())
        };
        match failure {
            Some(failure) => (0..keys.len()).for_each(|place| visit(place, Err(failure.clone()))),
            None => view.multi_get(space, keys, visit),
        }
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        let view = self.state.lock().view.clone();
        view.scan(space, range, direction, visit)
    }
}

impl Engine for MemoryEngine {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        Box::new(self.state.lock().view.clone())
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        fill(&mut MemoryWrites { state: &mut state });
        if durability == Durability::Synced {
            state.undo.clear();
        }
        state.failure_behind.clone().map_or(Ok(()), Err)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.undo.clear();
        Ok(())
    }

    fn recovery(&self) -> Recovery {
        self.state.lock().damaged.clone().map_or(Recovery::Complete, Recovery::Damaged)
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        self.state.lock().damaged = None;
        Ok(())
    }

    fn space_debt_bytes(&self) -> u64 {
        0
    }
}
