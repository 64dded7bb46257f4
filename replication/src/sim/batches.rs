//! The promise that the rows of one partition key in one request share their fate: a replica takes all of them or none, and
//! holds all or none of what it took, whenever it is looked at.
//!
//! Looked at are the batches that came to a replica from another node, for a client: each when it is answered, on the disk
//! whenever the replica starts again, and when all is over. A row alone may come by a repair or a copy, so only what a
//! replica said that it took is looked for. Each row must be there, or something newer, or have been purged since.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cube_storage::SyncState;
use cube_storage::model::{NodeId, Origin, Outcome, RowKey, TableId, Version};

use super::checkers::{Violation, is_present};
use super::cluster::Run;
use super::control::{PLACEMENT, partition_of};
use super::node::SimNode;
use crate::messages::{Refusal, Reply, ReplyBody, Request, RequestBody};

/// Rows of one partition key that came to a replica in one request.
#[derive(Clone)]
pub(super) struct Batch {
    to: NodeId,
    table: TableId,
    keys: Vec<RowKey>,
    version: Version,
    /// The rows' places in the request.
    places: Vec<usize>,
    /// When the replica said that it took them.
    taken_us: u64,
}

/// A batch, and whether its replica took a row of it and refused one.
pub(super) struct Answered {
    batch: Batch,
    took: bool,
    refused: bool,
}

impl Batch {
    /// The batches of a request to a node.
    pub(super) fn all_of(to: NodeId, request: &Request) -> Vec<Self> {
        let RequestBody::Write(write) = &request.body else { return Vec::new() };
        let mut batches: BTreeMap<(TableId, Bytes, Version), Self> = BTreeMap::new();
        for (place, row) in write.mutations.iter().enumerate().filter(|_| write.origin == Origin::Client) {
            let (table, version) = (row.table, row.record.version);
            let none = || Self { to, table, keys: Vec::new(), version, places: Vec::new(), taken_us: 0 };
            let batch = batches.entry((table, row.key.partition.clone(), version)).or_insert_with(none);
            batch.keys.push(row.key.clone());
            batch.places.push(place);
        }
        batches.into_values().filter(|batch| batch.keys.len() > 1).collect()
    }

    /// What came of it.
    pub(super) fn answered(self, reply: &Reply) -> Option<Answered> {
        let results: Vec<Result<Outcome, Refusal>> = match &reply.body {
            Ok(ReplyBody::Wrote(outcomes)) => outcomes.iter().cloned().map(Ok).collect(),
            Ok(ReplyBody::WroteSome(results)) => results.clone(),
            _ => return None,
        };
        let mine: Vec<_> = self.places.iter().filter_map(|place| results.get(*place)).collect();
        let took = mine.iter().any(|result| matches!(result, Ok(Outcome::Applied)));
        let refused = mine.iter().any(|result| !result.as_ref().is_ok_and(Outcome::holds));
        Some(Answered { batch: self, took, refused })
    }

    /// What is left of it on a replica that counts, where that is neither all nor nothing.
    fn torn(&self, run: &Run, node: &SimNode) -> Option<String> {
        let (process, partition) = (node.process.as_ref()?, partition_of(self.keys.first()?));
        let map = node.known.state.topology.placement(PLACEMENT).and_then(|p| p.partition(partition))?;
        let counts = map.serving().contains(node.id)
            && process.store.partition(PLACEMENT, partition).sync == SyncState::Synced
            && is_present(&run.control.state, self.table)
            && node.cleared_us.get(&partition).is_none_or(|cleared_us| *cleared_us < self.taken_us);
        if !counts {
            return None;
        }
        let held = self.keys.iter().map(|key| process.store.header(self.table, key));
        // A damaged row tells nothing: its replica begins anew.
        let held: Vec<_> = held.collect::<Result<_, _>>().ok()?;
        let is_there = held.iter().flatten().any(|header| header.version == self.version);
        let lacks = |key: &&RowKey| !node.covers(self.table, key, self.version);
        let lacking: BTreeSet<&RowKey> = self.keys.iter().filter(lacks).collect();
        let told = || {
            let held: Vec<_> = held.iter().map(|header| header.as_ref().map(|header| header.version)).collect();
            format!("{} lacks {lacking:?} of {} {:?}, and holds {held:?}", node.id, self.version, self.keys)
        };
        (is_there && !lacking.is_empty()).then(told)
    }
}

impl Run {
    /// Looks at the batches that were answered since.
    pub(super) fn check_batches(&mut self) {
        for Answered { batch, took, refused } in self.network.take_batches() {
            let now_us = self.schedule.now_us();
            if took && refused {
                let Batch { to, version, keys, .. } = &batch;
                let detail = format!("{to} took a part of {version} {keys:?} at {now_us} us");
                self.violations.push(Violation::BatchTorn(detail));
            }
            if !refused {
                let batch = Batch { taken_us: now_us, ..batch };
                self.judge_batches(std::slice::from_ref(&batch));
                self.batches.push(batch);
            }
        }
    }

    /// Looks at all batches of a replica, as its disk holds them, or at those of all.
    pub(super) fn check_batches_on(&mut self, node: Option<NodeId>) {
        let of = |batch: &&Batch| node.is_none_or(|node| batch.to == node);
        let batches: Vec<Batch> = self.batches.iter().filter(of).cloned().collect();
        self.judge_batches(&batches);
    }

    fn judge_batches(&mut self, batches: &[Batch]) {
        let torn = batches.iter().filter_map(|batch| batch.torn(self, self.nodes.get(&batch.to)?));
        let torn: Vec<Violation> = torn.map(Violation::BatchTorn).collect();
        self.violations.extend(torn);
    }
}
