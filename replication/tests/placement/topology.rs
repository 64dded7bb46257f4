//! The life of a topology: members come and go, partitions move step by step, and nothing is skipped or used twice.

use std::collections::BTreeSet;

use cube_replication::topology::{
    BadAssignment, Evidence, Member, MemberState, MoveRefused, PartitionMap, Refused, Step, Topology, TopologyChange,
};
use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId, Token};
use proptest::prelude::*;

use super::cases::cases;
use super::cluster::{bits, member, simple};

const PLACEMENT: PlacementId = PlacementId(0);
const PARTITION: PartitionId = PartitionId(0);

fn joining(id: u16) -> Member {
    Member { state: MemberState::Joining, ..member(id, "dc", &format!("r{id}"), 1) }
}

fn after(topology: &Topology, change: TopologyChange) -> Topology {
    topology.after(&change).unwrap()
}

fn join(topology: &Topology) -> Topology {
    after(topology, TopologyChange::Join(joining(topology.next_node().unwrap().0)))
}

/// `nodes` members and one placement of two partitions, planned for them.
fn topology(nodes: usize, factor: u8) -> Topology {
    let members = (0..nodes).fold(Topology::new(bits(1)), |topology, _| join(&topology));
    let none = cube_replication::topology::Assignment::empty(bits(1));
    let strategy = simple(factor);
    let assignment = cube_replication::topology::plan::plan(&none, members.members(), &strategy, bits(1));
    after(&members, TopologyChange::AddPlacement { placement: PLACEMENT, strategy, assignment })
}

fn map(topology: &Topology, partition: PartitionId) -> &PartitionMap {
    topology.placement(PLACEMENT).unwrap().partition(partition).unwrap()
}

fn begin(partition: PartitionId, replicas: &[u16]) -> TopologyChange {
    let replicas = replicas.iter().copied().map(NodeId).collect();
    TopologyChange::BeginMove { placement: PLACEMENT, partition, replicas }
}

fn advance(topology: &Topology, partition: PartitionId, evidence: Evidence) -> TopologyChange {
    TopologyChange::AdvanceMove { placement: PLACEMENT, partition, from: map(topology, partition).epoch(), evidence }
}

fn abort(topology: &Topology, partition: PartitionId) -> TopologyChange {
    TopologyChange::AbortMove { placement: PLACEMENT, partition, from: map(topology, partition).epoch() }
}

fn evidence(fenced: &[u16], caught_up: &[u16]) -> Evidence {
    let nodes = |ids: &[u16]| ids.iter().copied().map(NodeId).collect();
    Evidence { fenced: nodes(fenced), caught_up: nodes(caught_up) }
}

fn everyone() -> Evidence {
    evidence(&(0..100).collect::<Vec<_>>(), &(0..100).collect::<Vec<_>>())
}

fn written(map: &PartitionMap) -> Vec<Vec<u16>> {
    map.write_sets().iter().map(|set| set.nodes().iter().map(|node| node.0).collect()).collect()
}

fn read(map: &PartitionMap) -> Vec<u16> {
    map.serving().nodes().iter().map(|node| node.0).collect()
}

fn move_refused(outcome: Result<Topology, Refused>) -> MoveRefused {
    match outcome {
        Err(Refused::Move { reason, .. }) => reason,
        other => panic!("not a refused move: {other:?}"),
    }
}

/// Three nodes hold everything, in a known order, and nodes 3 and 4 nothing.
fn three_of_five() -> Topology {
    let five = join(&join(&topology(3, 3)));
    [PartitionId(0), PartitionId(1)].iter().fold(five, |now, partition| after(&now, begin(*partition, &[0, 1, 2])))
}

