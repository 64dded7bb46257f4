//! Reads the frames of one segment, past whatever is damaged.
//!
//! Invariant: every byte up to the end is accounted for as part of a hint, as damage, or as the rest after the last
//! sound frame, of which the caller knows whether it was ever durable. Hints come in the order they were written, each
//! once. A gap in their numbers is damage, however sound the bytes around it are.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{COPY_LEN, Envelope, MARKER_FIRST, Seed, Side};
use super::{Hint, Lost};
use crate::files::{File, FilesError};

/// Bytes read at once: some hundred hints of the usual size, and little to read in vain for a batch of a few.
const WINDOW_LEN: usize = 256 << 10;
/// Where reading fails, this much at a time is given up: the sector size of most disks.
const SECTOR_LEN: usize = 4096;

/// A place between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    /// The number of the next hint.
    pub(super) sequence: u64,
}

/// What was read.
#[derive(Debug)]
pub(super) enum Item {
    Hint { hint: Hint, sequence: u64, after: Place },
    Damage { bytes: Range<u64>, sequence: u64, lost: Lost },
}

pub(super) struct SegmentReader {
    file: Arc<dyn File>,
    seed: Seed,
    /// Where reading ends.
    end: u64,
    place: Place,
    /// Hints with this number or a greater one were taken back after they were written.
    limit: u64,
    window: Bytes,
    window_start: u64,
    /// Read, and not yet handed out.
    ready: VecDeque<Item>,
    /// What a frame that the end cuts off says of itself.
    cut: Option<Envelope>,
}

impl SegmentReader {
    /// Reads from `place` to `end`, hints with numbers below `limit`.
    pub(super) fn new(file: Arc<dyn File>, seed: Seed, place: Place, end: u64, limit: u64) -> Self {
        let (window, ready) = (Bytes::new(), VecDeque::new());
        Self { file, seed, end, place, limit, window, window_start: 0, ready, cut: None }
    }

