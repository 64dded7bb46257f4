//! The scrub: every row of this node is read and verified against its checksum and its Merkle leaf, over and over, a little
//! at a time.
//!
//! What does not add up is damage. The store marks its partition before it tells, so that it is not counted, never sent,
//! and healed like a joiner from the other replicas (`lifecycle/`); the scrub only finds it and counts it. It goes at the
//! pace of one full cycle in the time that is set, or, when an operator asks, as fast as it can without being in the way.
//! A leaf that takes more than one step is scrubbed in pieces, and begun anew after a restart.

use std::sync::Arc;

use cube_storage::merkle::{LEAVES_PER_PARTITION, LeafId};
use cube_storage::model::{Invalid, TableId};
use cube_storage::{ScrubBounds, ScrubPlace, Store, StoreError};
use parking_lot::Mutex;

use super::answer::is_busy;
use crate::worker::{Step, StepError, Worker};

/// What the worker is called in the status.
pub const NAME: &str = "scrub";
/// Rows verified in one step.
const ROWS_PER_STEP: usize = 1_000;
/// Bytes read in one step.
const BYTES_PER_STEP: usize = 4 << 20;
/// From one piece of a large leaf to the next: they are due all at once.
const PIECE_MS: u64 = 100;
/// How long a node that has enough to do is left alone.
const BUSY_MS: u64 = 200;
/// From one step to the next when an operator waits for it.
const HURRY_MS: u64 = 1;
/// How long a node without tables rests.
const EMPTY_MS: u64 = 10_000;

/// A full cycle in a week.
pub const CYCLE_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// How long a scrub that is switched off rests, unless it is woken.
const OFF_MS: u64 = 60_000;

/// What an operator chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Whether it runs by itself. When it is asked for, it runs all the same.
    pub enabled: bool,
    /// The time of a full cycle.
    pub cycle_ms: u64,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self { enabled: true, cycle_ms: CYCLE_MS }
    }
}

/// How far the scrub has come, as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// The table that is scrubbed, and the leaf that is next.
    pub at: Option<(TableId, LeafId)>,
    /// Full cycles since the start.
    pub cycles: u64,
    /// Rows verified since the start.
    pub rows: u64,
    /// Damaged places found since the start.
    pub damaged: u64,
    /// How much of the present cycle is done, in thousandths.
    pub done_permille: u16,
    /// When the last cycle ended, by the node's clock for deadlines.
    pub cycle_ended_ms: Option<u64>,
    /// Damaged places that the last full cycle found.
    pub last_cycle_damaged: u64,
    /// Damaged places that the present cycle has found.
    pub cycle_damaged: u64,
    /// Whether it hurries, because an operator asked.
    pub hurries: bool,
}

/// What the doors and the worker of the scrub share.
#[derive(Debug, Default)]
pub struct Scrub {
    status: Mutex<ScrubStatus>,
    settings: Mutex<ScrubSettings>,
}

impl Scrub {
    /// A scrub that begins at some place. One that began at the same place after every start would never come to the last
    /// ones of a node that is often restarted.
    pub fn from(at: Option<(TableId, LeafId)>, settings: ScrubSettings) -> Arc<Self> {
        let status = ScrubStatus { at, ..ScrubStatus::default() };
        Arc::new(Self { status: Mutex::new(status), settings: Mutex::new(settings) })
    }

    /// The settings in force.
    pub fn settings(&self) -> ScrubSettings {
        *self.settings.lock()
    }

    /// Changes the settings. Wake the worker afterwards.
    pub fn set_settings(&self, settings: ScrubSettings) {
        *self.settings.lock() = settings;
    }

    /// Asks for a full cycle now, from the beginning. Wake the worker afterwards.
    pub fn hurry(&self) {
        let mut status = self.status.lock();
        (status.at, status.hurries, status.cycle_damaged) = (None, true, 0);
    }

    /// How far it has come.
    pub fn status(&self) -> ScrubStatus {
        *self.status.lock()
    }
}

/// The worker.
pub struct ScrubWorker {
    store: Arc<Store>,
    shared: Arc<Scrub>,
    settings: ScrubSettings,
    /// The place that was reached, where that is within a leaf.
    inside: Option<(TableId, ScrubPlace)>,
    /// When the place it began with would have been due, had the cycle begun at its beginning.
    began_ms: Option<u64>,
}

impl ScrubWorker {
    /// The worker of a node's scrub; there must be only one.
    pub fn new(store: Arc<Store>, shared: Arc<Scrub>) -> Self {
        Self { store, settings: shared.settings(), shared, inside: None, began_ms: None }
    }

