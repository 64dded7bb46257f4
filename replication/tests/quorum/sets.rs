//! Replica sets written shortly: a letter for the data center, a number for the node.

use std::sync::Arc;

use cube_replication::consistency::Level;
use cube_replication::topology::{DataCenter, Replica, ReplicaSet, ReplicaSets};
use cube_storage::model::NodeId;
use proptest::prelude::*;

/// `"a0 a1 b2"`: nodes 0 and 1 in data center `a`, node 2 in `b`.
pub(crate) fn set(written: &str) -> Arc<ReplicaSet> {
    let replica = |word: &str| {
        let (data_center, node) = word.split_at(1);
        Replica { node: NodeId(node.parse().unwrap()), data_center: data_center.into() }
    };
    Arc::new(ReplicaSet::new(written.split_whitespace().map(replica)).unwrap())
}

pub(crate) fn one(written: &str) -> ReplicaSets {
    ReplicaSets::one(set(written))
}

pub(crate) fn a() -> DataCenter {
    "a".into()
}

/// Whether `chosen` meets the level in every set, told by counting.
pub(crate) fn meets(level: Level, sets: &ReplicaSets, local: &DataCenter, chosen: &[NodeId]) -> bool {
    sets.iter().all(|set| {
        let homes: Vec<DataCenter> = set.data_centers().iter().map(|group| group.name.clone()).collect();
        let members = |home: &DataCenter| set.replicas().filter(|r| r.data_center == *home).count();
        let here =
            |home: &DataCenter| set.replicas().filter(|r| r.data_center == *home && chosen.contains(&r.node)).count();
        let all = set.len();
        let count: usize = homes.iter().map(here).sum();
        match level {
            Level::Any | Level::One => count >= 1,
            Level::Two => count >= 2,
            Level::Three => count >= 3,
            Level::Quorum => 2 * count > all,
            Level::All => all > 0 && count == all,
            Level::LocalOne => here(local) >= 1,
            Level::LocalQuorum => 2 * here(local) > members(local),
            Level::EachQuorum => all > 0 && homes.iter().all(|home| 2 * here(home) > members(home)),
        }
    })
}

fn replica_set() -> impl Strategy<Value = Arc<ReplicaSet>> {
    // A node's data center never changes, so it follows from the number.
    prop::sample::subsequence((0..9u16).collect::<Vec<_>>(), 0..=9).prop_shuffle().prop_map(|nodes| {
        let home = |node: u16| if node < 5 { "a" } else { "b" };
        let replicas = nodes.into_iter().map(|node| Replica { node: NodeId(node), data_center: home(node).into() });
        Arc::new(ReplicaSet::new(replicas).unwrap())
    })
}

/// One set or two, of up to five nodes in data center `a` and four in `b`.
pub(crate) fn replica_sets() -> impl Strategy<Value = ReplicaSets> {
    (replica_set(), prop::option::of(replica_set())).prop_map(|(first, second)| match second {
        None => ReplicaSets::one(first),
        Some(second) => ReplicaSets::both(first, second),
    })
}

pub(crate) fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(Level::EVERY.to_vec())
}

/// All nodes there may be, in any order.
pub(crate) fn order() -> impl Strategy<Value = Vec<NodeId>> {
    Just((0..9).map(NodeId).collect::<Vec<_>>()).prop_shuffle()
}
