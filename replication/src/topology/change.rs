//! The changes of a topology that Raft agrees on, and what each makes of the state before it.
//!
//! Everything is decided from the state and the change alone, so that all members reach the same next state. What took
//! thought (a plan, who fenced) travels inside the change: two versions of this code that plan differently still agree.

use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId};
use serde::{Deserialize, Serialize};

use super::placement::resolve;
use super::{
    Addresses, Assignment, BadAssignment, BadStrategy, Evidence, Member, MemberState, MoveRefused, PartitionMap,
    Placement, Strategy, Topology,
};

/// One entry in the life of a cluster's layout.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TopologyChange {
    /// A node becomes a member, under the id that [`Topology::next_node`] names.
    Join(Member),
    /// A member moves on in its life.
    SetState {
        /// Who.
        node: NodeId,
        /// Later in life than the present one.
        state: MemberState,
    },
    /// A member is to hold more, or less.
    SetWeight {
        /// Who.
        node: NodeId,
        /// See [`Member::weight`].
        weight: u32,
    },
    /// A member is reached elsewhere.
    SetAddresses {
        /// Who.
        node: NodeId,
        /// Where.
        addresses: Addresses,
    },
    /// A new replication setting, with the replicas of every partition.
    AddPlacement {
        /// The id that [`Topology::next_placement`] names.
        placement: PlacementId,
        /// What the operator asked for.
        strategy: Strategy,
        /// What was planned for it.
        assignment: Assignment,
    },
    /// The operator asks for other replicas. The moves follow.
    SetStrategy {
        /// Which setting.
        placement: PlacementId,
        /// What is asked for now.
        strategy: Strategy,
    },
    /// No keyspace replicates this way any more.
    DropPlacement {
        /// Which setting.
        placement: PlacementId,
    },
    /// A partition's replicas begin to change: [`PartitionMap::begin`].
    BeginMove {
        /// Of which setting.
        placement: PlacementId,
        /// Which partition.
        partition: PartitionId,
        /// The new replicas, in order.
        replicas: Vec<NodeId>,
    },
    /// The change takes its next step: [`PartitionMap::advance`].
    AdvanceMove {
        /// Of which setting.
        placement: PlacementId,
        /// Which partition.
        partition: PartitionId,
        /// The partition's epoch that the evidence is about.
        from: Epoch,
        /// Why it may.
        evidence: Evidence,
    },
    /// The change is taken back: [`PartitionMap::abort`].
    AbortMove {
        /// Of which setting.
        placement: PlacementId,
        /// Which partition.
        partition: PartitionId,
        /// The partition's epoch that was judged stuck.
        from: Epoch,
    },
    /// Members that are being removed are struck where too few replicas are left without them:
    /// [`PartitionMap::give_up`].
    GiveUp {
        /// Of which setting.
        placement: PlacementId,
        /// Which partition.
        partition: PartitionId,
        /// The partition's epoch that was judged stuck.
        from: Epoch,
    },
}

