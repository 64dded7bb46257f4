//! A command's way to the leader, from any node, and its answer back.
//!
//! A proposal is tried until its time is over: there may be no leader for a while, or another one. It is the same request
//! each time, so it takes effect once (`machine.rs`). What is told in the end keeps apart what never reached a leader and
//! what may be in a leader's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cube_storage::model::NodeId;
use openraft::ServerState;
use openraft::error::{ClientWriteError, RaftError};
use rand::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::command::{Answer, Command, Reply, Request, RequestId};
use super::error::ProposeError;
use super::link::{ControlCall, LinkError};
use super::network::Network;
use super::raft_types::{Metrics, Raft, node_id, raft_id};
use super::refusal::Refusal;
use super::wire::{Propose, ProposeReply, as_ms};

/// Commands that wait in a leader for their majority. More are turned away early: they would only wait longer.
const PENDING_MAX: usize = 256;
/// The wait before the first retry; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest wait between two tries.
const RETRY_LONGEST: Duration = Duration::from_millis(500);

/// What came of one try.
enum Try {
    Decided(Result<Answer, Refusal>),
    /// Nothing was done.
    NotTaken(String),
    /// Nobody knows.
    InDoubt(NodeId),
}

/// Brings commands to the leader.
pub(super) struct Proposer {
    me: NodeId,
    raft: Raft,
    network: Arc<Network>,
    start: u64,
    number: AtomicU64,
    pending: Semaphore,
}

impl Proposer {
    pub(super) fn new(me: NodeId, raft: Raft, network: Arc<Network>) -> Self {
        let start = Xoshiro256StarStar::from_os_rng().next_u64();
        Self { me, raft, network, start, number: AtomicU64::new(0), pending: Semaphore::new(PENDING_MAX) }
    }

