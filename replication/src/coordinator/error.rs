//! Why a request was not done, in the client's terms. Every variant says whether something may have been written:
//! [`RequestError::Unknown`] and [`RequestError::NotNoted`] do, and are never called a failure.

use std::fmt;
use std::sync::Arc;

use cube_storage::clock::ClockError;
use cube_storage::model::{Epoch, Hlc, Invalid, NodeId};
use thiserror::Error;

use super::explain::{Account, Explained};
use crate::catalog::UnknownName;
use crate::consistency::{Level, ReadAtAny, Unavailable};
use crate::messages::Refusal;
use crate::transport::PeerError;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// It names something that does not exist. Nothing was done.
    #[error(transparent)]
    UnknownName(#[from] UnknownName),
    /// It breaks a limit. Nothing was done.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It asks to read at ANY. Nothing was done.
    #[error(transparent)]
    ReadAtAny(#[from] ReadAtAny),
    /// Too few replicas are alive for the level of a write. Nothing was written.
    #[error("{0}; nothing was written")]
    Unavailable(Unavailable),
    /// Too few replicas are alive for the level of a read, which changes nothing anyway.
    #[error("{0}")]
    ReadUnavailable(Unavailable),
    /// It carries a condition, which this release does not know. Nothing was written.
    #[error("conditional writes are not supported yet; nothing was written")]
    ConditionUnsupported,
    /// The client's timestamp is out of bound, or no version could be given. Nothing was written.
    #[error("{0}; nothing was written")]
    Clock(#[from] ClockError),
    /// The client's timestamp is not above the purge floor: a deletion that is already purged could be newer. No replica
    /// holds the write or may yet: else it is [`RequestError::Unknown`].
    #[error(
        "the timestamp is not above {floor}, up to which deletions are purged, so it could bring back what was \
         deleted: write with a newer timestamp or with none; nothing was written"
    )]
    BelowFloor {
        /// The floor.
        floor: Hlc,
    },
    /// This node coordinates as much as it may. Nothing was done.
    #[error("{in_flight} requests are under way here, the limit is {limit}: try again in {retry_after_ms} ms")]
    Overloaded {
        /// Requests under way.
        in_flight: usize,
        /// Requests that may be.
        limit: usize,
        /// When it may be worth it.
        retry_after_ms: u32,
    },
    /// The requests under way on this node hold as much memory as they may. Nothing was done.
    #[error("requests under way here hold {bytes} bytes, the limit is {limit_bytes}: try again in {retry_after_ms} ms")]
    OverloadedBytes {
        /// Bytes that they hold.
        bytes: usize,
        /// Bytes that they may hold.
        limit_bytes: usize,
        /// When it may be worth it.
        retry_after_ms: u32,
    },
    /// The other rows of the answer fill it. This row exists or not: it was not read.
    #[error(
        "the rows before it fill the answer up to its limit of {limit_bytes} bytes: read this row with another request"
    )]
    AnswerFull {
        /// Bytes of records that one answer may hold.
        limit_bytes: usize,
    },
    /// The cluster has no place for the table yet. Nothing was done.
    #[error("the table's partition has no replicas yet: try again when a node is ready")]
    NoReplicas,
    /// Too few replicas answered that they hold the write, but some may. It may still take effect.
    #[error("{0}")]
    Unknown(Box<Incomplete>),
    /// Too few replicas answered, or could be brought up to date, for the read to be sure.
    #[error("{0}")]
    ReadIncomplete(Box<Incomplete>),
    /// A replica missed the write, and that could not be noted. The write may take effect.
    #[error("the write may take effect, but what {target} missed could not be noted: {cause}")]
    NotNoted {
        /// Who missed it.
        target: NodeId,
        /// Why.
        cause: String,
    },
}

/// Of a request that was refused before anything was done there is nothing to tell.
impl Explained for RequestError {
    fn account(&self) -> Option<&Arc<Account>> {
        match self {
            Self::Unknown(incomplete) | Self::ReadIncomplete(incomplete) => incomplete.account.as_ref(),
            _ => None,
        }
    }

    fn set_account(&mut self, account: &Option<Arc<Account>>) {
        if let Self::Unknown(incomplete) | Self::ReadIncomplete(incomplete) = self {
            incomplete.account.clone_from(account);
        }
    }
}

/// How far a request had come when it ended without meeting its level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Whether it was a write.
    pub write: bool,
    /// The level.
    pub level: Level,
    /// Replicas that did what was asked, durably.
    pub acknowledged_by: Vec<NodeId>,
    /// How many more replicas the level needed, each counted once, be it in two replica sets.
    pub missing: usize,
    /// Whether its time was over, rather than every hope lost.
    pub timed_out: bool,
    /// What is known of the others.
    pub failures: Vec<(NodeId, Failure)>,
    /// What was done for the whole request, where that was asked for.
    pub account: Option<Arc<Account>>,
}

impl Incomplete {
    /// Whether somebody's answer did not come in time: who notices first that the time is over, the transport or the
    /// coordinator, is chance.
    pub(super) fn any_timed_out(failures: &[(NodeId, Failure)]) -> bool {
        failures.iter().any(|(_, failure)| {
            matches!(failure, Failure::Peer(PeerError::TimedOut { .. }) | Failure::Refused(Refusal::DeadlinePassed))
        })
    }
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.write { "the write is unknown: it may still take effect" } else { "the read is incomplete" };
        write!(f, "{what}; {} is {} short", self.level, self.missing)?;
        let names: Vec<String> = self.acknowledged_by.iter().map(NodeId::to_string).collect();
        match (self.timed_out, names.is_empty()) {
            (true, true) => f.write_str(" after its time was over, nobody acknowledged")?,
            (true, false) => write!(f, " after its time was over, acknowledged by {}", names.join(", "))?,
            (false, true) => f.write_str(", nobody acknowledged")?,
            (false, false) => write!(f, ", acknowledged by {}", names.join(", "))?,
        }
        self.failures.iter().try_for_each(|(node, failure)| write!(f, "; {node}: {failure}"))
    }
}

/// Why one replica did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// It was believed dead, and not asked.
    #[error("it is down")]
    Down,
    /// It could not be asked, or its answer did not come.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It counts by a newer map.
    #[error("it has a newer map ({0}) than this node")]
    Fenced(Epoch),
    /// The row's version is not above its purge floor.
    #[error("the version is not above its purge floor {0}")]
    BelowFloor(Hlc),
    /// It answered something else than what was asked.
    #[error("its answer does not fit the question")]
    Nonsense,
}
