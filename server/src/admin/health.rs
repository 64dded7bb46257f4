//! How a cluster fares, and what would break if one more node died: a plain function of the cluster's state and of who
//! is alive.
//!
//! Invariant: it counts as requests do. A partition is without QUORUM here exactly when a coordinator that sees the
//! same nodes alive refuses a write at QUORUM.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::catalog::ClusterState;
use cube_replication::consistency::{Level, majority};
use cube_replication::topology::{DataCenter, Member, MemberState, PartitionMap, Placement};
use cube_storage::model::{NodeId, PlacementId};
use serde::Serialize;

use super::view::Health;

/// How a cluster fares, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClusterStatus {
    /// All members are alive, and any one of them can die.
    Healthy,
    /// Some are down, and any one more can die.
    Degraded,
    /// Everything can be read and written at QUORUM, but not at LOCAL_QUORUM everywhere, or something is lost if a
    /// certain node dies as well.
    AtRisk,
    /// Something cannot be read or written at QUORUM now.
    Unavailable,
}

/// How a cluster fares, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterHealth {
    /// In one word.
    pub status: ClusterStatus,
    /// In one sentence.
    pub summary: String,
    /// The number of the cluster's state that this was told from.
    pub epoch: u64,
    /// Members that have not left.
    pub members: usize,
    /// The names of those that are down.
    pub down: Vec<String>,
    /// Whether changes can be agreed on.
    pub control: ControlHealth,
    /// Every keyspace.
    pub keyspaces: Vec<KeyspaceHealth>,
    /// What would break if one more node died: only nodes are named that matter.
    pub if_one_more_died: Vec<OneMore>,
}

/// Whether keyspaces, tables and members can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlHealth {
    /// Who votes.
    pub voters: Vec<String>,
    /// How many voters it takes.
    pub required: usize,
    /// How many are alive.
    pub alive: usize,
}

/// How a keyspace fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyspaceHealth {
    /// Its name.
    pub name: String,
    /// Its replication, as `simple(3)`.
    pub replication: String,
    /// Its partitions.
    pub partitions: usize,
    /// What cannot be done now.
    #[serde(flatten)]
    pub lost: Lost,
}

/// Partitions in which a level is out of reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// At QUORUM.
    pub without_quorum: usize,
    /// At LOCAL_QUORUM, by the data center of the coordinator. Those that lose nothing are left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub without_local_quorum: BTreeMap<String, usize>,
    /// At ONE: no replica is alive.
    pub without_any_replica: usize,
}

/// What the death of one more node would break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OneMore {
    /// The node.
    pub node: String,
    /// The keyspaces that would lose a level in further partitions.
    pub keyspaces: Vec<OneMoreKeyspace>,
    /// Whether changes could not be agreed on any more.
    pub no_majority: bool,
}

/// What a keyspace would lose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OneMoreKeyspace {
    /// Its name.
    pub name: String,
    /// In further partitions.
    #[serde(flatten)]
    pub lost: Lost,
}

/// Whether a node is where traffic should go, and what is missing if not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// `READY` or `NOT_READY`.
    pub status: &'static str,
    /// The node's name.
    pub node: String,
    /// How far the member has come, once it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What is missing.
    pub missing: Vec<String>,
}

impl Readiness {
    /// Of a node that fares so. One that serves and is not a full member yet, or not much longer, is not ready.
    pub fn of(health: &Health) -> Self {
        let mut missing = health.reasons.clone();
        match health.state.as_deref() {
            Some(state @ ("JOINING" | "WARMING")) => {
                let copies = health.to_copy.as_deref().unwrap_or("the cluster has yet to count what it holds");
                missing.push(format!("it is {state}: {copies}"));
            }
            Some(state @ ("LEAVING" | "LEFT")) => missing.push(format!("it is {state}: use the other nodes")),
            _ => {}
        }
        let status = if missing.is_empty() { "READY" } else { "NOT_READY" };
        Self { status, node: health.node.clone(), state: health.state.clone(), missing }
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }
}

