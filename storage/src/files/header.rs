//! The first kilobyte of a file that is kept for one node: what it is, in which format, and for whom. Twice, each in a
//! sector of its own, so that one damaged sector does not cost the file.
//!
//! ```text
//! magic (8 bytes) | format u8 | 3 zero | fields (12 bytes) | name length u16 | node name | zeros | crc32 u32
//! ```
//!
//! Magic and format stay where they are in every format to come, which is how a newer one is told from damage: both
//! copies name it.

use std::ops::Range;

use super::{File, FilesError};

const COPY_LEN: usize = 512;
/// Bytes of both copies.
pub(crate) const HEADER_LEN: u64 = 2 * COPY_LEN as u64;
pub(crate) const FIELDS_LEN: usize = 12;
const FIXED_LEN: usize = 8 + 1 + 3;

/// What files of one kind begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 8],
    /// The format this build writes, and the newest it reads.
    pub(crate) format: u8,
}

/// What a sound copy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) node: String,
    pub(crate) fields: [u8; FIELDS_LEN],
}

/// What was found where the header should be.
pub(crate) enum Found {
    /// A header, of which one copy may be damaged.
    Header { header: Header, damaged: Option<Range<u64>> },
    /// Nothing that is sound.
    Damaged,
    /// A header of a format to come.
    Newer { format: u8 },
}

impl Kind {
    /// Both copies.
    pub(crate) fn encode(self, node: &str, fields: [u8; FIELDS_LEN]) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_LEN);
        copy.extend_from_slice(&self.magic);
        copy.extend_from_slice(&[self.format, 0, 0, 0]);
        copy.extend_from_slice(&fields);
        // Names are at most as long as their escaped form, which fits.
        copy.extend_from_slice(&(node.len() as u16).to_be_bytes());
        copy.extend_from_slice(node.as_bytes());
        copy.resize(COPY_LEN - 4, 0);
        let crc = crc32fast::hash(&copy);
        copy.extend_from_slice(&crc.to_be_bytes());
        copy.repeat(2)
    }

    /// Reads both copies.
    pub(crate) fn read(self, file: &dyn File) -> Result<Found, FilesError> {
        let read = |at: u64| match file.read_at(at, COPY_LEN) {
            // A bad sector is a damaged copy, not a file that cannot be read.
            Err(FilesError::Io { .. }) => Ok(Vec::new()),
            other => other,
        };
        let (first, second) = (read(0)?, read(COPY_LEN as u64)?);
        let damaged = |copy: u64| Some(copy * COPY_LEN as u64..(copy + 1) * COPY_LEN as u64);
        Ok(match (self.decode(&first), self.decode(&second)) {
            (Some(header), Some(_)) => Found::Header { header, damaged: None },
            (Some(header), None) => Found::Header { header, damaged: damaged(1) },
            (None, Some(header)) => Found::Header { header, damaged: damaged(0) },
            (None, None) => match (self.format_of(&first), self.format_of(&second)) {
                (Some(format), Some(other)) if format == other && format > self.format => Found::Newer { format },
                _ => Found::Damaged,
            },
        })
    }

    fn format_of(self, copy: &[u8]) -> Option<u8> {
        copy.strip_prefix(&self.magic)?.first().copied()
    }

    fn decode(self, copy: &[u8]) -> Option<Header> {
        let (covered, crc) = copy.split_last_chunk::<4>()?;
        let sound = copy.len() == COPY_LEN && crc32fast::hash(covered) == u32::from_be_bytes(*crc);
        if !sound || self.format_of(copy)? != self.format {
            return None;
        }
        let (fields, rest) = covered.get(FIXED_LEN..)?.split_first_chunk::<FIELDS_LEN>()?;
        let (name_len, rest) = rest.split_first_chunk::<2>()?;
        let node = rest.get(..usize::from(u16::from_be_bytes(*name_len)))?;
        Some(Header { node: String::from_utf8(node.to_vec()).ok()?, fields: *fields })
    }
}
