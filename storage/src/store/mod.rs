//! A node's store: the rows, indexes, trees and notes over one engine.
//!
//! This file opens it and holds what its parts share. What it can do stands with the parts: `apply` (the only write
//! path), `read` and `scan`, `forest` (Merkle sums), `control` (tables, fences, marks), `removal` (purge, clear, sweep) and
//! `scrub`.
//!
//! Locks, in the order they are taken: `commit` (one writer at a time), `tables`, `partitions`, `forest`. Reads of rows
//! take none of the first.

mod control;
mod damage;
mod lost;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use self::damage::{Counters, DamageLog};
use crate::apply::{Queue, RecentRows, Waiting};
use crate::engine::figures::EngineFigures;
use crate::engine::{Durability, Engine, EngineError, Recovery, Space, Writes};
use crate::error::StoreError;
use crate::forest::Forest;
use crate::keyspace::KeyRange;
use crate::merkle::MerkleKey;
use crate::meta::{self, Tag};
use crate::model::{Limits, PartitionBits};
use crate::partition::{PartitionState, Partitions, SyncState, UnsyncedCause};
use crate::scrub::{RowChange, Watch};
use crate::space::{Admission, Boundless, Reserve, SpaceProbe};
use crate::table::Tables;

/// What a cluster fixes when it is created, and every data directory of it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The number of partitions.
    pub bits: PartitionBits,
    /// The key of the Merkle hashes.
    pub merkle_key: MerkleKey,
}

/// What an operator chooses of a store.
pub struct StoreOptions {
    /// The most a request may hold.
    pub limits: Limits,
    /// Bytes that may wait to be written.
    pub queue_bytes_max: usize,
    /// Rows whose headers are remembered when they are written, so that the next write need not read them: up to 64 bytes
    /// of memory each.
    pub recent_rows_max: usize,
    /// Room that is kept on the disk.
    pub reserve: Reserve,
    /// How much room there is.
    pub space: Box<dyn SpaceProbe>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            queue_bytes_max: 64 << 20,
            recent_rows_max: 900_000,
            reserve: Reserve::default(),
            space: Box::new(Boundless),
        }
    }
}

