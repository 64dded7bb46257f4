//! The Raft database: one RocksDB of its own, `<data>/raft`, with what this node must not forget of Raft.
//!
//! Writes go through one thread of their own, so that no async thread waits for the disk and no crowd in a shared pool
//! delays a vote. What waits meanwhile shares one write and one fsync. After a write that failed nothing more is written
//! until the database is opened anew: nobody knows what reached the disk.
//!
//! Its log is read with `TolerateCorruptedTailRecords`: a write that a crash tore off was acknowledged to nobody, and is
//! left out; damage anywhere else stops the node, which would otherwise forget votes it gave.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::engine::break_endless_records;
use parking_lot::RwLock;
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, Options, WriteBatch, WriteOptions};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::sealed::BadValue;

const MIB: usize = 1 << 20;
/// Writes that wait for the thread. Raft itself waits for each of its own, so there are few.
const JOBS_MAX: usize = 64;

/// The key spaces of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Entries by index.
    Log,
    /// Vote, committed and applied entry, purged point, and whose they are.
    Meta,
    /// The last snapshot.
    Snapshot,
}

impl Family {
    const ALL: [Self; 3] = [Self::Log, Self::Meta, Self::Snapshot];

    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Snapshot => "snapshot",
        }
    }
}

/// One change of the database.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(Family, Vec<u8>, Vec<u8>),
    Remove(Family, Vec<u8>),
}

/// Whether a write is told before it would outlive a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Told after its fsync.
    Synced,
    /// Becomes durable with the next synced write; the order of writes is kept.
    Eventually,
}

/// The Raft database failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    /// RocksDB says so.
    #[error("the Raft database {dir} failed: {detail}")]
    Failed {
        /// Where it is.
        dir: String,
        /// What RocksDB says.
        detail: String,
    },
    /// Something in it cannot be read.
    #[error(transparent)]
    Value(#[from] BadValue),
    /// The node shuts down.
    #[error("the Raft database is closed")]
    Closed,
}

struct Job {
    ops: Vec<Op>,
    durability: Durability,
    done: oneshot::Sender<Result<(), DiskError>>,
}

struct Database {
    dir: PathBuf,
    /// `None` once it is closed, whoever still holds a handle.
    db: RwLock<Option<DB>>,
}

/// A key and its value.
pub(super) type Pair = (Box<[u8]>, Box<[u8]>);

/// A handle to the open database.
#[derive(Clone)]
pub(super) struct Disk {
    database: Arc<Database>,
    jobs: mpsc::Sender<Job>,
}

impl Disk {
    /// Opens the database, or makes it. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Self, DiskError> {
        let failed = |detail: String| DiskError::Failed { dir: dir.display().to_string(), detail };
        if !dir.is_dir() {
            std::fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
                synced.map_err(|error| failed(error.to_string()))?;
            }
        }
        break_endless_records(dir).map_err(|error| failed(error.to_string()))?;
        let options = options();
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options()));
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(|error| failed(error.into_string()))?;
        let database = Arc::new(Database { dir: dir.to_path_buf(), db: RwLock::new(Some(db)) });
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let writer = Arc::clone(&database);
        let started = std::thread::Builder::new().name("cube-raft-log".into()).spawn(move || writer.run(waiting));
        started.map_err(|error| failed(error.to_string()))?;
        Ok(Self { database, jobs })
    }

    /// Makes changes, all or none, and tells when they are as durable as asked.
    pub(super) async fn write(&self, ops: Vec<Op>, durability: Durability) -> Result<(), DiskError> {
        let (done, told) = oneshot::channel();
        self.jobs.send(Job { ops, durability, done }).await.map_err(|_| DiskError::Closed)?;
        told.await.map_err(|_| DiskError::Closed)?
    }

    /// Makes changes, all or none, behind an fsync. Blocks.
    pub(super) fn write_blocking(&self, ops: Vec<Op>) -> Result<(), DiskError> {
        let (done, _) = oneshot::channel();
        self.database.write(&[Job { ops, durability: Durability::Synced, done }])
    }

    /// Reads a value. Blocks.
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.database.with(|db| db.get_cf(self.database.family(db, family)?, key).map_err(|e| self.database.failed(e)))
    }

    /// Reads all of a key space, in the order of the keys. Blocks.
    pub(super) fn all(&self, family: Family) -> Result<Vec<Pair>, DiskError> {
        self.database.with(|db| {
            let pairs = db.iterator_cf(self.database.family(db, family)?, IteratorMode::Start);
            pairs.map(|pair| pair.map_err(|e| self.database.failed(e))).collect()
        })
    }

    /// Closes the database when what is being written is written. Later calls fail.
    pub(super) fn close(&self) {
        let db = self.database.db.write().take();
        drop(db);
    }
}

impl Database {
    fn run(&self, mut waiting: mpsc::Receiver<Job>) {
        let mut failure = None;
        while let Some(first) = waiting.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < JOBS_MAX
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            let outcome = match &failure {
                None => self.write(&jobs),
                Some(error) => Err(DiskError::clone(error)),
            };
            if let Err(error @ DiskError::Failed { .. }) = &outcome {
                failure.get_or_insert_with(|| error.clone());
            }
            for job in jobs {
                // Whoever asked may have gone.
                let _ = job.done.send(outcome.clone());
            }
        }
    }

    fn write(&self, jobs: &[Job]) -> Result<(), DiskError> {
        self.with(|db| {
            let mut batch = WriteBatch::default();
            for op in jobs.iter().flat_map(|job| &job.ops) {
                match op {
                    Op::Put(family, key, value) => batch.put_cf(self.family(db, *family)?, key, value),
                    Op::Remove(family, key) => batch.delete_cf(self.family(db, *family)?, key),
                }
            }
            let mut options = WriteOptions::default();
            options.set_sync(jobs.iter().any(|job| job.durability == Durability::Synced));
            db.write_opt(batch, &options).map_err(|error| self.failed(error))
        })
    }

    fn with<T>(&self, work: impl FnOnce(&DB) -> Result<T, DiskError>) -> Result<T, DiskError> {
        work(self.db.read().as_ref().ok_or(DiskError::Closed)?)
    }

    fn family<'a>(&self, db: &'a DB, family: Family) -> Result<&'a rocksdb::ColumnFamily, DiskError> {
        let missing = || self.failed_as(format!("column family {} is missing", family.name()));
        db.cf_handle(family.name()).ok_or_else(missing)
    }

    fn failed(&self, error: rocksdb::Error) -> DiskError {
        self.failed_as(error.into_string())
    }

    fn failed_as(&self, detail: String) -> DiskError {
        DiskError::Failed { dir: self.dir.display().to_string(), detail }
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(16 * MIB as u64);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(MIB);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options
}

/// Everything in it is small, and most of it overwritten or removed soon.
fn family_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(4 * MIB);
    options
}
