//! The engine on RocksDB: one database per node, one column family per key space.
//!
//! The write-ahead log is synced by the write that asks for it, and RocksDB makes a batch visible only afterwards, so
//! nothing is read before it is durable. What has been synced is noted outside the log (`position`): a log that ends
//! short of it lost acknowledged writes, which RocksDB alone could not tell from a torn tail.
//!
//! A file that is damaged is passed over when the directory is opened (`open`), fails the reads that need it (`read`), and
//! is replaced by what can be read of it at the next start (`salvage`).

mod batch;
mod families;
mod figures;
mod logs;
mod notes;
mod open;
mod options;
mod position;
mod read;
mod salvage;
mod stall;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, ErrorKind, Options, WaitForCompactOptions, WriteBatch, WriteOptions};

use self::batch::RocksWrites;
use self::families::Families;
pub use self::logs::break_endless_records;
use self::notes::{Note, Unreadable, read_lost_line};
use self::open::{Opened, open_database, open_read_only, prepare};
pub use self::options::RocksOptions;
use self::position::SyncedPosition;
use self::read::RocksSnapshot;
use self::stall::Stall;
use super::figures::EngineFigures;
use super::{
    Direction, Durability, Engine, EngineError, GetVisitor, LostRange, Reader, Recovery, ScanVisitor, Space, Writes,
};
use crate::keyspace::KeyRange;
use crate::merkle::LeafSum;

/// An engine on RocksDB.
pub struct RocksEngine {
    dir: PathBuf,
    db: DB,
    /// What the database was opened with: the way to what it counts.
    counters: Options,
    families: Families,
    last_batch_bytes: AtomicUsize,
    position: SyncedPosition,
    stall: Stall,
    recovery: Recovery,
    lost: Vec<LostRange>,
    /// Why nothing can be written until the directory is opened anew, if so.
    read_only: Option<EngineError>,
    /// The key spaces in which something could not be read, and that is noted; `None` for a file that is not known.
    unreadable: Mutex<Vec<Option<Space>>>,
}

