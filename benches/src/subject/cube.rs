//! The store on RocksDB as a node runs it: partitions in sync, writes that claim an epoch, trees in memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cube_storage::engine::{Engine, MemoryEngine, RocksEngine};
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Batch, Epoch, Hlc, Mutation, NodeId, Origin, Outcome, PartitionBits, PlacementId, Record, RowKey, TableId, Version,
};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::space::FileSystemSpace;
use cube_storage::{Identity, PartitionState, Store, StoreOptions, SyncState, TableOptions, WarmPlace};

use super::unsummed::Unsummed;
use super::{Subject, rocks_options};
use crate::Result;

/// The one table.
pub const TABLE: TableId = TableId(1);
/// The key of the row hashes.
pub const MERKLE_KEY: MerkleKey = MerkleKey(*b"benchmarkmerkle!");
const EPOCH: Epoch = Epoch(1);

/// A store with one table.
pub struct Cube {
    store: Store,
    /// The engine under it; nothing when that is not RocksDB.
    rocks: Option<Arc<RocksEngine>>,
    clock: AtomicU64,
}

impl Cube {
    /// Opens a store. Its trees are in memory, as on a node that compares them with others.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_summed(dir, StoreOptions::default())
    }

    /// Opens a new store that remembers nothing of the rows it wrote: what a store does with rows that were written
    /// before it was started.
    pub fn open_forgetful(dir: &Path) -> Result<Self> {
        Self::open_summed(dir, StoreOptions { recent_rows_max: 0, ..StoreOptions::default() })
    }

    fn open_summed(dir: &Path, options: StoreOptions) -> Result<Self> {
        let rocks = Arc::new(RocksEngine::open(dir, &rocks_options())?);
        let engine: Arc<dyn Engine> = rocks.clone();
        let cube = Self { rocks: Some(rocks), ..Self::over(engine, on_disk(dir, options))? };
        cube.load_trees()?;
        Ok(cube)
    }

    /// Opens a new store that keeps no sums, neither on disk nor in memory. It hashes all the same.
    pub fn open_unsummed(dir: &Path) -> Result<Self> {
        let rocks = Arc::new(RocksEngine::open(dir, &rocks_options())?);
        let engine = Arc::new(Unsummed(Arc::clone(&rocks)));
        Ok(Self { rocks: Some(rocks), ..Self::over(engine, on_disk(dir, StoreOptions::default()))? })
    }

    /// A new store in memory.
    pub fn in_memory() -> Result<Self> {
        let cube = Self::over(Arc::new(MemoryEngine::new()), StoreOptions::default())?;
        cube.load_trees()?;
        Ok(cube)
    }

    fn over(engine: Arc<dyn Engine>, options: StoreOptions) -> Result<Self> {
        let bits = PartitionBits::DEFAULT;
        let store = Store::open(engine, Identity { bits, merkle_key: MERKLE_KEY }, options)?;
        let opened_again = !store.tables().is_empty();
        store.put_table(TABLE, TableOptions::default())?;
        let synced = PartitionState { epoch: EPOCH, sync: SyncState::Synced };
        store.set_partitions(PlacementId(0), bits.all().map(|partition| (partition, synced)))?;
        // Behind all versions of an earlier time.
        let clock = if opened_again { 1 << 40 } else { 1 << 16 };
        Ok(Self { store, rocks: None, clock: AtomicU64::new(clock) })
    }

    fn load_trees(&self) -> Result<()> {
        for partition in self.store.bits().all() {
            self.store.root(TABLE, partition)?;
        }
        Ok(())
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A client's batch of new versions of these rows.
    pub fn batch(&self, rows: Vec<(RowKey, Bytes)>) -> Batch {
        let mutation = |(key, value)| Mutation {
            table: TABLE,
            key,
            record: Record::value(self.next_version(), value),
            claim: Some(EPOCH),
        };
        Batch { origin: Origin::Client, mutations: rows.into_iter().map(mutation).collect() }
    }

    fn next_version(&self) -> Version {
        Version::new(Hlc(self.clock.fetch_add(1, Ordering::Relaxed)), NodeId(1))
    }

    /// Reads all rows whose keys begin with `prefix` and counts them.
    pub fn count_by_prefix_scan(&self, prefix: &str) -> Result<usize> {
        let scope = Scope::Prefix(Bytes::copy_from_slice(prefix.as_bytes()));
        let mut request = ScanRequest::all(TABLE, scope, self.store.limits());
        let mut count = 0;
        loop {
            let page = self.store.scan(&request)?;
            count += page.rows.len();
            match page.next {
                Some(next) => request.resume = Some(next),
                None => return Ok(count),
            }
        }
    }
}

impl Subject for Cube {
    fn write(&self, rows: Vec<(RowKey, Bytes)>) -> Result<()> {
        let outcomes = self.store.apply(self.batch(rows))?;
        match outcomes.iter().find(|outcome| **outcome != Outcome::Applied) {
            Some(outcome) => Err(format!("a write was not applied: {outcome:?}").into()),
            None => Ok(()),
        }
    }

    fn warm(&self) -> Result<()> {
        let mut place = Some(WarmPlace::default());
        while let Some(from) = place {
            place = self.store.warm_step(from)?;
        }
        Ok(())
    }

    fn read(&self, key: &RowKey) -> Result<usize> {
        let record = self.store.get(TABLE, key)?.ok_or("a row is missing")?;
        Ok(record.value_len())
    }

    fn settle(&self) -> Result<()> {
        match &self.rocks {
            Some(rocks) => Ok(rocks.settle()?),
            None => Ok(()),
        }
    }

    fn disk_bytes(&self) -> Result<u64> {
        Ok(self.rocks.as_ref().map_or(0, |rocks| rocks.disk_bytes()))
    }
}

/// Options of a store that looks how much room is left, as a node's does.
fn on_disk(dir: &Path, options: StoreOptions) -> StoreOptions {
    StoreOptions { space: Box::new(FileSystemSpace::of(dir)), ..options }
}
