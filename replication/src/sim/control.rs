//! The hard state in the simulator: one sequence of states, which nodes learn late and one by one, and the moves of
//! replicas, which go on as nodes report fences and copies. In a cluster this is Raft's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionBits, PartitionId, PlacementId, TableId};
use cube_storage::{MarkGeneration, StoreError, SyncPolicy, SyncState};

use super::event::Event;
use super::mutants::Mutant;
use super::node::{BITS, SimNode};
use super::time::Schedule;
use crate::catalog::{ClusterState, Keyspace, Schema, Table};
use crate::consistency::Level;
use crate::lifecycle::{Backfill, adopt};
use crate::quorum::{State as Count, Tracker};
use crate::topology::plan::plan;
use crate::topology::{
    Addresses, Assignment, DataCenter, Evidence, Member, MemberState, PartitionMap, Refused, ReplicaSets, Step,
    Strategy, Topology, TopologyChange,
};

pub(super) const KEYSPACE: &str = "sim";
pub(super) const TABLE: &str = "rows";
pub(super) const TABLE_ID: TableId = TableId(1);
const PLACEMENT: PlacementId = PlacementId(0);

/// The authority on the cluster's state, and what nodes reported of the moves under way.
pub(super) struct Control {
    pub(super) state: ClusterState,
    data_centers: u16,
    reports: BTreeMap<PartitionId, (Epoch, Evidence)>,
    /// Nodes learn late now and then.
    may_lag: bool,
    moves_begun: u64,
    moves_done: u64,
    moves_aborted: u64,
}

impl Control {
    /// A cluster of `nodes` members, in one data center or two, with `replicas` replicas of each partition.
    pub(super) fn new(nodes: u16, data_centers: u16, replicas: u8) -> Result<Self, Refused> {
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        let mut topology = Topology::new(bits);
        for id in 0..nodes {
            topology = topology.after(&TopologyChange::Join(member(NodeId(id), id % data_centers)))?;
        }
        let strategy = strategy(data_centers, replicas);
        let assignment = plan(&Assignment::empty(bits), topology.members(), &strategy, bits);
        topology = topology.after(&TopologyChange::AddPlacement { placement: PLACEMENT, strategy, assignment })?;
        let tables = BTreeMap::from([(
            TABLE.to_owned(),
            Table { id: TABLE_ID, prefix_index: true, settings: Default::default() },
        )]);
        let keyspace = Keyspace { placement: PLACEMENT, sync: SyncPolicy::Sync, tables };
        let schema = Schema { keyspaces: BTreeMap::from([(KEYSPACE.to_owned(), keyspace)]) };
        let state = ClusterState { topology, schema };
        Ok(Self {
            state,
            data_centers,
            reports: BTreeMap::new(),
            may_lag: true,
            moves_begun: 0,
            moves_done: 0,
            moves_aborted: 0,
        })
    }

    /// Moves begun, completed and aborted.
    pub(super) fn moves(&self) -> (u64, u64, u64) {
        (self.moves_begun, self.moves_done, self.moves_aborted)
    }

    /// From now on nodes learn quickly.
    pub(super) fn hurry(&mut self) {
        self.may_lag = false;
    }

    /// Asks for another number of replicas, or another shape of the cluster by a member's weight, and begins the moves.
    pub(super) fn reshape(&mut self, schedule: &Schedule, replicas: u8, heavier: NodeId, weight: u32) {
        let strategy = strategy(self.data_centers, replicas);
        self.commit(schedule, &TopologyChange::SetStrategy { placement: PLACEMENT, strategy });
        self.commit(schedule, &TopologyChange::SetWeight { node: heavier, weight });
        self.begin_moves(schedule);
    }

