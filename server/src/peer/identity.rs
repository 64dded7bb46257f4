//! Who meets whom: identities, and what two nodes check of each other before either sends a request.
//!
//! Invariant: no request passes between nodes of different clusters, to another node or data directory than the one
//! that is meant, or in a version that one of the two does not speak. Both sides check for themselves, since either may
//! have the older view of the cluster.

use std::sync::Arc;

use bytes::Bytes;
use cube_proto::peer::v1 as wire;
use cube_replication::messages::{Features, PROTOCOL};
use cube_storage::model::NodeId;
use serde::Serialize;
use thiserror::Error;

use crate::identity::{ClusterId, InstanceId};

/// Who a node is, as it tells its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number in the cluster.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub instance: InstanceId,
    /// The oldest protocol version it speaks.
    pub protocol_min: u16,
    /// The newest protocol version it speaks.
    pub protocol_max: u16,
    /// What it can beyond that.
    pub features: Features,
}

impl PeerIdentity {
    /// A node that speaks what this build speaks, with all it can.
    pub fn of_this_build(cluster: ClusterId, node: NodeId, name: impl Into<String>, instance: InstanceId) -> Self {
        let (protocol_min, protocol_max) = (PROTOCOL, PROTOCOL);
        let features = Features::OF_THIS_BUILD;
        Self { cluster, node, name: name.into(), instance, protocol_min, protocol_max, features }
    }

    /// What it agrees on at least, with whomever.
    pub(super) fn least(&self) -> Negotiated {
        Negotiated { protocol: self.protocol_min, features: Features::default() }
    }
}

/// Whether a node is the member that it says it is: told by whoever knows the members.
pub type CheckPeer = Arc<dyn Fn(&PeerIdentity) -> Result<(), HandshakeRefused> + Send + Sync>;

/// What two nodes agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Negotiated {
    /// The version both speak: the smaller of their newest ones.
    pub protocol: u16,
    /// What both can.
    pub features: Features,
}

/// Why a node refuses another one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeRefused {
    /// It belongs to another cluster.
    #[error("{name} belongs to cluster {theirs}, this node to {ours}: check the addresses, or wipe the one that moved")]
    AnotherCluster {
        /// Its name.
        name: String,
        /// Its cluster.
        theirs: ClusterId,
        /// The cluster of the one that refuses.
        ours: ClusterId,
    },
    /// No member has that number, as far as this node has heard.
    #[error("{node} ({name}) is not known as a member here")]
    UnknownMember {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// The member has another data directory.
    #[error("{node} is known with the data directory {expected}, not {found}: a wiped node joins as a new one")]
    WrongInstance {
        /// Its number.
        node: NodeId,
        /// The directory it is known with.
        expected: InstanceId,
        /// The directory it has.
        found: InstanceId,
    },
    /// Another node answers, or is meant.
    #[error("{expected} was expected at this address, {found} answers there: check the advertised addresses")]
    WrongNode {
        /// Who was meant.
        expected: NodeId,
        /// Who it is.
        found: NodeId,
    },
    /// There is no version that both speak.
    #[error(
        "{name} speaks protocol versions {theirs_min} to {theirs_max}, this node {ours_min} to {ours_max}: upgrade one \
         version at a time"
    )]
    NoCommonProtocol {
        /// Its name.
        name: String,
        /// Its oldest.
        theirs_min: u16,
        /// Its newest.
        theirs_max: u16,
        /// The oldest of the one that refuses.
        ours_min: u16,
        /// The newest of the one that refuses.
        ours_max: u16,
    },
    /// The node is no member of a cluster yet, or is just starting.
    #[error("it is starting, and does not take part in its cluster yet")]
    NotReady,
    /// The node is about to leave.
    #[error("it is shutting down")]
    Draining,
    /// What was said is no handshake.
    #[error("that was no handshake: {detail}")]
    Malformed {
        /// What was wrong with it.
        detail: String,
    },
}

