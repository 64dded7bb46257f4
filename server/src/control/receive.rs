//! The receiving end of other nodes' calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cube_replication::topology::LeavingReport;
use cube_storage::model::NodeId;
use openraft::error::{InstallSnapshotError, RaftError};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::driving::Driving;
use super::hand_over::{self, Leaving};
use super::link::{ControlCall, LinkError};
use super::propose::Proposer;
use super::raft_types::Raft;
use super::state::HardState;
use super::status::Heard;
use super::wire::{
    self, Append, AppendReply, Propose, RaftFailure, ReportReply, Reports, SNAPSHOT_BYTES_MAX, SnapshotReply, VoteReply,
};

/// The longest that a proposal may keep waiting here, whatever it asks for.
const PROPOSAL_WAITS_MAX: Duration = Duration::from_secs(60);

/// What answers other nodes.
pub(super) struct Receiver {
    me: NodeId,
    raft: Raft,
    states: watch::Receiver<Arc<HardState>>,
    proposer: Arc<Proposer>,
    driving: Arc<Driving>,
    heard: Mutex<Option<Heard>>,
}

impl Receiver {
    pub(super) fn new(
        me: NodeId,
        raft: Raft,
        states: watch::Receiver<Arc<HardState>>,
        proposer: Arc<Proposer>,
        driving: Arc<Driving>,
    ) -> Self {
        Self { me, raft, states, proposer, driving, heard: Mutex::new(None) }
    }

    /// When a leader was heard of last.
    pub(super) fn heard(&self) -> Option<Heard> {
        *self.heard.lock()
    }

    pub(super) async fn handle(&self, call: ControlCall, payload: &[u8]) -> Result<Bytes, LinkError> {
        match call {
            ControlCall::AppendEntries => {
                let Append { request, quorum_age_ms } = self.read(call, payload)?;
                let reply: AppendReply = self.raft.append_entries(request).await.map_err(|error| stopped(&error));
                if matches!(reply, Ok(ref reply) if !reply_is_higher_vote(reply)) {
                    let quorum_age = quorum_age_ms.map(Duration::from_millis);
                    *self.heard.lock() = Some(Heard { at: Instant::now(), quorum_age });
                }
                wire::encode_reply(call, &reply)
            }
            ControlCall::Vote => {
                let request: wire::Vote = self.read(call, payload)?;
                let reply: VoteReply = self.raft.vote(request).await.map_err(|error| stopped(&error));
                wire::encode_reply(call, &reply)
            }
            ControlCall::InstallSnapshot => {
                let part: wire::Snapshot = self.read(call, payload)?;
                if part.offset.saturating_add(part.data.len() as u64) > SNAPSHOT_BYTES_MAX {
                    let reason = format!("a snapshot of more than {SNAPSHOT_BYTES_MAX} bytes");
                    return Err(LinkError::Refused { reason });
                }
                let reply: SnapshotReply = self.raft.install_snapshot(part).await.map_err(|error| match error {
                    RaftError::APIError(InstallSnapshotError::SnapshotMismatch(_)) => RaftFailure::OutOfOrder,
                    RaftError::Fatal(fatal) => RaftFailure::Stopped(fatal.to_string()),
                });
                wire::encode_reply(call, &reply)
            }
            ControlCall::Propose => {
                let Propose { request, time_left_ms } = self.read(call, payload)?;
                let left = Duration::from_millis(time_left_ms).min(PROPOSAL_WAITS_MAX);
                wire::encode_reply(call, &self.proposer.write(request, left).await)
            }
            ControlCall::Report => {
                let reports: Reports = self.read(call, payload)?;
                let reply = if self.proposer.leads() {
                    self.driving.take(&reports);
                    ReportReply::Taken
                } else {
                    ReportReply::NotLeader { leader: self.proposer.leader() }
                };
                wire::encode_reply(call, &reply)
            }
            ControlCall::Leaving => {
                let report: LeavingReport = self.read(call, payload)?;
                wire::encode_reply(call, &self.driving.take_leaving(&self.proposer, report))
            }
            ControlCall::LeaderLeaves => {
                let leaving: Leaving = self.read(call, payload)?;
                hand_over::take_over(&self.raft, leaving).await;
                wire::encode_reply(call, &())
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, call: ControlCall, payload: &[u8]) -> Result<T, LinkError> {
        wire::decode_call(call, payload, self.me, self.states.borrow().cluster())
    }
}

fn reply_is_higher_vote(reply: &openraft::raft::AppendEntriesResponse<u64>) -> bool {
    matches!(reply, openraft::raft::AppendEntriesResponse::HigherVote(_))
}

fn stopped(error: &dyn std::fmt::Display) -> RaftFailure {
    RaftFailure::Stopped(error.to_string())
}
