//! Members that leave in the simulator: one that lives is decommissioned and does what a node does then, by the same code;
//! one that dies for good is removed a while later, and may come back with all it had, not knowing that.

use cube_storage::model::NodeId;

use super::checkers::Violation;
use super::cluster::Run;
use super::control::{Control, PLACEMENT};
use super::event::Event;
use super::mutants::Mutant;
use super::node::{Process, SimNode};
use super::time::Schedule;
use crate::lifecycle::{Leave, not_whole};
use crate::topology::{LeavingReport, MemberState, ReplicaSet, TopologyChange};

/// Members that are to stay, of those that may hold data: fewer leave nothing to be seen of quorums.
const MEMBERS_LEFT_MIN: usize = 3;
/// For so long a node that holds nothing any more still serves while it says that it is about to close.
const ANNOUNCE_MS: u64 = 50;
/// How often a node that leaves looks how far it is, and tells.
const LOOK_EVERY_MS: u64 = 50;
/// How often a report is lost.
const REPORT_LOST_PERCENT: u64 = 20;
/// Until an operator asks once more for what was refused.
const ASK_AGAIN_MS: u64 = 400;
/// How long a removed node that is back hears of nothing, at the most.
const UNTOLD_MS_MAX: u64 = 1_500;

/// The part of a process that leaving asks of it.
pub(super) struct Leaving {
    leave: Leave,
    /// When its doors close, or have closed.
    closes_us: Option<u64>,
    looks_us: u64,
}

impl Leaving {
    pub(super) fn new(leave: Leave) -> Self {
        Self { leave, closes_us: None, looks_us: 0 }
    }

    fn is_closed(&self, now_us: u64) -> bool {
        self.closes_us.is_some_and(|closes_us| closes_us <= now_us)
    }
}

impl Control {
    /// A member that lives begins to leave, unless the others could not do without it. Whether it does.
    fn decommission(&mut self, schedule: &Schedule, node: NodeId) -> bool {
        let topology = &self.state.topology;
        let is_there = topology.member(node).is_some_and(|member| member.state < MemberState::Leaving);
        let may = is_there && topology.too_few_without(node).is_none();
        if may {
            self.have_leave(schedule, node, MemberState::Leaving);
        }
        may
    }

    /// A member that is dead for good is given up, unless that would lose something. Whether it is.
    fn remove(
        &mut self,
        schedule: &Schedule,
        node: NodeId,
        is_alive: impl Fn(NodeId) -> bool,
        is_whole: impl Fn(NodeId) -> bool,
    ) -> bool {
        let may = self.state.topology.loss_without(node, is_alive, is_whole).is_none();
        if may {
            self.have_leave(schedule, node, MemberState::Removing);
        }
        may
    }

    fn have_leave(&mut self, schedule: &Schedule, node: NodeId, state: MemberState) {
        self.commit(schedule, &TopologyChange::SetState { node, state });
        self.drive_soon(schedule);
    }

    /// What a leaving member tells.
    pub(super) fn on_leaving(&mut self, schedule: &Schedule, report: LeavingReport) {
        self.driver.report_leaving(report);
        self.drive_soon(schedule);
    }

    fn state_of(&self, node: NodeId) -> Option<MemberState> {
        self.state.topology.member(node).map(|member| member.state)
    }

    /// Whether a member leaves or has left, whichever way.
    pub(super) fn is_on_its_way_out(&self, node: NodeId) -> bool {
        self.state_of(node).is_some_and(|state| state >= MemberState::Leaving)
    }

    /// Whether a member has left, or was given up.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.state_of(node).is_some_and(MemberState::is_gone)
    }

    /// Whether a member is none any more.
    pub(super) fn has_left(&self, node: NodeId) -> bool {
        self.state_of(node) == Some(MemberState::Left)
    }
}

