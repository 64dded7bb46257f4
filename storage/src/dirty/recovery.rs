//! Opening a file of marks: which log is the current one, what it says, and whether anything of it is damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::entry::{Entry, Operation};
use super::layout::{self, CHUNK_ENTRIES, KIND};
use super::target::{DirtyMarks, Log, State};
use super::{Cause, DirtyError, DirtyRange};
use crate::files::header::{FIELDS_LEN, Found, HEADER_LEN};
use crate::files::{Access, File, Files, FilesError};
use crate::model::Version;

/// What was read of a file.
struct Read {
    state: State,
    damaged: bool,
    epoch: u32,
    last_epoch: u32,
    len: u32,
}

impl DirtyMarks {
    /// Opens the marks of a target, which has none where there is no file. When they are damaged, everything is marked with
    /// `horizon`, which is no less than any version this node has seen.
    pub(super) fn open(
        files: Arc<dyn Files>,
        path: PathBuf,
        target: &str,
        horizon: Version,
    ) -> Result<Self, DirtyError> {
        let failed = |source| DirtyError::Files { target: target.to_owned(), source };
        let (mut state, mut log) = (State::default(), None);
        match files.open(&path, Access::Write) {
            Err(FilesError::NotFound { .. }) => {}
            file => {
                let found = load(&*files, file.map_err(failed)?, &path, target)?;
                (state, log) = (found.state, Some(found.log));
                if found.damaged {
                    tracing::error!(target, path = %path.display(), "dirty marks are damaged: everything is marked");
                    let greatest = state.marks.iter().map(|mark| mark.version).max().unwrap_or(horizon);
                    state.marks.mark(DirtyRange::Everything, greatest.max(horizon));
                    state.by_cause.insert(Cause::Corrupt, 1);
                    state.rewrite = true;
                }
            }
        }
        let (state, log) = (Mutex::new(state), Mutex::new(log));
        let marks = Self { target: target.to_owned(), files, path, state, log };
        if marks.state.lock().rewrite
            && let Err(error) = marks.sync()
        {
            tracing::error!(target, %error, "dirty marks could not be written anew: the next sync will try again");
        }
        Ok(marks)
    }
}

/// What a file holds.
struct Loaded {
    state: State,
    log: Log,
    damaged: bool,
}

fn load(files: &dyn Files, file: Arc<dyn File>, path: &Path, target: &str) -> Result<Loaded, DirtyError> {
    let failed = |source| DirtyError::Files { target: target.to_owned(), source };
    // The process that made the file may have died before its name was durable.
    files.sync_folder(path.parent().unwrap_or(Path::new(""))).map_err(failed)?;
    repair_header(&*file, path, target)?;
    let mut slots = layout::durable_slots();
    let noted = match slots.read(&*file) {
        Err(FilesError::Io { .. }) => None,
        other => other.map_err(failed)?,
    };
    let capacity = layout::capacity(file.len().map_err(failed)?);
    let Read { mut state, damaged, epoch, last_epoch, len } =
        read(&*file, target, noted.map(decode_noted)).map_err(failed)?;
    state.file_bytes = layout::file_len(capacity);
    Ok(Loaded { state, log: Log { file, slots, epoch, last_epoch, len, capacity }, damaged })
}

/// Makes a file without marks.
pub(super) fn make(files: &dyn Files, path: &Path, target: &str) -> Result<Log, DirtyError> {
    let file = create(files, path, target);
    let file = file.map_err(|source| DirtyError::Files { target: target.to_owned(), source })?;
    Ok(load(files, file, path, target)?.log)
}

/// Checks whose marks they are and in which format. A damaged copy of the header is written again: the marks themselves
/// do not depend on it.
fn repair_header(file: &dyn File, path: &Path, target: &str) -> Result<(), DirtyError> {
    let (target, path) = (target.to_owned(), path.to_owned());
    let damaged = match KIND.read(file) {
        Err(source) => return Err(DirtyError::Files { target, source }),
        Ok(Found::Newer { format: found }) => {
            return Err(DirtyError::Format { target, path, found, supported: KIND.format });
        }
        Ok(Found::Header { header, .. }) if header.node != target => {
            return Err(DirtyError::WrongTarget { target, path, found: header.node });
        }
        Ok(Found::Header { damaged: None, .. }) => return Ok(()),
        Ok(Found::Header { damaged: Some(damaged), .. }) => damaged,
        Ok(Found::Damaged) => 0..HEADER_LEN,
    };
    tracing::warn!(target, path = %path.display(), "the header of dirty marks was damaged: written again");
    let header = KIND.encode(&target, [0; FIELDS_LEN]);
    let copies = header.get(damaged.start as usize..damaged.end as usize).unwrap_or_default();
    file.write_at(damaged.start, copies).map_err(|source| DirtyError::Files { target, source })
}

