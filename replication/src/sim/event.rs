//! What happens in a run, one event after another.

use std::fmt::Write as _;
use std::sync::Arc;

use cube_storage::model::NodeId;
use xxhash_rust::xxh3::xxh3_64;

use super::control::News;
use super::network::RequestId;
use crate::topology::{LeavingReport, MoveReport};

/// What happens in a run.
#[derive(Clone)]
pub(super) enum Event {
    Deliver {
        to: NodeId,
        id: RequestId,
        bytes: Vec<u8>,
    },
    DeliverReply {
        to: NodeId,
        id: RequestId,
        bytes: Vec<u8>,
    },
    RequestTimeout(RequestId),
    RequestUnreachable(RequestId),
    Commit {
        node: NodeId,
        life: u64,
    },
    Tick {
        node: NodeId,
        life: u64,
    },
    SyncHints {
        node: NodeId,
        life: u64,
    },
    Learn {
        node: NodeId,
        news: Arc<News>,
    },
    /// A node's follower steps, if it still is to at this moment.
    Follow {
        node: NodeId,
        life: u64,
    },
    Report(Vec<MoveReport>),
    /// A leaving member's report comes to whoever drives the moves.
    ReportLeaving(LeavingReport),
    /// The driver of moves looks, if it still is to at this moment.
    Drive,
    Client(usize),
    /// By now the operation with this number must have ended.
    Overdue {
        client: usize,
        operation: u64,
    },
    NextFault,
    Restart(NodeId),
    /// A node that runs tells the cluster that it is reached.
    Arrive(NodeId),
    /// A flapping node dies once more.
    Die(NodeId),
    /// An operator has a node removed that died for good; it is back later, if it is.
    Remove {
        node: NodeId,
        back_ms: Option<u64>,
    },
    /// A removed node is started once more.
    ComeBack(NodeId),
    /// A node hears how another one is.
    Observe {
        by: NodeId,
        of: NodeId,
    },
    /// A node comes to believe something, true or not.
    Believe {
        by: NodeId,
        of: NodeId,
        alive: bool,
    },
    /// The disk under a node's hints has room again.
    DiskRoom(NodeId),
    EndCut(Vec<(NodeId, NodeId)>),
    EndLoss,
    EndDelay,
    EndDoubling,
    Heal,
    /// It is looked whether all that was under way at the heal has ended.
    Settle,
    /// After the heal every node writes every row, and then reads every row.
    WriteEverywhere,
    ReadEverywhere,
    /// It is late, by all clocks: every grace is over and every value has ended that will.
    GrowLate,
    /// It is looked whether the dead are gone.
    Bury,
    Stop,
}

impl Event {
    /// The node that must be up and moving for this to happen.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Deliver { to, .. } | Self::DeliverReply { to, .. } => Some(*to),
            Self::Commit { node, .. }
            | Self::Tick { node, .. }
            | Self::SyncHints { node, .. }
            | Self::Follow { node, .. }
            | Self::Learn { node, .. }
            | Self::Arrive(node) => Some(*node),
            _ => None,
        }
    }

    /// What of it goes into the trace.
    pub(super) fn describe(&self, out: &mut String) {
        let told = match self {
            Self::Deliver { to, id, bytes } => write!(out, "deliver {id} to {to}, {:016x}", xxh3_64(bytes)),
            Self::DeliverReply { to, id, bytes } => write!(out, "reply {id} to {to}, {:016x}", xxh3_64(bytes)),
            Self::RequestTimeout(id) => write!(out, "timeout of {id}"),
            Self::RequestUnreachable(id) => write!(out, "unreachable {id}"),
            Self::Commit { node, .. } => write!(out, "commit on {node}"),
            Self::Tick { node, .. } => write!(out, "tick on {node}"),
            Self::SyncHints { node, .. } => write!(out, "hints durable on {node}"),
            Self::Learn { node, news } => write!(out, "{node} learns {}", news.state.topology.epoch()),
            Self::Follow { node, .. } => write!(out, "{node} follows"),
            Self::Report(reports) => write!(out, "{reports:?}"),
            Self::ReportLeaving(report) => write!(out, "{report:?}"),
            Self::Drive => write!(out, "moves are driven"),
            Self::Client(client) => write!(out, "client {client} goes on"),
            Self::Overdue { client, operation } => {
                write!(out, "operation {operation} of client {client} is to be over")
            }
            Self::NextFault => write!(out, "fault"),
            Self::Die(node) => write!(out, "{node} dies once more"),
            Self::Arrive(node) => write!(out, "{node} arrives"),
            Self::Remove { node, .. } => write!(out, "{node} is to be removed"),
            Self::ComeBack(node) => write!(out, "{node} comes back"),
            Self::Restart(node) => write!(out, "{node} starts"),
            Self::Observe { by, of } => write!(out, "{by} hears of {of}"),
            Self::Believe { by, of, alive } => write!(out, "{by} believes {of} alive: {alive}"),
            Self::DiskRoom(node) => write!(out, "the hints of {node} have room"),
            Self::EndCut(links) => write!(out, "links heal: {links:?}"),
            Self::EndLoss => write!(out, "loss ends"),
            Self::EndDelay => write!(out, "delay ends"),
            Self::EndDoubling => write!(out, "doubling ends"),
            Self::Heal => write!(out, "heal"),
            Self::Settle => write!(out, "has it settled"),
            Self::GrowLate => write!(out, "it is late"),
            Self::Bury => write!(out, "are the dead gone"),
            Self::WriteEverywhere => write!(out, "every node writes"),
            Self::ReadEverywhere => write!(out, "every node reads"),
            Self::Stop => write!(out, "stop"),
        };
        // Writing to a string does not fail.
        told.unwrap_or_default();
    }
}
