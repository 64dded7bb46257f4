//! How far a log has got: acknowledged by the target, and durable. One file of fixed size beside the segments,
//! overwritten in place, so that acknowledging (which is what frees space) works on a full disk.
//!
//! ```text
//! offset 0: acknowledged    offset 1024: durable    offset 2048: begin    (two slots each: see `files/slots.rs`)
//! value: format u8 | segment u32 | offset u64 | sequence u64
//! ```
//!
//! `acknowledged` is synced before the segments before it are removed. Losing it costs a replay of what is still there,
//! which changes nothing at the target. `durable` is a lower bound, written after every sync and not synced itself: a
//! log that ends before it was cut short, and did not just lose the tail of a crash. `begin` is written once, with the
//! file: before the first acknowledgement it says which hints there should be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BufMut;

use super::{HintError, Position};
use crate::files::slots::Slots;
use crate::files::{Access, File, Files, FilesError};

const FORMAT: u8 = 1;
const VALUE_LEN: usize = 1 + 4 + 8 + 8;
const NAME: &str = "cursor";

/// The slots of one of the two positions.
pub(super) type PositionSlots = Slots<VALUE_LEN>;

pub(super) const fn acknowledged_slots() -> PositionSlots {
    Slots::new(0, b"hints acknowledged")
}

pub(super) const fn durable_slots() -> PositionSlots {
    Slots::new(PositionSlots::LEN, b"hints durable")
}

pub(super) const fn begin_slots() -> PositionSlots {
    Slots::new(2 * PositionSlots::LEN, b"hints begin")
}

const FILE_LEN: u64 = 3 * PositionSlots::LEN;

pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

pub(super) fn encode(position: Position) -> [u8; VALUE_LEN] {
    let mut value = [0; VALUE_LEN];
    let mut rest = value.as_mut_slice();
    rest.put_u8(FORMAT);
    rest.put_u32(position.segment);
    rest.put_u64(position.offset);
    rest.put_u64(position.sequence);
    value
}

fn decode(value: &[u8; VALUE_LEN]) -> Option<Result<Position, u8>> {
    let (format, rest) = value.split_first()?;
    if *format != FORMAT {
        return Some(Err(*format));
    }
    let (segment, rest) = rest.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let sequence = <[u8; 8]>::try_from(rest).ok()?;
    Some(Ok(Position {
        segment: u32::from_be_bytes(*segment),
        offset: u64::from_be_bytes(*offset),
        sequence: u64::from_be_bytes(sequence),
    }))
}

/// The position in the slots, if one reads back.
pub(super) fn read(
    files: &dyn Files,
    target: &str,
    folder: &Path,
    slots: &mut PositionSlots,
) -> Result<Option<Position>, HintError> {
    let path = path(folder);
    let value = match files.open(&path, Access::Read).and_then(|file| slots.read(&*file)) {
        // Unreadable is lost, which both positions may be.
        Err(FilesError::NotFound { .. } | FilesError::Io { .. }) => None,
        other => other.map_err(|source| HintError::Files { target: target.to_owned(), source })?,
    };
    match value.as_ref().and_then(decode) {
        Some(Ok(position)) => Ok(Some(position)),
        Some(Err(found)) => Err(HintError::Format { target: target.to_owned(), path, found, supported: FORMAT }),
        None => Ok(None),
    }
}

/// The cursor's file, created if need be, for a log that begins there. Whether it was created: then its folder is to be
/// synced.
pub(super) fn open_or_create(
    files: &dyn Files,
    folder: &Path,
    begin: Position,
) -> Result<(Arc<dyn File>, bool), FilesError> {
    let path = path(folder);
    match files.open(&path, Access::Write) {
        Err(FilesError::NotFound { .. }) => {}
        other => return other.map(|file| (file, false)),
    }
    let file = files.create(&path)?;
    // With its space, or not at all: it is needed most when space is short.
    let made = file.preallocate(FILE_LEN).and_then(|()| begin_slots().write(&*file, encode(begin)));
    if let Err(error) = made.and_then(|()| file.sync()) {
        files.remove(&path)?;
        return Err(error);
    }
    Ok((file, true))
}