/// Whether a node holds all that it ever acknowledged, as far as it tells.
fn is_whole(node: Option<&SimNode>) -> bool {
    let Some((node, process)) = node.and_then(|node| Some((node, node.process.as_ref()?))) else { return true };
    not_whole(&process.catalog.current().topology, &process.store, node.id) == 0
}

impl Process {
    /// Whether clients are let in.
    pub(super) fn is_open(&self, now_us: u64) -> bool {
        !self.leaving.is_closed(now_us)
    }
}

impl SimNode {
    /// What it knows of itself as a member.
    fn known_state(&self) -> Option<MemberState> {
        self.known.state.topology.member(self.id).map(|member| member.state)
    }

    /// From its start on a node that leaves hands over what it keeps; one that holds nothing lets nobody in.
    pub(super) fn begin_leaving(&mut self, now_us: u64) {
        if self.known_state() != Some(MemberState::Leaving) {
            return;
        }
        let Some(process) = &mut self.process else { return };
        process.hints.resume_handover();
        if process.leaving.leave.holds_nothing() {
            process.leaving.closes_us = Some(now_us);
        }
    }

    /// Does what is due while it leaves; what it tells whoever drives the moves.
    fn tend_leaving(&mut self, now_us: u64) -> Option<LeavingReport> {
        let leaves = self.known_state() == Some(MemberState::Leaving);
        let process = self.process.as_mut().filter(|process| leaves && process.leaving.looks_us <= now_us)?;
        process.leaving.looks_us = now_us + 1_000 * LOOK_EVERY_MS;
        process.hints.hand_over();
        if !process.leaving.leave.holds_nothing() {
            return None;
        }
        process.leaving.closes_us.get_or_insert(now_us + 1_000 * ANNOUNCE_MS);
        process.leaving.leave.report(process.leaving.is_closed(now_us))
    }
}

impl Run {
    /// Has a member that lives leave.
    pub(super) fn decommission(&mut self, node: NodeId) -> bool {
        let is_up = self.nodes.get(&node).is_some_and(SimNode::is_up);
        is_up && self.others_stay(node) && self.control.decommission(&self.schedule, node)
    }

    /// Whether enough members stay without one.
    fn others_stay(&self, id: NodeId) -> bool {
        let lives = |node: NodeId| self.nodes.get(&node).is_some_and(|node| !node.is_dead);
        let others = self.control.state.topology.members().values().filter(|member| member.id != id);
        others.filter(|member| member.may_hold_data() && lives(member.id)).count() >= MEMBERS_LEFT_MIN
    }

    /// A node dies for good, where the others hold all that it holds. It is removed later.
    pub(super) fn die_for_good(&mut self, id: NodeId, after_ms: u64, back_ms: Option<u64>) -> bool {
        if !self.others_stay(id) || !self.may_be_lost(id) || !self.crash(id, 0) {
            return false;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_dead = true;
        }
        self.schedule.after_ms(after_ms, Event::Remove { node: id, back_ms });
        true
    }

    /// Whether what a node holds is held by enough others, in each data center, for it to be removed.
    fn may_be_lost(&self, id: NodeId) -> bool {
        let topology = &self.control.state.topology;
        let maps = topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
        let mut held = maps.filter(|(_, map)| map.serving().contains(id));
        let is_up = |node: NodeId| self.nodes.get(&node).is_some_and(SimNode::is_up);
        // What the only replica of a data center acknowledged there goes with it, and nobody can tell.
        let is_only = |set: &ReplicaSet| {
            set.data_centers().iter().any(|group| {
                let only = set.matching(|node| node == id);
                group.slots.count() == 1 && group.slots.and(only).count() == 1
            })
        };
        held.all(|(partition, map)| self.others_hold(id, partition) && !map.write_sets().iter().any(|set| is_only(set)))
            && topology.loss_without(id, is_up, |_| true).is_none()
    }