impl RocksEngine {
    /// Opens the data directory, or makes it. Files that could not be read before are replaced first, by what can be
    /// read of them.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<Self, EngineError> {
        prepare(dir)?;
        let opened = open_database(dir, options)?;
        if !opened.to_salvage {
            return Self::over(dir, options, opened);
        }
        let mut engine = Self::over(dir, options, opened)?;
        let salvaged = engine.salvage(options);
        drop(engine);
        match salvaged {
            Ok(()) => Self::over(dir, options, open_database(dir, options)?),
            // It can be read as it is, but not mended.
            Err(full @ EngineError::NoSpace { .. }) => Self::over(dir, options, open_read_only(dir, options, full)?),
            Err(error) => Err(error),
        }
    }

    fn over(dir: &Path, options: &RocksOptions, opened: Opened) -> Result<Self, EngineError> {
        let Opened { db, counters, families, read_only, .. } = opened;
        let position = SyncedPosition::open(&dir.join("POSITION")).map_err(|e| io_error(dir, &e))?;
        let found = db.latest_sequence_number();
        let noted = Note::damaged(dir).read().map_err(|e| io_error(dir, &e))?;
        let recovery = match (noted, position.last()) {
            (Some(detail), _) => Recovery::Damaged(detail),
            (None, Some(synced)) if synced > found => Recovery::Damaged(format!(
                "the write-ahead log ends at write {found}, but write {synced} had been synced"
            )),
            (None, _) => Recovery::Complete,
        };
        let lost = Note::lost(dir).read().map_err(|e| io_error(dir, &e))?.unwrap_or_default();
        Ok(Self {
            dir: dir.to_path_buf(),
            db,
            counters,
            families,
            last_batch_bytes: AtomicUsize::new(0),
            position,
            stall: Stall::of(dir, options),
            recovery,
            lost: lost.lines().map(read_lost_line).collect(),
            read_only,
            unreadable: Mutex::default(),
        })
    }

    /// Moves what is in memory into table files.
    pub fn flush(&self) -> Result<(), EngineError> {
        Space::ALL.into_iter().try_for_each(|space| self.flush_space(space))
    }

    /// Moves what is in memory of one key space into a table file.
    pub fn flush_space(&self, space: Space) -> Result<(), EngineError> {
        self.db.flush_cf(self.family(space)?).map_err(engine_error)
    }

    /// Flushes, and waits until no compaction is left to do.
    pub fn settle(&self) -> Result<(), EngineError> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        self.db.wait_for_compact(&options).map_err(engine_error)
    }

    /// Rewrites a key space into fresh table files.
    pub fn compact(&self, space: Space) -> Result<(), EngineError> {
        self.db.compact_range_cf(self.family(space)?, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    /// Bytes of all table and blob files.
    pub fn disk_bytes(&self) -> u64 {
        Space::ALL.into_iter().map(|space| self.space_bytes(space)).sum()
    }

    fn space_bytes(&self, space: Space) -> u64 {
        self.property(space, "rocksdb.total-sst-files-size") + self.property(space, "rocksdb.total-blob-file-size")
    }

    fn property(&self, space: Space, name: &str) -> u64 {
        let value = self.family(space).map(|family| self.db.property_int_value_cf(family, name));
        match value {
            Ok(Ok(Some(value))) => value,
            // A property that RocksDB does not have counts as nothing.
            _ => 0,
        }
    }

    fn family(&self, space: Space) -> Result<&ColumnFamily, EngineError> {
        let name = self.families.name(space);
        self.db.cf_handle(name).ok_or_else(|| missing_family(name))
    }

    /// What a failed read is told as. Damage is noted, once for each key space: what holds it is replaced when the
    /// directory is next opened.
    fn read_error(&self, space: Option<Space>, error: rocksdb::Error) -> EngineError {
        let error = engine_error(error);
        if let EngineError::Corruption { detail } = &error {
            let mut noted = self.unreadable.lock();
            if !noted.contains(&space) {
                tracing::error!(detail, "a file cannot be read in full: it is replaced when the node restarts");
                match Note::unreadable(&self.dir).add(&[Unreadable { space, detail: detail.clone() }.line()]) {
                    Ok(()) => noted.push(space),
                    Err(error) => tracing::error!(%error, "that could not be noted"),
                }
            }
        }
        error
    }

    fn check_writable(&self) -> Result<(), EngineError> {
        self.read_only.clone().map_or(Ok(()), Err)
    }

    fn fill(&self, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<WriteBatch, EngineError> {
        let [data, keys, merkle, meta] = Space::ALL.map(|space| self.family(space));
        let families = [data?, keys?, merkle?, meta?];
        // As large as the batch before, so that a run of alike batches never grows one by copying it.
        let mut writes = RocksWrites::new(&self.db, families, self.last_batch_bytes.load(Ordering::Relaxed));
        fill(&mut writes);
        self.last_batch_bytes.store(writes.batch.size_in_bytes(), Ordering::Relaxed);
        Ok(writes.batch)
    }

    fn note_synced(&self) -> Result<(), EngineError> {
        let sequence = self.db.latest_sequence_number();
        self.position.record(sequence).map_err(|e| io_error(&self.dir.join("POSITION"), &e))
    }
}

impl RocksOptions {
    /// The database that the engine would work on, without the engine: what benchmarks compare it with.
    pub fn open_bare(&self, dir: &Path) -> Result<DB, rocksdb::Error> {
        open::open_bare(dir, self)
    }
}

fn missing_family(name: &str) -> EngineError {
    EngineError::Corruption { detail: format!("the column family {name} is missing") }
}

fn io_error(path: &Path, error: &io::Error) -> EngineError {
    let detail = format!("{}: {error}", path.display());
    if error.kind() == io::ErrorKind::StorageFull {
        EngineError::NoSpace { detail }
    } else {
        EngineError::Io { detail }
    }
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    let kind = error.kind();
    let detail = error.into_string();
    match kind {
        ErrorKind::Corruption => EngineError::Corruption { detail },
        // RocksDB tells these only in words. It lost a file that it knows of.
        _ if detail.contains("No such file or directory") => EngineError::Corruption { detail },
        _ if detail.contains("No space left on device") => EngineError::NoSpace { detail },
        _ if detail.contains("lock") && detail.contains("LOCK") => EngineError::Locked { detail },
        _ => EngineError::Io { detail },
    }
}

impl Engine for RocksEngine {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        Box::new(RocksSnapshot::of(self))
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        self.check_writable()?;
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        options.set_no_slowdown(true);
        for retries in 0.. {
            match self.db.write_opt(self.fill(fill)?, &options) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Incomplete => {
                    options.set_no_slowdown(!self.stall.let_wait(retries)?);
                }
                // Compactions tell what they came across to the next write.
                Err(error) => return Err(self.read_error(None, error)),
            }
        }
        if durability == Durability::Synced {
            self.note_synced()?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.check_writable()?;
        self.db.flush_wal(true).map_err(engine_error)?;
        self.note_synced()
    }

    fn recovery(&self) -> Recovery {
        self.recovery.clone()
    }

    fn lost(&self) -> &[LostRange] {
        &self.lost
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        self.note_synced()?;
        for note in [Note::damaged(&self.dir), Note::lost(&self.dir)] {
            note.forget().map_err(|e| io_error(&self.dir, &e))?;
        }
        Ok(())
    }

    fn view_in_memory(&self, space: Space, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError> {
        self.view_cached(space, key, visit)
    }

    fn space_debt_bytes(&self) -> u64 {
        Space::ALL
            .into_iter()
            .map(|space| {
                self.property(space, "rocksdb.size-all-mem-tables")
                    + self.property(space, "rocksdb.estimate-pending-compaction-bytes")
            })
            .sum()
    }

    fn figures(&self) -> EngineFigures {
        self.tell()
    }
}
