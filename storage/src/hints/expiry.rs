//! Hints that have grown too old to keep.
//!
//! A hint is dropped only after the caller has marked its leaf dirty and says so. A write's only copy never expires:
//! when hints behind it do, it moves to the end of the log, which costs each such hint about one move per window.
//! Invariant: the copy at the end is durable before the one at the front is passed.

use super::append::Caps;
use super::replay::ReadLimits;
use super::{Hint, HintError, HintLog, Position, Stored};
use crate::model::{RowKey, TableId, Version};

/// A hint that is about to be dropped, as far as marking its leaf dirty needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredHint {
    /// The row's table.
    pub table: TableId,
    /// The row.
    pub key: RowKey,
    /// The version of the write.
    pub version: Version,
    /// When the hint was made.
    pub created_ms: u64,
}

/// The oldest hints of a log, to be marked dirty and then dropped with [`HintLog::drop_expired`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// What will be dropped.
    pub hints: Vec<ExpiredHint>,
    /// Only copies among them, which will move to the end.
    kept: Vec<Hint>,
    through: Position,
    /// Whether anything stands before `through`.
    passes: bool,
}

impl Expired {
    /// Whether there is nothing to drop, to move or to pass.
    pub fn is_empty(&self) -> bool {
        !self.passes
    }
}

impl HintLog {
    /// The hints made `window_ms` ago or earlier, from the front of the log up to the first younger one, as many as the
    /// limits let through. Call it until it is empty.
    pub fn expired(&self, now_ms: u64, window_ms: u64, limits: ReadLimits) -> Result<Expired, HintError> {
        let is_old = |hint: &Hint| hint.created_ms.saturating_add(window_ms) <= now_ms;
        let start = self.start();
        let batch = self.read(start, limits)?;
        let young = batch.hints.iter().position(|stored| !stored.hint.only_copy && !is_old(&stored.hint));
        let (mut front, next) = (batch.hints, batch.next);
        let all = front.len();
        front.truncate(young.unwrap_or(all));
        match front.iter().rposition(|stored| !stored.hint.only_copy) {
            Some(last) => front.truncate(last + 1),
            None if front.is_empty() => {}
            // Nothing but only copies: they move out of the way if what they stand before is old.
            None if young.is_none() && self.next_is_old(next, limits, is_old)? => {}
            None => front.clear(),
        }
        // With all that was read goes the damage that was skipped.
        let through = if front.len() == all { next } else { front.last().map_or(start, |stored| stored.after) };
        Ok(Expired::of(front, through, through.sequence > start.sequence))
    }

    /// Whether the first hint from a position on that may expire is old.
    fn next_is_old(
        &self,
        mut from: Position,
        limits: ReadLimits,
        is_old: impl Fn(&Hint) -> bool,
    ) -> Result<bool, HintError> {
        loop {
            let ahead = self.read(from, limits)?;
            if let Some(next) = ahead.hints.iter().find(|stored| !stored.hint.only_copy) {
                return Ok(is_old(&next.hint));
            }
            if ahead.hints.is_empty() {
                return Ok(false);
            }
            from = ahead.next;
        }
    }

    /// Drops expired hints: their leaves are marked dirty, durably.
    pub fn drop_expired(&self, expired: &Expired) -> Result<(), HintError> {
        if expired.is_empty() {
            return Ok(());
        }
        if !expired.kept.is_empty() {
            let moved = self.append_with(&expired.kept, Caps::Ignore)?;
            self.sync(moved.ticket)?;
        }
        let dropped = expired.hints.len() as u64;
        self.pass(expired.through, |counters, _| counters.expired += dropped)
    }
}

impl Expired {
    fn of(front: Vec<Stored>, through: Position, passes: bool) -> Self {
        let (kept, dropped): (Vec<Stored>, Vec<Stored>) = front.into_iter().partition(|stored| stored.hint.only_copy);
        let expired = |Stored { hint, .. }: Stored| {
            let version = hint.record.version;
            ExpiredHint { table: hint.table, key: hint.key, version, created_ms: hint.created_ms }
        };
        let kept = kept.into_iter().map(|stored| stored.hint).collect();
        Self { hints: dropped.into_iter().map(expired).collect(), kept, through, passes }
    }
}
