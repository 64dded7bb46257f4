//! Repairs on demand as messages.

use cube_proto::v1;
use cube_replication::repair::Asked;

use crate::admin::{NotComparedView, RepairPairView, RepairView, RepairsView};

pub(super) fn asked(request: v1::StartRepairRequest) -> Asked {
    let v1::StartRepairRequest { keyspace, table, dry_run } = request;
    Asked { keyspace, table, dry_run }
}

pub(super) fn repairs(view: RepairsView) -> v1::RepairsReply {
    v1::RepairsReply { repairs: view.repairs.into_iter().map(repair).collect(), not_asked: view.not_asked }
}

pub(super) fn repair(view: RepairView) -> v1::Repair {
    v1::Repair {
        id: view.repair_id,
        state: view.state.to_owned(),
        dry_run: view.dry_run,
        keyspace: view.keyspace,
        table: view.table,
        tables: view.tables,
        node: view.node,
        created_at_ms: view.created_at_ms,
        started_at_ms: view.started_at_ms,
        last_progress_at_ms: view.last_progress_at_ms,
        ended_at_ms: view.ended_at_ms,
        eta_ms: view.eta_ms,
        resumed: view.resumed,
        total: view.total,
        done: view.done,
        differing: view.differing,
        leaves: view.leaves,
        rows: view.rows,
        bytes: view.bytes,
        pairs: view.pairs.into_iter().map(pair).collect(),
        not_compared: view.not_compared.into_iter().map(not_compared).collect(),
        not_compared_more: view.not_compared_more,
        error: view.error,
    }
}

fn pair(view: RepairPairView) -> v1::RepairPair {
    v1::RepairPair {
        nodes: view.nodes.to_vec(),
        partitions: view.partitions,
        differing: view.differing,
        leaves: view.leaves,
        rows_to: view.rows_to.into_iter().collect(),
        bytes: view.bytes,
    }
}

fn not_compared(view: NotComparedView) -> v1::RepairNotCompared {
    v1::RepairNotCompared {
        node: view.node,
        with: view.with,
        table: view.table,
        partitions: view.partitions.into_iter().map(u32::from).collect(),
        reason: view.reason,
    }
}
