//! The replicas of one partition, and the steps by which they change.
//!
//! ```text
//!                    begin                 advance                   advance
//! Stable(old)  ────────────▶  WriteBoth  ────────────▶  ReadNew  ────────────▶  Stable(new)
//!  writes old                  writes old and new        writes old and new      writes new
//!  reads  old   ◀────────────  reads  old                reads  new              reads  new
//!                    abort
//! ```
//!
//! Every arrow is one entry of the Raft log and gives the partition a new epoch. Invariant: **a quorum of writes that
//! was met under any of these maps is in every later quorum of reads under any map that can still form one.**
//! Neighbours in the picture agree about that by themselves: one of the sets they read is one that both write. Maps two
//! arrows apart do not (`Stable(old)` writes no new replica, `ReadNew` reads them), so an advance has its price
//! ([`Needs`]): a quorum of the old and of the new set, in each data center, has durably promised to refuse requests
//! of older epochs than the present one (the fence). From then on no quorum can form on the map before the present one,
//! at any level that takes a majority, LOCAL_QUORUM included.
//!
//! Leaving `WriteBoth` also takes copies: every pending replica, and with them a quorum of the new set in each data
//! center, must hold whatever was acknowledged before the fence ([`Evidence::caught_up`]). Replicas that stay are no
//! exception: from five to three, the three that stay may all have missed a write that the other two and one of them
//! acknowledged, and two of them would answer reads without it. Catching up means comparing with a quorum of the old
//! replicas in each data center, **every one of which has fenced the present epoch before it answers**: one that had
//! not could acknowledge an old write right after it was read.
//!
//! **Replicas that are gone for good** ([`PartitionMap::give_up`]) are struck from a set only where too few others are left
//! for a majority of it: anywhere else the arrows above do without them. Where one of two, or two of four are struck, all that
//! are left make up the new quorum, and every majority there was before meets it. Where a majority before and one after
//! might not meet (`leaving.rs`, `may_miss_writes`), an operator has accepted what that loses.
//!
//! An abort is possible in `WriteBoth` alone, without any fence, since all maps until then read and write the old set.
//! After `ReadNew` there is no way back: a coordinator that knows `ReadNew` may read the new set alone, so writes have
//! to keep reaching it until the change is complete.

use std::collections::BTreeSet;
use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

use super::{ReplicaSet, ReplicaSets};
use crate::consistency::Requirement;

/// The replicas of a partition as of an epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartitionMap {
    epoch: Epoch,
    step: Step,
}

/// How far a change of replicas has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// No change is under way.
    Stable {
        /// Written and read.
        replicas: Arc<ReplicaSet>,
    },
    /// New replicas take writes and copy what was there before. They do not count in reads.
    WriteBoth {
        /// Written and read.
        old: Arc<ReplicaSet>,
        /// Written.
        new: Arc<ReplicaSet>,
    },
    /// New replicas hold everything and are read. The old ones still take writes, for coordinators that read them yet.
    ReadNew {
        /// Written.
        old: Arc<ReplicaSet>,
        /// Written and read.
        new: Arc<ReplicaSet>,
    },
}

/// What has to be known before a change may advance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    /// Requests of epochs before this one are refused ...
    pub fence: Epoch,
    /// ... by a quorum of each of these sets, in each of its data centers.
    pub fenced: ReplicaSets,
    /// Nodes that must have caught up.
    pub pending: BTreeSet<NodeId>,
    /// The set of which a quorum in each data center must have caught up, the pending ones included.
    pub caught_up: Option<Arc<ReplicaSet>>,
}

/// What a change is advanced with: it stands in the Raft entry, so that every member checks it alike.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Nodes that durably fenced the present epoch of the partition.
    pub fenced: BTreeSet<NodeId>,
    /// Nodes that hold whatever was acknowledged before the fence, as compared with a quorum of the old replicas in
    /// each data center, all of them behind the fence. An old replica is one of that quorum itself.
    pub caught_up: BTreeSet<NodeId>,
}

