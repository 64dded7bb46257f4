//! An engine that forgets every addition to a Merkle sum: what the sums cost is the difference it makes.

use std::sync::Arc;

use bytes::Bytes;
use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, Reader, Recovery, RocksEngine, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::LeafSum;

/// RocksDB without sums.
pub(super) struct Unsummed(pub(super) Arc<RocksEngine>);

struct UnsummedWrites<'a>(&'a mut dyn Writes);

impl Writes for UnsummedWrites<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.0.put(space, key, value);
    }

    fn delete(&mut self, space: Space, key: &[u8]) {
        self.0.delete(space, key);
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        self.0.delete_range(space, range);
    }

    fn add(&mut self, _key: &[u8], _delta: LeafSum) {}
}

impl Reader for Unsummed {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(space, key)
    }

    fn view(&self, space: Space, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        self.0.view(space, key, visit)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.0.multi_get(space, keys, visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.0.scan(space, range, direction, visit)
    }
}

impl Engine for Unsummed {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.0.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        self.0.write(durability, &mut |writes| fill(&mut UnsummedWrites(writes)))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.0.sync()
    }

    fn recovery(&self) -> Recovery {
        self.0.recovery()
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        self.0.acknowledge_recovery()
    }

    fn space_debt_bytes(&self) -> u64 {
        self.0.space_debt_bytes()
    }
}
