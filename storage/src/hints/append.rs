//! Appending: which hints the caps let in, and one write for all of them.
//!
//! Invariant: an append that fails leaves the segment as it was, or leaves the segment alone for good: its end is cut
//! back to the last hint before, and where that fails too, the next append begins a new segment, whose first number
//! tells every reader that what follows in the old one does not count.

use std::collections::BTreeSet;

use super::frame::Prepared;
use super::log::{Active, HintLog, State};
use super::segment::{self, FRAMES_START, Segment};
use super::{Full, Hint, HintError, HintLimits, Position, cursor};

/// The most bytes of one append. It is written in one call from one buffer, so this bounds both memory and how far a
/// segment outgrows its size; a batch of client writes at its limit of 16 MiB fits four times.
const APPEND_BYTES_MAX: u64 = 64 << 20;

/// What to wait for: the hints appended up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) generation: u64,
    pub(super) sequence: u64,
}

/// What came of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// For [`HintLog::sync`]: nothing of the append is durable before.
    pub ticket: Ticket,
    /// The hints that are not kept, by their place in the append, and why.
    pub refused: Vec<(usize, Full)>,
}

/// Whether the caps apply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caps {
    Apply,
    /// For hints that move within the log: refusing them would lose them.
    Ignore,
}

/// The hints of an append that are let in.
struct Admitted {
    hints: Vec<usize>,
    refused: Vec<(usize, Full)>,
    /// Bytes taken from the shared account.
    bytes: u64,
}

impl HintLog {
    /// Writes hints, each of which the caps let in or refuse; none is durable before [`HintLog::sync`]. After an error
    /// none of them is kept.
    pub fn append(&self, hints: &[Hint]) -> Result<Appended, HintError> {
        self.append_with(hints, Caps::Apply)
    }

    pub(super) fn append_with(&self, hints: &[Hint], caps: Caps) -> Result<Appended, HintError> {
        let prepared: Vec<Prepared> = hints.iter().filter_map(Prepared::new).collect();
        let bytes = prepared.iter().map(Prepared::frame_len).fold(0, u64::saturating_add);
        if prepared.len() < hints.len() || bytes > APPEND_BYTES_MAX {
            return Err(HintError::TooLarge { target: self.target.clone(), bytes, limit: APPEND_BYTES_MAX });
        }
        let mut state = self.state.lock();
        self.check_present(&state)?;
        let limits = self.shared.limits();
        let full = |active: &Active| state.segments.get(&active.number).is_none_or(|s| s.end >= limits.segment_bytes);
        if state.active.as_ref().is_some_and(full) {
            state.active = None;
        }
        let admitted = self.admit(&state, limits, caps, &prepared);
        count_refused(&mut state, &admitted.refused);
        if !admitted.hints.is_empty() {
            let kept = admitted.hints.iter().filter_map(|place| hints.get(*place).zip(prepared.get(*place)));
            let kept: Vec<(&Hint, &Prepared)> = kept.collect();
            if let Err(error) = self.write(&mut state, &kept) {
                self.shared.release(admitted.bytes);
                state.counters.failed += kept.len() as u64;
                return Err(error);
            }
        }
        let ticket = Ticket { generation: state.generation, sequence: state.next_sequence };
        Ok(Appended { ticket, refused: admitted.refused })
    }

    fn admit(&self, state: &State, limits: HintLimits, caps: Caps, prepared: &[Prepared]) -> Admitted {
        let mut admitted = Admitted { hints: Vec::with_capacity(prepared.len()), refused: Vec::new(), bytes: 0 };
        let held = state.bytes();
        let mut new_rows = BTreeSet::new();
        for (place, hint) in prepared.iter().enumerate() {
            let begins_segment = admitted.hints.is_empty() && state.active.is_none();
            let bytes = hint.frame_len() + if begins_segment { FRAMES_START } else { 0 };
            let is_new = !state.keys.contains(hint.row) && !new_rows.contains(&hint.row);
            let refusal = if caps == Caps::Ignore {
                self.shared.take(bytes);
                None
            } else if is_new && state.keys.len() + new_rows.len() as u64 >= limits.keys_max {
                Some(Full::Keys)
            } else if held + admitted.bytes + bytes > limits.bytes_max {
                Some(Full::Bytes)
            } else if !self.shared.reserve(bytes, limits.total_bytes_max) {
                Some(Full::Global)
            } else {
                None
            };
            match refusal {
                Some(full) => admitted.refused.push((place, full)),
                None => {
                    admitted.hints.push(place);
                    admitted.bytes += bytes;
                    if is_new {
                        new_rows.insert(hint.row);
                    }
                }
            }
        }
        admitted
    }

