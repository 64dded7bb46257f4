//! What the parts of a member tell for metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use cube_replication::membership::Membership as _;
use cube_replication::topology::MemberState;
use cube_storage::model::{NodeId, PartitionId, TableId};
use cube_storage::space::SpaceProbe;
use cube_storage::{SyncState, UnsyncedCause};

use super::member::Member;
use crate::admin::{DrainView, LeavingView};
use crate::metrics::{Figures, GossipFigures, MemberFigures, NodeFigures, SpaceLeft, StoreFigures, SyncFigures};

impl Member {
    pub(super) fn figures(&self) -> Figures {
        Figures {
            now_ms: self.clock.monotonic_ms(),
            node: self.node_figures(),
            handoff: Some(self.hint_replay.status()),
            store: self.store_figures(),
            engine: self.store.engine_figures(),
            raft: Some(self.control.status()),
            members: self.member_figures(),
            gossip: self.gossip_figures(),
            traces: self.traces.as_ref().map(|traces| traces.figures()),
            workers: self.workers.statuses(),
            peers: self.transport.status().into_iter().map(|peer| (self.name_of(peer.node), peer)).collect(),
            inbound: self.peer_server.status().into_iter().map(|lane| (self.name_of(lane.node), lane)).collect(),
            // The edge knows these.
            tables: Vec::new(),
            in_flight: (0, 0),
            in_flight_max: (0, 0),
            sync: Some(self.sync_figures()),
        }
    }

    fn sync_figures(&self) -> SyncFigures {
        let (status, scrub, state) = (self.anti_entropy.status(), self.scrub.status(), self.catalog.current());
        let now_ms = self.clock.peek().millis();
        let oldest = self.anti_entropy.in_sync_by_table();
        let mut uncompared = BTreeMap::<TableId, BTreeSet<PartitionId>>::new();
        for ((table, partition), _, as_of) in self.anti_entropy.in_sync_pairs() {
            let partitions = uncompared.entry(table).or_default();
            partitions.extend((as_of.millis() == 0).then_some(partition));
        }
        let tables = || {
            let keyspaces = state.schema.keyspaces.iter();
            keyspaces.flat_map(|(keyspace, space)| space.tables.iter().map(move |table| (keyspace, table)))
        };
        let age_ms = tables().filter_map(|(keyspace, (name, table))| {
            // The beginning of time is none: something was never compared.
            let as_of_ms = Some(oldest.get(&table.id)?.millis()).filter(|as_of_ms| *as_of_ms > 0)?;
            Some((keyspace.clone(), name.clone(), now_ms.saturating_sub(as_of_ms)))
        });
        let uncompared = tables().filter_map(|(keyspace, (name, table))| {
            let count = u64::try_from(uncompared.get(&table.id)?.len()).unwrap_or(u64::MAX);
            Some((keyspace.clone(), name.clone(), count))
        });
        SyncFigures {
            enabled: status.enabled,
            age_ms: age_ms.collect(),
            uncompared: uncompared.collect(),
            passes: status.passes,
            comparisons: status.comparisons,
            failed: status.failed,
            leaves_differing: status.tally.leaves,
            rows_sent: status.tally.rows_sent,
            rows_fetched: status.tally.rows_fetched,
            row_bytes: status.tally.row_bytes,
            marks_cleared: status.marks_cleared,
            purge_rounds: status.purge_rounds,
            purge_blocked: status.purge_blocked.len() as u64,
            scrubbed_rows: scrub.rows,
            scrub_damaged: scrub.damaged,
        }
    }

    fn node_figures(&self) -> NodeFigures {
        let (health, state) = (Member::health(self), self.catalog.current());
        let me = state.topology.member(self.identity.node);
        let place = me.map(|me| (me.data_center.to_string(), me.rack.to_string())).unwrap_or_default();
        NodeFigures {
            name: self.identity.name.clone(),
            cluster: self.identity.cluster.to_string(),
            data_center: place.0,
            rack: place.1,
            serves: health.serves(),
            state: health.state.unwrap_or_default(),
            warnings: health.warnings.len(),
        }
    }

    fn store_figures(&self) -> StoreFigures {
        let counters = self.store.counters();
        StoreFigures {
            waiting: self.store.waiting(),
            groups: counters.groups(),
            rows: counters.rows(),
            purged_rows: counters.purged_rows(),
            below_floor_rows: counters.below_floor_rows(),
            damaged: self.store.damage().found(),
            is_stopped: self.store.stopped().is_some(),
            partitions: self.partitions_by_state().into_iter().collect(),
            space: SpaceLeft {
                free_bytes: self.space.available_bytes(),
                reserve_bytes: self.config.storage.disk_reserve.0,
            },
        }
    }

    fn partitions_by_state(&self) -> BTreeMap<&'static str, u64> {
        let state = self.catalog.current();
        let mut counts = BTreeMap::from([("synced", 0), ("copying", 0), ("damaged", 0)]);
        for (placement, maps) in state.topology.placements() {
            for (partition, map) in maps.partitions() {
                if !map.write_sets().contains(self.identity.node) {
                    continue;
                }
                let told = match self.store.partition(placement, partition).sync {
                    SyncState::Synced => "synced",
                    SyncState::Unsynced(UnsyncedCause::New) => "copying",
                    SyncState::Unsynced(_) => "damaged",
                };
                *counts.entry(told).or_insert(0) += 1;
            }
        }
        counts
    }

    fn member_figures(&self) -> Vec<MemberFigures> {
        let state = self.catalog.current();
        let offsets = self.clock_watch.lock().offsets(self.clock.monotonic_ms());
        let present = state.topology.members().values().filter(|member| member.state != MemberState::Left);
        let is_drained = |node: NodeId| match node == self.identity.node {
            true => self.drained().is_some(),
            false => self.gossip.peer(node).is_some_and(|peer| DrainView::named(&peer.report.drain).is_some()),
        };
        let figures = present.map(|member| MemberFigures {
            name: member.name.clone(),
            alive: self.gossip.is_alive(member.id),
            clock_offset_ms: offsets.get(&member.id).map(|offset| offset.offset_ms),
            to_be_moved: LeavingView::of(&state, member, None).map(|leaving| leaving.partitions),
            is_drained: is_drained(member.id),
        });
        figures.collect()
    }

    fn gossip_figures(&self) -> GossipFigures {
        let counters = self.gossip.counters();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        GossipFigures {
            sent: read(&counters.sent),
            sent_bytes: read(&counters.sent_bytes),
            received: read(&counters.received),
            received_bytes: read(&counters.received_bytes),
            failed: read(&counters.failed).saturating_add(read(&counters.withheld)),
            conflicts: self.gossip.conflicts().len() as u64,
        }
    }
}
