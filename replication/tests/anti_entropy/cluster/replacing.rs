//! A dead replica's place is taken by a new node: the steps of a move, and the copy that the new one really makes.

use std::collections::BTreeSet;
use std::sync::Arc;

use cube_replication::catalog::ClusterState;
use cube_replication::consistency::Level;
use cube_replication::lifecycle::{Backfill, BackfillParts, GivenUp, adopt};
use cube_replication::quorum::Tracker;
use cube_replication::topology::{DataCenter, Evidence, MemberState, ReplicaSets, Step, TopologyChange};
use cube_storage::model::{NodeId, PartitionBits, PlacementId};
use cube_storage::{SyncState, UnsyncedCause};
use parking_lot::Mutex;

use super::super::pair::TABLE;
use super::{Cluster, fresh_store, member};

const PLACEMENT: PlacementId = PlacementId(0);

impl Cluster {
    /// Has a new node take the place of a dead one, which is a member no more and has heard nothing of it. The new one.
    pub(crate) fn replace(&mut self, gone: u16) -> u16 {
        let fresh = self.nodes.len() as u16;
        let alive_one = usize::from(gone == 0);
        let mut state = ClusterState::clone(&self.nodes[alive_one].catalog.current());
        state = after(&state, &TopologyChange::Join(member(NodeId(fresh))));
        self.join(NodeId(fresh), &state);
        let alive: BTreeSet<NodeId> = (0..=fresh).filter(|node| *node != gone).map(NodeId).collect();
        let partitions: Vec<_> = state.topology.partition_bits().all().collect();
        let old = state.topology.placement(PLACEMENT).unwrap().partition(partitions[0]).unwrap().serving().clone();
        for partition in &partitions {
            let replicas = alive.iter().copied().collect();
            state = after(&state, &TopologyChange::BeginMove { placement: PLACEMENT, partition: *partition, replicas });
        }
        self.tell(&state, &alive);
        for partition in &partitions {
            let map = state.topology.placement(PLACEMENT).unwrap().partition(*partition).unwrap().epoch();
            let complete = Arc::new(Mutex::new(None));
            let told = complete.clone();
            let parts = BackfillParts {
                me: NodeId(fresh),
                store: self.nodes[usize::from(fresh)].store.clone(),
                clock: self.clock_of(fresh),
                transport: self.network.transport(NodeId(fresh)),
                given_up: GivenUp::default(),
            };
            let sources = Tracker::new(Level::EachQuorum, &ReplicaSets::one(old.clone()), DataCenter::from("a"));
            let done = Box::new(move |is_complete| *told.lock() = Some(is_complete));
            let _backfill = Backfill::start(parts, (*partition, map), vec![TABLE], (sources, BTreeSet::new()), done);
            self.pass_ms(1_000);
            assert_eq!(complete.lock().take(), Some(true), "the others have all of it");
            self.nodes[usize::from(fresh)].store.set_sync(PLACEMENT, *partition, SyncState::Synced).unwrap();
        }
        for _ in 0..2 {
            for partition in &partitions {
                let map = state.topology.placement(PLACEMENT).unwrap().partition(*partition).unwrap();
                assert!(!matches!(map.step(), Step::Stable { .. }));
                let evidence = Evidence { fenced: alive.clone(), caught_up: alive.clone() };
                let (placement, partition, from) = (PLACEMENT, *partition, map.epoch());
                state = after(&state, &TopologyChange::AdvanceMove { placement, partition, from, evidence });
            }
            self.tell(&state, &alive);
        }
        for left in [MemberState::Leaving, MemberState::Left] {
            state = after(&state, &TopologyChange::SetState { node: NodeId(gone), state: left });
        }
        self.tell(&state, &alive);
        fresh
    }

    /// A new node, which holds nothing and knows of the others.
    fn join(&mut self, id: NodeId, state: &ClusterState) {
        let store = fresh_store(state);
        adopt(&store, id, state).unwrap();
        let bits: PartitionBits = state.topology.partition_bits();
        let new = SyncState::Unsynced(UnsyncedCause::New);
        assert!(bits.all().all(|partition| store.partition(PLACEMENT, partition).sync == new));
        let node = self.node_of(id, store, state.clone());
        for (other, _) in self.nodes.iter().enumerate().filter(|(_, other)| !other.is_up) {
            node.view.kill(NodeId(other as u16));
        }
        self.nodes.push(node);
    }

    /// Those that are alive learn a state.
    fn tell(&self, state: &ClusterState, alive: &BTreeSet<NodeId>) {
        for id in alive {
            let node = &self.nodes[usize::from(id.0)];
            node.catalog.advance(state.clone());
            adopt(&node.store, *id, state).unwrap();
        }
    }
}

fn after(state: &ClusterState, change: &TopologyChange) -> ClusterState {
    ClusterState { topology: state.topology.after(change).unwrap(), schema: state.schema.clone() }
}