impl Topology {
    /// The state after a change. This one stays as it is, for those who still read it.
    pub fn after(&self, change: &TopologyChange) -> Result<Self, Refused> {
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0.checked_add(1).ok_or(Refused::Exhausted)?);
        match change {
            TopologyChange::Join(member) => next.join(member)?,
            TopologyChange::SetState { node, state } => next.set_state(*node, *state)?,
            TopologyChange::SetWeight { node, weight } => next.member_mut(*node)?.weight = *weight,
            TopologyChange::SetAddresses { node, addresses } => next.member_mut(*node)?.addresses = addresses.clone(),
            TopologyChange::AddPlacement { placement, strategy, assignment } => {
                next.add_placement(*placement, strategy, assignment)?;
            }
            TopologyChange::SetStrategy { placement, strategy } => {
                strategy.validate().map_err(Refused::Strategy)?;
                next.placement_mut(*placement)?.strategy = strategy.clone();
            }
            TopologyChange::DropPlacement { placement } => {
                next.placements.remove(placement).ok_or(Refused::UnknownPlacement { placement: *placement })?;
            }
            TopologyChange::BeginMove { placement, partition, replicas } => {
                let new = Arc::new(resolve(replicas, &next.members)?);
                next.replace_map(*placement, *partition, |map, epoch| map.begin(new, epoch))?;
            }
            TopologyChange::AdvanceMove { placement, partition, from, evidence } => {
                next.replace_map_of(*placement, *partition, *from, |map, epoch| map.advance(evidence, epoch))?;
            }
            TopologyChange::AbortMove { placement, partition, from } => {
                next.replace_map_of(*placement, *partition, *from, |map, epoch| map.abort(epoch))?;
            }
            TopologyChange::GiveUp { placement, partition, from } => {
                let gone = next.being_removed();
                next.replace_map_of(*placement, *partition, *from, |map, epoch| map.give_up(&gone, epoch))?;
            }
        }
        Ok(next)
    }

    fn join(&mut self, member: &Member) -> Result<(), Refused> {
        let expected = self.next_node().ok_or(Refused::Exhausted)?;
        if member.id != expected {
            return Err(Refused::NotTheNextNode { expected, given: member.id });
        }
        if !member.state.may_hold_data() {
            return Err(Refused::NotForward { node: member.id, from: MemberState::Joining, to: member.state });
        }
        if let Some(bearer) = self.member_named(&member.name) {
            return Err(Refused::NameTaken { name: member.name.clone(), node: bearer.id });
        }
        self.members.insert(member.id, member.clone());
        Ok(())
    }

    fn set_state(&mut self, node: NodeId, state: MemberState) -> Result<(), Refused> {
        if state == MemberState::Left
            && let Some((placement, partition)) = self.held_by(node).next()
        {
            return Err(Refused::StillReplica { node, placement, partition });
        }
        let member = self.member_mut(node)?;
        if state <= member.state {
            return Err(Refused::NotForward { node, from: member.state, to: state });
        }
        member.state = state;
        Ok(())
    }

    fn add_placement(
        &mut self,
        placement: PlacementId,
        strategy: &Strategy,
        assignment: &Assignment,
    ) -> Result<(), Refused> {
        if placement != self.next_placement {
            return Err(Refused::NotTheNextPlacement { expected: self.next_placement, given: placement });
        }
        let first = Placement::new(strategy.clone(), assignment, &self.members, self.partition_bits, self.epoch)?;
        self.placements.insert(placement, Arc::new(first));
        self.next_placement = PlacementId(placement.0.checked_add(1).ok_or(Refused::Exhausted)?);
        Ok(())
    }

    /// A change that was decided on an earlier map than the present one is refused, however late Raft delivers it.
    fn replace_map_of(
        &mut self,
        placement: PlacementId,
        partition: PartitionId,
        from: Epoch,
        next: impl FnOnce(&PartitionMap, Epoch) -> Result<PartitionMap, MoveRefused>,
    ) -> Result<(), Refused> {
        self.replace_map(placement, partition, |map, epoch| {
            if map.epoch() == from { next(map, epoch) } else { Err(MoveRefused::OldEpoch { epoch: map.epoch() }) }
        })
    }

    fn replace_map(
        &mut self,
        placement: PlacementId,
        partition: PartitionId,
        next: impl FnOnce(&PartitionMap, Epoch) -> Result<PartitionMap, MoveRefused>,
    ) -> Result<(), Refused> {
        let epoch = self.epoch;
        let maps = &mut self.placement_mut(placement)?.partitions;
        let map = maps.get_mut(usize::from(partition.0)).ok_or(Refused::UnknownPartition { partition })?;
        *map = next(map, epoch).map_err(|reason| Refused::Move { placement, partition, reason })?;
        Ok(())
    }

    fn member_mut(&mut self, node: NodeId) -> Result<&mut Member, Refused> {
        match self.members.get_mut(&node) {
            Some(member) if member.state != MemberState::Left => Ok(member),
            _ => Err(Refused::UnknownMember { node }),
        }
    }

    fn placement_mut(&mut self, placement: PlacementId) -> Result<&mut Placement, Refused> {
        self.placements.get_mut(&placement).map(Arc::make_mut).ok_or(Refused::UnknownPlacement { placement })
    }
}

/// Why a change has no effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Not a member, or one that left.
    #[error("{node} is not a member")]
    UnknownMember {
        /// The one.
        node: NodeId,
    },
    /// Dropped, or never made.
    #[error("there is no placement {placement}")]
    UnknownPlacement {
        /// The one.
        placement: PlacementId,
    },
    /// Past the last one.
    #[error("there is no partition {partition}")]
    UnknownPartition {
        /// The one.
        partition: PartitionId,
    },
    /// Another node joined first, or an id is used a second time.
    #[error("the next node to join is {expected}, not {given}")]
    NotTheNextNode {
        /// The next one.
        expected: NodeId,
        /// The one given.
        given: NodeId,
    },
    /// Another placement was made first, or an id is used a second time.
    #[error("the next placement is {expected}, not {given}")]
    NotTheNextPlacement {
        /// The next one.
        expected: PlacementId,
        /// The one given.
        given: PlacementId,
    },
    /// Two members would answer to one name.
    #[error("{node} is named {name:?} already")]
    NameTaken {
        /// The name.
        name: String,
        /// Its bearer.
        node: NodeId,
    },
    /// A member's life has one direction.
    #[error("{node} is {from} and does not become {to}")]
    NotForward {
        /// Who.
        node: NodeId,
        /// Its state.
        from: MemberState,
        /// The one asked for.
        to: MemberState,
    },
    /// Its data would be lost from sight.
    #[error("{node} cannot have left while it is a replica of {partition} of {placement}")]
    StillReplica {
        /// Who.
        node: NodeId,
        /// Of which setting.
        placement: PlacementId,
        /// The first partition it holds.
        partition: PartitionId,
    },
    /// The replication setting is refused.
    #[error(transparent)]
    Strategy(BadStrategy),
    /// The replicas given do not fit.
    #[error(transparent)]
    Assignment(#[from] BadAssignment),
    /// The partition's replicas do not change that way now.
    #[error("{partition} of {placement}: {reason}")]
    Move {
        /// Of which setting.
        placement: PlacementId,
        /// Which partition.
        partition: PartitionId,
        /// Why not.
        reason: MoveRefused,
    },
    /// No number is left.
    #[error("no id or epoch is left to give out")]
    Exhausted,
}
