//! The control plane in the simulator: the newest state of the cluster, which nodes learn late, out of order or not at
//! all until the next one, and the driver of moves, which knows what nodes reported unless it was lost. In a cluster this
//! is Raft's; what changes a state and what drives a move is the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, PartitionBits, PartitionId, PlacementId, RowKey, TableId};

use super::event::Event;
use super::node::BITS;
use super::repair::GRACE_MS;
use super::time::Schedule;
use crate::catalog::{ClusterState, Keyspace, Schema, Table, TableSettings};
use crate::topology::plan::plan;
use crate::topology::{
    Addresses, Assignment, DataCenter, Member, MemberState, MoveDriver, MoveReport, Refused, Step, Strategy, Topology,
    TopologyChange,
};

pub(super) const KEYSPACE: &str = "sim";
pub(super) const TABLE: &str = "rows";
pub(super) const TABLE_ID: TableId = TableId(1);
pub(super) const PLACEMENT: PlacementId = PlacementId(0);
/// A keyspace and a table in it that come and go, under the same names.
pub(super) const GUEST_KEYSPACE: &str = "guests";
pub(super) const GUEST_TABLE: &str = "visits";
const FIRST_GUEST: TableId = TableId(2);

/// A state is not heard of by a node so often, until there is another one.
const UNHEARD_PERCENT: u64 = 3;
/// How often it takes long.
const LATE_PERCENT: u64 = 20;
/// Between two looks of the driver when nobody reports.
const DRIVE_EVERY_MS: u64 = 500;

/// The authority on the cluster's state, and what it knows of the moves under way.
pub(super) struct Control {
    pub(super) state: ClusterState,
    data_centers: u16,
    pub(super) driver: MoveDriver,
    /// When the driver looks next.
    drive_us: Option<u64>,
    /// Nodes learn late now and then, or not at all.
    may_lag: bool,
    moves: Moves,
    committed: u64,
    next_table: TableId,
    /// Replicas are placed on nodes that have not arrived: a mistake to be caught.
    places_too_early: bool,
    /// Members that were given up.
    removed: BTreeSet<NodeId>,
}

/// A state as nodes hear of it.
pub(super) struct News {
    /// A later one has a greater number.
    pub(super) number: u64,
    pub(super) state: Arc<ClusterState>,
    /// Ids of tables below this one were given out.
    pub(super) next_table: TableId,
}

