//! Reading hints for replay, oldest first, and taking the target's acknowledgements.
//!
//! Invariants: only durable hints are read; a segment is removed only when all of it is acknowledged and that is
//! durable; nothing is acknowledged past damage that is not confirmed as marked. A replay that is interrupted begins
//! again at [`HintLog::start`]; what it sends twice changes nothing at the target.

use std::cmp::Ordering;

use super::log::{HintLog, State};
use super::reader::{Item, Place, SegmentReader};
use super::segment::{self, FRAMES_START, Segment};
use super::{Damage, Hint, HintError, Lost, Position, cursor};
use crate::files::{Access, FilesError};

/// How much one read returns: it ends with the hint that reaches either limit, so one is always let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Hints.
    pub records: usize,
    /// Bytes of keys and records.
    pub bytes: usize,
}

/// A hint as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The hint.
    pub hint: Hint,
    /// Acknowledging this acknowledges the hint and all before it.
    pub after: Position,
}

/// Hints to be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintBatch {
    /// Oldest first.
    pub hints: Vec<Stored>,
    /// Bytes of their keys and records.
    pub bytes: usize,
    /// Where the next read goes on. Acknowledging it acknowledges all of the batch and the damage that was skipped,
    /// also where there are no hints in it: then the read has come to the end.
    pub next: Position,
}

/// What a read is to go through: a segment and the part of it that is durable.
struct Span {
    number: u32,
    from: Place,
    end: u64,
    next_sequence: u64,
    sound_sequence: u64,
}

impl Span {
    /// The first part from `from` on that is durable and not read yet.
    fn find(state: &State, from: Position) -> Option<Self> {
        let readable = state.segments.range(from.segment..).take_while(|(number, _)| **number <= state.durable.segment);
        let mut spans = readable.map(|(&number, segment)| {
            let (end, next_sequence) = if number == state.durable.segment {
                (state.durable.offset, state.durable.sequence)
            } else {
                (segment.end, segment.next_sequence)
            };
            let from = if number == from.segment && from.offset >= FRAMES_START {
                Place { offset: from.offset, sequence: from.sequence }
            } else {
                Place { offset: FRAMES_START, sequence: segment.first_sequence }
            };
            let sound_sequence = segment.sound_sequence.min(next_sequence);
            Self { number, from, end, next_sequence, sound_sequence }
        });
        // At its end there may still be numbers to pass, of hints that are lost. Past its end there is nothing.
        let is_unread = |span: &Self| match span.from.offset.cmp(&span.end) {
            Ordering::Less => true,
            Ordering::Equal => span.from.sequence < span.next_sequence,
            Ordering::Greater => false,
        };
        spans.find(is_unread)
    }

    fn after(&self) -> Position {
        Position { segment: self.number, offset: self.end, sequence: self.next_sequence }
    }
}

impl HintLog {
    /// Hints from a position on. Damage is skipped to the next good hint and told by [`HintLog::damage`].
    pub fn read(&self, from: Position, limits: ReadLimits) -> Result<HintBatch, HintError> {
        let mut batch = HintBatch { hints: Vec::new(), bytes: 0, next: from };
        loop {
            let span = {
                let state = self.state.lock();
                self.check_present(&state)?;
                batch.next = batch.next.max(state.acknowledged);
                match Span::find(&state, batch.next) {
                    Some(span) => span,
                    None => {
                        // Hints missing at the very end are passed like any others.
                        batch.next = batch.next.max(state.durable);
                        return Ok(batch);
                    }
                }
            };
            if self.read_span(&span, limits, &mut batch)? {
                return Ok(batch);
            }
            batch.next = span.after();
        }
    }

    /// Reads one span; whether the batch is full.
    fn read_span(&self, span: &Span, limits: ReadLimits, batch: &mut HintBatch) -> Result<bool, HintError> {
        let path = segment::path(&self.folder, span.number);
        let file = match self.shared.files.open(&path, Access::Read) {
            Ok(file) => file,
            Err(FilesError::NotFound { .. }) => {
                self.report_rest(span, span.from, 0);
                return Ok(false);
            }
            Err(source) => return Err(HintError::Files { target: self.target.clone(), source }),
        };
        let mut reader = SegmentReader::new(file, self.seed(span.number), span.from, span.end, span.next_sequence);
        while let Some(item) = self.files_result(reader.next())? {
            match item {
                Item::Damage { bytes, sequence, lost } => {
                    self.state.lock().report(Damage { segment: span.number, bytes, sequence, lost });
                }
                Item::Hint { hint, after, .. } => {
                    batch.bytes += hint.key.len_bytes() + hint.record.encoded_len();
                    batch.next = Position { segment: span.number, offset: after.offset, sequence: after.sequence };
                    batch.hints.push(Stored { hint, after: batch.next });
                    if batch.hints.len() >= limits.records || batch.bytes >= limits.bytes {
                        return Ok(true);
                    }
                }
            }
        }
        self.report_rest(span, reader.place(), span.end);
        Ok(false)
    }

