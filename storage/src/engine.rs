//! The seam to the ordered key-value engine under a node's data, with two implementations: RocksDB, and memory for
//! tests and simulation. One conformance suite runs on both (`tests/engine_conformance.rs`).
//!
//! An engine keeps four ordered key spaces, writes batches atomically, and knows one arithmetic: adding a Merkle sum
//! to a leaf without reading it. It holds no rule of the database; those stand in `apply`.
//!
//! Invariant: a batch written with [`Durability::Synced`] is seen by no reader before it is durable.

pub mod figures;
mod memory;
#[cfg(feature = "rocks")]
mod rocks;

use std::ops::ControlFlow;

use bytes::Bytes;
use thiserror::Error;

use self::figures::EngineFigures;
pub use self::memory::MemoryEngine;
#[cfg(feature = "rocks")]
pub use self::rocks::{RocksEngine, RocksOptions, break_endless_records};
use crate::keyspace::KeyRange;
use crate::merkle::LeafSum;

/// The ordered key spaces of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Rows, in token order.
    Data,
    /// The keys of rows, in key order.
    Keys,
    /// Merkle leaves.
    Merkle,
    /// What the node knows of itself.
    Meta,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Data, Self::Keys, Self::Merkle, Self::Meta];

    /// The name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Keys => "keys",
            Self::Merkle => "merkle",
            Self::Meta => "meta",
        }
    }
}

/// How far a write has got when it is reported done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On stable storage.
    Synced,
    /// In the log of the process; on stable storage after the next sync.
    Buffered,
}

/// Which way a scan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direction {
    /// From the first key to the last.
    #[default]
    Forward,
    /// From the last key to the first.
    Backward,
}

/// What the engine found of its log when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything that was recorded as synced is there.
    Complete,
    /// Something that had been synced is gone: what, in words.
    Damaged(String),
}

/// Keys that were lost with a damaged file; none of them is there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The key space.
    pub space: Space,
    /// The keys.
    pub range: KeyRange,
    /// What was found.
    pub detail: String,
}

/// Why the engine could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// Bytes on disk are not what was written.
    #[error("damaged data: {detail}")]
    Corruption {
        /// What the engine says, with the file.
        detail: String,
    },
    /// No space is left on the device.
    #[error("no space left on the device: {detail}")]
    NoSpace {
        /// What the engine says.
        detail: String,
    },
    /// The disk failed otherwise.
    #[error("the disk failed: {detail}")]
    Io {
        /// What the engine says.
        detail: String,
    },
    /// Something of the data directory was written by a newer release.
    #[error("{what} has format {found}, this build reads formats up to {supported}: start a newer release on it")]
    Format {
        /// The data directory, or a note in it.
        what: String,
        /// The format on disk.
        found: u32,
        /// The newest format this build knows.
        supported: u32,
    },
    /// What everything else hangs on is damaged: the list of the engine's files, or the node's notes of what it promised.
    #[error(
        "the data directory cannot be used any more: {detail}. Start the node with an empty data directory, as a new node"
    )]
    Unusable {
        /// What was found.
        detail: String,
    },
    /// Another process has the data directory open.
    #[error("the data directory is in use by another process: {detail}")]
    Locked {
        /// What the engine says.
        detail: String,
    },
}

/// Called for each pair of a scan; says whether to go on.
pub type ScanVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;
/// Called for each key of a multi-get with its place in the request.
pub type GetVisitor<'a> = dyn FnMut(usize, Result<Option<&[u8]>, EngineError>) + 'a;

/// Reading, of the present state or of a snapshot.
pub trait Reader {
    /// The value under a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Shows the value under a key, if there is one, where it lies.
    fn view(&self, space: Space, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        if let Some(value) = self.get(space, key)? {
            visit(&value);
        }
        Ok(())
    }

    /// The values under many keys, each told with its own error. Quicker when the keys are in order.
    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>);

    /// The pairs of a range in order, until the visitor breaks. An error ends the scan where the damage begins: what
    /// was visited before is sound.
    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError>;
}

/// What one atomic write consists of, in the order of the calls.
pub trait Writes {
    /// Sets a key.
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]);
    /// Removes a key.
    fn delete(&mut self, space: Space, key: &[u8]);
    /// Removes all keys of a range.
    fn delete_range(&mut self, space: Space, range: &KeyRange);
    /// Adds to the Merkle sum under a key of [`Space::Merkle`], which is zero where there is none.
    fn add(&mut self, key: &[u8], delta: LeafSum);
}

/// An ordered key-value engine.
pub trait Engine: Reader + Send + Sync {
    /// The present state, held still for as long as the snapshot lives.
    fn snapshot(&self) -> Box<dyn Reader + '_>;

    /// Writes what `fill` puts together, all or nothing; may ask for it more than once. After an error other than a full
    /// disk the caller must assume that the log's end is unknown, and write nothing more until the engine is opened
    /// anew; a full disk it may try again.
    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError>;

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), EngineError>;

    /// What was found when the engine was opened; damage also when it was found earlier and not acknowledged.
    fn recovery(&self) -> Recovery;

    /// What was lost with damaged files that have been replaced, since that was last acknowledged.
    fn lost(&self) -> &[LostRange] {
        &[]
    }

    /// Ends what [`Engine::recovery`] and [`Engine::lost`] report: what follows from it has been made durable, and an
    /// engine that is opened after this reports only what it finds anew.
    fn acknowledge_recovery(&self) -> Result<(), EngineError>;

    /// [`Reader::view`] without waiting for a disk. Whether that was possible; if not, nothing was shown.
    fn view_in_memory(&self, _: Space, _: &[u8], _: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Bytes of disk that what was written already may still take: buffers to flush, compactions to run.
    fn space_debt_bytes(&self) -> u64;

    /// How it fares, for metrics.
    fn figures(&self) -> EngineFigures {
        EngineFigures::default()
    }
}
