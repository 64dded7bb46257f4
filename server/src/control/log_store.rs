//! Raft's log and vote, over the Raft database.
//!
//! Invariants: a vote, and an entry that Raft may count, are on disk behind an fsync before Raft is told; the log has no
//! holes; what was purged is known by the id of its last entry, written in the same step as the removal.
//!
//! The entries are also kept in memory, encoded: the log is short (snapshots replace it, `options.rs`), and so nothing
//! that Raft reads ever waits for the disk. Reading all of them at the start also finds damage then, not when the entry
//! is needed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;

use super::disk::{Disk, DiskError, Durability, Family, Op};
use super::raft_types::{Entry, LogId, StorageError, TypeConfig, Vote};
use super::sealed::{BadValue, seal, unseal};

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// The most bytes of entries that one message to a follower carries, but for one entry that is larger alone.
const READ_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Cached {
    entries: BTreeMap<u64, (LogId, Bytes)>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

/// Log and vote. Clones are handles to the same.
#[derive(Clone)]
pub(super) struct LogStore {
    disk: Disk,
    cached: Arc<Mutex<Cached>>,
}

impl LogStore {
    /// Reads what there is. Blocks.
    pub(super) fn open(disk: Disk) -> Result<Self, DiskError> {
        let mut cached = Cached {
            vote: read_note(&disk, VOTE)?,
            committed: read_note::<Option<LogId>>(&disk, COMMITTED)?.flatten(),
            purged: read_note(&disk, PURGED)?,
            ..Cached::default()
        };
        let mut last: Option<u64> = None;
        for (key, sealed) in disk.all(Family::Log)? {
            let entry: Entry = unseal(&key, &sealed)?;
            let index = entry.log_id.index;
            if last.is_some_and(|last| last.checked_add(1) != Some(index)) {
                let detail = format!("entry {index} follows entry {}", last.unwrap_or_default());
                return Err(BadValue::Damaged { what: "the Raft log".to_owned(), detail }.into());
            }
            last = Some(index);
            cached.entries.insert(index, (entry.log_id, sealed.into()));
        }
        Ok(Self { disk, cached: Arc::new(Mutex::new(cached)) })
    }

    /// The entries of a range, decoded. Fails if there is a hole in it.
    pub(super) fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry>, DiskError> {
        let cached = self.cached.lock();
        let sealed = cached.entries.range(range);
        Ok(sealed.map(|(index, (_, sealed))| unseal(&index.to_be_bytes(), sealed)).collect::<Result<_, _>>()?)
    }

    async fn remove(&self, indexes: Vec<u64>, mut ops: Vec<Op>, durability: Durability) -> Result<(), DiskError> {
        ops.extend(indexes.iter().map(|index| Op::Remove(Family::Log, index.to_be_bytes().to_vec())));
        self.disk.write(ops, durability).await?;
        let mut cached = self.cached.lock();
        for index in indexes {
            cached.entries.remove(&index);
        }
        Ok(())
    }

    fn indexes(&self, range: impl RangeBounds<u64>) -> Vec<u64> {
        self.cached.lock().entries.range(range).map(|(index, _)| *index).collect()
    }
}

/// A note of the meta family, or `None` where it was never written.
pub(super) fn read_note<T: serde::de::DeserializeOwned>(disk: &Disk, name: &[u8]) -> Result<Option<T>, DiskError> {
    let sealed = disk.get(Family::Meta, name)?;
    Ok(sealed.map(|sealed| unseal(name, &sealed)).transpose()?)
}

/// The change that writes a note.
pub(super) fn write_note(name: &[u8], value: &impl serde::Serialize) -> Result<Op, DiskError> {
    Ok(Op::Put(Family::Meta, name.to_vec(), seal(name, value)?))
}

/// The failure as Raft takes it: it stops, and the node serves the copy it has.
pub(super) fn storage_error(subject: ErrorSubject<u64>, verb: ErrorVerb, error: &DiskError) -> StorageError {
    StorageIOError::new(subject, verb, AnyError::new(error)).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(range).map_err(|error| storage_error(ErrorSubject::Logs, ErrorVerb::Read, &error))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let upto = {
            let cached = self.cached.lock();
            let mut bytes = 0_usize;
            let fits = |(index, (_, sealed)): (&u64, &(LogId, Bytes))| {
                bytes = bytes.saturating_add(sealed.len());
                (*index == start || bytes <= READ_BYTES_MAX).then_some(index.saturating_add(1))
            };
            cached.entries.range(start..end).map_while(fits).last().unwrap_or(start)
        };
        self.try_get_log_entries(start..upto).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let cached = self.cached.lock();
        let last = cached.entries.last_key_value().map(|(_, (log_id, _))| *log_id);
        Ok(LogState { last_purged_log_id: cached.purged, last_log_id: last.or(cached.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = match write_note(VOTE, vote) {
            Ok(note) => self.disk.write(vec![note], Durability::Synced).await,
            Err(error) => Err(error),
        };
        saved.map_err(|error| storage_error(ErrorSubject::Vote, ErrorVerb::Write, &error))?;
        self.cached.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.cached.lock().vote)
    }

    /// What is lost of it is learned again from the leader: it needs no fsync of its own.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = match write_note(COMMITTED, &committed) {
            Ok(note) => self.disk.write(vec![note], Durability::Eventually).await,
            Err(error) => Err(error),
        };
        saved.map_err(|error| storage_error(ErrorSubject::Logs, ErrorVerb::Write, &error))?;
        self.cached.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.cached.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let failed = |error: &DiskError| storage_error(ErrorSubject::Logs, ErrorVerb::Write, error);
        let mut sealed = Vec::new();
        for entry in entries {
            let bytes = seal(&entry.log_id.index.to_be_bytes(), &entry).map_err(|error| failed(&error.into()))?;
            sealed.push((entry.log_id, Bytes::from(bytes)));
        }
        let put = |(log_id, bytes): &(LogId, Bytes)| {
            Op::Put(Family::Log, log_id.index.to_be_bytes().to_vec(), bytes.to_vec())
        };
        let ops = sealed.iter().map(put).collect();
        self.disk.write(ops, Durability::Synced).await.map_err(|error| failed(&error))?;
        self.cached.lock().entries.extend(sealed.into_iter().map(|(log_id, bytes)| (log_id.index, (log_id, bytes))));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let removed = self.remove(self.indexes(from.index..), Vec::new(), Durability::Synced).await;
        removed.map_err(|error| storage_error(ErrorSubject::Log(from), ErrorVerb::Delete, &error))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let removed = match write_note(PURGED, &upto) {
            Ok(note) => self.remove(self.indexes(..=upto.index), vec![note], Durability::Eventually).await,
            Err(error) => Err(error),
        };
        removed.map_err(|error| storage_error(ErrorSubject::Log(upto), ErrorVerb::Delete, &error))?;
        self.cached.lock().purged = Some(upto);
        Ok(())
    }
}
