//! A round of purging, as plain code: what is asked of whom, and up to where a partition's dead may go.
//!
//! First every member of the cluster tells below which version it holds and will create nothing in flight; the last
//! answer of one that cannot be reached stands, because it spoke of the future. Then the replicas tell their proofs. The
//! floor is the least of all and of what the table's grace allows. All replicas fence it durably, each only if its own
//! proof still reaches it; only when every one has, they are told to purge, and what they purge follows from the floor
//! alone. Whoever does not answer keeps its trees from being purged, and is named.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cube_storage::model::{Epoch, Hlc, NodeId, PartitionId, TableId};
use cube_storage::purge::purge_floor;

use super::questions::{Answer, Proof, Question, Tree};

/// Trees that one request to purge names: each has all its rows looked at.
const TREES_PER_PURGE_MAX: usize = 64;
/// Trees that one question about proofs or fences names: a message of some 100 KiB.
const TREES_PER_QUESTION_MAX: usize = 4_096;

/// A tree that a round is about.
#[derive(Clone, Debug)]
pub struct RoundTree {
    /// The map by which it is judged.
    pub epoch: Epoch,
    /// All its replicas, this node among them.
    pub replicas: Vec<NodeId>,
    /// The age below which its deletions stay.
    pub grace_ms: u64,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum RoundNext {
    /// Ask a node, which may be this one, and tell [`Round::on_answer`].
    Ask(NodeId, Question),
    /// Say by [`Round::on_looked`] whether there is something to purge in a tree, up to this floor.
    Look(Tree, Hlc),
    /// It is over.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Watermarks,
    Proofs,
    Looks,
    Fences,
    Purges,
    Done,
}

#[derive(Debug)]
struct State {
    tree: RoundTree,
    proofs: BTreeMap<NodeId, Option<Proof>>,
    floor: Option<Hlc>,
    fenced: BTreeSet<NodeId>,
    purged: BTreeSet<NodeId>,
}

/// One round.
#[derive(Debug)]
pub struct Round {
    now: Hlc,
    phase: Phase,
    members: Vec<NodeId>,
    watermarks: BTreeMap<NodeId, Hlc>,
    trees: BTreeMap<Tree, State>,
    left: VecDeque<(NodeId, Question)>,
    asked: Option<(NodeId, Question)>,
    /// Trees with a floor, of which it is not known yet whether there is something to purge.
    to_look: VecDeque<(Tree, Hlc)>,
    /// Who keeps a tree from being purged.
    blocked: BTreeMap<Tree, BTreeSet<NodeId>>,
    rows: u64,
}

impl Round {
    /// A round over some trees, asked for by who has heard of members up to `last`. `watermarks` are the last answers that
    /// members gave.
    pub fn new(
        now: Hlc,
        last: NodeId,
        members: impl IntoIterator<Item = NodeId>,
        watermarks: BTreeMap<NodeId, Hlc>,
        trees: impl IntoIterator<Item = (Tree, RoundTree)>,
    ) -> Self {
        let members: Vec<NodeId> = members.into_iter().collect();
        let state = |tree| State {
            tree,
            proofs: BTreeMap::new(),
            floor: None,
            fenced: BTreeSet::new(),
            purged: BTreeSet::new(),
        };
        let trees: BTreeMap<Tree, State> = trees.into_iter().map(|(at, tree)| (at, state(tree))).collect();
        let left = if trees.is_empty() { Vec::new() } else { members.clone() };
        let left = left.into_iter().map(|member| (member, Question::WatermarkAmong { last })).collect();
        let (asked, to_look, blocked) = (None, VecDeque::new(), BTreeMap::new());
        Self { now, phase: Phase::Watermarks, members, watermarks, trees, left, asked, to_look, blocked, rows: 0 }
    }

    /// The answers of the members, for the next round.
    pub fn watermarks(&self) -> &BTreeMap<NodeId, Hlc> {
        &self.watermarks
    }