/// The kind of a refusal, as it travels: the words are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RefusalReason {
    /// See [`HandshakeRefused::AnotherCluster`].
    AnotherCluster,
    /// See [`HandshakeRefused::UnknownMember`].
    UnknownMember,
    /// See [`HandshakeRefused::WrongInstance`].
    WrongInstance,
    /// See [`HandshakeRefused::WrongNode`].
    WrongNode,
    /// See [`HandshakeRefused::NoCommonProtocol`].
    NoCommonProtocol,
    /// See [`HandshakeRefused::NotReady`].
    NotReady,
    /// See [`HandshakeRefused::Draining`].
    Draining,
    /// See [`HandshakeRefused::Malformed`].
    Malformed,
    /// A reason that this build does not know.
    Unknown,
}

impl HandshakeRefused {
    /// Its kind.
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::AnotherCluster { .. } => RefusalReason::AnotherCluster,
            Self::UnknownMember { .. } => RefusalReason::UnknownMember,
            Self::WrongInstance { .. } => RefusalReason::WrongInstance,
            Self::WrongNode { .. } => RefusalReason::WrongNode,
            Self::NoCommonProtocol { .. } => RefusalReason::NoCommonProtocol,
            Self::NotReady => RefusalReason::NotReady,
            Self::Draining => RefusalReason::Draining,
            Self::Malformed { .. } => RefusalReason::Malformed,
        }
    }

    pub(super) fn to_wire(&self) -> wire::Refused {
        let reason = match self.reason() {
            RefusalReason::AnotherCluster => wire::RefusalReason::AnotherCluster,
            RefusalReason::UnknownMember => wire::RefusalReason::UnknownMember,
            RefusalReason::WrongInstance => wire::RefusalReason::WrongInstance,
            RefusalReason::WrongNode => wire::RefusalReason::WrongNode,
            RefusalReason::NoCommonProtocol => wire::RefusalReason::NoCommonProtocol,
            RefusalReason::NotReady => wire::RefusalReason::NotReady,
            RefusalReason::Draining => wire::RefusalReason::Draining,
            RefusalReason::Malformed => wire::RefusalReason::Malformed,
            RefusalReason::Unknown => wire::RefusalReason::Unspecified,
        };
        wire::Refused { reason: reason.into(), detail: self.to_string() }
    }
}

impl From<wire::RefusalReason> for RefusalReason {
    fn from(reason: wire::RefusalReason) -> Self {
        match reason {
            wire::RefusalReason::AnotherCluster => Self::AnotherCluster,
            wire::RefusalReason::UnknownMember => Self::UnknownMember,
            wire::RefusalReason::WrongInstance => Self::WrongInstance,
            wire::RefusalReason::WrongNode => Self::WrongNode,
            wire::RefusalReason::NoCommonProtocol => Self::NoCommonProtocol,
            wire::RefusalReason::NotReady => Self::NotReady,
            wire::RefusalReason::Draining => Self::Draining,
            wire::RefusalReason::Malformed => Self::Malformed,
            wire::RefusalReason::Unspecified => Self::Unknown,
        }
    }
}

/// What the two agree on, or why this node refuses the other one.
pub(super) fn agree(
    ours: &PeerIdentity,
    theirs: &PeerIdentity,
    check: &CheckPeer,
) -> Result<Negotiated, HandshakeRefused> {
    check_cluster(ours.cluster, theirs)?;
    let protocol = ours.protocol_max.min(theirs.protocol_max);
    if protocol < ours.protocol_min || protocol < theirs.protocol_min {
        return Err(HandshakeRefused::NoCommonProtocol {
            name: theirs.name.clone(),
            theirs_min: theirs.protocol_min,
            theirs_max: theirs.protocol_max,
            ours_min: ours.protocol_min,
            ours_max: ours.protocol_max,
        });
    }
    check(theirs)?;
    Ok(Negotiated { protocol, features: ours.features.common(theirs.features) })
}

