//! What the rest of the node tells when metrics are asked for: its parts' own figures, at one moment.

use cube_replication::coordinator::ReadFigures;
use cube_replication::handoff::HandoffStatus;
use cube_replication::worker::WorkerStatus;
use cube_storage::Waiting;
use cube_storage::engine::figures::EngineFigures;

use crate::control::ControlStatus;
use crate::peer::{InboundStatus, PeerStatus};
use crate::traces::TraceFigures;

/// A node at one moment.
#[derive(Debug, Default)]
pub struct Figures {
    /// The clock by which workers tell their times.
    pub now_ms: u64,
    /// Who the node is, and whether it serves.
    pub node: NodeFigures,
    /// Requests under way, their bytes, and how many of either there may be.
    pub in_flight: (u64, u64),
    /// How many requests and bytes of them there may be.
    pub in_flight_max: (u64, u64),
    /// What reads came upon, by keyspace and table.
    pub tables: Vec<(String, String, ReadFigures)>,
    /// What is kept for others.
    pub handoff: Option<HandoffStatus>,
    /// How replicas are compared and mended.
    pub sync: Option<SyncFigures>,
    /// The rows of this node.
    pub store: StoreFigures,
    /// The engine under them.
    pub engine: EngineFigures,
    /// How Raft stands.
    pub raft: Option<ControlStatus>,
    /// All members that have not left.
    pub members: Vec<MemberFigures>,
    /// What gossip sent and received.
    pub gossip: GossipFigures,
    /// The background workers.
    pub workers: Vec<WorkerStatus>,
    /// The lanes to peers, by their names.
    pub peers: Vec<(String, PeerStatus)>,
    /// The lanes of peers to this node, by their names.
    pub inbound: Vec<(String, InboundStatus)>,
    /// What became of the spans of traced requests; nothing while none is traced.
    pub traces: Option<TraceFigures>,
}

/// Who a node is, and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFigures {
    /// Its name.
    pub name: String,
    /// Its cluster, once it belongs to one.
    pub cluster: String,
    /// Where it stands.
    pub data_center: String,
    /// What it fails together with.
    pub rack: String,
    /// How far the member has come.
    pub state: String,
    /// Whether it serves.
    pub serves: bool,
    /// How many things an operator should know though it serves.
    pub warnings: usize,
}

/// How replicas are compared and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncFigures {
    /// Whether it is switched on.
    pub enabled: bool,
    /// How long ago everything of a table was last proven equal with all other replicas, by keyspace and table. One of
    /// which something was never compared has no age.
    pub age_ms: Vec<(String, String, u64)>,
    /// How many partitions of a table were never compared with one of their other replicas, by keyspace and table.
    pub uncompared: Vec<(String, String, u64)>,
    /// Passes over everything that ended.
    pub passes: u64,
    /// Comparisons that ended.
    pub comparisons: u64,
    /// Comparisons that failed or were refused.
    pub failed: u64,
    /// Leaves of trees that differed.
    pub leaves_differing: u64,
    /// Rows sent to peers.
    pub rows_sent: u64,
    /// Rows fetched from peers.
    pub rows_fetched: u64,
    /// Bytes of both.
    pub row_bytes: u64,
    /// Dirty marks that were cleared.
    pub marks_cleared: u64,
    /// Rounds of purging that ended.
    pub purge_rounds: u64,
    /// Trees that cannot be purged now.
    pub purge_blocked: u64,
    /// Rows verified by the scrub since the start.
    pub scrubbed_rows: u64,
    /// Damaged places that it found.
    pub scrub_damaged: u64,
}

/// The rows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// What waits to be committed.
    pub waiting: Waiting,
    /// Groups of batches that were committed.
    pub groups: u64,
    /// Rows that changed.
    pub rows: u64,
    /// Rows that were purged.
    pub purged_rows: u64,
    /// Rows that were refused below the purge floor.
    pub below_floor_rows: u64,
    /// Damaged places found since the start.
    pub damaged: u64,
    /// Whether writing has stopped after a failure of the disk.
    pub is_stopped: bool,
    /// Partitions of this node that are counted in reads, and those that are not, by cause.
    pub partitions: Vec<(&'static str, u64)>,
    /// The disk.
    pub space: SpaceLeft,
}

/// Room on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceLeft {
    /// Bytes that are free; nothing when that cannot be told.
    pub free_bytes: Option<u64>,
    /// Below so many clients' writes are refused.
    pub reserve_bytes: u64,
}

/// A member, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberFigures {
    /// Its name.
    pub name: String,
    /// Whether it is alive.
    pub alive: bool,
    /// How far its clock is ahead of this node's.
    pub clock_offset_ms: Option<i64>,
    /// Partitions of which it is still a replica, while it leaves the cluster.
    pub to_be_moved: Option<u64>,
    /// Whether an operator drained it.
    pub is_drained: bool,
}

/// What gossip sent and received since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GossipFigures {
    /// Datagrams sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams that could not be sent, or were withheld.
    pub failed: u64,
    /// Node ids under which several processes live.
    pub conflicts: u64,
}
