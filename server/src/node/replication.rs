//! What operators are shown of anti-entropy and scrub: the board, the statuses and gossip, put together.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::anti_entropy::questions::Tree;
use cube_replication::anti_entropy::{PeerStatus, Status};
use cube_replication::catalog::{ClusterState, Keyspace};
use cube_replication::membership::Membership as _;
use cube_storage::model::{NodeId, PartitionId, TableId};
use cube_storage::{SyncState, UnsyncedCause};

use super::member::Member;
use crate::admin::{
    AdminError, ClusterSyncView, PartitionSyncView, PeerSyncView, PurgeView, ReplicationView, ScrubView, SyncTime,
    TableSyncView,
};

/// The time of each pair of this node's trees and another replica.
type Pairs = BTreeMap<Tree, BTreeMap<NodeId, u64>>;

/// What the views are made of, looked at once.
struct Look<'a> {
    member: &'a Member,
    state: ClusterState,
    status: Status,
    pairs: Pairs,
    now_ms: u64,
    wall_ms: u64,
}

impl Member {
    pub(super) fn replication_view(&self, table: Option<(&str, &str)>) -> Result<ReplicationView, AdminError> {
        let mut pairs = Pairs::new();
        for (tree, node, time) in self.anti_entropy.in_sync_pairs() {
            pairs.entry(tree).or_default().insert(node, time.millis());
        }
        let look = Look {
            member: self,
            state: ClusterState::clone(&self.catalog.current()),
            status: self.anti_entropy.status(),
            pairs,
            now_ms: self.clock.monotonic_ms(),
            wall_ms: self.clock.peek().millis(),
        };
        let partitions = table.map(|(keyspace, table)| look.partitions(keyspace, table)).transpose()?;
        Ok(ReplicationView { partitions, ..look.all() })
    }

    pub(super) fn scrub_view(&self) -> ScrubView {
        let (status, settings) = (self.scrub.status(), self.scrub.settings());
        let now_ms = self.clock.monotonic_ms();
        ScrubView {
            enabled: settings.enabled,
            state: match (status.hurries, settings.enabled) {
                (true, _) => "ON_DEMAND",
                (false, true) => "RUNNING",
                (false, false) => "OFF",
            },
            cycle_ms: settings.cycle_ms,
            done_permille: status.done_permille,
            rows: status.rows,
            damaged: status.damaged,
            cycles: status.cycles,
            last_cycle_age_ms: status.cycle_ended_ms.map(|ended_ms| now_ms.saturating_sub(ended_ms)),
            last_cycle_damaged: status.cycle_ended_ms.map(|_| status.last_cycle_damaged),
        }
    }
}

