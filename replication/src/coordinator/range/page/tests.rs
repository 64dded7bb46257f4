//! Any answers in any order, from replicas that really hold something: the invariants of a page, counted independently.

use std::collections::BTreeSet;
use std::sync::Arc;

use cube_storage::model::{Record, RowKey};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cases::cases;
use crate::coordinator::testing::{changing, n, set, stable, version};
use crate::topology::ReplicaSet;
use crate::transport::PeerError;

/// The version of each row that a replica holds, by sort key.
type Held = BTreeMap<u8, u64>;

/// Whether what is outstanding comes in well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    Lost,
    Fenced,
    /// It is late, and comes in some time later.
    Late,
    /// It comes in well, twice.
    Twice,
}

#[derive(Clone, Debug)]
enum Outstanding {
    Page(NodeId),
    Repair(NodeId, Vec<Row>),
}

struct Run {
    page: Page,
    level: Level,
    bounds: Bounds,
    read: Arc<ReplicaSet>,
    written: Vec<Arc<ReplicaSet>>,
    held: BTreeMap<NodeId, Held>,
    first_held: BTreeSet<(u8, u64)>,
    /// What replicas held of the rows when they told, by the present map.
    told: BTreeSet<NodeId>,
    outstanding: Vec<Outstanding>,
    epoch: u64,
    lost: bool,
    repairs: usize,
    done: Option<Result<(Vec<Row>, bool), RequestError>>,
}

fn row(sort: u8, hlc: u64) -> Row {
    Row { key: RowKey::with_sort("p", vec![sort]), record: Record::value(version(hlc), vec![sort, hlc as u8]) }
}

fn place(row: &Row) -> (u8, u64) {
    (row.key.sort[0], row.record.version.hlc.0)
}

impl Run {
    fn new(level: Level, bounds: Bounds, shape: (&str, Option<&str>), held: BTreeMap<NodeId, Held>) -> Self {
        let map = shape.1.map_or_else(|| stable(shape.0, 6), |new| changing(shape.0, new, 6));
        let mut run = Self {
            page: Page::new(&map, level, &"a".into(), bounds),
            level,
            bounds,
            read: set(shape.0),
            written: [Some(set(shape.0)), shape.1.map(set)].into_iter().flatten().collect(),
            first_held: held.values().flatten().map(|(sort, hlc)| (*sort, *hlc)).collect(),
            held,
            told: BTreeSet::new(),
            outstanding: Vec::new(),
            epoch: 6,
            lost: false,
            repairs: 0,
            done: None,
        };
        run.begin();
        run
    }

    fn begin(&mut self) {
        let step = self.page.begin(self.page.replicas(), self.page.newcomers());
        self.take(step);
    }

    fn happen(&mut self, place: usize, fate: Fate) {
        if let (Fate::Late, Some(Outstanding::Page(node))) = (fate, self.outstanding.get(place)) {
            let step = self.page.on_slow(&[*node]);
            return self.take(step);
        }
        self.lost |= matches!(fate, Fate::Lost | Fate::Fenced);
        let failure = |node: NodeId, epoch: u64| match fate {
            Fate::Well | Fate::Late | Fate::Twice => None,
            Fate::Lost => Some(Failure::Peer(PeerError::TimedOut { peer: node })),
            Fate::Fenced => Some(Failure::Fenced(Epoch(epoch + 1))),
        };
        match self.outstanding.remove(place) {
            Outstanding::Page(node) => {
                let step = match failure(node, self.epoch) {
                    Some(failure) => self.page.on_failure(node, failure),
                    None => self.tell(node),
                };
                self.take(step);
                if fate == Fate::Twice && self.done.is_none() {
                    let step = self.tell(node);
                    assert_eq!(step, Step::Nothing, "a page that comes twice counts once");
                }
            }
            Outstanding::Repair(node, rows) => {
                let failure = failure(node, self.epoch);
                if failure.is_none() {
                    let held = self.held.entry(node).or_default();
                    for (sort, hlc) in rows.iter().map(super::tests::place) {
                        let newest = held.entry(sort).or_default();
                        *newest = (*newest).max(hlc);
                    }
                }
                let step = self.page.on_repaired(node, failure.map_or(Ok(()), Err));
                self.take(step);
            }
        }
    }

