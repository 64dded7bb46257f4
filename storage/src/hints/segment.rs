//! A segment file: its name, its header, and what the log remembers of it.
//!
//! ```text
//! header, two copies (see `files/header.rs`); fields: segment u32 | first sequence u64
//! frames ...
//! ```
//!
//! Frames do not need the header to be read: it says for whom they are and with which number they begin, so that missing
//! ones are noticed.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::BufMut;

use super::HintError;
use crate::files::File;
use crate::files::header::{FIELDS_LEN, Found, HEADER_LEN, Kind};
use crate::model::Hlc;

const KIND: Kind = Kind { magic: *b"CUBEHINT", format: 1 };
/// Where the frames begin.
pub(super) const FRAMES_START: u64 = HEADER_LEN;
const SUFFIX: &str = ".hints";

/// What the log remembers of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The number of its first hint.
    pub(super) first_sequence: u64,
    /// The number after that of its last hint.
    pub(super) next_sequence: u64,
    /// The same, of its last sound hint: less where the end is lost, which was told when the log was opened.
    pub(super) sound_sequence: u64,
    /// Where the last frame that counts ends.
    pub(super) end: u64,
    /// Bytes on the shared account.
    pub(super) bytes: u64,
    /// No hint in it has an older version.
    pub(super) oldest_hlc: Option<Hlc>,
    /// Hints that are a write's only copy.
    pub(super) only_copies: u64,
}

pub(super) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:08}{SUFFIX}"))
}

/// The number of a segment, of its file name.
pub(super) fn parse_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = digits.parse().ok()?;
    (format!("{number:08}") == digits).then_some(number)
}

pub(super) fn header(target: &str, number: u32, first_sequence: u64) -> Vec<u8> {
    let mut fields = [0; FIELDS_LEN];
    let mut rest = fields.as_mut_slice();
    rest.put_u32(number);
    rest.put_u64(first_sequence);
    KIND.encode(target, fields)
}

/// What the header of a segment says.
pub(super) struct FoundHeader {
    /// From a sound copy.
    pub(super) first_sequence: Option<u64>,
    /// The bytes of the copies that are not sound.
    pub(super) damaged: Option<Range<u64>>,
}

/// Reads a header; fails for a segment of a newer format or of another target.
pub(super) fn read_header(file: &dyn File, target: &str, path: &Path, number: u32) -> Result<FoundHeader, HintError> {
    let found = KIND.read(file).map_err(|source| HintError::Files { target: target.to_owned(), source })?;
    let (target, path) = (target.to_owned(), path.to_owned());
    let (header, damaged) = match found {
        Found::Header { header, damaged } => (header, damaged),
        Found::Damaged => return Ok(FoundHeader { first_sequence: None, damaged: Some(0..HEADER_LEN) }),
        Found::Newer { format: found } => {
            return Err(HintError::Format { target, path, found, supported: KIND.format });
        }
    };
    let first_sequence = header.fields.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    let is_number = header.fields.starts_with(&number.to_be_bytes());
    if header.node != target || !is_number {
        return Err(HintError::WrongTarget { target, path, found: header.node });
    }
    Ok(FoundHeader { first_sequence, damaged })
}