impl Look<'_> {
    fn all(&self) -> ReplicationView {
        let (member, status) = (self.member, &self.status);
        let by_node = member.in_sync_by_node();
        let oldest = |times: &mut dyn Iterator<Item = u64>| SyncTime::of(times.min(), self.wall_ms);
        let nodes = by_node.iter().map(|(node, ms)| (self.name(*node), SyncTime::of(Some(*ms), self.wall_ms)));
        let marks = member.handoff.marks().totals().into_iter();
        let watermark = cube_replication::watermark::watermark(member.coordinator.writes_under_way(), &member.handoff);
        ReplicationView {
            enabled: status.enabled,
            warnings: self.warnings(),
            now_ms: self.wall_ms,
            cluster: ClusterSyncView { in_sync: oldest(&mut by_node.values().copied()), nodes: nodes.collect() },
            in_sync: SyncTime::of(member.in_sync_ms(), self.wall_ms),
            tables: self.state.schema.keyspaces.iter().flat_map(|(name, space)| self.tables(name, space)).collect(),
            partitions: None,
            dirty_ranges: marks.map(|(name, totals)| (name, totals.marks)).filter(|(_, marks)| *marks > 0).collect(),
            peers: status.peers.iter().map(|(node, peer)| (self.name(*node), self.peer(peer))).collect(),
            comparing: status.comparing.map(|node| self.name(node)),
            passes: status.passes,
            comparisons: status.comparisons,
            failures: status.failed,
            ranges_cleared: status.marks_cleared,
            last_error: status.last_error.clone(),
            purge: PurgeView {
                rounds: status.purge_rounds,
                rows: status.purged_rows,
                blocked_by: self.blocking(|_| true),
                watermark_ms: watermark.map(|watermark| watermark.millis()),
            },
            scrub: member.scrub_view(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.member.anti_entropy_off().into_iter().collect();
        let down: BTreeSet<NodeId> = self.pairs.values().flat_map(|peers| peers.keys().copied()).collect();
        let down = down.into_iter().filter(|node| !self.member.gossip.is_alive(*node));
        let names: Vec<String> = down.map(|node| self.name(node)).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            warnings.push(format!(
                "cannot be compared with while down or out of reach: {names}; in-sync times with them stand still, and \
                 what they hold is not purged anywhere"
            ));
        }
        warnings
    }

    fn tables(&self, keyspace: &str, space: &Keyspace) -> Vec<TableSyncView> {
        let store = &self.member.store;
        let held = self.held(space);
        let tables = space.tables.iter().filter(|_| !held.is_empty());
        let view = |(name, table): (&String, &cube_replication::catalog::Table)| {
            let times = held.iter().filter_map(|at| self.pairs.get(&(table.id, *at))).flat_map(|with| with.values());
            let floors = held.iter().map(|at| store.range_state(table.id, *at).floor.millis());
            let is_unsynced = |at: &&PartitionId| store.partition(space.placement, **at).sync != SyncState::Synced;
            TableSyncView {
                keyspace: keyspace.to_owned(),
                table: name.clone(),
                in_sync: SyncTime::of(times.min().copied(), self.wall_ms),
                partitions: held.len(),
                not_in_sync_here: held.iter().filter(is_unsynced).count(),
                not_compared_yet: held.iter().filter(|at| self.is_new(&(table.id, **at))).count(),
                purge_floor_ms: floors.min().unwrap_or_default(),
                purge_blocked_by: self.blocking(|tree| tree.0 == table.id),
            }
        };
        tables.map(view).collect()
    }

    fn partitions(&self, keyspace: &str, table: &str) -> Result<Vec<PartitionSyncView>, AdminError> {
        let unknown = || AdminError::UnknownKeyspace { keyspace: keyspace.to_owned() };
        let space = self.state.schema.keyspaces.get(keyspace).ok_or_else(unknown)?;
        let unknown = || AdminError::UnknownTable { keyspace: keyspace.to_owned(), table: table.to_owned() };
        let id = space.tables.get(table).ok_or_else(unknown)?.id;
        Ok(self.held(space).into_iter().map(|partition| self.partition(space, id, partition)).collect())
    }

    fn partition(&self, space: &Keyspace, table: TableId, partition: PartitionId) -> PartitionSyncView {
        let placement = self.state.topology.placement(space.placement);
        let map = placement.and_then(|placement| placement.partition(partition));
        let replicas = map.map(|map| map.write_sets().nodes().collect::<Vec<_>>()).unwrap_or_default();
        let with = self.pairs.get(&(table, partition)).into_iter().flatten();
        let blocked = self.status.purge_blocked.get(&(table, partition)).into_iter().flatten();
        PartitionSyncView {
            partition: partition.0,
            replicas: replicas.into_iter().map(|node| self.name(node)).collect(),
            not_in_sync_here: match self.member.store.partition(space.placement, partition).sync {
                SyncState::Synced => None,
                SyncState::Unsynced(cause) => Some(in_words(cause).to_owned()),
            },
            with: with.map(|(node, ms)| (self.name(*node), SyncTime::of(Some(*ms), self.wall_ms))).collect(),
            purge_floor_ms: self.member.store.range_state(table, partition).floor.millis(),
            purge_blocked_by: blocked.map(|node| self.name(*node)).collect(),
        }
    }

    /// The partitions that this node holds of a keyspace.
    fn held(&self, space: &Keyspace) -> Vec<PartitionId> {
        let me = self.member.identity.node;
        let placement = self.state.topology.placement(space.placement);
        let partitions = placement.into_iter().flat_map(|placement| placement.partitions());
        partitions.filter(|(_, map)| map.write_sets().contains(me)).map(|(partition, _)| partition).collect()
    }

    /// Whether a tree was never compared with one of its other replicas: it is new, or nodes have just founded the cluster.
    fn is_new(&self, tree: &Tree) -> bool {
        self.pairs.get(tree).is_some_and(|with| with.values().any(|as_of_ms| *as_of_ms == 0))
    }

    /// How many trees each node keeps from being purged. Of what is new nobody is to blame for that.
    fn blocking(&self, which: impl Fn(&Tree) -> bool) -> BTreeMap<String, usize> {
        let mut trees: BTreeMap<String, usize> = BTreeMap::new();
        for (_, nodes) in self.status.purge_blocked.iter().filter(|(tree, _)| which(tree) && !self.is_new(tree)) {
            nodes.iter().for_each(|node| *trees.entry(self.name(*node)).or_default() += 1);
        }
        trees
    }

    fn peer(&self, peer: &PeerStatus) -> PeerSyncView {
        PeerSyncView {
            last_compared_age_ms: peer.compared_ms.map(|compared_ms| self.now_ms.saturating_sub(compared_ms)),
            comparisons: peer.comparisons,
            refused: peer.refused,
            failures: peer.failed,
            last_error: peer.last_error.clone(),
            exchanged: peer.tally,
        }
    }

    fn name(&self, node: NodeId) -> String {
        self.state.topology.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }
}

fn in_words(cause: UnsyncedCause) -> &'static str {
    match cause {
        UnsyncedCause::New => "it is new here and being copied",
        UnsyncedCause::DamagedData => "some of its data was found damaged; it is copied anew",
        UnsyncedCause::DamagedLog => "the write-ahead log ended before what had been synced; it is copied anew",
        UnsyncedCause::Operator => "the operator asked for it to be copied anew",
    }
}
