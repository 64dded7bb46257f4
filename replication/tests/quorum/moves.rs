//! Every order in which the steps of a replica-set change, one write and the reads after it can happen.
//!
//! A model of one partition: what each node fenced and holds, how far Raft has come, and one write by a coordinator
//! that may know an old map. Checked in every state that can be reached: once the write was acknowledged at its level, a
//! read at its level, by a coordinator with any map that replicas still obey, meets a replica that has it.
//! The maps, their order and their price come from [`PartitionMap`]; mutants of the rules show that the model notices.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::consistency::Level;
use cube_replication::quorum::{State, Tracker};
use cube_replication::topology::{Evidence, MoveRefused, PartitionMap, ReplicaSet, Step};
use cube_storage::model::{Epoch, NodeId};

use super::sets::{a, set};

const NODES: usize = 6;

/// What is left out of the rules, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutant {
    None,
    NoFenceBeforeReadingNew,
    NoFenceBeforeWritingNew,
    FenceOfTheNewSetAlone,
    FenceOfAMajorityOverall,
    NoCopy,
    NothingForReplicasThatStay,
    CopyFromReplicasThatHaveNotFenced,
    AbortAfterReadsMoved,
}

/// What Raft does next.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Begin(&'static str),
    Advance,
    Abort,
}

/// One state of the model. Nodes are bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Model {
    /// How many maps there are.
    maps: usize,
    /// By node: the number of the newest map it fenced.
    fenced: [u8; NODES],
    holds: u8,
    acked: u8,
    /// Replicas that compared themselves with a quorum of the old ones.
    caught_up: u8,
    /// Pending replicas that have deleted what an earlier time left behind. They take and copy nothing before.
    emptied: u8,
    written: bool,
}

struct World {
    maps: Vec<PartitionMap>,
    /// Everyone in any of the maps.
    nodes: Vec<NodeId>,
    script: Vec<Entry>,
    level: Level,
    mutant: Mutant,
    /// Which map the writing coordinator goes by.
    writer: usize,
}

fn everyone() -> Evidence {
    let all: BTreeSet<NodeId> = (0..NODES as u16).map(NodeId).collect();
    Evidence { fenced: all.clone(), caught_up: all }
}

fn has(bits: u8, node: NodeId) -> bool {
    bits & (1 << node.0) != 0
}

fn in_each_data_center(set: &ReplicaSet, nodes: impl Fn(NodeId) -> bool) -> bool {
    Level::EachQuorum.requirement(set, &a()).holds(set.matching(nodes))
}

impl World {
    fn new(old: &str, script: &[Entry], level: Level, mutant: Mutant, writer: usize) -> Self {
        let mut maps = vec![PartitionMap::stable(set(old), Epoch(0))];
        for entry in script {
            let (now, epoch) = (maps.last().unwrap(), Epoch(maps.len() as u64));
            let next = match entry {
                Entry::Begin(new) => now.begin(set(new), epoch),
                Entry::Advance => now.advance(&everyone(), epoch),
                Entry::Abort if mutant == Mutant::AbortAfterReadsMoved => {
                    assert_eq!(now.abort(epoch), Err(MoveRefused::ReadsMoved { epoch: now.epoch() }));
                    let Step::ReadNew { old, .. } = now.step() else { unreachable!() };
                    Ok(PartitionMap::stable(old.clone(), epoch))
                }
                Entry::Abort => now.abort(epoch),
            };
            maps.push(next.unwrap());
        }
        let nodes: BTreeSet<NodeId> =
            maps.iter().flat_map(|map| map.write_sets().nodes().collect::<Vec<_>>()).collect();
        Self { maps, nodes: nodes.into_iter().collect(), script: script.to_vec(), level, mutant, writer }
    }

    /// The state after each thing that can happen next.
    fn next(&self, now: Model) -> Vec<Model> {
        let mut next: Vec<Model> = self.raft(now).into_iter().collect();
        let latest = now.maps - 1;
        for node in self.nodes.iter().copied() {
            let bit = 1 << node.0;
            if usize::from(now.fenced[usize::from(node.0)]) < latest {
                let mut fenced = now.fenced;
                fenced[usize::from(node.0)] = latest as u8;
                next.push(Model { fenced, ..now });
            }
            if self.must_empty(&now, node) {
                next.push(Model { emptied: now.emptied | bit, holds: now.holds & !bit, ..now });
            }
            if self.takes_the_write(&now, node) {
                let acked = now.acked | bit;
                let mut tracker = Tracker::new(self.level, &self.maps[self.writer].write_sets(), a());
                self.nodes.iter().filter(|node| has(acked, **node)).for_each(|node| tracker.ack(*node));
                next.push(Model { acked, holds: now.holds | bit, written: tracker.state() == State::Met, ..now });
            }
            if self.may_catch_up(&now, node) {
                for found in self.copies(&now) {
                    let holds = if found { now.holds | bit } else { now.holds };
                    next.push(Model { caught_up: now.caught_up | bit, holds, ..now });
                }
            }
        }
        next
    }

