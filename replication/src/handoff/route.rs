//! Where a hint goes by the cluster's present state. Plain code.

use std::collections::BTreeSet;

use cube_storage::model::{NodeId, TableId, Token};

use crate::catalog::ClusterState;

/// Where a hint goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To its target.
    Target,
    /// Nowhere: its table was dropped.
    NoTable,
    /// Nowhere, if other copies of the write exist: its target is no replica of the row any more. These are.
    Elsewhere(BTreeSet<NodeId>),
}

/// Where a hint for `target` goes.
pub(super) fn destination(state: &ClusterState, target: NodeId, table: TableId, token: Token) -> Destination {
    let Some((_, options)) = state.schema.table_options().find(|(id, _)| *id == table) else {
        return Destination::NoTable;
    };
    let Some(route) = state.topology.route(options.placement, token) else { return Destination::NoTable };
    let replicas: BTreeSet<NodeId> = route.map.write_sets().nodes().collect();
    if replicas.contains(&target) { Destination::Target } else { Destination::Elsewhere(replicas) }
}
