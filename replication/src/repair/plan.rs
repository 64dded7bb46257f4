//! What a job is made of: the tables that were asked for, and the pairs of replicas of each of their partitions.

use std::collections::BTreeMap;

use cube_storage::model::NodeId;
use thiserror::Error;

use super::id::RepairId;
use super::job::{Asked, JobTable, Unit};
use crate::anti_entropy::questions::Tree;
use crate::catalog::{ClusterState, UnknownName};

/// Trees of a unit: progress is told, and kept, from unit to unit.
pub(super) const TREES_PER_UNIT_MAX: usize = 64;
/// Comparisons of a job: a record of some megabyte.
pub const COMPARISONS_MAX: usize = 1 << 18;

/// Why no job was begun.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BeginError {
    /// What is to be repaired does not exist.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// One of the tables is being repaired already.
    #[error("repair {id} is under way for one of these tables: wait for its end, or cancel it")]
    UnderWay {
        /// The job that is under way.
        id: RepairId,
    },
    /// This node has enough jobs.
    #[error("{active} repairs wait or run on this node, which is as many as there may be: wait, or ask another node")]
    TooMany {
        /// Jobs that have not ended.
        active: usize,
    },
    /// The scope is too large for one job.
    #[error("this would be more than {COMPARISONS_MAX} comparisons of partitions: name a keyspace or a table")]
    TooLarge,
    /// The clock gives no stamps at the moment.
    #[error("this node's clock cannot be used: {0}")]
    Clock(String),
    /// The job could not be kept.
    #[error("the repair cannot be recorded: {0}")]
    NotKept(String),
}

/// Every keyspace, as it stands in the error about a table that none of them has.
const ANY: &str = "*";

/// The tables and units of a job that `me` runs.
pub(super) fn plan(state: &ClusterState, me: NodeId, asked: &Asked) -> Result<(Vec<JobTable>, Vec<Unit>), BeginError> {
    let keyspaces = &state.schema.keyspaces;
    if let Some(keyspace) = asked.keyspace.as_ref().filter(|keyspace| !keyspaces.contains_key(*keyspace)) {
        return Err(UnknownName::Keyspace { keyspace: keyspace.clone() }.into());
    }
    let (mut tables, mut comparisons) = (Vec::new(), 0);
    let mut pairs: BTreeMap<(NodeId, NodeId), Vec<Tree>> = BTreeMap::new();
    for (name, keyspace) in keyspaces.iter().filter(|(name, _)| asked.keyspace.as_ref().is_none_or(|of| of == *name)) {
        let of_keyspace = keyspace.tables.iter();
        for (table_name, table) in of_keyspace.filter(|(name, _)| asked.table.as_ref().is_none_or(|of| of == *name)) {
            tables.push(JobTable { id: table.id, keyspace: name.clone(), name: table_name.clone() });
            let partitions = state.topology.placement(keyspace.placement).into_iter().flat_map(|all| all.partitions());
            for (partition, map) in partitions {
                let mut replicas: Vec<NodeId> = map.write_sets().nodes().collect();
                replicas.sort_unstable();
                for (place, first) in replicas.iter().enumerate() {
                    for second in replicas.iter().skip(place + 1) {
                        comparisons += 1;
                        if comparisons > COMPARISONS_MAX {
                            return Err(BeginError::TooLarge);
                        }
                        pairs.entry((*first, *second)).or_default().push((table.id, partition));
                    }
                }
            }
        }
    }
    if let (true, Some(table)) = (tables.is_empty(), &asked.table) {
        let keyspace = asked.keyspace.clone().unwrap_or_else(|| ANY.to_owned());
        return Err(UnknownName::Table { keyspace, table: table.clone() }.into());
    }
    Ok((tables, units(me, pairs)))
}

/// Units of all pairs in turn, so that all nodes have something to do from the beginning.
fn units(me: NodeId, pairs: BTreeMap<(NodeId, NodeId), Vec<Tree>>) -> Vec<Unit> {
    let mut by_turn: BTreeMap<usize, Vec<Unit>> = BTreeMap::new();
    for (place, ((first, second), trees)) in pairs.into_iter().enumerate() {
        for (turn, trees) in trees.chunks(TREES_PER_UNIT_MAX).enumerate() {
            // This node needs no messages to run what it is a part of; of other pairs each member runs a part.
            let is_firsts = if second == me { false } else { first == me || (place + turn) % 2 == 0 };
            let (by, with) = if is_firsts { (first, second) } else { (second, first) };
            let unit = Unit { by, with, trees: trees.to_vec(), attempt: 0, is_mirror: false, is_closed: false };
            by_turn.entry(turn).or_default().push(unit);
        }
    }
    by_turn.into_values().flatten().collect()
}

/// Whether a tree is still held by both, under a table that still exists.
pub(super) fn is_held(state: &ClusterState, (table, partition): Tree, nodes: [NodeId; 2]) -> Held {
    let keyspace = state.schema.keyspaces.values().find(|keyspace| keyspace.tables.values().any(|of| of.id == table));
    let Some(keyspace) = keyspace else { return Held::Dropped };
    let map = state.topology.placement(keyspace.placement).and_then(|placement| placement.partition(partition));
    match map.is_some_and(|map| nodes.iter().all(|node| map.write_sets().contains(*node))) {
        true => Held::ByBoth,
        false => Held::Moved,
    }
}

/// Who holds a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Both nodes that were asked for.
    ByBoth,
    /// Other nodes by now.
    Moved,
    /// Nobody: there is no such table any more.
    Dropped,
}