impl Needs {
    /// Whether the evidence is enough.
    pub fn met_by(&self, evidence: &Evidence) -> bool {
        let quorum = |set: &Arc<ReplicaSet>, nodes: &BTreeSet<NodeId>| {
            Requirement::each_quorum(set).holds(set.matching(|node| nodes.contains(&node)))
        };
        self.fenced.iter().all(|set| quorum(set, &evidence.fenced))
            && self.pending.is_subset(&evidence.caught_up)
            && self.caught_up.iter().all(|set| quorum(set, &evidence.caught_up))
    }
}

impl PartitionMap {
    /// A partition's first map.
    pub fn stable(replicas: Arc<ReplicaSet>, epoch: Epoch) -> Self {
        Self { epoch, step: Step::Stable { replicas } }
    }

    /// Replicas refuse requests that were routed by an earlier one, once they fenced it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far a change has come.
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// The sets in which a write must meet its level.
    pub fn write_sets(&self) -> ReplicaSets {
        match &self.step {
            Step::Stable { replicas } => ReplicaSets::one(Arc::clone(replicas)),
            Step::WriteBoth { old, new } | Step::ReadNew { old, new } => {
                ReplicaSets::both(Arc::clone(old), Arc::clone(new))
            }
        }
    }

    /// The set in which a read must meet its level.
    pub fn read_sets(&self) -> ReplicaSets {
        ReplicaSets::one(Arc::clone(self.serving()))
    }

    /// The replicas that count in reads.
    pub fn serving(&self) -> &Arc<ReplicaSet> {
        match &self.step {
            Step::Stable { replicas } => replicas,
            Step::WriteBoth { old, .. } => old,
            Step::ReadNew { new, .. } => new,
        }
    }

    /// The replicas there will be when the change under way is complete.
    pub fn goal(&self) -> &Arc<ReplicaSet> {
        match &self.step {
            Step::Stable { replicas } => replicas,
            Step::WriteBoth { new, .. } | Step::ReadNew { new, .. } => new,
        }
    }

    /// Replicas that are written and not yet counted in reads.
    pub fn pending(&self) -> impl Iterator<Item = NodeId> {
        let (old, new) = match &self.step {
            Step::WriteBoth { old, new } => (Some(old), Some(new)),
            Step::Stable { .. } | Step::ReadNew { .. } => (None, None),
        };
        let known = move |node: &NodeId| old.is_some_and(|old| old.contains(*node));
        new.into_iter().flat_map(|new| new.nodes()).copied().filter(move |node| !known(node))
    }

    /// What has to be known before [`PartitionMap::advance`]. `None` when no change is under way.
    pub fn needs(&self) -> Option<Needs> {
        let caught_up = match &self.step {
            Step::Stable { .. } => return None,
            Step::WriteBoth { new, .. } => Some(Arc::clone(new)),
            Step::ReadNew { .. } => None,
        };
        let (fenced, pending) = (self.write_sets(), self.pending().collect());
        Some(Needs { fence: self.epoch, fenced, pending, caught_up })
    }

    /// Starts a change. New replicas take writes from here on.
    ///
    /// Two changes are complete at once, because there is nothing to copy: another order of the same nodes, and the
    /// first replicas of a partition that had none, in which nothing can have been acknowledged.
    pub fn begin(&self, new: Arc<ReplicaSet>, epoch: Epoch) -> Result<Self, MoveRefused> {
        self.must_be_newer(epoch)?;
        let Step::Stable { replicas: old } = &self.step else {
            return Err(MoveRefused::UnderWay { epoch: self.epoch });
        };
        if new.is_empty() {
            return Err(MoveRefused::NoReplicas);
        }
        let step = if old.is_empty() || old.same_nodes(&new) {
            Step::Stable { replicas: new }
        } else {
            Step::WriteBoth { old: Arc::clone(old), new }
        };
        Ok(Self { epoch, step })
    }

    /// Takes the next step, if the evidence is enough.
    pub fn advance(&self, evidence: &Evidence, epoch: Epoch) -> Result<Self, MoveRefused> {
        self.must_be_newer(epoch)?;
        if !self.needs().ok_or(MoveRefused::NotUnderWay)?.met_by(evidence) {
            return Err(MoveRefused::NotEnough { epoch: self.epoch });
        }
        let step = match &self.step {
            Step::WriteBoth { old, new } => Step::ReadNew { old: Arc::clone(old), new: Arc::clone(new) },
            Step::ReadNew { new, .. } => Step::Stable { replicas: Arc::clone(new) },
            Step::Stable { .. } => return Err(MoveRefused::NotUnderWay),
        };
        Ok(Self { epoch, step })
    }

