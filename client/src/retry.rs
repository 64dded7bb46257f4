//! Whether a request that failed is tried again: plain logic, the whole of it.
//!
//! **Why a retried write never makes an older value win.** A write that may have taken effect must not be sent again with
//! a new version: somebody may have written the row in between, and the second try would win over that. So
//! - a write is repeated freely only after a failure that says that nothing was written, or that it was never sent;
//! - a write that is *repeatable* carries a timestamp that the client fixed before its first try. All of its tries carry
//!   the same one, and such a timestamp alone makes the version of a row, through whichever node it comes. So all tries
//!   are one version, and replicas that hold something newer are changed by none of them. Those that hold it have the
//!   value already; with a time to live, which each coordinator counts from its own now, the latest end is kept;
//! - every other write that may have taken effect is not repeated: the caller is told that its outcome is unknown.
//!
//! Reads change nothing and are repeated as long as there is time.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Refusal;
use crate::node::Node;

/// After a failure without a hint when to come back: doubled with each attempt, up to the most.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// `RESOURCE_EXHAUSTED`, `UNAVAILABLE` and `DEADLINE_EXCEEDED`: what may be otherwise a little later, or elsewhere.
const PASSING: [u32; 3] = [8, 14, 4];
/// What nodes say that serve no clients for a while: the others do.
const TURNS_AWAY: [&str; 2] = ["shutting_down", "drained"];
/// What replicas say when nodes disagree on who holds a partition.
const STALE: [&str; 2] = ["newer_map", "older_map"];

/// How a request changes what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    /// A write whose timestamp was fixed by the client.
    Repeatable,
}

/// Why one attempt failed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Failure {
    /// It never left this process.
    Unsent(String),
    /// The node said no.
    Refused(Box<Refusal>),
    /// It was sent, and no answer came.
    Lost(String),
    /// No answer came in the time of one attempt.
    Slow,
    /// What came is no answer.
    Misunderstood(String),
}

/// The last words of a node. When it alone lives of those that can be asked, what it says tells more than that the others
/// did not answer.
#[derive(Debug, Default)]
pub(crate) struct Words(Option<(Arc<Node>, Failure)>);

impl Words {
    pub(crate) fn note(&mut self, node: &Arc<Node>, failure: &Failure) {
        if matches!(failure, Failure::Refused(_)) {
            self.0 = Some((Arc::clone(node), failure.clone()));
        }
    }

    /// What the caller is told: the last failure, unless that is silence and there were words before. A write that may have
    /// taken effect is never told as one that was refused.
    pub(crate) fn or(self, kind: Kind, node: &Arc<Node>, last: Failure) -> (Arc<Node>, Failure) {
        match (self.0, last) {
            (Some(words), Failure::Unsent(_)) => words,
            (Some(words), Failure::Lost(_) | Failure::Slow) if kind == Kind::Read => words,
            (_, last) => (Arc::clone(node), last),
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    GiveUp,
    /// Ask again after a while, another node if there is one.
    Elsewhere(Duration),
}

impl Failure {
    /// Whether a write may have taken effect.
    pub(crate) fn may_take_effect(&self) -> bool {
        match self {
            Self::Unsent(_) => false,
            Self::Refused(refusal) => refusal.may_take_effect,
            Self::Lost(_) | Self::Slow | Self::Misunderstood(_) => true,
        }
    }

    /// Whether the node that was asked seems to be gone.
    pub(crate) fn is_loss_of_node(&self) -> bool {
        match self {
            Self::Unsent(_) | Self::Lost(_) | Self::Slow => true,
            Self::Refused(refusal) => TURNS_AWAY.contains(&refusal.code.as_str()),
            Self::Misunderstood(_) => false,
        }
    }

    /// Whether it tells that nodes have changed.
    pub(crate) fn tells_of_change(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.code == "no_replicas"
                    || refusal.failures.iter().any(|failure| STALE.contains(&failure.code.as_str()))
                    || self.is_loss_of_node()
            }
            _ => self.is_loss_of_node(),
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Unsent(reason) | Self::Lost(reason) | Self::Misunderstood(reason) => reason.clone(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::Slow => "no answer in time".to_owned(),
        }
    }
}

/// What to do after the attempt of this number, counted from 1.
pub(crate) fn next(kind: Kind, attempt: u32, attempts_max: u32, failure: &Failure) -> Next {
    let passing = match failure {
        Failure::Unsent(_) | Failure::Lost(_) | Failure::Slow => true,
        Failure::Refused(refusal) => refusal.retry_after.is_some() || PASSING.contains(&refusal.status),
        Failure::Misunderstood(_) => false,
    };
    if !passing || attempt >= attempts_max {
        return Next::GiveUp;
    }
    if kind == Kind::Write && failure.may_take_effect() {
        return Next::GiveUp;
    }
    Next::Elsewhere(wait(attempt, failure))
}

fn wait(attempt: u32, failure: &Failure) -> Duration {
    match failure {
        Failure::Refused(refusal) if refusal.retry_after.is_some() => refusal.retry_after.unwrap_or_default(),
        // Another node can be asked at once; only from the second time on it is the whole cluster that has to recover.
        _ if attempt == 1 => Duration::ZERO,
        _ => BACKOFF_MIN.saturating_mul(1 << attempt.min(10)).min(BACKOFF_MAX),
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
