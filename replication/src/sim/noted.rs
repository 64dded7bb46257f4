//! The promise that nothing is dropped silently, looked at while a run goes on: every acknowledged write is on each of its
//! replicas, in a hint for it, or under a dirty mark.
//!
//! A write and a replica of it is a case. It is closed when the replica holds the write, durably; until then its note is
//! looked for whenever something happened that may have ended it. What was noted once must never be neither. What was
//! never noted is let pass for as long as its request is under way; and, counted, when its coordinator died before. What
//! was noted below quorum may have gone with those who held it ([`may_be_nowhere`]); that is counted too. The note is on the
//! coordinator, or, where that leaves, on whoever took it over; with a node that was removed its notes are gone.

use std::collections::BTreeMap;

use cube_storage::merkle::LeafId;
use cube_storage::model::{NodeId, PartitionBits, RowKey, TableId, Version};

use super::checkers::{Violation, is_present, must_hold};
use super::cluster::Run;
use super::control::{member_name, written_to};
use super::event::Event;
use super::history::RowWritten;
use super::node::{BITS, Process, SimNode, TIMEOUT_MS};
use crate::catalog::ClusterState;
use crate::topology::MemberState;

/// Ticks of the coordinator after the end of the request in which it notes what was missed.
const TICKS_TO_NOTE: u32 = 6;
/// When a request is over, whatever the clocks.
const OVER_AFTER_US: u64 = 2_000 * TIMEOUT_MS as u64;

/// A write that a replica is not known to hold.
struct Case {
    /// The write's place in the history.
    place: usize,
    table: TableId,
    key: RowKey,
    version: Version,
    coordinator: NodeId,
    coordinator_life: u64,
    begun_us: u64,
    replica: NodeId,
    was_noted: bool,
    /// What the replica held of the row was found damaged. It begins anew with what a quorum holds.
    was_damaged: bool,
    ticks: u32,
}

/// What became of a case.
enum Fate {
    Open,
    Closed,
    /// It is missing, and let pass: why.
    Excused(&'static str),
    Died,
    Nowhere,
    Broken(String),
}

/// All open cases.
#[derive(Default)]
pub(super) struct Cases {
    open: Vec<Case>,
    /// Writes that have been looked at, by their place in the history.
    seen: Vec<bool>,
    /// Cases that nobody noted because the coordinator died first.
    pub(super) died: u64,
    /// Cases whose mark was cleared when nobody held the write any more.
    pub(super) nowhere: u64,
    /// Cases that were let pass, by why.
    pub(super) excused: BTreeMap<&'static str, u64>,
}

/// Where the note of a case is.
enum Note {
    There,
    /// Nobody can say: a node is down that may have it, or it is in damaged hints.
    Perhaps,
    Nowhere,
}

/// Whether all that is left of a write below quorum may be dirty marks, which point to nothing then and are cleared. Whoever
/// acknowledged it may be no replica any more: those who join or stay compare themselves with a quorum, which need not
/// hold it. Or nobody had acknowledged it, and the hint that was its only copy is damaged.
pub(super) fn may_be_nowhere(write: &RowWritten, nodes: &BTreeMap<NodeId, SimNode>, state: &ClusterState) -> bool {
    let success = write.ended.as_ref().and_then(|ended| ended.success.as_ref());
    let Some((_, acknowledged_by)) = success.filter(|_| !write.reach.is_quorum()) else { return false };
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let written_to = written_to(state, bits.partition_of(write.key.token()));
    let has_stayed = |node: &NodeId| written_to.contains(node) && must_hold(write, nodes.get(node));
    let is_leaver = state.topology.member(write.coordinator).is_some_and(|member| member.state >= MemberState::Leaving);
    let may_keep = |node: &SimNode| is_leaver || node.id == write.coordinator;
    let is_damaged = || nodes.values().any(|node| may_keep(node) && node.lost_hints_us >= Some(write.begun_us));
    !acknowledged_by.iter().any(has_stayed)
        && (!write.replicas.iter().all(has_stayed) || (acknowledged_by.is_empty() && is_damaged()))
}

impl Run {
    /// Takes in the writes that have been acknowledged since.
    pub(super) fn open_cases(&mut self) {
        let cases = &mut self.cases;
        cases.seen.resize(self.history.writes.len(), false);
        for (place, (row, seen)) in self.history.writes.iter().zip(&mut cases.seen).enumerate() {
            let Some(ended) = row.ended.as_ref().filter(|_| !*seen) else { continue };
            *seen = true;
            let Some((version, _)) = &ended.success else { continue };
            cases.open.extend(row.replicas.iter().map(|replica| Case {
                place,
                table: row.table,
                key: row.key.clone(),
                version: *version,
                coordinator: row.coordinator,
                coordinator_life: row.coordinator_life,
                begun_us: row.begun_us,
                replica: *replica,
                was_noted: false,
                was_damaged: false,
                ticks: 0,
            }));
        }
    }