    fn write(&self, state: &mut State, hints: &[(&Hint, &Prepared)]) -> Result<(), HintError> {
        let (active, is_new) = match &state.active {
            Some(active) => (active.clone(), false),
            None => (self.begin_segment(state)?, true),
        };
        let Some(segment) = state.segments.get_mut(&active.number) else { return Ok(()) };
        let seed = self.seed(active.number);
        let mut bytes = Vec::new();
        for ((_, hint), sequence) in hints.iter().zip(state.next_sequence..) {
            hint.encode(&seed, segment.end + bytes.len() as u64, sequence, &mut bytes);
        }
        if let Err(error) = active.file.append(&bytes) {
            if is_new {
                self.discard_segment(state, active.number);
            } else if active.file.truncate(segment.end).is_err() {
                state.active = None;
            }
            return self.files_result(Err(error));
        }
        segment.end += bytes.len() as u64;
        segment.bytes = segment.end;
        state.unsynced.insert(active.number, active.file);
        for (hint, prepared) in hints {
            let sequence = state.next_sequence;
            state.next_sequence += 1;
            segment.next_sequence = state.next_sequence;
            segment.sound_sequence = state.next_sequence;
            let hlc = hint.record.version.hlc;
            segment.oldest_hlc = Some(segment.oldest_hlc.map_or(hlc, |oldest| oldest.min(hlc)));
            if hint.only_copy {
                segment.only_copies += 1;
                state.newest_only_copy = Some(sequence);
            }
            state.keys.insert(prepared.row, sequence, hint.created_ms);
        }
        state.counters.appended += hints.len() as u64;
        Ok(())
    }

    /// Takes back a segment that was begun for an append that failed.
    fn discard_segment(&self, state: &mut State, number: u32) {
        state.segments.remove(&number);
        state.active = None;
        if let Err(error) = self.remove_file(&segment::path(&self.folder, number)) {
            tracing::warn!(target = self.target, segment = number, %error, "an empty segment stays");
        }
    }

    /// Creates the next segment, and folder and cursor before the first.
    fn begin_segment(&self, state: &mut State) -> Result<Active, HintError> {
        if !state.names.folder_exists {
            state.names.root_unsynced |= self.files_result(self.shared.files.create_folder(&self.folder))?;
            state.names.folder_exists = true;
        }
        let number = state.next_segment;
        let first = Position { segment: number, offset: FRAMES_START, sequence: state.next_sequence };
        // Where the cursor was lost, the segments of before are still to be replayed.
        let begin = if state.segments.is_empty() { first } else { state.acknowledged };
        let (_, created) = self.files_result(cursor::open_or_create(&*self.shared.files, &self.folder, begin))?;
        state.names.folder_unsynced |= created;
        let path = segment::path(&self.folder, number);
        let file = self.files_result(self.shared.files.create(&path))?;
        // A number is used once, so that whatever a failure leaves under it is never appended to.
        state.next_segment += 1;
        state.names.folder_unsynced = true;
        if let Err(error) = file.append(&segment::header(&self.target, number, state.next_sequence)) {
            self.remove_file(&path)?;
            return self.files_result(Err(error));
        }
        let segment = Segment {
            first_sequence: state.next_sequence,
            next_sequence: state.next_sequence,
            sound_sequence: state.next_sequence,
            end: FRAMES_START,
            bytes: FRAMES_START,
            oldest_hlc: None,
            only_copies: 0,
        };
        state.segments.insert(number, segment);
        let active = Active { number, file };
        state.active = Some(active.clone());
        Ok(active)
    }
}

fn count_refused(state: &mut State, refused: &[(usize, Full)]) {
    for (_, full) in refused {
        match full {
            Full::Keys => state.counters.refused_keys += 1,
            Full::Bytes => state.counters.refused_bytes += 1,
            Full::Global => state.counters.refused_global += 1,
        }
    }
}
