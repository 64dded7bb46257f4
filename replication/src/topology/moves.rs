//! The moves of replicas: which begin, which take their next step, which are given up, and how far members have come.
//! Plain code: the topology and what nodes report come in, changes of the topology come out. Whoever decides on changes
//! runs it: the leader in a cluster, the simulator's control plane in a simulated one.
//!
//! It may be forgotten at any time, as when another node becomes the leader: nodes report again until the map they report
//! about has moved on, and every change it asks for names the map it was decided on, so a late one is refused. A report
//! about a superseded map counts for nothing.

use std::collections::{BTreeMap, BTreeSet};

use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId};
use serde::{Deserialize, Serialize};

use super::leaving::{LeavingReport, may_have_left};
use super::plan::plan;
use super::{
    Assignment, DataCenter, Evidence, Member, MemberState, PartitionMap, Rack, Step, Strategy, Topology, TopologyChange,
};

/// The most changes that are asked for at once.
pub const MOVE_CHANGES_MAX: usize = 256;
/// The most moves under way at once: nodes copy a few partitions at a time anyway, and each move makes its writes meet
/// two quorums.
pub const MOVES_UNDER_WAY_MAX: usize = 64;

/// What a node tells whoever drives the moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MoveReport {
    /// Who reports.
    pub node: NodeId,
    /// Of which placement.
    pub placement: PlacementId,
    /// Of which partition.
    pub partition: PartitionId,
    /// The map that it is about.
    pub map: Epoch,
    /// What it has done.
    pub done: MoveDone,
}

/// What was done for a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MoveDone {
    /// Requests counted by an older map are refused from now on.
    Fenced,
    /// It holds all that was acknowledged before the fence.
    CaughtUp,
    /// It lost some of what it acknowledged by this map, so only a copy behind the fence of a newer one makes it whole.
    Lost,
}

/// What a plan follows from, but for where the replicas are now.
#[derive(PartialEq, Eq)]
struct Wishes {
    strategy: Strategy,
    holders: Vec<(NodeId, u32, DataCenter, Rack)>,
}

/// Where a placement's replicas ought to be. Made once for the same wishes: planning is work, and a goal that shifted
/// while it is approached might never be reached.
struct Target {
    wishes: Wishes,
    assignment: Assignment,
}

/// What is known of the moves under way.
#[derive(Default)]
pub struct MoveDriver {
    evidence: BTreeMap<(PlacementId, PartitionId), (Epoch, Evidence)>,
    /// Replicas that lost something, and by which map at the latest.
    lost: BTreeMap<(PlacementId, PartitionId), (Epoch, BTreeSet<NodeId>)>,
    targets: BTreeMap<PlacementId, Target>,
    /// What leaving members reported last.
    leaving: BTreeMap<NodeId, LeavingReport>,
}

impl MoveDriver {
    /// Takes a report in. `topology` is the newest this node knows; the reporter may know a newer one.
    pub fn report(&mut self, topology: &Topology, report: &MoveReport) {
        let map = topology.placement(report.placement).and_then(|placement| placement.partition(report.partition));
        let Some(map) = map.filter(|map| map.epoch() <= report.map) else { return };
        let key = (report.placement, report.partition);
        if report.done == MoveDone::Lost {
            let lost = self.lost.entry(key).or_insert_with(|| (report.map, BTreeSet::new()));
            if lost.0 < report.map {
                *lost = (report.map, BTreeSet::new());
            }
            if lost.0 == report.map {
                lost.1.insert(report.node);
            }
            // What it caught up with is gone.
            if let Some((_, evidence)) = self.evidence.get_mut(&key).filter(|(epoch, _)| *epoch == report.map) {
                evidence.caught_up.remove(&report.node);
            }
            return;
        }
        if map.epoch() == report.map && !is_under_way(map) {
            return;
        }
        let known = self.evidence.entry(key).or_insert_with(|| (report.map, Evidence::default()));
        if known.0 < report.map {
            *known = (report.map, Evidence::default());
        }
        if known.0 == report.map {
            let evidence = &mut known.1;
            match report.done {
                MoveDone::Fenced => evidence.fenced.insert(report.node),
                MoveDone::CaughtUp => evidence.caught_up.insert(report.node),
                MoveDone::Lost => false,
            };
        }
    }

