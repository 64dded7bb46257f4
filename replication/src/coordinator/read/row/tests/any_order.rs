//! Any answers in any order, from replicas that really hold something: the invariants of a read, counted independently.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cases::cases;
use crate::coordinator::testing::set;
use crate::topology::ReplicaSet;

/// Whether what is outstanding comes in well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    /// It comes in well, but for the record: the reply has no room for it.
    NoRoom,
    Lost,
    Fenced,
    /// It is late, and comes in some time later.
    Late,
}

#[derive(Clone, Copy, Debug)]
enum Outstanding {
    Read(NodeId, Want),
    Repair(NodeId),
}

struct Run {
    row: Row,
    everybody: bool,
    level: Level,
    read: Arc<ReplicaSet>,
    written: Vec<Arc<ReplicaSet>>,
    held: BTreeMap<NodeId, Option<Record>>,
    first_held: BTreeSet<Vec<u8>>,
    /// Those that told something by the present map, and failed nothing since.
    told: BTreeSet<NodeId>,
    outstanding: Vec<Outstanding>,
    bringing: Option<Record>,
    epoch: u64,
    lost: bool,
    repairs: usize,
    done: Option<Result<Option<Record>, RequestError>>,
}

impl Run {
    fn new(level: Level, everybody: bool, shape: (&str, Option<&str>), held: BTreeMap<NodeId, Option<Record>>) -> Self {
        let map = shape.1.map_or_else(|| stable(shape.0, 6), |new| changing(shape.0, new, 6));
        let row = Row::new(TableId(1), RowKey::of("k"), PartitionId(0), &map, level, &"a".into());
        let first_held = held.values().flatten().map(|record| record.encode(b"k").to_vec()).collect();
        let mut run = Self {
            row,
            everybody,
            level,
            read: set(shape.0),
            written: [Some(set(shape.0)), shape.1.map(set)].into_iter().flatten().collect(),
            held,
            first_held,
            told: BTreeSet::new(),
            outstanding: Vec::new(),
            bringing: None,
            epoch: 6,
            lost: false,
            repairs: 0,
            done: None,
        };
        run.begin();
        run
    }

    fn begin(&mut self) {
        let candidates = self.row.replicas();
        let newcomers = self.row.newcomers();
        let mut step = self.row.begin(candidates, newcomers);
        if let (true, Step::Ask(asks)) = (self.everybody, &mut step) {
            asks.extend(self.row.ask_rest());
        }
        self.take(step);
    }

    fn happen(&mut self, place: usize, fate: Fate) {
        if let (Fate::Late, Some(Outstanding::Read(node, _))) = (fate, self.outstanding.get(place)) {
            let step = self.row.on_slow(&[*node]);
            return self.take(step);
        }
        let outstanding = self.outstanding.remove(place);
        self.lost |= matches!(fate, Fate::Lost | Fate::Fenced);
        let step = match outstanding {
            Outstanding::Read(node, want) => self.read(node, want, fate),
            Outstanding::Repair(node) => self.repair(node, fate),
        };
        self.take(step);
    }

    fn read(&mut self, node: NodeId, want: Want, fate: Fate) -> Step {
        if let Some(failure) = self.failure(node, fate) {
            // What it told before the newest record was known still counts.
            if self.bringing.is_none() {
                self.told.remove(&node);
            }
            return self.row.on_failure(node, failure);
        }
        self.told.insert(node);
        let held = self.held.get(&node).cloned().flatten();
        let want = if fate == Fate::NoRoom { Want::Header } else { want };
        self.row.on_found(node, found(held.as_ref(), want))
    }

    fn repair(&mut self, node: NodeId, fate: Fate) -> Step {
        if let Some(failure) = self.failure(node, fate) {
            return self.row.on_repaired(node, Err(failure));
        }
        let brought = self.bringing.clone().expect("something is brought");
        let held = self.held.entry(node).or_default();
        let outcome = match held {
            Some(held) if *held == brought => Outcome::Present,
            Some(held) if held.supersedes(&brought) => Outcome::Superseded(held.version),
            _ => {
                *held = Some(brought);
                Outcome::Applied
            }
        };
        self.row.on_repaired(node, Ok(outcome))
    }

