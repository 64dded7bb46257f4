//! Up to when replicas are equal, and how far the scrub is: each node tells of what it holds itself.

use std::collections::BTreeMap;

use cube_proto::v1;

use super::{Admin, Told};
use crate::error::Error;
use crate::retry::Kind;

/// How the replicas stand that one node holds. Times are those of versions, in milliseconds since 1970: everything written
/// before one is on all its replicas.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SyncStatus {
    /// Whether the node compares its replicas. If not, nothing is repaired and nothing purged.
    pub enabled: bool,
    /// What an operator must know.
    pub warnings: Vec<String>,
    /// The clock of the node, by which the age of a time is told.
    pub now_ms: u64,
    /// The tables that it holds something of.
    pub tables: Vec<TableSync>,
    /// Ranges that it has marked for others, by name.
    pub dirty_ranges: BTreeMap<String, u64>,
}

/// A table, over all its partitions that the node holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableSync {
    /// Its keyspace.
    pub keyspace: String,
    /// Its name.
    pub table: String,
    /// The oldest time; none where there is no other replica, or nothing is known.
    pub in_sync_ms: Option<u64>,
    /// Its partitions here.
    pub partitions: u32,
    /// Those that are damaged or new here, and being copied.
    pub not_in_sync_here: u32,
    /// Those that were never compared with one of their other replicas.
    pub not_compared_yet: u32,
    /// Deletions up to it are gone; 0 while nothing was purged.
    pub purge_floor_ms: u64,
    /// How many partitions each node keeps from being purged, of those that this node sees to.
    pub purge_blocked_by: BTreeMap<String, u64>,
}

/// How far the scrub of one node is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrub {
    /// RUNNING, ON_DEMAND or OFF.
    pub state: String,
    /// How much of the present cycle is done, in thousandths.
    pub done_permille: u32,
    /// Rows verified since the node started.
    pub rows: u64,
    /// Damaged places found since then.
    pub damaged: u64,
    /// Cycles that ended since then.
    pub cycles: u64,
    /// How long ago the last one ended.
    pub last_cycle_age_ms: Option<u64>,
}

impl SyncStatus {
    fn of(reply: v1::ReplicationReply) -> Self {
        Self {
            enabled: reply.enabled,
            warnings: reply.warnings,
            now_ms: reply.now_ms,
            tables: reply.tables.into_iter().map(TableSync::of).collect(),
            dirty_ranges: reply.dirty_ranges.into_iter().collect(),
        }
    }
}

impl TableSync {
    fn of(table: v1::TableSync) -> Self {
        Self {
            keyspace: table.keyspace,
            table: table.table,
            in_sync_ms: table.in_sync_ms,
            partitions: table.partitions,
            not_in_sync_here: table.not_in_sync_here,
            not_compared_yet: table.not_compared_yet,
            purge_floor_ms: table.purge_floor_ms,
            purge_blocked_by: table.purge_blocked_by.into_iter().collect(),
        }
    }
}

impl Scrub {
    fn of(reply: v1::ScrubReply) -> Self {
        Self {
            state: reply.state,
            done_permille: reply.done_permille,
            rows: reply.rows,
            damaged: reply.damaged,
            cycles: reply.cycles,
            last_cycle_age_ms: reply.last_cycle_age_ms,
        }
    }
}

impl Admin {
    /// How the replicas of the node that answers stand; say [`Admin::only`], or it is any node.
    pub async fn sync_status(&self) -> Result<Told<SyncStatus>, Error> {
        let told = self.ask("STATUS", "of a node", Kind::Read, |mut admin| async move {
            admin.replication(v1::ReplicationRequest::default()).await
        });
        Ok(told.await?.map(SyncStatus::of))
    }

    /// How far the scrub of the node that answers is; say [`Admin::only`], or it is any node.
    pub async fn scrub(&self) -> Result<Told<Scrub>, Error> {
        self.ask_scrub(Kind::Read, false).await
    }

    /// Has the node that answers verify everything it holds now; say [`Admin::only`], or it is any node.
    pub async fn scrub_now(&self) -> Result<Told<Scrub>, Error> {
        self.ask_scrub(Kind::Write, true).await
    }

    async fn ask_scrub(&self, kind: Kind, now: bool) -> Result<Told<Scrub>, Error> {
        let told = self
            .ask("SCRUB", "of a node", kind, |mut admin| async move { admin.scrub(v1::ScrubRequest { now }).await });
        Ok(told.await?.map(Scrub::of))
    }
}