    /// The next hint or damage; `None` where no sound frame is left.
    pub(super) fn next(&mut self) -> Result<Option<Item>, FilesError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            if !self.step()? {
                return Ok(None);
            }
        }
    }

    /// Where reading stands. Once [`SegmentReader::next`] gave `None`: where the last sound frame ended.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Once [`SegmentReader::next`] gave `None`: the frame that the end cuts off, if its head is sound.
    pub(super) fn cut(&self) -> Option<&Envelope> {
        self.cut.as_ref()
    }

    /// The number of the first sound frame from here on.
    pub(super) fn first_sequence(&mut self) -> Result<Option<u64>, FilesError> {
        Ok(self.find_copy(self.place.offset)?.map(|(_, _, envelope)| envelope.sequence))
    }

    fn step(&mut self) -> Result<bool, FilesError> {
        let at = self.place.offset;
        match self.copy(Side::Head, at)? {
            Some(head) => self.frame(at, head),
            None => self.resume(at),
        }
    }

    /// Takes the frame at `at`, whose head is sound.
    fn frame(&mut self, at: u64, head: Envelope) -> Result<bool, FilesError> {
        let end = at + head.frame_len();
        if end > self.end {
            self.cut = Some(head);
            return Ok(false);
        }
        let tail_at = end - COPY_LEN as u64;
        let payload = self.bytes(at + COPY_LEN as u64, head.payload_len as usize)?;
        let tail = self.copy(Side::Tail, tail_at)?;
        self.missing(at..at, head.sequence);
        let after = self.pass(end, head.sequence);
        match head.open(&payload) {
            Some(hint) => {
                self.ready.push_back(Item::Hint { hint, sequence: head.sequence, after });
                if tail != Some(head) {
                    self.damage(tail_at..end, head.sequence, Lost::Nothing);
                }
            }
            None => self.damage(at..end, head.sequence, lost(&head)),
        }
        Ok(true)
    }

    /// Goes on after damage at `at`: at the next sound head, or with the frame that the next sound tail ends.
    fn resume(&mut self, at: u64) -> Result<bool, FilesError> {
        let Some((found_at, side, envelope)) = self.find_copy(at)? else { return Ok(false) };
        if side == Side::Head {
            self.missing(at..found_at, envelope.sequence);
            self.place = Place { offset: found_at, sequence: envelope.sequence };
            return Ok(true);
        }
        let end = found_at + COPY_LEN as u64;
        let start = (end.saturating_sub(envelope.frame_len())).max(at);
        let payload_at = found_at.saturating_sub(u64::from(envelope.payload_len)).max(start);
        let payload = self.bytes(payload_at, envelope.payload_len as usize)?;
        self.missing(at..start, envelope.sequence);
        let after = self.pass(end, envelope.sequence);
        match envelope.open(&payload) {
            Some(hint) => {
                self.damage(start..payload_at, envelope.sequence, Lost::Nothing);
                self.ready.push_back(Item::Hint { hint, sequence: envelope.sequence, after });
            }
            None => self.damage(start..end, envelope.sequence, lost(&envelope)),
        }
        Ok(true)
    }

    fn pass(&mut self, end: u64, sequence: u64) -> Place {
        self.place = Place { offset: end, sequence: sequence + 1 };
        self.place
    }

    /// Reports what is missing before the hint `sequence`: bytes, numbers, or both.
    fn missing(&mut self, bytes: Range<u64>, sequence: u64) {
        let records = sequence - self.place.sequence;
        if records > 0 {
            self.damage(bytes, self.place.sequence, Lost::Unknown { records });
        } else if !bytes.is_empty() {
            self.damage(bytes, self.place.sequence, Lost::Nothing);
        }
    }

    fn damage(&mut self, bytes: Range<u64>, sequence: u64, lost: Lost) {
        self.ready.push_back(Item::Damage { bytes, sequence, lost });
    }

    /// The sound copy of that side at `at`, of a hint that is due.
    fn copy(&mut self, side: Side, at: u64) -> Result<Option<Envelope>, FilesError> {
        let bytes = self.bytes(at, COPY_LEN)?;
        let copy = Envelope::decode(side, &self.seed, at, &bytes);
        Ok(copy.filter(|copy| (self.place.sequence..self.limit).contains(&copy.sequence)))
    }

    /// The first sound copy of either side from `from` on.
    fn find_copy(&mut self, from: u64) -> Result<Option<(u64, Side, Envelope)>, FilesError> {
        let mut at = from;
        while at < self.end {
            let chunk = self.bytes(at, SECTOR_LEN)?;
            let Some(skip) = chunk.iter().position(|byte| *byte == MARKER_FIRST) else {
                // The file is shorter than it was: nothing follows.
                if chunk.is_empty() {
                    break;
                }
                at += chunk.len() as u64;
                continue;
            };
            at += skip as u64;
            for side in [Side::Head, Side::Tail] {
                if let Some(envelope) = self.copy(side, at)? {
                    return Ok(Some((at, side, envelope)));
                }
            }
            at += 1;
        }
        Ok(None)
    }

    /// Bytes of the segment, fewer where it ends.
    fn bytes(&mut self, from: u64, len: usize) -> Result<Bytes, FilesError> {
        let len = usize::try_from(self.end.saturating_sub(from)).unwrap_or(usize::MAX).min(len);
        let start = from.checked_sub(self.window_start).and_then(|start| usize::try_from(start).ok());
        let inside = start.filter(|start| start.saturating_add(len) <= self.window.len());
        if let Some(start) = inside {
            return Ok(self.window.slice(start..start + len));
        }
        let wanted = usize::try_from(self.end - from.min(self.end)).unwrap_or(usize::MAX).min(len.max(WINDOW_LEN));
        self.window = self.read(from, wanted)?.into();
        self.window_start = from;
        Ok(self.window.slice(..len.min(self.window.len())))
    }

    /// Reads from the file; sectors that cannot be read are zeros, which no checksum takes for a frame.
    fn read(&self, from: u64, len: usize) -> Result<Vec<u8>, FilesError> {
        match self.file.read_at(from, len) {
            Err(FilesError::Io { .. }) => {}
            other => return other,
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = from + bytes.len() as u64;
            let wanted = (SECTOR_LEN - (at % SECTOR_LEN as u64) as usize).min(len - bytes.len());
            match self.file.read_at(at, wanted) {
                Ok(sector) if sector.is_empty() => break,
                Ok(sector) => bytes.extend_from_slice(&sector),
                Err(FilesError::Io { .. }) => bytes.resize(bytes.len() + wanted, 0),
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}

pub(super) fn lost(envelope: &Envelope) -> Lost {
    let Envelope { table, token, version, only_copy, .. } = *envelope;
    Lost::Hint { table, token, version, only_copy }
}
