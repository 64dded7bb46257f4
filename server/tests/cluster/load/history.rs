//! What clients did, when, and what they were told.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::checker;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write { value: String },
    Read,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The write is durable at its level.
    Acknowledged,
    /// The write may have taken effect, or may yet; or the read was not answered.
    Unknown(String),
    /// The write has not taken effect and never will; or the read was refused.
    Refused(String),
    /// The read found this.
    Found(Option<String>),
}

/// One request of one client. Times are microseconds on the time line of the process.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    pub(crate) node: u8,
    pub(crate) started_us: u64,
    pub(crate) ended_us: u64,
    pub(crate) outcome: Outcome,
    /// The version that was written or found: its timestamp and counter.
    pub(crate) version: Option<(u64, u64)>,
}

impl Operation {
    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Acknowledged | Outcome::Found(_))
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self.kind, Kind::Write { .. })
    }
}

/// All that some clients did.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<Operation>);

impl History {
    pub(crate) fn of(operations: Vec<Operation>) -> Self {
        Self(operations)
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(crate) fn operations(&self) -> &[Operation] {
        &self.0
    }

    /// The writes that were acknowledged.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = &Operation> {
        self.0.iter().filter(|operation| operation.outcome == Outcome::Acknowledged)
    }

    /// What failed of the operations that began in a span of time, through some nodes: how often, by what was said.
    pub(crate) fn failures(&self, nodes: &[u8], from_us: u64, to_us: u64) -> BTreeMap<String, usize> {
        let mut failures = BTreeMap::new();
        let span = from_us..to_us;
        let failed = |operation: &&Operation| {
            span.contains(&operation.started_us) && nodes.contains(&operation.node) && !operation.succeeded()
        };
        for operation in self.0.iter().filter(failed) {
            let what = if operation.is_write() { "write" } else { "read" };
            *failures.entry(format!("node-{} {what}: {:?}", operation.node, operation.outcome)).or_default() += 1;
        }
        failures
    }

    /// What failed otherwise than by a refusal after which a client may try again at once, elsewhere or later: the node
    /// stops, does not serve yet, or takes no connections.
    pub(crate) fn errors(&self) -> BTreeMap<String, usize> {
        const RETRYABLE: [&str; 2] = ["shutting_down", "not_serving"];
        let is_retryable = |outcome: &Outcome| match outcome {
            Outcome::Refused(why) => RETRYABLE.contains(&why.as_str()) || why.starts_with("not sent"),
            _ => false,
        };
        let mut errors = BTreeMap::new();
        let failed = |operation: &&Operation| !operation.succeeded() && !is_retryable(&operation.outcome);
        for operation in self.0.iter().filter(failed) {
            let what = if operation.is_write() { "write" } else { "read" };
            *errors.entry(format!("node-{} {what}: {:?}", operation.node, operation.outcome)).or_default() += 1;
        }
        errors
    }

    /// The longest that any operation took, in milliseconds.
    pub(crate) fn longest_ms(&self) -> u64 {
        self.0.iter().map(|operation| (operation.ended_us - operation.started_us) / 1000).max().unwrap_or_default()
    }

    /// How many operations there were of each kind and outcome.
    pub(crate) fn summary(&self) -> String {
        let mut counts: BTreeMap<(bool, &str), usize> = BTreeMap::new();
        for operation in &self.0 {
            let outcome = match &operation.outcome {
                Outcome::Acknowledged | Outcome::Found(_) => "done",
                Outcome::Unknown(_) => "unknown",
                Outcome::Refused(_) => "refused",
            };
            *counts.entry((operation.is_write(), outcome)).or_default() += 1;
        }
        let mut told = String::new();
        for ((write, outcome), count) in counts {
            write!(told, "{} {outcome}: {count}; ", if write { "writes" } else { "reads" }).unwrap();
        }
        told
    }

    /// Asserts that no acknowledged write was missed, and whatever else `checker` knows, and that there was something
    /// to assert it of.
    pub(crate) fn assert_consistent(&self) {
        let wrong = checker::check(&self.0);
        let shown: Vec<&String> = wrong.iter().take(20).collect();
        assert!(wrong.is_empty(), "{} violations in {}:\n{shown:#?}", wrong.len(), self.summary());
        let found = self.0.iter().filter(|operation| matches!(operation.outcome, Outcome::Found(Some(_)))).count();
        println!("{}the longest took {} ms", self.summary(), self.longest_ms());
        assert!(self.acknowledged().count() > 20 && found > 20, "too little was done: {}", self.summary());
    }
}
