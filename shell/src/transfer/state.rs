//! How far an import is, kept beside its file so that the same command goes on after an interruption.
//!
//! Invariant: every row before the mark is written. The file is replaced as a whole, so it is never half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rows::Mark;

/// The form of the file.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// The table that is written.
    table: String,
    /// The length of the file that is read: another length is another file.
    length: u64,
    bytes: u64,
    lines: u64,
    rows: u64,
}

/// How far an import is.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    table: String,
    length: u64,
}

impl State {
    pub(super) fn new(path: PathBuf, table: String, length: u64) -> Self {
        Self { path, table, length }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is done already, and of how many rows. Fails if it was of another import.
    pub(super) fn load(&self) -> Result<(Mark, u64), String> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Mark::default(), 0)),
            Err(error) => return Err(format!("{} cannot be read: {error}", self.path.display())),
        };
        let way_out = format!("remove {} to begin anew", self.path.display());
        let saved: Saved = serde_json::from_slice(&text)
            .map_err(|error| format!("{} is no state of an import: {error}; {way_out}", self.path.display()))?;
        if saved.version != VERSION {
            return Err(format!("the state is of another release of cube; {way_out}"));
        }
        if saved.table != self.table {
            return Err(format!("the import that was interrupted went to {}; {way_out}", saved.table));
        }
        if saved.length != self.length {
            return Err(format!("the file has changed since the import was interrupted; {way_out}"));
        }
        Ok((Mark { bytes: saved.bytes, lines: saved.lines }, saved.rows))
    }

    pub(super) fn save(&self, mark: Mark, rows: u64) -> io::Result<()> {
        let saved = Saved {
            version: VERSION,
            table: self.table.clone(),
            length: self.length,
            bytes: mark.bytes,
            lines: mark.lines,
            rows,
        };
        let mut next = self.path.clone().into_os_string();
        next.push(".next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(&saved)?)?;
        file.sync_all()?;
        fs::rename(next, &self.path)
    }

    /// All is done.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_goes_on_only_with_the_same_file_and_table() {
        let dir = tempfile::tempdir().unwrap();
        let of = |table: &str, length| State::new(dir.path().join("state"), table.to_owned(), length);
        let state = of("default.kv", 100);
        assert_eq!(state.load(), Ok((Mark::default(), 0)));
        let mark = Mark { bytes: 50, lines: 5 };
        state.save(mark, 5).unwrap();
        assert_eq!(state.load(), Ok((mark, 5)));
        assert!(of("app.kv", 100).load().unwrap_err().contains("went to default.kv"));
        assert!(of("default.kv", 101).load().unwrap_err().contains("has changed"));
        state.remove().unwrap();
        assert_eq!(state.load(), Ok((Mark::default(), 0)));
    }
}
