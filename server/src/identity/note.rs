//! A small file that is replaced as a whole: one line that says what it is, in which format and with which checksum,
//! then JSON. After a crash it holds the old content or the new, never a part of either.
//!
//! ```text
//! cube-kv <kind> format <number> crc32 <8 hex digits of the rest>
//! { ... }
//! ```

use std::path::Path;

use cube_storage::files::{Access, Files, FilesError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format that is written, and the newest that is read. It covers these files and how the directory is laid out.
pub(super) const FORMAT: u32 = 1;
/// The suffix of a file that is being written; one that is found was never finished.
pub(super) const UNFINISHED: &str = ".new";
/// The most such a file holds; a longer one is not one of ours.
const BYTES_MAX: usize = 64 << 10;

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum ReadFailure {
    /// The disk failed.
    Files(FilesError),
    /// It is not what was written.
    Damaged(String),
    /// A newer build wrote it.
    Newer(u32),
}

/// Replaces a file at the root of `files`, durably.
pub(super) fn write(files: &dyn Files, kind: &str, content: &impl Serialize) -> Result<(), FilesError> {
    let unencodable =
        |error: serde_json::Error| FilesError::Io { operation: "encode", path: kind.into(), detail: error.to_string() };
    let mut body = serde_json::to_vec_pretty(content).map_err(unencodable)?;
    body.push(b'\n');
    let mut bytes = format!("cube-kv {kind} format {FORMAT} crc32 {:08x}\n", crc32fast::hash(&body)).into_bytes();
    bytes.append(&mut body);
    let unfinished = format!("{kind}{UNFINISHED}");
    let unfinished = Path::new(&unfinished);
    match files.remove(unfinished) {
        Ok(()) | Err(FilesError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let file = files.create(unfinished)?;
    file.append(&bytes)?;
    file.sync()?;
    files.rename(unfinished, Path::new(kind))?;
    files.sync_folder(Path::new(""))
}

/// Reads a file at the root of `files`, if it is there.
pub(super) fn read<T: DeserializeOwned>(files: &dyn Files, kind: &str) -> Result<Option<T>, ReadFailure> {
    let file = match files.open(Path::new(kind), Access::Read) {
        Ok(file) => file,
        Err(FilesError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(ReadFailure::Files(error)),
    };
    let bytes = file.read_at(0, BYTES_MAX).map_err(ReadFailure::Files)?;
    decode(kind, &bytes).map(Some)
}

fn decode<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T, ReadFailure> {
    let damaged = |what: &str| ReadFailure::Damaged(what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (head, body) = text.split_once('\n').ok_or_else(|| damaged("its first line does not end"))?;
    let head = head.strip_prefix("cube-kv ").and_then(|head| head.strip_prefix(kind));
    let head = head.and_then(|head| head.strip_prefix(" format "));
    let (format, rest) =
        head.and_then(|head| head.split_once(' ')).ok_or_else(|| damaged("its first line is unknown"))?;
    let format: u32 = format.parse().map_err(|_| damaged("its format is no number"))?;
    if format > FORMAT {
        return Err(ReadFailure::Newer(format));
    }
    let crc = rest.strip_prefix("crc32 ").and_then(|crc| u32::from_str_radix(crc, 16).ok());
    if crc != Some(crc32fast::hash(body.as_bytes())) {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_str(body).map_err(|error| ReadFailure::Damaged(error.to_string()))
}
