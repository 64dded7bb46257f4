//! What operators see of repairs on demand. The same document over REST and, field by field, over gRPC.

use std::collections::BTreeMap;

use cube_replication::catalog::ClusterState;
use cube_replication::repair::{Job, PairResult};
use cube_storage::model::{NodeId, TableId};
use serde::Serialize;

/// A repair.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairView {
    /// Its id.
    pub repair_id: String,
    /// PLANNED, RUNNING, COMPLETED, PARTIAL, CANCELLED or FAILED.
    pub state: &'static str,
    /// Whether differences are only counted.
    pub dry_run: bool,
    /// The keyspace that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyspace: Option<String>,
    /// The table that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What is repaired, as `keyspace.table`.
    pub tables: Vec<String>,
    /// The node that runs it.
    pub node: String,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When it last got on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_progress_at_ms: Option<u64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// How much longer it takes at its speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// How often it was taken up again after a restart of its node.
    pub resumed: u32,
    /// Comparisons to be made: partitions of tables, for each pair of their replicas.
    pub total: u64,
    /// Of these the ones that are done with.
    pub done: u64,
    /// Of these the ones that found something.
    pub differing: u64,
    /// Merkle leaves that differed.
    pub leaves: u64,
    /// Rows that were exchanged or, in a dry run, would be.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same for each pair of replicas.
    pub pairs: Vec<RepairPairView>,
    /// What was not compared, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_compared: Vec<NotComparedView>,
    /// Comparisons that were not made and are not listed: in a list of repairs, all of them.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_compared_more: u64,
    /// Why it could not go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What was found between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairPairView {
    /// The two.
    pub nodes: [String; 2],
    /// Partitions of tables that were compared.
    pub partitions: u64,
    /// Of these the ones that differed.
    pub differing: u64,
    /// Leaves that differed.
    pub leaves: u64,
    /// Rows that each of the two lacked, or held older.
    pub rows_to: BTreeMap<String, u64>,
    /// Bytes of these rows.
    pub bytes: u64,
}

/// Partitions of a table that were not compared.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotComparedView {
    /// The node that is to blame.
    pub node: String,
    /// With whom it was to be compared.
    pub with: String,
    /// The table, as `keyspace.table`.
    pub table: String,
    /// The partitions.
    pub partitions: Vec<u16>,
    /// Why.
    pub reason: String,
}

/// The repairs that are known, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairsView {
    /// The repairs.
    pub repairs: Vec<RepairView>,
    /// Nodes that did not tell of theirs.
    pub not_asked: Vec<String>,
}

impl RepairView {
    /// A job as it stands at a time.
    pub fn of(job: &Job, state: &ClusterState, now_ms: u64) -> Self {
        let sum = job.sum();
        let table_name = |id: TableId| {
            let table = job.tables.iter().find(|table| table.id == id);
            table.map_or_else(|| id.to_string(), |table| format!("{}.{}", table.keyspace, table.name))
        };
        let not_compared = job.not_compared.iter().map(|left| NotComparedView {
            node: name_of(state, left.node),
            with: name_of(state, left.other),
            table: table_name(left.table),
            partitions: left.partitions.iter().map(|partition| partition.0).collect(),
            reason: left.why.to_string(),
        });
        Self {
            repair_id: job.id.to_string(),
            state: job.state.as_str(),
            dry_run: job.asked.dry_run,
            keyspace: job.asked.keyspace.clone(),
            table: job.asked.table.clone(),
            tables: job.tables.iter().map(|table| format!("{}.{}", table.keyspace, table.name)).collect(),
            node: name_of(state, job.id.node()),
            created_at_ms: job.created_ms,
            started_at_ms: job.started_ms,
            last_progress_at_ms: job.progress_ms,
            ended_at_ms: job.ended_ms,
            eta_ms: job.eta_ms(now_ms),
            resumed: job.resumed,
            total: job.total,
            done: job.done,
            differing: sum.differing,
            leaves: sum.leaves + job.under_way.leaves,
            rows: sum.rows_to_first + sum.rows_to_second + job.under_way.sent + job.under_way.fetched,
            bytes: sum.bytes + job.under_way.bytes,
            pairs: job.pairs.iter().map(|(nodes, pair)| RepairPairView::of(*nodes, pair, state)).collect(),
            not_compared: not_compared.collect(),
            not_compared_more: job.not_compared_more,
            error: job.error.clone(),
        }
    }
}

impl RepairPairView {
    fn of((first, second): (NodeId, NodeId), pair: &PairResult, state: &ClusterState) -> Self {
        let (first, second) = (name_of(state, first), name_of(state, second));
        Self {
            partitions: pair.partitions,
            differing: pair.differing,
            leaves: pair.leaves,
            rows_to: [(first.clone(), pair.rows_to_first), (second.clone(), pair.rows_to_second)].into(),
            bytes: pair.bytes,
            nodes: [first, second],
        }
    }
}

/// A node's name, or its number where the cluster has forgotten it.
pub(crate) fn name_of(state: &ClusterState, node: NodeId) -> String {
    state.topology.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
}
