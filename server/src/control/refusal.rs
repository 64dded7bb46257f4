//! Why the hard state refuses a command: what is asked cannot be, or not as things stand. Nothing changed.

use cube_replication::topology::{MemberState, Refused};
use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::command::CHANGES_MAX;
use super::names::NAME_BYTES_MAX;
use super::state::{KEYSPACES_MAX, MEMBERS_MAX, TABLES_MAX};
use crate::identity::ClusterId;

/// A refused command.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing can be changed before the cluster is founded.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// A cluster is founded once.
    #[error("this is cluster {cluster} already: a node that is to found another one needs a data directory of its own")]
    AlreadyFounded {
        /// The one there is.
        cluster: ClusterId,
    },
    /// Two members would answer to one name.
    #[error(
        "the name {name:?} belongs to a member with another data directory: start this node with that directory, or \
         under another name. The name of a member whose directory is lost is free once that member was removed from the \
         cluster"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Its bearer.
        node: NodeId,
    },
    /// A member came back under another name.
    #[error("this data directory belongs to the member {name:?}: start it under that name")]
    NamedOtherwise {
        /// Who it is.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A member came back from another place.
    #[error(
        "the member of this data directory stands in data center {data_center}, rack {rack}, and its replicas were \
         placed by that: start it there, or start another one under another name, with an empty data directory"
    )]
    StandsElsewhere {
        /// Who it is.
        node: NodeId,
        /// Its data center.
        data_center: String,
        /// Its rack.
        rack: String,
    },
    /// A member that left came back.
    #[error(
        "the member of this data directory left the cluster for good, or was removed: empty the directory, and let it join as a new member"
    )]
    HasLeft {
        /// Who it was.
        node: NodeId,
    },
    /// Too many members.
    #[error("the cluster has {MEMBERS_MAX} members, the most there may be")]
    TooManyMembers,
    /// Not a member, or one that left.
    #[error("{node} is not a member")]
    UnknownMember {
        /// The one.
        node: NodeId,
    },
    /// A member's life has one direction.
    #[error("member {node} is {from} and does not become {to}")]
    NotForward {
        /// Who.
        node: NodeId,
        /// Its state.
        from: MemberState,
        /// The one asked for.
        to: MemberState,
    },
    /// A name that is not one.
    #[error("{name:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, '_' and '-', the first of them a letter")]
    BadName {
        /// What was given.
        name: String,
    },
    /// The name of a data center or a rack that is not one.
    #[error("{place:?} names no data center or rack: 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' and '.'")]
    BadPlace {
        /// What was given.
        place: String,
    },
    /// An address that is not one.
    #[error("{address:?} is no address: HOST:PORT")]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// A setting out of bounds.
    #[error("{setting}: {reason}")]
    BadSetting {
        /// Which one.
        setting: String,
        /// What it may be.
        reason: String,
    },
    /// No such keyspace.
    #[error("there is no keyspace {keyspace:?}")]
    UnknownKeyspace {
        /// The name given.
        keyspace: String,
    },
    /// The name is in use.
    #[error("there is a keyspace {keyspace:?} already")]
    KeyspaceExists {
        /// The name given.
        keyspace: String,
    },
    /// Too many keyspaces.
    #[error("there are {KEYSPACES_MAX} keyspaces, the most there may be: drop one first")]
    TooManyKeyspaces,
    /// No such table.
    #[error("there is no table {table:?} in keyspace {keyspace:?}")]
    UnknownTable {
        /// The keyspace.
        keyspace: String,
        /// The name given.
        table: String,
    },
    /// The name is in use.
    #[error("there is a table {table:?} in keyspace {keyspace:?} already")]
    TableExists {
        /// The keyspace.
        keyspace: String,
        /// The name given.
        table: String,
    },
    /// Too many tables.
    #[error("there are {TABLES_MAX} tables, the most there may be: drop one first")]
    TooManyTables,
    /// The strategy places replicas where nobody can hold them.
    #[error("no member in data center {data_center:?} may hold data: let one join first, or check the name")]
    NobodyThere {
        /// The data center that the strategy names.
        data_center: String,
    },
    /// Members changed since the replicas were planned.
    #[error("the members changed since the replicas were planned ({reason}): plan again")]
    PlanOutdated {
        /// What does not fit any more.
        reason: String,
    },
    /// More changes than one batch may have.
    #[error("{changes} changes are more than the {CHANGES_MAX} of one batch")]
    TooManyChanges {
        /// How many.
        changes: u64,
    },
    /// The layout of the cluster does not allow it.
    #[error("{reason}")]
    Topology {
        /// Why not.
        reason: String,
    },
    /// The request was made so long before that nobody knows any more whether it took effect already.
    #[error("the request came too late: it was made after entry {after} of the log, and this would be entry {index}")]
    TooLate {
        /// The entry that the proposer had applied.
        after: u64,
        /// The entry that the request was in.
        index: u64,
    },
    /// No id is left to give out.
    #[error("no id is left to give out")]
    Exhausted,
    /// The name of a member that is not one.
    #[error(
        "{name:?} names no node: 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' and '.', the first neither '-' nor '.'"
    )]
    BadMemberName {
        /// What was given.
        name: String,
    },
    /// A keyspace could not keep its replicas without the member.
    #[error(
        "keyspace {keyspace:?} asks for {replicas} replicas{}, and only {left} members would be left to hold them: let \
         another node join first, or ask for fewer replicas by altering the keyspace",
        data_center.as_ref().map_or(String::new(), |name| format!(" in {name}"))
    )]
    TooFewLeft {
        /// The keyspace.
        keyspace: String,
        /// The data center that would be short, if the keyspace counts by data center.
        data_center: Option<String>,
        /// Replicas that are asked for.
        replicas: u64,
        /// Members that would be left for them.
        left: u64,
    },
    /// Nobody would be left.
    #[error("{name} is the last member that holds data: let another node join first")]
    LastMember {
        /// The member.
        name: String,
    },
    /// It was given up already.
    #[error("{name} is being removed as a node that is gone for good: it is not decommissioned any more")]
    IsRemoved {
        /// The member.
        name: String,
    },
    /// Acknowledged writes might go with it.
    #[error(
        "without {name} too few replicas would be left to know every write that a majority acknowledged: wait until the \
         replicas of nodes that leave already are copied, or say acceptLoss"
    )]
    MayLose {
        /// The member.
        name: String,
    },
    /// The member cannot take another one's place.
    #[error("{name} cannot take the place of another node: {reason}")]
    NoReplacement {
        /// The member that was named.
        name: String,
        /// Why not, and what to do about it.
        reason: String,
    },
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UnknownMember { node } => Self::UnknownMember { node },
            Refused::NameTaken { name, node } => Self::NameTaken { name, node },
            Refused::NotForward { node, from, to } => Self::NotForward { node, from, to },
            Refused::Exhausted => Self::Exhausted,
            other => Self::Topology { reason: other.to_string() },
        }
    }
}