    /// Looks at the cases that an event may have changed.
    pub(super) fn check_cases(&mut self, event: &Event) {
        let concerned: Option<NodeId> = match event {
            Event::Commit { node, .. } | Event::Tick { node, .. } | Event::SyncHints { node, .. } => Some(*node),
            Event::Restart(_) | Event::NextFault | Event::Heal | Event::Stop => None,
            _ => return,
        };
        let is_tick = matches!(event, Event::Tick { .. });
        let mut open = std::mem::take(&mut self.cases.open);
        let mut broken = Vec::new();
        open.retain_mut(|case| {
            let is_handed_over = self.control.is_on_its_way_out(case.coordinator);
            if concerned.is_some_and(|node| node != case.coordinator && node != case.replica && !is_handed_over) {
                return true;
            }
            let ticked = is_tick && concerned == Some(case.coordinator);
            match self.look(case, ticked) {
                Fate::Open => true,
                Fate::Closed => false,
                Fate::Excused(why) => {
                    *self.cases.excused.entry(why).or_default() += 1;
                    false
                }
                Fate::Died => {
                    self.cases.died += 1;
                    false
                }
                Fate::Nowhere => {
                    self.cases.nowhere += 1;
                    false
                }
                Fate::Broken(detail) => {
                    broken.push(Violation::MissedUnnoted(detail));
                    false
                }
            }
        });
        self.cases.open = open;
        self.violations.extend(broken);
    }

