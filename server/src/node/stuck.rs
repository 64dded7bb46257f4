//! Changes of replicas that cannot go on with the nodes that are there: told to operators, since nothing else ends the wait.
//!
//! A step needs quorums that have fenced the one before, and a replica that copies needs its sources; nothing of that is
//! guessed (`docs/protocol.md`, "A set that lost its majority for good"). Who only looks at the topology sees a step that
//! does not move and not why.

use std::collections::BTreeSet;

use cube_replication::topology::{Evidence, Topology};
use cube_storage::model::NodeId;

/// What the changes under way wait for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Stuck {
    /// Partitions whose change cannot go on.
    pub(super) partitions: usize,
    /// The nodes without which it cannot, of which enough must return.
    pub(super) missing: BTreeSet<NodeId>,
}

impl Stuck {
    /// Of a topology, with the nodes that are alive.
    pub(super) fn of(topology: &Topology, is_alive: impl Fn(NodeId) -> bool) -> Self {
        let mut stuck = Self::default();
        let maps = topology.placements().flat_map(|(_, placement)| placement.partitions().map(|(_, map)| map));
        for map in maps {
            let Some(needs) = map.needs() else { continue };
            let (alive, dead): (BTreeSet<_>, BTreeSet<_>) = map.write_sets().nodes().partition(|node| is_alive(*node));
            // As far as they could come at best.
            if needs.met_by(&Evidence { fenced: alive.clone(), caught_up: alive }) {
                continue;
            }
            stuck.partitions += 1;
            stuck.missing.extend(dead);
        }
        stuck
    }

    /// For operators; nothing when all can go on.
    pub(super) fn told(&self, name_of: impl Fn(NodeId) -> String) -> Option<String> {
        let names: Vec<String> = self.missing.iter().map(|node| name_of(*node)).collect();
        (self.partitions > 0).then(|| {
            format!(
                "the replicas of {} partitions cannot be changed as planned without {}: start what is down; docs/control.md \
                 says what holds meanwhile, and if it never comes back",
                self.partitions,
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use cube_replication::topology::{Addresses, Assignment, Member, MemberState, Strategy, TopologyChange};
    use cube_storage::model::{PartitionBits, PartitionId, PlacementId};

    use super::*;

    const MOVED: PartitionId = PartitionId(0);

    fn nodes(ids: &[u16]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// Four members; one partition goes from 0, 1 and 2 to 1, 2 and 3.
    fn topology() -> Topology {
        let mut topology = Topology::new(PartitionBits::new(3).unwrap());
        let mut make = |change| topology = topology.after(&change).unwrap();
        for id in 0..4 {
            make(TopologyChange::Join(Member {
                id: NodeId(id),
                name: format!("node-{id}"),
                data_center: "dc1".into(),
                rack: "r1".into(),
                weight: 1,
                state: MemberState::Ready,
                addresses: Addresses::default(),
            }));
        }
        let rows = (0..8).map(|_| nodes(&[0, 1, 2]));
        let strategy = Strategy::Simple { replicas: 3 };
        let placement = PlacementId(0);
        make(TopologyChange::AddPlacement { placement, strategy, assignment: Assignment::from_rows(rows) });
        make(TopologyChange::BeginMove { placement, partition: MOVED, replicas: nodes(&[1, 2, 3]) });
        topology
    }

    fn stuck_without(dead: &[u16]) -> Stuck {
        Stuck::of(&topology(), |node| !dead.contains(&node.0))
    }

    #[test]
    fn a_change_goes_on_as_long_as_quorums_and_the_newcomer_are_there() {
        for dead in [&[][..], &[0], &[1], &[2]] {
            assert_eq!(stuck_without(dead), Stuck::default(), "{dead:?}");
        }
    }

    #[test]
    fn a_change_without_its_old_majority_or_its_newcomer_is_told_with_the_nodes_it_needs() {
        for dead in [&[0, 1][..], &[1, 2], &[3]] {
            let stuck = stuck_without(dead);
            assert_eq!(stuck, Stuck { partitions: 1, missing: nodes(dead).into_iter().collect() });
            let told = stuck.told(|node| format!("node-{}", node.0)).unwrap();
            assert!(told.contains("1 partitions") && told.contains(&format!("node-{}", dead[0])), "{told}");
        }
        assert_eq!(Stuck::default().told(|_| String::new()), None);
    }
}