    /// Who kept which trees from being purged.
    pub fn blocked(&self) -> &BTreeMap<Tree, BTreeSet<NodeId>> {
        &self.blocked
    }

    /// Rows that were purged on all replicas together.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Trees that every replica has purged.
    pub fn purged(&self) -> impl Iterator<Item = Tree> + '_ {
        let done = |state: &State| state.tree.replicas.iter().all(|node| state.purged.contains(node));
        self.trees.iter().filter(move |(_, state)| state.floor.is_some() && done(state)).map(|(tree, _)| *tree)
    }

    /// What is to be done next.
    pub fn next_step(&mut self) -> RoundNext {
        loop {
            if let Some(&(tree, floor)) = self.to_look.front() {
                return RoundNext::Look(tree, floor);
            }
            if let Some((node, question)) = self.left.pop_front() {
                self.asked = Some((node, question.clone()));
                return RoundNext::Ask(node, question);
            }
            match self.phase {
                Phase::Watermarks => self.ask_proofs(),
                Phase::Proofs => self.find_floors(),
                Phase::Looks => self.ask_fences(),
                Phase::Fences => self.ask_purges(),
                Phase::Purges | Phase::Done => {
                    self.phase = Phase::Done;
                    return RoundNext::Done;
                }
            }
        }
    }

