//! Keeps the state machine on disk, and tells the node each new state.
//!
//! On disk are the last snapshot, the log behind it, and the id of the last entry that was applied: at the start the
//! state is made again from those. So applying an entry writes a few bytes, however large the state is; and a state is
//! told to the node only when the note of its last entry is behind an fsync, so that no restart goes back behind a state
//! that the data path has seen. A log is only purged up to a snapshot, in the same database and after it.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{BasicNode, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, StoredMembership};
use tokio::sync::{Mutex, watch};

use super::command::Reply;
use super::disk::{Disk, DiskError, Durability, Family, Op};
use super::log_store::{LogStore, read_note, storage_error, write_note};
use super::machine::Machine;
use super::raft_types::{Entry, LogId, Snapshot, SnapshotMeta, StorageError, TypeConfig};
use super::sealed::{BadValue, seal, unseal};
use super::state::HardState;

const APPLIED: &[u8] = b"applied";
const SNAPSHOT: &[u8] = b"snapshot";

/// A snapshot as it is kept and sent: the sealed machine.
#[derive(Clone)]
struct Kept {
    meta: SnapshotMeta,
    sealed: Arc<Vec<u8>>,
}

impl Kept {
    fn snapshot(&self) -> Snapshot {
        Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(self.sealed.to_vec())) }
    }
}

/// The state machine as Raft drives it.
pub(super) struct StateMachine {
    disk: Disk,
    machine: Machine,
    /// Shared with those who build a snapshot meanwhile: an older one never replaces a newer one.
    kept: Arc<Mutex<Option<Kept>>>,
    states: watch::Sender<Arc<HardState>>,
}

impl StateMachine {
    /// Makes the state again that was applied last. Blocks.
    pub(super) fn open(disk: Disk, log: &LogStore) -> Result<Self, DiskError> {
        let mut machine = Machine::new();
        let mut kept = None;
        if let Some(sealed) = disk.get(Family::Snapshot, SNAPSHOT)? {
            machine = unseal(SNAPSHOT, &sealed)?;
            kept = Some(Kept { meta: meta_of(&machine), sealed: Arc::new(sealed) });
        }
        let applied: Option<LogId> = read_note::<Option<LogId>>(&disk, APPLIED)?.flatten();
        if let Some(applied) = applied.filter(|applied| Some(*applied) > machine.applied) {
            let first = machine.applied.map_or(0, |last| last.index.saturating_add(1));
            for entry in log.entries(first..=applied.index)? {
                machine.apply(entry);
            }
            if machine.applied != Some(applied) {
                let detail = format!("entries up to {} were applied, and they are gone", applied.index);
                return Err(BadValue::Damaged { what: "the Raft log".to_owned(), detail }.into());
            }
        }
        let (states, _) = watch::channel(Arc::clone(&machine.state));
        Ok(Self { disk, machine, kept: Arc::new(Mutex::new(kept)), states })
    }

    /// The newest state, and each that follows.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<HardState>> {
        self.states.subscribe()
    }

    /// Everyone who watches is woken only by a state that differs.
    fn tell(&self) {
        let state = &self.machine.state;
        self.states.send_if_modified(|told| {
            let differs = !Arc::ptr_eq(told, state);
            *told = Arc::clone(state);
            differs
        });
    }
}

fn meta_of(machine: &Machine) -> SnapshotMeta {
    // Two nodes that built one at the same entry built the same: it may be received from either.
    let snapshot_id = machine.applied.map_or_else(|| "none".to_owned(), |last| format!("{last}"));
    SnapshotMeta { last_log_id: machine.applied, last_membership: machine.membership.clone(), snapshot_id }
}

fn snapshot_error(verb: ErrorVerb, error: &DiskError) -> StorageError {
    storage_error(ErrorSubject::Snapshot(None), verb, error)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership<u64, BasicNode>), StorageError> {
        Ok((self.machine.applied, self.machine.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let replies = entries.into_iter().map(|entry| self.machine.apply(entry)).collect();
        let noted = match write_note(APPLIED, &self.machine.applied) {
            Ok(note) => self.disk.write(vec![note], Durability::Synced).await,
            Err(error) => Err(error),
        };
        noted.map_err(|error| storage_error(ErrorSubject::StateMachine, ErrorVerb::Write, &error))?;
        self.tell();
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { disk: self.disk.clone(), machine: self.machine.clone(), kept: Arc::clone(&self.kept) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let sealed = Arc::new(snapshot.into_inner());
        let mut kept = self.kept.lock().await;
        let read = unseal::<Machine>(SNAPSHOT, &sealed).map_err(DiskError::from);
        let mut machine = read.map_err(|error| snapshot_error(ErrorVerb::Read, &error))?;
        let written = match write_note(APPLIED, &machine.applied) {
            Ok(note) => {
                let snapshot = Op::Put(Family::Snapshot, SNAPSHOT.to_vec(), sealed.to_vec());
                self.disk.write(vec![snapshot, note], Durability::Synced).await
            }
            Err(error) => Err(error),
        };
        written.map_err(|error| snapshot_error(ErrorVerb::Write, &error))?;
        *kept = Some(Kept { meta: meta.clone(), sealed });
        drop(kept);
        if *machine.state == *self.machine.state {
            machine.state = Arc::clone(&self.machine.state);
        }
        self.machine = machine;
        self.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.kept.lock().await.as_ref().map(Kept::snapshot))
    }
}

/// A state machine as of one entry, to make a snapshot of while Raft goes on.
pub(super) struct Builder {
    disk: Disk,
    machine: Machine,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let failed = |error: DiskError| snapshot_error(ErrorVerb::Write, &error);
        let machine = self.machine.clone();
        let sealed = tokio::task::spawn_blocking(move || seal(SNAPSHOT, &machine)).await;
        let sealed = sealed.map_err(|_| failed(DiskError::Closed))?.map_err(|error| failed(error.into()))?;
        let built = Kept { meta: meta_of(&self.machine), sealed: Arc::new(sealed) };
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_none_or(|kept| kept.meta.last_log_id <= built.meta.last_log_id) {
            let put = Op::Put(Family::Snapshot, SNAPSHOT.to_vec(), built.sealed.to_vec());
            self.disk.write(vec![put], Durability::Synced).await.map_err(failed)?;
            *kept = Some(built.clone());
        }
        Ok(built.snapshot())
    }
}