#[test]
fn replicas_change_in_four_steps_each_with_its_own_epoch() {
    let before = three_of_five();
    assert_eq!((written(map(&before, PARTITION)), read(map(&before, PARTITION))), (vec![vec![0, 1, 2]], vec![0, 1, 2]));

    let write_both = after(&before, begin(PARTITION, &[0, 1, 3]));
    let now = map(&write_both, PARTITION);
    assert_eq!((written(now), read(now)), (vec![vec![0, 1, 2], vec![0, 1, 3]], vec![0, 1, 2]));
    assert_eq!(now.pending().collect::<Vec<_>>(), [NodeId(3)]);

    let read_new = after(&write_both, advance(&write_both, PARTITION, evidence(&[0, 1], &[0, 3])));
    let now = map(&read_new, PARTITION);
    assert_eq!((written(now), read(now)), (vec![vec![0, 1, 2], vec![0, 1, 3]], vec![0, 1, 3]));
    assert_eq!(now.pending().count(), 0);

    let done = after(&read_new, advance(&read_new, PARTITION, evidence(&[0, 3, 2], &[])));
    let now = map(&done, PARTITION);
    assert_eq!((written(now), read(now)), (vec![vec![0, 1, 3]], vec![0, 1, 3]));
    assert_eq!(now.needs(), None);

    let epochs = [&before, &write_both, &read_new, &done].map(|topology| map(topology, PARTITION).epoch());
    assert!(epochs.is_sorted_by(|early, late| early < late));
    for topology in [&write_both, &read_new, &done] {
        assert_eq!(map(topology, PARTITION).epoch(), topology.epoch(), "the partition names the topology it is from");
        assert_eq!(map(topology, PartitionId(1)), map(&before, PartitionId(1)), "the other partition stays");
    }
}

#[test]
fn a_step_is_not_taken_before_both_quorums_fenced_and_enough_caught_up() {
    let write_both = after(&three_of_five(), begin(PARTITION, &[0, 3, 4]));
    for (fenced, caught_up, enough) in [
        (&[0, 1, 3][..], &[3, 4][..], true),
        (&[0, 1], &[3, 4], false),
        (&[0, 3], &[3, 4], false),
        (&[0, 1, 3], &[3], false),
        (&[0, 1, 3], &[0, 3], false),
        (&[], &[0, 1, 2, 3, 4], false),
        (&[0, 1, 2, 3, 4], &[], false),
    ] {
        let outcome = write_both.after(&advance(&write_both, PARTITION, evidence(fenced, caught_up)));
        assert_eq!(outcome.is_ok(), enough, "fenced {fenced:?}, caught up {caught_up:?}");
    }
    let needs = map(&write_both, PARTITION).needs().unwrap();
    assert_eq!(needs.fence, write_both.epoch());
    assert_eq!(needs.pending, BTreeSet::from([NodeId(3), NodeId(4)]));
}

#[test]
fn replicas_that_stay_must_catch_up_too_when_a_set_shrinks() {
    let shrinking = after(&three_of_five(), begin(PARTITION, &[1]));
    let with = |caught_up| shrinking.after(&advance(&shrinking, PARTITION, evidence(&[0, 1, 2], caught_up)));
    assert_eq!(move_refused(with(&[])), MoveRefused::NotEnough { epoch: shrinking.epoch() });
    assert_eq!(move_refused(with(&[0, 2])), MoveRefused::NotEnough { epoch: shrinking.epoch() });
    assert!(with(&[1]).is_ok());
}

#[test]
fn a_change_can_be_taken_back_until_reads_moved() {
    let before = three_of_five();
    assert_eq!(move_refused(before.after(&abort(&before, PARTITION))), MoveRefused::NotUnderWay);

    let write_both = after(&before, begin(PARTITION, &[0, 1, 3]));
    assert!(map(&write_both, PARTITION).may_abort());
    let aborted = after(&write_both, abort(&write_both, PARTITION));
    assert_eq!(
        (written(map(&aborted, PARTITION)), read(map(&aborted, PARTITION))),
        (vec![vec![0, 1, 2]], vec![0, 1, 2])
    );
    assert!(map(&aborted, PARTITION).epoch() > map(&write_both, PARTITION).epoch());

    let read_new = after(&write_both, advance(&write_both, PARTITION, everyone()));
    assert!(!map(&read_new, PARTITION).may_abort());
    let refused = move_refused(read_new.after(&abort(&read_new, PARTITION)));
    assert_eq!(refused, MoveRefused::ReadsMoved { epoch: read_new.epoch() });
}

#[test]
fn one_change_per_partition_is_under_way() {
    let write_both = after(&three_of_five(), begin(PARTITION, &[0, 1, 3]));
    let refused = move_refused(write_both.after(&begin(PARTITION, &[0, 1, 4])));
    assert_eq!(refused, MoveRefused::UnderWay { epoch: write_both.epoch() });
    assert!(write_both.after(&begin(PartitionId(1), &[0, 1, 4])).is_ok(), "another partition may change meanwhile");
}