    /// The floor of every tree that has one.
    fn floors(&self) -> impl Iterator<Item = (Tree, Hlc)> + '_ {
        self.trees.iter().filter_map(|(tree, state)| Some((*tree, state.floor?)))
    }

    /// The tree that was asked about has something to purge, or has not.
    pub fn on_looked(&mut self, has_dead: bool) {
        let Some((tree, _)) = self.to_look.pop_front() else { return };
        if !has_dead {
            self.trees.remove(&tree);
        }
    }

    /// The node that was asked answered, or did not.
    pub fn on_answer(&mut self, answer: Option<Answer>) {
        let Some((node, question)) = self.asked.take() else { return };
        match (question, answer) {
            (Question::WatermarkAmong { .. }, Some(Answer::Watermark(watermark))) => {
                // One that took over the hints of a node that left tells less than before.
                self.watermarks.insert(node, watermark);
            }
            (Question::Proofs { trees }, Some(Answer::Proofs(proofs))) => {
                for (tree, proof) in trees.iter().zip(proofs) {
                    if let Some(state) = self.trees.get_mut(tree) {
                        state.proofs.insert(node, proof.filter(|proof| proof.epoch >= state.tree.epoch));
                    }
                }
            }
            (Question::Fence { floors }, Some(Answer::Fenced(fenced))) => {
                for ((table, partition, _), _) in floors.iter().zip(fenced).filter(|(_, fenced)| *fenced) {
                    if let Some(state) = self.trees.get_mut(&(*table, *partition)) {
                        state.fenced.insert(node);
                    }
                }
            }
            (Question::Purge { floors }, Some(Answer::Purged { rows, trees })) => {
                self.rows += rows;
                for (table, partition, _) in floors.iter().take(trees) {
                    if let Some(state) = self.trees.get_mut(&(*table, *partition)) {
                        state.purged.insert(node);
                    }
                }
                let rest: Vec<_> = floors.into_iter().skip(trees.max(1)).collect();
                if !rest.is_empty() {
                    self.left.push_front((node, Question::Purge { floors: rest }));
                }
            }
            // What was not answered is missing where it is counted.
            _ => {}
        }
    }

    fn ask_proofs(&mut self) {
        self.phase = Phase::Proofs;
        let mut by_node: BTreeMap<NodeId, Vec<Tree>> = BTreeMap::new();
        for (tree, state) in &self.trees {
            state.tree.replicas.iter().for_each(|node| by_node.entry(*node).or_default().push(*tree));
        }
        for (node, trees) in by_node {
            let some = trees.chunks(TREES_PER_QUESTION_MAX);
            self.left.extend(some.map(|trees| (node, Question::Proofs { trees: trees.to_vec() })));
        }
    }

    fn find_floors(&mut self) {
        self.phase = Phase::Looks;
        let watermarks: Vec<Option<Hlc>> = self.members.iter().map(|node| self.watermarks.get(node).copied()).collect();
        let silent: BTreeSet<NodeId> =
            self.members.iter().filter(|node| !self.watermarks.contains_key(node)).copied().collect();
        for (tree, state) in &mut self.trees {
            let proof = |node: &NodeId| state.proofs.get(node).copied().flatten();
            let synced = state.tree.replicas.iter().map(|node| proof(node).map(|proof| proof.synced_through));
            state.floor = purge_floor(watermarks.iter().copied(), synced, self.now, state.tree.grace_ms);
            // A floor that was fenced is never gone back on.
            let highest = state.proofs.values().flatten().map(|proof| proof.floor).max().unwrap_or_default();
            state.floor = state.floor.filter(|floor| *floor >= highest);
            let unproven = state.tree.replicas.iter().filter(|node| proof(node).is_none()).copied();
            let blocking: BTreeSet<NodeId> = unproven.chain(silent.iter().copied()).collect();
            if !blocking.is_empty() {
                self.blocked.insert(*tree, blocking);
            }
        }
        self.trees.retain(|_, state| state.floor.is_some());
        self.to_look = self.floors().collect();
    }

    /// Goes on with those trees in which there is something to purge.
    fn ask_fences(&mut self) {
        self.phase = Phase::Fences;
        for (node, floors) in self.by_replica(|_| true) {
            let some = floors.chunks(TREES_PER_QUESTION_MAX);
            self.left.extend(some.map(|floors| (node, Question::Fence { floors: floors.to_vec() })));
        }
    }

    fn ask_purges(&mut self) {
        self.phase = Phase::Purges;
        for (tree, state) in &self.trees {
            let missing = state.tree.replicas.iter().filter(|node| !state.fenced.contains(node));
            let missing: BTreeSet<NodeId> = missing.copied().collect();
            if !missing.is_empty() {
                self.blocked.insert(*tree, missing);
            }
        }
        let all_fenced = |state: &State| state.tree.replicas.iter().all(|node| state.fenced.contains(node));
        for (node, floors) in self.by_replica(all_fenced) {
            let some = floors.chunks(TREES_PER_PURGE_MAX);
            self.left.extend(some.map(|floors| (node, Question::Purge { floors: floors.to_vec() })));
        }
    }

    fn by_replica(&self, which: impl Fn(&State) -> bool) -> BTreeMap<NodeId, Vec<(TableId, PartitionId, Hlc)>> {
        let mut by_replica: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        for (tree, state) in self.trees.iter().filter(|(_, state)| which(state)) {
            let Some(floor) = state.floor else { continue };
            let replicas = state.tree.replicas.iter();
            replicas.for_each(|node| by_replica.entry(*node).or_default().push((tree.0, tree.1, floor)));
        }
        by_replica
    }
}

#[cfg(test)]
mod tests {
    use crate::cases::cases;
    use proptest::prelude::*;

    use super::*;

    const TREE: Tree = (TableId(1), PartitionId(0));
    const NOW: Hlc = Hlc::new(1_000, 0);

    /// What a replica answers.
    #[derive(Clone, Debug)]
    struct Node {
        watermark: Option<u64>,
        proof: Option<u64>,
        fences: bool,
    }

    fn node() -> impl Strategy<Value = Node> {
        let some = || prop_oneof![5 => (1u64..900).prop_map(Some), 1 => Just(None)];
        (some(), some(), prop::bool::weighted(0.8)).prop_map(|(watermark, proof, fences)| Node {
            watermark,
            proof,
            fences,
        })
    }

    /// What was asked of whom, up to which floor.
    type Asked = Vec<(NodeId, Hlc)>;

