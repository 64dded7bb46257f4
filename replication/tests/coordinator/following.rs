//! The worker that follows the hard state, on real replicas: who copies from whom before it calls itself in sync, and which
//! marks it takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_replication::catalog::ClusterState;
use cube_replication::lifecycle::{FollowParts, Follower, MoveDone, MoveReport, Newest};
use cube_replication::topology::{Evidence, MoveDriver, TopologyChange};
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

    /// Takes the move back and begins it anew.
    fn move_anew(&mut self, replicas: &[u16]) {
        let from = self.newest.lock().topology.epoch();
        self.cluster.change(&TopologyChange::AbortMove { placement: PLACEMENT, partition: partition(), from });
        self.move_to(replicas);
    }

    fn lost(&self) -> Vec<u16> {
        let reports = self.reports.lock();
        reports.iter().filter(|report| report.done == MoveDone::Lost).map(|report| report.node.0).collect()
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
fn a_copy_takes_over_the_highest_purge_floor_of_its_sources_and_still_has_what_others_hold_below_it() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    let floor = following.cluster.version(30).hlc;
    following.cluster.node(0).store.take_floors(&[(TABLE_ID, partition(), floor)]).unwrap();
    following.plant(1);
    following.plant(2);
    following.move_to(&[0, 1, 3]);
    following.pass_s(2);
    assert_eq!(following.sync(3), SyncState::Synced);
    assert_eq!(following.cluster.node(3).store.range_state(TABLE_ID, partition()).floor, floor);
    assert!(following.holds(3));
}

#[test]
fn who_kept_a_purge_floor_from_an_earlier_time_copies_rows_below_it_all_the_same() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    (0..3).for_each(|node| following.plant(node));
    let floor = following.cluster.version(30).hlc;
    following.cluster.node(3).store.take_floors(&[(TABLE_ID, partition(), floor)]).unwrap();
    following.move_to(&[0, 1, 3]);
    following.pass_s(2);
    assert_eq!(following.sync(3), SyncState::Synced);
    assert!(following.holds(3));
    let floor_of = |node| following.cluster.node(node).store.range_state(TABLE_ID, partition()).floor;
    assert!([0, 1].into_iter().any(|source| floor_of(source) == floor), "a source took it over before it told the row");
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
fn damage_that_is_found_while_a_copy_is_made_stays_marked_until_a_copy_behind_a_newer_map() {
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
    assert_eq!((following.sync(0), following.lost()), (operator, vec![0]), "it had acknowledged by this map");
    following.move_anew(&[0, 1, 3]);
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
    assert_eq!(following.lost(), [0]);
    following.cluster.revive(2);
    following.move_anew(&[0, 1, 3]);
    following.reports.lock().clear();
    following.pass_s(5);
    assert_eq!(following.caught_up(), [0, 1, 3]);
}

#[test]
fn a_replica_that_lost_something_heals_without_a_move_once_it_has_a_newer_map() {
    let mut following = Following::of("a0 a1 a2");
    following.plant(2);
    following.mark(0, DAMAGED_LOG);
    following.pass_s(2);
    assert_eq!((following.sync(0), following.lost()), (DAMAGED_LOG, vec![0]));
    // The same replicas again, as the driver of moves asks for.
    let mut driver = MoveDriver::default();
    let topology = following.newest.lock().topology.clone();
    following.reports.lock().iter().for_each(|report| driver.report(&topology, report));
    let changes = driver.changes(&topology);
    let again =
        TopologyChange::BeginMove { placement: PLACEMENT, partition: partition(), replicas: vec![n(0), n(1), n(2)] };
    assert!(changes.contains(&again), "{changes:?}");
    following.move_to(&[0, 1, 2]);
    following.pass_s(3);
    assert_eq!((following.sync(0), following.holds(0)), (SyncState::Synced, true));
}

#[test]
fn a_source_that_fails_now_and_then_is_asked_again_for_the_page_where_it_failed() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    let keys = (0..8_000).map(|number| RowKey::of(format!("{KEY}{number}")));
    let held: Vec<RowKey> = keys.filter(|key| BITS.partition_of(key.token()) == partition()).collect();
    assert!(held.len() > 1_024, "{}", held.len());
    let record = Record::value(following.cluster.version(1), "v");
    for node in [0, 1, 2] {
        held.iter().for_each(|key| following.cluster.plant(node, key.clone(), record.clone()));
    }
    following.move_to(&[0, 1, 3]);
    (0..4).for_each(|node| while following.step(node) == Step::Busy {});
    // One is gone for good, so both others are needed, and each fails for a while.
    following.cluster.kill(2);
    for node in [0, 1, 0, 1] {
        following.cluster.network.deliver();
        following.cluster.kill(node);
        following.pass_s(1);
        following.cluster.revive(node);
    }
    following.pass_s(20);
    assert_eq!(following.sync(3), SyncState::Synced);
    assert!(held.iter().all(|key| following.cluster.node(3).held(key).is_some()));
    let progress = following.followers[&n(3)].progress().get();
    assert!(progress.retries > 0, "{progress:?}");
    assert_eq!((progress.completed, progress.failed), (1, 0), "no copy was begun anew");
}

#[test]
fn a_former_replica_removes_what_it_held_a_while_after_the_change_and_not_before() {
    let mut following = Following::of("a0 a1 a2 (a3)");
    following.plant(2);
    following.move_to(&[0, 1, 3]);
    following.pass_s(8);
    assert!(following.holds(2), "it may still be copied from");
    for _ in 0..2 {
        let topology = following.newest.lock().topology.clone();
        let all: BTreeSet<NodeId> = (0..4).map(NodeId).collect();
        let evidence = Evidence { fenced: all.clone(), caught_up: all };
        let from = topology.placement(PLACEMENT).unwrap().partition(partition()).unwrap().epoch();
        let advance = TopologyChange::AdvanceMove { placement: PLACEMENT, partition: partition(), from, evidence };
        let state = following.cluster.change(&advance);
        *following.newest.lock() = Arc::new(state);
        following.pass_s(2);
    }
    assert!(following.holds(2), "somebody may still be answered by the map before");
    following.pass_s(15);
    assert!(!following.holds(2));
    assert!([0, 1, 3].into_iter().all(|node| following.holds(node)));
    assert_eq!(following.followers[&n(2)].progress().get().removed, 1);
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
