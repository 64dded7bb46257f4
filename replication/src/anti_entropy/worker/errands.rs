//! What follows from proofs: dirty marks that can be cleared, and the dead that can be purged.

use std::collections::BTreeSet;

use cube_storage::DeadLook;
use cube_storage::dirty::DirtyRange;
use cube_storage::model::{Epoch, NodeId};

use super::{Act, Activity, AntiEntropyWorker, Came};
use crate::anti_entropy::handle::AntiEntropy;
use crate::anti_entropy::marks::MARKS_MAX;
use crate::anti_entropy::purge::{Round, RoundNext};
use crate::anti_entropy::questions::{Answer, Question, Tree};
use crate::catalog::ClusterState;
use crate::messages::ReplyBody;
use crate::topology::PartitionMap;
use crate::worker::StepError;

/// Rows that are looked at for the dead without looking up from it.
const LOOK_ROWS: usize = 1_000;
/// After a round that could not purge everything another one follows sooner.
const PURGE_AGAIN_DIVISOR: u64 = 4;

impl AntiEntropyWorker {
    /// Trees in which a peer is known to lack something.
    pub(super) fn dirty_trees(&self, peer: NodeId) -> BTreeSet<Tree> {
        let state = self.shared.parts.catalog.current();
        let of_peer = (self.shared.parts.marks)()
            .into_iter()
            .find(|marks| state.topology.member_named(marks.target()).is_some_and(|member| member.id == peer));
        let marks = of_peer.map(|marks| marks.marks(None, MARKS_MAX)).unwrap_or_default();
        marks.iter().flat_map(|mark| trees_of(&state, peer, mark.range)).collect()
    }

    pub(super) fn begin_clearing(&mut self) {
        let state = self.shared.parts.catalog.current();
        let targets = (self.shared.parts.marks)().into_iter().filter_map(|marks| {
            let member = state.topology.member_named(marks.target())?.id;
            (marks.totals().marks > 0 && self.shared.parts.membership.is_alive(member)).then_some((member, marks))
        });
        self.activity = Activity::Clearing(targets.collect());
    }

    /// Asks the next target for its proofs.
    pub(super) fn clear(&mut self, now_ms: u64) -> Result<Act, StepError> {
        let Activity::Clearing(targets) = &mut self.activity else { return Ok(Act::GoOn) };
        let Some((target, marks)) = targets.front().cloned() else {
            self.activity = Activity::Resting;
            return Ok(Act::GoOn);
        };
        let state = self.shared.parts.catalog.current();
        let watermark = (self.shared.parts.watermark)();
        let mut followed = marks.marks(None, MARKS_MAX);
        // Of a write that is still on its way from here, or that only a hint here holds, the replicas may all hold nothing.
        followed.retain(|mark| watermark.is_some_and(|watermark| mark.version.hlc <= watermark));
        let clearing = self.clearings.entry(target).or_default();
        clearing.follow(&followed, |range| trees_of(&state, target, range));
        let trees = clearing.trees();
        if trees.is_empty() {
            self.clear_repaired()?;
        } else {
            self.ask(target, Question::Proofs { trees }, now_ms);
        }
        Ok(Act::GoOn)
    }

    /// A target told its proofs, or did not.
    pub(super) fn on_proofs(&mut self, came: Option<Came>) -> Result<(), StepError> {
        let Activity::Clearing(targets) = &self.activity else { return Ok(()) };
        let Some(target) = targets.front().map(|(target, _)| *target) else { return Ok(()) };
        let state = self.shared.parts.catalog.current();
        let (Some(clearing), Some(Answer::Proofs(proofs))) = (self.clearings.get_mut(&target), told(came)) else {
            return self.clear_repaired();
        };
        for (tree, proof) in clearing.trees().into_iter().zip(proofs) {
            let placement = self.shared.parts.store.table(tree.0).map(|options| options.placement).ok();
            let map = placement.and_then(|placement| state.topology.placement(placement)?.partition(tree.1));
            // Of a tree that this node knows no map of, no proof is good enough.
            clearing.on_proof(tree, proof.filter(|_| map.is_some()), map.map_or(Epoch(0), |map| map.epoch()));
        }
        self.clear_repaired()
    }

