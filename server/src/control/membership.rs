//! Brings Raft's own membership to what the hard state says: every member a learner at least, the chosen ones voters.
//! Runs on the leader.
//!
//! A new voter is taken on only once it holds the log, or one that never started would stop every change. Nobody waits
//! for it: the next look is a tick away, and a voter that cannot be replaced yet is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cube_replication::topology::{Member, MemberState};
use cube_storage::model::NodeId;
use openraft::{BasicNode, ChangeMembers};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::hand_over::hand_over;
use super::network::Network;
use super::options::ControlOptions;
use super::propose::leads;
use super::raft_types::{Metrics, Raft, node_id, raft_id};
use super::state::HardState;
use super::voters::choose;

/// How long one change of the membership may take before it is looked at anew.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A learner that is this close behind the leader catches up with the rest as a voter. Less than a snapshot's distance.
const CAUGHT_UP_ENTRIES: u64 = 100;
/// The longest wait after changes that failed.
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);

/// One change of Raft's membership.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    AddLearners(BTreeMap<u64, BasicNode>),
    RemoveLearners(BTreeSet<u64>),
    Voters(BTreeSet<u64>),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |ids: &mut dyn Iterator<Item = u64>| {
            let names: Vec<String> = ids.filter_map(node_id).map(|node| node.to_string()).collect();
            names.join(", ")
        };
        match self {
            Self::AddLearners(nodes) => write!(f, "copies go to {} too", names(&mut nodes.keys().copied())),
            Self::RemoveLearners(ids) => write!(f, "no copies go to {} any more", names(&mut ids.iter().copied())),
            Self::Voters(ids) => write!(f, "{} are to vote", names(&mut ids.iter().copied())),
        }
    }
}

/// What is to be changed next, if anything.
pub(super) fn wanted(members: &BTreeMap<NodeId, Member>, metrics: &Metrics) -> Option<Wanted> {
    let membership = metrics.membership_config.membership();
    let there: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
    // Members that left stay in the list, so whoever is not in it joined by an entry that is not applied here yet: a
    // leader that has just been elected would take it for gone.
    if there.iter().any(|id| node_id(*id).is_none_or(|node| !members.contains_key(&node))) {
        return None;
    }
    let stays = |member: &&Member| member.state != MemberState::Left;

    let missing = members.values().filter(stays).filter(|member| !there.contains(&raft_id(member.id)));
    let missing: BTreeMap<u64, BasicNode> =
        missing.map(|member| (raft_id(member.id), BasicNode::new(&member.addresses.peer))).collect();
    if !missing.is_empty() {
        return Some(Wanted::AddLearners(missing));
    }

    let configs = membership.get_joint_config();
    let voters: BTreeSet<u64> = configs.last().cloned().unwrap_or_default();
    let next = next_voters(members, &voters, metrics);
    // A leader that died half-way leaves both sets in force: the change is completed, whatever is wanted by now.
    if configs.len() > 1 || next != voters {
        return Some(Wanted::Voters(next)).filter(|_| !voters.is_empty());
    }

    let gone = members.values().filter(|member| !stays(member)).map(|member| raft_id(member.id));
    let gone: BTreeSet<u64> = gone.filter(|id| there.contains(id) && !voters.contains(id)).collect();
    (!gone.is_empty()).then_some(Wanted::RemoveLearners(gone))
}

fn next_voters(members: &BTreeMap<NodeId, Member>, voters: &BTreeSet<u64>, metrics: &Metrics) -> BTreeSet<u64> {
    let present: BTreeSet<NodeId> = voters.iter().filter_map(|id| node_id(*id)).collect();
    let holds_the_log = |node: &NodeId| {
        let matched =
            metrics.replication.as_ref().and_then(|followers| followers.get(&raft_id(*node)).copied().flatten());
        matched.is_some_and(|matched| {
            matched.index.saturating_add(CAUGHT_UP_ENTRIES) >= metrics.last_log_index.unwrap_or(u64::MAX)
        })
    };
    let fit = |chosen: &BTreeSet<NodeId>| chosen.difference(&present).all(holds_the_log);
    let in_raft = |chosen: &BTreeSet<NodeId>| chosen.iter().map(|node| raft_id(*node)).collect();

    let ideal = choose(members, &present);
    if fit(&ideal) {
        return in_raft(&ideal);
    }
    // As far as it goes with those that are there, as long as it makes nobody step back.
    let there = members.iter().filter(|(node, _)| present.contains(node) || holds_the_log(node));
    let possible = choose(&there.map(|(node, member)| (*node, member.clone())).collect(), &present);
    let steps_back = |node: &NodeId| members.get(node).is_some_and(|member| !member.state.is_gone());
    if present.difference(&possible).any(steps_back) { voters.clone() } else { in_raft(&possible) }
}

