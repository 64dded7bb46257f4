//! What was purged in a run: the engine of every node, watched for single rows that are deleted, which only purge does.
//!
//! A row that is not there may be one that was deleted everywhere. Checkers know by this which it is: a deletion that
//! somebody has purged is behind everything that was ever written to the row before it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, Reader, Recovery, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::{KeyRange, decode_data_key};
use cube_storage::merkle::LeafSum;
use cube_storage::model::{NodeId, RecordHeader, RowKey, TableId, Version};
use parking_lot::Mutex;

type Row = (TableId, RowKey);

/// The newest version of each row that each node has purged. Shared by all of a run.
#[derive(Clone, Default)]
pub(super) struct Purged(Arc<Mutex<BTreeMap<Row, BTreeMap<NodeId, Version>>>>);

impl Purged {
    fn note(&self, by: NodeId, row: Row, version: Version) {
        let mut rows = self.0.lock();
        let newest = rows.entry(row).or_default().entry(by).or_insert(version);
        *newest = version.max(*newest);
    }

    /// What a node has purged of a row.
    pub(super) fn by(&self, node: NodeId, table: TableId, key: &RowKey) -> Option<Version> {
        self.0.lock().get(&(table, key.clone()))?.get(&node).copied()
    }

    /// What anybody has purged of a row.
    pub(super) fn newest(&self, table: TableId, key: &RowKey) -> Option<Version> {
        self.0.lock().get(&(table, key.clone()))?.values().max().copied()
    }

    /// All rows that somebody has purged, and the newest version of each.
    pub(super) fn rows(&self) -> Vec<(Row, Version)> {
        let rows = self.0.lock();
        rows.iter().filter_map(|(row, by)| Some((row.clone(), *by.values().max()?))).collect()
    }

    /// Rows that somebody has purged, each as often as somebody did.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().values().map(|by| by.len() as u64).sum()
    }
}

/// An engine whose purged rows are noted.
pub(super) struct Watched {
    engine: Box<dyn Engine>,
    node: NodeId,
    purged: Purged,
    /// The version under each key of the data. Nothing may be read while a write is put together.
    versions: Mutex<BTreeMap<Vec<u8>, Version>>,
}

impl Watched {
    /// Watches an engine from what it holds on.
    pub(super) fn new(engine: Box<dyn Engine>, node: NodeId, purged: Purged) -> Result<Self, EngineError> {
        let mut versions = BTreeMap::new();
        let all = KeyRange { start: Vec::new(), end: Vec::new() };
        engine.scan(Space::Data, &all, Direction::Forward, &mut |key, value| {
            note_version(&mut versions, key, value);
            ControlFlow::Continue(())
        })?;
        Ok(Self { engine, node, purged, versions: Mutex::new(versions) })
    }
}

fn note_version(versions: &mut BTreeMap<Vec<u8>, Version>, key: &[u8], value: &[u8]) {
    if let Ok(header) = RecordHeader::verify(key, value) {
        versions.insert(key.to_vec(), header.version);
    }
}

struct Noted<'a> {
    writes: &'a mut dyn Writes,
    versions: &'a mut BTreeMap<Vec<u8>, Version>,
    rows: &'a mut Vec<(Row, Version)>,
}

impl Writes for Noted<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        if space == Space::Data {
            note_version(self.versions, key, value);
        }
        self.writes.put(space, key, value);
    }

    fn delete(&mut self, space: Space, key: &[u8]) {
        if space == Space::Data
            && let (Some((table, _, row)), Some(version)) = (decode_data_key(key), self.versions.remove(key))
        {
            self.rows.push(((table, row), version));
        }
        self.writes.delete(space, key);
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        self.writes.delete_range(space, range);
    }

    fn add(&mut self, key: &[u8], delta: LeafSum) {
        self.writes.add(key, delta);
    }
}

impl Reader for Watched {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(space, key)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.engine.multi_get(space, keys, visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.engine.scan(space, range, direction, visit)
    }
}

impl Engine for Watched {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.engine.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        let mut rows = Vec::new();
        let mut versions = self.versions.lock();
        self.engine.write(durability, &mut |writes| {
            fill(&mut Noted { writes, versions: &mut versions, rows: &mut rows });
        })?;
        rows.into_iter().for_each(|(row, version)| self.purged.note(self.node, row, version));
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.engine.sync()
    }

    fn recovery(&self) -> Recovery {
        self.engine.recovery()
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        self.engine.acknowledge_recovery()
    }

    fn space_debt_bytes(&self) -> u64 {
        self.engine.space_debt_bytes()
    }
}
