//! The hard state: what an operator decided, as every node of the cluster holds it. A value; `command.rs` says what may
//! change it, `apply.rs` what each command makes of it.
//!
//! What it keeps true:
//!
//! - ids of nodes, tables and placements are never used twice;
//! - each member that ever joined has the instance (the data directory) it joined with, so a join asked twice is one
//!   join, and a wiped or foreign directory is told from the member's own;
//! - each keyspace owns one placement. Keyspaces that replicate alike could share one, but a keyspace must be able to
//!   change its strategy without moving another's rows, and a shared placement could only be split by handing rows from
//!   one placement to another. The price is a map per keyspace and partition, which [`KEYSPACES_MAX`] bounds.

use std::collections::BTreeMap;

use cube_replication::catalog::{ClusterState, Schema};
use cube_replication::topology::plan::plan;
use cube_replication::topology::{Assignment, Strategy, Topology};
use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, PartitionBits, TableId};
use serde::{Deserialize, Serialize};

use super::command::Command;
use crate::identity::{ClusterId, InstanceId};
use cube_replication::topology::in_reach;

/// The most keyspaces: each has a map of its own for every partition, and all of them are on every node.
pub const KEYSPACES_MAX: usize = 64;
/// The most tables of all keyspaces together: each costs every node a note on disk and trees in memory.
pub const TABLES_MAX: usize = 1024;
/// The most members that have not left: each is told every entry of the log.
pub const MEMBERS_MAX: usize = 512;

/// The id of the node that founds a cluster.
pub const FOUNDER: NodeId = NodeId(0);

/// What was drawn when the cluster was founded, and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founded {
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// The key of the Merkle hashes: the same on all members, or no two trees could be compared.
    pub merkle_key: [u8; 16],
}

/// One state of the cluster's hard state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// `None` until the cluster is founded; on a node that joins, until the state has reached it.
    pub founded: Option<Founded>,
    /// What requests are routed by: topology and schema.
    pub cluster_state: ClusterState,
    /// The data directory of every member, also of those that left.
    pub instances: BTreeMap<NodeId, InstanceId>,
    /// The id the next table gets.
    pub next_table: TableId,
}

impl HardState {
    /// Before anything was decided.
    pub fn unfounded() -> Self {
        Self {
            founded: None,
            cluster_state: ClusterState { topology: Topology::new(PartitionBits::DEFAULT), schema: Schema::default() },
            instances: BTreeMap::new(),
            next_table: TableId(1),
        }
    }

    /// Which cluster this is, once it is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.founded.map(|founded| founded.cluster)
    }

    /// Members and where every partition lives.
    pub fn topology(&self) -> &Topology {
        &self.cluster_state.topology
    }

    /// Keyspaces and tables.
    pub fn schema(&self) -> &Schema {
        &self.cluster_state.schema
    }

    /// The member that lives in a data directory, also one that left.
    pub fn member_of(&self, instance: InstanceId) -> Option<NodeId> {
        self.instances.iter().find(|(_, known)| **known == instance).map(|(node, _)| *node)
    }

    /// The command that creates a keyspace, with its replicas planned for the members of this state. The plan travels in
    /// the command, so that two releases that plan differently agree on it.
    pub fn plan_keyspace(&self, name: &str, strategy: Strategy, sync: SyncPolicy, if_not_exists: bool) -> Command {
        let bits = self.topology().partition_bits();
        let assignment = plan(&Assignment::empty(bits), &in_reach(self.topology().members()), &strategy, bits);
        Command::CreateKeyspace { name: name.to_owned(), strategy, sync, if_not_exists, assignment }
    }
}
