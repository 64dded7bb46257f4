//! What travels inside a [`ControlCall`]: an envelope that says whose call it is, sealed like the values on disk.
//!
//! Addresses are given to other nodes in time, and directories are put into other clusters by mistake. A vote counted for
//! the wrong member, or an entry taken from another cluster, would be the end of both, so every call names its receiver
//! and its cluster, and is turned away where either is wrong.

use std::time::Duration;

use bytes::Bytes;
use cube_replication::lifecycle::MoveReport;
use cube_storage::model::NodeId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Departed;
use super::command::{Answer, Request};
use super::link::{ControlCall, LinkError};
use super::raft_types::TypeConfig;
use super::refusal::Refusal;
use super::sealed::{seal, unseal};
use crate::identity::ClusterId;

/// The most of a snapshot in one message.
pub(super) const SNAPSHOT_CHUNK_BYTES: u64 = 512 << 10;
/// The largest snapshot: all that bounded keyspaces, members and partitions can come to, and room. A receiver takes no
/// more into memory.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// The most reports in one message: two for each partition of the largest cluster.
pub(super) const REPORTS_MAX: usize = 8192;

/// A call's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    /// Who is meant.
    pub(super) to: NodeId,
    /// The caller's cluster, if it knows one.
    pub(super) cluster: Option<ClusterId>,
    pub(super) body: T,
}

/// A leader's entries, and how fresh its leadership is.
#[derive(Serialize, Deserialize)]
pub(super) struct Append {
    pub(super) request: AppendEntriesRequest<TypeConfig>,
    /// Milliseconds since a majority acknowledged the leader, as far as it knows.
    pub(super) quorum_age_ms: Option<u64>,
}

pub(super) type Snapshot = InstallSnapshotRequest<TypeConfig>;
pub(super) type Vote = VoteRequest<u64>;

/// How the receiver's Raft answers.
pub(super) type AppendReply = Result<AppendEntriesResponse<u64>, RaftFailure>;
pub(super) type VoteReply = Result<VoteResponse<u64>, RaftFailure>;
pub(super) type SnapshotReply = Result<InstallSnapshotResponse<u64>, RaftFailure>;

/// Why a node's Raft did not take a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RaftFailure {
    /// It shuts down, or its disk failed.
    Stopped(String),
    /// This part does not continue what was received; the snapshot has to be sent from its beginning.
    OutOfOrder,
}

/// A command on its way to the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Propose {
    pub(super) request: Request,
    /// Milliseconds in which an answer is still of use.
    pub(super) time_left_ms: u64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ProposeReply {
    Decided(Result<Answer, Refusal>),
    /// This node does not lead, and has done nothing.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// It is in the leader's log, and in time no majority said that it is in theirs.
    Pending,
    /// More is proposed already than the leader takes at once; nothing was done.
    Busy,
    /// This node's Raft has stopped; nobody knows whether it took the command.
    Stopped(String),
}

pub(super) type Reports = Vec<MoveReport>;

/// Whether the reports reached the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ReportReply {
    Taken,
    NotLeader { leader: Option<NodeId> },
}

/// What becomes of a leaving member's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LeavingReply {
    Taken,
    NotLeader {
        leader: Option<NodeId>,
    },
    /// The member has left the cluster, or was given up.
    Gone {
        /// Whether its vote is still needed to let it go.
        votes: bool,
    },
}

impl LeavingReply {
    /// How far the member has left, by what is said.
    pub(super) fn departed(&self) -> Departed {
        match self {
            Self::Gone { votes: false } => Departed::Yes,
            Self::Gone { votes: true } => Departed::ButVotes,
            Self::Taken | Self::NotLeader { .. } => Departed::NotYet,
        }
    }
}

/// The name under which the payload of a call is sealed: one call's bytes are no other's.
fn name(call: ControlCall, is_reply: bool) -> [u8; 2] {
    [call.number(), u8::from(is_reply)]
}

pub(super) fn encode_call<T: Serialize>(call: ControlCall, envelope: &Envelope<T>) -> Result<Bytes, LinkError> {
    seal(&name(call, false), envelope).map(Bytes::from).map_err(|bad| refused(call, &bad))
}

/// Reads a call, and turns it away unless it is for this node, in this cluster.
pub(super) fn decode_call<T: DeserializeOwned>(
    call: ControlCall,
    payload: &[u8],
    me: NodeId,
    cluster: Option<ClusterId>,
) -> Result<T, LinkError> {
    let envelope: Envelope<T> = unseal(&name(call, false), payload).map_err(|bad| refused(call, &bad))?;
    if envelope.to != me {
        return Err(refused(call, &format!("it is for {}, and this is {me}", envelope.to)));
    }
    match (envelope.cluster, cluster) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            Err(refused(call, &format!("it comes from cluster {theirs}, and this is cluster {ours}")))
        }
        _ => Ok(envelope.body),
    }
}

pub(super) fn encode_reply<T: Serialize>(call: ControlCall, reply: &T) -> Result<Bytes, LinkError> {
    seal(&name(call, true), reply).map(Bytes::from).map_err(|bad| refused(call, &bad))
}

pub(super) fn decode_reply<T: DeserializeOwned>(
    call: ControlCall,
    node: NodeId,
    address: &str,
    payload: &[u8],
) -> Result<T, LinkError> {
    unseal(&name(call, true), payload).map_err(|bad| LinkError::NoAnswer {
        node,
        address: address.to_owned(),
        detail: bad.to_string(),
    })
}

fn refused(call: ControlCall, reason: &dyn std::fmt::Display) -> LinkError {
    LinkError::Refused { reason: format!("{call}: {reason}") }
}

/// Milliseconds, for the wire.
pub(super) fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
