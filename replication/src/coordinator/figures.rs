//! What reads came upon, counted per table: plain counters, and a snapshot of them for whoever shows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_storage::model::{Outcome, TableId};
use parking_lot::RwLock;

use super::error::Failure;

/// Why a replica was brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepairCause {
    /// A read could answer only when it was.
    Blocking,
    /// One of the reads that ask all replicas found it behind.
    Chance,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepairOutcome {
    /// The replica has the record now, and had not before.
    Repaired,
    /// It had that record or a newer one by then.
    Unneeded,
    /// It refused, or did not answer in time.
    Failed,
    /// It was not tried: as much was being repaired as may be.
    Skipped,
}

impl RepairOutcome {
    pub(super) fn of(outcome: &Result<Outcome, Failure>) -> Self {
        match outcome {
            Ok(Outcome::Applied) => Self::Repaired,
            Ok(Outcome::Present | Outcome::Superseded(_) | Outcome::LostUpTo(_)) => Self::Unneeded,
            Ok(Outcome::Fenced(_) | Outcome::BelowFloor(_)) | Err(_) => Self::Failed,
        }
    }
}

/// Repairs of one cause: rows on replicas, by what came of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Repairs {
    /// [`RepairOutcome::Repaired`].
    pub repaired: u64,
    /// [`RepairOutcome::Unneeded`].
    pub unneeded: u64,
    /// [`RepairOutcome::Failed`].
    pub failed: u64,
    /// [`RepairOutcome::Skipped`].
    pub skipped: u64,
}

/// What reads of a table came upon since the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReadFigures {
    /// Rows of which the replicas that were asked told different digests.
    pub digest_mismatches: u64,
    /// Answers that told of an older record than the newest, or of none.
    pub stale_reads: u64,
    /// Rows that were asked of all replicas by chance.
    pub chance_reads: u64,
    /// Rows that were asked of another replica because one was slow.
    pub hedges_sent: u64,
    /// Those among them that were decided before the slow one answered.
    pub hedges_helped: u64,
    /// Repairs that reads waited for.
    pub blocking_repairs: Repairs,
    /// Repairs in the background.
    pub chance_repairs: Repairs,
    /// Pages of scans that could not reach their level everywhere.
    pub partial_pages: u64,
}

/// One table's counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    digest_mismatches: AtomicU64,
    stale_reads: AtomicU64,
    chance_reads: AtomicU64,
    hedges_sent: AtomicU64,
    hedges_helped: AtomicU64,
    blocking: [AtomicU64; 4],
    chance: [AtomicU64; 4],
    partial_pages: AtomicU64,
}

/// The counters of all tables. There are as many as tables that were read.
#[derive(Debug, Default)]
pub(super) struct Figures {
    tables: RwLock<BTreeMap<TableId, Arc<Counters>>>,
}

impl Figures {
    pub(super) fn of(&self, table: TableId) -> Arc<Counters> {
        if let Some(counters) = self.tables.read().get(&table) {
            return Arc::clone(counters);
        }
        Arc::clone(self.tables.write().entry(table).or_default())
    }

    pub(super) fn snapshot(&self) -> BTreeMap<TableId, ReadFigures> {
        self.tables.read().iter().map(|(table, counters)| (*table, counters.snapshot())).collect()
    }

    /// Forgets tables that are no more.
    pub(super) fn retain(&self, exists: impl Fn(TableId) -> bool) {
        self.tables.write().retain(|table, _| exists(*table));
    }
}

impl Counters {
    /// Replicas of a row told different things, so many of them something that is not the newest.
    pub(super) fn mismatch(&self, stale: usize) {
        add(&self.digest_mismatches, 1);
        add(&self.stale_reads, stale as u64);
    }

    /// Of a row that was asked of all replicas so many told of something that is not the newest.
    pub(super) fn stale_late(&self, stale: usize) {
        if stale > 0 {
            self.mismatch(stale);
        }
    }

    pub(super) fn chance_read(&self) {
        add(&self.chance_reads, 1);
    }

    pub(super) fn hedge_sent(&self) {
        add(&self.hedges_sent, 1);
    }

    pub(super) fn hedge_helped(&self) {
        add(&self.hedges_helped, 1);
    }

    pub(super) fn partial_page(&self) {
        add(&self.partial_pages, 1);
    }

    pub(super) fn repair(&self, cause: RepairCause, outcome: RepairOutcome) {
        let counts = match cause {
            RepairCause::Blocking => &self.blocking,
            RepairCause::Chance => &self.chance,
        };
        let [repaired, unneeded, failed, skipped] = counts;
        match outcome {
            RepairOutcome::Repaired => add(repaired, 1),
            RepairOutcome::Unneeded => add(unneeded, 1),
            RepairOutcome::Failed => add(failed, 1),
            RepairOutcome::Skipped => add(skipped, 1),
        }
    }

    fn snapshot(&self) -> ReadFigures {
        ReadFigures {
            digest_mismatches: get(&self.digest_mismatches),
            stale_reads: get(&self.stale_reads),
            chance_reads: get(&self.chance_reads),
            hedges_sent: get(&self.hedges_sent),
            hedges_helped: get(&self.hedges_helped),
            blocking_repairs: repairs(&self.blocking),
            chance_repairs: repairs(&self.chance),
            partial_pages: get(&self.partial_pages),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn repairs([repaired, unneeded, failed, skipped]: &[AtomicU64; 4]) -> Repairs {
    Repairs { repaired: get(repaired), unneeded: get(unneeded), failed: get(failed), skipped: get(skipped) }
}
