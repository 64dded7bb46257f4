//! A leader that leaves hands over, so that changes of the hard state do not wait for an election by silence.
//!
//! openraft 0.9 cannot name a successor, and a voter that hears its leader grants nobody a vote until it has not heard of
//! it for [`ControlOptions::election_max`](super::ControlOptions). But a voter that asks for votes itself has given its
//! leader up, and grants them to whoever asks with a greater claim. So the leaving leader first tells all voters but one to
//! ask: the small cluster is done then, since the leaver itself grants too. Where they did not come to a majority among
//! themselves, the last one is told, and meets nobody who still waits for the old leader. Whoever has an older log gets no
//! votes, as always: nothing here weakens Raft, it only ends a wait. If it comes to nothing, the silence does it.

use std::time::Duration;

use cube_storage::model::NodeId;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::link::{ControlCall, LinkError};
use super::network::Network;
use super::propose::leads;
use super::raft_types::{Metrics, Raft, node_id, raft_id};

/// How long a voter may take to hear that it is to ask for votes: it saves its own first.
const TOLD_WITHIN: Duration = Duration::from_millis(500);
/// How long an election may take whose voters have all given the old leader up: two fsyncs, on a busy disk.
const ELECTED_WITHIN: Duration = Duration::from_millis(500);

/// How long all of it may take: no longer than the election by silence that it spares.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(4);

/// What the leaving leader says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Leaving {
    /// Whom the receiver takes for the leader, if this is to concern it.
    pub(super) leader: NodeId,
}

/// Has another voter lead, if this node does and there is one that answers. Tells whether another one leads now.
pub(super) async fn hand_over(me: NodeId, raft: &Raft, network: &Network) -> bool {
    let mut heirs = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        if leads(&metrics) { by_claim(me, &metrics) } else { Vec::new() }
    };
    let Some(last) = heirs.pop() else { return false };
    let handing_over = timeout(HANDED_OVER_WITHIN, hand_over_to(last, heirs, me, raft, network));
    let is_done = matches!(handing_over.await, Ok(true));
    if !is_done {
        tracing::info!("no other voter took the lead over: the others elect one when they miss this node");
    }
    is_done
}

async fn hand_over_to(last: NodeId, heirs: Vec<NodeId>, me: NodeId, raft: &Raft, network: &Network) -> bool {
    let told = |heir: NodeId| async move {
        let told = timeout(TOLD_WITHIN, tell(me, heir, network)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!(member = %heir, outcome = ?told, "a voter was not told that its leader leaves");
        }
    };
    join_all(heirs.iter().map(|heir| told(*heir))).await;
    if !heirs.is_empty() && another_leads(me, raft).await {
        return true;
    }
    // The one with the best log first; twice, since among equal terms the greater number wins, and it only knows that it
    // needs a greater term once it was turned down. One that is dead is passed over.
    for heir in [last, last].into_iter().chain(heirs.into_iter().rev()) {
        told(heir).await;
        if another_leads(me, raft).await {
            return true;
        }
    }
    false
}

/// The other voters; the last one has the most of the log, and of those that have as much the greatest number.
fn by_claim(me: NodeId, metrics: &Metrics) -> Vec<NodeId> {
    let has = |id: u64| metrics.replication.as_ref().and_then(|followers| followers.get(&id).copied().flatten());
    let voters = metrics.membership_config.membership().voter_ids();
    let mut others: Vec<u64> = voters.filter(|id| *id != raft_id(me)).collect();
    others.sort_by_key(|id| (has(*id), *id));
    others.into_iter().filter_map(node_id).collect()
}

async fn tell(me: NodeId, heir: NodeId, network: &Network) -> Result<(), LinkError> {
    network.call(heir, "", ControlCall::LeaderLeaves, Leaving { leader: me }, TOLD_WITHIN).await
}

async fn another_leads(me: NodeId, raft: &Raft) -> bool {
    let mut metrics = raft.metrics();
    let other = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != raft_id(me));
    let elected = timeout(ELECTED_WITHIN, metrics.wait_for(other)).await;
    matches!(elected, Ok(Ok(_)))
}

/// The receiving end: asks for votes, unless somebody else leads already as far as this node knows.
pub(super) async fn take_over(raft: &Raft, leaving: Leaving) {
    let known = raft.metrics().borrow().current_leader;
    if known.is_none_or(|leader| leader == raft_id(leaving.leader))
        && let Err(fatal) = raft.trigger().elect().await
    {
        tracing::debug!(%fatal, "no votes are asked for");
    }
}
