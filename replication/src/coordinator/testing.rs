//! What the tests of the decisions share: replica sets and versions written short.

use std::sync::Arc;

use cube_storage::clock::Clock;
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Epoch, Hlc, NodeId, PartitionBits, Version};
use cube_storage::{Identity, Store, StoreOptions};

use super::{Coordinator, Parts, Settings};
use crate::catalog::{Catalog, ClusterState};
use crate::clock::NodeClock;
use crate::handoff::{HintKeeper, Missed, NotKept, OnKept};
use crate::membership::Scripted;
use crate::replica::Replica;
use crate::topology::{PartitionMap, Replica as Member, ReplicaSet, Topology};
use crate::transport::{Delivery, InProcess};

/// A replica set such as `a1 a2 b3`: data center, then node.
pub(super) fn set(written: &str) -> Arc<ReplicaSet> {
    let replica = |word: &str| Member { node: NodeId(word[1..].parse().unwrap()), data_center: word[..1].into() };
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

/// A coordinator of a cluster that is only itself.
pub(super) fn coordinator(time: Arc<dyn Clock>) -> Arc<Coordinator> {
    let me = NodeId(1);
    let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([7; 16]) };
    let store = Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap();
    let store = Arc::new(store);
    let clock = Arc::new(NodeClock::new(me, Arc::clone(&time), store.clone(), 900_000).unwrap());
    let state = ClusterState { topology: Topology::new(PartitionBits::DEFAULT), schema: Default::default() };
    let parts = Parts {
        me,
        clock: clock.clone(),
        catalog: Arc::new(Catalog::new(state)),
        membership: Arc::new(Scripted::new(me)),
        transport: InProcess::new(time, Delivery::Pumped, 10).transport(me),
        replica: Arc::new(Replica::new(me, store, clock)),
        hints: Arc::new(NoHints),
    };
    Coordinator::new(parts, Settings::default())
}

struct NoHints;

impl HintKeeper for NoHints {
    fn keep(&self, missed: Missed, kept: OnKept) {
        kept(Err(NotKept { target: missed.target, cause: "there are none".into() }));
    }
}
