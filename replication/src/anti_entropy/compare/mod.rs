//! One comparison with one peer, of many partitions at once: a state machine without a network and without a clock.
//!
//! Whoever drives it asks [`Session::next`] what to do, does it, and tells what came of it; one thing is under way at a
//! time. First the peer is asked which roots differ, as of a horizon; then for the children of the nodes that differ, all
//! trees of a level in one message, so that a comparison takes one round trip for each level however many partitions
//! differ; then the rows of the leaves that differ are listed and exchanged (`rows.rs`).
//!
//! Invariants: a tree is called equal only when nothing at or below the horizon was found to differ, under one purge
//! floor and one map on both sides; rows are exchanged only after the floors are level, and each names that map: a node
//! that is no replica any more, and does not know it, may hold what was deleted and purged without it, and neither brings
//! that back nor gets a floor that would let it; what fails leaves its tree unsettled and nothing else.

mod decide;
mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cube_storage::merkle::{DEPTH, FAN_OUT, LeafId};
use cube_storage::model::{Batch, Epoch, Hlc, Mutation, NodeId, Outcome, PartitionId, TableId};
use cube_storage::{Store, StoreError, TreeNodes};
use serde::Serialize;

use self::rows::Rows;
use super::answer::{comparable, epoch_of, not_compared, root_node};
use super::questions::{Answer, ChildSums, NotCompared, Question, RootDigest, Top, Tree};

/// Nodes whose children are asked for in one message: an answer of a megabyte at the most.
pub const NODES_PER_QUESTION_MAX: usize = 8_192;

/// What is to be done next. Only one thing is under way at a time.
#[derive(Debug)]
pub enum Next {
    /// Ask the peer, and tell [`Session::on_answer`].
    Ask(Question),
    /// Send rows to the peer, and tell [`Session::on_sent`].
    Send {
        /// This node's purge floor for the rows.
        floor: Hlc,
        /// The rows.
        mutations: Vec<Mutation>,
    },
    /// Apply rows of the peer here, and tell [`Session::on_applied`].
    Apply(Batch),
    /// It is over.
    Done,
}

/// How two replicas of a tree were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They hold the same as of the horizon.
    Equal,
    /// They differed, and every row that did was exchanged (or, when only a plan was asked for, would be).
    Repaired,
    /// They differ, and not all of it could be mended; another comparison will tell.
    Unsettled,
    /// One of the two cannot be compared at the moment.
    Here(NotCompared),
    /// The peer cannot be compared at the moment.
    There(NotCompared),
}

/// What a comparison did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Messages to the peer.
    pub round_trips: u64,
    /// Leaves that differed.
    #[serde(rename = "leavesDiffering")]
    pub leaves: u64,
    /// Rows that were listed by the peer, which is of no use to an operator.
    #[serde(skip)]
    pub listed: u64,
    /// Rows sent to the peer, or that would be.
    pub rows_sent: u64,
    /// Rows fetched from the peer, or that would be.
    pub rows_fetched: u64,
    /// Bytes of the rows that were sent or fetched, or that would be sent.
    pub row_bytes: u64,
    /// Rows that either side refused below its purge floor.
    pub below_floor: u64,
}

impl Tally {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.round_trips += other.round_trips;
        self.leaves += other.leaves;
        self.listed += other.listed;
        self.rows_sent += other.rows_sent;
        self.rows_fetched += other.rows_fetched;
        self.row_bytes += other.row_bytes;
        self.below_floor += other.below_floor;
    }
}

/// Whether a comparison mends what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Repair,
    /// It only counts what it would do.
    Plan,
}

/// A tree under comparison.
#[derive(Clone, Copy, Debug)]
struct State {
    /// The floor that both sides have.
    floor: Hlc,
    /// The map that this node had fenced when the comparison began: rows go by it, so that neither side takes one for a
    /// partition that it is about to clear or has cleared.
    map: Epoch,
    verdict: Verdict,
}

enum Stage {
    Roots,
    /// Going down: what is still to be asked of this level, what was asked, and what of the next level differs.
    Nodes {
        left: VecDeque<TreeNodes>,
        asked: Vec<TreeNodes>,
        below: Vec<TreeNodes>,
    },
    Rows,
}

/// Where comparisons of two nodes begin among the leaves that differ, in parts of 65,536 for each number of the lower and
/// of the higher one. Any two pairs of a few nodes begin far apart (after the R2 sequence).
const START_STEPS: [u16; 2] = [49_471, 37_344];

/// How often a comparison that finds itself where another one is goes elsewhere. Each time what is left is divided between
/// them, so that this is enough for any number of rows.
const TURNS_MAX: u32 = 32;