    /// Reports what is missing between the last sound frame and the end of a span.
    fn report_rest(&self, span: &Span, place: Place, end: u64) {
        let mut state = self.state.lock();
        // Acknowledged and removed while it was read: nothing is missed.
        let records = span.sound_sequence.saturating_sub(place.sequence.max(state.acknowledged.sequence));
        if records > 0 {
            let bytes = place.offset..end.max(place.offset);
            let lost = Lost::Unknown { records };
            state.report(Damage { segment: span.number, bytes, sequence: place.sequence, lost });
        }
    }

    /// The target has taken, durably, everything before a position that [`HintLog::read`] gave. Segments that are
    /// acknowledged wholly are removed; so is everything else once nothing is left to replay.
    pub fn acknowledge(&self, position: Position) -> Result<(), HintError> {
        self.pass(position, |counters, records| counters.acknowledged += records)
    }

    /// Moves the acknowledged position, and counts the hints passed as `count` says.
    pub(super) fn pass(
        &self,
        position: Position,
        count: impl FnOnce(&mut super::Counters, u64),
    ) -> Result<(), HintError> {
        let mut slots = self.acknowledge_gate.lock();
        {
            let state = self.state.lock();
            self.check_present(&state)?;
            if position > state.durable || position.sequence > state.durable.sequence {
                return Err(HintError::PastEnd { target: self.target.clone(), position, end: state.durable });
            }
            if let Some(damage) = state.reports.in_the_way(position.sequence) {
                let damage = Box::new(damage.clone());
                return Err(HintError::Unconfirmed { target: self.target.clone(), damage });
            }
            if position <= state.acknowledged || position.sequence < state.acknowledged.sequence {
                return self.collect_after(state);
            }
        }
        // Durable before anything is removed: a reader must not take removed hints for missing ones.
        let opened = cursor::open_or_create(&*self.shared.files, &self.folder, position);
        let (file, created) = self.files_result(opened)?;
        self.files_result(slots.write(&*file, cursor::encode(position)).and_then(|()| file.sync()))?;
        if created {
            self.files_result(self.shared.files.sync_folder(&self.folder))?;
        }
        slots.kept();

        let mut state = self.state.lock();
        let passed = position.sequence.saturating_sub(state.acknowledged.sequence);
        let lost = state.reports.records_from(state.acknowledged.sequence);
        let lost = lost.saturating_sub(state.reports.records_from(position.sequence));
        count(&mut state.counters, passed.saturating_sub(lost));
        state.acknowledged = position;
        state.keys.acknowledge(position.sequence);
        self.collect_after(state)
    }

    fn collect_after(&self, state: parking_lot::MutexGuard<'_, State>) -> Result<(), HintError> {
        let any = state.segments.first_key_value().is_some_and(|(_, segment)| is_passed(&state, segment));
        let is_spent = state.names.folder_exists && state.acknowledged.sequence >= state.next_sequence;
        drop(state);
        if any || is_spent { self.collect() } else { Ok(()) }
    }

    /// Removes the segments that are acknowledged wholly. Called with the gate of acknowledgements held.
    pub(super) fn collect(&self) -> Result<(), HintError> {
        loop {
            let mut state = self.state.lock();
            let Some((&number, segment)) = state.segments.first_key_value() else { break };
            if !is_passed(&state, segment) || state.unsynced.contains_key(&number) {
                break;
            }
            if state.active.as_ref().is_some_and(|active| active.number == number) {
                state.active = None;
            }
            // Under the lock: a segment is either there, or no longer known.
            self.remove_file(&segment::path(&self.folder, number))?;
            if let Some(segment) = state.segments.remove(&number) {
                self.shared.release(segment.bytes);
            }
            state.reports.forget_before(number.saturating_add(1));
        }
        self.files_result(self.shared.files.sync_folder(&self.folder))?;
        self.leave_nothing()
    }

    /// Removes cursor and folder of a log without segments. After the segments, durably: a segment that a crash brought
    /// back without the cursor would only be replayed again, but a cursor without its segments reports them missing.
    fn leave_nothing(&self) -> Result<(), HintError> {
        let _syncing = self.sync_gate.lock();
        let mut state = self.state.lock();
        if state.acknowledged.sequence < state.next_sequence {
            return Ok(());
        }
        self.remove_file(&cursor::path(&self.folder))?;
        self.remove_folder();
        state.names.folder_exists = false;
        Ok(())
    }
}

fn is_passed(state: &State, segment: &Segment) -> bool {
    segment.next_sequence <= state.acknowledged.sequence
}
