//! Any answers in any order, driven as the operation drives a group: the invariants of a write, counted independently.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cases::cases;
use crate::coordinator::testing::set;
use crate::topology::ReplicaSet;

/// What a replica answers.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Applied,
    Present,
    Superseded(u64),
    BelowFloor(u64),
    Fenced,
    Failed,
}

/// One thing that happens: an answer or a note that is outstanding comes in.
type Event = (Index, Reply, NoteFate);

#[derive(Clone, Copy, Debug)]
enum NoteFate {
    Hint,
    Mark,
    Refused,
}

/// A group and what its operation would know.
struct Run {
    group: Group,
    level: Level,
    by_client: bool,
    old: Arc<ReplicaSet>,
    new: Option<Arc<ReplicaSet>>,
    dead: BTreeSet<NodeId>,
    epoch: u64,
    /// Nodes whose answer to this round is outstanding.
    sent: Vec<NodeId>,
    /// Notes that are outstanding.
    notes: Vec<(NodeId, bool)>,
    /// What each replica answered in this round.
    answers: BTreeMap<NodeId, Reply>,
    /// Who acknowledged the present version by older maps.
    held: BTreeSet<NodeId>,
    /// Somebody may have taken it by an older map without saying so, or may be brought it by a hint.
    may_be_held: bool,
    noted: Vec<NodeId>,
    hint_for_any: bool,
    restamps: u32,
    reroutes: u32,
    done: Option<Result<Written, RequestError>>,
}

impl Run {
    fn new(level: Level, by_client: bool, shape: (&str, Option<&str>), dead: u8) -> Self {
        let (old, new) = (set(shape.0), shape.1.map(set));
        let map = shape.1.map_or_else(|| stable(shape.0, 5), |new| changing(shape.0, new, 5));
        let source = if by_client { Source::Client(version(10)) } else { Source::Clock(version(10)) };
        let group = group_by(&map, level, source);
        let dead = (0..8).filter(|node| dead & (1 << node) != 0).map(NodeId).collect();
        let mut run = Self {
            group,
            level,
            by_client,
            old,
            new,
            dead,
            epoch: 5,
            sent: Vec::new(),
            notes: Vec::new(),
            answers: BTreeMap::new(),
            held: BTreeSet::new(),
            may_be_held: false,
            noted: Vec::new(),
            hint_for_any: false,
            restamps: 0,
            reroutes: 0,
            done: None,
        };
        run.dispatch();
        run
    }

    fn dispatch(&mut self) {
        self.sent.clear();
        self.notes.clear();
        self.answers.clear();
        self.noted.clear();
        self.hint_for_any = false;
        for node in self.group.replicas() {
            if self.dead.contains(&node) {
                self.group.skip(node);
                self.notes.push((node, self.level == Level::Any));
            } else {
                self.sent.push(node);
            }
        }
    }

    fn happen(&mut self, (index, reply, fate): Event) {
        let outstanding = self.sent.len() + self.notes.len();
        if outstanding == 0 {
            return;
        }
        let place = index.index(outstanding);
        let step = if place < self.sent.len() {
            let node = self.sent.remove(place);
            self.answer(node, reply)
        } else {
            let (node, only_copy) = self.notes.remove(place - self.sent.len());
            self.note(node, only_copy, fate)
        };
        self.take(step);
    }

    fn answer(&mut self, node: NodeId, reply: Reply) -> Step {
        self.answers.insert(node, reply);
        let now = self.group.version.hlc.0;
        match reply {
            Reply::Applied => answer(&mut self.group, node.0, Outcome::Applied),
            Reply::Present => answer(&mut self.group, node.0, Outcome::Present),
            Reply::Superseded(hlc) => superseded(&mut self.group, node.0, now + hlc),
            Reply::BelowFloor(above) => answer(&mut self.group, node.0, Outcome::BelowFloor(Hlc(now + above))),
            Reply::Fenced => fenced(&mut self.group, node.0, self.epoch + 1),
            Reply::Failed => timed_out(&mut self.group, node.0),
        }
    }

