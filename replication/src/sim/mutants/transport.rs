//! Mistakes in what is made of the answers of replicas.

use std::collections::{BTreeMap, BTreeSet};

use cube_storage::model::{Epoch, NodeId, Origin, Outcome, PartitionId, RowKey, TableId, Version};

use super::super::control::{PLACEMENT, partition_of};
use super::Mutant;
use crate::catalog::ClusterState;
use crate::messages::{Found, Reply, ReplyBody, Request, RequestBody};

/// Who is counted before it has answered.
#[derive(Default)]
pub(in crate::sim) struct Counting {
    /// The last write that each coordinator counted somebody of too early.
    counted: BTreeMap<NodeId, Version>,
    /// By each map, who is in the new set alone.
    only_new: BTreeSet<(PartitionId, Epoch, NodeId)>,
}

impl Counting {
    /// Takes note of the maps of a state.
    pub(in crate::sim) fn learn(&mut self, state: &ClusterState) {
        for (partition, map) in state.topology.placement(PLACEMENT).into_iter().flat_map(|p| p.partitions()) {
            let sets = map.write_sets();
            let new = sets.second().map(|set| set.nodes().to_vec()).unwrap_or_default();
            let only_new = new.into_iter().filter(|node| !sets.first().contains(*node));
            self.only_new.extend(only_new.map(|node| (partition, map.epoch(), node)));
        }
    }

    /// The answer that a coordinator takes for granted, if it does.
    pub(in crate::sim) fn take_for_granted(
        &mut self,
        mutant: Option<Mutant>,
        (from, to): (NodeId, NodeId),
        request: &Request,
    ) -> Option<Reply> {
        let RequestBody::Write(write) = &request.body else { return None };
        let version = write.mutations.first().filter(|_| write.origin == Origin::Client)?.record.version;
        let granted = match mutant? {
            Mutant::OneAcknowledgementTooFew => self.counted.insert(from, version) != Some(version),
            Mutant::OneSetCounted => write
                .mutations
                .iter()
                .all(|row| row.claim.is_some_and(|claim| self.only_new.contains(&(partition_of(&row.key), claim, to)))),
            _ => false,
        };
        let body = Ok(ReplyBody::Wrote(vec![Outcome::Applied; write.mutations.len()]));
        granted.then_some(Reply { from: to, clock: request.clock, body })
    }
}

/// What each node told of each row, where it was a value.
#[derive(Default)]
pub(in crate::sim) struct Remembered(BTreeMap<(NodeId, TableId, RowKey), Found>);

impl Remembered {
    /// Rows that are gone are told as they were.
    pub(in crate::sim) fn recall(&mut self, by: NodeId, (table, keys): &(TableId, Vec<RowKey>), reply: &mut Reply) {
        let Ok(ReplyBody::Rows(rows)) = &mut reply.body else { return };
        for (key, found) in keys.iter().zip(rows) {
            let Ok(found) = found else { continue };
            let place = (by, *table, key.clone());
            match &found.record {
                Some(record) if !record.is_tombstone() => drop(self.0.insert(place, found.clone())),
                None if found.header.is_none() => {
                    if let Some(remembered) = self.0.get(&place) {
                        *found = Found { floor: found.floor, ..remembered.clone() };
                    }
                }
                _ => {}
            }
        }
    }
}