    /// Who leads, as far as this node knows.
    pub(super) fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow().current_leader.and_then(node_id)
    }

    /// Whether this node leads.
    pub(super) fn leads(&self) -> bool {
        leads(&self.raft.metrics().borrow())
    }

    /// Whether a member votes, be it in a set of voters that is being replaced.
    pub(super) fn votes(&self, node: NodeId) -> bool {
        votes(&self.raft.metrics().borrow(), node)
    }

    fn request(&self, command: Command) -> Request {
        let after = self.raft.metrics().borrow().last_applied.map_or(0, |last| last.index);
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        Request { id: RequestId { proposer: self.me, start: self.start, number }, after, command }
    }

    /// Has a command decided on, whoever leads.
    pub(super) async fn propose(&self, command: Command, within: Duration) -> Result<Answer, ProposeError> {
        let deadline = Instant::now() + within;
        let mut request = self.request(command);
        let mut in_doubt: Option<NodeId> = None;
        let mut wait = RETRY_FIRST;
        loop {
            if let Err(fatal) = self.raft.metrics().borrow().running_state.clone() {
                return Err(in_doubt.map_or_else(
                    || ProposeError::Stopped { reason: fatal.to_string() },
                    |leader| ProposeError::Undecided { leader },
                ));
            }
            let reason = match self.once(&request, deadline.saturating_duration_since(Instant::now())).await {
                Try::Decided(Err(Refusal::TooLate { .. })) => match in_doubt {
                    Some(leader) => return Err(ProposeError::Undecided { leader }),
                    // It was never taken: this node was behind, and knows more of the log by now.
                    None => {
                        request = self.request(request.command);
                        "this node is behind in the log".to_owned()
                    }
                },
                Try::Decided(decided) => return Ok(decided?),
                Try::NotTaken(reason) => reason,
                Try::InDoubt(leader) => {
                    in_doubt = Some(leader);
                    String::new()
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match in_doubt {
                    Some(leader) => ProposeError::Undecided { leader },
                    None => ProposeError::NotAccepted { reason },
                });
            }
            sleep(wait.min(left)).await;
            wait = (wait * 2).min(RETRY_LONGEST);
        }
    }

    async fn once(&self, request: &Request, left: Duration) -> Try {
        let Some(leader) = self.leader() else {
            return Try::NotTaken("no leader is known".to_owned());
        };
        if leader == self.me {
            return match self.write(request.clone(), left).await {
                ProposeReply::Decided(decided) => Try::Decided(decided),
                ProposeReply::NotLeader { .. } => Try::NotTaken("the leader changes".to_owned()),
                ProposeReply::Busy => Try::NotTaken(format!("the leader has {PENDING_MAX} changes pending")),
                ProposeReply::Pending | ProposeReply::Stopped(_) => Try::InDoubt(leader),
            };
        }
        let known_address = self.known_address(leader);
        // The leader answers "pending" a moment before this call is over.
        let body = Propose { request: request.clone(), time_left_ms: as_ms(left * 9 / 10) };
        let call = self.network.call(leader, &known_address, ControlCall::Propose, body, left);
        let answered = tokio::select! {
            biased;
            answered = timeout(left, call) => answered,
            // Another leader may decide what this one cannot.
            () = self.leader_is_not(leader) => return Try::InDoubt(leader),
        };
        match answered {
            Ok(Ok(ProposeReply::Decided(decided))) => Try::Decided(decided),
            Ok(Ok(ProposeReply::NotLeader { .. })) => Try::NotTaken("the leader changes".to_owned()),
            Ok(Ok(ProposeReply::Busy)) => Try::NotTaken(format!("the leader has {PENDING_MAX} changes pending")),
            Ok(Err(error @ (LinkError::Unreachable { .. } | LinkError::Refused { .. }))) => {
                Try::NotTaken(format!("the leader does not take it: {error}"))
            }
            Ok(Ok(ProposeReply::Pending | ProposeReply::Stopped(_)) | Err(LinkError::NoAnswer { .. })) | Err(_) => {
                Try::InDoubt(leader)
            }
        }
    }

    fn known_address(&self, node: NodeId) -> String {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let known = metrics.membership_config.nodes().find(|(id, _)| node_id(**id) == Some(node));
        known.map(|(_, node)| node.addr.clone()).unwrap_or_default()
    }

    async fn leader_is_not(&self, leader: NodeId) {
        let mut metrics = self.raft.metrics();
        let changed = metrics.wait_for(|metrics| metrics.current_leader.and_then(node_id) != Some(leader));
        if changed.await.is_err() {
            // Raft has stopped and says nothing any more: the call has its own end.
            std::future::pending::<()>().await;
        }
    }

    /// Writes a command to the log of this node, if it leads.
    pub(super) async fn write(&self, request: Request, left: Duration) -> ProposeReply {
        if !self.leads() {
            return ProposeReply::NotLeader { leader: self.leader() };
        }
        let Ok(_permit) = self.pending.try_acquire() else { return ProposeReply::Busy };
        match timeout(left, self.raft.client_write(request)).await {
            Ok(Ok(written)) => match written.data {
                Reply::Decided(decided) => ProposeReply::Decided(decided),
                Reply::Nothing => ProposeReply::Pending,
            },
            // It led a moment ago, so the entry may have been written before it was deposed.
            Ok(Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_),
            ))) => ProposeReply::Pending,
            Ok(Err(RaftError::Fatal(fatal))) => ProposeReply::Stopped(fatal.to_string()),
            Err(_) => ProposeReply::Pending,
        }
    }

    /// Writes a command to the log of this node, without trying anywhere else.
    pub(super) async fn write_here(&self, command: Command, left: Duration) -> ProposeReply {
        self.write(self.request(command), left).await
    }
}

/// Whether a member votes, be it in a set of voters that is being replaced, or may come to do so again: voters that are not
/// committed yet may be taken back by another leader, who then needs those of before.
pub(super) fn votes(metrics: &Metrics, node: NodeId) -> bool {
    let newest = &metrics.membership_config;
    let is_committed = newest.log_id().as_ref() <= metrics.last_applied.as_ref();
    let mut configs = newest.membership().get_joint_config().iter();
    !is_committed || configs.any(|voters| voters.contains(&raft_id(node)))
}

/// Whether the node of these metrics leads.
pub(super) fn leads(metrics: &Metrics) -> bool {
    metrics.running_state.is_ok() && metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id)
}
