//! How the control plane fails.

use cube_storage::model::NodeId;
use thiserror::Error;

use super::disk::DiskError;
use super::refusal::Refusal;

/// The control plane does not open.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// What is on disk cannot be read.
    #[error(
        "{0}. The hard state cannot be read, and this node must not guess it: if the disk is sound and a restart does \
         not help, let this machine join as a new member: under another name, with an empty data directory"
    )]
    Disk(#[from] DiskError),
    /// The directory is another member's.
    #[error(
        "the Raft log in {dir} is that of member {found}, and this is to be member {given}: the data directory was exchanged"
    )]
    OtherNode {
        /// Where.
        dir: String,
        /// Whose it is.
        found: NodeId,
        /// Who opens it.
        given: NodeId,
    },
    /// Times that cannot be.
    #[error("the control plane's options cannot be: {reason}")]
    Options {
        /// Why not.
        reason: String,
    },
    /// Raft does not start.
    #[error("Raft does not start: {reason}")]
    Raft {
        /// Why not.
        reason: String,
    },
}

/// A change was not made, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// The hard state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It reached no leader's log, and never will.
    #[error("the change was not accepted: {reason}. It has no effect; try again when a majority of the voters is back")]
    NotAccepted {
        /// Why not.
        reason: String,
    },
    /// It may be in the log of a leader.
    #[error(
        "the change was accepted by the leader, but not confirmed by a majority of the voters in time: it takes effect \
         by itself when a majority is back, unless a leader is elected that never heard of it"
    )]
    Undecided {
        /// Who took it last.
        leader: NodeId,
    },
    /// This node's control plane has stopped.
    #[error("this node's control plane has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}
