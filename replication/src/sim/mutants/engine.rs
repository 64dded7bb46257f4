//! Mistakes of the engine under a node.

use std::ops::Range;

use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, MemoryEngine, Reader, Recovery, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::{LeafId, LeafSum, decode_leaf_key};
use cube_storage::model::{PartitionBits, RowKey};

use super::super::node::BITS;
use super::Mutant;

impl Mutant {
    /// The engine a node runs on.
    pub(in crate::sim) fn engine(mutant: Option<Self>, engine: MemoryEngine) -> Box<dyn Engine> {
        let mistake = match mutant {
            Some(Self::AcknowledgedBeforeSync) => Mistake::SyncsNothing,
            Some(Self::RangesKept) => Mistake::KeepsRanges,
            Some(Self::LeafForgotten) => Mistake::ForgetsLeaves,
            Some(Self::CommitTorn) => Mistake::TearsCommits,
            _ => return Box::new(engine),
        };
        Box::new(Spoiled { engine, mistake })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// Calls everything synced, and syncs nothing.
    SyncsNothing,
    /// Deletes no range of rows.
    KeepsRanges,
    /// Adds nothing to a leaf.
    ForgetsLeaves,
    /// Syncs the last row of a commit with the next one.
    TearsCommits,
}

/// The leaf of the rows of this partition key is forgotten.
const FORGOTTEN: &str = "key-0";

/// An engine that makes a mistake.
struct Spoiled {
    engine: MemoryEngine,
    mistake: Mistake,
}

/// Changes on their way to the engine.
enum Change {
    Put(Space, Vec<u8>, Vec<u8>),
    Delete(Space, Vec<u8>),
    DeleteRange(Space, KeyRange),
    Add(Vec<u8>, LeafSum),
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Writes for Changes {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.0.push(Change::Put(space, key.to_vec(), value.to_vec()));
    }

    fn delete(&mut self, space: Space, key: &[u8]) {
        self.0.push(Change::Delete(space, key.to_vec()));
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        self.0.push(Change::DeleteRange(space, range.clone()));
    }

    fn add(&mut self, key: &[u8], delta: LeafSum) {
        self.0.push(Change::Add(key.to_vec(), delta));
    }
}

impl Changes {
    /// The place of the last row, where there are several.
    fn last_row(&self) -> Option<usize> {
        let is_row = |change: &Change| matches!(change, Change::Put(Space::Data, ..));
        let several = self.0.iter().filter(|change| is_row(change)).count() > 1;
        self.0.iter().rposition(is_row).filter(|_| several)
    }

    fn pass(&self, places: Range<usize>, mistake: Mistake, writes: &mut dyn Writes) {
        for change in self.0.get(places).unwrap_or_default() {
            match change {
                Change::Put(space, key, value) => writes.put(*space, key, value),
                Change::Delete(space, key) => writes.delete(*space, key),
                Change::DeleteRange(Space::Data, _) if mistake == Mistake::KeepsRanges => {}
                Change::DeleteRange(space, range) => writes.delete_range(*space, range),
                Change::Add(key, _) if mistake == Mistake::ForgetsLeaves && is_forgotten(key) => {}
                Change::Add(key, delta) => writes.add(key, *delta),
            }
        }
    }
}

fn is_forgotten(leaf: &[u8]) -> bool {
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let forgotten = LeafId::of(RowKey::of(FORGOTTEN).token(), bits);
    decode_leaf_key(leaf).is_some_and(|(_, leaf)| leaf == forgotten)
}

impl Reader for Spoiled {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
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

impl Engine for Spoiled {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.engine.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        let mut changes = Changes::default();
        fill(&mut changes);
        let all = changes.0.len();
        let torn = changes.last_row().filter(|_| self.mistake == Mistake::TearsCommits);
        let durability = if self.mistake == Mistake::SyncsNothing { Durability::Buffered } else { durability };
        self.engine.write(durability, &mut |writes| {
            changes.pass(0..torn.unwrap_or(all), self.mistake, writes);
            changes.pass(torn.map_or(all, |place| place + 1)..all, self.mistake, writes);
        })?;
        match torn {
            Some(place) => self.engine.write(Durability::Buffered, &mut |writes| {
                changes.pass(place..place + 1, self.mistake, writes);
            }),
            None => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), EngineError> {
        if self.mistake == Mistake::SyncsNothing { Ok(()) } else { self.engine.sync() }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Complete
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn space_debt_bytes(&self) -> u64 {
        0
    }
}