    /// Begins every move that is wanted and not under way.
    pub(super) fn begin_moves(&mut self, schedule: &Schedule) {
        let Some(wanted) = self.state.topology.planned(PLACEMENT) else { return };
        for (partition, replicas) in wanted.iter() {
            let map = self.state.topology.placement(PLACEMENT).and_then(|p| p.partition(partition));
            let settled =
                map.is_some_and(|map| matches!(map.step(), Step::Stable { .. }) && map.goal().nodes() != replicas);
            let replicas = replicas.to_vec();
            if settled
                && self.commit(schedule, &TopologyChange::BeginMove { placement: PLACEMENT, partition, replicas })
            {
                self.moves_begun += 1;
            }
        }
    }

    /// Takes back the moves that still can be.
    pub(super) fn abort_moves(&mut self, schedule: &Schedule) {
        for (partition, from) in self.under_way(|map| map.may_abort()) {
            if self.commit(schedule, &TopologyChange::AbortMove { placement: PLACEMENT, partition, from }) {
                self.moves_aborted += 1;
            }
        }
    }

    /// A node reports that it has fenced a partition's map, or that it holds all it must by that map.
    pub(super) fn on_report(&mut self, schedule: &Schedule, report: &Report) {
        let (epoch, evidence) =
            self.reports.entry(report.partition).or_insert_with(|| (report.map, Evidence::default()));
        if *epoch > report.map {
            // It was under way while the move went on: it says nothing of the present step.
            return;
        }
        if *epoch < report.map {
            (*epoch, *evidence) = (report.map, Evidence::default());
        }
        match report.what {
            Reported::Fenced => evidence.fenced.insert(report.node),
            Reported::CaughtUp => evidence.caught_up.insert(report.node),
        };
        let (partition, from, evidence) = (report.partition, report.map, evidence.clone());
        let advance = TopologyChange::AdvanceMove { placement: PLACEMENT, partition, from, evidence };
        if self.commit(schedule, &advance) && self.under_way(|_| true).iter().all(|(p, _)| *p != partition) {
            self.moves_done += 1;
        }
    }

    /// Moves under way.
    pub(super) fn moves_under_way(&self) -> usize {
        self.under_way(|_| true).len()
    }

    fn under_way(&self, which: impl Fn(&PartitionMap) -> bool) -> Vec<(PartitionId, Epoch)> {
        let placement = self.state.topology.placement(PLACEMENT);
        let maps = placement.into_iter().flat_map(|placement| placement.partitions());
        let moving = maps.filter(|(_, map)| !matches!(map.step(), Step::Stable { .. }) && which(map));
        moving.map(|(partition, map)| (partition, map.epoch())).collect()
    }

    /// Makes the next state, and has every node learn it some time.
    fn commit(&mut self, schedule: &Schedule, change: &TopologyChange) -> bool {
        let Ok(topology) = self.state.topology.after(change) else { return false };
        self.state.topology = topology;
        for node in self.state.topology.members().keys() {
            let lag_ms =
                if self.may_lag && schedule.chance(20) { schedule.pick(50, 1_500) } else { schedule.pick(1, 50) };
            schedule.after_ms(lag_ms, Event::Learn { node: *node, state: Arc::new(self.state.clone()) });
        }
        true
    }
}

/// The name of a member.
pub(super) fn member_name(id: NodeId) -> String {
    format!("node-{}", id.0)
}

/// So many replicas, most of them in the first of the data centers.
fn strategy(data_centers: u16, replicas: u8) -> Strategy {
    if data_centers == 1 {
        return Strategy::Simple { replicas };
    }
    let factors = [(0, replicas.div_ceil(2)), (1, replicas / 2)];
    Strategy::Network(factors.into_iter().filter(|(_, f)| *f > 0).map(|(dc, f)| (data_center(dc), f)).collect())
}

fn data_center(number: u16) -> DataCenter {
    format!("dc{}", number + 1).as_str().into()
}

fn member(id: NodeId, in_data_center: u16) -> Member {
    Member {
        id,
        name: member_name(id),
        data_center: data_center(in_data_center),
        rack: "r1".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    }
}

