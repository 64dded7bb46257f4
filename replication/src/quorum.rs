//! Counting: whether the answers so far meet a level, still may, or no longer can; and whom to ask so that they do.
//!
//! While a partition's replicas change, a level must be met in the old and in the new set, each for itself; that is what
//! keeps every quorum of one epoch in touch with every quorum of the next. A [`Tracker`] is plain state: no clock, no
//! network, and no allocation per answer.

use std::sync::Arc;

use cube_storage::model::NodeId;

use crate::consistency::{Level, ReadAtAny, Term, Unavailable};
use crate::topology::{DataCenter, ReplicaSet, ReplicaSets, Slots};

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Answers that may still come decide.
    Pending,
    /// The level is met. It stays so, whatever comes later.
    Met,
    /// Too many replicas failed. Only a replica that acknowledges after it was called failed can change that.
    Impossible,
}

/// The answers to one request.
#[derive(Clone, Debug)]
pub struct Tracker {
    level: Level,
    local: DataCenter,
    first: Answers,
    second: Option<Answers>,
    hint: Hint,
}

/// The answers of one replica set.
#[derive(Clone, Debug)]
struct Answers {
    set: Arc<ReplicaSet>,
    acknowledged: Slots,
    failed: Slots,
}

/// What became of the hint that level ANY is content with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hint {
    Possible,
    Durable,
    Refused,
}

/// Acknowledgements that a level still waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// How many.
    pub replicas: usize,
    /// From where, if only one data center counts.
    pub data_center: Option<DataCenter>,
}

impl Answers {
    fn of(set: &Arc<ReplicaSet>) -> Self {
        Self { set: Arc::clone(set), acknowledged: Slots::NONE, failed: Slots::NONE }
    }

    /// Those that have acknowledged, or may yet.
    fn hopeful(&self) -> Slots {
        self.set.all().without(self.failed.without(self.acknowledged))
    }

    fn terms<'a>(&'a self, level: Level, local: &'a DataCenter) -> impl Iterator<Item = Term<'a>> {
        level.requirement(&self.set, local).terms()
    }
}

impl Tracker {
    /// Counts towards `level` in every one of `sets`, for a coordinator in data center `local`.
    pub fn new(level: Level, sets: &ReplicaSets, local: DataCenter) -> Self {
        let first = Answers::of(sets.first());
        let second = sets.second().map(Answers::of);
        Self { level, local, first, second, hint: Hint::Possible }
    }

    /// A replica acknowledged. Duplicates and strangers change nothing. An acknowledgement outranks a failure of the
    /// same replica, in whichever order they come: what is durable is durable.
    pub fn ack(&mut self, node: NodeId) {
        for answers in self.answers_mut() {
            let slot = answers.set.slot_of(node);
            answers.acknowledged.add(slot);
        }
    }

    /// A replica will not acknowledge: it refused, or cannot be reached. A replica that is merely late has not failed.
    pub fn fail(&mut self, node: NodeId) {
        for answers in self.answers_mut() {
            let slot = answers.set.slot_of(node);
            answers.failed.add(slot);
        }
    }

    /// A hint for one of the replicas is durable: that is enough for ANY, and counts for no other level.
    pub fn hint_durable(&mut self) {
        self.hint = Hint::Durable;
    }

    /// No hint can be stored: ANY now depends on a replica.
    pub fn hint_refused(&mut self) {
        if self.hint == Hint::Possible {
            self.hint = Hint::Refused;
        }
    }

    /// Where the request stands.
    pub fn state(&self) -> State {
        if self.level == Level::Any && self.hint == Hint::Durable {
            return State::Met;
        }
        let mut met = true;
        let mut possible = true;
        for answers in self.answers() {
            let hopeful = answers.hopeful();
            for term in answers.terms(self.level, &self.local) {
                met &= term.holds(answers.acknowledged);
                possible &= term.holds(hopeful);
            }
        }
        let hint_may_do = self.level == Level::Any && self.hint == Hint::Possible;
        match (met, possible || hint_may_do) {
            (true, _) => State::Met,
            (false, true) => State::Pending,
            (false, false) => State::Impossible,
        }
    }

    /// The level that is counted towards.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Every replica that acknowledged, once.
    pub fn acknowledged(&self) -> impl Iterator<Item = NodeId> {
        self.distinct(|answers| answers.acknowledged)
    }

    /// Every replica that failed and did not acknowledge, once.
    pub fn failed(&self) -> impl Iterator<Item = NodeId> {
        self.distinct(|answers| answers.failed.without(answers.acknowledged))
    }

    /// Every replica not heard of, once.
    pub fn silent(&self) -> impl Iterator<Item = NodeId> {
        self.distinct(|answers| answers.set.all().without(answers.acknowledged).without(answers.failed))
    }

