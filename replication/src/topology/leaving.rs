//! Leaving the cluster: what stands in the way, and when a member has left. Plain code over the topology.
//!
//! **A member that leaves by itself** (LEAVING) hands over what it has: its partitions by moves, its hints and dirty marks to
//! other nodes. It has LEFT when it holds no partition and has said since, by a topology that is known here, that it keeps
//! nothing and will keep nothing: it takes no requests any more, none is under way, no hint and no mark is left. The report
//! is made again until it is acted on, so it may be lost with whoever collects them.
//!
//! **A member that is gone for good** (removed) can say nothing. It has left when it holds no partition. What it kept is
//! lost with it. Nothing is marked for that: what a quorum acknowledged is on others, and comparing finds the difference,
//! which no in-sync time passes.

use std::collections::BTreeSet;

use cube_storage::model::{Epoch, NodeId, PlacementId};
use serde::{Deserialize, Serialize};

use super::partition_map::is_lost_without;
use super::{DataCenter, Member, MemberState, PartitionMap, ReplicaSet, Strategy, Topology};
use crate::consistency::majority;

/// What a leaving member tells whoever drives the moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingReport {
    /// Who leaves.
    pub node: NodeId,
    /// The topology that it had adopted when it looked.
    pub topology: Epoch,
    /// Whether it makes no hints and marks any more: it takes no requests for good, and none is under way.
    pub is_closed: bool,
    /// Hints that it still keeps for others.
    pub hints: u64,
    /// Dirty marks that it still keeps for others.
    pub marks: u64,
}

/// Whether a leaving member keeps nothing any more, by its report. It says so only once it holds no partition, and gets none
/// after that; a report about a topology that is not known here yet is waited with.
pub fn has_handed_over(topology: &Topology, report: &LeavingReport) -> bool {
    let holds_none = topology.held_by(report.node).next().is_none();
    holds_none && report.topology <= topology.epoch() && report.is_closed && report.hints == 0 && report.marks == 0
}

/// Whether a member may be called LEFT.
pub(super) fn may_have_left(topology: &Topology, node: NodeId, report: Option<&LeavingReport>) -> bool {
    match topology.member(node).map(|member| member.state) {
        Some(MemberState::Leaving) => report.is_some_and(|report| has_handed_over(topology, report)),
        Some(MemberState::Removing) => topology.held_by(node).next().is_none(),
        _ => false,
    }
}

/// A placement that would have fewer members to hold its replicas than it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooFewLeft {
    /// Which placement.
    pub placement: PlacementId,
    /// The data center that is short, if the strategy counts by data center.
    pub data_center: Option<DataCenter>,
    /// Replicas that are asked for.
    pub replicas: usize,
    /// Members that would be left to hold them.
    pub left: usize,
}

/// What a member's removal would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// In so many partitions no other replica that is read lives and is whole: their rows would be gone.
    Rows(usize),
    /// In so many partitions a quorum of the replicas that are left may lack a write that a majority acknowledged.
    Writes(usize),
}

impl Topology {
    /// The first placement that could not keep as many replicas as it asks for without a member; none for a member that holds
    /// nothing anyway.
    pub fn too_few_without(&self, node: NodeId) -> Option<TooFewLeft> {
        let leaver = self.member(node).filter(|member| member.may_hold_data())?;
        let left_in = |data_center: Option<&DataCenter>| {
            let is_there = |member: &&Member| data_center.is_none_or(|name| member.data_center == *name);
            let left = self.members().values().filter(|member| member.may_hold_data() && member.id != node);
            left.filter(is_there).count()
        };
        self.placements().find_map(|(placement, of)| {
            let (data_center, replicas) = match of.strategy() {
                Strategy::Simple { replicas } => (None, *replicas),
                Strategy::Network(factors) => {
                    (Some(leaver.data_center.clone()), *factors.get(&leaver.data_center).unwrap_or(&0))
                }
            };
            let (replicas, left) = (usize::from(replicas), left_in(data_center.as_ref()));
            (left < replicas).then_some(TooFewLeft { placement, data_center, replicas, left })
        })
    }

    /// What would be lost if a member were given up now, as far as the others live, and are whole: one that has lost something
    /// itself, and has not been made whole yet, may lack what it acknowledged.
    pub fn loss_without(
        &self,
        node: NodeId,
        is_alive: impl Fn(NodeId) -> bool,
        is_whole: impl Fn(NodeId) -> bool,
    ) -> Option<Loss> {
        let mut gone = self.being_removed();
        gone.insert(node);
        let held = || {
            let maps = self.placements().flat_map(|(_, placement)| placement.partitions());
            maps.map(|(_, map)| map).filter(|map| map.write_sets().contains(node))
        };
        let lives = |other: &NodeId| !gone.contains(other) && is_alive(*other) && is_whole(*other);
        let rows = held().filter(|map| !map.serving().nodes().iter().any(lives)).count();
        if rows > 0 {
            return Some(Loss::Rows(rows));
        }
        let may_miss = |map: &&PartitionMap| {
            let lacking =
                map.serving().nodes().iter().copied().filter(|other| gone.contains(other) || !is_whole(*other));
            map.serving().contains(node) && may_miss_writes(map.serving(), &lacking.collect())
        };
        let writes = held().filter(may_miss).count();
        (writes > 0).then_some(Loss::Writes(writes))
    }
}

/// Whether a write that a majority of the set acknowledged, in one data center or overall, may be on none of a majority of
/// those that are left, once the others are struck. What a single replica acknowledged always goes with it.
fn may_miss_writes(set: &ReplicaSet, gone: &BTreeSet<NodeId>) -> bool {
    if !is_lost_without(set, gone) {
        return false;
    }
    let left = set.matching(|node| !gone.contains(&node));
    let misses = |of: usize, left: usize| {
        let holds_it = (majority(of) + left).saturating_sub(of);
        of > 1 && (left == 0 || holds_it + majority(left) <= left)
    };
    let mut in_data_centers = set.data_centers().iter();
    misses(set.len(), left.count())
        || in_data_centers.any(|group| misses(group.slots.count(), group.slots.and(left).count()))
}
