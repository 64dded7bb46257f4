//! How far an export is, kept beside its file so that the same command goes on after an interruption.
//!
//! Invariant: of each part of the table, exactly the rows up to its token are among the first `length` bytes of the file,
//! which were on disk before the state was. What stands behind them was being written, and is cut off.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ranges::Part;

/// The form of the file.
const VERSION: u32 = 1;

/// How far one part is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Progress {
    pub(super) part: Part,
    /// Behind the last page that was written.
    pub(super) token: Option<Bytes>,
    pub(super) is_done: bool,
}

/// How far an export is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    /// What is exported, and in which form.
    pub(super) of: String,
    pub(super) length: u64,
    pub(super) rows: u64,
    pub(super) parts: Vec<Progress>,
}

#[derive(Serialize, Deserialize)]
struct SavedPart {
    prefix: String,
    exact: bool,
    token: Option<String>,
    done: bool,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    of: String,
    length: u64,
    rows: u64,
    parts: Vec<SavedPart>,
}

impl State {
    /// That of an export that was interrupted, if there is one. Fails if it was of another export.
    pub(super) fn load(path: &Path, of: &str) -> Result<Option<Self>, String> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let way_out = format!("remove {} and the file to begin anew", path.display());
        let wrong = |reason: &str| format!("{} is no state of an export: {reason}; {way_out}", path.display());
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        if saved.version != VERSION {
            return Err(format!("the state is of another release of cube; {way_out}"));
        }
        if saved.of != of {
            return Err(format!("the export that was interrupted was one of {}, not of {of}; {way_out}", saved.of));
        }
        let bytes =
            |text: &str| URL_SAFE_NO_PAD.decode(text).map(Bytes::from).map_err(|error| wrong(&error.to_string()));
        let parts = saved.parts.into_iter().map(|saved| {
            let part = Part { prefix: bytes(&saved.prefix)?, is_exact: saved.exact };
            Ok(Progress { part, token: saved.token.as_deref().map(bytes).transpose()?, is_done: saved.done })
        });
        let parts = parts.collect::<Result<Vec<_>, String>>()?;
        Ok(Some(Self { of: saved.of, length: saved.length, rows: saved.rows, parts }))
    }

    /// Replaces the file as a whole, so that it is never half of one.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let parts = self.parts.iter().map(|progress| SavedPart {
            prefix: URL_SAFE_NO_PAD.encode(&progress.part.prefix),
            exact: progress.part.is_exact,
            token: progress.token.as_ref().map(|token| URL_SAFE_NO_PAD.encode(token)),
            done: progress.is_done,
        });
        let saved = Saved {
            version: VERSION,
            of: self.of.clone(),
            length: self.length,
            rows: self.rows,
            parts: parts.collect(),
        };
        let next = PathBuf::from([path.as_os_str(), ".next".as_ref()].join("".as_ref()));
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(&saved)?)?;
        file.sync_all()?;
        fs::rename(next, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_goes_on_only_as_the_one_that_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert_eq!(State::load(&path, "default.kv as jsonl").unwrap(), None);
        let part = |prefix: &[u8], is_exact| Part { prefix: Bytes::copy_from_slice(prefix), is_exact };
        let parts = vec![
            Progress { part: part(b"\xff\0", true), token: None, is_done: true },
            Progress { part: part(b"a", false), token: Some("\0token".into()), is_done: false },
        ];
        let state = State { of: "default.kv as jsonl".into(), length: 70, rows: 3, parts };
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, "default.kv as jsonl").unwrap(), Some(state));
        assert!(State::load(&path, "app.kv as csv").unwrap_err().contains("was one of default.kv as jsonl"));
        fs::write(&path, "{}").unwrap();
        assert!(State::load(&path, "default.kv as jsonl").unwrap_err().contains("is no state of an export"));
    }
}
