//! A repair job as plain code: what is to be compared, what was found, and when it is over.
//!
//! ```text
//! PLANNED ──▶ RUNNING ──▶ COMPLETED   everything was compared (and mended, unless it was a dry run)
//!    │           ├──────▶ PARTIAL     something was not; it is named
//!    │           ├──────▶ FAILED      nothing is left that could be compared
//!    └───────────┴──────▶ CANCELLED
//! ```
//!
//! Invariants: an end is final; a unit is counted once, when it is closed; every tree of the scope is at the end either
//! counted as compared or listed as not compared, but for what is past the bound of the list, which is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cube_storage::UnsyncedCause;
use cube_storage::model::{NodeId, PartitionId, TableId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::id::RepairId;
use super::questions::{Active, Report};
use crate::anti_entropy::questions::Tree;

/// Entries of what was not compared. Each has the partitions of one table, pair and reason.
pub(super) const NOT_COMPARED_MAX: usize = 1_000;
/// How often trees that could not be mended at once are compared again.
const SETTLE_ATTEMPTS: u32 = 3;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Asked {
    /// One keyspace, or all.
    pub keyspace: Option<String>,
    /// The tables of this name, or all.
    pub table: Option<String>,
    /// Whether differences are only counted.
    pub dry_run: bool,
}

/// A table in the scope of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTable {
    /// Its id.
    pub id: TableId,
    /// The name of its keyspace when the job was asked for.
    pub keyspace: String,
    /// Its name.
    pub name: String,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// It waits for its turn.
    Planned,
    /// Replicas are being compared.
    Running,
    /// Everything was compared.
    Completed,
    /// Something was not.
    Partial,
    /// Somebody ended it.
    Cancelled,
    /// It could not go on.
    Failed,
}

impl JobState {
    /// Whether it is over.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Planned | Self::Running)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "PLANNED",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Partial => "PARTIAL",
            Self::Cancelled => "CANCELLED",
            Self::Failed => "FAILED",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Why trees were not compared, or not mended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error, Serialize, Deserialize)]
pub enum Why {
    /// Nobody has heard of the node.
    #[error("the node is down")]
    Down,
    /// It is alive, and gave no answer.
    #[error("the node gave no answer")]
    NoAnswer,
    /// It speaks another version of the protocol.
    #[error("the node is of a release that does not know this ({0})")]
    Unsupported(String),
    /// It was too busy all along.
    #[error("the node had no time for it")]
    Busy,
    /// It said no.
    #[error("the node refused: {0}")]
    Refused(String),
    /// It does not know the table.
    #[error("the node does not know the table")]
    UnknownTable,
    /// Its replica does not hold everything it acknowledged.
    #[error("the replica is not in sync ({0:?}); it heals by itself")]
    NotInSync(UnsyncedCause),
    /// Its data is damaged.
    #[error("the replica's data is damaged; it heals by itself")]
    Damaged,
    /// The table was dropped after the job was asked for.
    #[error("the table was dropped")]
    Dropped,
    /// The partition is not on these two nodes any more.
    #[error("the partition has moved to other nodes")]
    Moved,
    /// Some of the rows that differ could not be taken over.
    #[error("rows still differ after several attempts")]
    Unsettled,
    /// The two have not come to the same map of the partition yet.
    #[error("the nodes work by different maps of the partition")]
    OtherMap,
}

/// What was exchanged, or, in a dry run, would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moved {
    /// Leaves that differed.
    pub leaves: u64,
    /// Rows from the one that ran it to the other.
    pub sent: u64,
    /// Rows from the other to the one that ran it.
    pub fetched: u64,
    /// Bytes of these rows.
    pub bytes: u64,
}

impl Moved {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.leaves += other.leaves;
        self.sent += other.sent;
        self.fetched += other.fetched;
        self.bytes += other.bytes;
    }
}

/// What was found between two replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PairResult {
    /// Partitions of tables that were compared.
    pub partitions: u64,
    /// Of these the ones that differed.
    pub differing: u64,
    /// Leaves that differed.
    pub leaves: u64,
    /// Rows that the first lacked, or held older.
    pub rows_to_first: u64,
    /// Rows that the second lacked, or held older.
    pub rows_to_second: u64,
    /// Bytes of these rows.
    pub bytes: u64,
}

/// Partitions of a table that were not compared on two nodes, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCompared {
    /// The node that is to blame.
    pub node: NodeId,
    /// The other one.
    pub other: NodeId,
    /// The table.
    pub table: TableId,
    /// The partitions.
    pub partitions: BTreeSet<PartitionId>,
    /// Why.
    pub why: Why,
}

