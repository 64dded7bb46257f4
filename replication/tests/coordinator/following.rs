//! The worker that follows the hard state, on real replicas: who copies from whom before it calls itself in sync, and which
//! marks it takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_replication::catalog::ClusterState;
use cube_replication::lifecycle::{FollowParts, Follower, MoveDone, MoveReport, Newest};
use cube_replication::topology::TopologyChange;
use cube_replication::worker::{Step, Worker};
use cube_storage::model::{NodeId, PartitionId, Record, RowKey, TableId};
use cube_storage::{SyncState, UnsyncedCause};
use parking_lot::Mutex;

use super::cluster::{BITS, Cluster, PLACEMENT, TABLE_ID, n};
use super::node::Node;

const KEY: &str = "k";
const DAMAGED_LOG: SyncState = SyncState::Unsynced(UnsyncedCause::DamagedLog);

fn partition() -> PartitionId {
    BITS.partition_of(RowKey::of(KEY).token())
}

/// A cluster whose nodes follow its state.
struct Following {
    cluster: Cluster,
    followers: BTreeMap<NodeId, Follower>,
    newest: Arc<Mutex<Arc<ClusterState>>>,
    reports: Arc<Mutex<BTreeSet<MoveReport>>>,
    now_ms: u64,
}

impl Following {
    fn of(written: &str) -> Self {
        let mut cluster = Cluster::of(written);
        for node in cluster.nodes.keys().copied().collect::<Vec<_>>() {
            // Those in brackets hold nothing yet, and may.
            cluster.change(&TopologyChange::SetWeight { node, weight: 1 });
        }
        cluster.nodes.values().for_each(|node| node.learn(&cluster.state));
        let newest = Arc::new(Mutex::new(Arc::new(cluster.state.clone())));
        let reports = Arc::new(Mutex::new(BTreeSet::new()));
        let follow = |node: &Node| {
            let (newest, reports) = (Arc::clone(&newest), Arc::clone(&reports));
            Follower::new(FollowParts {
                me: node.id,
                store: Arc::clone(&node.store),
                clock: Arc::clone(&node.clock),
                catalog: Arc::clone(&node.catalog),
                coordinator: Arc::clone(&node.coordinator),
                transport: cluster.network.transport(node.id),
                newest: Box::new(move || Newest { state: newest.lock().clone(), next_table: TableId(TABLE_ID.0 + 1) }),
                report: Box::new(move |told| reports.lock().extend(told)),
                wake: Arc::new(|| {}),
            })
        };
        let followers = cluster.nodes.iter().map(|(id, node)| (*id, follow(node))).collect();
        Self { cluster, followers, newest, reports, now_ms: 0 }
    }

    /// Begins a move of the row's partition; nobody has heard of it.
    fn move_to(&mut self, replicas: &[u16]) {
        let replicas = replicas.iter().copied().map(NodeId).collect();
        let state =
            self.cluster.change(&TopologyChange::BeginMove { placement: PLACEMENT, partition: partition(), replicas });
        *self.newest.lock() = Arc::new(state);
    }

    fn step(&mut self, node: u16) -> Step {
        self.followers.get_mut(&n(node)).unwrap().step(self.now_ms).unwrap()
    }

    /// Everybody steps, now and then, for so long.
    fn pass_s(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            let ids: Vec<NodeId> = self.followers.keys().copied().collect();
            for id in ids {
                self.step(id.0);
            }
            self.cluster.pass_ms(100);
            self.now_ms += 100;
        }
    }

    fn mark(&self, node: u16, sync: SyncState) {
        self.cluster.node(node).store.set_sync(PLACEMENT, partition(), sync).unwrap();
    }

    fn sync(&self, node: u16) -> SyncState {
        self.cluster.node(node).store.partition(PLACEMENT, partition()).sync
    }

    fn caught_up(&self) -> Vec<u16> {
        let reports = self.reports.lock();
        reports.iter().filter(|report| report.done == MoveDone::CaughtUp).map(|report| report.node.0).collect()
    }

    fn holds(&self, node: u16) -> bool {
        self.cluster.node(node).held(&RowKey::of(KEY)).is_some()
    }

    /// Puts the row on one replica alone: a write that another one acknowledged too, and lost.
    fn plant(&self, node: u16) {
        let record = Record::value(self.cluster.version(20), "v");
        self.cluster.plant(node, RowKey::of(KEY), record);
    }
}

#[test]
fn those_that_stay_and_those_that_come_copy_from_a_quorum_and_say_so() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    following.plant(0);
    following.plant(2);
    following.move_to(&[0, 1, 3]);
    following.pass_s(2);
    assert_eq!(following.caught_up(), [0, 1, 3]);
    assert!([0, 1, 3].into_iter().all(|node| following.holds(node) && following.sync(node) == SyncState::Synced));
}

