//! Whatever begins, ends, is hinted, delivered or restarted, no watermark passes what is in flight.

use cube_storage::clock::Clock;
use cube_storage::engine::MemoryEngine;
use cube_storage::files::SimulatedFiles;
use cube_storage::hints::ReadLimits;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Mutation, NodeId, PartitionBits, Record, RowKey, TableId};
use cube_storage::{Identity, Store, StoreOptions};
use proptest::prelude::*;

use super::*;
use crate::cases::cases;
use crate::catalog::{Catalog, ClusterState};
use crate::handoff::{HandoffParts, HandoffSettings, HintKeeper, Missed};
use crate::topology::{Addresses, Member, MemberState, Topology, TopologyChange};

const THERE: NodeId = NodeId(0);
const TARGET: &str = "there";

/// A wall clock that goes where it is told.
#[derive(Default)]
struct Wall(Mutex<u64>);

impl Clock for Wall {
    fn wall_ms(&self) -> u64 {
        *self.0.lock()
    }
    fn monotonic_ms(&self) -> u64 {
        0
    }
}

/// A node as far as it holds a watermark down.
struct Node {
    wall: Arc<Wall>,
    files: SimulatedFiles,
    clock: Arc<NodeClock>,
    writes: Arc<UnderWay>,
    handoff: HintedHandoff,
}

impl Node {
    fn new() -> Self {
        let (wall, files) = (Arc::new(Wall::default()), SimulatedFiles::new());
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([7; 16]) };
        let store = Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap();
        let clock = NodeClock::new(NodeId(1), wall.clone(), Arc::new(store), 900_000).unwrap();
        let clock = Arc::new(clock);
        let (writes, handoff) = (UnderWay::new(clock.clone()), open(&files, &clock));
        Self { wall, files, clock, writes, handoff }
    }

    fn restart(&mut self) {
        self.writes = UnderWay::new(self.clock.clone());
        self.handoff = open(&self.files, &self.clock);
    }

    fn hint(&self, version: Version) {
        let row = Mutation {
            table: TableId(1),
            key: RowKey::of(format!("{}", version.hlc.0)),
            record: Record::value(version, "v"),
            claim: None,
        };
        let missed = Missed { target: THERE, mutations: vec![row], only_copy: true };
        self.handoff.keep(missed, Box::new(|kept| assert!(kept.is_ok())));
        self.handoff.flush();
    }

    /// The target takes the oldest hint. Its version.
    fn deliver(&self) -> Option<Version> {
        let log = self.handoff.hints().log(TARGET).unwrap();
        let batch = log.read(log.start(), ReadLimits { records: 1, bytes: 1 }).unwrap();
        let first = batch.hints.into_iter().next()?;
        log.acknowledge(first.after).unwrap();
        Some(first.hint.record.version)
    }

    fn watermark(&self) -> Hlc {
        watermark(&self.writes, &self.handoff).unwrap()
    }
}

fn open(files: &SimulatedFiles, clock: &Arc<NodeClock>) -> HintedHandoff {
    let member = Member {
        id: THERE,
        name: TARGET.into(),
        data_center: "a".into(),
        rack: "r".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    };
    let topology = Topology::new(PartitionBits::DEFAULT).after(&TopologyChange::Join(member)).unwrap();
    let catalog = Arc::new(Catalog::new(ClusterState { topology, schema: Default::default() }));
    let parts = HandoffParts {
        files: Arc::new(files.clone()),
        settings: HandoffSettings::default(),
        bits: PartitionBits::DEFAULT,
        catalog,
        clock: clock.clone(),
        wake: Box::new(|| {}),
    };
    HintedHandoff::open(parts).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    /// With a timestamp of the client's own, so long before the clock.
    BeginAt(u64),
    /// A write under way ends with all replicas.
    End(prop::sample::Index),
    /// A write under way ends with a hint.
    Hint(prop::sample::Index),
    Deliver,
    /// Wall clocks go on, and back.
    Wall(u64),
    Watermark,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Begin),
        1 => (0u64..500).prop_map(Step::BeginAt),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => any::<prop::sample::Index>().prop_map(Step::Hint),
        2 => Just(Step::Deliver),
        2 => (0u64..1_000).prop_map(Step::Wall),
        4 => Just(Step::Watermark),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_write_under_way_and_a_hint_always_hold_the_watermark_down(steps in prop::collection::vec(step(), 1..60)) {
        let mut node = Node::new();
        let mut under_way: Vec<(Version, Held)> = Vec::new();
        let mut hinted: Vec<Version> = Vec::new();
        let mut told = Hlc(0);
        for step in steps {
            match step {
                Step::Begin => {
                    let (version, held) = node.writes.begin(|| node.clock.stamp()).unwrap();
                    prop_assert!(version.hlc > told, "{version:?} begins below the watermark {told}");
                    under_way.push((version, held));
                }
                Step::BeginAt(before_ms) => {
                    // Below the lowest there is nothing that a watermark could say.
                    let at = Hlc::new(node.clock.peek().millis().saturating_sub(before_ms), 0).max(Hlc(1));
                    let version = Version::new(at, NodeId::CLIENT);
                    under_way.push(node.writes.begin(|| Ok::<_, ClockError>(version)).unwrap());
                }
                Step::End(which) => {
                    if !under_way.is_empty() {
                        under_way.swap_remove(which.index(under_way.len()));
                    }
                }
                Step::Hint(which) => {
                    if !under_way.is_empty() {
                        let (version, held) = under_way.swap_remove(which.index(under_way.len()));
                        if !node.writes.may_be_lost(version) {
                            prop_assert!(version.hlc > told, "{version:?} is hinted below the watermark {told}");
                            node.hint(version);
                            hinted.push(version);
                        }
                        drop(held);
                    }
                }
                Step::Deliver => {
                    if let Some(version) = node.deliver() {
                        hinted.retain(|hint| *hint != version);
                    }
                }
                Step::Wall(wall_ms) => *node.wall.0.lock() = wall_ms,
                Step::Watermark => {
                    let watermark = node.watermark();
                    let in_flight = under_way.iter().map(|(version, _)| version).chain(&hinted);
                    for version in in_flight {
                        prop_assert!(watermark < version.hlc, "{watermark} passes {version:?}");
                    }
                    told = told.max(watermark);
                }
                Step::Restart => {
                    under_way.clear();
                    node.restart();
                }
            }
        }
    }
}

#[test]
fn once_all_is_delivered_the_watermark_follows_the_clock() {
    let node = Node::new();
    *node.wall.0.lock() = 1_000;
    let (version, held) = node.writes.begin(|| node.clock.stamp()).unwrap();
    node.hint(version);
    drop(held);
    *node.wall.0.lock() = 5_000;
    assert_eq!(node.watermark(), before(version.hlc));
    assert_eq!(node.deliver(), Some(version));
    assert!(node.watermark() >= Hlc::new(5_000, 0));
}

#[test]
fn what_was_handed_over_to_another_node_still_counts_here() {
    let node = Node::new();
    *node.wall.0.lock() = 1_000;
    node.handoff.note_handed_over(Hlc::new(400, 0));
    node.handoff.note_handed_over(Hlc::new(600, 0));
    assert_eq!(node.watermark(), before(Hlc::new(400, 0)));
}
