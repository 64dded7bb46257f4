//! The replicas of one partition, grouped by data center so that counting answers is a few bit operations.
//!
//! Every request counts answers against one of these, so a set is built once per topology and shared.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};

use super::DataCenter;

/// A replica and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Which member.
    pub node: NodeId,
    /// Its data center.
    pub data_center: DataCenter,
}

/// Some of the replicas of one [`ReplicaSet`]: a bit for each position. Means nothing for another set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Slots(u64);

impl Slots {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// How many.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those that are in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in this one alone.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Takes up those of another.
    pub const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    const fn at(position: usize) -> Self {
        Self(1 << position)
    }
}

/// The replicas of a partition in one data center.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataCenterReplicas {
    /// Its name.
    pub name: DataCenter,
    /// Which of the set's replicas.
    pub slots: Slots,
}

/// The ordered replicas of one partition. The first is the primary, where a choice has to start somewhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Replica>", into = "Vec<Replica>")]
pub struct ReplicaSet {
    nodes: Vec<NodeId>,
    /// Ordered by name.
    data_centers: Vec<DataCenterReplicas>,
}

impl ReplicaSet {
    /// The most replicas a partition may have: one bit each in a word.
    pub const REPLICAS_MAX: usize = u64::BITS as usize;

    /// A set of distinct replicas, in order. It may be empty: then no level can be met.
    pub fn new(replicas: impl IntoIterator<Item = Replica>) -> Result<Self, BadReplicaSet> {
        let mut set = Self { nodes: Vec::new(), data_centers: Vec::new() };
        for replica in replicas {
            if set.contains(replica.node) {
                return Err(BadReplicaSet::Twice { node: replica.node });
            }
            if set.len() == Self::REPLICAS_MAX {
                return Err(BadReplicaSet::TooMany);
            }
            set.push(replica);
        }
        set.data_centers.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(set)
    }

    fn push(&mut self, Replica { node, data_center }: Replica) {
        let slot = Slots::at(self.nodes.len());
        self.nodes.push(node);
        match self.data_centers.iter_mut().find(|group| group.name == data_center) {
            Some(group) => group.slots.add(slot),
            None => self.data_centers.push(DataCenterReplicas { name: data_center, slots: slot }),
        }
    }

    /// In order.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Those with at least one replica, by name.
    pub fn data_centers(&self) -> &[DataCenterReplicas] {
        &self.data_centers
    }

    /// How many replicas.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether a node is one of them.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    /// The same nodes, in whatever order.
    pub fn same_nodes(&self, other: &Self) -> bool {
        self.len() == other.len() && self.nodes.iter().all(|node| other.contains(*node))
    }

    /// The replica that a node is; none for a stranger.
    pub fn slot_of(&self, node: NodeId) -> Slots {
        self.nodes.iter().position(|replica| *replica == node).map_or(Slots::NONE, Slots::at)
    }

    /// All of them.
    pub fn all(&self) -> Slots {
        self.matching(|_| true)
    }

    /// Those for which something holds.
    pub fn matching(&self, mut holds: impl FnMut(NodeId) -> bool) -> Slots {
        let mut slots = Slots::NONE;
        for (position, node) in self.nodes.iter().enumerate() {
            if holds(*node) {
                slots.add(Slots::at(position));
            }
        }
        slots
    }

    /// The replicas in a data center.
    pub fn in_data_center(&self, name: &DataCenter) -> Slots {
        self.data_centers.iter().find(|group| group.name == *name).map_or(Slots::NONE, |group| group.slots)
    }

    /// The nodes that `slots` stands for, in order.
    pub fn nodes_of(&self, slots: Slots) -> impl Iterator<Item = NodeId> {
        let chosen =
            move |(position, node): (usize, &NodeId)| (slots.and(Slots::at(position)) != Slots::NONE).then_some(*node);
        self.nodes.iter().enumerate().filter_map(chosen)
    }

    /// The set without some of its replicas.
    pub fn without(&self, gone: &BTreeSet<NodeId>) -> Self {
        let mut set = Self { nodes: Vec::new(), data_centers: Vec::new() };
        self.replicas().filter(|replica| !gone.contains(&replica.node)).for_each(|replica| set.push(replica));
        set.data_centers.sort_by(|left, right| left.name.cmp(&right.name));
        set
    }

    /// Each replica with its data center, in order.
    pub fn replicas(&self) -> impl Iterator<Item = Replica> {
        self.nodes.iter().enumerate().filter_map(|(position, node)| {
            let home = self.data_centers.iter().find(|group| group.slots.and(Slots::at(position)) != Slots::NONE)?;
            Some(Replica { node: *node, data_center: home.name.clone() })
        })
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.replicas().map(|replica| (replica.node, replica.data_center))).finish()
    }
}

