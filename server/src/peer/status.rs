//! What operators are told of the connections between nodes.

use std::error::Error;

use cube_replication::transport::Lane;
use cube_storage::model::NodeId;
use serde::Serialize;
use tokio::time::Instant;

use super::identity::Negotiated;
use super::lane::Load;

/// The connections to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Its lane for requests that a client waits for.
    pub foreground: LaneStatus,
    /// Its lane for hints, repair and streams.
    pub background: LaneStatus,
}

/// One lane to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneStatus {
    /// The connection, if there is one.
    pub connection: Option<ConnectionStatus>,
    /// Connections made after the first one.
    pub reconnects: u64,
    /// Why the last connection ended, or could not be made.
    pub last_error: Option<String>,
    /// Requests that wait to be sent.
    pub queued: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Requests that were sent and not answered yet.
    pub in_flight: usize,
    /// Frames sent so far.
    pub frames: u64,
    /// Requests sent so far. Many share a frame when there is much to do.
    pub requests: u64,
}

/// A connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionStatus {
    /// Where the peer is.
    pub address: String,
    /// Its name.
    pub name: String,
    /// Since when, by this node's wall clock.
    pub since_wall_ms: u64,
    /// What the two agreed on.
    pub negotiated: Negotiated,
    /// How long the last ping took. On the foreground lane only.
    pub ping_rtt_us: Option<u64>,
}

/// One lane of a peer that sends its requests to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundStatus {
    /// The peer.
    pub node: NodeId,
    /// The lane.
    pub lane: Lane,
    /// What the two agreed on.
    pub negotiated: Negotiated,
    /// Requests that are under way here.
    pub in_flight: usize,
    /// Replies that wait to be sent.
    pub replies_waiting: usize,
    /// Their bytes.
    pub reply_bytes_waiting: usize,
    /// Requests that were dropped because their time was over before their turn came.
    pub dropped_late: u64,
    /// Requests that were refused because too many were under way.
    pub overloaded: u64,
}

/// A connection under way.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) address: String,
    pub(super) name: String,
    pub(super) negotiated: Negotiated,
    pub(super) since: Instant,
    since_wall_ms: u64,
}

impl Session {
    pub(super) fn new(name: String, negotiated: Negotiated, since_wall_ms: u64) -> Self {
        Self { address: String::new(), name, negotiated, since: Instant::now(), since_wall_ms }
    }

    pub(super) fn at(self, address: String) -> Self {
        Self { address, ..self }
    }
}

impl LaneStatus {
    pub(super) fn new(
        session: Option<Session>,
        connections: u64,
        ping_rtt_us: Option<u64>,
        last_error: Option<String>,
        load: Load,
    ) -> Self {
        let connection = session.map(|session| ConnectionStatus {
            address: session.address,
            name: session.name,
            since_wall_ms: session.since_wall_ms,
            negotiated: session.negotiated,
            ping_rtt_us,
        });
        Self {
            connection,
            reconnects: connections.saturating_sub(1),
            last_error,
            queued: load.queued,
            queued_bytes: load.queued_bytes,
            in_flight: load.in_flight,
            frames: load.frames,
            requests: load.messages,
        }
    }
}

/// An error with its causes: those of gRPC keep what happened in the last of them.
pub(super) fn describe(error: &dyn Error) -> String {
    /// No chain of causes is that long; one that is endless ends here.
    const CAUSES_MAX: usize = 8;
    let causes = std::iter::successors(error.source(), |&cause| cause.source()).take(CAUSES_MAX);
    causes.fold(error.to_string(), |told, cause| {
        let cause = cause.to_string();
        if told.contains(&cause) { told } else { format!("{told}: {cause}") }
    })
}