    fn tell(&mut self, node: NodeId) -> Step {
        self.told.insert(node);
        let held = self.held.get(&node).into_iter().flatten();
        let mut rows: Vec<Row> = held.map(|(sort, hlc)| row(*sort, *hlc)).collect();
        if self.bounds.backward {
            rows.reverse();
        }
        let more = rows.len() > self.bounds.rows_max;
        rows.truncate(self.bounds.rows_max);
        self.page.on_page(node, (rows, more), Hlc(3))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Ask(nodes) => {
                assert!(!nodes.is_empty(), "nobody is asked");
                self.outstanding.extend(nodes.into_iter().map(Outstanding::Page));
            }
            Step::Repair { targets, .. } => {
                assert!(!targets.is_empty(), "nobody is brought anything");
                self.repairs += targets.len();
                self.outstanding.extend(targets.into_iter().map(|(node, rows)| Outstanding::Repair(node, rows)));
            }
            Step::Reroute(epoch) => {
                // Replicas no longer change, and those of the second set were given up.
                self.epoch = epoch.0;
                self.outstanding.clear();
                self.told.clear();
                self.written.truncate(1);
                if self.page.reroute(&PartitionMap::stable(self.read.clone(), epoch)) {
                    self.begin();
                } else {
                    let step = self.page.give_up(false);
                    self.take(step);
                }
            }
            Step::Done(result) => {
                assert!(self.done.is_none(), "the client was told twice");
                if let Ok((rows, more)) = &result {
                    self.check_answer(rows, *more);
                }
                self.done = Some(result);
            }
        }
    }

    fn check_answer(&self, rows: &[Row], more: bool) {
        let meets = |set: &ReplicaSet, which: &dyn Fn(NodeId) -> bool| {
            self.level.requirement(set, &"a".into()).holds(set.matching(which))
        };
        let last = rows.last().map(|row| row.key.sort[0]);
        let is_covered = |sort: u8| match last.filter(|_| more) {
            None => !more,
            Some(last) => {
                if self.bounds.backward {
                    sort >= last
                } else {
                    sort <= last
                }
            }
        };
        assert!(!more || !rows.is_empty(), "a page that is not the last gets on");
        assert!(rows.iter().map(place).all(|place| self.first_held.contains(&place)), "a row is invented");
        let held = |node: NodeId, sort: u8| self.held.get(&node).and_then(|held| held.get(&sort)).copied();
        for sort in (0..SORTS).filter(|sort| is_covered(*sort)) {
            let answer = rows.iter().map(place).find(|(other, _)| *other == sort).map(|(_, hlc)| hlc);
            let told_nothing_newer = |node: NodeId| self.told.contains(&node) && held(node, sort) <= answer;
            assert!(meets(&self.read, &told_nothing_newer), "{answer:?} of {sort} is not what a quorum says");
            let Some(answer) = answer else { continue };
            if matches!(self.level, Level::One | Level::LocalOne) {
                assert_eq!(self.repairs, 0, "a read at ONE brings nobody up to date");
                continue;
            }
            for set in &self.written {
                let holds = |node: NodeId| held(node, sort) >= Some(answer);
                assert!(meets(set, &holds), "a later read by {set:?} may not see {answer} of {sort}");
            }
        }
    }
}

/// Sort keys that rows may have.
const SORTS: u8 = 6;

const SHAPES: [(&str, Option<&str>); 7] = [
    ("a0", None),
    ("a0 a1 a2", None),
    ("a0 a1 a2 b3 b4", None),
    ("a0 a1 a2", Some("a0 a1 a3")),
    ("a0 a1 a2", Some("a3 a4 a5")),
    ("a0", Some("a0 a1 a2")),
    ("a0 a1 a2 a3 a4", Some("a0 a1 a2")),
];

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Well),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Fenced),
        2 => Just(Fate::Late),
        1 => Just(Fate::Twice),
    ]
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn whatever_is_answered_in_whatever_order_a_page_keeps_its_promises(
        level in prop::sample::select(Level::EVERY[1..].to_vec()),
        shape in prop::sample::select(SHAPES.to_vec()),
        (backward, rows_max) in (any::<bool>(), 1usize..8),
        held in prop::collection::vec(prop::collection::btree_map(0..SORTS, 1u64..4, 0..5), 6),
        events in prop::collection::vec((any::<Index>(), fate()), 0..60),
    ) {
        let held = held.into_iter().enumerate().map(|(node, held)| (n(node as u16), held)).collect();
        let bounds = Bounds { backward, rows_max, bytes_max: usize::MAX };
        let mut run = Run::new(level, bounds, shape, held);
        for (index, fate) in events {
            if !run.outstanding.is_empty() && run.done.is_none() {
                run.happen(index.index(run.outstanding.len()), fate);
            }
        }
        while !run.outstanding.is_empty() && run.done.is_none() {
            run.happen(0, Fate::Well);
        }
        prop_assert!(run.done.is_some(), "it waits for nobody until its deadline");
        let in_reach = |set: &Arc<ReplicaSet>| level.check_alive(&ReplicaSets::one(set.clone()), &"a".into(), |_| true).is_ok();
        let reachable = in_reach(&run.read) && run.written.iter().all(in_reach);
        prop_assert!(run.lost || !reachable || matches!(run.done, Some(Ok(_))), "nothing was lost: {:?}", run.done);
    }
}
