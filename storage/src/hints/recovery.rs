//! Opening a log: what its files hold, what of it was lost, and where it goes on.
//!
//! The segments are read through once. Hints are counted through over all segments, so whatever is missing shows as a
//! gap in the numbers, up to the position that the cursor says was durable. Bytes after the last sound frame of the
//! newest segment that reach no further than that are the torn tail of a crash: never durable, and left out of account.
//!
//! Invariant: opening changes no segment that holds hints. Nothing is appended to a segment of before either: the next hint
//! begins a new one, and what was found is synced first, so that its numbers are not missed should the machine crash now.

use std::sync::Arc;

use super::cursor;
use super::frame::{Envelope, row_of};
use super::limits::Shared;
use super::log::{HintLog, State};
use super::reader::{Item, Place, SegmentReader};
use super::segment::{self, FRAMES_START, Segment};
use super::{Damage, HintError, Lost, Position};
use crate::files::{Access, File, FilesError, escape_name};
use crate::model::Hlc;

/// A segment that was found.
struct Found {
    number: u32,
    file: Arc<dyn File>,
    len: u64,
    /// From its header, or else from its first sound frame.
    first_sequence: Option<u64>,
    /// Hints from this number on stand in a later segment: here they were taken back.
    limit: u64,
}

/// A log in the course of being opened.
struct Recovery<'a> {
    log: &'a HintLog,
    state: State,
    /// The number of the next hint, as far as the segments read so far tell.
    expected: Option<u64>,
    acknowledged: Option<Position>,
    durable: Option<Position>,
}

impl HintLog {
    /// Opens the log of a target; one that has no files is empty, and creates none before the first append.
    pub(super) fn open(shared: Arc<Shared>, target: &str) -> Result<Self, HintError> {
        let folder = shared.root.join(escape_name(target)?);
        let log = Self::with_state(shared, target.to_owned(), folder, State::empty());
        let entries = match log.shared.files.list(&log.folder) {
            Err(FilesError::NotFound { .. }) => return Ok(log),
            other => log.files_result(other)?,
        };
        let mut numbers: Vec<u32> = entries.iter().filter_map(|entry| segment::parse_name(&entry.name)).collect();
        numbers.sort_unstable();
        let files = &*log.shared.files;
        let acknowledged = cursor::read(files, target, &log.folder, &mut log.acknowledge_gate.lock())?;
        let durable = cursor::read(files, target, &log.folder, &mut log.sync_gate.lock())?;
        let begin = cursor::read(files, target, &log.folder, &mut cursor::begin_slots())?;
        let acknowledged = acknowledged.or(begin);
        let expected = acknowledged.map(|position| position.sequence);
        let mut recovery = Recovery { log: &log, state: State::empty(), expected, acknowledged, durable };
        recovery.state.names.folder_exists = true;
        recovery.run(numbers)?;
        let state = recovery.state;
        log.shared.take(state.bytes());
        let is_spent = state.acknowledged.sequence >= state.next_sequence && state.reports.unconfirmed().is_empty();
        *log.state.lock() = state;
        if is_spent {
            log.clear_away();
        }
        Ok(log)
    }

    /// Removes what a crash left of a log whose hints are all acknowledged. It is in nobody's way if it stays.
    fn clear_away(&self) {
        let _acknowledging = self.acknowledge_gate.lock();
        if let Err(error) = self.collect() {
            tracing::warn!(target = self.target, %error, "an acknowledged hint log stays");
        }
    }
}

