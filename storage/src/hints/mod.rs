//! Hinted handoff on disk: what this node keeps for another one that did not confirm a write.
//!
//! One append-only log per target node under `hints/<node name>/`: segment files, and a cursor that says how far the
//! target has acknowledged. A coordinator appends hints and syncs once for all that wait ([`HintLog::append`],
//! [`HintLog::sync`]); a replay reads from the cursor, oldest first, and acknowledges what the target took
//! ([`HintLog::read`], [`HintLog::acknowledge`]); what grows too old is dropped after it was marked dirty
//! ([`HintLog::expired`], [`HintLog::drop_expired`]).
//!
//! Invariants:
//! - a hint whose ticket was synced is there after any crash, until it is acknowledged or dropped as expired;
//! - a hint that is not kept is told of: refused ([`Full`]), failed ([`HintError`]), expired ([`Expired`]) or damaged
//!   ([`Damage`]). The caller marks its Merkle leaf dirty; the log lets nobody acknowledge past damage that was not
//!   confirmed as marked;
//! - one damaged byte costs at most one hint, and that one's leaf is known;
//! - one hint is one row: rows are told apart by their encoded key, targets by an injective file name.
//!
//! Time is a parameter. Nothing here spawns, sleeps or reads a clock. The formats are in `docs/formats-hints.md`.

mod append;
mod cursor;
mod damage;
mod error;
mod expiry;
mod frame;
mod index;
mod limits;
mod log;
mod pauses;
mod reader;
mod recovery;
mod replay;
mod segment;
mod store;
mod sync;

use crate::model::{Record, RowKey, TableId};

pub use self::append::{Appended, Ticket};
pub use self::damage::{Damage, Lost};
pub use self::error::HintError;
pub use self::expiry::{Expired, ExpiredHint};
pub use self::limits::{Full, HintLimits};
pub use self::log::{Counters, HintLog, HintTotals};
pub use self::pauses::{PauseError, Pauses};
pub use self::replay::{HintBatch, ReadLimits, Stored};
pub use self::store::{HintStore, OpenedHints};

/// A write that a replica did not confirm. The target is the log it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The row's table.
    pub table: TableId,
    /// The row.
    pub key: RowKey,
    /// What is to be applied there, with its version.
    pub record: Record,
    /// When the hint was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether no replica is known to hold the write (level ANY): such a hint never expires.
    pub only_copy: bool,
}

/// A place between two hints of a log: everything before it was read, acknowledged or is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment.
    pub segment: u32,
    /// The offset in its file.
    pub offset: u64,
    /// The number of the next hint: hints of a log are counted through, over all its segments.
    pub sequence: u64,
}