#[test]
fn a_step_decided_on_an_older_map_is_refused() {
    let write_both = after(&three_of_five(), begin(PARTITION, &[0, 1, 3]));
    let (late_advance, late_abort) = (advance(&write_both, PARTITION, everyone()), abort(&write_both, PARTITION));
    let read_new = after(&write_both, late_advance.clone());
    for late in [late_advance, late_abort] {
        assert_eq!(move_refused(read_new.after(&late)), MoveRefused::OldEpoch { epoch: read_new.epoch() });
    }
}

#[test]
fn another_order_of_the_same_replicas_needs_no_steps() {
    let before = three_of_five();
    let reordered = after(&before, begin(PARTITION, &[2, 0, 1]));
    assert_eq!(
        (written(map(&reordered, PARTITION)), read(map(&reordered, PARTITION))),
        (vec![vec![2, 0, 1]], vec![2, 0, 1])
    );
    assert!(map(&reordered, PARTITION).epoch() > map(&before, PARTITION).epoch());
}

#[test]
fn a_partition_without_replicas_gets_its_first_at_once_and_is_never_left_without() {
    let empty = topology(0, 3);
    assert!(written(map(&empty, PARTITION)).iter().all(Vec::is_empty));
    let first = after(&join(&empty), begin(PARTITION, &[0]));
    assert!(matches!(map(&first, PARTITION).step(), Step::Stable { .. }));
    assert_eq!(move_refused(first.after(&begin(PARTITION, &[]))), MoveRefused::NoReplicas);
}

#[test]
fn only_members_that_may_hold_data_become_replicas() {
    let leaving = after(&three_of_five(), TopologyChange::SetState { node: NodeId(3), state: MemberState::Leaving });
    let idle = after(&leaving, TopologyChange::SetWeight { node: NodeId(4), weight: 0 });
    for node in [3, 4, 9] {
        let refused = idle.after(&begin(PARTITION, &[0, 1, node]));
        assert_eq!(refused, Err(Refused::Assignment(BadAssignment::NotAHolder { node: NodeId(node) })));
    }
    assert!(matches!(
        idle.after(&begin(PARTITION, &[0, 1, 0])),
        Err(Refused::Assignment(BadAssignment::ReplicaSet(_)))
    ));
}

#[test]
fn node_ids_and_names_are_not_used_twice() {
    let one = topology(1, 1);
    assert_eq!(
        one.after(&TopologyChange::Join(joining(0))),
        Err(Refused::NotTheNextNode { expected: NodeId(1), given: NodeId(0) })
    );
    let namesake = Member { name: "node-0".into(), ..joining(1) };
    assert_eq!(
        one.after(&TopologyChange::Join(namesake.clone())),
        Err(Refused::NameTaken { name: "node-0".into(), node: NodeId(0) })
    );

    let moved = after(&join(&one), begin(PARTITION, &[1]));
    let moved = after(&moved, begin(PartitionId(1), &[1]));
    let moved = [PartitionId(0), PartitionId(1), PartitionId(0), PartitionId(1)]
        .iter()
        .fold(moved, |now, partition| after(&now, advance(&now, *partition, everyone())));
    let left = after(&moved, TopologyChange::SetState { node: NodeId(0), state: MemberState::Left });
    assert_eq!(left.next_node(), Some(NodeId(2)), "the id of one that left stays used");
    assert_eq!(left.member(NodeId(0)).map(|member| member.state), Some(MemberState::Left));
    assert!(left.after(&TopologyChange::Join(Member { id: NodeId(2), ..namesake })).is_ok(), "its name is free again");
    let refused = left.after(&TopologyChange::SetWeight { node: NodeId(0), weight: 5 });
    assert_eq!(refused, Err(Refused::UnknownMember { node: NodeId(0) }));
}

