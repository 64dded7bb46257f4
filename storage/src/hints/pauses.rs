//! For whom an operator wants no hints delivered. That lasts until he says otherwise, whatever restarts in between.
//!
//! A small file beside the logs, written anew for every change and renamed into its place.
//!
//! ```text
//! magic (8 bytes) | format u8 | all u8 | 2 zero | count u32 | nodes (count times u16) | crc32 u32 over all before
//! ```
//!
//! Invariant: after a crash the file says what was kept last, or what was being kept, and never a mixture.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{Access, Files, FilesError};
use crate::model::NodeId;

const MAGIC: [u8; 8] = *b"CUBEPAUS";
const FORMAT: u8 = 1;
/// Beside the folder of the logs, which may be a device of its own.
const PATH: &str = "hints.paused";
const NEW_PATH: &str = "hints.paused.new";
/// Every node there can be.
const NODES_MAX: usize = 1 << 16;
const FIXED_LEN: usize = 16;
const LEN_MAX: usize = FIXED_LEN + 2 * NODES_MAX + 4;

/// Why it cannot be told who is paused, or not be kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PauseError {
    /// The file system failed.
    #[error("who is paused: {0}")]
    Files(#[from] FilesError),
    /// The file is not what was written.
    #[error("{path}: is damaged, and does not say for whom hints are paused")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer release.
    #[error("{path}: has format {found}, this build reads format {FORMAT}: start a newer release")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u8,
    },
}

/// Who is paused: all nodes or none, but for those that were named since.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pauses {
    all: bool,
    except: BTreeSet<NodeId>,
}

impl Pauses {
    /// Pauses a node or resumes it; all of them, also those to come, if none is named.
    pub fn set(&mut self, node: Option<NodeId>, paused: bool) {
        match node {
            None => *self = Self { all: paused, except: BTreeSet::new() },
            Some(node) if paused == self.all => drop(self.except.remove(&node)),
            Some(node) => drop(self.except.insert(node)),
        }
    }

    /// Whether a node is paused.
    pub fn holds(&self, node: NodeId) -> bool {
        self.all != self.except.contains(&node)
    }

    /// What was kept last; nobody is paused where nothing was.
    pub fn read(files: &dyn Files) -> Result<Self, PauseError> {
        let path = Path::new(PATH);
        let bytes = match files.open(path, Access::Read) {
            Ok(file) => file.read_at(0, LEN_MAX + 1)?,
            Err(FilesError::NotFound { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        Self::decode(&bytes).map_err(|format| match format {
            Some(found) => PauseError::Newer { path: path.to_owned(), found },
            None => PauseError::Damaged { path: path.to_owned() },
        })
    }

    /// Keeps it in place of what was kept before. Durable when this returns.
    pub fn keep(&self, files: &dyn Files) -> Result<(), PauseError> {
        let (path, new) = (Path::new(PATH), Path::new(NEW_PATH));
        match files.remove(new) {
            // A crash came before it was whole.
            Ok(()) | Err(FilesError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let file = files.create(new)?;
        file.append(&self.encode())?;
        file.sync()?;
        files.rename(new, path)?;
        Ok(files.sync_folder(Path::new(""))?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_LEN + 2 * self.except.len() + 4);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[FORMAT, u8::from(self.all), 0, 0]);
        bytes.extend_from_slice(&(self.except.len() as u32).to_be_bytes());
        self.except.iter().for_each(|node| bytes.extend_from_slice(&node.0.to_be_bytes()));
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// The error is the format, if it is a newer one. Magic and format stay where they are in every format to come.
    fn decode(bytes: &[u8]) -> Result<Self, Option<u8>> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(None)?;
        if let Some(format) = rest.first().copied().filter(|format| *format > FORMAT) {
            return Err(Some(format));
        }
        let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(None)?;
        if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
            return Err(None);
        }
        let ([_, all, _, _], rest) =
            covered.get(MAGIC.len()..).and_then(|rest| rest.split_first_chunk::<4>()).ok_or(None)?;
        let (count, nodes) = rest.split_first_chunk::<4>().ok_or(None)?;
        let (nodes, uneven) = nodes.as_chunks::<2>();
        if nodes.len() != u32::from_be_bytes(*count) as usize || !uneven.is_empty() {
            return Err(None);
        }
        let except = nodes.iter().map(|node| NodeId(u16::from_be_bytes(*node))).collect();
        Ok(Self { all: *all != 0, except })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::SimulatedFiles;

    fn paused(nodes: &[u16]) -> Pauses {
        let mut pauses = Pauses::default();
        nodes.iter().for_each(|node| pauses.set(Some(NodeId(*node)), true));
        pauses
    }

    #[test]
    fn of_all_that_are_paused_one_can_be_resumed_and_all_again() {
        let mut pauses = paused(&[3]);
        let held = |pauses: &Pauses| [2, 3, 4].map(|node| pauses.holds(NodeId(node)));
        assert_eq!(held(&pauses), [false, true, false]);
        pauses.set(None, true);
        pauses.set(Some(NodeId(4)), false);
        assert_eq!(held(&pauses), [true, true, false]);
        pauses.set(Some(NodeId(4)), true);
        assert_eq!(held(&pauses), [true; 3]);
        pauses.set(None, false);
        assert_eq!(pauses, Pauses::default());
    }

    #[test]
    fn a_file_of_format_1_is_still_read_and_written() {
        let committed = include_bytes!("../../tests/fixtures/hints-paused-v1");
        let mut pauses = Pauses::default();
        pauses.set(None, true);
        [3, 700].into_iter().for_each(|node| pauses.set(Some(NodeId(node)), false));
        assert_eq!(Pauses::decode(committed), Ok(pauses.clone()));
        assert_eq!(pauses.encode(), committed, "a new format needs a new version");
    }

    #[test]
    fn after_a_crash_it_says_what_was_kept_last_or_was_being_kept() {
        for seed in 0..100 {
            let files = SimulatedFiles::new();
            assert_eq!(Pauses::read(&files), Ok(Pauses::default()));
            let (first, second) = (paused(&[1, 500]), paused(&[2]));
            first.keep(&files).unwrap();
            files.crash(seed);
            assert_eq!(Pauses::read(&files), Ok(first.clone()), "seed {seed}");
            files.fail_after(seed % 6);
            let kept = second.keep(&files);
            files.crash(seed);
            let found = Pauses::read(&files).unwrap();
            assert!(found == second || (kept.is_err() && found == first), "seed {seed}: {kept:?}, {found:?}");
            second.keep(&files).unwrap();
            assert_eq!(Pauses::read(&files), Ok(second), "what a crash left is no hindrance");
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed_and_a_newer_format_is_named() {
        let files = SimulatedFiles::new();
        paused(&[7, 9]).keep(&files).unwrap();
        let path = Path::new(PATH);
        let len = files.open(path, Access::Read).unwrap().len().unwrap();
        for at in 0..len {
            assert!(files.flip(path, at, 0));
            let damaged = Pauses::read(&files);
            assert!(matches!(damaged, Err(PauseError::Damaged { .. } | PauseError::Newer { .. })), "{at}: {damaged:?}");
            assert!(files.flip(path, at, 0));
        }
        assert!(files.flip(path, 8, 1) && files.flip(path, 8, 0));
        let newer = Pauses::read(&files).unwrap_err();
        assert_eq!(newer, PauseError::Newer { path: path.to_owned(), found: 2 });
    }
}
