//! Which nodes hold which partition: what `plan` reads and writes.

use std::collections::BTreeSet;

use cube_storage::model::{NodeId, PartitionBits, PartitionId};
use serde::{Deserialize, Serialize};

/// The ordered replicas of every partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Assignment(Vec<Vec<NodeId>>);

impl Assignment {
    /// Nothing is assigned yet.
    pub fn empty(bits: PartitionBits) -> Self {
        Self(bits.all().map(|_| Vec::new()).collect())
    }

    /// From the replicas of every partition, in partition order.
    pub fn from_rows(rows: impl IntoIterator<Item = Vec<NodeId>>) -> Self {
        Self(rows.into_iter().collect())
    }

    /// How many partitions.
    pub fn partitions(&self) -> usize {
        self.0.len()
    }

    /// The replicas of a partition, in order. Empty for one that is not there.
    pub fn replicas(&self, partition: PartitionId) -> &[NodeId] {
        self.0.get(usize::from(partition.0)).map_or(&[], Vec::as_slice)
    }

    /// Every partition with its replicas.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &[NodeId])> {
        (0..).map(PartitionId).zip(self.0.iter().map(Vec::as_slice))
    }

    /// How many partitions a node holds.
    pub fn share(&self, node: NodeId) -> usize {
        self.0.iter().filter(|replicas| replicas.contains(&node)).count()
    }

    /// How many replicas have to be copied to get here from `previous`: those it does not have.
    pub fn moves_from(&self, previous: &Self) -> usize {
        self.iter()
            .map(|(partition, replicas)| {
                let before: BTreeSet<_> = previous.replicas(partition).iter().collect();
                replicas.iter().filter(|node| !before.contains(node)).count()
            })
            .sum()
    }
}
