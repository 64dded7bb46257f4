//! What operators are shown of a node and its cluster: the shapes of the JSON documents, in one place.
//!
//! What the cluster's state says is put together here; what only gossip or the hint log knows is added to it by whoever
//! implements `Admin`.

use cube_replication::catalog::{ClusterState, Keyspace, Table};
use cube_replication::topology::{Member, MemberState, PartitionMap, Step};
use cube_storage::model::{NodeId, PartitionId};
use serde::{Serialize, Serializer};

use super::leaving::{DrainView, LeavingView};
use super::options::{KeyspaceForm, KeyspaceOptions, TableForm};
use crate::edge::Names;

/// How a node fares.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Health {
    /// How far the member has come, once it is one.
    pub state: Option<String>,
    /// The node's name.
    pub node: String,
    /// Why it does not serve; it serves when there is none.
    pub reasons: Vec<String>,
    /// What an operator should know though it serves.
    pub warnings: Vec<String>,
    /// What has yet to be copied to it before all it holds is counted in reads.
    pub to_copy: Option<String>,
}

impl Health {
    /// Whether the node serves.
    pub fn serves(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// A member, as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u16,
    /// Whether it is alive.
    pub status: NodeStatus,
    /// How far it has come.
    #[serde(serialize_with = "as_text")]
    pub state: MemberState,
    /// Where it stands.
    pub data_center: String,
    /// What it fails together with.
    pub rack: String,
    /// How much it holds, in proportion to the others.
    pub weight: u32,
    /// Where it is reached.
    pub addresses: AddressesView,
    /// What it has yet to hand over, while it leaves the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaving: Option<LeavingView>,
    /// What it is to Raft, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raft: Option<RaftRole>,
    /// What it tells of itself by gossip.
    #[serde(flatten)]
    pub vitals: Vitals,
}

/// What a member is to Raft, which agrees on keyspaces, tables and members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RaftRole {
    /// It votes, and takes changes.
    Leader,
    /// It votes.
    Voter,
    /// It holds a copy and does not vote.
    Learner,
}

/// Whether a node is alive, as this node observes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodeStatus {
    /// It is.
    Alive,
    /// It is not, or cannot be heard from here.
    Down,
}

/// The addresses of a member.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct AddressesView {
    /// For REST and metrics.
    pub http: String,
    /// For clients, over gRPC.
    pub grpc: String,
    /// For other members.
    pub peer: String,
    /// For gossip, over UDP.
    pub gossip: String,
}

/// What a member tells of itself. Nothing is shown of what it has not told.
#[derive(Clone, Debug, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Vitals {
    /// The release it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What its process uses of one processor, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_percent: Option<f64>,
    /// Requests it coordinates now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_in_flight: Option<u64>,
    /// Requests that came to it in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
    /// Hints it keeps for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<u64>,
    /// The age of the oldest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_hint_age_ms: Option<u64>,
    /// How far its clock is ahead of this node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// Since when it runs, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// Whether an operator drained it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
}

impl NodeView {
    /// What the cluster's state says of a member.
    pub fn of(member: &Member, status: NodeStatus, vitals: Vitals) -> Self {
        Self {
            name: member.name.clone(),
            id: member.id.0,
            status,
            state: member.state,
            data_center: member.data_center.to_string(),
            rack: member.rack.to_string(),
            weight: member.weight,
            addresses: AddressesView {
                http: member.addresses.http.clone(),
                grpc: member.addresses.grpc.clone(),
                peer: member.addresses.peer.clone(),
                gossip: member.addresses.gossip.clone(),
            },
            leaving: None,
            raft: None,
            vitals,
        }
    }
}

/// Who holds what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologyView {
    /// The number of this state of the cluster.
    pub epoch: u64,
    /// How many partitions the token range is split into.
    pub partition_count: u16,
    /// Every replication setting in use.
    pub placements: Vec<PlacementView>,
}

/// A replication setting and the replicas it gives to every partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementView {
    /// Its number.
    pub id: u32,
    /// What was asked for, as `simple(3)`.
    pub replication: String,
    /// The keyspaces that follow it.
    pub keyspaces: Vec<String>,
    /// Every partition, in token order.
    pub partitions: Vec<PartitionView>,
}

/// A partition and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionView {
    /// Its number: the top bits of the tokens in it.
    pub partition: u16,
    /// The number of the state that last changed it.
    pub epoch: u64,
    /// How far a change of its replicas has come.
    pub step: &'static str,
    /// The names of the replicas that are read.
    pub replicas: Vec<String>,
    /// Those that take writes and are not read yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Those that still take writes and are not read any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
}

impl TopologyView {
    /// What a state of the cluster says.
    pub fn of(state: &ClusterState) -> Self {
        let names = Names::new(state);
        let placements = state.topology.placements().map(|(id, placement)| {
            let follows = |(name, space): (&String, &Keyspace)| (space.placement == id).then(|| name.clone());
            PlacementView {
                id: id.0,
                replication: placement.strategy().to_string(),
                keyspaces: state.schema.keyspaces.iter().filter_map(follows).collect(),
                partitions: placement.partitions().map(|(id, map)| PartitionView::of(id, map, &names)).collect(),
            }
        });
        Self {
            epoch: state.topology.epoch().0,
            partition_count: state.topology.partition_bits().partitions(),
            placements: placements.collect(),
        }
    }
}

impl PartitionView {
    fn of(partition: PartitionId, map: &PartitionMap, names: &Names<'_>) -> Self {
        let pending: Vec<NodeId> = map.pending().collect();
        let serving = map.serving();
        let (step, leaving) = match map.step() {
            Step::Stable { .. } => ("STABLE", Vec::new()),
            Step::WriteBoth { .. } => ("WRITE_BOTH", Vec::new()),
            Step::ReadNew { old, .. } => {
                let gone = old.nodes().iter().copied().filter(|node| !serving.contains(*node));
                ("READ_NEW", gone.collect::<Vec<_>>())
            }
        };
        Self {
            partition: partition.0,
            epoch: map.epoch().0,
            step,
            replicas: names.all(serving.nodes()),
            pending: names.all(&pending),
            leaving: names.all(&leaving),
        }
    }
}

/// A keyspace as it is shown: what can be sent, and what is in it.
#[derive(Clone, Debug, Serialize)]
pub struct KeyspaceView {
    /// Its name.
    pub name: String,
    #[serde(flatten)]
    options: KeyspaceForm,
    /// The names of its tables.
    pub tables: Vec<String>,
}

/// A table as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct TableView {
    /// Its keyspace.
    pub keyspace: String,
    /// Its name.
    pub name: String,
    #[serde(flatten)]
    options: TableForm,
}

impl KeyspaceView {
    /// What a state of the cluster says of a keyspace.
    pub fn of(state: &ClusterState, name: &str, keyspace: &Keyspace) -> Self {
        let options = state.topology.placement(keyspace.placement).map(|placement| {
            let strategy = placement.strategy().clone();
            KeyspaceForm::of(&KeyspaceOptions { strategy, sync: keyspace.sync })
        });
        Self {
            name: name.to_owned(),
            options: options.unwrap_or_default(),
            tables: keyspace.tables.keys().cloned().collect(),
        }
    }
}

impl TableView {
    /// What a keyspace says of a table.
    pub fn of(keyspace: &str, name: &str, table: &Table) -> Self {
        let options = TableForm::of(&table.into());
        Self { keyspace: keyspace.to_owned(), name: name.to_owned(), options }
    }
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}