/// Trees of one pair of replicas that are compared together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The member that runs it.
    pub by: NodeId,
    /// With whom.
    pub with: NodeId,
    /// What. Emptied when it is closed.
    pub trees: Vec<Tree>,
    /// The how manieth time these trees are compared.
    pub attempt: u32,
    /// Whether it only tells how many bytes go the other way of a pair that was looked at already.
    pub is_mirror: bool,
    /// Whether it is done with.
    pub is_closed: bool,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: RepairId,
    /// What was asked for.
    pub asked: Asked,
    /// What that was, at the time.
    pub tables: Vec<JobTable>,
    /// Where it stands.
    pub state: JobState,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it began.
    pub started_ms: Option<u64>,
    /// When it last got on.
    pub progress_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How often it was taken up again after a restart of its node.
    pub resumed: u32,
    /// When it began or was taken up again, and what was done by then: what is left is reckoned from there.
    pub since: Option<(u64, u64)>,
    /// What it is made of. Told to nobody.
    pub units: Vec<Unit>,
    /// Comparisons: partitions of tables, for each pair of their replicas.
    pub total: u64,
    /// Of these the ones that are done with.
    pub done: u64,
    /// What was found.
    pub pairs: BTreeMap<(NodeId, NodeId), PairResult>,
    /// What was exchanged by units that have not ended.
    pub under_way: Moved,
    /// What was not compared.
    pub not_compared: Vec<NotCompared>,
    /// How many partitions more than those.
    pub not_compared_more: u64,
    /// Why it could not go on.
    pub error: Option<String>,
}

impl Job {
    /// A job that was asked for now.
    pub fn new(id: RepairId, asked: Asked, tables: Vec<JobTable>, units: Vec<Unit>, now_ms: u64) -> Self {
        let total = units.iter().map(|unit| unit.trees.len() as u64).sum();
        Self {
            id,
            asked,
            tables,
            state: JobState::Planned,
            created_ms: now_ms,
            started_ms: None,
            progress_ms: None,
            ended_ms: None,
            resumed: 0,
            since: None,
            units,
            total,
            done: 0,
            pairs: BTreeMap::new(),
            under_way: Moved::default(),
            not_compared: Vec::new(),
            not_compared_more: 0,
            error: None,
        }
    }

    /// What is left of a job whose record cannot be read.
    pub fn lost(id: RepairId, error: String) -> Self {
        let job = Self::new(id, Asked::default(), Vec::new(), Vec::new(), 0);
        Self { state: JobState::Failed, error: Some(error), ..job }
    }

    /// What others are told of it.
    pub fn summary(&self) -> Self {
        let Self { units: _, pairs, not_compared, tables, asked, error, .. } = self;
        Self {
            units: Vec::new(),
            pairs: pairs.clone(),
            not_compared: not_compared.clone(),
            tables: tables.clone(),
            asked: asked.clone(),
            error: error.clone(),
            ..*self
        }
    }

    /// What others are told of it in a list: that something was not compared, and not what.
    pub fn brief(&self) -> Self {
        let mut brief = self.summary();
        let listed: usize = brief.not_compared.iter().map(|left| left.partitions.len()).sum();
        brief.not_compared_more += listed as u64;
        brief.not_compared = Vec::new();
        brief
    }

    /// What keeps other jobs from its tables.
    pub fn active(&self, is_claim: bool) -> Active {
        Active { id: self.id, tables: self.tables.iter().map(|table| table.id).collect(), is_claim }
    }

    /// What was found and what is being found, over all pairs.
    pub fn sum(&self) -> PairResult {
        let mut sum = PairResult::default();
        for pair in self.pairs.values() {
            sum.partitions += pair.partitions;
            sum.differing += pair.differing;
            sum.leaves += pair.leaves;
            sum.rows_to_first += pair.rows_to_first;
            sum.rows_to_second += pair.rows_to_second;
            sum.bytes += pair.bytes;
        }
        sum
    }

    /// How much longer it takes, if it goes on as since it was begun or taken up again.
    pub fn eta_ms(&self, now_ms: u64) -> Option<u64> {
        let (since_ms, done_before) = self.since.filter(|_| self.state == JobState::Running)?;
        let (took_ms, done) = (now_ms.saturating_sub(since_ms), self.done.saturating_sub(done_before));
        let left = self.total.saturating_sub(self.done);
        took_ms.saturating_mul(left).checked_div(done)
    }

    /// It is its turn; it may have been before.
    pub fn begin(&mut self, now_ms: u64) {
        if self.state == JobState::Running {
            self.resumed += 1;
        } else if self.state != JobState::Planned {
            return;
        }
        self.state = JobState::Running;
        self.started_ms.get_or_insert(now_ms);
        self.progress_ms.get_or_insert(now_ms);
        self.since = Some((now_ms, self.done));
    }

    /// Units that are still to be run.
    pub fn open(&self) -> impl Iterator<Item = (usize, &Unit)> {
        self.units.iter().enumerate().filter(|(_, unit)| !unit.is_closed)
    }