#[test]
fn a_member_has_not_left_while_it_is_a_replica() {
    let before = three_of_five();
    let leave = |node| TopologyChange::SetState { node: NodeId(node), state: MemberState::Left };
    let still = |node| Refused::StillReplica { node: NodeId(node), placement: PLACEMENT, partition: PARTITION };
    assert_eq!(before.after(&leave(0)), Err(still(0)));
    let write_both = after(&before, begin(PARTITION, &[0, 1, 3]));
    assert_eq!(write_both.after(&leave(3)), Err(still(3)), "pending replicas are replicas");
    assert!(write_both.after(&leave(4)).is_ok());
}

#[test]
fn a_member_goes_forward_only() {
    let now = topology(1, 1);
    let to = |topology: &Topology, state| topology.after(&TopologyChange::SetState { node: NodeId(0), state });
    let ready = to(&now, MemberState::Ready).unwrap();
    for state in [MemberState::Joining, MemberState::Warming, MemberState::Ready] {
        let refused = Refused::NotForward { node: NodeId(0), from: MemberState::Ready, to: state };
        assert_eq!(to(&ready, state), Err(refused));
    }
}

#[test]
fn placement_ids_are_not_used_twice() {
    let one = topology(1, 1);
    let dropped = after(&one, TopologyChange::DropPlacement { placement: PLACEMENT });
    assert_eq!(dropped.route(PLACEMENT, Token(0)).map(|route| route.partition), None);
    let again = |placement| TopologyChange::AddPlacement {
        placement,
        strategy: simple(1),
        assignment: one.placement(PLACEMENT).unwrap().goal(),
    };
    let refused = Refused::NotTheNextPlacement { expected: PlacementId(1), given: PLACEMENT };
    assert_eq!(dropped.after(&again(PLACEMENT)), Err(refused));
    assert!(dropped.after(&again(PlacementId(1))).is_ok());
}

#[test]
fn a_token_leads_to_the_replicas_of_its_partition() {
    let now = after(&three_of_five(), begin(PartitionId(1), &[2, 1, 0]));
    for (token, partition, nodes) in [(0, 0, [0, 1, 2]), (u64::MAX / 2, 0, [0, 1, 2]), (u64::MAX, 1, [2, 1, 0])] {
        let route = now.route(PLACEMENT, Token(token)).unwrap();
        assert_eq!((route.partition, read(route.map)), (PartitionId(partition), nodes.to_vec()));
    }
    assert!(now.route(PlacementId(7), Token(0)).is_none());
}

/// Raft snapshots and the log hold these.
#[test]
fn a_topology_is_read_back_as_it_was_written() {
    let now = after(&three_of_five(), begin(PARTITION, &[0, 1, 3]));
    let bytes = postcard::to_stdvec(&now).unwrap();
    assert_eq!(postcard::from_bytes::<Topology>(&bytes).unwrap(), now);
    let change = advance(&now, PARTITION, everyone());
    assert_eq!(postcard::from_bytes::<TopologyChange>(&postcard::to_stdvec(&change).unwrap()).unwrap(), change);
}

/// Moves partitions to where they are planned, step by step, taking back what is no longer wanted.
fn settle(mut topology: Topology) -> Topology {
    for _ in 0..100 {
        let planned = topology.planned(PLACEMENT).unwrap();
        let step = planned.iter().find_map(|(partition, replicas)| {
            let map = map(&topology, partition);
            match map.step() {
                Step::Stable { replicas: now } if now.nodes() == replicas => None,
                Step::Stable { .. } => {
                    Some(TopologyChange::BeginMove { placement: PLACEMENT, partition, replicas: replicas.to_vec() })
                }
                _ if map.goal().nodes() != replicas && map.may_abort() => Some(abort(&topology, partition)),
                _ => Some(advance(&topology, partition, everyone())),
            }
        });
        let Some(step) = step else { return topology };
        topology = after(&topology, step);
    }
    panic!("nothing settles in {topology:?}");
}

#[test]
fn a_set_grows_with_the_cluster_and_survives_leaving_members() {
    let mut now = topology(1, 3);
    let sizes = |topology: &Topology| {
        topology.placement(PLACEMENT).unwrap().partitions().map(|(_, map)| map.serving().len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&now), [1, 1]);
    for expected in [2, 3, 3, 3] {
        now = settle(join(&now));
        assert_eq!(sizes(&now), [expected; 2]);
    }
    for node in [0, 2] {
        now = settle(after(&now, TopologyChange::SetState { node: NodeId(node), state: MemberState::Leaving }));
        now = after(&now, TopologyChange::SetState { node: NodeId(node), state: MemberState::Left });
        assert_eq!(sizes(&now), [3; 2]);
    }
    let five = after(&join(&join(&now)), TopologyChange::SetStrategy { placement: PLACEMENT, strategy: simple(5) });
    let five = settle(five);
    assert_eq!(sizes(&five), [5; 2]);
    let three = settle(after(&five, TopologyChange::SetStrategy { placement: PLACEMENT, strategy: simple(3) }));
    assert_eq!(sizes(&three), [3; 2]);
}