#[test]
fn a_damaged_replica_that_stays_is_in_sync_only_after_a_copy_from_a_quorum_of_the_others() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    // Node 0 acknowledged the row too, and lost it.
    following.plant(2);
    following.mark(0, DAMAGED_LOG);
    following.move_to(&[0, 1, 3]);
    following.cluster.kill(2);
    following.pass_s(3);
    assert_eq!((following.sync(0), following.holds(0)), (DAMAGED_LOG, false), "it counted itself");
    assert!(!following.caught_up().contains(&0));
    following.cluster.revive(2);
    following.pass_s(5);
    assert_eq!((following.sync(0), following.holds(0)), (SyncState::Synced, true));
    assert_eq!(following.caught_up(), [0, 1, 3]);
}

#[test]
fn a_damaged_replica_that_was_the_only_one_stays_so_and_nobody_copies_from_it() {
    let mut following = Following::of("a0 (a1) (a2)");
    following.mark(0, DAMAGED_LOG);
    following.move_to(&[0, 1, 2]);
    following.pass_s(3);
    assert_eq!(following.sync(0), DAMAGED_LOG);
    assert_eq!(following.caught_up(), []);
    // Once it is whole again the move goes on.
    following.mark(0, SyncState::Synced);
    following.pass_s(5);
    assert_eq!(following.caught_up(), [0, 1, 2]);
}

#[test]
fn damage_that_is_found_while_a_copy_is_made_stays_marked_until_another_copy() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    following.mark(0, DAMAGED_LOG);
    following.move_to(&[0, 1, 3]);
    for node in [1, 2, 3, 0] {
        following.step(node);
        following.step(node);
    }
    let operator = SyncState::Unsynced(UnsyncedCause::Operator);
    following.mark(0, operator);
    following.cluster.settle();
    assert_eq!(following.sync(0), operator, "the copy began before the mark");
    following.pass_s(3);
    assert_eq!(following.sync(0), SyncState::Synced);
}

#[test]
fn a_replica_that_is_marked_after_its_copy_does_not_say_any_more_that_it_caught_up() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    following.move_to(&[0, 1, 3]);
    following.pass_s(2);
    assert_eq!(following.caught_up(), [0, 1, 3]);
    following.cluster.kill(2);
    following.mark(0, DAMAGED_LOG);
    following.reports.lock().clear();
    following.pass_s(3);
    assert_eq!(following.caught_up(), [1, 3]);
    following.cluster.revive(2);
    following.pass_s(5);
    assert_eq!(following.caught_up(), [0, 1, 3]);
}

#[test]
fn a_map_that_is_adopted_and_a_copy_that_ends_are_progress() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    let is_idle = |step| matches!(step, Step::Idle { .. });
    assert!(is_idle(following.step(3)));
    following.move_to(&[0, 1, 3]);
    assert_eq!(following.step(3), Step::Busy, "a map was adopted");
    assert!(is_idle(following.step(3)));
    for node in [0, 1, 2] {
        following.step(node);
    }
    following.cluster.pass_ms(2_000);
    following.now_ms += 2_000;
    while !following.caught_up().contains(&3) {
        following.cluster.settle();
        let step = following.step(3);
        assert!(following.now_ms < 60_000, "it never caught up");
        following.now_ms += 500;
        if following.caught_up().contains(&3) {
            assert_eq!(step, Step::Busy, "a copy has ended");
        }
    }
    assert!(is_idle(following.step(3)));
}

#[test]
fn what_is_to_be_cleared_keeps_nobody_else_waiting_and_is_cleared_step_by_step() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    // What an earlier life left: more than one step clears.
    let old = Record::value(following.cluster.version(1), "old");
    let keys = (0..12_000).map(|number| RowKey::of(format!("{KEY}{number}")));
    let left: Vec<RowKey> = keys.filter(|key| BITS.partition_of(key.token()) == partition()).collect();
    assert!(left.len() > 2_048, "{}", left.len());
    left.iter().for_each(|key| following.cluster.plant(3, key.clone(), old.clone()));
    following.move_to(&[0, 1, 3]);
    let epoch = following.newest.lock().topology.epoch();
    let fence = |following: &Following| following.cluster.node(3).store.partition(PLACEMENT, partition()).epoch;
    assert_eq!(following.step(3), Step::Busy);
    assert_eq!(following.cluster.node(3).catalog.epoch(), epoch, "requests work by the newer map");
    assert!(fence(&following) < epoch, "nothing is taken in while an earlier life's rows are there");
    assert!(following.reports.lock().is_empty());
    for _ in 0..left.len() / 1_024 {
        assert_eq!(following.step(3), Step::Busy);
    }
    assert_eq!(fence(&following), epoch);
    assert!(left.iter().all(|key| following.cluster.node(3).held(key).is_none()));
}
