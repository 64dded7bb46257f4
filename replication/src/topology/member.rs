//! A node of the cluster, as its operator described it: who it is, where it stands, how much it may hold.
//!
//! Whether it is alive is not written here. That is observed, by gossip, and changes without any agreement.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// The name of a data center. Cloning copies no text.
    DataCenter
);
name!(
    /// The name of a rack: machines that fail together. Racks of the same name in two data centers are two racks.
    Rack
);

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its number, given when it joined and never used again.
    pub id: NodeId,
    /// Its name, unique among those that have not left.
    pub name: String,
    /// Where it stands.
    pub data_center: DataCenter,
    /// What it fails together with.
    pub rack: Rack,
    /// How much it holds, in proportion to the others. A member of weight 0 coordinates and holds nothing.
    pub weight: u32,
    /// How far it has come.
    pub state: MemberState,
    /// Where it is reached.
    pub addresses: Addresses,
}

impl Member {
    /// Whether partitions may be placed here.
    pub fn may_hold_data(&self) -> bool {
        self.weight > 0 && self.state.may_hold_data()
    }
}

/// The addresses a member advertises, each `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// For other members.
    pub peer: String,
    /// For clients, over gRPC.
    pub grpc: String,
    /// For REST and metrics.
    pub http: String,
    /// For gossip, over UDP.
    pub gossip: String,
}

/// The stations of a member's life. It may skip stations and never goes back; their order is that of
/// [`MemberState::station`], since the variants are numbered on disk and on the wire as they stand here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// Registered. Its partitions are being assigned.
    Joining,
    /// It takes writes, and copies what it must serve.
    Warming,
    /// It serves everything it is a replica of.
    Ready,
    /// It gets no new partitions, and hands over those it has.
    Leaving,
    /// It holds nothing, and is refused if it comes back.
    Left,
    /// An operator gave it up: it is gone for good, the others take its place, and nobody waits for what it kept. Comes
    /// between leaving and having left, and is shown as leaving.
    Removing,
}

impl MemberState {
    /// Whether partitions may be placed on a member in this state.
    pub fn may_hold_data(self) -> bool {
        match self {
            Self::Joining | Self::Warming | Self::Ready => true,
            Self::Leaving | Self::Removing | Self::Left => false,
        }
    }

    /// Whether nothing is expected of the member any more, and nothing taken from it.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Removing | Self::Left)
    }

    /// Its place in a life.
    fn station(self) -> u8 {
        match self {
            Self::Joining => 0,
            Self::Warming => 1,
            Self::Ready => 2,
            Self::Leaving => 3,
            Self::Removing => 4,
            Self::Left => 5,
        }
    }
}

impl Ord for MemberState {
    fn cmp(&self, other: &Self) -> Ordering {
        self.station().cmp(&other.station())
    }
}

impl PartialOrd for MemberState {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "JOINING",
            Self::Warming => "WARMING",
            Self::Ready => "READY",
            Self::Leaving | Self::Removing => "LEAVING",
            Self::Left => "LEFT",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_has_one_order_whatever_the_numbers_on_disk() {
        use MemberState::{Joining, Leaving, Left, Ready, Removing, Warming};
        let life = [Joining, Warming, Ready, Leaving, Removing, Left];
        assert!(life.is_sorted());
        let numbers: Vec<u8> = life.iter().flat_map(|state| postcard::to_stdvec(state).unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 5, 4], "as earlier releases wrote them");
    }
}