/// One comparison.
pub struct Session {
    me: NodeId,
    peer: NodeId,
    horizon: Hlc,
    mode: Mode,
    trees: BTreeMap<Tree, State>,
    stage: Stage,
    /// Floors of this node that the peer is to take over.
    floors: Vec<(TableId, PartitionId, Hlc)>,
    leaves: BTreeMap<TableId, Vec<LeafId>>,
    /// Trees whose rows are exchanged before those of the others.
    first: BTreeSet<Tree>,
    /// Trees in which one side holds what the other has purged.
    unpurged: BTreeSet<Tree>,
    rows: Rows,
    turns: u32,
    tally: Tally,
}

impl Session {
    /// A comparison of these trees of a node with a peer, as of a horizon.
    pub fn new(me: NodeId, peer: NodeId, horizon: Hlc, mode: Mode, trees: impl IntoIterator<Item = Tree>) -> Self {
        let state = State { floor: Hlc(0), map: Epoch(0), verdict: Verdict::Equal };
        Self {
            me,
            peer,
            horizon,
            mode,
            trees: trees.into_iter().map(|tree| (tree, state)).collect(),
            stage: Stage::Roots,
            floors: Vec::new(),
            leaves: BTreeMap::new(),
            first: BTreeSet::new(),
            unpurged: BTreeSet::new(),
            rows: Rows::default(),
            turns: 0,
            tally: Tally::default(),
        }
    }

    /// Exchanges rows of these trees before those of the others.
    #[must_use]
    pub fn with_first(mut self, first: BTreeSet<Tree>) -> Self {
        self.first = first;
        self
    }

    /// Trees in which one side still holds what is dead below both floors, and the other does not.
    pub fn unpurged(&self) -> &BTreeSet<Tree> {
        &self.unpurged
    }

    /// With whom.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// As of when.
    pub fn horizon(&self) -> Hlc {
        self.horizon
    }

