//! The seam to the other nodes: bytes out, bytes back. gRPC is one implementation of it, a map in memory another.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cube_storage::model::NodeId;
use thiserror::Error;

/// What is called. The numbers are on the wire: they are never given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ControlCall {
    /// Raft: entries of the log, and the sign of life of a leader.
    AppendEntries = 1,
    /// Raft: the request for a vote.
    Vote = 2,
    /// Raft: a part of a snapshot.
    InstallSnapshot = 3,
    /// A command for the leader.
    Propose = 4,
    /// What nodes report of the moves under way, for the leader.
    Report = 5,
    /// The leader leaves: the receiver is to ask for votes. One that does not know it elects later.
    LeaderLeaves = 6,
    /// What a member that leaves the cluster still keeps, for the leader.
    Leaving = 7,
}

impl ControlCall {
    const ALL: [Self; 7] = [
        Self::AppendEntries,
        Self::Vote,
        Self::InstallSnapshot,
        Self::Propose,
        Self::Report,
        Self::LeaderLeaves,
        Self::Leaving,
    ];

    /// Its number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The call of a number; `None` for one that this release does not know.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.number() == number)
    }
}

impl fmt::Display for ControlCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppendEntries => "append entries",
            Self::Vote => "vote",
            Self::InstallSnapshot => "install snapshot",
            Self::Propose => "propose",
            Self::Report => "report",
            Self::LeaderLeaves => "leader leaves",
            Self::Leaving => "leaving",
        })
    }
}

/// A call that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// It did not reach the node: nothing happened there.
    #[error("the node at {address:?} cannot be reached: {detail}")]
    Unreachable {
        /// Who was called.
        node: NodeId,
        /// Where.
        address: String,
        /// Why not.
        detail: String,
    },
    /// Nobody knows whether it took effect there.
    #[error("the node at {address:?} did not answer: {detail}")]
    NoAnswer {
        /// Who was called.
        node: NodeId,
        /// Where.
        address: String,
        /// What is known.
        detail: String,
    },
    /// The receiver turned the call away: nothing happened there.
    #[error("the call was turned away: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

/// One call to another node's control plane: bytes out, bytes back.
#[async_trait]
pub trait ControlLink: Send + Sync + 'static {
    /// Has `to`, at `address`, run `Control::handle`, and brings its answer. Gives up after `timeout`. The future may be
    /// dropped before.
    async fn call(
        &self,
        to: NodeId,
        address: &str,
        call: ControlCall,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, LinkError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_keep_their_numbers() {
        let numbers = ControlCall::ALL.map(|call| (call.to_string(), call.number()));
        let expected = ["append entries", "vote", "install snapshot", "propose", "report", "leader leaves", "leaving"];
        for ((name, number), (expected_name, expected)) in numbers.iter().zip(expected.iter().zip(1u8..)) {
            assert_eq!((name.as_str(), *number), (*expected_name, expected));
            assert_eq!(ControlCall::of(*number).map(ControlCall::number), Some(*number));
        }
        assert_eq!((ControlCall::of(0), ControlCall::of(8)), (None, None));
    }
}
