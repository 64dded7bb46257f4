//! What is let pass of what a replica misses.

use cube_storage::model::Epoch;

use super::*;
use crate::consistency::Level;
use crate::sim::control::Control;
use crate::sim::history::{Ended, Reach};
use crate::sim::purged::Purged;
use crate::sim::time::{Schedule, SimClock};

const BEGUN_US: u64 = 1_000;

/// Three nodes that are all replicas, and a write at a level that some of them acknowledged.
struct Story {
    nodes: BTreeMap<NodeId, SimNode>,
    state: ClusterState,
    write: RowWritten,
}

fn story(level: Level, acknowledged_by: &[u16]) -> Story {
    let (schedule, control) = (Schedule::new(1), Control::new(3, 1, 3).unwrap());
    let node = |id| SimNode::new(id, SimClock::new(schedule.clone(), 0, 0), control.news(), Purged::default());
    let ids: Vec<NodeId> = (0..3).map(NodeId).collect();
    let by = acknowledged_by.iter().copied().map(NodeId).collect();
    let write = RowWritten {
        write: 0,
        table: TableId(1),
        key: RowKey::of("k"),
        is_delete: false,
        reach: Reach { level, data_center: "dc1".into() },
        client_timestamp: false,
        coordinator: NodeId(0),
        coordinator_life: 1,
        begun_us: BEGUN_US,
        map: Epoch(1),
        replicas: ids.iter().copied().collect(),
        ended: Some(Ended { at_us: 2 * BEGUN_US, success: Some((Version::ZERO, by)), refused: false }),
    };
    Story { nodes: ids.into_iter().map(|id| (id, node(id))).collect(), state: control.state, write }
}

impl Story {
    /// A node has begun anew since the write.
    fn after_clearing(mut self, node: u16) -> Self {
        let partition = PartitionBits::new(BITS).unwrap().partition_of(self.write.key.token());
        let node = self.nodes.get_mut(&NodeId(node)).unwrap();
        node.cleared_us.insert(partition, BEGUN_US + 1);
        self
    }

    fn after_damage_of_hints(mut self, at_us: u64) -> Self {
        self.nodes.get_mut(&NodeId(0)).unwrap().lost_hints_us = Some(at_us);
        self
    }

    fn may_be_nowhere(&self) -> bool {
        may_be_nowhere(&self.write, &self.nodes, &self.state)
    }
}

#[test]
fn a_write_below_quorum_may_go_with_the_last_replica_that_acknowledged_it() {
    assert!(!story(Level::One, &[1]).may_be_nowhere(), "it is there");
    assert!(!story(Level::One, &[1]).after_clearing(2).may_be_nowhere(), "another one began anew");
    assert!(story(Level::One, &[1]).after_clearing(1).may_be_nowhere());
    assert!(!story(Level::One, &[0, 1]).after_clearing(1).may_be_nowhere());
    assert!(!story(Level::Quorum, &[0, 1]).after_clearing(0).after_clearing(1).may_be_nowhere(), "copies hold quorums");
}

#[test]
fn an_only_copy_may_go_with_the_hint_that_it_is() {
    assert!(!story(Level::Any, &[]).may_be_nowhere());
    assert!(story(Level::Any, &[]).after_damage_of_hints(BEGUN_US + 1).may_be_nowhere());
    assert!(!story(Level::Any, &[]).after_damage_of_hints(BEGUN_US - 1).may_be_nowhere(), "others were damaged");
    assert!(!story(Level::Any, &[1]).after_damage_of_hints(BEGUN_US + 1).may_be_nowhere(), "a replica holds it");
}

#[test]
fn who_began_anew_by_a_newer_map_than_the_writes_coordinator_knew_need_not_hold_it() {
    let mut story = story(Level::One, &[1]);
    let partition = PartitionBits::new(BITS).unwrap().partition_of(story.write.key.token());
    let node = story.nodes.get_mut(&NodeId(2)).unwrap();
    node.cleared_us.insert(partition, BEGUN_US - 1);
    for (map, must) in [(0, true), (1, true), (2, false)] {
        node.cleared_at.insert(partition, Epoch(map));
        assert_eq!(must_hold(&story.write, Some(&*node)), must, "map {map}");
    }
}
