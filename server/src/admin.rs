//! How front doors reach the rest of the node: how it fares, who else is there, and changes of the schema.
//!
//! The doors see this trait alone and know nothing of Raft, gossip or the hint log. What can be told from the cluster's
//! state (topology, keyspaces, the hard side of members) has its view built here, in one place (`view.rs`); what only the
//! rest of the node knows is filled in by whoever implements the trait.

mod differences;
mod health;
mod hints;
mod leaving;
pub(crate) mod options;
mod repair;
mod replication;
mod view;

use async_trait::async_trait;
use cube_replication::catalog::UnknownName;
use cube_replication::repair::Asked;
use cube_storage::model::NodeId;
use thiserror::Error;

pub use self::health::{
    ClusterHealth, ClusterStatus, ControlHealth, KeyspaceHealth, Lost, OneMore, OneMoreKeyspace, Readiness,
    cluster_health,
};
pub use self::hints::{HintOrder, HintsView, IncomingView, NodeHintsView};
pub use self::leaving::{DrainView, Leave, LeavingView};
pub use self::options::{
    BadOptions, KeyspaceChange, KeyspaceOptions, NAME_CHARS_MAX, TableChange, TableOptions, check_name,
};
pub(crate) use self::repair::name_of;
pub use self::repair::{NotComparedView, RepairPairView, RepairView, RepairsView};
pub use self::replication::{
    ClusterSyncView, PartitionSyncView, PeerSyncView, PurgeView, ReplicationView, ScrubView, SyncTime, TableSyncView,
};
pub use self::view::{
    AddressesView, Health, KeyspaceView, NodeStatus, NodeView, PartitionView, PlacementView, RaftRole, TableView,
    TopologyView, Vitals,
};

use crate::metrics::Figures;

/// Whether a change made a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is as asked for now, and was not before.
    Yes,
    /// It was as asked for already.
    No,
}

/// The rest of the node, as front doors see it. What is asked often is answered at once, from what is known.
#[async_trait]
pub trait Admin: Send + Sync {
    /// Whether the node serves, and what an operator should know.
    fn health(&self) -> Health;

    /// How the parts of the node fare, for metrics. The parts that the edge itself holds are filled in by it.
    fn figures(&self) -> Figures {
        Figures::default()
    }

    /// Who votes on changes of the cluster.
    fn voters(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// All members that have not left, in the order of their names.
    fn nodes(&self) -> Vec<NodeView>;

    /// Who holds what.
    fn topology(&self) -> TopologyView;

    /// What this node keeps for others.
    fn hints(&self) -> HintsView;

    /// Steers the replay of hints, for one node by its name or for all.
    async fn steer_hints(&self, order: HintOrder, node: Option<&str>) -> Result<(), AdminError>;

    /// How the replicas stand that this node holds, with every partition of a table where one is named.
    fn replication(&self, table: Option<(&str, &str)>) -> Result<ReplicationView, AdminError>;

    /// How far the scrub has come.
    fn scrub(&self) -> ScrubView;

    /// Asks for a full cycle of the scrub now.
    fn scrub_now(&self) -> ScrubView;

    /// Begins to repair tables, and tells it when that is durable.
    async fn begin_repair(&self, asked: Asked) -> Result<RepairView, AdminError>;

    /// All repairs that the nodes know of.
    async fn repairs(&self) -> Result<RepairsView, AdminError>;

    /// A repair, whichever node runs it.
    async fn repair(&self, id: &str) -> Result<RepairView, AdminError>;

    /// Ends a repair, whichever node runs it, and tells how it is now.
    async fn cancel_repair(&self, id: &str) -> Result<RepairView, AdminError>;

    /// Has a member leave the cluster, from now on; or tells how far one is that leaves already.
    async fn leave(&self, node: &str, how: Leave) -> Result<NodeView, AdminError>;

    /// Has a node take no more requests of clients, or take them again. Whoever is asked brings it to that node.
    async fn drain(&self, node: &str, undo: bool) -> Result<(), AdminError>;

    /// Creates a keyspace. One that exists with the same options is no error; with others it is
    /// [`AdminError::AlreadyExists`].
    async fn create_keyspace(&self, keyspace: &str, options: KeyspaceOptions) -> Result<Changed, AdminError>;

    /// Changes what is named of a keyspace.
    async fn alter_keyspace(&self, keyspace: &str, change: KeyspaceChange) -> Result<Changed, AdminError>;

    /// Drops a keyspace with its tables and their rows.
    async fn drop_keyspace(&self, keyspace: &str) -> Result<(), AdminError>;

    /// Creates a table, as [`Admin::create_keyspace`] does a keyspace.
    async fn create_table(&self, keyspace: &str, table: &str, options: TableOptions) -> Result<Changed, AdminError>;

    /// Changes what is named of a table.
    async fn alter_table(&self, keyspace: &str, table: &str, change: TableChange) -> Result<Changed, AdminError>;

    /// Drops a table with its rows.
    async fn drop_table(&self, keyspace: &str, table: &str) -> Result<(), AdminError>;
}

/// Why a change was not made, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// It exists, and is otherwise than asked for. Nothing was changed.
    #[error("{what} exists with other options ({differences}): change it, or drop it first")]
    AlreadyExists {
        /// A keyspace or a table, with its name.
        what: String,
        /// How it is, and how it was asked for.
        differences: String,
    },
    /// There is no such keyspace. Nothing was changed.
    #[error("there is no keyspace {keyspace:?}")]
    UnknownKeyspace {
        /// The name given.
        keyspace: String,
    },
    /// There is no such table. Nothing was changed.
    #[error("there is no table {table:?} in keyspace {keyspace:?}")]
    UnknownTable {
        /// The keyspace.
        keyspace: String,
        /// The name given.
        table: String,
    },
    /// It cannot be so. Nothing was changed.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// Something stands in the way. Nothing was changed.
    #[error("{reason}")]
    Conflict {
        /// What, and what to do about it.
        reason: String,
    },
    /// No member has that name. Nothing was changed.
    #[error("no member of the cluster is named {name:?}")]
    UnknownNode {
        /// The name given.
        name: String,
    },
    /// One of the tables is being repaired.
    #[error("repair {id} is under way for one of these tables: wait for its end, or cancel it")]
    RepairUnderWay {
        /// The repair.
        id: String,
    },
    /// There is no such repair, or its result is not kept any more.
    #[error("there is no repair {id:?}, or its result is not kept any more")]
    UnknownRepair {
        /// The id given.
        id: String,
    },
    /// The node has as many repairs as it may.
    #[error("{reason}")]
    TooManyRepairs {
        /// What to do about it.
        reason: String,
    },
    /// A node that has to take part does not.
    #[error("{reason}")]
    Elsewhere {
        /// Which node, and why.
        reason: String,
    },
    /// The cluster cannot agree on a change now: there is no leader, or no majority of the voters.
    #[error(
        "the cluster cannot agree on the change now ({reason}); {}",
        if *may_take_effect { "it was accepted, and may take effect on its own once a majority is back" }
        else { "nothing was changed: try again" }
    )]
    NoMajority {
        /// What is missing.
        reason: String,
        /// Whether it may take effect on its own.
        may_take_effect: bool,
    },
}

impl From<UnknownName> for AdminError {
    fn from(unknown: UnknownName) -> Self {
        match unknown {
            UnknownName::Keyspace { keyspace } => Self::UnknownKeyspace { keyspace },
            UnknownName::Table { keyspace, table } => Self::UnknownTable { keyspace, table },
        }
    }
}
