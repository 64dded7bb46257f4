//! How much is copied when members come, go, or weigh differently: the least there can be.

use cube_replication::topology::Assignment;
use cube_storage::model::NodeId;
use proptest::prelude::*;

use super::cases::cases;
use super::cluster::{Cluster, bits, clusters, events, joins, leaves, member, members, simple};
use super::reference::{Ideal, fewest_moves};
use super::shares::{assert_balanced, planned};

/// The fewest moves from `previous` to any balanced assignment: a minimum-cost flow over all partitions, racks and
/// nodes, in which a replica costs 1 where it is not yet. Nothing balanced can be cheaper, because every balanced
/// assignment is one of the flows it chooses from.
fn minimum(cluster: &Cluster, previous: &Assignment) -> usize {
    let group_minimum = |(group, factor): &(Vec<_>, usize)| {
        fewest_moves(&Ideal::of(group, *factor, cluster.bits), previous, cluster.bits)
    };
    cluster.groups().iter().map(group_minimum).sum()
}

/// A bound that needs no flow, for clusters too large for it: a node must get what it ought to hold and does not.
fn lower_bound(cluster: &Cluster, previous: &Assignment) -> usize {
    let lacking = |(group, factor): &(Vec<_>, usize)| {
        let ideal = Ideal::of(group, *factor, cluster.bits);
        let lack = |(node, (least, _)): (&NodeId, &(usize, usize))| least.saturating_sub(previous.share(*node));
        let by_node: usize = ideal.shares.iter().map(lack).sum();
        let keep = |(node, (_, most)): (&NodeId, &(usize, usize))| previous.share(*node).min(*most);
        let kept: usize = ideal.shares.iter().map(keep).sum();
        by_node.max((ideal.replicas * usize::from(cluster.bits.partitions())).saturating_sub(kept))
    };
    cluster.groups().iter().map(lacking).sum()
}

fn assert_fewest_moves(cluster: &Cluster, previous: &Assignment) -> Assignment {
    let next = planned(cluster, previous);
    assert_balanced(cluster, &next);
    assert_eq!(next.moves_from(previous), minimum(cluster, previous), "the fewest moves there can be");
    next
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_join_and_a_leave_move_the_fewest_replicas(
        cluster in clusters(50, &[4, 5]),
        changes in prop::collection::vec(prop_oneof![joins(), leaves()], 1..3),
    ) {
        let mut cluster = cluster;
        let mut assignment = planned(&cluster, &Assignment::empty(cluster.bits));
        for change in changes {
            cluster.happen(&change);
            assignment = assert_fewest_moves(&cluster, &assignment);
        }
    }

    #[test]
    fn any_change_moves_the_fewest_replicas(
        cluster in clusters(16, &[3, 4]),
        changes in prop::collection::vec(events(), 1..6),
    ) {
        let mut cluster = cluster;
        let mut assignment = planned(&cluster, &Assignment::empty(cluster.bits));
        for change in changes {
            cluster.happen(&change);
            assignment = assert_fewest_moves(&cluster, &assignment);
        }
    }

    #[test]
    fn from_any_assignment_the_fewest_replicas_move(
        cluster in clusters(12, &[4]),
        rows in prop::collection::vec(prop::collection::vec(0..14u16, 0..6), 16),
    ) {
        let distinct = |mut row: Vec<u16>| {
            row.sort_unstable();
            row.dedup();
            row.into_iter().map(NodeId).collect()
        };
        let previous = Assignment::from_rows(rows.into_iter().map(distinct));
        assert_fewest_moves(&cluster, &previous);
    }
}

/// Racks of one node each are in nobody's way, so the simple bound can be met.
#[test]
fn growing_to_fifty_nodes_and_back_moves_little_at_every_step() {
    let mut cluster = Cluster { members: members([member(0, "dc", "r0", 1)]), strategy: simple(3), bits: bits(8) };
    let mut assignment = planned(&cluster, &Assignment::empty(cluster.bits));
    let step = |cluster: &Cluster, assignment: &mut Assignment| {
        let next = planned(cluster, assignment);
        assert_balanced(cluster, &next);
        let (moves, bound) = (next.moves_from(assignment), lower_bound(cluster, assignment));
        assert!(moves * 100 <= bound * 115, "{moves} moves with {} nodes, where {bound} may do", cluster.members.len());
        *assignment = next;
    };
    for id in 1..50 {
        cluster.members.insert(NodeId(id), member(id, "dc", &format!("r{id}"), 1));
        step(&cluster, &mut assignment);
    }
    for id in (3..50).rev() {
        cluster.members.remove(&NodeId(id));
        step(&cluster, &mut assignment);
    }
}

#[test]
fn a_large_cluster_with_racks_and_weights_moves_the_fewest_replicas() {
    let all = members((0..50).map(|id| member(id, "dc", &format!("r{}", id % 7), 1 + u32::from(id % 4))));
    let mut cluster = Cluster { members: all, strategy: simple(3), bits: bits(8) };
    let mut assignment = planned(&cluster, &Assignment::empty(cluster.bits));
    cluster.members.insert(NodeId(50), member(50, "dc", "r3", 4));
    assignment = assert_fewest_moves(&cluster, &assignment);
    cluster.members.remove(&NodeId(7));
    assert_fewest_moves(&cluster, &assignment);
}
