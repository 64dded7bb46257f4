//! What is run, and what came of it.

use std::collections::BTreeMap;

use super::checkers::Violation;
use super::faults::FaultKind;
use super::mutants::Mutant;

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
    /// What is wrong.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Faults of all kinds.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
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