impl TryFrom<Vec<Replica>> for ReplicaSet {
    type Error = BadReplicaSet;

    fn try_from(replicas: Vec<Replica>) -> Result<Self, BadReplicaSet> {
        Self::new(replicas)
    }
}

impl From<ReplicaSet> for Vec<Replica> {
    fn from(set: ReplicaSet) -> Self {
        set.replicas().collect()
    }
}

/// What cannot be a set of replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadReplicaSet {
    /// A second copy on one node would count as two and survive as one.
    #[error("{node} is named twice among the replicas of one partition")]
    Twice {
        /// The one.
        node: NodeId,
    },
    /// Past [`ReplicaSet::REPLICAS_MAX`].
    #[error("a partition may have at most {} replicas", ReplicaSet::REPLICAS_MAX)]
    TooMany,
}

/// The replica sets a level must be met in, each for itself: one, or the old and the new one during a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaSets {
    first: Arc<ReplicaSet>,
    second: Option<Arc<ReplicaSet>>,
}

impl ReplicaSets {
    /// The usual case.
    pub fn one(set: Arc<ReplicaSet>) -> Self {
        Self { first: set, second: None }
    }

    /// While replicas change.
    pub fn both(old: Arc<ReplicaSet>, new: Arc<ReplicaSet>) -> Self {
        Self { first: old, second: Some(new) }
    }

    /// The old set, or the only one.
    pub fn first(&self) -> &Arc<ReplicaSet> {
        &self.first
    }

    /// The new set, while replicas change.
    pub fn second(&self) -> Option<&Arc<ReplicaSet>> {
        self.second.as_ref()
    }

    /// One or two.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// Every replica once: those of the first set in order, then those the second adds.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let added = self.second.iter().flat_map(|set| set.nodes()).filter(|node| !self.first.contains(**node));
        self.first.nodes().iter().chain(added).copied()
    }

    /// Whether a node is in either.
    pub fn contains(&self, node: NodeId) -> bool {
        self.iter().any(|set| set.contains(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: u16, data_center: &str) -> Replica {
        Replica { node: NodeId(node), data_center: data_center.into() }
    }

    #[test]
    fn a_set_keeps_its_order_and_knows_its_data_centers() {
        let set = ReplicaSet::new([replica(7, "b"), replica(3, "a"), replica(5, "b")]).unwrap();
        assert_eq!(set.nodes(), [NodeId(7), NodeId(3), NodeId(5)]);
        let names: Vec<_> = set.data_centers().iter().map(|group| (group.name.as_str(), group.slots.count())).collect();
        assert_eq!(names, [("a", 1), ("b", 2)]);
        assert_eq!(set.nodes_of(set.in_data_center(&"b".into())).collect::<Vec<_>>(), [NodeId(7), NodeId(5)]);
        assert_eq!(set.in_data_center(&"c".into()), Slots::NONE);
        assert_eq!(set.slot_of(NodeId(4)), Slots::NONE);
        assert_eq!(Vec::from(set), [replica(7, "b"), replica(3, "a"), replica(5, "b")]);
    }

    #[test]
    fn a_node_cannot_be_two_replicas_of_one_partition() {
        assert_eq!(ReplicaSet::new([replica(1, "a"), replica(1, "a")]), Err(BadReplicaSet::Twice { node: NodeId(1) }));
        assert_eq!(ReplicaSet::new((0..64).map(|node| replica(node, "a"))).map(|set| set.all().count()), Ok(64));
        assert_eq!(ReplicaSet::new((0..65).map(|node| replica(node, "a"))), Err(BadReplicaSet::TooMany));
    }

    #[test]
    fn a_set_without_some_of_its_replicas_is_as_if_they_had_never_been_in_it() {
        let set = ReplicaSet::new([replica(7, "b"), replica(3, "a"), replica(5, "b")]).unwrap();
        let left = set.without(&[NodeId(7), NodeId(9)].into());
        assert_eq!(left, ReplicaSet::new([replica(3, "a"), replica(5, "b")]).unwrap());
        assert!(set.without(&set.nodes().iter().copied().collect()).is_empty());
    }

    #[test]
    fn two_sets_name_every_node_once() {
        let old = Arc::new(ReplicaSet::new([replica(1, "a"), replica(2, "a")]).unwrap());
        let new = Arc::new(ReplicaSet::new([replica(3, "a"), replica(2, "a")]).unwrap());
        let both = ReplicaSets::both(old, new);
        assert_eq!(both.nodes().collect::<Vec<_>>(), [NodeId(1), NodeId(2), NodeId(3)]);
        assert!(both.contains(NodeId(3)) && !both.contains(NodeId(4)));
    }
}