    /// An operator has a node removed that died for good, now or later.
    pub(super) fn remove(&mut self, id: NodeId, back_ms: Option<u64>) {
        let nodes = &self.nodes;
        if self.control.is_removed(id) || nodes.get(&id).is_none_or(|node| !node.is_dead) {
            return;
        }
        let is_alive = |node: NodeId| nodes.get(&node).is_some_and(SimNode::is_up);
        let is_whole = |node: NodeId| is_whole(nodes.get(&node));
        if !self.control.remove(&self.schedule, id, is_alive, is_whole) {
            return self.schedule.after_ms(ASK_AGAIN_MS, Event::Remove { node: id, back_ms });
        }
        if let Some(back_ms) = back_ms {
            self.schedule.after_ms(back_ms, Event::ComeBack(id));
        }
    }

    /// A removed node starts once more, with all it had, and hears of its removal only a while later.
    pub(super) fn come_back(&mut self, id: NodeId) {
        let until_us = self.schedule.now_us() + 1_000 * self.schedule.pick(0, UNTOLD_MS_MAX);
        let Some(node) = self.nodes.get_mut(&id).filter(|_| !self.healed) else { return };
        node.is_dead = false;
        node.deaf_until_us = until_us;
        self.start(id);
    }

    /// At the heal: whoever died for good is removed, or else was not lost.
    pub(super) fn settle_the_dead(&mut self) {
        let dead: Vec<NodeId> = self.nodes.values().filter(|node| node.is_dead).map(|node| node.id).collect();
        for id in dead {
            let nodes = &self.nodes;
            let lives = |node: NodeId| nodes.get(&node).is_some_and(|node| !node.is_dead);
            if !self.control.is_gone(id)
                && !self.control.remove(&self.schedule, id, lives, |node| is_whole(nodes.get(&node)))
                && let Some(node) = self.nodes.get_mut(&id)
            {
                node.is_dead = false;
            }
        }
    }

    /// A node that leaves does its part.
    pub(super) fn tend_leaving(&mut self, id: NodeId) {
        let now_us = self.schedule.now_us();
        let Some(mut report) = self.nodes.get_mut(&id).and_then(|node| node.tend_leaving(now_us)) else { return };
        match self.options.mutant {
            Some(Mutant::HintsLeftBehind) => (report.hints, report.marks) = (0, 0),
            Some(Mutant::LeavingUnreported) => return,
            _ => {}
        }
        if !self.schedule.chance(REPORT_LOST_PERCENT) {
            self.schedule.after_ms(self.schedule.pick(1, 200), Event::ReportLeaving(report));
        }
    }

    /// A node that hears that it is no member any more ends.
    pub(super) fn end_if_gone(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) else { return };
        if node.known_state().is_some_and(MemberState::is_gone) {
            node.is_dead = true;
            self.crash(id, 0);
        }
    }

    /// Nodes that are members, and run or come back.
    pub(super) fn present(&self) -> Vec<NodeId> {
        self.nodes
            .values()
            .filter(|node| !node.is_dead && !self.control.has_left(node.id))
            .map(|node| node.id)
            .collect()
    }

    /// After the heal whoever leaves has left, and its process has ended.
    pub(super) fn leavers_are_gone(&self) -> Vec<Violation> {
        let leavers = self.control.state.topology.members().values();
        let leavers = leavers.filter(|member| member.state >= MemberState::Leaving);
        let stays = leavers.filter(|member| {
            member.state != MemberState::Left || self.nodes.get(&member.id).is_some_and(SimNode::is_up)
        });
        stays
            .map(|member| {
                let node = self.nodes.get(&member.id);
                let stands = node.and_then(|node| node.process.as_ref()).map(|process| process.hints.stands());
                let held = self.control.state.topology.held_by(member.id).count();
                let detail = format!("{} is {:?}, holds {held} partitions, {stands:?}", member.id, member.state);
                Violation::NotGone(detail)
            })
            .collect()
    }
}