    fn must_empty(&self, now: &Model, node: NodeId) -> bool {
        self.maps[now.maps - 1].pending().any(|pending| pending == node) && !has(now.emptied, node)
    }

    fn takes_the_write(&self, now: &Model, node: NodeId) -> bool {
        // A coordinator that goes by the map that made the node a replica tells it so.
        let told = self.writer == now.maps - 1 && self.must_empty(now, node);
        self.writer < now.maps
            && self.maps[self.writer].write_sets().contains(node)
            && self.obeys(now, node, self.writer)
            && !has(now.acked, node)
            && !told
    }

    fn may_catch_up(&self, now: &Model, node: NodeId) -> bool {
        let needed = self.maps[now.maps - 1].needs().and_then(|needs| needs.caught_up);
        needed.is_some_and(|set| set.contains(node)) && !has(now.caught_up, node) && !self.must_empty(now, node)
    }

    /// The next entry of the script, if its price is paid.
    fn raft(&self, now: Model) -> Option<Model> {
        let next = Model { maps: now.maps + 1, ..now };
        match self.script.get(now.maps - 1)? {
            Entry::Begin(_) => Some(Model { caught_up: 0, emptied: 0, ..next }),
            Entry::Abort => Some(next),
            Entry::Advance => self.paid(&now, &self.maps[now.maps - 1]).then_some(next),
        }
    }

    fn paid(&self, now: &Model, map: &PartitionMap) -> bool {
        let fenced_now = |node: &NodeId| usize::from(now.fenced[usize::from(node.0)]) == now.maps - 1;
        let mut evidence = Evidence {
            fenced: self.nodes.iter().copied().filter(fenced_now).collect(),
            caught_up: self.nodes.iter().copied().filter(|node| has(now.caught_up, *node)).collect(),
        };
        let everybody = everyone().fenced;
        match (self.mutant, map.step()) {
            (Mutant::NoFenceBeforeReadingNew, Step::WriteBoth { .. }) => evidence.fenced = everybody,
            (Mutant::NoFenceBeforeWritingNew, Step::ReadNew { .. }) => evidence.fenced = everybody,
            (Mutant::FenceOfTheNewSetAlone, Step::WriteBoth { old, .. } | Step::ReadNew { old, .. }) => {
                evidence.fenced.extend(old.nodes().iter().filter(|node| !map.goal().contains(**node)));
            }
            (Mutant::FenceOfAMajorityOverall, _) => {
                let majority = map.write_sets().iter().all(|set| {
                    Level::Quorum.requirement(set, &a()).holds(set.matching(|node| evidence.fenced.contains(&node)))
                });
                evidence.fenced = if majority { everybody } else { BTreeSet::new() };
            }
            (Mutant::NothingForReplicasThatStay, Step::WriteBoth { old, .. }) => {
                evidence.caught_up.extend(old.nodes());
            }
            (Mutant::NoCopy, _) => evidence.caught_up = everybody,
            _ => {}
        }
        map.advance(&evidence, Epoch(now.maps as u64)).is_ok()
    }

    /// Whether a node still answers a coordinator that goes by a map.
    fn obeys(&self, now: &Model, node: NodeId, map: usize) -> bool {
        usize::from(now.fenced[usize::from(node.0)]) <= map
    }

    /// What a replica may find when it compares itself with a quorum of the old ones: the write, or not, or either.
    fn copies(&self, now: &Model) -> Vec<bool> {
        let old = self.maps[now.maps - 1].serving();
        let ready = |node: NodeId| {
            usize::from(now.fenced[usize::from(node.0)]) == now.maps - 1
                || self.mutant == Mutant::CopyFromReplicasThatHaveNotFenced
                || self.mutant == Mutant::NoFenceBeforeReadingNew
        };
        let mut outcomes = Vec::new();
        if in_each_data_center(old, ready) && old.nodes().iter().any(|node| ready(*node) && has(now.holds, *node)) {
            outcomes.push(true);
        }
        if in_each_data_center(old, |node| ready(node) && !has(now.holds, node)) {
            outcomes.push(false);
        }
        outcomes
    }

    /// A read that misses the acknowledged write.
    fn missed(&self, now: &Model) -> Option<usize> {
        (0..now.maps).filter(|_| now.written).find(|map| {
            let sets = self.maps[*map].read_sets();
            let set = sets.first();
            let without = set.matching(|node| self.obeys(now, node, *map) && !has(now.holds, node));
            self.level.requirement(set, &a()).holds(without)
        })
    }

    /// Walks through all states. Says how many there are, or how one is reached that must not be.
    fn explore(&self) -> Result<usize, String> {
        let start = Model { maps: 1, fenced: [0; NODES], holds: 0, acked: 0, caught_up: 0, emptied: 0, written: false };
        let mut came_from: BTreeMap<Model, Option<Model>> = BTreeMap::from([(start, None)]);
        let mut open = vec![start];
        while let Some(now) = open.pop() {
            if let Some(map) = self.missed(&now) {
                let told = format!("writer at map {}, reader at map {map}: {}", self.writer, tell(&came_from, now));
                return Err(told);
            }
            for next in self.next(now) {
                came_from.entry(next).or_insert_with(|| {
                    open.push(next);
                    Some(now)
                });
            }
        }
        let done = came_from.keys().any(|model| model.maps == self.maps.len() && model.written);
        assert!(done, "the change and the write can both complete");
        Ok(came_from.len())
    }
}

