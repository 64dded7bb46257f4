//! What is run, and what came of it.

use std::collections::BTreeMap;

use super::checkers::Violation;
use super::faults::FaultKind;
use super::mutants::Mutant;
use crate::anti_entropy::Status;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Makes the run.
    pub seed: u64,
    /// Operations that clients begin before the heal.
    pub operations: u64,
    /// Faults that happen meanwhile.
    pub faults: u64,
    /// A mistake to be caught.
    pub mutant: Option<Mutant>,
    /// Whether every event is told on standard error.
    pub trace: bool,
}

impl Options {
    /// The usual run of a seed.
    pub fn seed(seed: u64) -> Self {
        Self { seed, operations: 500, faults: 12, mutant: None, trace: false }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The run's seed.
    pub seed: u64,
    /// A fingerprint of everything that happened, in order.
    pub trace: u64,
    /// A fingerprint of the order of events, by kind, node and partition, without times and values.
    pub interleaving: u64,
    /// Events.
    pub events: u64,
    /// Operations that clients began before the heal.
    pub operations: u64,
    /// Rows of all operations by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// What became of messages.
    pub messages: Messages,
    /// Moves of replicas begun, completed and aborted.
    pub moves: (u64, u64, u64),
    /// Acknowledged writes that a replica misses, unnoted because the coordinator died first.
    pub unnoted_by_death: u64,
    /// Rows that replicas purged before the heal, and in all.
    pub purged: (u64, u64),
    /// What anti-entropy did.
    pub repaired: Repaired,
    /// Acknowledged writes below quorum whose holders are gone, and of which a replica was told by a mark alone.
    pub nowhere: u64,
    /// Acknowledged writes that a replica misses, unnoted, by why that is let pass.
    pub excused: BTreeMap<&'static str, u64>,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Faults of all kinds.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// What anti-entropy of all nodes did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Repaired {
    /// Comparisons that came to their end.
    pub comparisons: u64,
    /// Rows that they exchanged.
    pub rows: u64,
    /// Dirty marks that were cleared.
    pub marks_cleared: u64,
    /// Rounds of purging that came to their end.
    pub purge_rounds: u64,
}

impl Repaired {
    pub(super) fn add(&mut self, status: &Status) {
        self.comparisons += status.comparisons;
        self.rows += status.tally.rows_sent + status.tally.rows_fetched;
        self.marks_cleared += status.marks_cleared;
        self.purge_rounds += status.purge_rounds;
    }

    /// Of several nodes, or runs, together.
    pub fn and(self, other: Self) -> Self {
        Self {
            comparisons: self.comparisons + other.comparisons,
            rows: self.rows + other.rows,
            marks_cleared: self.marks_cleared + other.marks_cleared,
            purge_rounds: self.purge_rounds + other.purge_rounds,
        }
    }
}

/// What became of messages on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Messages {
    /// Never came.
    pub lost: u64,
    /// Came twice.
    pub doubled: u64,
    /// Requests that came behind one that was sent later on the same way.
    pub overtaken: u64,
}