/// What only the one writer of the moment may touch.
pub(crate) struct Commit {
    stopped: Option<String>,
    /// Something was written that no sync has followed yet.
    pub(crate) unsynced: bool,
    /// What rows hold that were written lately.
    pub(crate) recent: RecentRows,
    /// The leaf that is scrubbed in pieces, if one is.
    pub(crate) watch: Option<Watch>,
    /// How many were watched so far.
    pub(crate) watches: u64,
    /// Notes of partitions that a failed write left behind. Every later write brings them along until one succeeds:
    /// memory says already what they say, so nothing else would note it again. One for each partition at the most.
    pub(crate) unnoted: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Commit {
    pub(crate) fn check_running(&self) -> Result<(), StoreError> {
        match &self.stopped {
            Some(cause) => Err(StoreError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Puts what is still to be noted into a write, before all that the write itself has to say.
    pub(crate) fn fill_unnoted(&self, writes: &mut dyn Writes) {
        self.unnoted.iter().for_each(|(key, value)| writes.put(Space::Meta, key, value));
    }
}

/// One node's data.
pub struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) bits: PartitionBits,
    pub(crate) merkle_key: MerkleKey,
    pub(crate) limits: Limits,
    pub(crate) queue: Queue,
    pub(crate) admission: Admission,
    pub(crate) commit: Mutex<Commit>,
    pub(crate) tables: RwLock<Tables>,
    pub(crate) partitions: RwLock<Partitions>,
    pub(crate) forest: Mutex<Forest>,
    pub(crate) damage: DamageLog,
    pub(crate) counters: Counters,
}

impl Store {
    /// Opens what the engine holds, or begins a new store. When the engine lost something that had been synced, every
    /// partition is marked unsynced, durably, before the store is returned.
    pub fn open(engine: Arc<dyn Engine>, identity: Identity, options: StoreOptions) -> Result<Self, StoreError> {
        check_identity(engine.as_ref(), identity)?;
        let tables = meta::needed(Tables::load(engine.as_ref()))?;
        let partitions = meta::needed(Partitions::load(engine.as_ref()))?;
        let store = Self {
            bits: identity.bits,
            merkle_key: identity.merkle_key,
            limits: options.limits,
            queue: Queue::new(options.queue_bytes_max),
            admission: Admission::new(options.space, options.reserve),
            commit: Mutex::new(Commit {
                stopped: None,
                // A process that was killed may have left in the log what nothing synced.
                unsynced: true,
                recent: RecentRows::new(options.recent_rows_max),
                watch: None,
                watches: 0,
                unnoted: BTreeMap::new(),
            }),
            tables: RwLock::new(tables),
            partitions: RwLock::new(partitions),
            forest: Mutex::default(),
            damage: DamageLog::default(),
            counters: Counters::default(),
            engine,
        };
        store.act_on_recovery()?;
        Ok(store)
    }

    /// Marks what the engine lost, durably, and takes note that this was done.
    fn act_on_recovery(&self) -> Result<(), StoreError> {
        let recovery = self.engine.recovery();
        if let Recovery::Damaged(detail) = &recovery {
            tracing::error!(%detail, "the log is damaged: no partition of this node is counted until it is healed");
            self.mark_all_unsynced(UnsyncedCause::DamagedLog)?;
        }
        self.mark_lost()?;
        self.mend_index()?;
        if recovery != Recovery::Complete || !self.engine.lost().is_empty() {
            self.engine.acknowledge_recovery()?;
        }
        Ok(())
    }

    /// The number of partitions, as bits.
    pub fn bits(&self) -> PartitionBits {
        self.bits
    }

    /// What requests may hold.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What was found damaged since the store was opened.
    pub fn damage(&self) -> &DamageLog {
        &self.damage
    }

    /// What the store counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of disk that the engine has yet to take for what was written already: how far it is behind.
    pub fn engine_debt_bytes(&self) -> u64 {
        self.engine.space_debt_bytes()
    }

    /// How the engine fares, for metrics.
    pub fn engine_figures(&self) -> EngineFigures {
        self.engine.figures()
    }

    /// Batches that wait to be committed, and what they hold of the bytes that may wait.
    pub fn waiting(&self) -> Waiting {
        self.queue.waiting()
    }

    /// The failure after which nothing is written any more, if there was one.
    pub fn stopped(&self) -> Option<String> {
        self.commit.lock().stopped.clone()
    }

    fn mark_all_unsynced(&self, cause: UnsyncedCause) -> Result<(), StoreError> {
        let mut commit = self.commit.lock();
        let mut partitions = self.partitions.write();
        let synced: Vec<_> = partitions.states().filter(|(_, _, state)| state.sync == SyncState::Synced).collect();
        let marked = synced.into_iter().map(|(placement, partition, state)| {
            (placement, partition, PartitionState { sync: SyncState::Unsynced(cause), ..state })
        });
        let marked: Vec<_> = marked.collect();
        self.write_notes(&mut commit, marked.iter().map(|&(pl, pa, state)| Partitions::note_state(pl, pa, state)))?;
        for (placement, partition, state) in marked {
            partitions.set_state(placement, partition, state);
        }
        Ok(())
    }

    /// Takes note of a failed write or sync. A full disk is told each time, for as long as the engine says so. After
    /// any other failure nobody knows what the disk holds: nothing more is written.
    pub(crate) fn write_failed(&self, commit: &mut Commit, error: EngineError) -> StoreError {
        if let EngineError::NoSpace { .. } = &error {
            tracing::error!(%error, "a write found the disk full");
            self.forget_what_is_kept(commit);
        } else {
            self.stop(commit, error.to_string());
        }
        error.into()
    }

    /// Writes nothing more until the node restarts. The first cause is the one that is told.
    pub(crate) fn stop(&self, commit: &mut Commit, cause: String) -> StoreError {
        tracing::error!(%cause, "writes stop until the node restarts");
        self.forget_what_is_kept(commit);
        StoreError::Stopped { cause: commit.stopped.get_or_insert(cause).clone() }
    }

    /// What is kept in memory holds only while every write is known to have happened, or not to.
    fn forget_what_is_kept(&self, commit: &mut Commit) {
        commit.recent.clear();
        commit.watch = None;
        self.forest.lock().clear();
    }

    /// Writes notes of the node about itself, durably.
    pub(crate) fn write_notes(
        &self,
        commit: &mut Commit,
        notes: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let notes: Vec<_> = notes.into_iter().collect();
        self.write_synced(commit, &mut |writes| {
            notes.iter().for_each(|(key, value)| writes.put(Space::Meta, key, value));
        })
    }

    /// One synced write outside of a group, which may change rows of a range in ways that it does not tell.
    pub(crate) fn write(
        &self,
        commit: &mut Commit,
        rows: &KeyRange,
        fill: &mut dyn FnMut(&mut dyn Writes),
    ) -> Result<(), StoreError> {
        if commit.watch.as_ref().is_some_and(|watch| watch.overlaps(rows)) {
            commit.watch = None;
        }
        commit.recent.clear();
        self.write_synced(commit, fill)
    }

    /// One synced write outside of a group whose every change of a row is told.
    pub(crate) fn write_changes<'a>(
        &self,
        commit: &mut Commit,
        changes: impl IntoIterator<Item = RowChange<'a>>,
        fill: &mut dyn FnMut(&mut dyn Writes),
    ) -> Result<(), StoreError> {
        commit.recent.clear();
        self.write_synced(commit, fill)?;
        if let Some(watch) = &mut commit.watch {
            changes.into_iter().for_each(|change| watch.note(change));
        }
        Ok(())
    }

    fn write_synced(&self, commit: &mut Commit, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), StoreError> {
        commit.check_running()?;
        let mut fill = |writes: &mut dyn Writes| {
            commit.fill_unnoted(writes);
            fill(writes);
        };
        if let Err(error) = self.engine.write(Durability::Synced, &mut fill) {
            return Err(self.write_failed(commit, error));
        }
        commit.unnoted.clear();
        commit.unsynced = false;
        Ok(())
    }
}

/// Refuses a directory of another cluster; marks a new one.
fn check_identity(engine: &dyn Engine, identity: Identity) -> Result<(), StoreError> {
    let key = meta::key(Tag::Identity, &[]);
    let mut expected = vec![identity.bits.bits()];
    expected.extend_from_slice(&identity.merkle_key.0);
    match meta::needed(engine.get(Space::Meta, &key))? {
        None => {
            engine.write(Durability::Synced, &mut |writes| writes.put(Space::Meta, &key, &expected))?;
            Ok(())
        }
        Some(found) if found == expected => Ok(()),
        Some(found) if found.first() == expected.first() => Err(StoreError::Identity {
            what: "the Merkle key",
            found: "another one".into(),
            expected: "this cluster's".into(),
        }),
        Some(found) => Err(StoreError::Identity {
            what: "the number of partitions",
            found: format!("2^{}", found.first().copied().unwrap_or_default()),
            expected: format!("2^{}", identity.bits.bits()),
        }),
    }
}
