//! A walk through the storage engine of one node, for whoever sees Cube KV for the first time: rows written, read,
//! listed, deleted, expired and purged, a restart, and what a batch costs. It ends by itself.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use cube_storage::clock::{Clock, SystemClock};
use cube_storage::engine::{RocksEngine, RocksOptions};
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Batch, Body, Expiry, Hlc, Mutation, NodeId, PartitionBits, PlacementId, Record, RowKey, TableId, Version,
};
use cube_storage::scan::{ScanRequest, Scope};
use cube_storage::{ApplyWorker, Identity, PartitionState, Store, StoreError, StoreOptions, SyncState, TableOptions};
use cube_storage::{model::Epoch, model::Origin};
use thiserror::Error;

const TABLE: TableId = TableId(1);
const PLACEMENT: PlacementId = PlacementId(0);
const NODE: NodeId = NodeId(1);
const BATCH_ROWS: usize = 64;
const VALUE_BYTES: usize = 1024;

/// Why the demo stopped.
#[derive(Debug, Error)]
pub(crate) enum DemoError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder or the terminal failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One node's store with its worker, as a server would hold it.
struct Demo<'a, W: Write> {
    dir: &'a Path,
    clock: Arc<SystemClock>,
    counter: u16,
    out: &'a mut W,
}

/// Runs the demo on a folder.
pub(crate) fn run(dir: &Path, rows: usize, out: &mut impl Write) -> Result<(), DemoError> {
    let clock = Arc::new(SystemClock::new(0));
    Demo { dir, clock, counter: 0, out }.all(rows)
}

