//! What a member that leaves says of itself: whether anything that it keeps, or is about to make, would be lost with it.
//!
//! Invariant: **what is told here is all there will ever be.** What is looked at is what may still turn into something later
//! in this order: requests that were let in, requests under way, writes whose late replicas are still waited for, what other
//! nodes are handing to this one, hints, marks. Each of them counts in a later place before it leaves an earlier one, so
//! nothing slips through between two looks, however threads take turns; and behind closed doors nothing comes in at the
//! beginning. Who drives the moves acts on it (`topology/leaving.rs`).

use std::sync::Arc;

use cube_storage::model::NodeId;
use cube_storage::{Store, SyncState};

use crate::catalog::Catalog;
use crate::coordinator::Coordinator;
use crate::handoff::HintReplay;
use crate::topology::{LeavingReport, Topology};

/// Of so many partitions whose reads count a member it has lost something, and is not whole again: what it acknowledged of
/// them does not count when another one is to be given up ([`Topology::loss_without`]).
pub fn not_whole(topology: &Topology, store: &Store, me: NodeId) -> usize {
    let maps = topology.placements().flat_map(|(id, placement)| placement.partitions().map(move |of| (id, of)));
    let served = maps.filter(|(_, (_, map))| map.serving().contains(me));
    served.filter(|(id, (partition, _))| store.partition(*id, *partition).sync != SyncState::Synced).count()
}

/// What a member looks at before it leaves.
pub struct Leave {
    /// The member.
    pub me: NodeId,
    /// What its requests work by.
    pub catalog: Arc<Catalog>,
    /// What it coordinates.
    pub coordinator: Arc<Coordinator>,
    /// What it keeps for others.
    pub hints: Arc<HintReplay>,
}

impl Leave {
    /// Whether it is a replica of nothing, by the state that requests to it work by.
    pub fn holds_nothing(&self) -> bool {
        self.catalog.current().topology.held_by(self.me).next().is_none()
    }

    /// What it still keeps, once it makes no more of it. `nobody_enters`: its doors are closed for good, and nobody who was
    /// let in before is still on the way to the coordinator.
    pub fn report(&self, nobody_enters: bool) -> Option<LeavingReport> {
        let topology = self.catalog.current().topology.epoch();
        let is_closed = nobody_enters
            && self.coordinator.in_flight() == 0
            && self.coordinator.under_way() == 0
            && self.coordinator.writes_under_way().is_idle()
            && !self.hints.is_taking_over();
        is_closed.then(|| {
            // A hint becomes a mark before it leaves its log.
            let hints = self.hints.hints_left();
            let marks = self.hints.marks_left();
            LeavingReport { node: self.me, topology, is_closed, hints, marks }
        })
    }

    /// The report of one that has left, and asks how it stands with that.
    pub fn report_of_nothing(&self) -> LeavingReport {
        let topology = self.catalog.current().topology.epoch();
        LeavingReport { node: self.me, topology, is_closed: true, hints: 0, marks: 0 }
    }
}