/// What a node tells the authority of a move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) node: NodeId,
    pub(super) partition: PartitionId,
    pub(super) map: Epoch,
    pub(super) what: Reported,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    Fenced,
    CaughtUp,
}

/// A node learns a state: it adopts it, reports the fences, and begins to copy what it must.
pub(super) fn learn(
    node: &mut SimNode,
    schedule: &Schedule,
    mutant: Option<Mutant>,
    state: &ClusterState,
) -> Result<(), StoreError> {
    if state.topology.epoch() > node.known.topology.epoch() {
        let Some(process) = &node.process else { return Ok(()) };
        let adopted = adopt(&process.store, node.id, state)?;
        let cleared = adopted.cleared.into_iter().map(|(_, partition)| (partition, schedule.now_us()));
        node.cleared_us.extend(cleared);
        node.known = state.clone();
        process.catalog.advance(state.clone());
        process.coordinator.on_state();
    }
    report_and_copy(node, schedule, mutant);
    Ok(())
}

/// Reports the fences of moves under way, and copies for those that wait for a copy, each once in a process's life.
pub(super) fn report_and_copy(node: &SimNode, schedule: &Schedule, mutant: Option<Mutant>) {
    let Some(process) = &node.process else { return };
    let Some(placement) = node.known.topology.placement(PLACEMENT) else { return };
    for (partition, map) in placement.partitions() {
        let report = |what| Report { node: node.id, partition, map: map.epoch(), what };
        let report_after = |what| {
            schedule.after_ms(schedule.pick(1, 100), Event::Report(report(what)));
        };
        match map.step() {
            Step::Stable { .. } => {}
            Step::ReadNew { .. } => report_after(Reported::Fenced),
            Step::WriteBoth { old, new } => {
                report_after(Reported::Fenced);
                if !new.contains(node.id) || !process.copies.lock().insert((partition, map.epoch())) {
                    continue;
                }
                if mutant == Some(Mutant::CopySkipped) {
                    let marked = process.store.set_sync(PLACEMENT, partition, SyncState::Synced);
                    if marked.is_ok() {
                        report_after(Reported::CaughtUp);
                    }
                    continue;
                }
                let mut sources = Tracker::new(Level::EachQuorum, &ReplicaSets::one(Arc::clone(old)), "dc1".into());
                let (held, marks) = process.store.partition_marks(PLACEMENT, partition);
                match held.sync {
                    SyncState::Synced => sources.ack(node.id),
                    SyncState::Unsynced(_) => sources.fail(node.id),
                }
                copy(node, schedule, report(Reported::CaughtUp), sources, marks);
            }
        }
    }
}

fn copy(node: &SimNode, schedule: &Schedule, report: Report, sources: Tracker, marks: MarkGeneration) {
    let (Some(parts), Some(process)) = (node.backfill_parts(), &node.process) else { return };
    let store = Arc::clone(&parts.store);
    let (schedule, life, copy) = (schedule.clone(), process.life, (report.partition, report.map));
    let done = Box::new(move |complete: bool| {
        let marked = complete && store.mark_synced_if(PLACEMENT, report.partition, report.map, marks) == Ok(true);
        let event = if marked { Event::Report(report) } else { Event::CopyAgain { node: report.node, life, copy } };
        schedule.after_ms(schedule.pick(1, 200), event);
    });
    if sources.state() == Count::Met {
        return done(true);
    }
    Backfill::start(parts, (report.partition, report.map), vec![TABLE_ID], sources, done);
}

/// The replicas that a row is written to by the newest state.
pub(super) fn written_to(state: &ClusterState, partition: PartitionId) -> BTreeSet<NodeId> {
    let map = state.topology.placement(PLACEMENT).and_then(|placement| placement.partition(partition));
    map.map(|map| map.write_sets().nodes().collect()).unwrap_or_default()
}
