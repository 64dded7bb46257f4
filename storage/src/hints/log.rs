//! The log of one target: its state, what it tells of itself, and removing it.
//!
//! Two gates order what touches the disk outside the lock on the state: one sync at a time (all that wait share it) and
//! one acknowledgement at a time. They are always taken before the lock, the acknowledgement's before the sync's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::cursor::{self, PositionSlots};
use super::damage::Reports;
use super::frame::Seed;
use super::index::KeyIndex;
use super::limits::Shared;
use super::segment::{self, Segment};
use super::{Damage, HintError, Position};
use crate::files::{File, FilesError};
use crate::model::Hlc;

/// The hints for one target.
#[derive(Debug)]
pub struct HintLog {
    pub(super) shared: Arc<Shared>,
    pub(super) target: String,
    pub(super) folder: PathBuf,
    pub(super) state: Mutex<State>,
    pub(super) sync_gate: Mutex<PositionSlots>,
    pub(super) acknowledge_gate: Mutex<PositionSlots>,
}

#[derive(Debug)]
pub(super) struct State {
    /// By number. Those before the acknowledged position are being removed.
    pub(super) segments: BTreeMap<u32, Segment>,
    /// The segment that is appended to, if one is.
    pub(super) active: Option<Active>,
    /// The segments with bytes that are not durable.
    pub(super) unsynced: BTreeMap<u32, Arc<dyn File>>,
    pub(super) names: Names,
    pub(super) next_segment: u32,
    pub(super) next_sequence: u64,
    pub(super) durable: Position,
    pub(super) acknowledged: Position,
    /// Grows with every sync that failed: tickets of before are void.
    pub(super) generation: u64,
    pub(super) keys: KeyIndex,
    /// The number of the newest hint that is a write's only copy.
    pub(super) newest_only_copy: Option<u64>,
    pub(super) reports: Reports,
    pub(super) counters: Counters,
    pub(super) removed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: Arc<dyn File>,
}

/// Names that were created, and whether they are durable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names {
    pub(super) folder_exists: bool,
    /// The log's folder, in the root.
    pub(super) root_unsynced: bool,
    /// Segments and cursor, in the log's folder.
    pub(super) folder_unsynced: bool,
}

/// What happened to hints of a target since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Appended.
    pub appended: u64,
    /// Acknowledged by the target or, for a write's only copy, by another replica.
    pub acknowledged: u64,
    /// Dropped because they were older than the window.
    pub expired: u64,
    /// Refused at the cap of keys.
    pub refused_keys: u64,
    /// Refused at the target's cap of bytes.
    pub refused_bytes: u64,
    /// Refused at the cap of bytes of all targets.
    pub refused_global: u64,
    /// Found damaged.
    pub damaged: u64,
    /// Appended and lost to a failed append or sync, which was told.
    pub failed: u64,
}

/// What a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintTotals {
    /// Distinct rows: the number of hints, as an operator counts them.
    pub keys: u64,
    /// Hints to be replayed.
    pub records: u64,
    /// Bytes of segments on disk.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Hints that are a write's only copy, at most; none only if there is none.
    pub only_copies: u64,
    /// When the oldest hint was made that is its row's newest.
    pub oldest_created_ms: Option<u64>,
    /// No hint held has an older version: the bound of what this node may yet send.
    pub oldest_hlc: Option<Hlc>,
    /// Damage that is not confirmed as marked.
    pub damage_reports: u64,
    /// What happened since the log was opened.
    pub counters: Counters,
}