/// Looks after the membership for as long as this node lives, whenever it leads.
pub(super) async fn look_after(
    me: NodeId,
    raft: Raft,
    network: Arc<Network>,
    mut states: watch::Receiver<Arc<HardState>>,
    options: ControlOptions,
    stop: CancellationToken,
) {
    let (tick, rest) = (options.tick, options.rest);
    let mut wait = rest;
    // A change that failed is left alone for a while, and ever longer.
    let mut back_off: Option<Duration> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = states.changed(), if back_off.is_none() => {}
            () = sleep(back_off.unwrap_or(wait)) => {}
        }
        let running = raft.metrics().borrow().running_state.clone();
        if let Err(reason) = running
            && !stop.is_cancelled()
        {
            tracing::error!(%reason, "Raft has stopped: this node serves the state it has, until it is restarted");
            return;
        }
        let next = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            let leads = leads(&metrics);
            // A learner that has caught up shows in the metrics alone.
            let has_learners = metrics.membership_config.membership().learner_ids().next().is_some();
            wait = if leads && has_learners { tick } else { rest };
            if leads { wanted(states.borrow().topology().members(), &metrics) } else { None }
        };
        let Some(next) = next else {
            back_off = None;
            continue;
        };
        // A leader that is to vote no more lets the next one see to that.
        if matches!(&next, Wanted::Voters(voters) if !voters.contains(&raft_id(me))) {
            let handed_over = tokio::select! {
                () = stop.cancelled() => return,
                handed_over = hand_over(me, &raft, &network) => handed_over,
            };
            if handed_over {
                continue;
            }
        }
        tracing::info!(change = %next, "Raft's membership changes");
        let changes = match next {
            Wanted::AddLearners(nodes) => ChangeMembers::AddNodes(nodes),
            Wanted::RemoveLearners(ids) => ChangeMembers::RemoveNodes(ids),
            Wanted::Voters(ids) => ChangeMembers::ReplaceAllVoters(ids),
        };
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = timeout(CHANGE_TIMEOUT, raft.change_membership(changes, true)) => changed,
        };
        let longer = || Some((back_off.unwrap_or(tick) * 2).min(BACKOFF_LONGEST));
        back_off = match changed {
            Ok(Ok(_)) => {
                wait = tick;
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "Raft's membership did not change");
                longer()
            }
            Err(_) => {
                tracing::warn!("Raft's membership did not change in time: a majority of the voters does not answer");
                longer()
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use cube_replication::topology::Addresses;
    use openraft::{Membership, StoredMembership};

    use super::*;

    fn members(states: &[MemberState]) -> BTreeMap<NodeId, Member> {
        let member = |(id, state): (u16, &MemberState)| {
            let (data_center, rack) = ("dc".into(), "r".into());
            let (name, addresses) = (format!("node-{id}"), Addresses::default());
            (NodeId(id), Member { id: NodeId(id), name, data_center, rack, weight: 1, state: *state, addresses })
        };
        (0..).zip(states).map(member).collect()
    }

    /// A leader in whose Raft these vote and nobody else is.
    fn voting(ids: &[u64]) -> Metrics {
        let voters: BTreeSet<u64> = ids.iter().copied().collect();
        let nodes: BTreeMap<u64, BasicNode> = ids.iter().map(|id| (*id, BasicNode::default())).collect();
        let mut metrics = Metrics::new_initial(0);
        metrics.membership_config = Arc::new(StoredMembership::new(None, Membership::new(vec![voters], nodes)));
        metrics
    }

    #[test]
    fn whoever_is_not_in_the_state_yet_is_not_taken_for_gone() {
        use MemberState::{Left, Ready};
        assert_eq!(wanted(&BTreeMap::new(), &voting(&[0])), None, "the founder leads before the founding is applied");
        assert_eq!(wanted(&members(&[Ready, Ready]), &voting(&[0, 1, 2])), None);
        assert_eq!(wanted(&members(&[Ready, Ready, Ready]), &voting(&[0, 1, 2])), None);
        let next = wanted(&members(&[Ready, Ready, Left]), &voting(&[0, 1, 2]));
        assert!(matches!(&next, Some(Wanted::Voters(voters)) if voters.len() == 1), "{next:?}");
    }
}