fn tell(came_from: &BTreeMap<Model, Option<Model>>, end: Model) -> String {
    let mut way = vec![end];
    while let Some(Some(before)) = came_from.get(way.last().unwrap()) {
        way.push(*before);
    }
    let step =
        |m: &Model| format!("\n  maps {} fenced {:?} holds {:06b} acked {:06b}", m.maps, m.fenced, m.holds, m.acked);
    way.iter().rev().map(step).collect()
}

fn explore(old: &str, script: &[Entry], level: Level, mutant: Mutant) -> Result<usize, String> {
    (0..=script.len()).map(|writer| World::new(old, script, level, mutant, writer).explore()).sum()
}

const fn change(new: &'static str) -> [Entry; 3] {
    [Entry::Begin(new), Entry::Advance, Entry::Advance]
}

#[test]
fn a_quorum_write_is_in_every_later_quorum_read_during_every_change() {
    for (old, new) in [
        ("a0", "a1"),
        ("a0", "a0 a1"),
        ("a0", "a0 a1 a2"),
        ("a0 a1", "a0"),
        ("a0 a1 a2", "a0"),
        ("a0 a1", "a0 a1 a2"),
        ("a0 a1 a2", "a0 a1 a3"),
        ("a0 a1 a2", "a0 a3 a4"),
        ("a0 a1 a2", "a0 a1 a2 a3 a4"),
        ("a0 a1 a2 a3 a4", "a0 a1 a2"),
    ] {
        let states = explore(old, &change(new), Level::Quorum, Mutant::None);
        assert!(states.as_ref().is_ok_and(|states| *states > 100), "{old} -> {new}: {states:?}");
    }
}

#[test]
fn a_local_quorum_write_is_in_every_later_local_quorum_read_during_every_change() {
    for (old, new) in [("a0 b2 b3 b4", "a1 b2 b3 b4"), ("a0 a1 b4", "a0 a2 b4"), ("a0", "a0 b4"), ("a0 b4", "a0")] {
        explore(old, &change(new), Level::LocalQuorum, Mutant::None).unwrap();
        explore(old, &change(new), Level::EachQuorum, Mutant::None).unwrap();
    }
}

#[test]
fn a_quorum_write_over_two_data_centers_is_in_every_later_quorum_read_during_every_change() {
    for (old, new) in
        [("a0 b4", "a0 a1 b4"), ("a0 a1 b4", "a0 a2 b4"), ("a0 a1 b4", "a0 b4 b5"), ("a0 a1 b2 b3 b4", "a0 b2 b3")]
    {
        explore(old, &change(new), Level::Quorum, Mutant::None).unwrap();
    }
}

#[test]
fn an_aborted_change_and_the_next_one_lose_nothing() {
    let abort = [Entry::Begin("a0 a2"), Entry::Abort];
    for again in ["a0 a2", "a1 a2", "a0 a3", "a3"] {
        let script: Vec<_> = abort.into_iter().chain(change(again)).collect();
        explore("a0 a1", &script, Level::Quorum, Mutant::None).unwrap();
    }
}

#[test]
fn a_change_right_after_another_loses_nothing() {
    for (first, second) in [("a1", "a0"), ("a1", "a2"), ("a0 a1", "a1"), ("a0 a1", "a0 a2")] {
        let script: Vec<_> = change(first).into_iter().chain(change(second)).collect();
        explore("a0", &script, Level::Quorum, Mutant::None).unwrap();
    }
    for second in ["a0 a1", "a1 a2"] {
        let script: Vec<_> = change("a0 a2").into_iter().chain(change(second)).collect();
        explore("a0 a1", &script, Level::Quorum, Mutant::None).unwrap();
    }
}

#[test]
fn every_rule_is_needed() {
    let moved = ("a0 a1 a2", change("a1 a2 a3"), Level::Quorum);
    let shrunk = ("a0 a1 a2", change("a0"), Level::Quorum);
    let local = ("a0 b2 b3 b4", change("a1 b2 b3 b4"), Level::LocalQuorum);
    let undone = ("a0", [Entry::Begin("a1"), Entry::Advance, Entry::Abort], Level::Quorum);
    for (mutant, (old, script, level)) in [
        (Mutant::NoFenceBeforeReadingNew, moved),
        (Mutant::NoFenceBeforeWritingNew, moved),
        (Mutant::FenceOfTheNewSetAlone, moved),
        (Mutant::FenceOfAMajorityOverall, local),
        (Mutant::NoCopy, moved),
        (Mutant::NothingForReplicasThatStay, shrunk),
        (Mutant::CopyFromReplicasThatHaveNotFenced, moved),
        (Mutant::AbortAfterReadsMoved, undone),
    ] {
        assert!(explore(old, &script, level, mutant).is_err(), "{mutant:?} is not noticed");
    }
}
