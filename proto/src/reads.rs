//! What people look for first in the reads of a table, in one line: a node tells it of the reads that it coordinated, the
//! shell of those of all nodes together.

use std::fmt;

/// The line. Scripts look for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadsLine<'a> {
    /// The table, as `keyspace.table`.
    pub table: &'a str,
    /// Answers that told of an older record than the newest, or of none.
    pub stale_answers: u64,
    /// Rows that a replica has since it was read, and had not before.
    pub repaired: u64,
    /// Rows that were to be brought to a replica, and were not.
    pub repairs_failed: u64,
    /// Rows that were asked of another replica because one was slow.
    pub hedges: u64,
    /// Those that were decided before the slow one answered.
    pub hedges_helped: u64,
}

impl fmt::Display for ReadsLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, stale_answers, repaired, repairs_failed, hedges, hedges_helped } = self;
        write!(
            f,
            "Reads of {table}: {stale_answers} stale answers, {repaired} rows repaired, {repairs_failed} repairs failed, \
             {hedges} hedges of which {hedges_helped} helped"
        )
    }
}
