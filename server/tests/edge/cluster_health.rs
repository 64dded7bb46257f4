//! What cluster health says is what coordinators would do.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::catalog::{ClusterState, Keyspace, Schema};
use cube_replication::topology::{
    Addresses, Assignment, Member, MemberState, Strategy as Replication, Topology, TopologyChange,
};
use cube_server::admin::{ClusterHealth, ClusterStatus, Lost, cluster_health};
use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, PartitionBits, PartitionId, PlacementId};
use proptest::prelude::*;

use crate::cases::cases;

/// Four partitions.
const BITS: PartitionBits = PartitionBits::new(2).unwrap();

fn member(place: u16, data_center: &str) -> Member {
    Member {
        id: NodeId(place),
        name: format!("node-{}", place + 1),
        data_center: data_center.into(),
        rack: "r1".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    }
}

/// A cluster of nodes in data centers; for each keyspace the replicas of each partition.
fn state_of(data_centers: &[&str], keyspaces: &[Vec<Vec<u16>>]) -> ClusterState {
    let mut topology = Topology::new(BITS);
    for (place, data_center) in data_centers.iter().enumerate() {
        topology = topology.after(&TopologyChange::Join(member(place as u16, data_center))).unwrap();
    }
    let mut schema = Schema::default();
    for (number, rows) in keyspaces.iter().enumerate() {
        let placement = PlacementId(number as u32);
        let assignment = Assignment::from_rows(rows.iter().map(|row| row.iter().copied().map(NodeId).collect()));
        let strategy = Replication::Simple { replicas: 3 + number as u8 };
        topology = topology.after(&TopologyChange::AddPlacement { placement, strategy, assignment }).unwrap();
        let keyspace = Keyspace { placement, sync: SyncPolicy::Sync, tables: BTreeMap::new() };
        schema.keyspaces.insert(format!("ks{number}"), keyspace);
    }
    ClusterState { topology, schema }
}

/// Three nodes that all hold everything, and all vote.
fn three() -> ClusterState {
    state_of(&["dc1"; 3], &[vec![vec![0, 1, 2]; 4]])
}

