//! A job as a file: what is read back after a restart, or known to be damaged.
//!
//! ```text
//! "CUBEREPR" | format u8 = 1 | 3 zero | length u32 | crc32 u32 over all that stands before it and the body | body
//! ```
//!
//! The body is the job as postcard writes it, numbers of the head are big endian. Format: `docs/formats-hints.md`.

use std::path::Path;

use cube_storage::files::{Access, Files, FilesError};
use thiserror::Error;

use super::job::Job;

/// The format that this build writes, and the only one it reads.
pub const FORMAT: u8 = 1;

const MAGIC: [u8; 8] = *b"CUBEREPR";
const HEAD_LEN: usize = 20;
/// More than a record ever has: a comparison takes at most a dozen bytes.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Why a job cannot be read back, or not be kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The disk.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A later release wrote it.
    #[error("it was written by a later release, in format {format} (this build reads format {FORMAT})")]
    Newer {
        /// The format.
        format: u8,
    },
    /// It is not what was written.
    #[error("its record is damaged: {0}")]
    Damaged(&'static str),
    /// It does not become bytes.
    #[error("it cannot be written down: {0}")]
    Encode(String),
}

/// A job as bytes.
pub(super) fn encode(job: &Job) -> Result<Vec<u8>, RecordError> {
    let body = postcard::to_allocvec(job).map_err(|error| RecordError::Encode(error.to_string()))?;
    let length = u32::try_from(body.len()).map_err(|error| RecordError::Encode(error.to_string()))?;
    let mut bytes = Vec::with_capacity(HEAD_LEN + body.len());
    bytes.extend(MAGIC);
    bytes.extend([FORMAT, 0, 0, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(checksum(&bytes, &body).to_be_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// The job that bytes are.
pub(super) fn decode(bytes: &[u8]) -> Result<Job, RecordError> {
    let (head, body) = bytes.split_at_checked(HEAD_LEN).ok_or(RecordError::Damaged("it is too short"))?;
    let rest = head.strip_prefix(&MAGIC).ok_or(RecordError::Damaged("it does not begin as a record does"))?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or(RecordError::Damaged("it is too short"))?;
    let [format, ..] = *format;
    if format > FORMAT {
        return Err(RecordError::Newer { format });
    }
    let (length, crc) = rest.split_first_chunk::<4>().ok_or(RecordError::Damaged("it is too short"))?;
    let covered = head.get(..HEAD_LEN - 4).unwrap_or_default();
    if u32::from_be_bytes(*length) as usize != body.len() || crc != checksum(covered, body).to_be_bytes() {
        return Err(RecordError::Damaged("its checksum is wrong"));
    }
    postcard::from_bytes(body).map_err(|_| RecordError::Damaged("it does not read back"))
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(body);
    crc.finalize()
}

/// Reads a job.
pub(super) fn read(files: &dyn Files, path: &Path) -> Result<Job, RecordError> {
    let file = files.open(path, Access::Read)?;
    let len = file.len()?;
    if len > RECORD_BYTES_MAX {
        return Err(RecordError::Damaged("it is too long"));
    }
    decode(&file.read_at(0, usize::try_from(len).unwrap_or_default())?)
}

/// Writes a job beside the record of before, which it then replaces in one step.
pub(super) fn write(files: &dyn Files, path: &Path, beside: &Path, job: &Job) -> Result<(), RecordError> {
    let bytes = encode(job)?;
    match files.remove(beside) {
        Ok(()) | Err(FilesError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = files.create(beside)?;
    file.append(&bytes)?;
    file.sync()?;
    files.rename(beside, path)?;
    files.sync_folder(path.parent().unwrap_or(Path::new("")))?;
    Ok(())
}

#[cfg(test)]
mod tests;
