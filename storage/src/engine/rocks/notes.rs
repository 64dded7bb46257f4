//! Notes about damage, kept in files beside RocksDB: it forgets damage as soon as it has opened around it, and some of
//! the damage keeps it from opening. A note stays until what follows from it has been done.
//!
//! - `DAMAGED`: the log, or what stands behind it, was not what it was. Until the store has marked its partitions.
//! - `UNREADABLE`: something in a file could not be read. Until what holds it was replaced, when the directory is next
//!   opened.
//! - `LOST`: what could not be taken out of the replaced files. Until the store has marked the partitions it was in.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::super::{LostRange, Space};
use crate::keyspace::KeyRange;

/// A note of a data directory.
#[derive(Debug)]
pub(super) struct Note {
    dir: PathBuf,
    name: &'static str,
}

impl Note {
    pub(super) fn damaged(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), name: "DAMAGED" }
    }

    pub(super) fn unreadable(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), name: "UNREADABLE" }
    }

    pub(super) fn lost(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), name: "LOST" }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// What it says, if it is there.
    pub(super) fn read(&self) -> io::Result<Option<String>> {
        match fs::read(self.path()) {
            Ok(detail) => Ok(Some(String::from_utf8_lossy(&detail).trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds lines, durably. The note is replaced as a whole, so that a crash leaves no half of a line for the next ones
    /// to run into.
    pub(super) fn add(&self, lines: &[String]) -> io::Result<()> {
        let mut text = self.read()?.unwrap_or_default();
        for line in lines {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&line.replace('\n', " "));
        }
        text.push('\n');
        let draft = self.dir.join(format!("{}.new", self.name));
        let mut file = fs::File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, self.path())?;
        self.sync_dir()
    }

    pub(super) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(self.path()) {
            Ok(()) => self.sync_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        fs::File::open(&self.dir)?.sync_all()
    }
}

/// Something that could not be read, as a line: the key space, or `-`, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The key space, where it is known.
    pub(super) space: Option<Space>,
    /// What was found.
    pub(super) detail: String,
}

impl Unreadable {
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.space.map_or("-", Space::name), self.detail)
    }

    /// Reads back a line; one that was cut tells of no key space.
    pub(super) fn parse(line: &str) -> Self {
        let (name, detail) = line.split_once(' ').unwrap_or_default();
        Self { space: Space::ALL.into_iter().find(|space| space.name() == name), detail: detail.to_owned() }
    }
}

/// A lost range as a line: key space, start and end in hexadecimal digits (`-` for none), and what was found.
pub(super) fn lost_line(lost: &LostRange) -> String {
    format!("{} {} {} {}", lost.space.name(), hex(&lost.range.start), hex(&lost.range.end), lost.detail)
}

/// Reads back a line of [`lost_line`]. One that is not as it was written may have told of anything: then all rows are
/// lost as far as is known.
pub(super) fn read_lost_line(line: &str) -> LostRange {
    parse_lost_line(line).unwrap_or_else(|| {
        let range = KeyRange { start: Vec::new(), end: Vec::new() };
        LostRange { space: Space::Data, range, detail: format!("a note of what was lost does not read back: {line:?}") }
    })
}

fn parse_lost_line(line: &str) -> Option<LostRange> {
    let mut words = line.splitn(4, ' ');
    let (name, start, end) = (words.next()?, words.next()?, words.next()?);
    let space = Space::ALL.into_iter().find(|space| space.name() == name)?;
    let range = KeyRange { start: parse_hex(start)?, end: parse_hex(end)? };
    Some(LostRange { space, range, detail: words.next()?.to_owned() })
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    if digits == "-" {
        return Some(Vec::new());
    }
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let note = Note::lost(dir.path());
        assert_eq!(note.read().unwrap(), None);
        note.add(&["one\nline".into(), "another".into()]).unwrap();
        note.add(&["a third".into()]).unwrap();
        assert_eq!(Note::lost(dir.path()).read().unwrap().as_deref(), Some("one line\nanother\na third"));
        note.forget().unwrap();
        note.forget().unwrap();
        assert_eq!(note.read().unwrap(), None);
    }

    #[test]
    fn what_was_unreadable_reads_back_as_noted() {
        for space in Space::ALL.map(Some).into_iter().chain([None]) {
            let unreadable = Unreadable { space, detail: "what was  found".into() };
            assert_eq!(Unreadable::parse(&unreadable.line()), unreadable);
        }
        assert_eq!(Unreadable::parse("dat").space, None);
    }

    #[test]
    fn a_lost_range_reads_back_as_noted() {
        for (start, end) in [(vec![0, 255, 16], vec![1]), (vec![], vec![]), (b"a b".to_vec(), vec![])] {
            let range = KeyRange { start, end };
            let lost = LostRange { space: Space::Merkle, range, detail: "what was  found".into() };
            let line = lost_line(&lost);
            assert_eq!(read_lost_line(&line), lost);
            let everything = read_lost_line(&line[..6]);
            assert_eq!((everything.space, everything.range.start, everything.range.end), (Space::Data, vec![], vec![]));
        }
    }
}
