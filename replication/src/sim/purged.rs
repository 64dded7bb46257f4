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
use cube_storage::model::{Hlc, NodeId, RecordHeader, RowKey, TableId, Version};
use parking_lot::Mutex;

type Row = (TableId, RowKey);

/// The newest version of each row that each node has purged, and what may be purged some time. Shared by all of a run.
#[derive(Clone, Default)]
pub(super) struct Purged(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    purged: BTreeMap<Row, BTreeMap<NodeId, Version>>,
    /// Deletions, and values that end, which some node has held. Who copies a partition does not take them in below the
    /// floor that it takes over, and who gives the partition up holds them no more: then nobody ever purges them.
    mortal: BTreeMap<Row, BTreeMap<Version, RecordHeader>>,
}

impl Purged {
    fn note(&self, by: NodeId, row: Row, version: Version) {
        let known = &mut *self.0.lock();
        let newest = known.purged.entry(row).or_default().entry(by).or_insert(version);
        *newest = version.max(*newest);
    }

    /// What a node has purged of a row.
    pub(super) fn by(&self, node: NodeId, table: TableId, key: &RowKey) -> Option<Version> {
        self.0.lock().purged.get(&(table, key.clone()))?.get(&node).copied()
    }

    /// What anybody has purged of a row.
    pub(super) fn newest(&self, table: TableId, key: &RowKey) -> Option<Version> {
        self.0.lock().purged.get(&(table, key.clone()))?.values().max().copied()
    }

    fn note_mortal(&self, row: Row, header: RecordHeader) {
        self.0.lock().mortal.entry(row).or_default().insert(header.version, header);
    }

    /// Whether a row has died in this version or after it, so long ago that nobody with this floor holds it.
    pub(super) fn is_dead_below(&self, floor: Hlc, table: TableId, key: &RowKey, version: Version) -> bool {
        let known = self.0.lock();
        let headers = known.mortal.get(&(table, key.clone())).into_iter().flat_map(|mortal| mortal.range(version..));
        let mut headers = headers.map(|(_, header)| header);
        headers.any(|header| header.version.hlc <= floor && header.is_purgeable(floor))
    }

    /// All rows that somebody has purged, and the newest version of each.
    pub(super) fn rows(&self) -> Vec<(Row, Version)> {
        let known = self.0.lock();
        known.purged.iter().filter_map(|(row, by)| Some((row.clone(), *by.values().max()?))).collect()
    }

    /// Rows that somebody has purged, each as often as somebody did.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().purged.values().map(|by| by.len() as u64).sum()
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
    purged: &'a Purged,
    versions: &'a mut BTreeMap<Vec<u8>, Version>,
    rows: &'a mut Vec<(Row, Version)>,
}

impl Writes for Noted<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        if space == Space::Data {
            note_version(self.versions, key, value);
            let header = RecordHeader::verify(key, value).ok();
            let mortal = header.filter(|header| header.tombstone || header.expiry.is_some());
            if let (Some(header), Some((table, _, row))) = (mortal, decode_data_key(key)) {
                self.purged.note_mortal((table, row), header);
            }
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
            fill(&mut Noted { writes, purged: &self.purged, versions: &mut versions, rows: &mut rows });
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