pub(super) fn check_cluster(ours: ClusterId, theirs: &PeerIdentity) -> Result<(), HandshakeRefused> {
    if theirs.cluster == ours {
        return Ok(());
    }
    Err(HandshakeRefused::AnotherCluster { name: theirs.name.clone(), theirs: theirs.cluster, ours })
}

pub(super) fn check_node(expected: NodeId, found: NodeId) -> Result<(), HandshakeRefused> {
    if expected == found { Ok(()) } else { Err(HandshakeRefused::WrongNode { expected, found }) }
}

impl From<&PeerIdentity> for wire::Identity {
    fn from(identity: &PeerIdentity) -> Self {
        Self {
            cluster: Bytes::copy_from_slice(&identity.cluster.0.to_be_bytes()),
            node: identity.node.0.into(),
            name: identity.name.clone(),
            instance: Bytes::copy_from_slice(&identity.instance.0.to_be_bytes()),
            protocol_min: identity.protocol_min.into(),
            protocol_max: identity.protocol_max.into(),
            features: identity.features.0,
        }
    }
}

impl TryFrom<wire::Identity> for PeerIdentity {
    type Error = HandshakeRefused;

    fn try_from(identity: wire::Identity) -> Result<Self, Self::Error> {
        Ok(Self {
            cluster: ClusterId(read_id("the cluster", &identity.cluster)?),
            node: NodeId(read_u16("the node", identity.node)?),
            name: identity.name,
            instance: InstanceId(read_id("the instance", &identity.instance)?),
            protocol_min: read_u16("the oldest protocol", identity.protocol_min)?,
            protocol_max: read_u16("the newest protocol", identity.protocol_max)?,
            features: Features(identity.features),
        })
    }
}

fn read_id(what: &str, bytes: &[u8]) -> Result<u128, HandshakeRefused> {
    let bytes = bytes.try_into().map_err(|_| malformed(format!("{what} has {} bytes, not 16", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

pub(super) fn read_u16(what: &str, number: u32) -> Result<u16, HandshakeRefused> {
    u16::try_from(number).map_err(|_| malformed(format!("{what} is {number}, out of range")))
}

pub(super) fn malformed(detail: impl Into<String>) -> HandshakeRefused {
    HandshakeRefused::Malformed { detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn node(number: u16) -> impl Strategy<Value = PeerIdentity> {
        (1u16..6, 0u16..4, 0u64..16, any::<u128>(), ".{0,20}").prop_map(move |(min, more, features, instance, name)| {
            PeerIdentity {
                cluster: ClusterId(u128::MAX - 5),
                node: NodeId(number),
                name,
                instance: InstanceId(instance),
                protocol_min: min,
                protocol_max: min + more,
                features: Features(features),
            }
        })
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn two_nodes_come_to_the_same_agreement_and_each_can_keep_it(a in node(1), b in node(2)) {
            let anybody: CheckPeer = Arc::new(|_| Ok(()));
            let (ours, theirs) = (agree(&a, &b, &anybody), agree(&b, &a, &anybody));
            prop_assert_eq!(ours.is_ok(), theirs.is_ok());
            let common = a.protocol_min.max(b.protocol_min)..=a.protocol_max.min(b.protocol_max);
            match ours {
                Ok(agreed) => {
                    prop_assert_eq!(Ok(agreed), theirs);
                    prop_assert_eq!(agreed.protocol, *common.end());
                    prop_assert!(common.contains(&agreed.protocol));
                    prop_assert_eq!(agreed.features.0 | (a.features.0 & b.features.0), a.features.0 & b.features.0);
                }
                Err(refused) => {
                    prop_assert!(common.is_empty());
                    prop_assert_eq!(refused.reason(), RefusalReason::NoCommonProtocol);
                }
            }
        }

        #[test]
        fn an_identity_arrives_as_it_was_told(identity in node(9)) {
            prop_assert_eq!(PeerIdentity::try_from(wire::Identity::from(&identity)), Ok(identity));
        }
    }
}