    /// A unit was run.
    pub fn on_report(&mut self, place: usize, report: &Report, now_ms: u64) {
        let Some(unit) = self.close(place, now_ms) else { return };
        let (by, with) = (unit.by, unit.with);
        let pair = self.pairs.entry((by.min(with), by.max(with))).or_default();
        let moved = report.moved;
        let (to_with, to_by) = (moved.sent, moved.fetched);
        if unit.is_mirror {
            // The rows were counted from the other side already; what was not known there are the bytes of these.
            pair.bytes += moved.bytes;
            return;
        }
        let (to_first, to_second) = if by < with { (to_by, to_with) } else { (to_with, to_by) };
        pair.rows_to_first += to_first;
        pair.rows_to_second += to_second;
        pair.leaves += moved.leaves;
        pair.bytes += moved.bytes;
        let may_pass = |why: &Why| matches!(why, Why::Unsettled | Why::OtherMap);
        let again: BTreeSet<Tree> = match unit.attempt < SETTLE_ATTEMPTS {
            true => report.left.iter().filter(|(_, _, why)| may_pass(why)).map(|(tree, ..)| *tree).collect(),
            false => BTreeSet::new(),
        };
        let left: BTreeSet<Tree> = report.left.iter().map(|(tree, ..)| *tree).collect();
        let compared = unit.trees.iter().filter(|tree| !left.contains(tree)).count() as u64;
        pair.partitions += compared;
        pair.differing += report.differed.iter().filter(|tree| !left.contains(tree)).count() as u64;
        self.done += unit.trees.len() as u64 - again.len() as u64;
        for (tree, node, why) in report.left.iter().filter(|(tree, ..)| !again.contains(tree)) {
            self.leave(*tree, *node, if *node == by { with } else { by }, why.clone());
        }
        if !again.is_empty() {
            let trees = again.into_iter().collect();
            self.units.push(Unit { by, with, trees, attempt: unit.attempt + 1, is_mirror: false, is_closed: false });
        }
        // Of rows that would come from the other side only that side knows the bytes.
        if self.asked.dry_run && moved.fetched > 0 {
            let trees = report.differed.clone();
            let mirror = Unit { by: with, with: by, trees, attempt: 0, is_mirror: true, is_closed: false };
            self.units.push(mirror);
        }
    }

    /// A unit cannot be run, because of a node.
    pub fn give_up(&mut self, place: usize, node: NodeId, why: &Why, now_ms: u64) {
        let Some(unit) = self.close(place, now_ms) else { return };
        if unit.is_mirror {
            return;
        }
        self.done += unit.trees.len() as u64;
        let other = if node == unit.by { unit.with } else { unit.by };
        for tree in unit.trees {
            self.leave(tree, node, other, why.clone());
        }
    }

    /// Takes trees that cannot be compared any more out of a unit.
    pub fn exclude(&mut self, place: usize, trees: &[(Tree, Why)], now_ms: u64) {
        let Some(unit) = self.units.get_mut(place).filter(|unit| !unit.is_closed) else { return };
        let (by, with, is_mirror) = (unit.by, unit.with, unit.is_mirror);
        let before = unit.trees.len();
        unit.trees.retain(|tree| !trees.iter().any(|(other, _)| other == tree));
        let (gone, is_empty) = (before - unit.trees.len(), unit.trees.is_empty());
        if !is_mirror {
            self.done += gone as u64;
            trees.iter().for_each(|(tree, why)| self.leave(*tree, by, with, why.clone()));
        }
        if is_empty {
            let _nothing = self.close(place, now_ms);
        }
    }

    fn close(&mut self, place: usize, now_ms: u64) -> Option<Unit> {
        let unit = self.units.get_mut(place).filter(|unit| !unit.is_closed)?;
        self.progress_ms = Some(now_ms);
        let trees = std::mem::take(&mut unit.trees);
        unit.is_closed = true;
        Some(Unit { trees, ..unit.clone() })
    }

    fn leave(&mut self, (table, partition): Tree, node: NodeId, other: NodeId, why: Why) {
        let is_same =
            |left: &&mut NotCompared| (left.node, left.other, left.table) == (node, other, table) && left.why == why;
        if let Some(left) = self.not_compared.iter_mut().find(is_same) {
            left.partitions.insert(partition);
        } else if self.not_compared.len() < NOT_COMPARED_MAX {
            let partitions = [partition].into();
            self.not_compared.push(NotCompared { node, other, table, partitions, why });
        } else {
            self.not_compared_more += 1;
        }
    }

    /// Ends it if nothing is left to do. Whether it is over.
    pub fn conclude(&mut self, now_ms: u64) -> bool {
        if self.state == JobState::Running && self.open().next().is_none() {
            let are_dropped = self.not_compared.iter().all(|left| left.why == Why::Dropped);
            let state = match self.not_compared.is_empty() {
                true => JobState::Completed,
                false if are_dropped && self.sum().partitions == 0 => {
                    self.error = Some("the tables were dropped".into());
                    JobState::Failed
                }
                false => JobState::Partial,
            };
            self.end(state, now_ms);
        }
        self.state.is_over()
    }

    /// Somebody ends it. Whether it was not over.
    pub fn cancel(&mut self, now_ms: u64) -> bool {
        let is_active = !self.state.is_over();
        if is_active {
            self.end(JobState::Cancelled, now_ms);
        }
        is_active
    }

    fn end(&mut self, state: JobState, now_ms: u64) {
        self.state = state;
        self.ended_ms = Some(now_ms);
        self.under_way = Moved::default();
        // What it was made of is of no use any more, and may be long.
        self.units = Vec::new();
    }
}

#[cfg(test)]
mod tests;
