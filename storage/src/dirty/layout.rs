//! Where things stand in a file of marks.
//!
//! ```text
//! 0     header, two copies (see `files/header.rs`; fields: zero)
//! 1024  how far the current log is durable, two slots (see `files/slots.rs`): epoch u32 | durable u32
//! 4096  chunk 0 of the even log | chunk 0 of the odd log | chunk 1 of the even log | ...    (4,096 entries each)
//! ```
//!
//! A log stands in the chunks of its epoch's parity. Both grow together, at the end of the file, so growing moves
//! nothing.

use super::entry::{ENTRY_LEN, Entry};
use crate::files::header::{HEADER_LEN, Kind};
use crate::files::slots::Slots;
use crate::files::{File, FilesError};

pub(super) const KIND: Kind = Kind { magic: *b"CUBEMARK", format: 1 };

/// Entries by which a log grows: at 320 KiB a target for both logs it is always there, and holds a mark for each of 256
/// partitions of several tables when the disk is full from the start.
pub(super) const CHUNK_ENTRIES: u32 = 4096;

/// The most entries of a log. A table with 256 partitions has 1,048,576 leaves; with a fifth of them marked, a whole
/// partition's mark costs hardly more to repair than its leaves', and the file (20 MiB for both logs) and the marks in
/// memory (some 16 MiB) stay small beside what hints may take.
pub(super) const ENTRIES_MAX: u32 = 64 * CHUNK_ENTRIES;

const LOGS_START: u64 = 4096;
const CHUNK_LEN: u64 = CHUNK_ENTRIES as u64 * ENTRY_LEN as u64;

pub(super) type DurableSlots = Slots<8>;

pub(super) const fn durable_slots() -> DurableSlots {
    Slots::new(HEADER_LEN, b"marks durable")
}

/// The length of a file whose logs hold this many entries each.
pub(super) fn file_len(capacity: u32) -> u64 {
    LOGS_START + u64::from(capacity / CHUNK_ENTRIES) * 2 * CHUNK_LEN
}

/// How many entries each log of a file holds.
pub(super) fn capacity(file_len: u64) -> u32 {
    let chunks = file_len.saturating_sub(LOGS_START) / (2 * CHUNK_LEN);
    u32::try_from(chunks).unwrap_or(u32::MAX).saturating_mul(CHUNK_ENTRIES).min(ENTRIES_MAX)
}

fn offset(epoch: u32, index: u32) -> u64 {
    let chunk = u64::from(index / CHUNK_ENTRIES) * 2 + u64::from(epoch % 2);
    LOGS_START + chunk * CHUNK_LEN + u64::from(index % CHUNK_ENTRIES) * ENTRY_LEN as u64
}

/// Writes entries of one log that follow each other.
pub(super) fn write(file: &dyn File, target: &str, entries: &[Entry]) -> Result<(), FilesError> {
    for part in entries.chunk_by(|a, b| a.index / CHUNK_ENTRIES == b.index / CHUNK_ENTRIES) {
        let Some(first) = part.first() else { continue };
        let mut bytes = Vec::with_capacity(part.len() * ENTRY_LEN);
        for entry in part {
            entry.encode(target, &mut bytes);
        }
        file.write_at(offset(first.epoch, first.index), &bytes)?;
    }
    Ok(())
}

/// Reads the log of a parity: the sound entries of any epoch, in the order of their places.
pub(super) fn read(file: &dyn File, target: &str, parity: u32) -> Result<Vec<Entry>, FilesError> {
    let (mut entries, len) = (Vec::new(), file.len()?);
    // The last chunk may be cut short.
    for first in (0..ENTRIES_MAX).step_by(CHUNK_ENTRIES as usize).take_while(|first| offset(parity, *first) < len) {
        let bytes = match file.read_at(offset(parity, first), CHUNK_LEN as usize) {
            // What cannot be read is missing, and judged like all that is.
            Err(FilesError::Io { .. }) => continue,
            other => other?,
        };
        let places = (first..).zip(bytes.chunks_exact(ENTRY_LEN));
        entries.extend(places.filter_map(|(place, bytes)| Entry::decode(target, place, bytes)));
    }
    entries.retain(|entry| entry.epoch % 2 == parity);
    Ok(entries)
}
