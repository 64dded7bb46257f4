//! What can go wrong, and what a caller may conclude of it.
//!
//! One question decides what to do after a write: may it have taken effect? [`Error::may_take_effect`] answers it for
//! every error. Where it says no, nothing was written, and the request can be made again at any time.

use std::fmt;
use std::time::Duration;

use cube_proto::v1;

use crate::model::Explained;

/// Why a node did not do what it was asked, in its own words.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    /// What programs decide by: one of the codes in `docs/errors.md`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether a write may still take effect. Where it is false, nothing was written.
    pub may_take_effect: bool,
    /// When another try may be worth it.
    pub retry_after: Option<Duration>,
    /// Replicas that the level needs, and those that are alive.
    pub required_and_alive: Option<(u32, u32)>,
    /// The names of the replicas that did what was asked, durably.
    pub acknowledged_by: Vec<String>,
    /// What is known of the other replicas.
    pub failures: Vec<ReplicaFailure>,
    /// What is allowed at the most, where something was too large.
    pub limit: Option<u64>,
    /// What was done for the request, if it asked for that and anything was.
    pub explained: Option<Box<Explained>>,
    /// The number of the gRPC status.
    pub(crate) status: u32,
}

impl Refusal {
    /// A code, the words for it, and nothing more to say.
    pub(crate) fn plain(code: &str, message: String) -> Self {
        Self {
            code: code.to_owned(),
            message,
            may_take_effect: false,
            retry_after: None,
            required_and_alive: None,
            acknowledged_by: Vec::new(),
            failures: Vec::new(),
            limit: None,
            explained: None,
            status: 0,
        }
    }

    pub(crate) fn of(detail: v1::ErrorDetail) -> Self {
        Self {
            code: detail.code,
            message: detail.message,
            may_take_effect: detail.may_take_effect,
            retry_after: detail.retry_after_ms.map(|ms| Duration::from_millis(ms.into())),
            required_and_alive: detail.required.zip(detail.alive),
            acknowledged_by: detail.acknowledged_by,
            failures: detail.failures.into_iter().map(ReplicaFailure::of).collect(),
            limit: detail.limit,
            explained: detail.explained,
            status: detail.status,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// Why one replica did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaFailure {
    /// Its name.
    pub node: String,
    /// One of the replica codes in `docs/errors.md`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ReplicaFailure {
    fn of(failure: v1::ReplicaFailure) -> Self {
        Self { node: failure.node, code: failure.code, message: failure.message }
    }
}

/// What was asked, of which row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// PUT, GET and so on.
    pub operation: &'static str,
    /// The row, or the first of several.
    pub key: String,
    /// Whether it was to change something.
    pub changes: bool,
}

impl Asked {
    /// What is added to words that do not say so, for who asked to change something.
    fn nothing_written(&self, words: &str) -> &'static str {
        const NOTHING: &str = "; nothing was written";
        if self.changes && !words.contains(NOTHING) { NOTHING } else { "" }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.key)
    }
}

/// A request that was not done, or of which nobody knows.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address, an option or a key cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A node refused, and no other one did better in time. Nothing was written.
    #[error("{asked}: refused by {node}: {refusal}{}", .asked.nothing_written(&.refusal.message))]
    Refused {
        /// What was asked.
        asked: Asked,
        /// The address of the node that refused.
        node: String,
        /// Its words.
        refusal: Box<Refusal>,
    },
    /// No node could be reached. Nothing was written.
    #[error(
        "{asked}: no node could be reached in {attempts} attempts, the last by {node}: {reason}{}",
        .asked.nothing_written(.reason)
    )]
    Unreachable {
        /// What was asked.
        asked: Asked,
        /// The address of the node that was tried last.
        node: String,
        /// How many were tried.
        attempts: u32,
        /// Why the last could not be reached.
        reason: String,
    },
    /// A read was not answered. It is safe to repeat.
    #[error(
        "{asked}: no answer in time after {attempts} attempts, the last by {node}: {reason}; repeat it, or give it more time"
    )]
    NotAnswered {
        /// What was asked.
        asked: Asked,
        /// The address of the node that was asked last.
        node: String,
        /// How many were asked.
        attempts: u32,
        /// What is known.
        reason: String,
    },
    /// A write may have taken effect, or may yet: read the row to learn what it holds. Writing it again as it was
    /// could overwrite what somebody else wrote in between.
    #[error(
        "{asked}: it is unknown whether it took effect: {reason} (by {node}); read the row before writing it again"
    )]
    Unknown {
        /// What was asked.
        asked: Asked,
        /// The address of the node that was asked.
        node: String,
        /// What is known.
        reason: String,
        /// The node's words, if it said any: `acknowledged_by` hold the write durably.
        refusal: Option<Box<Refusal>>,
    },
    /// The answer is none that this client understands.
    #[error("{asked}: {node} answered what this client does not understand: {reason}")]
    Misunderstood {
        /// What was asked.
        asked: Asked,
        /// The address of the node.
        node: String,
        /// What came.
        reason: String,
    },
}

impl Error {
    /// Whether a write may have taken effect, or may yet. Where not, nothing was written.
    pub fn may_take_effect(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Misunderstood { .. })
    }

    /// What the node said, if it was one that said no.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } | Self::Unknown { refusal: Some(refusal), .. } => Some(refusal),
            _ => None,
        }
    }

    /// The node's code, or what stands for one where no node said anything: for counting errors by kind.
    pub fn code(&self) -> &str {
        match (self, self.refusal()) {
            (_, Some(refusal)) => &refusal.code,
            (Self::Invalid(_), _) => "invalid",
            (Self::Unreachable { .. }, _) => "unreachable",
            (Self::NotAnswered { .. }, _) => "not_answered",
            (Self::Unknown { .. }, _) => "unknown",
            (Self::Misunderstood { .. } | Self::Refused { .. }, _) => "misunderstood",
        }
    }
}
