//! Repairs on demand: compare the replicas of tables now, and mend what differs.

use std::collections::BTreeMap;

use cube_proto::v1;

use super::{Admin, Told};
use crate::error::Error;
use crate::retry::Kind;

/// What is to be repaired. Whatever is not named is repaired as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RepairScope {
    /// One keyspace, or all.
    pub keyspace: Option<String>,
    /// The tables of this name, or all.
    pub table: Option<String>,
    /// Whether differences are only counted.
    pub dry_run: bool,
}

/// A repair, as it stood when it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// Its id.
    pub id: String,
    /// PLANNED, RUNNING, COMPLETED, PARTIAL, CANCELLED or FAILED.
    pub state: String,
    /// Whether differences are only counted.
    pub dry_run: bool,
    /// What is repaired, as `keyspace.table`.
    pub tables: Vec<String>,
    /// The name of the node that runs it.
    pub node: String,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it began.
    pub started_at_ms: Option<u64>,
    /// When it last got on.
    pub last_progress_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// How much longer it takes at its speed.
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
    pub pairs: Vec<RepairPair>,
    /// What was not compared, and why.
    pub not_compared: Vec<NotCompared>,
    /// Comparisons that were not made and are not listed: in a list of repairs, all of them.
    pub not_compared_more: u64,
    /// Why it could not go on.
    pub error: Option<String>,
}

/// What was found between two nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairPair {
    /// The two.
    pub nodes: Vec<String>,
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotCompared {
    /// The node that is to blame.
    pub node: String,
    /// With whom it was to be compared.
    pub with: String,
    /// The table, as `keyspace.table`.
    pub table: String,
    /// The partitions.
    pub partitions: Vec<u32>,
    /// Why.
    pub reason: String,
}

/// The repairs that are known, newest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repairs {
    /// The repairs.
    pub repairs: Vec<Repair>,
    /// Nodes that did not tell of theirs.
    pub not_asked: Vec<String>,
}

impl Repair {
    /// Whether it is over, whatever came of it.
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "PLANNED" | "RUNNING")
    }

    fn of(repair: v1::Repair) -> Self {
        Self {
            id: repair.id,
            state: repair.state,
            dry_run: repair.dry_run,
            tables: repair.tables,
            node: repair.node,
            created_at_ms: repair.created_at_ms,
            started_at_ms: repair.started_at_ms,
            last_progress_at_ms: repair.last_progress_at_ms,
            ended_at_ms: repair.ended_at_ms,
            eta_ms: repair.eta_ms,
            resumed: repair.resumed,
            total: repair.total,
            done: repair.done,
            differing: repair.differing,
            leaves: repair.leaves,
            rows: repair.rows,
            bytes: repair.bytes,
            pairs: repair.pairs.into_iter().map(RepairPair::of).collect(),
            not_compared: repair.not_compared.into_iter().map(NotCompared::of).collect(),
            not_compared_more: repair.not_compared_more,
            error: repair.error,
        }
    }
}

impl RepairPair {
    fn of(pair: v1::RepairPair) -> Self {
        Self {
            nodes: pair.nodes,
            partitions: pair.partitions,
            differing: pair.differing,
            leaves: pair.leaves,
            rows_to: pair.rows_to.into_iter().collect(),
            bytes: pair.bytes,
        }
    }
}

impl NotCompared {
    fn of(left: v1::RepairNotCompared) -> Self {
        Self { node: left.node, with: left.with, table: left.table, partitions: left.partitions, reason: left.reason }
    }
}

impl Admin {
    /// Has replicas compared, and mended unless it is a dry run, and tells what that is called. The node that answers
    /// runs it.
    pub async fn start_repair(&self, scope: RepairScope) -> Result<Told<Repair>, Error> {
        let RepairScope { keyspace, table, dry_run } = scope;
        let request = v1::StartRepairRequest { keyspace, table, dry_run };
        let name = request.table.clone().or_else(|| request.keyspace.clone()).unwrap_or_else(|| "of all".to_owned());
        let told = self.ask("REPAIR", &name, Kind::Write, |mut admin| {
            let request = request.clone();
            async move { admin.start_repair(request).await }
        });
        Ok(told.await?.map(Repair::of))
    }

    /// All repairs that are known, without what each did not compare.
    pub async fn repairs(&self) -> Result<Told<Repairs>, Error> {
        let told = self.ask("REPAIRS", "of the cluster", Kind::Read, |mut admin| async move {
            admin.list_repairs(v1::ListRepairsRequest {}).await
        });
        Ok(told.await?.map(|reply| Repairs {
            repairs: reply.repairs.into_iter().map(Repair::of).collect(),
            not_asked: reply.not_asked,
        }))
    }

    /// A repair.
    pub async fn repair(&self, id: &str) -> Result<Told<Repair>, Error> {
        let told = self.ask("REPAIR", id, Kind::Read, |mut admin| {
            let id = id.to_owned();
            async move { admin.get_repair(v1::GetRepairRequest { id }).await }
        });
        Ok(told.await?.map(Repair::of))
    }

    /// Ends a repair; one that is over stays as it is. How it is now.
    pub async fn cancel_repair(&self, id: &str) -> Result<Told<Repair>, Error> {
        let told = self.ask("CANCEL REPAIR", id, Kind::Write, |mut admin| {
            let id = id.to_owned();
            async move { admin.cancel_repair(v1::CancelRepairRequest { id }).await }
        });
        Ok(told.await?.map(Repair::of))
    }
}
