//! What operators ask of a node's place in the cluster, and what they see of it.

use cube_replication::catalog::ClusterState;
use cube_replication::topology::{Member, MemberState};
use serde::Serialize;

/// How an operator has a member leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It lives, hands over what it has, and goes.
    Decommission,
    /// It is gone for good.
    Remove {
        /// Whether what it alone held may be lost.
        accept_loss: bool,
    },
    /// It is gone for good, and another member takes its place.
    Replace {
        /// The name of that one.
        with: String,
        /// Whether what it alone held may be lost.
        accept_loss: bool,
    },
}

impl Leave {
    /// Whether the operator knows what it may lose, and has accepted it.
    pub fn accepts_loss(&self) -> bool {
        match self {
            Self::Decommission => false,
            Self::Remove { accept_loss } | Self::Replace { accept_loss, .. } => *accept_loss,
        }
    }
}

/// What a leaving member has yet to hand over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeavingView {
    /// `DECOMMISSION`, or `REMOVE` for one that is gone for good.
    pub by: &'static str,
    /// Partitions of which it is still a replica.
    pub partitions: u64,
    /// Hints that it still keeps for others, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<u64>,
    /// Dirty marks that it still keeps for others, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marks: Option<u64>,
}

impl LeavingView {
    /// What the cluster's state says of a member, if it leaves. Hints and marks of one that is gone are gone too.
    pub fn of(state: &ClusterState, member: &Member, kept: Option<(u64, u64)>) -> Option<Self> {
        let (by, kept) = match member.state {
            MemberState::Leaving => ("DECOMMISSION", kept),
            MemberState::Removing => ("REMOVE", None),
            _ => return None,
        };
        let partitions = state.topology.held_by(member.id).count() as u64;
        Some(Self { by, partitions, hints: kept.map(|(hints, _)| hints), marks: kept.map(|(_, marks)| marks) })
    }
}

/// Whether a node takes requests of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DrainView {
    /// It takes no more of them, and ends what is under way.
    Draining,
    /// It takes none, and none is under way.
    Drained,
}

impl DrainView {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
        }
    }

    /// What a name stands for.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Draining, Self::Drained].into_iter().find(|view| view.name() == name)
    }
}