    /// What the level still waits for, over all sets; nothing once it is met.
    pub fn missing(&self) -> Vec<Missing> {
        if self.state() == State::Met {
            return Vec::new();
        }
        let mut missing = Vec::new();
        for answers in self.answers() {
            for term in answers.terms(self.level, &self.local) {
                let replicas = term.needed.saturating_sub(term.counted(answers.acknowledged));
                if replicas > 0 {
                    missing.push(Missing { replicas, data_center: term.data_center.cloned() });
                }
            }
        }
        missing
    }

    /// How many more replicas it takes at the least, for a person to read: one that is in both sets helps in both.
    pub fn short(&self) -> usize {
        if self.state() == State::Met {
            return 0;
        }
        let lacks = |answers: &Answers, term: &Term<'_>| term.needed.saturating_sub(term.counted(answers.acknowledged));
        let first = &self.first;
        let terms = first.terms(self.level, &self.local);
        let Some(second) = &self.second else { return terms.map(|term| lacks(first, &term)).sum() };
        let mut left: Vec<Term<'_>> = second.terms(self.level, &self.local).collect();
        let mut short = 0;
        for term in terms {
            let place = left.iter().position(|other| other.data_center == term.data_center);
            let (here, there, helpful) = match place.map(|place| left.swap_remove(place)) {
                None => (lacks(first, &term), 0, 0),
                Some(other) => {
                    let is_there = |node: &NodeId| other.slots.and(second.set.slot_of(*node)).count() > 0;
                    let silent = first.set.nodes_of(term.slots.without(first.acknowledged));
                    (lacks(first, &term), lacks(second, &other), silent.filter(is_there).count())
                }
            };
            short += here + there - here.min(there).min(helpful);
        }
        short + left.iter().map(|term| lacks(second, term)).sum::<usize>()
    }

    fn answers(&self) -> impl Iterator<Item = &Answers> {
        std::iter::once(&self.first).chain(&self.second)
    }

    fn answers_mut(&mut self) -> impl Iterator<Item = &mut Answers> {
        std::iter::once(&mut self.first).chain(&mut self.second)
    }

    fn distinct(&self, choose: impl Fn(&Answers) -> Slots) -> impl Iterator<Item = NodeId> {
        let (first, second) = (choose(&self.first), self.second.as_ref().map(&choose));
        let added = self.second.iter().zip(second).flat_map(|(answers, slots)| answers.set.nodes_of(slots));
        self.first.set.nodes_of(first).chain(added.filter(|node| !self.first.set.contains(*node)))
    }
}

/// Nobody can be asked so that the level is met.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotAsk {
    /// ANY is no level to read at.
    #[error(transparent)]
    ReadAtAny(#[from] ReadAtAny),
    /// Too few of the candidates are replicas that count.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Whom to ask for a read: the fewest of `candidates`, which come in the order of preference, that meet the level in
/// every set if all of them answer. The answer keeps the order of preference.
///
/// A node that counts in both sets is taken before better liked ones that count in one: no smaller choice exists,
/// because a data center's replicas count towards one term of each set only.
pub fn ask(
    level: Level,
    sets: &ReplicaSets,
    local: &DataCenter,
    candidates: &[NodeId],
) -> Result<Vec<NodeId>, CannotAsk> {
    let level = level.for_reading()?;
    level.check_alive(sets, local, |node| candidates.contains(&node))?;
    let mut chosen = Chosen::none_of(level, sets, local);
    if sets.second().is_some() {
        chosen.take(candidates, |useful, sets| useful == sets);
    }
    chosen.take(candidates, |useful, _| useful > 0);
    Ok(candidates.iter().copied().filter(|node| chosen.nodes.contains(node)).collect())
}

/// A growing choice of nodes and what it covers in each set.
struct Chosen<'a> {
    level: Level,
    local: &'a DataCenter,
    covered: Vec<(&'a ReplicaSet, Slots)>,
    nodes: Vec<NodeId>,
}

impl<'a> Chosen<'a> {
    fn none_of(level: Level, sets: &'a ReplicaSets, local: &'a DataCenter) -> Self {
        let covered = sets.iter().map(|set| (set.as_ref(), Slots::NONE)).collect();
        Self { level, local, covered, nodes: Vec::new() }
    }

    /// Adds, in order, those candidates that are wanted, by the number of sets they bring nearer to the level.
    fn take(&mut self, candidates: &[NodeId], wanted: impl Fn(usize, usize) -> bool) {
        for node in candidates {
            let useful = self.covered.iter().filter(|(set, slots)| self.brings_nearer(set, *slots, *node)).count();
            if wanted(useful, self.covered.len()) {
                self.nodes.push(*node);
                for (set, slots) in &mut self.covered {
                    slots.add(set.slot_of(*node));
                }
            }
        }
    }

    fn brings_nearer(&self, set: &ReplicaSet, covered: Slots, node: NodeId) -> bool {
        let added = set.slot_of(node).without(covered);
        self.level.requirement(set, self.local).terms().any(|term| term.counted(added) > 0 && !term.holds(covered))
    }
}
