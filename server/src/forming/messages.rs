//! What nodes say to each other before they are members of the same cluster.

use cube_replication::topology::Addresses;
use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};

use crate::identity::{ClusterId, InstanceId};

/// A node asks another one whether it belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Where the asker is reached by its peers.
    pub address: String,
    /// The asker's data directory.
    pub instance: InstanceId,
    /// Whom else it has heard of.
    pub known: Vec<String>,
}

/// The answer to [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It belongs to none, and has not decided to form one.
    None {
        /// Where it is reached, as it says itself.
        address: String,
        /// Its data directory.
        instance: InstanceId,
        /// Whom it has heard of.
        known: Vec<String>,
    },
    /// It is forming one right now.
    Forming,
    /// It is a member.
    Member(Membership),
}

/// Of which cluster a node is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub instance: InstanceId,
}

/// A node asks to be taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Its name.
    pub name: String,
    /// Its data center.
    pub data_center: String,
    /// Its rack.
    pub rack: String,
    /// How much it is to hold, in proportion to the others.
    pub weight: u32,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its data directory: asked twice, it is one join.
    pub instance: InstanceId,
}

/// The answer to [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// It is a member now.
    Joined {
        /// The cluster.
        cluster: ClusterId,
        /// Its id.
        node: NodeId,
        /// The key of the cluster's Merkle hashes.
        merkle_key: [u8; 16],
        /// The number of partitions, as bits.
        partition_bits: u8,
    },
    /// Never: asking again is of no use.
    Refused {
        /// Why, and the way out.
        reason: String,
    },
    /// Not now.
    Later {
        /// Why.
        reason: String,
    },
}