    /// Takes in what a leaving member still keeps.
    pub fn report_leaving(&mut self, report: LeavingReport) {
        self.leaving.insert(report.node, report);
    }

    /// What is to be done now, at most [`MOVE_CHANGES_MAX`]: steps that may be taken, moves to give up, moves to begin, and
    /// members that have come further.
    pub fn changes(&mut self, topology: &Topology) -> Vec<TopologyChange> {
        self.forget(topology);
        self.plan(topology);
        let gone = topology.being_removed();
        let mut changes = self.steps(topology, &gone);
        changes.extend(self.beginnings(topology, &gone));
        changes.extend(self.member_states(topology));
        changes.truncate(MOVE_CHANGES_MAX);
        changes
    }

    /// Maps that moved on, and placements that are gone.
    fn forget(&mut self, topology: &Topology) {
        self.targets.retain(|placement, _| topology.placement(*placement).is_some());
        let is_leaving = |node| topology.member(node).is_some_and(|member| member.state == MemberState::Leaving);
        self.leaving.retain(|node, _| is_leaving(*node));
        self.lost.retain(|(placement, partition), (epoch, _)| {
            let map = topology.placement(*placement).and_then(|placement| placement.partition(*partition));
            map.is_some_and(|map| map.epoch() <= *epoch)
        });
        self.evidence.retain(|(placement, partition), (epoch, _)| {
            let map = topology.placement(*placement).and_then(|placement| placement.partition(*partition));
            map.is_some_and(|map| map.epoch() < *epoch || (map.epoch() == *epoch && is_under_way(map)))
        });
    }

    fn plan(&mut self, topology: &Topology) {
        let members = in_reach(topology.members());
        let holders = members.values().filter(|member| member.may_hold_data());
        let holders: Vec<_> =
            holders.map(|member| (member.id, member.weight, member.data_center.clone(), member.rack.clone())).collect();
        for (id, placement) in topology.placements() {
            let wishes = Wishes { strategy: placement.strategy().clone(), holders: holders.clone() };
            if self.targets.get(&id).is_some_and(|target| target.wishes == wishes) {
                continue;
            }
            let bits = topology.partition_bits();
            let assignment = plan(&placement.goal(), &members, placement.strategy(), bits);
            self.targets.insert(id, Target { wishes, assignment });
        }
    }

    /// Of the moves under way: those that may go on do, and those that lead to a node that is not wanted are given up. So are
    /// those that wait for a node that lost something: what is begun anew has newer maps, behind which it can copy. Where
    /// members that are being removed took a majority with them, they are struck.
    fn steps(&self, topology: &Topology, gone: &BTreeSet<NodeId>) -> Vec<TopologyChange> {
        let mut steps = Vec::new();
        for (placement, partition, map) in maps(topology).filter(|(_, _, map)| is_under_way(map)) {
            let from = map.epoch();
            let wanted = self.wanted(placement, partition);
            let is_unwanted = map.pending().any(|node| !wanted.contains(&node));
            if map.may_abort() && is_unwanted {
                steps.push(TopologyChange::AbortMove { placement, partition, from });
            } else if let Some((epoch, evidence)) = self.evidence.get(&(placement, partition))
                && *epoch == from
                && map.needs().is_some_and(|needs| needs.met_by(evidence))
            {
                steps.push(TopologyChange::AdvanceMove { placement, partition, from, evidence: evidence.clone() });
            } else if map.is_lost_without(gone) {
                steps.push(TopologyChange::GiveUp { placement, partition, from });
            } else if map.may_abort() && self.has_lost(placement, partition, map) {
                steps.push(TopologyChange::AbortMove { placement, partition, from });
            }
        }
        steps
    }