    /// What it did so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// How each tree was found. Good when it is over.
    pub fn verdicts(&self) -> impl Iterator<Item = (Tree, Verdict)> + '_ {
        self.trees.iter().map(|(tree, state)| (*tree, state.verdict))
    }

    /// What is to be done next.
    pub fn next(&mut self, store: &Store) -> Result<Next, StoreError> {
        let next = match &mut self.stage {
            Stage::Roots => self.ask_roots(store)?,
            Stage::Nodes { .. } => match self.ask_nodes() {
                Some(question) => Next::Ask(question),
                None => {
                    self.begin_rows();
                    self.next_rows(store)?
                }
            },
            Stage::Rows => self.next_rows(store)?,
        };
        self.tally.round_trips += u64::from(matches!(next, Next::Ask(_) | Next::Send { .. }));
        Ok(next)
    }

    /// The peer answered the last question.
    pub fn on_answer(&mut self, store: &Store, answer: Answer) -> Result<(), Unexpected> {
        match (&self.stage, answer) {
            (Stage::Roots, Answer::Roots(differing)) => self.on_roots(store, differing)?,
            (Stage::Nodes { .. }, Answer::Nodes(children)) => self.on_nodes(store, children)?,
            (Stage::Rows, answer) => self.on_listed(store, answer)?,
            _ => return Err(Unexpected::Answer),
        }
        Ok(())
    }

    /// Whether rows are on their way to the peer.
    pub fn is_sending(&self) -> bool {
        self.rows.is_under_way()
    }

    /// The peer told what came of each row that was sent; nothing of those it could not take.
    pub fn on_sent(&mut self, outcomes: &[Option<Outcome>]) {
        let rows = self.rows.take_under_way();
        self.note_outcomes(rows, outcomes.iter().copied());
    }

    /// The rows of the peer were applied.
    pub fn on_applied(&mut self, outcomes: &[Outcome]) {
        let rows = self.rows.take_under_way();
        self.note_outcomes(rows, outcomes.iter().copied().map(Some));
    }

    fn note_outcomes(&mut self, trees: Vec<Tree>, outcomes: impl Iterator<Item = Option<Outcome>>) {
        let (mut outcomes, count, mut there) = (outcomes, trees.len(), 0);
        for tree in trees {
            let outcome = outcomes.next().flatten();
            there += usize::from(matches!(outcome, Some(Outcome::Present | Outcome::Superseded(_))));
            self.tally.below_floor += u64::from(matches!(outcome, Some(Outcome::BelowFloor(_))));
            if !outcome.is_some_and(|outcome| outcome.holds()) {
                self.set(tree, Verdict::Unsettled);
            }
        }
        if 2 * there > count && self.turns < TURNS_MAX {
            self.turns += 1;
            self.go_elsewhere();
        }
    }

    /// Notes what was found of a tree. What is worse stays.
    fn set(&mut self, tree: Tree, verdict: Verdict) {
        let Some(state) = self.trees.get_mut(&tree) else { return };
        let rank = |verdict: &Verdict| match verdict {
            Verdict::Equal => 0,
            Verdict::Repaired => 1,
            Verdict::Unsettled => 2,
            Verdict::Here(_) | Verdict::There(_) => 3,
        };
        if rank(&verdict) > rank(&state.verdict) {
            state.verdict = verdict;
        }
    }

    /// The map by which a tree is compared.
    fn map_of(&self, tree: Tree) -> Option<Epoch> {
        self.trees.get(&tree).map(|state| state.map)
    }

    /// Whether a tree is still being compared.
    fn is_open(&self, tree: Tree) -> bool {
        let verdict = self.trees.get(&tree).map(|state| state.verdict);
        verdict.is_some_and(|verdict| !matches!(verdict, Verdict::Here(_) | Verdict::There(_)))
    }

    /// Passes over a tree that cannot be read here. Any other failure is one of the whole comparison.
    fn exclude(&mut self, tree: Tree, error: StoreError) -> Result<(), StoreError> {
        let cause = not_compared(error)?;
        self.set(tree, Verdict::Here(cause));
        Ok(())
    }

    fn ask_roots(&mut self, store: &Store) -> Result<Next, StoreError> {
        let all: Vec<Tree> = self.trees.keys().copied().collect();
        let (mut known, mut tables) = (Vec::new(), BTreeMap::<TableId, Vec<_>>::new());
        for tree in all {
            match comparable(store, tree) {
                Ok(()) => known.push(tree),
                Err(cause) => self.set(tree, Verdict::Here(cause)),
            }
            if let Some(state) = self.trees.get_mut(&tree) {
                state.map = epoch_of(store, tree);
            }
        }
        for (tree, root) in known.iter().zip(store.roots_as_of(self.horizon, &known)) {
            let Some(map) = self.map_of(*tree) else { continue };
            let floor = store.range_state(tree.0, tree.1).floor;
            match root {
                Ok(root) => tables.entry(tree.0).or_default().push((tree.1, RootDigest::of(root, floor, map))),
                Err(error) => self.exclude(*tree, error)?,
            }
        }
        if tables.is_empty() {
            return Ok(Next::Done);
        }
        Ok(Next::Ask(Question::Roots { horizon: self.horizon, tables: tables.into_iter().collect() }))
    }

    fn on_roots(
        &mut self,
        store: &Store,
        differing: Vec<(TableId, PartitionId, Result<Top, NotCompared>)>,
    ) -> Result<(), StoreError> {
        let mut tops = Vec::new();
        for (table, partition, top) in differing {
            let tree = (table, partition);
            match top {
                Err(cause) => self.set(tree, Verdict::There(cause)),
                Ok(top) if self.map_of(tree) != Some(top.epoch) => {
                    self.set(tree, Verdict::There(NotCompared::OtherMap))
                }
                Ok(top) if self.is_open(tree) => tops.push((tree, top)),
                Ok(_) => {}
            }
        }
        let asked: Vec<TreeNodes> = tops.iter().map(|(tree, _)| root_node(*tree)).collect();
        // A floor is never above what was compared: one that is would keep every write out.
        let sound = tops.iter().filter(|(_, top)| top.floor <= self.horizon);
        let floors: Vec<_> = sound.map(|(tree, top)| (tree.0, tree.1, top.floor)).collect();
        self.level_floors(store, &floors)?;
        let mut below = Vec::new();
        for ((tree, top), mine) in tops.into_iter().zip(store.children_as_of(self.horizon, &asked)) {
            let mine = match mine {
                Ok(mine) => mine.first().map(ChildSums::of).unwrap_or_default(),
                Err(error) => {
                    self.exclude(tree, error)?;
                    continue;
                }
            };
            let nodes: Vec<u16> = mine.differing(&top.children).collect();
            if !nodes.is_empty() {
                below.push(TreeNodes { table: tree.0, partition: tree.1, level: 1, nodes });
            }
        }
        self.stage = Stage::Nodes { left: below.into(), asked: Vec::new(), below: Vec::new() };
        Ok(())
    }

    /// Brings the floors of both sides level before any row is judged.
    fn level_floors(&mut self, store: &Store, theirs: &[(TableId, PartitionId, Hlc)]) -> Result<(), StoreError> {
        for &(table, partition, theirs) in theirs {
            let mine = store.range_state(table, partition).floor;
            if let Some(state) = self.trees.get_mut(&(table, partition)) {
                state.floor = mine.max(theirs);
            }
            if theirs < mine && self.mode == Mode::Repair {
                self.floors.push((table, partition, mine));
            }
        }
        if self.mode == Mode::Repair { store.take_floors(theirs) } else { Ok(()) }
    }

    /// The next nodes whose children are asked for; nothing when the leaves are reached.
    fn ask_nodes(&mut self) -> Option<Question> {
        let Stage::Nodes { left, asked, below } = &mut self.stage else { return None };
        if left.is_empty() {
            left.extend(std::mem::take(below));
        }
        let floors = std::mem::take(&mut self.floors);
        if left.is_empty() && floors.is_empty() {
            return None;
        }
        let mut room = NODES_PER_QUESTION_MAX;
        while let Some(mut nodes) = left.pop_front().filter(|_| room > 0) {
            let rest = nodes.nodes.split_off(nodes.nodes.len().min(room));
            room -= nodes.nodes.len();
            if !rest.is_empty() {
                left.push_front(TreeNodes { nodes: rest, ..nodes.clone() });
            }
            asked.push(nodes);
            if room == 0 {
                break;
            }
        }
        Some(Question::Nodes { horizon: self.horizon, floors, trees: asked.clone() })
    }

    fn on_nodes(
        &mut self,
        store: &Store,
        children: Vec<Result<Vec<ChildSums>, NotCompared>>,
    ) -> Result<(), Unexpected> {
        let Stage::Nodes { asked, .. } = &mut self.stage else { return Err(Unexpected::Answer) };
        let asked = std::mem::take(asked);
        if asked.len() != children.len() {
            return Err(Unexpected::Answer);
        }
        let mut differing = Vec::new();
        let mine = store.children_as_of(self.horizon, &asked);
        for ((asked, theirs), mine) in asked.into_iter().zip(children).zip(mine) {
            let tree = (asked.table, asked.partition);
            match (mine, theirs) {
                (_, Err(cause)) => self.set(tree, Verdict::There(cause)),
                (Err(error), _) => self.exclude(tree, error)?,
                (Ok(mine), Ok(theirs)) => {
                    let of_node =
                        asked.nodes.iter().zip(mine.iter().zip(&theirs)).flat_map(|(node, (mine, theirs))| {
                            let children: Vec<u16> = ChildSums::of(mine).differing(theirs).collect();
                            children.into_iter().map(|child| node.saturating_mul(FAN_OUT).saturating_add(child))
                        });
                    let nodes: Vec<u16> = of_node.collect();
                    if !nodes.is_empty() {
                        differing.push(TreeNodes { level: asked.level + 1, nodes, ..asked });
                    }
                }
            }
        }
        for nodes in differing {
            if nodes.level == DEPTH {
                let leaves = nodes.nodes.iter().map(|place| LeafId::at(nodes.partition, *place));
                self.leaves.entry(nodes.table).or_default().extend(leaves);
            } else if let Stage::Nodes { below, .. } = &mut self.stage {
                below.push(nodes);
            }
        }
        Ok(())
    }

    fn begin_rows(&mut self) {
        self.stage = Stage::Rows;
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for (table, leaves) in std::mem::take(&mut self.leaves) {
            self.tally.leaves += leaves.len() as u64;
            let is_first = |leaf: &LeafId| self.first.contains(&(table, leaf.partition()));
            let (dirty, clean): (Vec<_>, Vec<_>) = leaves.into_iter().partition(is_first);
            first.push((table, dirty));
            others.push((table, clean));
        }
        for mut parts in [first, others] {
            parts.retain(|(_, leaves)| !leaves.is_empty());
            let start = self.start_among(parts.len());
            parts.rotate_left(start);
            for (table, mut leaves) in parts {
                let start = self.start_among(leaves.len());
                leaves.rotate_left(start);
                self.rows.begin(table, leaves);
            }
        }
    }

    /// Where to begin among so many. What a node missed, several others have and send at the same time: each begins
    /// elsewhere, and finds mended what another one was at before, so that every row travels once.
    fn start_among(&self, count: usize) -> usize {
        let (lower, higher) = (self.me.min(self.peer), self.me.max(self.peer));
        let [by_lower, by_higher] = START_STEPS;
        let part = lower.0.wrapping_mul(by_lower).wrapping_add(higher.0.wrapping_mul(by_higher));
        (count * usize::from(part)) >> u16::BITS
    }
}

/// The comparison cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// The peer answered another question.
    #[error("the peer answered another question")]
    Answer,
    /// This node's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
