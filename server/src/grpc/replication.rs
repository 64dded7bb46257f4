//! Anti-entropy and scrub over gRPC: the views of the admin interface in the words of the wire.

use std::collections::BTreeMap;

use cube_proto::v1;
use tonic::Status;

use crate::admin::{PartitionSyncView, PeerSyncView, ReplicationView, ScrubView, SyncTime, TableSyncView};
use crate::edge::{DEFAULT_KEYSPACE, Edge, EdgeError};

/// How replicas stand, with the partitions of a table where one is named.
pub(super) fn status(edge: &Edge, request: v1::ReplicationRequest) -> Result<v1::ReplicationReply, Status> {
    let v1::ReplicationRequest { keyspace, table } = request;
    if keyspace.is_some() && table.is_none() {
        return Err(EdgeError::invalid("keyspace says where table is: name a table as well").into());
    }
    let keyspace = keyspace.as_deref().unwrap_or(DEFAULT_KEYSPACE);
    let table = table.as_deref().map(|table| (keyspace, table));
    let view = edge.admin().replication(table).map_err(EdgeError::from)?;
    let ReplicationView { cluster, purge, .. } = view;
    Ok(v1::ReplicationReply {
        enabled: view.enabled,
        warnings: view.warnings,
        cluster_in_sync_ms: cluster.in_sync.in_sync_as_of_ms,
        nodes_in_sync_ms: times(cluster.nodes),
        in_sync_ms: view.in_sync.in_sync_as_of_ms,
        now_ms: view.now_ms,
        tables: view.tables.into_iter().map(table_sync).collect(),
        partitions: view.partitions.into_iter().flatten().map(partition_sync).collect(),
        dirty_ranges: view.dirty_ranges.into_iter().collect(),
        peers: view.peers.into_iter().map(|(name, peer)| (name, peer_sync(peer))).collect(),
        purge_rounds: purge.rounds,
        purged_rows: purge.rows,
        purge_blocked_by: blocking(purge.blocked_by),
    })
}

fn times<M: FromIterator<(String, u64)>>(of: BTreeMap<String, SyncTime>) -> M {
    of.into_iter().filter_map(|(name, time)| Some((name, time.in_sync_as_of_ms?))).collect()
}

fn blocking<M: FromIterator<(String, u64)>>(partitions: BTreeMap<String, usize>) -> M {
    partitions.into_iter().map(|(name, partitions)| (name, count(partitions).into())).collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn table_sync(view: TableSyncView) -> v1::TableSync {
    v1::TableSync {
        keyspace: view.keyspace,
        table: view.table,
        in_sync_ms: view.in_sync.in_sync_as_of_ms,
        partitions: count(view.partitions),
        not_in_sync_here: count(view.not_in_sync_here),
        not_compared_yet: count(view.not_compared_yet),
        purge_floor_ms: view.purge_floor_ms,
        purge_blocked_by: blocking(view.purge_blocked_by),
    }
}

fn partition_sync(view: PartitionSyncView) -> v1::PartitionSync {
    v1::PartitionSync {
        partition: view.partition.into(),
        replicas: view.replicas,
        in_sync_ms: times(view.with),
        not_in_sync_here: view.not_in_sync_here,
        purge_floor_ms: view.purge_floor_ms,
        purge_blocked_by: view.purge_blocked_by,
    }
}

fn peer_sync(view: PeerSyncView) -> v1::PeerSync {
    v1::PeerSync {
        last_compared_age_ms: view.last_compared_age_ms,
        comparisons: view.comparisons,
        refused: view.refused,
        failures: view.failures,
        last_error: view.last_error,
        rows_sent: view.exchanged.rows_sent,
        rows_fetched: view.exchanged.rows_fetched,
        row_bytes: view.exchanged.row_bytes,
    }
}

/// How far the scrub has come.
pub(super) fn scrub(view: ScrubView) -> v1::ScrubReply {
    v1::ScrubReply {
        state: view.state.to_owned(),
        cycle_ms: view.cycle_ms,
        done_permille: view.done_permille.into(),
        rows: view.rows,
        damaged: view.damaged,
        cycles: view.cycles,
        last_cycle_age_ms: view.last_cycle_age_ms,
        last_cycle_damaged: view.last_cycle_damaged,
    }
}
