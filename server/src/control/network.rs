//! Raft's messages to other members, over a [`ControlLink`].
//!
//! A member is called where the hard state says it is now; what Raft's membership says is where it was when it joined.
//! Everything that fails counts as "unreachable", so that Raft waits a moment before it tries again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cube_storage::model::NodeId;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, BasicNode, SnapshotSegmentId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::link::{ControlCall, ControlLink, LinkError};
use super::raft_types::{Metrics, TypeConfig, node_id};
use super::silence::Silences;
use super::state::HardState;
use super::wire::{self, Append, AppendReply, Envelope, RaftFailure, SnapshotReply, VoteReply};

/// What every call to another node needs.
pub(super) struct Network {
    pub(super) link: Arc<dyn ControlLink>,
    pub(super) states: watch::Receiver<Arc<HardState>>,
    /// Set once Raft runs.
    pub(super) metrics: OnceLock<watch::Receiver<Metrics>>,
    /// The wait after a failed call.
    pub(super) backoff: Duration,
    /// Who does not answer Raft.
    pub(super) silences: Silences,
}

impl Network {
    /// Calls a node where it is now.
    pub(super) async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        to: NodeId,
        known_address: &str,
        call: ControlCall,
        body: T,
        timeout: Duration,
    ) -> Result<R, LinkError> {
        let state = Arc::clone(&self.states.borrow());
        let member = state.topology().member(to);
        let address = member.map_or(known_address, |member| member.addresses.peer.as_str());
        let payload = wire::encode_call(call, &Envelope { to, cluster: state.cluster(), body })?;
        let reply = self.link.call(to, address, call, payload, timeout).await?;
        wire::decode_reply(call, to, address, &reply)
    }

    fn name_of(&self, node: NodeId) -> String {
        let state = self.states.borrow();
        state.topology().member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    fn quorum_age_ms(&self) -> Option<u64> {
        self.metrics.get().and_then(|metrics| metrics.borrow().millis_since_quorum_ack)
    }
}

/// Makes the way to each member.
pub(super) struct Ways(pub(super) Arc<Network>);

impl RaftNetworkFactory<TypeConfig> for Ways {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Way {
        Way { network: Arc::clone(&self.0), target, address: node.addr.clone() }
    }
}

/// The way to one member.
pub(super) struct Way {
    network: Arc<Network>,
    target: u64,
    address: String,
}

type Failure<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Way {
    async fn call<T: Serialize, R: DeserializeOwned, E: std::error::Error>(
        &self,
        call: ControlCall,
        body: T,
        option: &RPCOption,
    ) -> Result<R, Failure<E>> {
        let Some(to) = node_id(self.target) else {
            return Err(unreachable(&AnyError::error(format!("{} is no member's number", self.target))));
        };
        let answered = self.network.call(to, &self.address, call, body, option.hard_ttl()).await;
        self.network.silences.note(to, || self.network.name_of(to), &answered);
        answered.map_err(|error| unreachable(&error))
    }
}

fn unreachable<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn stopped<E: std::error::Error>(failure: &RaftFailure) -> Failure<E> {
    let detail = match failure {
        RaftFailure::Stopped(reason) => reason.as_str(),
        RaftFailure::OutOfOrder => "the parts of a snapshot came out of order",
    };
    unreachable(&AnyError::error(detail))
}

impl RaftNetwork<TypeConfig> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let append = Append { request, quorum_age_ms: self.network.quorum_age_ms() };
        let reply: AppendReply = self.call(ControlCall::AppendEntries, append, &option).await?;
        reply.map_err(|failure| stopped(&failure))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let (id, offset) = (request.meta.snapshot_id.clone(), request.offset);
        let reply: SnapshotReply = self.call(ControlCall::InstallSnapshot, request, &option).await?;
        reply.map_err(|failure| match failure {
            RaftFailure::OutOfOrder => {
                let mismatch = SnapshotMismatch {
                    expect: SnapshotSegmentId { id: id.clone(), offset: 0 },
                    got: SnapshotSegmentId { id, offset },
                };
                let source = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                RPCError::RemoteError(RemoteError::new(self.target, source))
            }
            RaftFailure::Stopped(reason) => RPCError::Network(NetworkError::new(&AnyError::error(reason))),
        })
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        let reply: VoteReply = self.call(ControlCall::Vote, request, &option).await?;
        reply.map_err(|failure| stopped(&failure))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.backoff))
    }
}