    fn note(&mut self, node: NodeId, only_copy: bool, fate: NoteFate) -> Step {
        let kept = match fate {
            NoteFate::Refused => Err(NotKept { target: node, cause: "no room".into() }),
            NoteFate::Mark if !only_copy => Ok(Kept::Mark),
            NoteFate::Hint | NoteFate::Mark => Ok(Kept::Hint),
        };
        // Once the client was told, there is nothing left to do for one that is refused.
        if kept.is_ok() || self.done.is_some() {
            self.noted.push(node);
        }
        self.hint_for_any |= kept.is_ok() && only_copy;
        self.group.on_noted(node, only_copy, kept)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Note { node, only_copy } => {
                assert!(!self.notes.iter().any(|(noted, _)| *noted == node), "{node} is noted twice at once");
                self.notes.push((node, only_copy));
            }
            Step::Restamp(newer) => {
                self.restamps += 1;
                assert!(!self.by_client, "the client's version was replaced");
                assert!(self.restamps == 1, "stamped more than once");
                assert!(self.done.is_none());
                let told = self.answers.values().filter_map(|reply| match reply {
                    Reply::Superseded(hlc) | Reply::BelowFloor(hlc) => Some(10 + hlc),
                    _ => None,
                });
                assert_eq!(told.max(), Some(newer.hlc.0), "it must end above all that was told");
                self.held.clear();
                self.group.restamp(Version::new(newer.hlc.next(), n(0)), newer);
                self.dispatch();
            }
            Step::Reroute(epoch) => {
                self.reroutes += 1;
                self.epoch = epoch.0;
                self.held.extend(self.holders());
                self.may_be_held |= self.is_open();
                let map = PartitionMap::stable(self.old.clone(), epoch);
                if self.group.reroute(&map) {
                    self.new = None;
                    self.dispatch();
                } else {
                    let step = self.group.give_up();
                    self.take(step);
                }
            }
            Step::Done(result) => {
                assert!(self.done.is_none(), "the client was told twice");
                match &result {
                    Ok(written) => {
                        self.check_success(written);
                        let notes = self.group.note_failed();
                        notes.into_iter().for_each(|note| self.take(note));
                    }
                    Err(RequestError::Unknown(incomplete)) => {
                        let told: BTreeSet<_> = incomplete.acknowledged_by.iter().copied().collect();
                        assert_eq!(told, &self.held | &self.holders(), "who holds it, by whichever map");
                    }
                    Err(RequestError::BelowFloor { .. }) => {
                        assert!(self.by_client, "the coordinator's own stamps are never refused");
                        assert!(self.held.is_empty() && !self.may_be_held && !self.is_open(), "it may take effect");
                    }
                    Err(_) => {}
                }
                self.done = Some(result);
            }
        }
    }

    /// Who holds the rows of this round, or something newer.
    fn holders(&self) -> BTreeSet<NodeId> {
        let holds = |reply: &Reply| matches!(reply, Reply::Applied | Reply::Present | Reply::Superseded(_));
        self.answers.iter().filter(|(_, reply)| holds(reply)).map(|(node, _)| *node).collect()
    }

    /// Whether somebody holds the rows of this round, may hold them without having said so, or may be brought them.
    fn is_open(&self) -> bool {
        let is_no = |node: &NodeId| match self.answers.get(node) {
            Some(Reply::BelowFloor(_)) => true,
            Some(Reply::Fenced) => !self.hint_for_any,
            _ => false,
        };
        self.group.replicas().iter().any(|node| !is_no(node))
    }

    fn check_success(&self, written: &Written) {
        let holders = self.holders();
        assert_eq!(written.acknowledged_by.iter().copied().collect::<BTreeSet<_>>(), holders);
        for set in [Some(&self.old), self.new.as_ref()].into_iter().flatten() {
            let held = set.matching(|node| holders.contains(&node));
            let met = self.level.requirement(set, &"a".into()).holds(held);
            assert!(met || (self.level == Level::Any && self.hint_for_any), "{holders:?} do not meet {}", self.level);
        }
        for node in &self.dead {
            let owed = self.group.replicas().contains(node);
            assert!(!owed || self.noted.contains(node), "{node} is down and not noted");
        }
        let told_of_newer = self.answers.values().any(|reply| matches!(reply, Reply::Superseded(_)));
        assert!(!told_of_newer || self.by_client || self.restamps == 1, "a newer version was passed over");
    }

    /// The time is over, then everything outstanding ends.
    fn end(&mut self) {
        for step in self.group.on_deadline() {
            self.take(step);
        }
        let ended = self.done.as_ref().expect("the client is told by the deadline").is_ok();
        for node in std::mem::take(&mut self.sent) {
            let step = self.answer(node, Reply::Failed);
            self.take(step);
        }
        while let Some((node, only_copy)) = self.notes.pop() {
            let step = self.note(node, only_copy, NoteFate::Hint);
            self.take(step);
        }
        if ended {
            let holders = self.holders();
            for node in self.group.replicas() {
                let times = self.noted.iter().filter(|noted| **noted == node).count();
                assert!(times <= 1, "{node} is noted {times} times");
                assert!(times == 1 || holders.contains(&node), "{node} misses the write, and that is not noted");
            }
        }
    }
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        8 => Just(Reply::Applied),
        1 => Just(Reply::Present),
        3 => (1u64..100).prop_map(Reply::Superseded),
        2 => (0u64..100).prop_map(Reply::BelowFloor),
        2 => Just(Reply::Fenced),
        3 => Just(Reply::Failed),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![4 => Just(NoteFate::Hint), 2 => Just(NoteFate::Mark), 1 => Just(NoteFate::Refused)];
    (any::<Index>(), reply(), fate)
}

const SHAPES: [(&str, Option<&str>); 7] = [
    ("a1", None),
    ("a1 a2 a3", None),
    ("a1 a2 a3 a4 a5", None),
    ("a1 a2 a3 b4 b5", None),
    ("a1 a2 a3", Some("a1 a2 a4")),
    ("a1 a2 a3", Some("a1 a2 a3 a4 a5")),
    ("a1 a2 a3 a4 a5", Some("a1 a2 a3")),
];

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn whatever_is_answered_in_whatever_order_a_write_keeps_its_promises(
        level in prop::sample::select(Level::EVERY.to_vec()),
        by_client in any::<bool>(),
        shape in prop::sample::select(SHAPES.to_vec()),
        dead in prop_oneof![2 => Just(0u8), 1 => any::<u8>()],
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut run = Run::new(level, by_client, shape, dead);
        for event in events {
            run.happen(event);
        }
        run.end();
        prop_assert!(run.reroutes <= REROUTES_MAX + 1);
    }
}