    /// Moves that are wanted and not under way, as many as there is room for. Another order of the same replicas is done
    /// at once and takes no room; so is the same again, a newer map for a replica that lost something.
    fn beginnings(&self, topology: &Topology, gone: &BTreeSet<NodeId>) -> Vec<TopologyChange> {
        let under_way = maps(topology).filter(|(_, _, map)| is_under_way(map)).count();
        let mut room = MOVES_UNDER_WAY_MAX.saturating_sub(under_way);
        let mut begun = Vec::new();
        for (placement, partition, map) in maps(topology).filter(|(_, _, map)| !is_under_way(map)) {
            let wanted = self.wanted(placement, partition);
            let present = map.serving();
            if map.is_lost_without(gone) {
                begun.push(TopologyChange::GiveUp { placement, partition, from: map.epoch() });
                continue;
            }
            // A newer map heals it. Where one of the replicas goes, the same ones cannot be begun again; the move that takes them
            // to others is a newer map as well.
            let all_stay = present.nodes().iter().all(|node| topology.member(*node).is_some_and(Member::may_hold_data));
            if all_stay && self.has_lost(placement, partition, map) {
                let replicas = present.nodes().to_vec();
                begun.push(TopologyChange::BeginMove { placement, partition, replicas });
                continue;
            }
            if wanted.is_empty() || present.nodes() == wanted {
                continue;
            }
            let same_nodes = present.len() == wanted.len() && wanted.iter().all(|node| present.contains(*node));
            if !same_nodes {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            begun.push(TopologyChange::BeginMove { placement, partition, replicas: wanted.to_vec() });
        }
        begun
    }

    /// A member that serves all it is wanted for is ready; one that leaves has left when it keeps nothing any more.
    fn member_states(&self, topology: &Topology) -> Vec<TopologyChange> {
        let warming = topology.members().values().filter(|member| member.state == MemberState::Warming);
        let covers = |node: NodeId| {
            !maps(topology).any(|(placement, partition, map)| {
                let wanted = self.wanted(placement, partition).contains(&node) || map.goal().contains(node);
                wanted && !map.serving().contains(node)
            })
        };
        let ready = warming.map(|member| member.id).filter(|node| covers(*node));
        let ready = ready.map(|node| TopologyChange::SetState { node, state: MemberState::Ready });
        let members = topology.members().keys().copied();
        let left = members.filter(|node| may_have_left(topology, *node, self.leaving.get(node)));
        ready.chain(left.map(|node| TopologyChange::SetState { node, state: MemberState::Left })).collect()
    }

    /// Whether one that is to hold the partition waits for a newer map than this.
    fn has_lost(&self, placement: PlacementId, partition: PartitionId, map: &PartitionMap) -> bool {
        let lost = self.lost.get(&(placement, partition)).filter(|(epoch, _)| *epoch == map.epoch());
        lost.is_some_and(|(_, nodes)| nodes.iter().any(|node| map.goal().contains(*node)))
    }

    fn wanted(&self, placement: PlacementId, partition: PartitionId) -> &[NodeId] {
        self.targets.get(&placement).map_or(&[], |target| target.assignment.replicas(partition))
    }
}

/// The members that replicas may be placed on by now. One that is still joining has not opened its peer port: a replica
/// there would be waited for by every write, and by quorums of which it is the one that is missing.
pub fn in_reach(members: &BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, Member> {
    let in_reach = members.iter().filter(|(_, member)| member.state != MemberState::Joining);
    in_reach.map(|(node, member)| (*node, member.clone())).collect()
}

fn is_under_way(map: &PartitionMap) -> bool {
    !matches!(map.step(), Step::Stable { .. })
}

fn maps(topology: &Topology) -> impl Iterator<Item = (PlacementId, PartitionId, &PartitionMap)> {
    let placements = topology.placements();
    placements.flat_map(|(id, placement)| placement.partitions().map(move |(partition, map)| (id, partition, map)))
}
