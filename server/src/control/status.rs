//! How Raft stands, as one node sees it: for health, metrics and people.

use std::time::Duration;

use cube_storage::model::NodeId;
use tokio::time::Instant;

use super::propose::leads;
use super::raft_types::{Metrics, node_id};

/// When a leader was heard of, and how fresh its majority was then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) quorum_age: Option<Duration>,
}

/// How Raft stands, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlStatus {
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Whether this node leads.
    pub leads: bool,
    /// Raft's term: it grows with every election.
    pub term: u64,
    /// Who votes, or will once the change under way is complete.
    pub voters: Vec<NodeId>,
    /// Whether the voters are just being changed: until that is complete, majorities of the old and the new ones are needed.
    pub voters_change: bool,
    /// Members that hold a copy and do not vote.
    pub learners: Vec<NodeId>,
    /// The last entry of this node's log.
    pub last_log: Option<u64>,
    /// The last entry that is in this node's state.
    pub applied: Option<u64>,
    /// The last entry that is in this node's snapshot.
    pub snapshot: Option<u64>,
    /// Whether changes can be made now, to the best of this node's knowledge.
    pub has_quorum: bool,
    /// How long ago a majority acknowledged the leader, as far as this node was told.
    pub last_quorum_ack_age: Option<Duration>,
    /// Why this node's Raft has stopped, if so. Its copy of the state can still be read.
    pub stopped: Option<String>,
}

impl ControlStatus {
    pub(super) fn of(metrics: &Metrics, heard: Option<Heard>, fresh: Duration) -> Self {
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let voters = configs.last().into_iter().flatten().filter_map(|id| node_id(*id)).collect();
        let learners = membership.learner_ids().filter_map(node_id).collect();
        let leads = leads(metrics);
        let last_quorum_ack_age = if leads {
            metrics.millis_since_quorum_ack.map(Duration::from_millis)
        } else {
            heard.and_then(|heard| Some(heard.at.elapsed().saturating_add(heard.quorum_age?)))
        };
        let stopped = metrics.running_state.as_ref().err().map(ToString::to_string);
        Self {
            leader: metrics.current_leader.and_then(node_id),
            leads,
            term: metrics.current_term,
            voters,
            voters_change: configs.len() > 1,
            learners,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|last| last.index),
            snapshot: metrics.snapshot.map(|last| last.index),
            has_quorum: stopped.is_none() && last_quorum_ack_age.is_some_and(|age| age <= fresh),
            last_quorum_ack_age,
            stopped,
        }
    }
}
