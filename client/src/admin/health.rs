//! How a cluster fares, and what would break if one more node died, as the node that is asked sees it.

use std::collections::BTreeMap;

use cube_proto::v1;

use super::{Admin, Told};
use crate::error::Error;
use crate::retry::Kind;

/// How a cluster fares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterHealth {
    /// HEALTHY, DEGRADED, AT_RISK or UNAVAILABLE.
    pub status: String,
    /// The same in one sentence.
    pub summary: String,
    /// Members that have not left.
    pub members: u32,
    /// The names of those that are down.
    pub down: Vec<String>,
    /// The names of those that vote on keyspaces, tables and members.
    pub voters: Vec<String>,
    /// How many votes a change takes.
    pub voters_required: u32,
    /// How many voters are alive.
    pub voters_alive: u32,
    /// Every keyspace.
    pub keyspaces: Vec<KeyspaceHealth>,
    /// What would break if one more node died: only nodes are named that matter.
    pub if_one_more_died: Vec<OneMoreDied>,
}

/// How a keyspace fares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyspaceHealth {
    /// Its name.
    pub name: String,
    /// Its replication, as `simple(3)`.
    pub replication: String,
    /// Its partitions.
    pub partitions: u32,
    /// What cannot be done now.
    pub lost: LostLevels,
}

/// Partitions in which a level is out of reach.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LostLevels {
    /// At QUORUM.
    pub quorum: u32,
    /// At LOCAL_QUORUM, by the data center of the node that is asked.
    pub local_quorum: BTreeMap<String, u32>,
    /// At any level: no replica is alive.
    pub any_replica: u32,
}

/// What the death of one more node would break.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OneMoreDied {
    /// Its name.
    pub node: String,
    /// The keyspaces that would lose a level in further partitions.
    pub keyspaces: Vec<KeyspaceLoss>,
    /// Whether keyspaces, tables and members could not be changed any more.
    pub no_majority: bool,
}

/// What a keyspace would lose, in further partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyspaceLoss {
    /// Its name.
    pub name: String,
    /// What it would lose.
    pub lost: LostLevels,
}

impl ClusterHealth {
    fn of(reply: v1::ClusterHealthReply) -> Self {
        let keyspace = |keyspace: v1::KeyspaceHealth| KeyspaceHealth {
            name: keyspace.name,
            replication: keyspace.replication,
            partitions: keyspace.partitions,
            lost: LostLevels::of(keyspace.lost),
        };
        Self {
            status: reply.status,
            summary: reply.summary,
            members: reply.members,
            down: reply.down,
            voters: reply.voters,
            voters_required: reply.voters_required,
            voters_alive: reply.voters_alive,
            keyspaces: reply.keyspaces.into_iter().map(keyspace).collect(),
            if_one_more_died: reply.if_one_more_died.into_iter().map(OneMoreDied::of).collect(),
        }
    }
}

impl LostLevels {
    fn of(lost: Option<v1::LostLevels>) -> Self {
        let lost = lost.unwrap_or_default();
        Self {
            quorum: lost.without_quorum,
            local_quorum: lost.without_local_quorum.into_iter().collect(),
            any_replica: lost.without_any_replica,
        }
    }
}

impl OneMoreDied {
    fn of(died: v1::OneMoreDied) -> Self {
        let keyspace =
            |keyspace: v1::KeyspaceLoss| KeyspaceLoss { name: keyspace.name, lost: LostLevels::of(keyspace.lost) };
        Self {
            node: died.node,
            keyspaces: died.keyspaces.into_iter().map(keyspace).collect(),
            no_majority: died.no_majority,
        }
    }
}

impl Admin {
    /// How the cluster fares.
    pub async fn cluster_health(&self) -> Result<Told<ClusterHealth>, Error> {
        let told = self.ask("HEALTH", "of the cluster", Kind::Read, |mut admin| async move {
            admin.cluster_health(v1::ClusterHealthRequest {}).await
        });
        Ok(told.await?.map(ClusterHealth::of))
    }
}