    /// Runs a round; what was fenced and purged, and where.
    fn run(nodes: &[Node], grace_ms: u64, known: BTreeMap<NodeId, Hlc>) -> (Round, Asked, Asked) {
        let replicas: Vec<NodeId> = (0..nodes.len() as u16).map(NodeId).collect();
        let tree = RoundTree { epoch: Epoch(1), replicas: replicas.clone(), grace_ms };
        let mut round = Round::new(NOW, NodeId(9), replicas, known, [(TREE, tree)]);
        let (mut fenced, mut purged) = (Vec::new(), Vec::new());
        loop {
            let (node, question) = match round.next_step() {
                RoundNext::Done => return (round, fenced, purged),
                RoundNext::Look(..) => {
                    round.on_looked(true);
                    continue;
                }
                RoundNext::Ask(node, question) => (node, question),
            };
            let told = &nodes[usize::from(node.0)];
            let at = |ms: u64| Hlc::new(ms, 0);
            round.on_answer(match question {
                Question::WatermarkAmong { .. } => told.watermark.map(|ms| Answer::Watermark(at(ms))),
                Question::Proofs { .. } => {
                    let proof = told.proof.map(|ms| Proof { floor: Hlc(0), synced_through: at(ms), epoch: Epoch(1) });
                    Some(Answer::Proofs(vec![proof]))
                }
                Question::Fence { floors } => {
                    fenced.extend(floors.iter().filter(|_| told.fences).map(|floor| (node, floor.2)));
                    Some(Answer::Fenced(vec![told.fences; floors.len()]))
                }
                Question::Purge { floors } => {
                    purged.extend(floors.iter().map(|floor| (node, floor.2)));
                    Some(Answer::Purged { rows: 3, trees: floors.len() })
                }
                other => panic!("not a question of a round: {other:?}"),
            });
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn nothing_is_purged_that_anybody_objects_to_or_that_not_all_have_fenced(
            nodes in prop::collection::vec(node(), 1..5), grace_ms in 0u64..900,
        ) {
            let (round, fenced, purged) = run(&nodes, grace_ms, BTreeMap::new());
            for (_, floor) in fenced.iter().chain(&purged) {
                prop_assert!(floor.millis() + grace_ms <= NOW.millis());
                prop_assert!(nodes.iter().all(|node| node.watermark.is_some_and(|w| floor.millis() <= w)));
                prop_assert!(nodes.iter().all(|node| node.proof.is_some_and(|p| floor.millis() <= p)));
            }
            if !purged.is_empty() {
                prop_assert_eq!(fenced.len(), nodes.len(), "all have fenced");
                prop_assert_eq!(purged.len(), nodes.len(), "and all are told");
                prop_assert_eq!(round.purged().collect::<Vec<_>>(), [TREE]);
                prop_assert!(round.blocked().is_empty());
            } else if grace_ms == 0 {
                prop_assert!(!round.blocked().is_empty(), "somebody is named who keeps the tree from being purged");
            }
        }
    }

    #[test]
    fn the_last_watermark_of_an_unreachable_member_stands_and_a_replica_that_is_away_blocks_visibly() {
        let up = Node { watermark: Some(800), proof: Some(700), fences: true };
        let silent = Node { watermark: None, ..up.clone() };
        let (round, _, purged) = run(&[up.clone(), silent.clone()], 100, BTreeMap::new());
        assert!(purged.is_empty() && round.blocked()[&TREE] == [NodeId(1)].into());
        let known = BTreeMap::from([(NodeId(1), Hlc::new(500, 0))]);
        let (_, _, purged) = run(&[up.clone(), silent], 100, known);
        assert_eq!(purged, [(NodeId(0), Hlc::new(500, 0)), (NodeId(1), Hlc::new(500, 0))]);
        let away = Node { watermark: None, proof: None, fences: false };
        let known = BTreeMap::from([(NodeId(1), Hlc::new(500, 0))]);
        let (round, fenced, _) = run(&[up, away], 100, known);
        assert!(fenced.is_empty() && round.blocked()[&TREE] == [NodeId(1)].into());
    }
}
