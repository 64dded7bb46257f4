//! Scrub: re-derives the Merkle leaves from the rows, a little at a time, and verifies every record on the way.
//!
//! What does not add up is damage: it is reported with its range, and its partition is marked unsynced and heals. Rows
//! and leaves are read from one snapshot, so writes under way never look like damage. A leaf with more rows, or bytes,
//! than a step may read is scrubbed in pieces, and the write path tells what it changes meanwhile (`scrub/watch.rs`).
//!
//! Invariant: a step reads no more than its bounds, twice over, and a row more, however many rows a leaf has; and no leaf
//! is held against a sum of rows as they were at another moment.

mod watch;

use std::ops::ControlFlow;

pub(crate) use self::watch::{RowChange, Watch};
use crate::engine::{Direction, EngineError, Reader, Space};
use crate::error::{DamagedRange, StoreError};
use crate::forest::{leaf_rows, read_leaves};
use crate::keyspace::{KeyRange, decode_data_key, tokens_of_range};
use crate::merkle::{LEAVES_PER_PARTITION, LeafId, LeafSum, decode_leaf_key, leaf_range};
use crate::model::{RecordHeader, TableId};
use crate::reach::{Failure, Reach};
use crate::store::Store;

/// Leaves without rows that a step passes over at the most: some of them may still have an entry.
const EMPTY_LEAVES_MAX: u32 = 16 * LEAVES_PER_PARTITION;

/// How much a step reads, but for a leaf that it has to begin again in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubBounds {
    /// Rows.
    pub rows_max: usize,
    /// Bytes of keys and records; the first row of a step may have more.
    pub bytes_max: usize,
}

/// Where a step of the scrub begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubPlace {
    leaf: LeafId,
    inside: Option<Inside>,
}

/// A place within a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inside {
    /// The next row is here or behind.
    key: Vec<u8>,
    /// The watch that sums up the leaf; nothing when damage was found in it, so that there is no sum to compare.
    watch: Option<u64>,
}

impl From<LeafId> for ScrubPlace {
    fn from(leaf: LeafId) -> Self {
        Self { leaf, inside: None }
    }
}

impl ScrubPlace {
    /// The leaf that is next, or under way.
    pub fn leaf(&self) -> LeafId {
        self.leaf
    }

    /// Whether the leaf is under way, as only this store knows it.
    pub fn is_inside(&self) -> bool {
        self.inside.is_some()
    }
}

/// What one step of the scrub saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Rows verified.
    pub rows: usize,
    /// What was found damaged.
    pub damaged: Vec<DamagedRange>,
    /// Where the next step begins; nothing when the table is done.
    pub next: Option<ScrubPlace>,
}

impl Store {
    /// Scrubs a table from a place on, as far as the bounds allow. A place within a leaf is good for as long as the store
    /// is open and nobody else scrubs; after that the leaf is begun anew.
    pub fn scrub_step(&self, table: TableId, from: &ScrubPlace, bounds: ScrubBounds) -> Result<Scrubbed, StoreError> {
        self.tables.read().get(table)?;
        let (leaf, inside) = (from.leaf, from.inside.as_ref());
        let scrubbed = match inside {
            None => self.scrub_leaves(table, leaf, bounds)?,
            Some(Inside { key, watch: None }) => self.scrub_rest(table, leaf, key, bounds)?,
            Some(Inside { key, watch: Some(id) }) => self.scrub_piece(table, leaf, key, *id, bounds)?,
        };
        for damaged in &scrubbed.damaged {
            // The step names it; the error is for reads.
            self.damaged(damaged.clone());
        }
        Ok(scrubbed)
    }

