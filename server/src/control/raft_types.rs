//! The types that openraft is used with. A member's id in Raft is its dense number.

use std::io::Cursor;

use cube_storage::model::NodeId;

use super::command::{Reply, Request};

openraft::declare_raft_types!(
    /// The control plane's Raft.
    pub(super) TypeConfig:
        D = Request,
        R = Reply,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Metrics = openraft::RaftMetrics<u64, openraft::BasicNode>;

/// A member's id in Raft.
pub(super) fn raft_id(node: NodeId) -> u64 {
    u64::from(node.0)
}

/// The member that an id in Raft stands for.
pub(super) fn node_id(raft: u64) -> Option<NodeId> {
    u16::try_from(raft).ok().map(NodeId)
}