    fn clear_repaired(&mut self) -> Result<(), StepError> {
        let Activity::Clearing(targets) = &mut self.activity else { return Ok(()) };
        let Some((target, marks)) = targets.pop_front() else { return Ok(()) };
        let repaired = self.clearings.get_mut(&target).map(|clearing| clearing.take_repaired()).unwrap_or_default();
        let cleared = repaired.iter().filter(|(range, generation)| marks.clear(*range, *generation)).count();
        if cleared > 0 {
            self.shared.status.lock().marks_cleared += cleared as u64;
            marks.sync()?;
        }
        Ok(())
    }

    pub(super) fn begin_purge(&mut self, now_ms: u64) {
        let state = self.shared.parts.catalog.current();
        self.next_purge_ms = now_ms.saturating_add(self.settings.purge_interval_ms);
        let (members, trees) = (AntiEntropy::members(&state), self.shared.to_purge(&state));
        let watermarks = self.watermarks.among(&members);
        let (now, last) =
            (self.shared.parts.clock.peek(), AntiEntropy::last_member(&state).unwrap_or(self.shared.parts.me));
        let round = Round::new(now, last, members, watermarks, trees);
        self.look = None;
        self.activity = Activity::Purging(Box::new(round));
    }

    pub(super) fn purge(&mut self, now_ms: u64) -> Result<Act, StepError> {
        let Activity::Purging(round) = &mut self.activity else { return Ok(Act::GoOn) };
        match round.next_step() {
            RoundNext::Ask(node, question) => self.ask(node, question, now_ms),
            // Somebody else may hold what this node has purged.
            RoundNext::Look(tree, _) if self.unpurged.contains(&tree) => round.on_looked(true),
            RoundNext::Look(tree, floor) => {
                let from = self.look.take();
                match self.shared.parts.store.look_for_dead(tree, from.as_ref(), floor, LOOK_ROWS) {
                    Ok(DeadLook::Some) => round.on_looked(true),
                    Ok(DeadLook::NotYet(next)) => self.look = Some(next),
                    // What cannot be read is not purged: whoever reads it next marks it as damaged.
                    Ok(DeadLook::Nothing) | Err(_) => round.on_looked(false),
                }
            }
            RoundNext::Done => self.end_purge(now_ms),
        }
        Ok(Act::GoOn)
    }

    pub(super) fn on_purge_answer(&mut self, came: Option<Came>) {
        if let Activity::Purging(round) = &mut self.activity {
            round.on_answer(told(came));
        }
    }

    fn end_purge(&mut self, now_ms: u64) {
        let Activity::Purging(round) = std::mem::replace(&mut self.activity, Activity::Resting) else { return };
        self.watermarks.keep(round.watermarks());
        for tree in round.purged() {
            self.unpurged.remove(&tree);
        }
        if !round.blocked().is_empty() {
            let sooner_ms = self.settings.purge_interval_ms / PURGE_AGAIN_DIVISOR;
            self.next_purge_ms = self.next_purge_ms.min(now_ms.saturating_add(sooner_ms.max(1)));
        }
        let mut status = self.shared.status.lock();
        status.purge_rounds += 1;
        status.purged_rows += round.rows();
        status.purge_blocked = round.blocked().clone();
    }
}

fn told(came: Option<Came>) -> Option<Answer> {
    match came {
        Some(Came::Reply(Ok(reply))) => match reply.body {
            Ok(ReplyBody::AntiEntropy(told)) => Some(*told),
            _ => None,
        },
        _ => None,
    }
}

/// The trees that a node holds in a range, as this node knows it.
fn trees_of(state: &ClusterState, node: NodeId, range: DirtyRange) -> Vec<Tree> {
    // There may be thousands of marks, nearly all of a leaf: of those only the one partition is looked at.
    let (table, partition) = match range {
        DirtyRange::Everything => (None, None),
        DirtyRange::Table(table) => (Some(table), None),
        DirtyRange::Partition(table, partition) => (Some(table), Some(partition)),
        DirtyRange::Leaf(table, leaf) => (Some(table), Some(leaf.partition())),
    };
    let mut trees = Vec::new();
    for keyspace in state.schema.keyspaces.values() {
        let Some(placement) = state.topology.placement(keyspace.placement) else { continue };
        let ids = keyspace.tables.values().map(|of| of.id);
        for of in ids.filter(|of| table.is_none_or(|table| table == *of)) {
            let is_held = |map: &PartitionMap| map.write_sets().contains(node);
            match partition {
                Some(at) => trees.extend(placement.partition(at).filter(|map| is_held(map)).map(|_| (of, at))),
                None => {
                    let held = placement.partitions().filter(|(_, map)| is_held(map));
                    trees.extend(held.map(|(at, _)| (of, at)));
                }
            }
        }
    }
    trees
}
