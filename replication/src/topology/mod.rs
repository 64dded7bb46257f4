//! Where every row lives: members, replication settings, and for each setting the replicas of every partition.
//!
//! A [`Topology`] is a value. Raft agrees on a sequence of [`TopologyChange`]s, each of which makes the next value from
//! the one before (`change.rs`); requests read the present one through an `Arc` and never wait. What it keeps true:
//!
//! - epochs only grow, and a partition's epoch is the topology epoch that last changed it: a coordinator told of a
//!   newer partition epoch knows which topology it is missing;
//! - node and placement ids are never used twice;
//! - a replica is always a member, and a member that left holds nothing;
//! - a partition's replicas change only through the steps of `partition_map.rs`.

mod assignment;
mod change;
mod leaving;
mod member;
mod moves;
mod partition_map;
mod placement;
pub mod plan;
mod replica_set;
mod strategy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionBits, PartitionId, PlacementId, Token};
use serde::{Deserialize, Serialize};

pub use assignment::Assignment;
pub use change::{Refused, TopologyChange};
pub use leaving::{LeavingReport, Loss, TooFewLeft, has_handed_over};
pub use member::{Addresses, DataCenter, Member, MemberState, Rack};
pub use moves::{MOVE_CHANGES_MAX, MOVES_UNDER_WAY_MAX, MoveDone, MoveDriver, MoveReport, in_reach};
pub use partition_map::{Evidence, MoveRefused, Needs, PartitionMap, Step};
pub use placement::{BadAssignment, Placement};
pub use replica_set::{BadReplicaSet, DataCenterReplicas, Replica, ReplicaSet, ReplicaSets, Slots};
pub use strategy::{BadStrategy, Strategy};

/// One immutable state of the cluster's layout.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Topology {
    epoch: Epoch,
    partition_bits: PartitionBits,
    /// Those that left stay, so that their ids and their data are known as used up.
    members: BTreeMap<NodeId, Member>,
    placements: BTreeMap<PlacementId, Arc<Placement>>,
    /// Placement ids below this one have been given out.
    next_placement: PlacementId,
}

/// Where one token's rows live at the moment of the look-up.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The partition of the token.
    pub partition: PartitionId,
    /// Its replicas, and its epoch.
    pub map: &'a PartitionMap,
}

impl Topology {
    /// A cluster without members, of `2^bits` partitions.
    pub fn new(partition_bits: PartitionBits) -> Self {
        Self {
            epoch: Epoch(0),
            partition_bits,
            members: BTreeMap::new(),
            placements: BTreeMap::new(),
            next_placement: PlacementId(0),
        }
    }

    /// The number of this state. Every change makes the next one.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How the token range is split. Fixed when the cluster is created.
    pub fn partition_bits(&self) -> PartitionBits {
        self.partition_bits
    }

    /// Everyone who ever was a member, in the order of their ids.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// A member by id, also one that left.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// A member by name. A name is free again once its bearer left.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name && member.state != MemberState::Left)
    }

    /// The id the next member to join gets.
    pub fn next_node(&self) -> Option<NodeId> {
        match self.members.last_key_value() {
            None => Some(NodeId(0)),
            Some((last, _)) => last.0.checked_add(1).map(NodeId).filter(|next| *next < NodeId::CLIENT),
        }
    }

    /// The id the next placement gets.
    pub fn next_placement(&self) -> PlacementId {
        self.next_placement
    }

    /// Every replication setting in use.
    pub fn placements(&self) -> impl Iterator<Item = (PlacementId, &Placement)> {
        self.placements.iter().map(|(id, placement)| (*id, placement.as_ref()))
    }

    /// One replication setting and its partitions.
    pub fn placement(&self, placement: PlacementId) -> Option<&Placement> {
        self.placements.get(&placement).map(Arc::as_ref)
    }

    /// Where the rows of a token live. `None` for a placement that this state does not know (any more, or yet).
    pub fn route(&self, placement: PlacementId, token: Token) -> Option<Route<'_>> {
        let partition = self.partition_bits.partition_of(token);
        let map = self.placement(placement)?.partition(partition)?;
        Some(Route { partition, map })
    }

    /// The partitions of which a node is a replica, be it that it is only becoming one or ceasing to be one.
    pub fn held_by(&self, node: NodeId) -> impl Iterator<Item = (PlacementId, PartitionId)> {
        self.placements().flat_map(move |(id, placement)| {
            let held = placement.partitions().filter(move |(_, map)| map.write_sets().contains(node));
            held.map(move |(partition, _)| (id, partition))
        })
    }

    /// Members that an operator gave up, and that still have a place.
    pub fn being_removed(&self) -> BTreeSet<NodeId> {
        let removed = self.members.values().filter(|member| member.state == MemberState::Removing);
        removed.map(|member| member.id).collect()
    }

    /// Where a partition's replicas ought to be, given who is a member now: what the moves under way lead to, changed
    /// as little as possible. Equal to [`Placement::goal`] when there is nothing to do.
    pub fn planned(&self, placement: PlacementId) -> Option<Assignment> {
        let placement = self.placement(placement)?;
        Some(plan::plan(&placement.goal(), &self.members, placement.strategy(), self.partition_bits))
    }
}