    /// As many whole leaves as the bounds take in. One that is too large for a step of its own is begun in pieces.
    fn scrub_leaves(&self, table: TableId, from: LeafId, bounds: ScrubBounds) -> Result<Scrubbed, StoreError> {
        let snapshot = self.engine.snapshot();
        let mut step = Step::over(self, snapshot.as_ref(), table, bounds);
        let mut next = step.next_used(from)?;
        while let Next::Used(leaf) = next {
            if step.is_full() {
                return Ok(step.end(Some(leaf.into())));
            }
            let before = step.tally();
            match step.scrub_from(leaf, None)? {
                Reached::Leaf(behind) => next = step.next_used(behind)?,
                Reached::Inside { leaf, key } if step.damaged.len() > before.damaged => {
                    return Ok(step.end(Some(ScrubPlace { leaf, inside: Some(Inside { key, watch: None }) })));
                }
                Reached::Inside { .. } => {
                    step.take_back(before);
                    let place = if step.rows_read == 0 { self.watch_leaf(table, leaf) } else { leaf.into() };
                    return Ok(step.end(Some(place)));
                }
            }
        }
        let next = if let Next::Later(leaf) = next { Some(leaf.into()) } else { None };
        Ok(step.end(next))
    }

    /// The rest of a leaf in which damage was found, and of the leaf in which that ends: row by row.
    fn scrub_rest(
        &self,
        table: TableId,
        leaf: LeafId,
        key: &[u8],
        bounds: ScrubBounds,
    ) -> Result<Scrubbed, StoreError> {
        let snapshot = self.engine.snapshot();
        let mut step = Step::over(self, snapshot.as_ref(), table, bounds);
        let next = match step.scrub_from(leaf, Some(key))? {
            Reached::Leaf(behind) => behind.into(),
            Reached::Inside { leaf, key } => ScrubPlace { leaf, inside: Some(Inside { key, watch: None }) },
        };
        Ok(step.end(Some(next)))
    }

    /// The next piece of a leaf that is watched.
    fn scrub_piece(
        &self,
        table: TableId,
        leaf: LeafId,
        key: &[u8],
        id: u64,
        bounds: ScrubBounds,
    ) -> Result<Scrubbed, StoreError> {
        let unwatched = |key: &[u8]| ScrubPlace { leaf, inside: Some(Inside { key: key.to_vec(), watch: None }) };
        let rest = KeyRange { start: key.to_vec(), end: self.rows_of_leaf(table, leaf).end };
        let mut step = Step::over(self, self.engine.as_ref(), table, bounds);
        let (end, is_last) = match step.measure(&rest)? {
            Read::All => (rest.end, true),
            Read::Full { next } => (next, false),
            Read::Unreadable { .. } => return Ok(step.end(Some(unwatched(key)))),
        };
        // Snapshot and watch begin between the same two commits.
        let mut commit = self.commit.lock();
        let Some(watch) = commit.watch.as_mut().filter(|watch| watch.is_at(id, key)) else {
            drop(commit);
            return Ok(step.end(Some(leaf.into())));
        };
        let in_front = watch.begin_piece(&end);
        let snapshot = self.engine.snapshot();
        drop(commit);

        // Rows may have come in since the piece was measured, yet hardly as many as it has.
        let bounds = ScrubBounds {
            rows_max: bounds.rows_max.max(1).saturating_mul(2),
            bytes_max: bounds.bytes_max.saturating_mul(2),
        };
        let mut step = Step::over(self, snapshot.as_ref(), table, bounds);
        let piece = KeyRange { start: key.to_vec(), end: end.clone() };
        let mut read = LeafSum::ZERO;
        match step.verify(&piece, &mut read)? {
            Read::All if is_last => {
                if step.damaged.is_empty() {
                    step.compare(leaf, in_front.plus(read))?;
                }
                Ok(step.end(Some(LeafId(leaf.0 + 1).into())))
            }
            Read::All if step.damaged.is_empty() => {
                if let Some(watch) = self.commit.lock().watch.as_mut().filter(|watch| watch.is_at(id, key)) {
                    watch.end_piece(read);
                }
                Ok(step.end(Some(ScrubPlace { leaf, inside: Some(Inside { key: end, watch: Some(id) }) })))
            }
            Read::All => Ok(step.end(Some(unwatched(&end)))),
            Read::Full { .. } => {
                step.take_back(Tally::default());
                Ok(step.end(Some(ScrubPlace { leaf, inside: Some(Inside { key: key.to_vec(), watch: Some(id) }) })))
            }
            Read::Unreadable { .. } => {
                step.take_back(Tally::default());
                Ok(step.end(Some(unwatched(key))))
            }
        }
    }