impl State {
    pub(super) fn empty() -> Self {
        Self {
            segments: BTreeMap::new(),
            active: None,
            unsynced: BTreeMap::new(),
            names: Names::default(),
            next_segment: 1,
            next_sequence: 1,
            durable: Position { segment: 0, offset: 0, sequence: 1 },
            acknowledged: Position { segment: 0, offset: 0, sequence: 1 },
            generation: 0,
            keys: KeyIndex::default(),
            newest_only_copy: None,
            reports: Reports::default(),
            counters: Counters::default(),
            removed: false,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    pub(super) fn only_copies(&self) -> u64 {
        if self.newest_only_copy.is_none_or(|newest| newest < self.acknowledged.sequence) {
            return 0;
        }
        self.segments.values().map(|segment| segment.only_copies).sum()
    }

    pub(super) fn report(&mut self, damage: Damage) {
        self.counters.damaged += self.reports.add(damage);
    }
}

impl HintLog {
    /// A log with this state.
    pub(super) fn with_state(shared: Arc<Shared>, target: String, folder: PathBuf, state: State) -> Self {
        let (sync_gate, acknowledge_gate) = (cursor::durable_slots(), cursor::acknowledged_slots());
        let (state, sync_gate, acknowledge_gate) =
            (Mutex::new(state), Mutex::new(sync_gate), Mutex::new(acknowledge_gate));
        Self { shared, target, folder, state, sync_gate, acknowledge_gate }
    }

    /// The node the hints are for.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What the log holds.
    pub fn totals(&self) -> HintTotals {
        let state = self.state.lock();
        let held = state.next_sequence - state.acknowledged.sequence;
        let records = held.saturating_sub(state.reports.records_from(state.acknowledged.sequence));
        HintTotals {
            keys: state.keys.len(),
            records,
            bytes: state.bytes(),
            segments: state.segments.len() as u64,
            // A segment counts those it has, acknowledged or not.
            only_copies: state.only_copies().min(records),
            oldest_created_ms: state.keys.oldest_created_ms(),
            oldest_hlc: state.segments.values().filter_map(|segment| segment.oldest_hlc).min(),
            damage_reports: state.reports.unconfirmed().len() as u64,
            counters: state.counters,
        }
    }

    /// Damage that was found and is not confirmed, oldest first: by opening, by reading, by looking for expired hints.
    /// Each is to be marked dirty, durably, and then confirmed; only then can hints behind it be acknowledged.
    pub fn damage(&self) -> Vec<Damage> {
        self.state.lock().reports.unconfirmed()
    }

    /// The damage was marked dirty durably. It is not told again until the log is opened anew.
    pub fn confirm_damage(&self, damage: &Damage) {
        self.state.lock().reports.confirm(damage);
    }

    /// How far the log is durable.
    pub fn durable_through(&self) -> Position {
        self.state.lock().durable
    }

    /// Where a replay begins: what comes before is acknowledged.
    pub fn start(&self) -> Position {
        self.state.lock().acknowledged
    }

    /// Drops everything, for a target that left the cluster. Refused while a write's only copy is among it. Whoever
    /// still holds the log finds it removed. What was dropped.
    pub(super) fn remove(&self) -> Result<HintTotals, HintError> {
        let totals = self.totals();
        let _acknowledging = self.acknowledge_gate.lock();
        let _syncing = self.sync_gate.lock();
        let mut state = self.state.lock();
        let count = state.only_copies();
        if count > 0 {
            return Err(HintError::OnlyCopies { target: self.target.clone(), count });
        }
        state.removed = true;
        state.active = None;
        state.unsynced.clear();
        if !state.names.folder_exists {
            return Ok(totals);
        }
        // The cursor first: without it nothing is missed of what a crash leaves half removed.
        self.remove_file(&cursor::path(&self.folder))?;
        while let Some((&number, segment)) = state.segments.first_key_value() {
            self.remove_file(&segment::path(&self.folder, number))?;
            self.shared.release(segment.bytes);
            state.segments.remove(&number);
        }
        self.files_result(self.shared.files.sync_folder(&self.folder))?;
        self.remove_folder();
        Ok(totals)
    }

    /// Removes the folder of a log that has no files left. One that holds something else stays.
    pub(super) fn remove_folder(&self) {
        if let Err(error) = self.shared.files.remove_folder(&self.folder) {
            tracing::debug!(target = self.target, %error, "the empty folder of a hint log stays");
        }
    }

    /// Removes a file that may be gone already.
    pub(super) fn remove_file(&self, path: &Path) -> Result<(), HintError> {
        match self.shared.files.remove(path) {
            Err(FilesError::NotFound { .. }) => Ok(()),
            other => self.files_result(other),
        }
    }

    pub(super) fn files_result<T>(&self, result: Result<T, FilesError>) -> Result<T, HintError> {
        result.map_err(|source| HintError::Files { target: self.target.clone(), source })
    }

    pub(super) fn seed(&self, segment: u32) -> Seed {
        Seed::new(&self.target, segment)
    }

    pub(super) fn check_present(&self, state: &State) -> Result<(), HintError> {
        if state.removed { Err(HintError::Removed { target: self.target.clone() }) } else { Ok(()) }
    }
}