impl Lost {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What is lost in a placement now, and what more by the death of each replica.
#[derive(Default)]
struct Losses {
    now: Lost,
    by_one_more: BTreeMap<NodeId, Lost>,
}

impl Losses {
    fn of(placement: &Placement, alive: &BTreeSet<NodeId>) -> Self {
        let mut losses = Self::default();
        for (_, map) in placement.partitions() {
            let levels = levels_of(map);
            let holds = |level: Level, local: &DataCenter, except: Option<NodeId>| {
                let lives = |node| Some(node) != except && alive.contains(&node);
                level.check_alive(&map.write_sets(), local, lives).is_ok()
            };
            let replicas: BTreeSet<NodeId> = map.write_sets().nodes().filter(|node| alive.contains(node)).collect();
            for (level, local) in &levels {
                if !holds(*level, local, None) {
                    losses.now.note(*level, local);
                    continue;
                }
                for node in replicas.iter().filter(|node| !holds(*level, local, Some(**node))) {
                    losses.by_one_more.entry(*node).or_default().note(*level, local);
                }
            }
        }
        losses
    }
}

impl Lost {
    fn note(&mut self, level: Level, local: &DataCenter) {
        match level {
            Level::Quorum => self.without_quorum += 1,
            Level::LocalQuorum => *self.without_local_quorum.entry(local.to_string()).or_default() += 1,
            _ => self.without_any_replica += 1,
        }
    }
}

/// The levels that are looked at, each with the data center of the coordinator where that matters: with replicas in one
/// data center alone, LOCAL_QUORUM is QUORUM.
fn levels_of(map: &PartitionMap) -> Vec<(Level, DataCenter)> {
    let sets = map.write_sets();
    let data_centers: BTreeSet<&DataCenter> =
        sets.iter().flat_map(|set| set.data_centers()).map(|group| &group.name).collect();
    let anywhere = || DataCenter::from("");
    let mut levels = vec![(Level::Quorum, anywhere()), (Level::One, anywhere())];
    if data_centers.len() > 1 {
        levels.extend(data_centers.into_iter().map(|name| (Level::LocalQuorum, name.clone())));
    }
    levels
}

/// How a cluster fares, whose members are alive as said.
pub fn cluster_health(state: &ClusterState, voters: &[NodeId], is_alive: impl Fn(NodeId) -> bool) -> ClusterHealth {
    let topology = &state.topology;
    let present: Vec<&Member> =
        topology.members().values().filter(|member| member.state != MemberState::Left).collect();
    let alive: BTreeSet<NodeId> = present.iter().map(|member| member.id).filter(|node| is_alive(*node)).collect();
    let losses: BTreeMap<PlacementId, Losses> =
        topology.placements().map(|(id, placement)| (id, Losses::of(placement, &alive))).collect();
    let keyspaces: Vec<KeyspaceHealth> = state
        .schema
        .keyspaces
        .iter()
        .filter_map(|(name, keyspace)| {
            let placement = topology.placement(keyspace.placement)?;
            Some(KeyspaceHealth {
                name: name.clone(),
                replication: placement.strategy().to_string(),
                partitions: placement.partitions().count(),
                lost: losses.get(&keyspace.placement)?.now.clone(),
            })
        })
        .collect();
    let votes = votes(voters, &alive);
    let mut one_more: Vec<OneMore> = present
        .iter()
        .filter(|member| alive.contains(&member.id))
        .map(|member| OneMore {
            node: member.name.clone(),
            keyspaces: lost_with(state, &losses, member.id),
            no_majority: votes.1 >= votes.0 && votes.1 - usize::from(voters.contains(&member.id)) < votes.0,
        })
        .filter(|one_more| one_more.no_majority || !one_more.keyspaces.is_empty())
        .collect();
    one_more.sort_by(|one, other| one.node.cmp(&other.node));
    let name_of = |node: &NodeId| topology.member(*node).map_or_else(|| node.to_string(), |member| member.name.clone());
    let mut down: Vec<String> =
        present.iter().filter(|member| !alive.contains(&member.id)).map(|member| member.name.clone()).collect();
    down.sort();
    let status = status(&keyspaces, &one_more, votes, &down);
    ClusterHealth {
        status,
        summary: summary(status, &keyspaces, &one_more, votes, &down),
        epoch: topology.epoch().0,
        members: present.len(),
        down,
        control: ControlHealth { voters: voters.iter().map(name_of).collect(), required: votes.0, alive: votes.1 },
        keyspaces,
        if_one_more_died: one_more,
    }
}

/// How many votes a change takes, and how many there are.
fn votes(voters: &[NodeId], alive: &BTreeSet<NodeId>) -> (usize, usize) {
    (majority(voters.len()), voters.iter().filter(|node| alive.contains(node)).count())
}

fn lost_with(state: &ClusterState, losses: &BTreeMap<PlacementId, Losses>, node: NodeId) -> Vec<OneMoreKeyspace> {
    let lost = state.schema.keyspaces.iter().filter_map(|(name, keyspace)| {
        let lost = losses.get(&keyspace.placement)?.by_one_more.get(&node)?.clone();
        (!lost.is_nothing()).then(|| OneMoreKeyspace { name: name.clone(), lost })
    });
    lost.collect()
}

fn status(
    keyspaces: &[KeyspaceHealth],
    one_more: &[OneMore],
    (required, votes): (usize, usize),
    down: &[String],
) -> ClusterStatus {
    let lost = || keyspaces.iter().map(|keyspace| &keyspace.lost);
    match () {
        () if lost().any(|lost| lost.without_quorum > 0) => ClusterStatus::Unavailable,
        () if lost().any(|lost| !lost.is_nothing()) => ClusterStatus::AtRisk,
        () if !one_more.is_empty() || votes < required => ClusterStatus::AtRisk,
        () if !down.is_empty() => ClusterStatus::Degraded,
        () => ClusterStatus::Healthy,
    }
}

fn summary(
    status: ClusterStatus,
    keyspaces: &[KeyspaceHealth],
    one_more: &[OneMore],
    (required, votes): (usize, usize),
    down: &[String],
) -> String {
    let mut told = match status {
        ClusterStatus::Healthy => "all members are alive, and any one of them can die".to_owned(),
        ClusterStatus::Degraded => format!("down: {}; any one more can die", down.join(", ")),
        ClusterStatus::AtRisk => "everything can be read and written at QUORUM".to_owned(),
        ClusterStatus::Unavailable => {
            let lost = keyspaces.iter().filter(|keyspace| keyspace.lost.without_quorum > 0).map(|keyspace| {
                format!("{} in {} of {} partitions", keyspace.name, keyspace.lost.without_quorum, keyspace.partitions)
            });
            format!("no QUORUM for {}", lost.collect::<Vec<_>>().join(", "))
        }
    };
    for keyspace in keyspaces {
        for data_center in keyspace.lost.without_local_quorum.keys() {
            told.push_str(&format!("; no LOCAL_QUORUM in {data_center} for {}", keyspace.name));
        }
    }
    if votes < required {
        told.push_str("; no majority of the voters is alive: keyspaces, tables and members cannot be changed");
    }
    if status == ClusterStatus::AtRisk && !one_more.is_empty() {
        let named: Vec<&str> = one_more.iter().map(|one_more| one_more.node.as_str()).collect();
        told.push_str(&format!("; something is lost if one of these dies as well: {}", named.join(", ")));
    }
    told
}