/// Moves begun, completed and taken back.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) begun: u64,
    pub(super) done: u64,
    pub(super) aborted: u64,
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
        let tables = BTreeMap::from([(TABLE.to_owned(), table(TABLE_ID))]);
        let keyspace = |tables| Keyspace { placement: PLACEMENT, sync: SyncPolicy::Sync, tables };
        let guests = BTreeMap::from([(GUEST_TABLE.to_owned(), table(FIRST_GUEST))]);
        let keyspaces = [(KEYSPACE, keyspace(tables)), (GUEST_KEYSPACE, keyspace(guests))];
        let keyspaces = keyspaces.map(|(name, keyspace)| (name.to_owned(), keyspace));
        let schema = Schema { keyspaces: BTreeMap::from(keyspaces) };
        Ok(Self {
            state: ClusterState { topology, schema },
            data_centers,
            driver: MoveDriver::default(),
            drive_us: None,
            may_lag: true,
            moves: Moves::default(),
            committed: 0,
            next_table: TableId(FIRST_GUEST.0 + 1),
            places_too_early: false,
            removed: BTreeSet::new(),
        })
    }

    /// Moves begun, completed and taken back.
    pub(super) fn moves(&self) -> Moves {
        self.moves
    }

    /// The newest state.
    pub(super) fn news(&self) -> Arc<News> {
        let state = Arc::new(self.state.clone());
        Arc::new(News { number: self.committed, state, next_table: self.next_table })
    }

    /// From now on it makes a mistake.
    pub(super) fn place_too_early(&mut self) {
        self.places_too_early = true;
    }

    /// Makes the guest table where there is none, and drops it where there is one: itself, or its keyspace.
    pub(super) fn change_schema(&mut self, schedule: &Schedule) {
        let keyspaces = &mut self.state.schema.keyspaces;
        match keyspaces.get_mut(GUEST_KEYSPACE) {
            Some(keyspace) if !keyspace.tables.is_empty() && schedule.chance(50) => keyspace.tables.clear(),
            Some(keyspace) if !keyspace.tables.is_empty() => drop(keyspaces.remove(GUEST_KEYSPACE)),
            _ => {
                let made = Keyspace { placement: PLACEMENT, sync: SyncPolicy::Sync, tables: BTreeMap::new() };
                let keyspace = keyspaces.entry(GUEST_KEYSPACE.to_owned()).or_insert(made);
                keyspace.tables.insert(GUEST_TABLE.to_owned(), table(self.next_table));
                self.next_table = TableId(self.next_table.0 + 1);
            }
        }
        self.tell(schedule);
    }

    /// Every table that was ever made and is not there any more.
    pub(super) fn dropped_tables(&self) -> impl Iterator<Item = TableId> {
        let present: BTreeSet<TableId> = self.state.schema.table_options().map(|(table, _)| table).collect();
        (TABLE_ID.0..self.next_table.0).map(TableId).filter(move |table| !present.contains(table))
    }

    /// Whether a member was given up: what it kept is lost.
    pub(super) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// Whether any was.
    pub(super) fn has_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    /// From now on nodes learn quickly.
    pub(super) fn hurry(&mut self) {
        self.may_lag = false;
    }

    /// Asks for another number of replicas, or another shape of the cluster by a member's weight. Whether that takes moves.
    pub(super) fn reshape(&mut self, schedule: &Schedule, replicas: u8, heavier: NodeId, weight: u32) -> bool {
        let strategy = strategy(self.data_centers, replicas);
        self.commit(schedule, &TopologyChange::SetStrategy { placement: PLACEMENT, strategy });
        self.commit(schedule, &TopologyChange::SetWeight { node: heavier, weight });
        self.drive_soon(schedule);
        let goal = self.state.topology.placement(PLACEMENT).map(|placement| placement.goal());
        self.state.topology.planned(PLACEMENT) != goal
    }

    /// A new node joins. Its id. Nothing is placed on it before it has arrived.
    pub(super) fn join(&mut self, schedule: &Schedule) -> Option<NodeId> {
        let id = self.state.topology.next_node()?;
        let joining = Member { state: MemberState::Joining, ..member(id, id.0 % self.data_centers) };
        self.commit(schedule, &TopologyChange::Join(joining));
        Some(id)
    }

    /// Whether a node has joined and not arrived.
    pub(super) fn is_joining(&self, node: NodeId) -> bool {
        self.state.topology.member(node).is_some_and(|member| member.state == MemberState::Joining)
    }

    /// A node that runs says that it is reached; the moves to it follow.
    pub(super) fn arrive(&mut self, schedule: &Schedule, node: NodeId) {
        if self.is_joining(node) {
            self.commit(schedule, &TopologyChange::SetState { node, state: MemberState::Warming });
            self.drive_soon(schedule);
        }
    }

    /// Takes back the moves that still can be. The driver begins those anew that are still wanted. Whether there was one.
    pub(super) fn abort_moves(&mut self, schedule: &Schedule) -> bool {
        let moving = self.state.topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
        let moving = moving.filter(|(_, map)| map.may_abort()).map(|(partition, map)| (partition, map.epoch()));
        let moving: Vec<_> = moving.collect();
        for &(partition, from) in &moving {
            self.commit(schedule, &TopologyChange::AbortMove { placement: PLACEMENT, partition, from });
        }
        self.drive_soon(schedule);
        !moving.is_empty()
    }

    /// Another node leads: what was reported is forgotten.
    pub(super) fn change_leader(&mut self, schedule: &Schedule) -> bool {
        self.driver = MoveDriver::default();
        self.drive_soon(schedule);
        self.moves_under_way() > 0
    }

    /// Nodes report what they have done for a move.
    pub(super) fn on_reports(&mut self, schedule: &Schedule, reports: &[MoveReport]) {
        reports.iter().for_each(|report| self.driver.report(&self.state.topology, report));
        self.drive_soon(schedule);
    }

    /// The driver looks what is to be done.
    pub(super) fn drive(&mut self, schedule: &Schedule) {
        if self.drive_us != Some(schedule.now_us()) {
            return;
        }
        self.drive_us = None;
        let arrived = self.places_too_early.then(|| all_arrived(&self.state.topology));
        let changes = self.driver.changes(arrived.as_ref().unwrap_or(&self.state.topology));
        changes.iter().for_each(|change| self.commit(schedule, change));
        self.drive_within(schedule, DRIVE_EVERY_MS);
    }

    pub(super) fn drive_soon(&mut self, schedule: &Schedule) {
        self.drive_within(schedule, 20);
    }

    fn drive_within(&mut self, schedule: &Schedule, most_ms: u64) {
        let at_us = schedule.now_us() + 1_000 * schedule.pick(1, most_ms);
        if self.drive_us.is_none_or(|drive_us| drive_us > at_us) {
            self.drive_us = Some(at_us);
            schedule.after_us(at_us - schedule.now_us(), Event::Drive);
        }
    }

    /// Moves under way.
    pub(super) fn moves_under_way(&self) -> usize {
        let maps = self.state.topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions());
        maps.filter(|(_, map)| !matches!(map.step(), Step::Stable { .. })).count()
    }

    /// Whether replicas are where they are to be: between two moves there may be none under way.
    pub(super) fn is_at_goal(&self) -> bool {
        let goal = self.state.topology.placement(PLACEMENT).map(|placement| placement.goal());
        self.moves_under_way() == 0 && self.state.topology.planned(PLACEMENT) == goal
    }

    /// Makes the next state, and has nodes learn it some time.
    pub(super) fn commit(&mut self, schedule: &Schedule, change: &TopologyChange) {
        let before = self.moves_under_way();
        let Ok(topology) = self.state.topology.after(change) else { return };
        self.state.topology = topology;
        match change {
            TopologyChange::BeginMove { .. } if self.moves_under_way() > before => self.moves.begun += 1,
            TopologyChange::SetState { node, state: MemberState::Removing } => drop(self.removed.insert(*node)),
            TopologyChange::AbortMove { .. } => self.moves.aborted += 1,
            TopologyChange::AdvanceMove { .. } if self.moves_under_way() < before => self.moves.done += 1,
            _ => {}
        }
        self.tell(schedule);
    }

    /// Has every node learn the present state some time, most of them.
    fn tell(&mut self, schedule: &Schedule) {
        self.committed += 1;
        let news = self.news();
        for node in self.state.topology.members().keys() {
            if self.may_lag && schedule.chance(UNHEARD_PERCENT) {
                continue;
            }
            let is_late = self.may_lag && schedule.chance(LATE_PERCENT);
            let lag_ms = if is_late { schedule.pick(50, 1_500) } else { schedule.pick(1, 50) };
            schedule.after_ms(lag_ms, Event::Learn { node: *node, news: Arc::clone(&news) });
        }
    }
}

fn table(id: TableId) -> Table {
    Table { id, prefix_index: true, settings: TableSettings { grace_ms: GRACE_MS, ..TableSettings::default() } }
}

/// The topology as if everybody who joins had arrived.
fn all_arrived(topology: &Topology) -> Topology {
    let joining = topology.members().values().filter(|member| member.state == MemberState::Joining);
    let arrivals = joining.map(|member| TopologyChange::SetState { node: member.id, state: MemberState::Warming });
    let arrivals: Vec<_> = arrivals.collect();
    arrivals.iter().fold(topology.clone(), |topology, arrival| topology.after(arrival).unwrap_or(topology))
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

/// The partition of a row.
pub(super) fn partition_of(key: &RowKey) -> PartitionId {
    PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT).partition_of(key.token())
}

/// The replicas that a row is written to by a state.
pub(super) fn written_to(state: &ClusterState, partition: PartitionId) -> BTreeSet<NodeId> {
    let map = state.topology.placement(PLACEMENT).and_then(|placement| placement.partition(partition));
    map.map(|map| map.write_sets().nodes().collect()).unwrap_or_default()
}