    fn look(&self, case: &mut Case, ticked: bool) -> Fate {
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        let partition = bits.partition_of(case.key.token());
        let Some(coordinator) = self.nodes.get(&case.coordinator) else { return Fate::Closed };
        if !is_present(&self.control.state, case.table) {
            return Fate::Closed;
        }
        match self.note_of(case, coordinator) {
            Note::There => {
                case.was_noted = true;
                return Fate::Open;
            }
            Note::Perhaps => return Fate::Open,
            Note::Nowhere => {}
        }
        let Some(replica) = self.nodes.get(&case.replica) else { return Fate::Closed };
        if self.control.has_left(case.replica) {
            return Fate::Excused("no replica any more");
        }
        let Some(held) = &replica.process else { return Fate::Open };
        let Ok(header) = held.store.header(case.table, &case.key) else {
            // It may have held the write, or something newer: it remembers what it wrote, and answers by that.
            case.was_damaged = true;
            return Fate::Open;
        };
        if replica.covers(case.table, &case.key, case.version) {
            return Fate::Closed;
        }
        let Some(write) = self.history.writes.get(case.place) else { return Fate::Closed };
        if !written_to(&self.control.state, partition).contains(&case.replica) {
            return Fate::Excused("no replica any more");
        }
        if !must_hold(write, Some(replica)) {
            return Fate::Excused("began anew");
        }
        if case.was_damaged && !write.reach.is_quorum() {
            return Fate::Excused("damaged below quorum");
        }
        if held.catalog.epoch() < self.control.state.topology.epoch() {
            // It may be about to begin anew, as the replica of a map that it has not heard of.
            return Fate::Open;
        }
        let now_us = self.schedule.now_us();
        let broken = |what: &str| {
            Fate::Broken(format!(
                "at {now_us} us {} holds {:?} of {} ({:?}), and of write {} ({}, {}, acknowledged by {:?}) through {} the note \
                 {what}; its hints: {:?}, it writes to {:?}, the newest map to {:?}",
                case.replica,
                header.map(|header| header.version),
                case.key,
                held.store.range_state(case.table, partition),
                write.write,
                case.version,
                write.reach,
                write.ended.as_ref().and_then(|ended| ended.success.as_ref()).map(|(_, by)| by),
                case.coordinator,
                coordinator.process.as_ref().map(|process| process.hints.handoff().counters().snapshot()),
                coordinator.process.as_ref().map(|process| written_to(&process.catalog.current(), partition)),
                written_to(&self.control.state, partition),
            ))
        };
        let floor = held.store.range_state(case.table, partition).floor;
        if write.client_timestamp && case.version.hlc <= floor {
            // Too old for a hint. Who took it shows it to the others in the next comparison.
            return Fate::Excused("below the purge floor");
        }
        let is_handed_over = self.control.is_on_its_way_out(case.coordinator);
        if self.control.is_removed(case.coordinator) || (is_handed_over && self.control.has_removed()) {
            return if case.was_noted { Fate::Excused("its note was lost with a removed node") } else { Fate::Died };
        }
        if case.was_noted {
            let may_be = may_be_nowhere(write, &self.nodes, &self.control.state);
            return if may_be { Fate::Nowhere } else { broken("is gone") };
        }
        if coordinator.lives > case.coordinator_life {
            return Fate::Died;
        }
        case.ticks += u32::from(ticked && now_us > case.begun_us + OVER_AFTER_US);
        let is_over = case.ticks > TICKS_TO_NOTE || coordinator.process.is_none();
        if is_over { broken("was never made") } else { Fate::Open }
    }

    /// Where the note of a case is: with the coordinator, or, if that leaves, with anybody.
    fn note_of(&self, case: &Case, coordinator: &SimNode) -> Note {
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        let row = (member_name(case.replica), case.table, case.key.clone());
        let leaf = LeafId::of(case.key.token(), bits);
        let is_handed_over = self.control.is_on_its_way_out(case.coordinator);
        let others = self.nodes.values().filter(|node| is_handed_over && node.id != case.coordinator);
        let mut note = Note::Nowhere;
        for keeper in std::iter::once(coordinator).chain(others) {
            let Some(Process { hints, .. }) = &keeper.process else {
                if !keeper.is_dead || !self.control.is_gone(keeper.id) {
                    note = Note::Perhaps;
                }
                continue;
            };
            if hints.newest().get(&row).is_some_and(|version| *version >= case.version)
                || hints.is_marked(case.replica, case.table, leaf, case.version)
            {
                return Note::There;
            }
            if hints.is_damaged(case.replica) {
                // The note may be in it, or it may still be made.
                note = Note::Perhaps;
            }
        }
        note
    }

    /// Hints that are still to be delivered, by who has them and for whom they are.
    pub(super) fn hints_left(&self) -> BTreeMap<NodeId, BTreeMap<String, u64>> {
        let left = |node: &SimNode| node.process.iter().flat_map(|process| process.hints.left()).collect();
        let left = self.nodes.values().map(|node| (node.id, left(node)));
        left.filter(|(_, left): &(_, BTreeMap<_, _>)| !left.is_empty()).collect()
    }

    /// After the heal, everything that could be delivered has been.
    pub(super) fn check_delivered(&mut self) {
        for id in self.hints_left().into_keys() {
            let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
            let stands = process.map_or_else(String::new, |process| process.hints.stands());
            self.violations.push(Violation::HintsKept(format!("{id} still has hints: {stands}")));
        }
    }
}

#[cfg(test)]
mod tests;