impl<W: Write> Demo<'_, W> {
    fn all(&mut self, rows: usize) -> Result<(), DemoError> {
        writeln!(self.out, "Cube KV: the storage engine of one node, in {}\n", self.dir.display())?;
        let (store, worker) = self.open()?;
        self.create_table(&store)?;
        self.write_and_read(&store)?;
        self.list(&store)?;
        self.conflict(&store)?;
        drop(worker);
        drop(store);
        let (store, worker) = self.reopen()?;
        self.purge(&store)?;
        self.batches(&store, rows)?;
        drop(worker);
        writeln!(self.out, "\nThat was one node. The next step is `make test`: it breaks many of them on purpose.")?;
        Ok(())
    }

    fn open(&self) -> Result<(Arc<Store>, ApplyWorker), DemoError> {
        let engine = RocksEngine::open(self.dir, &RocksOptions::default()).map_err(StoreError::from)?;
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey(*b"demonstrationkey") };
        let store = Arc::new(Store::open(Arc::new(engine), identity, StoreOptions::default())?);
        let worker = ApplyWorker::start(Arc::clone(&store), self.clock.clone())?;
        Ok((store, worker))
    }

    fn create_table(&mut self, store: &Store) -> Result<(), DemoError> {
        store.put_table(TABLE, TableOptions::default())?;
        let founded = PartitionState { epoch: Epoch(1), sync: SyncState::Synced };
        store.set_partitions(PLACEMENT, store.bits().all().map(|partition| (partition, founded)))?;
        let partitions = store.bits().partitions();
        Ok(writeln!(self.out, "1. a table, and {partitions} partitions that this node holds from the start")?)
    }

    fn write_and_read(&mut self, store: &Store) -> Result<(), DemoError> {
        writeln!(self.out, "2. four rows, each on disk (fsync) before it is acknowledged")?;
        let soon = Expiry(self.clock.wall_ms() + 1);
        for (key, body) in [
            (RowKey::of("user:alice"), value("Alice Johnson")),
            (RowKey::of("user:bob"), value("Bob")),
            (RowKey::with_sort("node-7", "sandbox-1"), value("running")),
            (RowKey::of("session"), Body::Value { value: "short-lived".into(), expiry: Some(soon) }),
        ] {
            let version = self.write(store, key.clone(), body)?;
            writeln!(self.out, "   PUT {key} at version {version}")?;
        }
        self.show(store, &RowKey::of("user:alice"))?;
        while self.clock.wall_ms() <= soon.0 {
            std::thread::yield_now();
        }
        self.show(store, &RowKey::of("session"))
    }

    fn list(&mut self, store: &Store) -> Result<(), DemoError> {
        for sandbox in ["sandbox-3", "sandbox-2"] {
            self.write(store, RowKey::with_sort("node-7", sandbox), value("starting"))?;
        }
        writeln!(self.out, "3. rows in order, whatever the order they came in")?;
        let everything = Scope::Prefix("user:".into());
        self.scan(store, "   SCAN user:", everything)?;
        let of_node =
            Scope::Partition { key: "node-7".into(), from: std::ops::Bound::Unbounded, to: std::ops::Bound::Unbounded };
        self.scan(store, "   rows of node-7", of_node)
    }

    fn conflict(&mut self, store: &Store) -> Result<(), DemoError> {
        writeln!(self.out, "4. the newer version wins, whichever comes last; a deletion is a version too")?;
        let key = RowKey::of("user:bob");
        let old = self.version();
        self.write(store, key.clone(), Body::Tombstone)?;
        let outcome = store.apply(batch(key.clone(), Record::value(old, "an older Bob, late")))?;
        writeln!(self.out, "   DELETE {key}, then an older PUT of it arrives: {outcome:?}")?;
        self.show(store, &key)?;
        let alice = store.bits().partition_of(RowKey::of("user:alice").token());
        let root = store.root(TABLE, alice)?;
        Ok(writeln!(self.out, "   Merkle root of partition {alice}: {:032x} over {} row(s)", root.sum, root.rows)?)
    }

    fn reopen(&mut self) -> Result<(Arc<Store>, ApplyWorker), DemoError> {
        writeln!(self.out, "5. closed and opened again")?;
        let opened = self.open()?;
        self.show(&opened.0, &RowKey::of("user:alice"))?;
        Ok(opened)
    }

    fn purge(&mut self, store: &Store) -> Result<(), DemoError> {
        let floor = self.version().hlc;
        let mut removed = 0;
        for partition in store.bits().all() {
            store.begin_proof(TABLE, partition)?;
            store.end_proof(TABLE, partition, floor)?;
            store.raise_floor(TABLE, partition, floor)?;
            removed += store.purge_step(TABLE, partition, None, 1_000)?.removed;
        }
        writeln!(self.out, "6. purge, once every replica is proven to know: {removed} dead rows removed")?;
        let late = store.apply(batch(RowKey::of("user:bob"), Record::value(Version::new(Hlc(1), NODE), "a ghost")))?;
        Ok(writeln!(self.out, "   an ancient PUT of what was deleted is turned away: {late:?}")?)
    }

    fn batches(&mut self, store: &Store, rows: usize) -> Result<(), DemoError> {
        let started_ms = self.clock.monotonic_ms();
        let mut written = 0;
        while written < rows {
            let mutations = (0..BATCH_ROWS.min(rows - written)).map(|place| {
                let key = RowKey::of(format!("row:{:08}", written + place));
                mutation(key, Record::value(self.version(), vec![b'x'; VALUE_BYTES]))
            });
            let mutations: Vec<Mutation> = mutations.collect();
            written += mutations.len();
            store.apply(Batch { origin: Origin::Client, mutations })?;
        }
        let took_ms = self.clock.monotonic_ms().saturating_sub(started_ms).max(1);
        writeln!(self.out, "7. {rows} rows of 1 KiB in batches of {BATCH_ROWS}, an fsync each: {took_ms} ms")?;
        Ok(())
    }

    fn version(&mut self) -> Version {
        self.counter = self.counter.wrapping_add(1);
        Version::new(Hlc::new(self.clock.wall_ms(), self.counter), NODE)
    }

    fn write(&mut self, store: &Store, key: RowKey, body: Body) -> Result<Version, DemoError> {
        let version = self.version();
        store.apply(batch(key, Record { version, body }))?;
        Ok(version)
    }

    fn show(&mut self, store: &Store, key: &RowKey) -> Result<(), DemoError> {
        let now = Hlc::new(self.clock.wall_ms(), 0);
        let record = store.get(TABLE, key)?;
        let told = match &record {
            None => "no such row".to_owned(),
            Some(record) => match (record.live_value(now), record.is_tombstone()) {
                (Some(value), _) => format!("\"{}\"", value.escape_ascii()),
                (None, true) => "deleted".to_owned(),
                (None, false) => "expired".to_owned(),
            },
        };
        Ok(writeln!(self.out, "   GET {key}: {told}")?)
    }

    fn scan(&mut self, store: &Store, title: &str, scope: Scope) -> Result<(), DemoError> {
        let page = store.scan(&ScanRequest::all(TABLE, scope, store.limits()))?;
        let keys: Vec<String> = page.rows.iter().map(|row| row.key.to_string()).collect();
        Ok(writeln!(self.out, "{title}: {}", keys.join(", "))?)
    }
}

fn value(text: &'static str) -> Body {
    Body::Value { value: text.into(), expiry: None }
}

fn mutation(key: RowKey, record: Record) -> Mutation {
    Mutation { table: TABLE, key, record, claim: None }
}

fn batch(key: RowKey, record: Record) -> Batch {
    Batch::of(mutation(key, record))
}
