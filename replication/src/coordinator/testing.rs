//! What the tests of the decisions share: replica sets and versions written short.

use std::sync::Arc;

use cube_storage::model::{Epoch, Hlc, NodeId, Version};

use crate::topology::{PartitionMap, Replica, ReplicaSet};

/// A replica set such as `a1 a2 b3`: data center, then node.
pub(super) fn set(written: &str) -> Arc<ReplicaSet> {
    let replica = |word: &str| Replica { node: NodeId(word[1..].parse().unwrap()), data_center: word[..1].into() };
    Arc::new(ReplicaSet::new(written.split_whitespace().map(replica)).unwrap())
}

/// The map of a partition whose replicas stay.
pub(super) fn stable(written: &str, epoch: u64) -> PartitionMap {
    PartitionMap::stable(set(written), Epoch(epoch))
}

/// The map while `old` changes to `new`, and the old replicas are read.
pub(super) fn changing(old: &str, new: &str, epoch: u64) -> PartitionMap {
    stable(old, epoch - 1).begin(set(new), Epoch(epoch)).unwrap()
}

pub(super) fn version(hlc: u64) -> Version {
    Version::new(Hlc(hlc), NodeId(0))
}

pub(super) fn n(node: u16) -> NodeId {
    NodeId(node)
}