    fn failure(&self, node: NodeId, fate: Fate) -> Option<Failure> {
        match fate {
            Fate::Well | Fate::NoRoom | Fate::Late => None,
            Fate::Lost => Some(timed_out(node.0)),
            Fate::Fenced => Some(Failure::Fenced(Epoch(self.epoch + 1))),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Ask(asks) => {
                assert!(!asks.is_empty(), "nobody is asked");
                self.outstanding.extend(asks.into_iter().map(|(node, want)| Outstanding::Read(node, want)));
            }
            Step::Repair { record, targets, .. } => {
                assert!(!targets.is_empty(), "nobody is brought anything");
                self.repairs += targets.len();
                self.bringing = Some(record);
                self.outstanding.extend(targets.into_iter().map(Outstanding::Repair));
            }
            Step::Reroute(epoch) => {
                // Replicas no longer change, and those of the second set were given up.
                self.epoch = epoch.0;
                self.outstanding.clear();
                self.told.clear();
                self.bringing = None;
                self.written.truncate(1);
                if self.row.reroute(&PartitionMap::stable(self.read.clone(), epoch)) {
                    self.begin();
                } else {
                    let step = self.row.give_up(false);
                    self.take(step);
                }
            }
            Step::Done(result) => {
                assert!(self.done.is_none(), "the client was told twice");
                if let Ok(record) = &result {
                    self.check_answer(record.as_ref());
                }
                self.done = Some(result);
            }
        }
    }

    fn check_answer(&self, answer: Option<&Record>) {
        let meets = |set: &ReplicaSet, which: &dyn Fn(NodeId) -> bool| {
            self.level.requirement(set, &"a".into()).holds(set.matching(which))
        };
        let held = |node: &NodeId| self.held.get(node).and_then(Option::as_ref);
        let not_newer = |node: NodeId| match (held(&node), answer) {
            (None, _) => true,
            (Some(held), Some(answer)) => !held.supersedes(answer),
            (Some(_), None) => false,
        };
        let told_nothing_newer = |node: NodeId| self.told.contains(&node) && not_newer(node);
        assert!(meets(&self.read, &told_nothing_newer), "{answer:?} is not what a quorum of {:?} says", self.held);
        let Some(answer) = answer else { return };
        assert!(self.first_held.contains(answer.encode(b"k").as_ref()), "{answer:?} is invented");
        if matches!(self.level, Level::One | Level::LocalOne) {
            return assert_eq!(self.repairs, 0, "a read at ONE brings nobody up to date");
        }
        let holds = |node: NodeId| held(&node).is_some_and(|held| !answer.supersedes(held));
        for set in &self.written {
            assert!(meets(set, &holds), "a later read by {set:?} may not see {answer:?} in {:?}", self.held);
        }
    }
}

fn record() -> impl Strategy<Value = Option<Record>> {
    let value = prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        1 => Just(None),
        4 => (1u64..4, value).prop_map(|(hlc, text)| Some(value_of(hlc, text))),
        1 => (1u64..4).prop_map(|hlc| Some(Record::tombstone(version(hlc)))),
    ]
}

fn value_of(hlc: u64, text: &'static str) -> Record {
    super::value(hlc, text)
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Well), 2 => Just(Fate::NoRoom), 2 => Just(Fate::Lost), 1 => Just(Fate::Fenced), 2 => Just(Fate::Late)]
}

const SHAPES: [(&str, Option<&str>); 8] = [
    ("a0", None),
    ("a0 a1 a2", None),
    ("a0 a1 a2 a3 a4", None),
    ("a0 a1 a2 b3 b4", None),
    ("a0 a1 a2", Some("a0 a1 a3")),
    ("a0 a1 a2", Some("a3 a4 a5")),
    ("a0", Some("a0 a1 a2")),
    ("a0 a1 a2 a3 a4", Some("a0 a1 a2")),
];

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn whatever_is_answered_in_whatever_order_a_read_keeps_its_promises(
        level in prop::sample::select(Level::EVERY[1..].to_vec()),
        everybody in any::<bool>(),
        shape in prop::sample::select(SHAPES.to_vec()),
        held in prop::collection::vec(record(), 6),
        events in prop::collection::vec(
            (any::<Index>(), fate()),
            0..60,
        ),
    ) {
        let held = held.into_iter().enumerate().map(|(node, record)| (NodeId(node as u16), record)).collect();
        let mut run = Run::new(level, everybody, shape, held);
        for (index, fate) in events {
            if !run.outstanding.is_empty() {
                run.happen(index.index(run.outstanding.len()), fate);
            }
        }
        while !run.outstanding.is_empty() {
            run.happen(0, Fate::Well);
        }
        prop_assert!(run.done.is_some(), "it waits for nobody until its deadline");
        let reachable = level.check_alive(&ReplicaSets::one(run.read.clone()), &"a".into(), |_| true).is_ok()
            && run.written.iter().all(|set| level.check_alive(&ReplicaSets::one(set.clone()), &"a".into(), |_| true).is_ok());
        prop_assert!(run.lost || !reachable || matches!(run.done, Some(Ok(_))), "nothing was lost: {:?}", run.done);
    }
}