fn nodes(numbers: &[u16]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn told(state: &ClusterState, voters: &[u16], dead: &[u16]) -> ClusterHealth {
    cluster_health(state, &nodes(voters), |node| !dead.contains(&node.0))
}

#[test]
fn three_nodes_bear_one_loss_are_at_risk_with_two_and_stand_with_one() {
    let health = told(&three(), &[0, 1, 2], &[]);
    assert_eq!((health.status, health.if_one_more_died.len()), (ClusterStatus::Healthy, 0), "{health:?}");

    let health = told(&three(), &[0, 1, 2], &[2]);
    assert_eq!((health.status, health.down.clone()), (ClusterStatus::AtRisk, vec!["node-3".to_owned()]));
    let risky: Vec<(&str, usize, bool)> = health
        .if_one_more_died
        .iter()
        .map(|one_more| (one_more.node.as_str(), one_more.keyspaces[0].lost.without_quorum, one_more.no_majority))
        .collect();
    assert_eq!(risky, [("node-1", 4, true), ("node-2", 4, true)]);
    assert!(health.summary.ends_with("dies as well: node-1, node-2"), "{}", health.summary);

    let health = told(&three(), &[0, 1, 2], &[1, 2]);
    assert_eq!((health.status, health.keyspaces[0].lost.without_quorum), (ClusterStatus::Unavailable, 4));
    assert_eq!((health.control.required, health.control.alive), (2, 1));
    assert!(health.summary.starts_with("no QUORUM for ks0 in 4 of 4 partitions; no majority"), "{}", health.summary);
    // The last one holds the only living replica of everything.
    assert_eq!(health.if_one_more_died[0].keyspaces[0].lost.without_any_replica, 4);
}

#[test]
fn of_many_nodes_only_those_are_named_whose_death_costs_something() {
    let rows = vec![vec![0, 1, 2], vec![1, 2, 3], vec![2, 3, 4], vec![3, 4, 0]];
    let state = state_of(&["dc1"; 5], &[rows]);
    let health = told(&state, &[0, 1, 2, 3, 4], &[0]);
    let risky: Vec<(&str, usize)> = health
        .if_one_more_died
        .iter()
        .map(|one_more| (one_more.node.as_str(), one_more.keyspaces[0].lost.without_quorum))
        .collect();
    assert_eq!(risky, [("node-2", 1), ("node-3", 1), ("node-4", 1), ("node-5", 1)]);
    let health = told(&state, &[0, 1, 2, 3, 4], &[]);
    assert_eq!(health.status, ClusterStatus::Healthy);
}

#[test]
fn a_data_center_that_loses_its_own_quorum_is_told_though_the_whole_has_one() {
    let state = state_of(&["dc1", "dc1", "dc1", "dc2", "dc2", "dc2"], &[vec![vec![0, 1, 2, 3, 4, 5]; 4]]);
    let health = told(&state, &[0, 1, 2], &[4, 5]);
    let lost = &health.keyspaces[0].lost;
    assert_eq!((lost.without_quorum, lost.without_local_quorum.get("dc2")), (0, Some(&4)), "{health:?}");
    assert_eq!(health.status, ClusterStatus::AtRisk);
    assert!(health.summary.contains("; no LOCAL_QUORUM in dc2 for ks0"), "{}", health.summary);
}

#[test]
fn members_that_left_and_keyspaces_without_replicas_are_told_as_what_they_are() {
    let state = state_of(&["dc1"], &[vec![vec![]; 4]]);
    let health = told(&state, &[0], &[]);
    assert_eq!((health.status, health.keyspaces[0].lost.without_quorum), (ClusterStatus::Unavailable, 4));
    let empty = told(&state_of(&[], &[]), &[], &[]);
    assert_eq!(empty.members, 0);
}

prop_compose! {
    fn clusters()(
        count in 1usize..8,
    )(
        data_centers in prop::collection::vec(prop_oneof![Just("dc1"), Just("dc2")], count),
        keyspaces in prop::collection::vec(
            prop::collection::vec(prop::sample::subsequence((0..count as u16).collect::<Vec<_>>(), 1..=count.min(5)), 4),
            1..3,
        ),
        dead in prop::collection::btree_set(0..count as u16, 0..count),
        voters in prop::collection::btree_set(0..count as u16, 1..=count),
    ) -> (ClusterState, BTreeSet<u16>, Vec<NodeId>) {
        (state_of(&data_centers, &keyspaces), dead, voters.into_iter().map(NodeId).collect())
    }
}

fn sum_of(lost: &Lost) -> (usize, BTreeMap<String, usize>, usize) {
    (lost.without_quorum, lost.without_local_quorum.clone(), lost.without_any_replica)
}

/// What is lost of a keyspace after, and was not before.
fn more(before: &Lost, after: &Lost) -> Lost {
    let local = after.without_local_quorum.iter().filter_map(|(name, count)| {
        let more = count - before.without_local_quorum.get(name).copied().unwrap_or(0);
        (more > 0).then(|| (name.clone(), more))
    });
    Lost {
        without_quorum: after.without_quorum - before.without_quorum,
        without_local_quorum: local.collect(),
        without_any_replica: after.without_any_replica - before.without_any_replica,
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn what_one_more_death_is_said_to_break_is_what_breaks_when_it_happens((state, dead, voters) in clusters()) {
        let lives = |node: NodeId| !dead.contains(&node.0);
        let before = cluster_health(&state, &voters, lives);
        let candidates: Vec<&Member> = state.topology.members().values().filter(|member| lives(member.id)).collect();
        for member in candidates {
            let after = cluster_health(&state, &voters, |node| lives(node) && node != member.id);
            let said = before.if_one_more_died.iter().find(|one_more| one_more.node == member.name);
            for (was, is) in before.keyspaces.iter().zip(&after.keyspaces) {
                let keyspace = said.and_then(|said| said.keyspaces.iter().find(|lost| lost.name == was.name));
                let said = keyspace.map(|keyspace| keyspace.lost.clone()).unwrap_or_default();
                prop_assert_eq!(sum_of(&said), sum_of(&more(&was.lost, &is.lost)), "{} without {}", was.name, member.name);
            }
            let had = before.control.alive >= before.control.required;
            let has = after.control.alive >= after.control.required;
            prop_assert_eq!(said.is_some_and(|said| said.no_majority), had && !has);
            prop_assert!(after.status >= before.status, "death heals nothing");
        }
    }

    #[test]
    fn a_keyspace_is_without_quorum_where_a_coordinator_would_refuse((state, dead, voters) in clusters()) {
        let lives = |node: NodeId| !dead.contains(&node.0);
        let health = cluster_health(&state, &voters, lives);
        for told in &health.keyspaces {
            let placement = state.topology.placement(state.schema.keyspaces[&told.name].placement).unwrap();
            let refused = placement.partitions().filter(|(_, map)| {
                let replicas: Vec<NodeId> = map.write_sets().nodes().collect();
                let alive = replicas.iter().filter(|node| lives(**node)).count();
                alive < replicas.len() / 2 + 1
            });
            prop_assert_eq!(told.lost.without_quorum, refused.count());
        }
        let is_lost = health.keyspaces.iter().any(|told| told.lost.without_quorum > 0);
        prop_assert_eq!(health.status == ClusterStatus::Unavailable, is_lost);
        prop_assert_eq!(health.down.len(), dead.len());
    }
}

#[test]
fn while_replicas_change_a_level_is_needed_in_the_old_and_in_the_new_set() {
    let mut state = state_of(&["dc1"; 6], &[vec![vec![0, 1, 2]; 4]]);
    let change =
        TopologyChange::BeginMove { placement: PlacementId(0), partition: PartitionId(1), replicas: nodes(&[3, 4, 5]) };
    state.topology = state.topology.after(&change).unwrap();
    let health = told(&state, &[0, 1, 2], &[4, 5]);
    assert_eq!(health.keyspaces[0].lost.without_quorum, 1, "of the new replicas of one partition two are dead");
    assert_eq!(told(&state, &[0, 1, 2], &[5]).keyspaces[0].lost.without_quorum, 0);
}
