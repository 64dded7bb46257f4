//! Making appended hints durable, all that wait with one sync.
//!
//! Invariant: a ticket is told durable only after a sync that began when all its bytes were written has succeeded, and
//! no sync failed in between. The page cache forgets what a failed sync did not write and reports success the next
//! time, so after a failure nothing since the last success is trusted: it is taken back, and a new segment begun.

use std::sync::Arc;

use super::append::Ticket;
use super::log::{HintLog, Names, State};
use super::{HintError, Position, cursor, segment};
use crate::files::{File, FilesError};

/// What one sync is to make durable.
struct Work {
    files: Vec<Arc<dyn File>>,
    names: Names,
    /// How far the log is durable when it is done.
    end: Position,
}

impl HintLog {
    /// Waits until the hints of the ticket are durable; shares the sync with everyone who waits at the time. After an
    /// error they are not kept.
    pub fn sync(&self, ticket: Ticket) -> Result<(), HintError> {
        if self.settled(&self.state.lock(), ticket)? {
            return Ok(());
        }
        let mut slots = self.sync_gate.lock();
        let work = {
            let mut state = self.state.lock();
            // Whoever held the gate before may have synced these hints too, or lost them.
            if self.settled(&state, ticket)? {
                return Ok(());
            }
            Work::begin(&mut state)
        };
        if let Err(source) = self.run(&work) {
            self.roll_back(&work);
            return Err(HintError::Files { target: self.target.clone(), source });
        }
        let acknowledged = {
            let mut state = self.state.lock();
            work.finish(&mut state);
            state.acknowledged
        };
        let kept = cursor::open_or_create(&*self.shared.files, &self.folder, acknowledged)
            .and_then(|(file, _)| slots.write(&*file, cursor::encode(work.end)));
        match kept {
            Ok(()) => slots.kept(),
            // A lower bound that stays low weakens only how surely a cut file is noticed.
            Err(error) => tracing::warn!(target = self.target, %error, "could not note how far hints are durable"),
        }
        Ok(())
    }

    /// Whether the hints of a ticket are durable; an error if they never will be.
    fn settled(&self, state: &State, ticket: Ticket) -> Result<bool, HintError> {
        self.check_present(state)?;
        if ticket.generation != state.generation {
            return Err(HintError::NotKept { target: self.target.clone() });
        }
        Ok(ticket.sequence <= state.durable.sequence)
    }

    fn run(&self, work: &Work) -> Result<(), FilesError> {
        for file in &work.files {
            file.sync()?;
        }
        if work.names.folder_unsynced {
            self.shared.files.sync_folder(&self.folder)?;
        }
        if work.names.root_unsynced {
            self.shared.files.sync_folder(&self.shared.root)?;
        }
        Ok(())
    }

    /// Takes back everything since the last successful sync, what was appended during the failed one included.
    fn roll_back(&self, work: &Work) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let durable = state.durable;
        state.generation += 1;
        state.names.folder_unsynced |= work.names.folder_unsynced;
        state.names.root_unsynced |= work.names.root_unsynced;
        state.active = None;
        state.counters.failed += state.next_sequence - durable.sequence;
        for (number, file) in std::mem::take(&mut state.unsynced) {
            // Failing to cut or remove leaves bytes that the next segment's first number voids.
            let cut = if number == durable.segment {
                file.truncate(durable.offset)
            } else {
                self.shared.files.remove(&segment::path(&self.folder, number))
            };
            if let Err(error) = cut {
                tracing::warn!(target = self.target, segment = number, %error, "could not cut a segment back");
            }
        }
        for (_, segment) in state.segments.split_off(&durable.segment.saturating_add(1)) {
            self.shared.release(segment.bytes);
        }
        if let Some(segment) = state.segments.get_mut(&durable.segment) {
            self.shared.release(segment.bytes.saturating_sub(durable.offset));
            segment.bytes = segment.bytes.min(durable.offset);
            segment.end = segment.end.min(durable.offset);
            segment.next_sequence = segment.next_sequence.min(durable.sequence);
            segment.sound_sequence = segment.sound_sequence.min(durable.sequence);
        }
        state.next_sequence = durable.sequence;
        state.keys.roll_back(durable.sequence, state.acknowledged.sequence);
    }
}

impl Work {
    fn begin(state: &mut State) -> Self {
        let files = state.unsynced.values().cloned().collect();
        let names = state.names;
        (state.names.folder_unsynced, state.names.root_unsynced) = (false, false);
        let last = state.segments.last_key_value();
        let end = last.map_or(state.durable, |(&number, segment)| Position {
            segment: number,
            offset: segment.end,
            sequence: state.next_sequence,
        });
        Self { files, names, end }
    }

    fn finish(&self, state: &mut State) {
        state.durable = self.end;
        state.keys.settle(self.end.sequence);
        let grown = state.segments.get(&self.end.segment).is_some_and(|segment| segment.end > self.end.offset);
        state.unsynced = state.unsynced.split_off(&self.end.segment);
        if !grown {
            state.unsynced.remove(&self.end.segment);
        }
    }
}