    /// How much of a cycle lies before a place, in the cycle's time.
    fn due_after_ms(&self, tables: &[TableId], at: (TableId, LeafId)) -> u64 {
        self.share_before(tables, at, self.settings.cycle_ms)
    }

    /// The part of `whole` that lies before a place.
    fn share_before(&self, tables: &[TableId], at: (TableId, LeafId), whole: u64) -> u64 {
        let before = tables.iter().filter(|table| **table < at.0).count() as u64;
        let leaves = u64::from(self.store.bits().partitions()) * u64::from(LEAVES_PER_PARTITION);
        let done = u128::from(before * leaves + u64::from(at.1.0).min(leaves));
        let all = u128::from((tables.len() as u64 * leaves).max(1));
        u64::try_from(u128::from(whole) * done / all).unwrap_or(whole)
    }

    /// The place behind one, in the order of tables and leaves.
    fn behind(tables: &[TableId], table: TableId, next: Option<LeafId>) -> Option<(TableId, LeafId)> {
        let next_table = || tables.iter().find(|other| **other > table).map(|table| (*table, LeafId(0)));
        next.map(|leaf| (table, leaf)).or_else(next_table)
    }
}

impl Worker for ScrubWorker {
    fn name(&self) -> &str {
        NAME
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        let mut tables: Vec<TableId> = self.store.tables().into_iter().map(|(table, _)| table).collect();
        tables.sort_unstable();
        let Some(first) = tables.first() else {
            return Ok(Step::Idle { until_ms: now_ms.saturating_add(EMPTY_MS) });
        };
        if is_busy(&self.store) {
            return Ok(Step::Throttled { until_ms: now_ms.saturating_add(BUSY_MS) });
        }
        let (before, settings) = (self.shared.status(), self.shared.settings());
        if settings != self.settings {
            (self.settings, self.began_ms) = (settings, None);
        }
        if !settings.enabled && !before.hurries {
            self.began_ms = None;
            return Ok(Step::Idle { until_ms: now_ms.saturating_add(OFF_MS) });
        }
        // A table that is gone is passed over.
        let at = before.at.filter(|(table, _)| tables.contains(table)).unwrap_or((*first, LeafId(0)));
        let due_after_ms = self.due_after_ms(&tables, at);
        let began_ms = *self.began_ms.get_or_insert(now_ms.saturating_sub(due_after_ms));
        let due_ms = began_ms.saturating_add(due_after_ms);
        if due_ms > now_ms && !before.hurries {
            return Ok(Step::Idle { until_ms: due_ms });
        }
        // Whoever moved the place since begins with whole leaves there.
        let inside = self.inside.take().filter(|(table, place)| before.at == Some((*table, place.leaf())));
        let place = inside.map_or_else(|| at.1.into(), |(_, place)| place);
        let bounds = ScrubBounds { rows_max: ROWS_PER_STEP, bytes_max: BYTES_PER_STEP };
        let (rows, damaged, next) = match self.store.scrub_step(at.0, &place, bounds) {
            Ok(step) => (step.rows, step.damaged.len(), step.next),
            // Dropped meanwhile.
            Err(StoreError::Invalid(Invalid::UnknownTable { .. })) => (0, 0, None),
            Err(error) => return Err(error.into()),
        };
        self.inside = next.clone().filter(ScrubPlace::is_inside).map(|place| (at.0, place));
        let next = Self::behind(&tables, at.0, next.map(|place| place.leaf()));
        let mut status = self.shared.status.lock();
        status.rows += rows as u64;
        status.damaged += damaged as u64;
        status.cycle_damaged += damaged as u64;
        if status.at == before.at {
            status.at = next;
            let done = next.map_or(0, |next| self.share_before(&tables, next, 1_000));
            status.done_permille = u16::try_from(done).unwrap_or(1_000);
            if next.is_none() {
                (status.cycles, status.hurries) = (status.cycles + 1, false);
                status.last_cycle_damaged = std::mem::take(&mut status.cycle_damaged);
                status.cycle_ended_ms = Some(now_ms);
                self.began_ms = Some(began_ms.saturating_add(self.settings.cycle_ms).max(now_ms));
            }
        }
        match (status.hurries, &self.inside) {
            (true, _) => Ok(Step::Throttled { until_ms: now_ms.saturating_add(HURRY_MS) }),
            (false, Some(_)) => Ok(Step::Throttled { until_ms: now_ms.saturating_add(PIECE_MS) }),
            (false, None) => Ok(Step::Busy),
        }
    }
}