    /// Begins to watch a leaf, and no other any more. Where its first piece begins.
    fn watch_leaf(&self, table: TableId, leaf: LeafId) -> ScrubPlace {
        let rows = self.rows_of_leaf(table, leaf);
        let key = rows.start.clone();
        let mut commit = self.commit.lock();
        commit.watches += 1;
        let id = commit.watches;
        commit.watch = Some(Watch::begin(id, table, leaf, rows));
        ScrubPlace { leaf, inside: Some(Inside { key, watch: Some(id) }) }
    }

    fn rows_of_leaf(&self, table: TableId, leaf: LeafId) -> KeyRange {
        leaf_rows(table, leaf, LeafId(leaf.0 + 1), self.bits)
    }
}

/// What is to be scrubbed next.
enum Next {
    /// A leaf with rows, rows that cannot be read, or a sum.
    Used(LeafId),
    /// Nothing up to this leaf; a step of its own looks further.
    Later(LeafId),
    /// The table is done.
    Nothing,
}

/// How far reading a range got.
enum Read {
    All,
    /// The bounds are reached, and this is the next key.
    Full {
        next: Vec<u8>,
    },
    /// Damage: behind this row, which is empty when none was read, with what the engine said.
    Unreadable {
        last_read: Vec<u8>,
        detail: String,
    },
}

/// How far scrubbing from a place in a leaf got.
enum Reached {
    /// Up to a leaf.
    Leaf(LeafId),
    /// Up to a key within a leaf.
    Inside { leaf: LeafId, key: Vec<u8> },
}

/// What a step has read, to take it back.
#[derive(Clone, Copy, Default)]
struct Tally {
    rows_read: usize,
    bytes_read: usize,
    damaged: usize,
}

struct Step<'a> {
    store: &'a Store,
    reader: &'a dyn Reader,
    table: TableId,
    bounds: ScrubBounds,
    /// The leaf behind the last.
    end: LeafId,
    rows_read: usize,
    bytes_read: usize,
    damaged: Vec<DamagedRange>,
}

impl<'a> Step<'a> {
    fn over(store: &'a Store, reader: &'a dyn Reader, table: TableId, bounds: ScrubBounds) -> Self {
        let end = LeafId(u32::from(store.bits.partitions()) * LEAVES_PER_PARTITION);
        Self { store, reader, table, bounds, end, rows_read: 0, bytes_read: 0, damaged: Vec::new() }
    }

    fn end(self, next: Option<ScrubPlace>) -> Scrubbed {
        Scrubbed { rows: self.rows_read, damaged: self.damaged, next }
    }

    /// Whether no further row is to be read. What is damaged costs at least as much as a row.
    fn is_full(&self) -> bool {
        self.rows_read + self.damaged.len() >= self.bounds.rows_max.max(1)
            || (self.rows_read > 0 && self.bytes_read >= self.bounds.bytes_max)
    }

    fn tally(&self) -> Tally {
        Tally { rows_read: self.rows_read, bytes_read: self.bytes_read, damaged: self.damaged.len() }
    }

    fn take_back(&mut self, to: Tally) {
        (self.rows_read, self.bytes_read) = (to.rows_read, to.bytes_read);
        self.damaged.truncate(to.damaged);
    }

    fn rows_of(&self, from: LeafId, to: LeafId) -> KeyRange {
        leaf_rows(self.table, from, to, self.store.bits)
    }

