//! Who votes in Raft: up to [`VOTERS_MAX`] members, an odd number of them, spread over data centers and racks. Plain
//! arithmetic over the members; `membership.rs` brings it about.
//!
//! A voter is replaced only when it left or was given up for good, never for being down: a majority that shrinks to who is
//! alive at the moment is how two majorities come about. All other members are learners and hold a full copy as well.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::topology::{DataCenter, Member, MemberState, Rack};
use cube_storage::model::NodeId;

/// More voters make every change slower, and no cluster loses more than three nodes of seven before it is repaired.
pub const VOTERS_MAX: usize = 7;

/// Who ought to vote. Voters stay until they left; only where an even number would be left and nobody can join them, one
/// steps back, because of two voters either one stops all changes when it fails.
pub fn choose(members: &BTreeMap<NodeId, Member>, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let stays = |node: &&NodeId| members.get(node).is_some_and(|member| !member.state.is_gone());
    let mut chosen: Vec<&Member> = voters.iter().filter(stays).filter_map(|node| members.get(node)).collect();
    let mut others: Vec<&Member> =
        members.values().filter(|member| member.state.may_hold_data() && !voters.contains(&member.id)).collect();
    let size = odd_at_most((chosen.len() + others.len()).min(VOTERS_MAX));
    while chosen.len() < size {
        let Some(best) = (0..others.len()).min_by_key(|at| others.get(*at).map(|member| crowd(member, &chosen))) else {
            break;
        };
        chosen.push(others.swap_remove(best));
    }
    while chosen.len() > size {
        let Some(worst) = (0..chosen.len()).max_by_key(|at| chosen.get(*at).map(|member| crowd(member, &chosen)))
        else {
            break;
        };
        chosen.swap_remove(worst);
    }
    chosen.into_iter().map(|member| member.id).collect()
}

/// The largest odd number that is not larger; 0 of 0.
fn odd_at_most(count: usize) -> usize {
    if count == 0 { 0 } else { count - (count + 1) % 2 }
}

/// How crowded a member's place is: voters in its data center, in its rack, then how far it has come, then its number.
fn crowd(member: &Member, chosen: &[&Member]) -> (usize, usize, bool, NodeId) {
    let place = |member: &Member| -> (DataCenter, Rack) { (member.data_center.clone(), member.rack.clone()) };
    let in_data_center = chosen.iter().filter(|other| other.data_center == member.data_center).count();
    let in_rack = chosen.iter().filter(|other| place(other) == place(member)).count();
    (in_data_center, in_rack, member.state != MemberState::Ready, member.id)
}

#[cfg(test)]
mod tests {
    use cube_replication::topology::Addresses;
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn member(id: u16, data_center: &str, rack: &str, state: MemberState) -> Member {
        let (data_center, rack) = (data_center.into(), rack.into());
        let addresses = Addresses::default();
        Member { id: NodeId(id), name: format!("node-{id}"), data_center, rack, weight: 1, state, addresses }
    }

    fn cluster(places: &[(&str, &str)]) -> BTreeMap<NodeId, Member> {
        (0..).zip(places).map(|(id, (dc, rack))| (NodeId(id), member(id, dc, rack, MemberState::Ready))).collect()
    }

    fn nodes(ids: &[u16]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_growing_cluster_goes_from_one_voter_to_three_to_five_to_seven() {
        let mut voters = nodes(&[0]);
        for (size, expected) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (8, 7), (20, 7)] {
            let next = choose(&cluster(&vec![("dc", "r"); size]), &voters);
            assert_eq!(next.len(), expected, "{size} members");
            assert!(next.is_superset(&voters), "{size} members");
            voters = next;
        }
    }

    #[test]
    fn voters_are_spread_over_data_centers_and_then_over_racks() {
        let members = cluster(&[("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("b", "1"), ("c", "1"), ("c", "2")]);
        let three =
            choose(&members.clone().into_iter().filter(|(id, _)| [0, 1, 3, 5].contains(&id.0)).collect(), &nodes(&[0]));
        assert_eq!(three, nodes(&[0, 3, 5]));
        let five = choose(&members.into_iter().filter(|(id, _)| id.0 != 4).collect(), &nodes(&[0, 3, 5]));
        assert_eq!(five, nodes(&[0, 2, 3, 5, 6]), "the second of each data center is in another rack");
    }

    #[test]
    fn a_voter_is_replaced_when_it_left_and_not_while_it_leaves() {
        let mut members = cluster(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
        let voters = nodes(&[0, 1, 2]);
        members.get_mut(&NodeId(1)).unwrap().state = MemberState::Leaving;
        assert_eq!(choose(&members, &voters), voters);
        for gone in [MemberState::Removing, MemberState::Left] {
            members.get_mut(&NodeId(1)).unwrap().state = gone;
            assert_eq!(choose(&members, &voters), nodes(&[0, 2, 3]));
        }
        members.get_mut(&NodeId(3)).unwrap().state = MemberState::Left;
        assert_eq!(choose(&members, &nodes(&[0, 2, 3])).len(), 1, "two voters are worse than one");
    }

    fn members() -> impl Strategy<Value = BTreeMap<NodeId, Member>> {
        let state = prop::sample::select(vec![
            MemberState::Joining,
            MemberState::Warming,
            MemberState::Ready,
            MemberState::Leaving,
            MemberState::Removing,
            MemberState::Left,
        ]);
        let one = (prop::sample::select(vec!["a", "b", "c"]), prop::sample::select(vec!["1", "2"]), state);
        prop::collection::vec(one, 0..16).prop_map(|all| {
            (0..).zip(all).map(|(id, (dc, rack, state))| (NodeId(id), member(id, dc, rack, state))).collect()
        })
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn voters_are_odd_bounded_members_and_stay_unless_they_left(
            members in members(),
            voters in prop::collection::btree_set((0u16..16).prop_map(NodeId), 0..8),
        ) {
            let chosen = choose(&members, &voters);
            prop_assert!(chosen.len() <= VOTERS_MAX);
            prop_assert!(chosen.is_empty() || chosen.len() % 2 == 1);
            let stay: BTreeSet<NodeId> = voters
                .iter()
                .filter(|node| members.get(node).is_some_and(|member| !member.state.is_gone()))
                .copied()
                .collect();
            if stay.len() <= VOTERS_MAX {
                prop_assert!(stay.difference(&chosen).count() <= 1, "at most one steps back, for the odd number");
            }
            let newcomers: Vec<_> = chosen.difference(&voters).collect();
            prop_assert!(newcomers.iter().all(|node| members[node].state.may_hold_data()));
            if stay.difference(&chosen).count() == 1 && stay.len() <= VOTERS_MAX {
                prop_assert!(newcomers.is_empty(), "nobody steps back for a newcomer");
            }
            prop_assert_eq!(choose(&members, &chosen), chosen.clone(), "it is chosen once and then stays");
            let may: Vec<_> = members.values().filter(|member| member.state.may_hold_data()).collect();
            prop_assert!(chosen.is_empty() == (may.is_empty() && stay.is_empty()));
        }

        #[test]
        fn no_data_center_has_a_majority_while_three_have_members_enough(per_center in 3usize..6) {
            let places: Vec<_> = ["a", "b", "c"].iter().flat_map(|dc| vec![(*dc, "1"); per_center]).collect();
            let chosen = choose(&cluster(&places), &nodes(&[0]));
            prop_assert_eq!(chosen.len(), 7);
            for center in 0..3 {
                let here = chosen.iter().filter(|node| usize::from(node.0) / per_center == center).count();
                prop_assert!(here <= 3);
            }
        }
    }
}
