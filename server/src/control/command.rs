//! What may be asked of the hard state, and what is answered. Plain data: it stands in the log and travels between nodes.
//!
//! The variants are numbered by their order, on disk and on the wire: new ones are added at the end.

use cube_replication::catalog::TableSettings;
use cube_replication::topology::{
    Addresses, Assignment, DataCenter, MOVE_CHANGES_MAX, Member, MemberState, Rack, Strategy, TopologyChange,
};
use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, PartitionBits, PlacementId, TableId};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::identity::{ClusterId, InstanceId};

/// The most changes one [`Command::Topology`] carries: an entry of the log stays small, and its application short.
pub const CHANGES_MAX: usize = MOVE_CHANGES_MAX;

/// A node that founds or joins, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// Unique among the members that have not left.
    pub name: String,
    /// Where it stands.
    pub data_center: DataCenter,
    /// What it fails together with.
    pub rack: Rack,
    /// How much it holds, in proportion to the others.
    pub weight: u32,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its data directory.
    pub instance: InstanceId,
}

impl NewMember {
    pub(super) fn as_member(&self, id: NodeId, state: MemberState) -> Member {
        Member {
            id,
            name: self.name.clone(),
            data_center: self.data_center.clone(),
            rack: self.rack.clone(),
            weight: self.weight,
            state,
            addresses: self.addresses.clone(),
        }
    }
}

/// A cluster's first state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Drawn by the founder.
    pub cluster: ClusterId,
    /// Drawn by the founder.
    pub merkle_key: [u8; 16],
    /// How the token range is split, for ever.
    pub partition_bits: PartitionBits,
    /// The founder. It is member 0, and holds everything.
    pub member: NewMember,
}

/// One change of the hard state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The cluster begins: one member, keyspace `default` and in it table `kv`. Asked again by the same directory, it
    /// changes nothing.
    Found(Founding),
    /// A node becomes a member under the next id. Asked again by the same directory, it is answered with the same id.
    Join(NewMember),
    /// A member is reached elsewhere.
    SetAddresses {
        /// Who.
        node: NodeId,
        /// Where.
        addresses: Addresses,
    },
    /// A member moves on in its life.
    SetMemberState {
        /// Who.
        node: NodeId,
        /// Its state from now on.
        state: MemberState,
    },
    /// Moves of replicas, weights and states. Each change is applied unless it is refused; the answer tells which were.
    Topology(Vec<TopologyChange>),
    /// A keyspace without tables. [`super::HardState::plan_keyspace`] makes it.
    CreateKeyspace {
        /// See `names.rs` for what a name may be.
        name: String,
        /// How often and where its rows are kept.
        strategy: Strategy,
        /// When its writes are acknowledged.
        sync: SyncPolicy,
        /// Whether it is fine that it exists.
        if_not_exists: bool,
        /// The first replicas of every partition.
        assignment: Assignment,
    },
    /// Another strategy, from which moves follow, or another durability.
    AlterKeyspace {
        /// Which one.
        name: String,
        /// As before where it is `None`.
        strategy: Option<Strategy>,
        /// As before where it is `None`.
        sync: Option<SyncPolicy>,
    },
    /// A keyspace ends, with all its tables.
    DropKeyspace {
        /// Which one.
        name: String,
        /// Whether it is fine that it does not exist.
        if_exists: bool,
    },
    /// An empty table.
    CreateTable {
        /// In which keyspace.
        keyspace: String,
        /// See `names.rs` for what a name may be.
        name: String,
        /// Whether its keys can be scanned by prefix. Fixed from here on.
        prefix_index: bool,
        /// What may be changed later.
        settings: TableSettings,
        /// Whether it is fine that it exists.
        if_not_exists: bool,
    },
    /// A table's settings are replaced.
    AlterTable {
        /// In which keyspace.
        keyspace: String,
        /// Which one.
        name: String,
        /// All of them.
        settings: TableSettings,
    },
    /// A table ends. Its id is not used again.
    DropTable {
        /// In which keyspace.
        keyspace: String,
        /// Which one.
        name: String,
        /// Whether it is fine that it does not exist.
        if_exists: bool,
    },
    /// A member begins to leave the cluster, unless the others cannot do without it.
    Leave {
        /// Who.
        node: NodeId,
        /// How.
        departure: Departure,
        /// Whether the operator knows what a removal may lose, and has accepted it.
        accept_loss: bool,
    },
}

/// How a member leaves the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// It lives, hands over what it has, and goes.
    Decommission,
    /// It is gone for good: the others take its place.
    Remove,
    /// It is gone for good, and this member takes its place as far as racks allow. One that was to hold nothing so far is to
    /// hold as much as the other one did.
    ReplaceWith(NodeId),
}

/// What a command that was not refused is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is so now.
    Done,
    /// It was so already; nothing changed.
    Unchanged,
    /// The node is a member.
    Joined {
        /// Its id, for good.
        node: NodeId,
    },
    /// The changes were made, but for these.
    Changed {
        /// Those that were refused, in their order.
        refused: Vec<RefusedChange>,
    },
    /// The keyspace exists from now on.
    KeyspaceCreated {
        /// Its placement.
        placement: PlacementId,
    },
    /// The table exists from now on.
    TableCreated {
        /// Its id.
        table: TableId,
    },
}

/// A change of a batch that was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedChange {
    /// Its place in the batch, from 0.
    pub index: u32,
    /// Why.
    pub reason: String,
}

/// Names one proposal for as long as it may still be in the log twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestId {
    /// Who proposed it.
    pub(super) proposer: NodeId,
    /// Drawn at each start of the proposer.
    pub(super) start: u64,
    /// Counts its proposals since then.
    pub(super) number: u64,
}

/// A command as it stands in the log. A proposal that is sent again, because nobody knows what became of it, is the same
/// request: it takes effect once (`machine.rs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: RequestId,
    /// An index of the log that the proposer had applied before it made the request.
    pub(super) after: u64,
    pub(super) command: Command,
}

/// What the log's entries are answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It was no command.
    Nothing,
    /// A command was decided on.
    Decided(Result<Answer, Refusal>),
}