impl Recovery<'_> {
    fn run(&mut self, numbers: Vec<u32>) -> Result<(), HintError> {
        let first = self.acknowledged.map_or(0, |position| position.segment);
        let (passed, numbers): (Vec<u32>, Vec<u32>) = numbers.into_iter().partition(|number| *number < first);
        for number in passed {
            // A crash came before it was removed, or brought it back.
            if let Err(error) = self.log.remove_file(&segment::path(&self.log.folder, number)) {
                tracing::warn!(target = self.log.target, segment = number, %error, "an acknowledged segment stays");
            }
        }
        let mut found = numbers.into_iter().map(|number| self.look_at(number)).collect::<Result<Vec<_>, _>>()?;
        let mut limit = u64::MAX;
        for segment in found.iter_mut().rev() {
            segment.limit = limit;
            limit = segment.first_sequence.map_or(limit, |first| limit.min(first));
        }
        let newest = found.last().map(|segment| segment.number);
        for segment in &found {
            self.read(segment, newest == Some(segment.number))?;
        }
        self.finish(&found)
    }

    fn look_at(&mut self, number: u32) -> Result<Found, HintError> {
        let path = segment::path(&self.log.folder, number);
        let file = self.log.files_result(self.log.shared.files.open(&path, Access::Read))?;
        let len = self.log.files_result(file.len())?;
        let header = segment::read_header(&*file, &self.log.target, &path, number)?;
        if let Some(bytes) = header.damaged
            && len > FRAMES_START
        {
            self.state.report(Damage { segment: number, bytes, sequence: 0, lost: Lost::Nothing });
        }
        let mut first_sequence = header.first_sequence;
        if first_sequence.is_none() {
            let from = Place { offset: FRAMES_START, sequence: 0 };
            let mut reader = SegmentReader::new(file.clone(), self.log.seed(number), from, len, u64::MAX);
            first_sequence = self.log.files_result(reader.first_sequence())?;
        }
        Ok(Found { number, file, len, first_sequence, limit: u64::MAX })
    }

    fn read(&mut self, found: &Found, is_newest: bool) -> Result<(), HintError> {
        let number = found.number;
        let from = self.begin(found);
        let mut segment = Segment {
            first_sequence: from.sequence,
            next_sequence: from.sequence,
            sound_sequence: from.sequence,
            end: from.offset,
            bytes: found.len,
            oldest_hlc: None,
            only_copies: 0,
        };
        let mut reader = SegmentReader::new(found.file.clone(), self.log.seed(number), from, found.len, found.limit);
        while let Some(item) = self.log.files_result(reader.next())? {
            match item {
                Item::Hint { hint, sequence, .. } => {
                    segment.hold(hint.record.version.hlc, hint.only_copy);
                    if hint.only_copy {
                        self.state.newest_only_copy = self.state.newest_only_copy.max(Some(sequence));
                    }
                    self.state.keys.insert_durable(row_of(&hint), sequence, hint.created_ms);
                }
                Item::Damage { bytes, sequence, lost } => {
                    if let Lost::Hint { version, .. } = &lost {
                        segment.hold(version.hlc, false);
                    }
                    self.state.report(Damage { segment: number, bytes, sequence, lost });
                }
            }
        }
        segment.sound_sequence = reader.place().sequence;
        let end = self.end_of(found, &reader, is_newest);
        segment.end = end.offset;
        segment.next_sequence = end.sequence;
        self.expected = Some(self.expected.unwrap_or(0).max(end.sequence));
        self.state.segments.insert(number, segment);
        Ok(())
    }

    /// Where reading a segment begins. Numbers that are missing before it are reported.
    fn begin(&mut self, found: &Found) -> Place {
        if let Some(position) = self.acknowledged.filter(|position| position.segment == found.number) {
            return Place { offset: position.offset.max(FRAMES_START), sequence: position.sequence };
        }
        let expected = self.expected.or(found.first_sequence).unwrap_or(1);
        // A first number that is due in a later segment, too, belongs to hints that were taken back.
        let first = found.first_sequence.unwrap_or(expected).min(found.limit.max(expected));
        if let Some(records) = first.checked_sub(expected).filter(|records| *records > 0) {
            let lost = Lost::Unknown { records };
            self.state.report(Damage { segment: found.number, bytes: 0..0, sequence: expected, lost });
        }
        Place { offset: FRAMES_START, sequence: first }
    }

    /// Where a segment ends. A frame that its end cuts off was durable if there is anything after it.
    fn end_of(&mut self, found: &Found, reader: &SegmentReader, is_newest: bool) -> Place {
        let mut place = reader.place();
        let durable = self.durable.map_or(0, |position| position.sequence);
        let was_durable = |cut: &&Envelope| !is_newest || cut.sequence < durable;
        if let Some(cut) = reader.cut().filter(was_durable) {
            let lost = super::reader::lost(cut);
            self.state.report(Damage {
                segment: found.number,
                bytes: place.offset..found.len,
                sequence: cut.sequence,
                lost,
            });
            place.sequence = cut.sequence + 1;
        }
        place
    }

    fn finish(&mut self, found: &[Found]) -> Result<(), HintError> {
        let durable = self.durable.unwrap_or_default();
        let acknowledged = self.acknowledged.unwrap_or_default();
        let mut next = self.expected.unwrap_or(1).max(1);
        if next < durable.sequence {
            let end = self.state.segments.get(&durable.segment).map_or(0, |segment| segment.end);
            let lost = Lost::Unknown { records: durable.sequence - next };
            let bytes = end..durable.offset.max(end);
            self.state.report(Damage { segment: durable.segment, bytes, sequence: next, lost });
            next = durable.sequence;
        }
        let state = &mut self.state;
        let last = found.last().map_or(0, |newest| newest.number).max(acknowledged.segment).max(durable.segment);
        state.next_segment = last.saturating_add(1);
        state.next_sequence = next;
        let end = state.segments.last_key_value().map_or(FRAMES_START, |(_, segment)| segment.end);
        state.durable = Position { segment: last, offset: end.max(acknowledged.offset), sequence: next };
        state.acknowledged = self.acknowledged.unwrap_or_else(|| {
            let first = state.segments.first_key_value();
            first.map_or(state.durable, |(&segment, first)| Position {
                segment,
                offset: 0,
                sequence: first.first_sequence,
            })
        });
        // What was written and not synced when the process died counts as durable from now on, so it has to be.
        for segment in found.iter().filter(|segment| segment.number >= durable.segment) {
            self.log.files_result(segment.file.sync())?;
        }
        self.log.files_result(self.log.shared.files.sync_folder(&self.log.folder))?;
        self.log.files_result(self.log.shared.files.sync_folder(&self.log.shared.root))
    }
}

impl Segment {
    fn hold(&mut self, hlc: Hlc, only_copy: bool) {
        self.oldest_hlc = Some(self.oldest_hlc.map_or(hlc, |oldest| oldest.min(hlc)));
        self.only_copies += u64::from(only_copy);
    }
}
