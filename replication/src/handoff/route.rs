//! Where a hint goes by the cluster's present state. Plain code.
//!
//! A hint is counted by the map that it went by, like any other write: a replica that has adopted a newer one, or not yet
//! this one, refuses it, and it is kept. So it is never taken by a node that is about to remove what it holds of the
//! partition, or has done so. That is not enough for a write's only copy while replicas change: whoever takes it must be a
//! replica whether the change completes or is taken back.

use std::collections::BTreeSet;

use cube_storage::model::{Epoch, NodeId, TableId, Token};

use crate::catalog::ClusterState;

/// Where a hint goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To its target, which is a replica by this map.
    Target(Epoch),
    /// Nowhere: its table was dropped.
    NoTable,
    /// Nowhere yet: its target is a replica only as long as the replicas change, or only afterwards, and nobody else has
    /// the write.
    Undecided,
    /// Nowhere, if other copies of the write exist: its target is no replica of the row any more. These are, by this map,
    /// and stay so.
    Elsewhere(BTreeSet<NodeId>, Epoch),
}

/// Where a hint for `target` goes.
pub(super) fn destination(
    state: &ClusterState,
    target: NodeId,
    (table, token): (TableId, Token),
    only_copy: bool,
) -> Destination {
    let Some((_, options)) = state.schema.table_options().find(|(id, _)| *id == table) else {
        return Destination::NoTable;
    };
    let Some(route) = state.topology.route(options.placement, token) else { return Destination::NoTable };
    let sets = route.map.write_sets();
    let (lasts, map) = (|node: NodeId| sets.iter().all(|set| set.contains(node)), route.map.epoch());
    match sets.contains(target) {
        true if !only_copy || lasts(target) => Destination::Target(map),
        true => Destination::Undecided,
        false => Destination::Elsewhere(sets.nodes().filter(|node| lasts(*node)).collect(), map),
    }
}

#[cfg(test)]
mod tests {
    use cube_storage::SyncPolicy;
    use cube_storage::model::{PartitionBits, PlacementId};

    use super::*;
    use crate::catalog::{Keyspace, Schema, Table};
    use crate::topology::plan::plan;
    use crate::topology::{Addresses, Assignment, Member, MemberState, Strategy, Topology, TopologyChange};

    const PLACEMENT: PlacementId = PlacementId(0);
    const TABLE: TableId = TableId(1);

    fn after(state: ClusterState, change: &TopologyChange) -> ClusterState {
        ClusterState { topology: state.topology.after(change).unwrap(), ..state }
    }

    /// Three nodes, a table on two of them, and a row of it.
    fn cluster() -> (ClusterState, Token) {
        let bits = PartitionBits::new(1).unwrap();
        let mut topology = Topology::new(bits);
        for id in 0..3 {
            let member = Member {
                id: NodeId(id),
                name: format!("node-{id}"),
                data_center: "dc1".into(),
                rack: "r1".into(),
                weight: 1,
                state: MemberState::Ready,
                addresses: Addresses::default(),
            };
            topology = topology.after(&TopologyChange::Join(member)).unwrap();
        }
        let strategy = Strategy::Simple { replicas: 2 };
        let assignment = plan(&Assignment::empty(bits), topology.members(), &strategy, bits);
        let table = Table { id: TABLE, prefix_index: false, settings: Default::default() };
        let tables = [("t".to_owned(), table)].into();
        let keyspace = Keyspace { placement: PLACEMENT, sync: SyncPolicy::Sync, tables };
        let schema = Schema { keyspaces: [("k".to_owned(), keyspace)].into() };
        let state = ClusterState { topology, schema };
        let added = TopologyChange::AddPlacement { placement: PLACEMENT, strategy, assignment };
        (after(state, &added), Token(0))
    }

    /// The replicas of the row's partition begin to become these.
    fn begin(state: ClusterState, replicas: [u16; 2]) -> ClusterState {
        let partition = state.topology.partition_bits().partition_of(Token(0));
        let replicas = replicas.map(NodeId).to_vec();
        after(state, &TopologyChange::BeginMove { placement: PLACEMENT, partition, replicas })
    }

    #[test]
    fn while_replicas_change_the_only_copy_of_a_write_goes_to_who_stays_a_replica_or_waits() {
        let (state, token) = cluster();
        let stable: Vec<u16> = (0..3).filter(|node| is_target(&state, *node, token, true)).collect();
        let [stays, leaves] = stable.as_slice() else { panic!("two replicas, not {stable:?}") };
        let comes = (0..3).find(|node| !stable.contains(node)).unwrap();
        let moving = begin(state, [*stays, comes]);
        assert!(is_target(&moving, *stays, token, true));
        for node in [*leaves, comes] {
            assert_eq!(destination(&moving, NodeId(node), (TABLE, token), true), Destination::Undecided);
            assert!(is_target(&moving, node, token, false), "others are due to all that are written");
        }
        let stranger = destination(&moving, NodeId(9), (TABLE, token), true);
        assert!(matches!(stranger, Destination::Elsewhere(takers, _) if takers == [NodeId(*stays)].into()));
    }

    fn is_target(state: &ClusterState, node: u16, token: Token, only_copy: bool) -> bool {
        matches!(destination(state, NodeId(node), (TABLE, token), only_copy), Destination::Target(_))
    }
}
