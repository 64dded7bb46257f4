//! What every plan keeps: distinct replicas, spread over racks, shares in proportion to weight.

use std::collections::BTreeMap;

use cube_replication::topology::plan::plan;
use cube_replication::topology::{Assignment, Member, Strategy};
use cube_storage::model::NodeId;
use proptest::prelude::*;

use super::cases::cases;
use super::cluster::{Cluster, bits, clusters, events, member, members, simple};
use super::reference::Ideal;

pub(crate) fn planned(cluster: &Cluster, previous: &Assignment) -> Assignment {
    plan(previous, &cluster.members, &cluster.strategy, cluster.bits)
}

/// Everything a plan promises about itself, whatever came before.
pub(crate) fn assert_balanced(cluster: &Cluster, assignment: &Assignment) {
    assert_eq!(assignment.partitions(), usize::from(cluster.bits.partitions()));
    let mut skipped = vec![0; assignment.partitions()];
    for (group, factor) in cluster.groups() {
        let ideal = Ideal::of(&group, factor, cluster.bits);
        let rows = assignment.iter().zip(&skipped).map(|((_, replicas), skipped)| &replicas[*skipped..]);
        let rows: Vec<&[NodeId]> = rows.map(|replicas| &replicas[..ideal.replicas]).collect();
        rows.iter().for_each(|row| assert_spread(&ideal, row));
        assert_shares(&ideal, &group, &rows);
        skipped.iter_mut().for_each(|skipped| *skipped += ideal.replicas);
    }
    for ((_, replicas), count) in assignment.iter().zip(skipped) {
        assert_eq!(replicas.len(), count, "nobody else is a replica");
    }
}

fn assert_spread(ideal: &Ideal, row: &[NodeId]) {
    let mut held = 0;
    for (nodes, least, most) in &ideal.racks {
        let here = nodes.iter().filter(|node| row.contains(node)).count();
        assert!((*least..=*most).contains(&here), "{here} of {row:?} in rack {nodes:?}, not {least} to {most}");
        held += here;
    }
    // Each is counted where it stands and nowhere twice, so they are distinct, and members of the group.
    assert_eq!(held, ideal.replicas, "{row:?}");
    let racks = ideal.racks.iter().filter(|(nodes, ..)| nodes.iter().any(|node| row.contains(node))).count();
    assert_eq!(racks, ideal.racks.len().min(ideal.replicas), "{row:?} in as many racks as there can be");
}