#[test]
fn a_joiner_that_dies_while_it_copies_blocks_nothing() {
    let copying = join(&topology(2, 3));
    let planned = copying.planned(PLACEMENT).unwrap();
    let replicas = planned.replicas(PARTITION).to_vec();
    assert!(replicas.contains(&NodeId(2)));
    let copying = after(&copying, TopologyChange::BeginMove { placement: PLACEMENT, partition: PARTITION, replicas });
    let given_up = after(&copying, TopologyChange::SetState { node: NodeId(2), state: MemberState::Leaving });
    let settled = settle(given_up);
    assert_eq!(written(map(&settled, PARTITION)).concat().len(), 2);
    assert!(settled.after(&TopologyChange::SetState { node: NodeId(2), state: MemberState::Left }).is_ok());
}

fn changes() -> impl Strategy<Value = TopologyChange> {
    use MemberState::*;
    let node = || (0..6u16).prop_map(NodeId);
    let partition = || (0..3u16).prop_map(PartitionId);
    let from = || (0..40u64).prop_map(Epoch);
    let placement = PLACEMENT;
    let state = prop::sample::select(vec![Joining, Warming, Ready, Leaving, Left]);
    prop_oneof![
        2 => (0..8u16).prop_map(|id| TopologyChange::Join(joining(id))),
        2 => (node(), state).prop_map(|(node, state)| TopologyChange::SetState { node, state }),
        1 => (node(), 0..3u32).prop_map(|(node, weight)| TopologyChange::SetWeight { node, weight }),
        4 => (partition(), prop::collection::vec(node(), 0..4)).prop_map(move |(partition, replicas)| {
            TopologyChange::BeginMove { placement, partition, replicas }
        }),
        4 => (partition(), from()).prop_map(move |(partition, from)| {
            TopologyChange::AdvanceMove { placement, partition, from, evidence: everyone() }
        }),
        1 => (partition(), from()).prop_map(move |(partition, from)| TopologyChange::AbortMove { placement, partition, from }),
    ]
}

/// Steps are proposed for the epoch there is; others are refused, which has a test of its own.
fn aimed(topology: &Topology, mut change: TopologyChange) -> TopologyChange {
    if let TopologyChange::AdvanceMove { partition, from, .. } | TopologyChange::AbortMove { partition, from, .. } =
        &mut change
        && let Some(map) = topology.placement(PLACEMENT).unwrap().partition(*partition)
        && from.0 % 4 != 0
    {
        *from = map.epoch();
    }
    change
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn whatever_is_proposed_the_topology_stays_sound(changes in prop::collection::vec(changes(), 1..60)) {
        let mut now = topology(3, 2);
        for change in changes {
            let Ok(next) = now.after(&aimed(&now, change.clone())) else { continue };
            prop_assert_eq!(next.epoch(), Epoch(now.epoch().0 + 1));
            for (id, member) in now.members() {
                prop_assert!(next.member(*id).unwrap().state >= member.state, "members are never forgotten");
            }
            let before = now.placement(PLACEMENT).unwrap().partitions();
            for ((_, before), (_, after)) in before.zip(next.placement(PLACEMENT).unwrap().partitions()) {
                prop_assert_eq!(before == after, before.epoch() == after.epoch());
                prop_assert!(after.epoch() >= before.epoch() && after.epoch() <= next.epoch());
                let replicas = after.write_sets();
                prop_assert!(replicas.nodes().all(|node| next.member(node).unwrap().state != MemberState::Left));
                prop_assert!(after.serving().nodes().iter().all(|node| replicas.contains(*node)), "who is read is written");
                prop_assert!(!after.serving().is_empty());
            }
            now = next;
        }
    }
}