    /// The first leaf from `from` on that has rows, rows that cannot be read, or a sum.
    fn next_used(&self, from: LeafId) -> Result<Next, StoreError> {
        if from >= self.end {
            return Ok(Next::Nothing);
        }
        let range = self.rows_of(from, self.end);
        let leaf_of = |key: &[u8]| decode_data_key(key).map(|(_, token, _)| LeafId::of(token, self.store.bits));
        let mut first = None;
        let read = self.reader.scan(Space::Data, &range, Direction::Forward, &mut |key, _| {
            first = leaf_of(key);
            ControlFlow::Break(())
        });
        match read {
            Ok(()) => {}
            Err(EngineError::Corruption { .. }) => {
                let Reach { in_front, damaged, .. } = self.reach(&range, &[])?;
                first = damaged
                    .and_then(|damaged| tokens_of_range(self.table, &damaged))
                    .map(|(token, _)| LeafId::of(token, self.store.bits));
                if let Some(in_front) = in_front {
                    self.reader.scan(Space::Data, &in_front, Direction::Forward, &mut |key, _| {
                        first = leaf_of(key);
                        ControlFlow::Break(())
                    })?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let first = first.unwrap_or(self.end);
        let until = LeafId(from.0.saturating_add(EMPTY_LEAVES_MAX)).min(first);
        Ok(match self.stray_sum(from, until)? {
            Some(stray) => Next::Used(stray),
            None if until < first => Next::Later(until),
            None if first < self.end => Next::Used(first),
            None => Next::Nothing,
        })
    }

    fn reach(&self, range: &KeyRange, last_read: &[u8]) -> Result<Reach, StoreError> {
        let failure = Failure { space: Space::Data, range, direction: Direction::Forward, last_read };
        Ok(failure.reach(self.reader)?)
    }

    /// The first leaf of a range without rows that has a sum all the same.
    fn stray_sum(&self, from: LeafId, until: LeafId) -> Result<Option<LeafId>, StoreError> {
        let mut stray = None;
        let leaves = leaf_range(self.table, from, until);
        let read = self.reader.scan(Space::Merkle, &leaves, Direction::Forward, &mut |key, value| match (
            decode_leaf_key(key),
            LeafSum::decode(value),
        ) {
            (Some(_), Some(LeafSum::ZERO)) | (None, _) => ControlFlow::Continue(()),
            (Some((_, leaf)), _) => {
                stray = Some(leaf);
                ControlFlow::Break(())
            }
        });
        match read {
            // Sums that cannot be read are found where they should be: at leaves that have rows.
            Ok(()) | Err(EngineError::Corruption { .. }) => Ok(stray),
            Err(error) => Err(error.into()),
        }
    }

    /// Scrubs a leaf, from a key on or all of it, and the rest of the leaf in which damage ends that begins here. Only a
    /// leaf that is read as a whole, and without damage, is compared with its sum.
    fn scrub_from(&mut self, leaf: LeafId, key: Option<&[u8]>) -> Result<Reached, StoreError> {
        let (mut leaf, mut is_whole) = (leaf, key.is_none());
        let damaged_before = self.damaged.len();
        let mut range = self.rows_of(leaf, LeafId(leaf.0 + 1));
        if let Some(key) = key {
            range.start = key.to_vec();
        }
        let mut derived = LeafSum::ZERO;
        loop {
            let (last_read, detail) = match self.verify(&range, &mut derived)? {
                Read::All => break,
                Read::Full { next } => return Ok(Reached::Inside { leaf, key: next }),
                Read::Unreadable { last_read, detail } => (last_read, detail),
            };
            is_whole = false;
            let all = KeyRange { start: range.start, end: self.rows_of(leaf, self.end).end };
            let Reach { in_front, damaged, rest } = self.reach(&all, &last_read)?;
            if let Some(in_front) = in_front {
                match self.verify(&in_front, &mut derived)? {
                    Read::All => {}
                    // The damage is met again from there.
                    Read::Full { next } => return Ok(self.inside(next, leaf)),
                    Read::Unreadable { detail, .. } => {
                        self.damaged.push(DamagedRange::of_rows(self.table, in_front, detail));
                    }
                }
            }
            let damaged = damaged.into_iter().map(|damaged| DamagedRange::of_rows(self.table, damaged, &detail));
            self.damaged.extend(damaged);
            let Some(rest) = rest else { return Ok(Reached::Leaf(self.end)) };
            let Some((first, _)) = tokens_of_range(self.table, &rest) else { return Ok(Reached::Leaf(self.end)) };
            leaf = LeafId::of(first, self.store.bits);
            range = KeyRange { start: rest.start, end: self.rows_of(leaf, LeafId(leaf.0 + 1)).end };
        }
        if is_whole && self.damaged.len() == damaged_before {
            self.compare(leaf, derived)?;
        }
        Ok(Reached::Leaf(LeafId(leaf.0 + 1)))
    }

    /// A key in the leaf it belongs to.
    fn inside(&self, key: Vec<u8>, otherwise: LeafId) -> Reached {
        let leaf = decode_data_key(&key).map_or(otherwise, |(_, token, _)| LeafId::of(token, self.store.bits));
        Reached::Inside { leaf, key }
    }

    /// Reads a range within the bounds; `look` is shown every row.
    fn read(&mut self, range: &KeyRange, mut look: impl FnMut(&mut Self, &[u8], &[u8])) -> Result<Read, StoreError> {
        let (mut last_read, mut next) = (Vec::new(), None);
        let read = self.reader.scan(Space::Data, range, Direction::Forward, &mut |key, value| {
            if self.is_full() {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            self.rows_read += 1;
            self.bytes_read += key.len() + value.len();
            last_read.clear();
            last_read.extend_from_slice(key);
            look(self, key, value);
            ControlFlow::Continue(())
        });
        match (read, next) {
            (Ok(()), None) => Ok(Read::All),
            (Ok(()), Some(next)) => Ok(Read::Full { next }),
            (Err(EngineError::Corruption { detail }), _) => Ok(Read::Unreadable { last_read, detail }),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// How far the bounds go in a range.
    fn measure(&mut self, range: &KeyRange) -> Result<Read, StoreError> {
        let before = self.tally();
        let read = self.read(range, |_, _, _| {});
        self.take_back(before);
        read
    }

    /// Verifies the rows of a range and sums them up.
    fn verify(&mut self, range: &KeyRange, derived: &mut LeafSum) -> Result<Read, StoreError> {
        self.read(range, |step, key, value| match RecordHeader::verify(key, value) {
            Ok(header) => *derived = derived.plus(step.store.merkle_key.row(key, header.version, header.checksum)),
            Err(damage) => step.damaged.push(DamagedRange::of_row(step.table, key, damage)),
        })
    }

    /// Compares a leaf with the sum of the rows that were read of it.
    fn compare(&mut self, leaf: LeafId, derived: LeafSum) -> Result<(), StoreError> {
        let rows = self.rows_of(leaf, LeafId(leaf.0 + 1));
        let stored = match read_leaves(self.reader, self.table, leaf, LeafId(leaf.0 + 1)) {
            Ok(leaves) => leaves.first().map(|(_, sum)| *sum).unwrap_or_default(),
            Err(EngineError::Corruption { detail }) => {
                self.damaged.push(DamagedRange::of_rows(self.table, rows, detail));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if stored != derived {
            let detail = format!(
                "the Merkle leaf says {} rows and sum {:032x}, the rows say {} and {:032x}",
                stored.rows, stored.sum, derived.rows, derived.sum
            );
            self.damaged.push(DamagedRange::of_rows(self.table, rows, detail));
        }
        Ok(())
    }
}