/// Makes a file, under its name only when it is whole: a file that is there was always sound once.
fn create(files: &dyn Files, path: &Path, target: &str) -> Result<Arc<dyn File>, FilesError> {
    let new = path.with_extension("new");
    match files.remove(&new) {
        Ok(()) | Err(FilesError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let file = files.create(&new)?;
    let begin = Entry { epoch: 1, index: 0, durable: 0, operation: Operation::Begin { count: 0 } };
    let made = file
        .preallocate(layout::file_len(CHUNK_ENTRIES))
        .and_then(|()| file.write_at(0, &KIND.encode(target, [0; FIELDS_LEN])))
        .and_then(|()| layout::write(&*file, target, &[begin]))
        .and_then(|()| file.sync())
        .and_then(|()| files.rename(&new, path));
    if let Err(error) = made {
        // The error that counts is the first; the next attempt removes what is left.
        let _ = files.remove(&new);
        return Err(error);
    }
    files.open(path, Access::Write)
}

fn decode_noted(value: [u8; 8]) -> (u32, u32) {
    let value = u64::from_be_bytes(value);
    ((value >> 32) as u32, value as u32)
}

fn read(file: &dyn File, target: &str, noted: Option<(u32, u32)>) -> Result<Read, FilesError> {
    let logs = [layout::read(file, target, 0)?, layout::read(file, target, 1)?];
    let begins = logs.iter().filter_map(|log| {
        let first = log.first()?;
        match first.operation {
            Operation::Begin { count } if first.index == 0 => Some((first.epoch, count)),
            _ => None,
        }
    });
    let current = begins.max();
    let (epoch, count) = current.unwrap_or((0, 0));
    let last_epoch = logs.iter().flatten().map(|entry| entry.epoch).chain(noted.map(|(of, _)| of)).max().unwrap_or(0);
    let mut state = State::default();
    let [even, odd] = logs;
    let (log, other) = if epoch % 2 == 0 { (even, odd) } else { (odd, even) };
    // What follows a first entry that is gone, or belongs to a log that never became the current one. Either way it
    // marks nothing that need not be; what it clears counts only if it is the current one, which nobody knows.
    let (log, mut stray): (Vec<Entry>, Vec<Entry>) = log.into_iter().partition(|entry| entry.epoch == epoch);
    stray.extend(other);
    stray.retain(|entry| entry.epoch > epoch);

    let noted_durable = noted.filter(|(of, _)| *of == epoch).map_or(0, |(_, durable)| durable);
    let told_durable = log.iter().map(|entry| entry.durable).max().unwrap_or(0);
    let durable = noted_durable.max(told_durable).max(count.saturating_add(1));
    let found = log.iter().filter(|entry| entry.index < durable).count();
    let is_gone = stray.iter().any(|entry| entry.durable > 0) || noted.is_some_and(|(of, _)| of > epoch);
    let damaged = current.is_none() || is_gone || found < durable as usize;
    let len = log.last().map_or(0, |last| last.index.saturating_add(1));
    // Entries that nobody is known to have synced, with holes perhaps, left by a torn write or a failed sync: they must
    // not come to stand before durable ones.
    state.rewrite = durable < len || !stray.is_empty();
    for entry in log {
        match entry.operation {
            Operation::Mark { range, version } => state.marks.restore(range, version),
            Operation::Clear { range } => state.marks.forget(range),
            Operation::Begin { .. } => {}
        }
    }
    for entry in stray {
        if let Operation::Mark { range, version } = entry.operation {
            state.marks.mark(range, version);
        }
    }
    Ok(Read { state, damaged, epoch, last_epoch, len })
}