fn assert_shares(ideal: &Ideal, group: &[&Member], rows: &[&[NodeId]]) {
    let mut shares: BTreeMap<NodeId, (usize, usize)> = group.iter().map(|member| (member.id, (0, 0))).collect();
    for row in rows {
        row.iter().for_each(|node| shares.get_mut(node).unwrap().0 += 1);
        row.first().into_iter().for_each(|primary| shares.get_mut(primary).unwrap().1 += 1);
    }
    for (node, (share, primary)) in shares {
        let (least, most) = ideal.shares[&node];
        assert!((least..=most).contains(&share), "{node} holds {share}, not {least} to {most}");
        let part = share as f64 / ideal.replicas as f64;
        assert!((primary as f64 - part).abs() < 1.0, "{node} is first {primary} times of {share}");
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_first_plan_is_balanced(cluster in clusters(50, &[0, 4, 6, 8])) {
        assert_balanced(&cluster, &planned(&cluster, &Assignment::empty(cluster.bits)));
    }

    #[test]
    fn plans_stay_balanced_whatever_happens(cluster in clusters(30, &[5, 6]), events in prop::collection::vec(events(), 1..12)) {
        let mut cluster = cluster;
        let mut assignment = planned(&cluster, &Assignment::empty(cluster.bits));
        for event in events {
            cluster.happen(&event);
            assignment = planned(&cluster, &assignment);
            assert_balanced(&cluster, &assignment);
        }
    }

    #[test]
    fn planning_is_repeatable_and_what_was_planned_stays(cluster in clusters(50, &[6]), event in events()) {
        let mut cluster = cluster;
        let first = planned(&cluster, &Assignment::empty(cluster.bits));
        prop_assert_eq!(&planned(&cluster, &Assignment::empty(cluster.bits)), &first);
        prop_assert_eq!(&planned(&cluster, &first), &first);
        cluster.happen(&event);
        let second = planned(&cluster, &first);
        prop_assert_eq!(&planned(&cluster, &first), &second);
        prop_assert_eq!(&planned(&cluster, &second), &second);
    }

    /// Whatever is read from disk or from another version: a plan is made of members alone, and does not stumble.
    #[test]
    fn any_previous_assignment_can_be_planned_from(
        cluster in clusters(20, &[4]),
        rows in prop::collection::vec(prop::collection::vec(0..30u16, 0..8), 0..24),
    ) {
        let previous = Assignment::from_rows(rows.into_iter().map(|row| row.into_iter().map(NodeId).collect()));
        assert_balanced(&cluster, &planned(&cluster, &previous));
    }
}

#[test]
fn with_fewer_nodes_than_the_factor_all_nodes_are_replicas_and_the_set_grows() {
    let mut cluster = Cluster { members: members([]), strategy: simple(3), bits: bits(8) };
    let mut assignment = Assignment::empty(cluster.bits);
    for id in 0..5 {
        cluster.members.insert(NodeId(id), member(id, "dc", &format!("r{id}"), 1));
        assignment = planned(&cluster, &assignment);
        let expected = usize::from(id + 1).min(3);
        assert!(assignment.iter().all(|(_, replicas)| replicas.len() == expected));
    }
}

#[test]
fn without_members_nothing_is_assigned() {
    let cluster = Cluster { members: members([]), strategy: simple(3), bits: bits(4) };
    assert_eq!(planned(&cluster, &Assignment::empty(cluster.bits)), Assignment::empty(cluster.bits));
}

#[test]
fn a_node_of_weight_0_holds_nothing() {
    let all = members([member(0, "dc", "a", 1), member(1, "dc", "b", 0), member(2, "dc", "c", 1)]);
    let assignment = plan(&Assignment::empty(bits(8)), &all, &simple(3), bits(8));
    assert_eq!([0, 1, 2].map(|id| assignment.share(NodeId(id))), [256, 0, 256]);
}

#[test]
fn each_data_center_gets_its_own_number_of_replicas_and_others_none() {
    let places = [("a", "r1"), ("a", "r2"), ("a", "r3"), ("b", "r1"), ("b", "r2"), ("c", "r1")];
    let all = members((0..).zip(places).map(|(id, (data_center, rack))| member(id, data_center, rack, 1)));
    let strategy = Strategy::Network([("a".into(), 2), ("b".into(), 1)].into());
    let assignment = plan(&Assignment::empty(bits(8)), &all, &strategy, bits(8));
    let shares: Vec<usize> = (0..6).map(|id| assignment.share(NodeId(id))).collect();
    assert_eq!(shares.iter().sum::<usize>(), 3 * 256);
    assert_eq!(shares[..3].iter().sum::<usize>(), 2 * 256);
    assert_eq!(shares[3..], [128, 128, 0]);
}

#[test]
fn losing_one_of_three_racks_leaves_a_majority_of_five() {
    let all = members((0..9).map(|id| member(id, "dc", &format!("r{}", id % 3), 1)));
    let assignment = plan(&Assignment::empty(bits(8)), &all, &simple(5), bits(8));
    for (_, replicas) in assignment.iter() {
        for lost in 0..3 {
            assert!(replicas.iter().filter(|node| node.0 % 3 != lost).count() >= 3);
        }
    }
}

#[test]
fn the_replicas_of_what_a_node_holds_are_spread_over_the_others() {
    let all = members((0..9).map(|id| member(id, "dc", &format!("r{}", id % 3), 1)));
    let assignment = plan(&Assignment::empty(bits(8)), &all, &simple(3), bits(8));
    for node in 0..9 {
        let with = |other: u16| {
            let both = |replicas: &[NodeId]| replicas.contains(&NodeId(node)) && replicas.contains(&NodeId(other));
            assignment.iter().filter(|(_, replicas)| both(replicas)).count()
        };
        let partners = (0..9).filter(|other| other % 3 != node % 3 && with(*other) > 0).count();
        assert_eq!(partners, 6, "when {node} is down, all nodes of the other racks take over for it");
    }
}
