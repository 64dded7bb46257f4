//! What clients saw: every operation with when it began, when it ended, and what it was told. Checkers know nothing else
//! of the requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::mem::discriminant;

use bytes::Bytes;
use cube_storage::model::{Epoch, Hlc, NodeId, Record, RowKey, TableId, Version};
use xxhash_rust::xxh3::Xxh3Default;

use super::event::Event;
use super::purged::Purged;
use crate::consistency::Level;
use crate::coordinator::RequestError;
use crate::topology::DataCenter;

/// One row that an operation was to write.
#[derive(Clone, Debug)]
pub(super) struct RowWritten {
    /// The write's number, which is also its value: no two writes have the same.
    pub(super) write: u64,
    pub(super) table: TableId,
    pub(super) key: RowKey,
    pub(super) is_delete: bool,
    pub(super) reach: Reach,
    /// The client chose the timestamp.
    pub(super) client_timestamp: bool,
    pub(super) coordinator: NodeId,
    pub(super) coordinator_life: u64,
    pub(super) begun_us: u64,
    /// The map of its partition when it began, by what its coordinator knew.
    pub(super) map: Epoch,
    /// Who was to be written when it began, by what its coordinator knew.
    pub(super) replicas: BTreeSet<NodeId>,
    pub(super) ended: Option<Ended>,
}

impl RowWritten {
    /// Whether it was to write this row.
    pub(super) fn is_of(&self, table: TableId, key: &RowKey) -> bool {
        self.table == table && self.key == *key
    }
}

/// How a write ended, where the client was told.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) at_us: u64,
    /// The version, and who acknowledged; nothing where the write is unknown or was refused.
    pub(super) success: Option<(Version, Vec<NodeId>)>,
    /// The client was told that nothing was written.
    pub(super) refused: bool,
}

/// One row that an operation read.
#[derive(Clone, Debug)]
pub(super) struct RowRead {
    pub(super) table: TableId,
    pub(super) key: RowKey,
    pub(super) reach: Reach,
    pub(super) begun_us: u64,
    pub(super) ended_us: u64,
    pub(super) record: Option<Record>,
    /// The time by which expiry is judged.
    pub(super) as_of: Hlc,
    /// What somebody had purged of the row when the read ended: nothing there means that.
    pub(super) purged: Option<Version>,
    /// What somebody had purged of the row when the read began, by a map that its coordinator knew.
    pub(super) gone: Option<Version>,
}

impl RowRead {
    /// The version that the client saw. Of a row that is not there, it is that of the deletion that was purged: all who
    /// held the row held that.
    pub(super) fn version(&self) -> Option<Version> {
        self.record.as_ref().map_or(self.purged, |record| Some(record.version))
    }

    /// Whether the client saw a value that had ended.
    pub(super) fn is_expired(&self) -> bool {
        self.record.as_ref().is_some_and(|record| !record.is_tombstone() && record.live_value(self.as_of).is_none())
    }
}

/// Where a client's scan goes on: pages may come from different nodes and levels.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    pub(super) resume: Bytes,
    pub(super) backward: bool,
}

/// Everything that clients saw in a run.
#[derive(Default)]
pub(super) struct History {
    pub(super) writes: Vec<RowWritten>,
    pub(super) reads: Vec<RowRead>,
    /// Where the scan of each client goes on.
    pub(super) scans: BTreeMap<usize, Cursor>,
    /// Rows that a scan listed once more, in words.
    pub(super) scanned_twice: Vec<String>,
    /// When tables were dropped: from then on nothing is promised of their rows.
    pub(super) dropped_us: BTreeMap<TableId, u64>,
    /// Writes to tables that their coordinators knew to be gone, and that were not refused, in words.
    pub(super) served_dropped: Vec<String>,
    /// Operations by how they ended.
    pub(super) outcomes: BTreeMap<&'static str, u64>,
    /// A fingerprint of the order in which things happened.
    pub(super) order: u64,
    /// What was purged by now.
    pub(super) purged: Purged,
    /// The last errors that clients were told, in words.
    pub(super) errors: VecDeque<String>,
}

/// Errors that are remembered in words.
const ERRORS_MAX: usize = 4;

impl History {
    /// An event happens. Its kind, node and partition count, not its time nor what it carries: two runs are the same
    /// interleaving when the same things happen in the same order.
    pub(super) fn note_order(&mut self, event: &Event) {
        let mut hasher = Xxh3Default::new();
        self.order.hash(&mut hasher);
        discriminant(event).hash(&mut hasher);
        event.node().hash(&mut hasher);
        if let Event::Report(reports) = event {
            reports.iter().for_each(|report| (report.partition, report.done).hash(&mut hasher));
        }
        self.order = hasher.finish();
    }

    /// Whether the table was still there.
    pub(super) fn is_there(&self, table: TableId, at_us: u64) -> bool {
        self.dropped_us.get(&table).is_none_or(|dropped_us| at_us < *dropped_us)
    }

    pub(super) fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// Remembers an error in words.
    pub(super) fn remember(&mut self, error: &RequestError) {
        if self.errors.len() == ERRORS_MAX {
            self.errors.pop_front();
        }
        self.errors.push_back(error.to_string());
    }
}

/// How far an operation reaches: its level, counted from where its coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) level: Level,
    pub(super) data_center: DataCenter,
}

impl Reach {
    /// Whether any two such quorums share a replica, whatever the map.
    pub(super) fn is_quorum(&self) -> bool {
        matches!(self.level, Level::Quorum | Level::EachQuorum | Level::All)
    }

    /// Whether a later operation of that reach must meet what this one wrote, or saw.
    pub(super) fn is_met_by(&self, later: &Self) -> bool {
        match (self.level, later.level) {
            (Level::LocalQuorum, Level::LocalQuorum) => self.data_center == later.data_center,
            (Level::LocalQuorum, Level::EachQuorum | Level::All) => true,
            (Level::EachQuorum | Level::All, Level::LocalQuorum) => true,
            _ => self.is_quorum() && later.is_quorum(),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.level, self.data_center)
    }
}
