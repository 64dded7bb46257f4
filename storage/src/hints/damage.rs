//! What is known of bytes of a log that are not what was written.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::model::{TableId, Token, Version};

/// What damaged bytes cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing: everything they said is said elsewhere in the segment.
    Nothing,
    /// One hint, of which is known what it was for.
    Hint {
        /// The table of the row.
        table: TableId,
        /// The token of the row, hence its Merkle leaf.
        token: Token,
        /// The version of the write.
        version: Version,
        /// Whether it was the write's only copy.
        only_copy: bool,
    },
    /// Hints of which nothing is known: anything of the target may be missing there.
    Unknown {
        /// How many.
        records: u64,
    },
}

/// Damage in a log, found when it was opened or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u32,
    /// The bytes of its file. Empty where hints are missing between two places that are both sound.
    pub bytes: Range<u64>,
    /// The number of the first hint that may be lost.
    pub sequence: u64,
    /// What they cost.
    pub lost: Lost,
}

impl Damage {
    /// How many hints are lost.
    pub fn records(&self) -> u64 {
        self.lost.records()
    }
}

impl Lost {
    fn records(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Hint { .. } => 1,
            Self::Unknown { records } => *records,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:08}, bytes {}..{}: ", self.segment, self.bytes.start, self.bytes.end)?;
        match &self.lost {
            Lost::Nothing => f.write_str("damaged, nothing lost"),
            Lost::Hint { table, token, version, .. } => {
                write!(f, "lost a hint for table {table}, token {token}, version {version}")
            }
            Lost::Unknown { records } => write!(f, "lost {records} hints for unknown rows"),
        }
    }
}

/// The most reports that wait for confirmation. Past it, reports become one that says less and still covers them: a
/// disk that damages more than this has lost the log, and one mark for all of the target is what is left to do.
const REPORTS_MAX: usize = 4096;

/// The damage of a log: told until confirmed, and not told again for as long as its segment is there.
#[derive(Debug, Default)]
pub(super) struct Reports {
    found: BTreeMap<Place, Report>,
}

/// Segment, first byte, first number.
type Place = (u32, u64, u64);

fn place(damage: &Damage) -> Place {
    (damage.segment, damage.bytes.start, damage.sequence)
}

#[derive(Debug)]
struct Report {
    damage: Damage,
    confirmed: bool,
}

impl Reports {
    /// Takes a report; one that is known changes nothing. How many hints it says are newly lost.
    pub(super) fn add(&mut self, damage: Damage) -> u64 {
        let records = damage.records();
        let known = self.found.get(&place(&damage)).map(|report| report.damage.records());
        if known.is_some_and(|known| known >= records) {
            return 0;
        }
        if self.found.len() >= REPORTS_MAX {
            self.merge();
        }
        self.found.insert(place(&damage), Report { damage, confirmed: false });
        records - known.unwrap_or(0)
    }

    pub(super) fn unconfirmed(&self) -> Vec<Damage> {
        self.found.values().filter(|report| !report.confirmed).map(|report| report.damage.clone()).collect()
    }

    pub(super) fn confirm(&mut self, damage: &Damage) {
        // A report that has grown since is not the one that was marked.
        if let Some(report) = self.found.get_mut(&place(damage)).filter(|report| report.damage == *damage) {
            report.confirmed = true;
        }
    }

    /// The first damage before a hint's number that lost something and is not confirmed.
    pub(super) fn in_the_way(&self, sequence: u64) -> Option<&Damage> {
        let blocks = |report: &&Report| {
            !report.confirmed && report.damage.lost != Lost::Nothing && report.damage.sequence < sequence
        };
        self.found.values().find(blocks).map(|report| &report.damage)
    }

    /// How many of the hints from `sequence` on are lost.
    pub(super) fn records_from(&self, sequence: u64) -> u64 {
        let from = self.found.values().filter(|report| report.damage.sequence >= sequence);
        from.map(|report| report.damage.records()).sum()
    }

    pub(super) fn forget_before(&mut self, segment: u32) {
        self.found = self.found.split_off(&(segment, 0, 0));
    }

    /// Makes one report of all of them.
    fn merge(&mut self) {
        let mut all = self.found.values().map(|report| &report.damage);
        let Some(first) = all.next().cloned() else { return };
        let merged = all.fold(first, |merged, next| Damage {
            segment: merged.segment,
            bytes: merged.bytes,
            sequence: merged.sequence.min(next.sequence),
            lost: Lost::Unknown { records: merged.lost.records() + next.records() },
        });
        self.found.clear();
        self.found.insert(place(&merged), Report { damage: merged, confirmed: false });
    }
}