    /// Whether the change under way can still be taken back.
    pub fn may_abort(&self) -> bool {
        matches!(self.step, Step::WriteBoth { .. })
    }

    /// Takes the change back: the old replicas stay, and the new ones drop what they copied.
    pub fn abort(&self, epoch: Epoch) -> Result<Self, MoveRefused> {
        self.must_be_newer(epoch)?;
        match &self.step {
            Step::WriteBoth { old, .. } => Ok(Self::stable(Arc::clone(old), epoch)),
            Step::ReadNew { .. } => Err(MoveRefused::ReadsMoved { epoch: self.epoch }),
            Step::Stable { .. } => Err(MoveRefused::NotUnderWay),
        }
    }

    /// Whether a majority that the map needs is lost with these nodes, in some data center.
    pub fn is_lost_without(&self, gone: &BTreeSet<NodeId>) -> bool {
        self.write_sets().iter().any(|set| is_lost_without(set, gone))
    }

    /// Strikes nodes that are gone for good from the sets that have no majority without them. A change that can be taken
    /// back is: it is begun anew from what is left.
    pub fn give_up(&self, gone: &BTreeSet<NodeId>, epoch: Epoch) -> Result<Self, MoveRefused> {
        self.must_be_newer(epoch)?;
        if !self.is_lost_without(gone) {
            return Err(MoveRefused::NothingLost);
        }
        let strike = |set: &Arc<ReplicaSet>| match is_lost_without(set, gone) {
            true => Arc::new(set.without(gone)),
            false => Arc::clone(set),
        };
        let step = match &self.step {
            Step::Stable { replicas } | Step::WriteBoth { old: replicas, .. } => {
                Step::Stable { replicas: strike(replicas) }
            }
            Step::ReadNew { old, new } => match (strike(old), strike(new)) {
                (old, new) if old.is_empty() => Step::Stable { replicas: new },
                // Those that still take writes have missed none.
                (old, new) if new.is_empty() => Step::Stable { replicas: old },
                (old, new) => Step::ReadNew { old, new },
            },
        };
        Ok(Self { epoch, step })
    }

    fn must_be_newer(&self, epoch: Epoch) -> Result<(), MoveRefused> {
        if epoch > self.epoch { Ok(()) } else { Err(MoveRefused::OldEpoch { epoch: self.epoch }) }
    }
}

/// Whether a set has no majority without these nodes, in some data center, and would have one with them.
pub(super) fn is_lost_without(set: &ReplicaSet, gone: &BTreeSet<NodeId>) -> bool {
    let left = set.matching(|node| !gone.contains(&node));
    left != set.all() && !Requirement::each_quorum(set).holds(left)
}

/// Why a partition's replicas do not change that way now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MoveRefused {
    /// At most one change per partition is under way.
    #[error("another change of this partition's replicas is under way since {epoch}")]
    UnderWay {
        /// The partition's epoch.
        epoch: Epoch,
    },
    /// There is nothing to advance or to abort.
    #[error("no change of this partition's replicas is under way")]
    NotUnderWay,
    /// The fence or the copies are not complete.
    #[error("too few replicas have fenced {epoch}, or have caught up")]
    NotEnough {
        /// The partition's epoch.
        epoch: Epoch,
    },
    /// Reads have moved to the new replicas: the change can only be completed.
    #[error("reads moved to the new replicas with {epoch}: the change can only be completed")]
    ReadsMoved {
        /// The partition's epoch.
        epoch: Epoch,
    },
    /// A partition with data cannot be left without replicas.
    #[error("a partition cannot be left without replicas")]
    NoReplicas,
    /// The others are enough: the change goes on, or one is begun, without striking anybody.
    #[error("the replicas that are left are a majority")]
    NothingLost,
    /// Epochs only grow.
    #[error("the partition is at {epoch} already")]
    OldEpoch {
        /// The partition's epoch.
        epoch: Epoch,
    },
}
