//! One replication setting and the replicas it gives to every partition. Keyspaces that replicate alike share one.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionBits, PartitionId};
use serde::{Deserialize, Serialize};

use super::{Assignment, BadReplicaSet, BadStrategy, Member, PartitionMap, Replica, ReplicaSet, Strategy};

/// A replication setting and where it leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Placement {
    pub(super) strategy: Strategy,
    pub(super) partitions: Vec<PartitionMap>,
}

impl Placement {
    /// The first replicas of every partition.
    pub fn new(
        strategy: Strategy,
        assignment: &Assignment,
        members: &BTreeMap<NodeId, Member>,
        bits: PartitionBits,
        epoch: Epoch,
    ) -> Result<Self, BadAssignment> {
        strategy.validate()?;
        let expected = usize::from(bits.partitions());
        if assignment.partitions() != expected {
            return Err(BadAssignment::Partitions { expected, given: assignment.partitions() });
        }
        let first_map = |(_, nodes): (_, &[NodeId])| {
            let replicas = Arc::new(resolve(nodes, members)?);
            Ok(PartitionMap::stable(replicas, epoch))
        };
        let partitions = assignment.iter().map(first_map).collect::<Result<_, BadAssignment>>()?;
        Ok(Self { strategy, partitions })
    }

    /// What the operator asked for.
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// The replicas of a partition.
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionMap> {
        self.partitions.get(usize::from(partition.0))
    }

    /// Every partition, in token order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionMap)> {
        (0..).map(PartitionId).zip(&self.partitions)
    }

    /// The replicas there will be when every change under way is complete.
    pub fn goal(&self) -> Assignment {
        Assignment::from_rows(self.partitions.iter().map(|map| map.goal().nodes().to_vec()))
    }
}

/// The set of these members, which must be able to hold data.
pub(super) fn resolve(nodes: &[NodeId], members: &BTreeMap<NodeId, Member>) -> Result<ReplicaSet, BadAssignment> {
    let replicas = nodes.iter().map(|node| match members.get(node) {
        Some(member) if member.may_hold_data() => Ok(Replica { node: *node, data_center: member.data_center.clone() }),
        _ => Err(BadAssignment::NotAHolder { node: *node }),
    });
    let replicas: Vec<_> = replicas.collect::<Result<_, _>>()?;
    Ok(ReplicaSet::new(replicas)?)
}

/// An assignment that does not fit the cluster.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAssignment {
    /// The setting itself is refused.
    #[error(transparent)]
    Strategy(#[from] BadStrategy),
    /// It is of another cluster, or cut short.
    #[error("the assignment has {given} partitions, and the cluster {expected}")]
    Partitions {
        /// In the cluster.
        expected: usize,
        /// In the assignment.
        given: usize,
    },
    /// Unknown, leaving, left, or of weight 0.
    #[error("{node} is not a member that may hold data")]
    NotAHolder {
        /// The one.
        node: NodeId,
    },
    /// The replicas of one partition are not a set.
    #[error(transparent)]
    ReplicaSet(#[from] BadReplicaSet),
}
